"""How normalisation is written and checked; there is none unless it is said."""

import inspect

import pytest
import torch
from tests.models.tiny_networks import Tiny, lived_in
from torch import nn

from medaegis.errors import ConfigError
from medaegis.models.classifier import Classifier
from medaegis.models.normalisation import parse_normalisation


@pytest.mark.parametrize(
    ("text", "mean", "std"),
    [
        ("imagenet", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),  # torchvision's documentation of its weights
        ("none", (0.0,), (1.0,)),
        ("0.5/0.25", (0.5,), (0.25,)),
        ("0.1, 0.2, 0.3/1,1,0.5", (0.1, 0.2, 0.3), (1.0, 1.0, 0.5)),
    ],
)
def test_as_it_is_written(text, mean, std):
    assert parse_normalisation(text) == (mean, std)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Imagenet",
        "0.5",
        "0.5/",
        "0.5/0",
        "0.5/-1",
        "0.5/nan",
        "inf/1",
        "0.5,0.5/0.5,0.5",
        "0.5/1/1",
        "a/b",
        "0.5/1,1,1",
    ],
)
def test_what_is_no_normalisation(text):
    with pytest.raises(ConfigError):
        parse_normalisation(text)


@pytest.mark.parametrize("text", ["123.7,116.3,103.5/58.4,57.1,57.4", "0/255"])
def test_values_of_pixels_from_0_to_255_are_told_as_such(text):
    with pytest.raises(ConfigError, match="divide by 255"):
        parse_normalisation(text)


def test_a_classifier_is_never_given_one_unasked():
    for name in ("mean", "std"):
        assert inspect.signature(Classifier).parameters[name].default is inspect.Parameter.empty


@pytest.mark.parametrize(("mean", "std"), [((0.5,), (0.0,)), ((0.5, 0.5), (1.0, 1.0)), ((0.5,), (1.0,) * 3)])
def test_a_classifier_refuses_numbers_that_cannot_be(mean, std):
    with pytest.raises(ConfigError, match="normalisation"):
        Classifier(Tiny(2), classes=("a", "b"), size=16, backbone="own:tiny", mean=mean, std=std)


def test_one_value_stands_for_all_channels_that_the_network_has():
    network, told = lived_in(Tiny(2)), {"classes": ("a", "b"), "size": 16, "backbone": "own:tiny"}
    x = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    for channels, given in (("rgb", x), ("gray", x[:, :1])):
        one = Classifier(network, **told, channels=channels, mean=(0.5,), std=(0.25,))
        three = Classifier(network, **told, channels=channels, mean=(0.5,) * 3, std=(0.25,) * 3)
        assert torch.equal(one(given), three(given))
    gray = nn.Sequential(nn.Conv2d(1, 2, 16), nn.Flatten())
    one = Classifier(gray, **told, channels="gray", mean=(0.5,), std=(0.25,))
    torch.testing.assert_close(one(x[:, :1]), gray((x[:, :1] - 0.5) / 0.25))
    with pytest.raises(ConfigError, match=r"does not run on normalised images \(N, 3, 16, 16\)"):
        Classifier(gray, **told, channels="rgb", mean=(0.5,), std=(0.25,))
