"""What docs/extending.md shows of detectors works as it is written."""

import re
from pathlib import Path

import torch
from tests.attacks.toys import toy_classifier, toy_images

from medaegis.detectors.registry import DETECTORS

PAGE = Path(__file__).parents[2] / "docs" / "extending.md"


def test_the_example_is_a_detector(tmp_path):
    known = dict(DETECTORS)
    try:
        names: dict[str, object] = {"__name__": "example"}
        section = PAGE.read_text(encoding="utf-8").partition("## A detector\n")[2].partition("\n## ")[0]
        for block in re.findall(r"```python\n(.*?)```", section, re.DOTALL):
            exec(block, names)
        assert set(DETECTORS) - set(known) == {"margin"}
        classifier = toy_classifier()
        clean = toy_images(60, classifier)
        attacked = toy_images(60, classifier, seed=9)
        found = names["compare"](classifier, clean, torch.arange(60) % 2, attacked, ["margin", "kd", "dfeat"], tmp_path)
        assert {name: tuple(score.shape) for name, score in found.items()} == dict.fromkeys(found, (60,))
        assert set(found) == {"margin", "kd", "dfeat"}
        assert found["margin"].mean() < 3, "in standard deviations"
    finally:
        DETECTORS.clear()
        DETECTORS.update(known)
