"""The study of an attack, and the folder of figures and numbers that it writes."""

import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from tests.attacks.toys import SIZE, seeded, toy_images, toy_labels, toy_victim
from tests.bench.test_analysis import NoHead
from tests.bench.test_report import Page

from medaegis.attacks.catalogue import find_attack
from medaegis.attacks.choices import pick_targets
from medaegis.attacks.victim import Victim
from medaegis.bench.analyse import figures, page, shifts
from medaegis.bench.analyse.study import Study, study
from medaegis.bench.analyse.subjects import Plan
from medaegis.cushions import parse_cushion
from medaegis.errors import ConfigError, DataError
from medaegis.images.datasets import Dataset
from medaegis.models.classifier import Classifier
from medaegis.models.normalisation import IMAGENET_MEAN, IMAGENET_STD


def some_data(victim: Victim, n: int = 24, classes: tuple[str, ...] | None = None) -> Dataset:
    images = toy_images(n, victim.exact)
    labels = toy_labels(victim, images)
    labels[::6] = (labels[::6] + 1) % len(victim.exact.classes)  # some are diagnosed wrongly
    names = tuple(map(str, range(n)))
    pixels = (images * 255).round().to(torch.uint8)
    return Dataset("toy", pixels, labels, classes or victim.exact.classes, names, names, torch.arange(n) + 100)


def a_plan(victim: Victim, **options: object) -> Plan:
    return Plan(**{"cushion": victim.cushion, "limit": 12, "steps": 4, **options})  # type: ignore[arg-type]


def studied(victim: Victim, data: Dataset, plan: Plan, **options: Any) -> Study:
    with tempfile.TemporaryDirectory() as folder:
        return study(victim, data, plan, key={}, out_dir=Path(folder), **options)


@pytest.fixture(scope="module")
def guarded() -> tuple[Victim, Dataset, Study]:
    victim = toy_victim(3, cushion="jpeg:80", shields=True)
    data = some_data(victim, classes=("<b>no $x$ finding</b>", "b" * 90, "ç"))
    return victim, data, studied(victim, data, a_plan(victim, attack="wb"))


def test_the_study_shows_the_attack_of_the_engine(guarded: tuple[Victim, Dataset, Study]):
    victim, data, found = guarded
    rows = found.rows
    predicted = victim.judge(data.pixels()).predicted
    assert torch.equal(predicted[rows], data.labels[rows])
    assert len(rows) == 10, "two of twelve are diagnosed wrongly"
    targets = pick_targets(data.labels[rows], 3, ids=data.ids[rows], seed=0)
    attack = find_attack("wb").attack.with_options(steps=4)
    expected = attack.run(
        victim, data.pixels(rows), data.labels[rows], eps=8 / 256, targets=targets, ids=data.ids[rows]
    )
    assert torch.equal(found.attacked, expected.images)
    assert torch.equal(found.broken, expected.broken)
    assert found.direction is not None
    moved = [victim.pooled(x, ("drop",))["drop"] for x in (found.images, found.attacked)]
    last = shifts.along_weights(moved[1] - moved[0], victim.exact.network.fc.weight, found.labels, targets)
    torch.testing.assert_close(found.direction.cosine[-1], last)
    assert found.direction.steps == (1, 2, 4)
    assert set(found.stress) == {"jpeg:80", "none"}
    assert found.spectra["attack"].energy() <= (8 / 255) ** 2 + 1e-9
    assert found.spectra["noise"].energy() > found.spectra["attack"].energy()
    # Examples go round the classes.
    assert len(set(found.labels[found.examples[:3]].tolist())) == len(set(found.labels.tolist()))


def test_a_walk_is_looked_at_while_it_goes_on():
    """The direction after k of BIM's steps is that of a walk of k such steps, not of k longer ones."""
    victim = toy_victim()
    data = some_data(victim)
    found = studied(victim, data, a_plan(victim, attack="bim", steps=5))
    assert found.direction is not None
    assert found.direction.steps == (1, 2, 5)
    attack = find_attack("bim").attack.with_options(steps=2, step_size=0.5)
    images, labels = found.images, found.labels
    two = attack.run(victim, images, labels, eps=8 / 256, targets=found.targets).images
    clean, moved = (victim.pooled(x, ("drop",))["drop"] for x in (images, two))
    expected = shifts.along_weights(moved - clean, victim.exact.network.fc.weight, labels, found.targets)
    torch.testing.assert_close(found.direction.cosine[1], expected)
    assert found.broken is None
    assert set(found.spectra) == {"clean", "attack", "noise"}  # no Cushion asked about


@pytest.mark.parametrize("name", ["hfc", "feature-match-closest", "pgd+dim+hfc"])
def test_attacks_that_imitate_get_what_they_imitate(name: str):
    victim = toy_victim(3)
    data = some_data(victim, 40)
    found = studied(victim, data, a_plan(victim, attack=name, steps=2), known=data)
    assert found.direction is not None
    assert found.direction.names[0] == name
    assert not torch.equal(found.attacked, found.images)


