"""The front door for networks of findings and of masks, with arrays, data sets and torch's own."""

import pytest
import torch
from tests.tasks.small import TinyUNet, findings, lungs
from torch import nn
from torch.utils.data import TensorDataset

import medaegis as ma
from medaegis.errors import ConfigError, DataError


def seeded(make):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make()


@pytest.fixture(scope="module")
def finder():
    network = seeded(lambda: nn.Sequential(nn.Flatten(), nn.Linear(16 * 16, 3)))
    return ma.wrap(network, classes=("left", "right", "below"), size=16, channels="gray", normalise=None, task="multi")


@pytest.fixture(scope="module")
def segmenter():
    classes, network = ("background", "lungs"), seeded(TinyUNet)
    with torch.no_grad():  # so that it finds something in half of the pixels
        seen = network((lungs()[0].pixels(range(4)).expand(-1, 3, -1, -1) - 0.5) / 0.5)
        network.head.bias[1] -= (seen[:, 1] - seen[:, 0]).median()
    return ma.wrap(network, classes=classes, size=32, channels="gray", normalise="0.5/0.5", task="dense")


def test_findings(finder):
    data = findings()[0].subset(range(8))
    truth = finder.task.predicted(finder(data.pixels()))
    found = ma.attack("pgd", finder, data.images, truth, eps="32/255", steps=10)
    assert found.reached.tolist() == (found.verdict.predicted != truth).any(1).tolist()
    assert found.fooled.all()
    same = ma.attack("pgd", finder, data.images.numpy(), truth.tolist(), eps="32/255", steps=10)
    assert torch.equal(same.images, found.images)
    pairs = TensorDataset(data.pixels(), truth)
    assert torch.equal(ma.attack("pgd", finder, pairs, eps="32/255", steps=10).images, found.images)
    targets = torch.full_like(truth, -1)
    targets[:, 1] = 1 - truth[:, 1]
    aimed = ma.attack("pgd", finder, data.images, truth, eps="64/255", targets=targets, steps=20)
    assert torch.equal(aimed.reached, aimed.verdict.predicted[:, 1] == targets[:, 1])
    assert aimed.reached.any()


@pytest.mark.parametrize("name", ["auto", "uap", "deepfool"])
def test_attacks_for_one_class_an_image_are_refused_by_name_too(name, finder):
    data = findings()[0].subset(range(4))
    known = None if name != "uap" else (data.images, data.labels)
    with pytest.raises(ConfigError, match="is for one class an image"):
        ma.attack(name, finder, data.images, data.labels, eps="8/255", known=known)


def test_masks(segmenter):
    data = lungs()[0].subset(range(4))
    truth = segmenter.task.predicted(segmenter(data.pixels()))
    found = ma.attack("pgd-dice", segmenter, data.images, truth, eps="16/255", steps=10)
    assert segmenter.task.quality(found.verdict.predicted, truth).mean() < 1
    whole = ma.attack("fgsm", segmenter, data, eps="4/255")
    assert whole.images.shape == data.images.shape
    curve = ma.attack("fgsm", segmenter, data, eps=["1/255", "8/255"], until="broken")
    assert len(curve) == 2


def test_what_does_not_fit_is_refused(finder, segmenter):
    several, masked = findings()[0].subset(range(4)), lungs()[0].subset(range(4))
    with pytest.raises(ConfigError, match="labels"):
        ma.attack("fgsm", finder, several.images, torch.zeros(4, dtype=torch.int64), eps="1/255")
    with pytest.raises(ConfigError, match="whole numbers"):
        ma.attack("fgsm", finder, several.images, several.labels.float(), eps="1/255")
    with pytest.raises(ConfigError, match="drawn for one class an image"):
        ma.attack("fgsm", finder, several, eps="1/255", targets="random")
    with pytest.raises(ConfigError, match="is for masks"):
        ma.attack("pgd-dice", finder, several, eps="1/255")
    with pytest.raises(ConfigError, match="one class an image"):
        ma.attack("deepfool", segmenter, masked, eps="1/255")
    with pytest.raises(DataError, match="a class for each pixel"):
        ma.attack("fgsm", finder, ma.load_dataset("phantom-lungs?n=6", size=16, channels="gray"), eps="1/255")
    with pytest.raises(ConfigError, match="several findings"):
        ma.fit(finder, several, updates=2)
    with pytest.raises(ConfigError, match="several findings"):
        ma.wrap(
            nn.Sequential(nn.Flatten(), nn.Linear(768, 3)), classes=("a", "b"), size=16, normalise=None, task="multi"
        )


def test_a_sigmoid_at_its_end_is_one_for_each_finding():
    linear = seeded(lambda: nn.Linear(16 * 16, 3))
    plain, squeezed = nn.Sequential(nn.Flatten(), linear), nn.Sequential(nn.Flatten(), linear, nn.Sigmoid())
    options = {"classes": ("a", "b", "c"), "size": 16, "channels": "gray", "normalise": None, "task": "multi"}
    with pytest.raises(ConfigError, match="probabilities"):
        ma.wrap(squeezed, **options)
    x = findings()[0].pixels(range(4))
    logits = ma.wrap(plain, **options)(x)
    torch.testing.assert_close(ma.wrap(squeezed, outputs="probabilities", **options)(x), logits, rtol=1e-3, atol=1e-4)
