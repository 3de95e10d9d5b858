"""The front door: one line for each task, any kind of array, and errors that say what to give instead."""

import doctest
import re
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.attacks.toys import seeded
from torch import nn

import medaegis as ma
from medaegis import front
from medaegis.attacks.engine import Attack
from medaegis.attacks.losses.answer import CrossEntropy
from medaegis.attacks.victim import Victim
from medaegis.errors import ConfigError, DataError
from medaegis.models import normalisation

ROOT = Path(__file__).parents[1]
CLASSES = ("normal", "pneumonia")


@pytest.fixture(scope="module")
def model():
    with seeded(0):
        network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(784, 2))
    return ma.wrap(network, classes=CLASSES, size=16, normalise="imagenet")


@pytest.fixture(scope="module")
def images():
    return torch.randint(0, 256, (12, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", [name for name in ma.__all__ if name != "__version__"])
def test_every_name_has_an_example_that_runs(name):
    examples = [each for each in doctest.DocTestFinder().find(getattr(ma, name), name) if each.examples]
    assert name in {each.name for each in examples}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
        assert not any(runner.run(each).failed for each in examples)


def test_the_example_of_normalisation_runs():
    assert doctest.testmod(normalisation).attempted
    assert not doctest.testmod(normalisation).failed


def test_importing_it_is_light_and_every_name_is_there():
    light = "import sys, medaegis; assert 'torch' not in sys.modules and 'numpy' not in sys.modules, 'heavy'"
    subprocess.run([sys.executable, "-c", light], check=True)
    for name in ma.__all__:
        assert getattr(ma, name) is not None
        assert name in dir(ma)
    with pytest.raises(AttributeError, match="no attribute 'atack'"):
        ma.atack  # noqa: B018


def test_an_attack_by_name_is_the_engines(model, images):
    labels = model(images / 255).argmax(1)
    found = ma.attack("pgd", model, images, labels, eps="8/255", steps=3, seed=5)
    entry = ma.attack(find_attack("pgd").attack, model, images, labels, eps=8 / 255, steps=3, seed=5)
    expected = find_attack("pgd").attack.with_options(steps=3)
    straight = expected.run(Victim(model), images.float() / 255, labels, eps=8 / 255, seed=5)
    assert torch.equal(found.images, straight.images)
    assert torch.equal(entry.images, straight.images)
    assert not torch.equal(found.images, images / 255)


@pytest.mark.parametrize("kind", ["numpy", "float16", "float64", "names", "list", "int32", "inference"])
def test_all_kinds_of_arrays_give_the_same(model, images, kind):
    labels = model(images / 255).argmax(1)
    x, y = images, labels
    if kind == "numpy":
        x, y = images.numpy(), labels.numpy()
    elif kind in ("float16", "float64"):
        x = (images.double() / 255).to(getattr(torch, kind))
    elif kind == "names":
        y = [CLASSES[one] for one in labels.tolist()]
    elif kind == "list":
        y = labels.tolist()
    elif kind == "int32":
        y = labels.int()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        if kind == "inference":
            with torch.inference_mode():
                found = ma.attack("bim", model, x, y, eps="4/255", steps=2)
        else:
            found = ma.attack("bim", model, x, y, eps="4/255", steps=2)
    assert torch.equal(found.images, ma.attack("bim", model, images, labels, eps="4/255", steps=2).images)


def test_pixels_between_the_grey_levels_are_rounded_with_a_word_or_left(model, images):
    labels = model(images / 255).argmax(1)
    between = (images / 255 + 0.4 / 255).clamp(0, 1)
    with pytest.warns(UserWarning, match=r"rounded to 8 bits \(by up to 0\.40"):
        found = ma.attack("bim", model, between, labels, eps="4/255", steps=2)
    assert torch.equal(found.images * 255, (found.images * 255).round())
    left = ma.attack("bim", model, between, labels, eps=0.5 / 255, steps=2, rounding="none")
    far = (left.images - between).abs().amax((1, 2, 3)) * 255
    assert far.max() <= 0.5001
    assert (far > 0.4).all()
    with pytest.raises(ConfigError, match="less than a grey level"):
        ma.attack("bim", model, images, labels, eps=0.5 / 255)


def test_several_eps_are_so_many_attacks(model, images):
    labels = model(images / 255).argmax(1)
    told = []
    both = ma.attack(
        "fgsm",
        model,
        images,
        labels,
        eps=["2/255", 8 / 255],
        progress=lambda done, total, _: told.append((done, total)),
    )
    for one, eps in zip(both, ("2/255", "8/255"), strict=True):
        assert torch.equal(one.images, ma.attack("fgsm", model, images, labels, eps=eps).images)
    assert told == [(12, 24), (24, 24)]


def test_targets_are_drawn_or_given(images):
    with seeded(1):
        network = nn.Sequential(nn.Flatten(), nn.Linear(768, 3))
    model = ma.wrap(network, classes=("a", "b", "c"), size=16, normalise=None)
    labels = model(images / 255).argmax(1)
    given = (labels + 1) % 3
    found = ma.attack("bim", model, images, labels, eps="64/255", targets=given)
    assert torch.equal(found.verdict.predicted, given)
    drawn = ma.attack("bim", model, images, labels, eps="64/255", targets="random")
    assert torch.equal(drawn.verdict.predicted, pick_targets(labels, 3))


def test_what_an_attack_needs_is_asked_for(model, images):
    labels = model(images / 255).argmax(1)
    with pytest.raises(ConfigError, match="aimed at a Shield, and the target has none"):
        ma.attack("wb", model, images, labels, eps="8/255")
    with pytest.raises(ConfigError, match="give known="):
        ma.attack("hfc", model, images, labels, eps="8/255")
    with pytest.raises(ConfigError, match="did you mean 'pgd'"):
        ma.attack("pdg", model, images, labels, eps="8/255")
    more = torch.randint(0, 256, (60, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    found = ma.attack("hfc", model, images, labels, eps="8/255", steps=2, known=(more, model(more / 255).argmax(1)))
    assert found.images.shape == images.shape


@pytest.mark.parametrize(
    ("x", "says"),
    [
        (np.zeros((4, 16, 16, 3), np.uint8), r"x\.transpose\(0, 3, 1, 2\)"),
        (np.zeros((4, 1, 16, 16), np.uint8), r"give \(N, 3, 16, 16\)"),
        (np.zeros((3, 16, 16), np.uint8), r"give \(N, 3, 16, 16\)"),
        (torch.zeros(4, 3, 16, 16, dtype=torch.int64), "give uint8, or floats"),
        (torch.full((4, 3, 16, 16), 200.0), "divide by 255"),
        (torch.full((4, 3, 16, 16), -1.0), "before normalisation"),
        (torch.full((4, 3, 16, 16), torch.nan), "before normalisation"),
        (torch.zeros(0, 3, 16, 16), r"got \(0, 3, 16, 16\)"),
        ("chest.png", "got str"),
    ],
)
def test_images_that_do_not_fit_are_refused_with_what_to_give(model, x, says):
    with pytest.raises(ConfigError, match=says):
        ma.attack("fgsm", model, x, [0] * 4, eps="8/255")


@pytest.mark.parametrize(
    ("y", "says"),
    [
        (["normal", "pneumonia", "effusion"], "effusion: no such class; the classes are normal, pneumonia"),
        (torch.zeros(3), "give whole numbers"),
        (torch.zeros(3, 1, dtype=torch.int64), "give whole numbers"),
        ([0, 1, 2], "go from 0 to 2; the classes are 0 to 1"),
        (np.array([0, -1, 1]), "go from -1 to 1"),
        ([0, 1], "2 for 3 images"),
    ],
)
def test_labels_that_do_not_fit_are_refused(model, images, y, says):
    with pytest.raises(ConfigError, match=says):
        ma.attack("fgsm", model, images[:3], y, eps="8/255")


def test_a_guard_is_fitted_attacked_saved_and_loaded(tmp_path):
    data = ma.load_dataset("phantom-xray?n=240", size=32, channels="gray", cache_dir=tmp_path / "cache")
    model = ma.load("tests/golden/classifier", factory="tests.models.tiny_networks:tiny")
    guard = ma.fit(model, data.images.numpy(), data.labels, patients=data.patients, updates=2, out=tmp_path / "guard")
    found = ma.attack("wb", guard, data.images[:4], data.labels[:4], eps="8/256", steps=2, targets="random")
    assert found.images.shape == (4, 1, 32, 32)
    again = ma.load(tmp_path / "guard", factory="tests.models.tiny_networks:tiny")
    assert isinstance(again, ma.Guard)
    assert torch.equal(again.judge(found.images).score, guard.judge(found.images).score)
    with pytest.raises(ConfigError, match="attack its classifier"):
        ma.attack("wb", guard, data.images[:4], data.labels[:4], eps="8/256", rounding="none")
    with pytest.raises(ConfigError, match="give labels"):
        ma.fit(model, data.images)
    with pytest.raises((ConfigError, DataError), match="classes"):
        ma.fit(model, "phantom-skin?n=60", updates=2)


def test_a_detector_scores_images(model, images):
    x = torch.cat([images] * 4)
    y = torch.arange(len(x)) % 2
    attacked = ma.attack("bim", model, x, y, eps="8/255", steps=2)
    scores = ma.detector("lid", model, neighbours=4).fit(x, y, attacked=attacked.images).score(x[:5])
    assert scores.shape == (5,)
    assert scores.isfinite().all()
    with pytest.raises(ConfigError, match="not in the table"):
        ma.detector("kdd", model)


def test_own_attacks_are_values(model, images):
    labels = model(images / 255).argmax(1)
    mine = Attack(objective=CrossEntropy(), steps=2)
    assert ma.attack(mine, model, images, labels, eps="4/255").images.shape == images.shape


def test_the_page_runs_as_it_is_written(tmp_path, monkeypatch, capsys):
    (page,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "python.md").read_text(encoding="utf-8"), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    names = {}
    torch.manual_seed(0)
    exec(page, names)
    turned, past, scores = capsys.readouterr().out.split("\n", 2)
    assert turned.endswith("turned by changes that nobody sees")
    assert int(turned.split("%")[0]) > 10
    assert past.endswith("past the guard")
    assert scores.startswith("tensor(")
    assert [int(one.fooled.sum()) for one in names["curve"]] == sorted(int(one.fooled.sum()) for one in names["curve"])
