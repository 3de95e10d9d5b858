"""What docs/extending.md shows works as it is written."""

import re
from pathlib import Path

from tests.attacks.toys import toy_images, toy_labels, toy_victim

from medaegis.attacks.catalogue import CATALOGUE, find_attack

PAGE = Path(__file__).parents[2] / "docs" / "extending.md"


def test_the_examples_are_attacks():
    known = dict(CATALOGUE)
    try:
        names: dict[str, object] = {"__name__": "example"}
        section = PAGE.read_text(encoding="utf-8").partition("## An attack\n")[2].partition("\n## ")[0]
        for block in re.findall(r"```python\n(.*?)```", section, re.DOTALL):
            exec(block, names)
        assert set(CATALOGUE) - set(known) == {"shield-momentum", "undecided"}
        victim = toy_victim(3, shields=True)
        images = toy_images(24, victim.exact, seed=3)
        labels = toy_labels(victim, images)
        run = {"eps": 16 / 256, "targets": (labels + 1) % 3}

        def certainty(pixels):
            first, second = victim.judge(pixels).logits.topk(2, 1).values.unbind(1)
            return first - second

        found = find_attack("undecided").attack.run(victim, images, labels, **run)
        assert certainty(found.images).median() < 0.5 * certainty(images).median()
        found = find_attack("shield-momentum").attack.run(victim, images, labels, **run)
        aimed = run["targets"]
        assert (victim.suspicion(found.images, aimed) < victim.suspicion(images, aimed)).float().mean() > 0.9
    finally:
        CATALOGUE.clear()
        CATALOGUE.update(known)