def test_progress_ends_at_its_total_and_never_goes_back():
    victim = toy_victim(cushion="jpeg:80")
    told: list[tuple[int, int]] = []
    plan = a_plan(victim, attack="pgd", steps=3)
    studied(victim, some_data(victim), plan, progress=lambda done, total, _: told.append((done, total)))
    assert len({total for _, total in told}) == 1
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert told[-1][0] == told[-1][1]


def test_the_folder_holds_every_figure_and_its_numbers(
    guarded: tuple[Victim, Dataset, Study], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(figures, "DPI", 60)
    _, _, found = guarded
    about = {"victim": "<script>toy</script>", "data": "noise"}
    written = page.write_analysis(found, tmp_path / "a", about=about)
    text = written.read_text(encoding="utf-8")
    for entry in page.ENTRIES:
        ElementTree.parse(tmp_path / "a" / f"{entry.name}.svg")
        with Image.open(tmp_path / "a" / f"{entry.name}.png") as picture:
            assert picture.width > 200
        assert f'id="{entry.name}"' in text
    parsed = Page(text)
    assert not parsed.all("script")
    links = [tag[name] for _, tag in parsed.tags for name in ("src", "href") if name in tag]
    assert links
    assert all(link.startswith(("#", "data:image/png;base64,")) for link in links)

    told = json.loads((tmp_path / "a" / "analysis.json").read_text())
    assert told["fooled"] == int(found.fooled.sum())
    assert told["undetected"] == int(found.broken.sum()) <= told["fooled"]  # type: ignore[union-attr]
    predicted = np.array(told["predicted"]["attacked"])
    assert told["fooled"] == int((predicted == np.array(told["targets"])).sum())
    assert np.allclose(told["tsne"]["relu"]["attacked"], found.embedding["relu"][10:])
    assert told["landscape"]["grey_levels"][0] == -8
    kept = load_file(tmp_path / "a" / "analysis.safetensors")
    assert torch.equal(kept["images/attacked"].float() / 255, found.attacked[found.examples])
    assert torch.equal(kept["grad-cam/clean"], found.attention[0].cam[found.examples])

    drawn = [figures.direction_figure(found, "x") for _ in range(2)]
    assert drawn[0] == drawn[1]


def test_a_study_repeats_itself_with_its_seed():
    victim = toy_victim()
    data = some_data(victim)
    plan = a_plan(victim, attack="pgd", steps=2)
    first, second = (json.dumps(page.numbers(studied(victim, data, plan))) for _ in range(2))
    assert first == second
    assert json.dumps(page.numbers(studied(victim, data, replace(plan, seed=1)))) != first


def test_without_a_head_the_direction_is_left_out_and_said_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with seeded(0):
        network = NoHead()
    classifier = Classifier(
        network,
        classes=("a", "b"),
        size=SIZE,
        channels="rgb",
        taps=("conv",),
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        backbone="x:y",
    ).eval()
    with torch.no_grad():
        network.out.bias -= classifier(toy_images(30, classifier)).mean(0)
    victim = Victim(classifier, dtype=torch.float32)
    found = studied(victim, some_data(victim), a_plan(victim, steps=2, cushion=parse_cushion("bits:3")))
    monkeypatch.setattr(figures, "DPI", 60)
    assert found.direction is None
    assert set(found.spectra) == {"clean", "attack", "noise", "attack, cushioned", "noise, cushioned"}
    text = page.write_analysis(found, tmp_path, about={"victim": "x", "data": "y"}).read_text(encoding="utf-8")
    assert not (tmp_path / "direction.png").exists()
    assert "direction of the attack is left out" in text


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"attack": "wb"}, "a classifier has none"),
        ({"attack": "apgd-dlr"}, "needs 4 classes"),
        ({"attack": "zap"}, "not in the catalogue"),
        ({"eps": 0.001, "eps_text": "0.001"}, "less than a grey level"),
        ({"limit": 4}, "too few"),
        ({"layer": "nowhere"}, "nowhere"),
        ({"layer": "drop"}, "no places"),
    ],
)
def test_what_cannot_be_studied_is_refused(options: dict[str, object], problem: str):
    victim = toy_victim()
    with pytest.raises(ConfigError, match=problem):
        studied(victim, some_data(victim), a_plan(victim, **options))


def test_too_few_right_images_and_numbers_that_are_none_are_refused(tmp_path: Path):
    victim = toy_victim()
    data = some_data(victim)
    with pytest.raises(DataError, match="8 are needed"):
        studied(victim, data.subset(range(7)), a_plan(victim))
    found = studied(victim, data, a_plan(victim, steps=1))
    broken = replace(found, apart={tap: float("nan") for tap in found.apart})
    with pytest.raises(DataError, match="not finite"):
        page.write_analysis(broken, tmp_path / "out", about={"victim": "x", "data": "y"})
    assert not (tmp_path / "out").exists()
