"""Dropout against passes of the whole network with those masks; squeezing against its definition, image by image."""

import numpy as np
import pytest
import torch
from tests.detectors.read import drawn, seen_by, toy_reader
from torch import nn

from medaegis.cushions import parse_cushion
from medaegis.detectors.reader import PENULTIMATE, Reader, Reading
from medaegis.detectors.uncertainty import BayesianUncertainty, FeatureSqueezing
from medaegis.errors import ConfigError
from medaegis.models.classifier import Classifier
from medaegis.models.normalisation import IMAGENET_MEAN, IMAGENET_STD


@pytest.mark.parametrize("cushion", ["none", "jpeg:70"])
def test_uncertainty_is_that_of_whole_passes_with_dropout(cushion):
    reader = toy_reader(3, cushion=cushion)
    clean, _, _ = seen_by(reader, 40, seed=2)
    detector = BayesianUncertainty(passes=9, dropout=0.3).fit(clean, torch.arange(40) % 3)
    few = clean[:6]
    network = reader.classifier.network
    probabilities = []
    for kept in detector.learned["kept"]:
        handle = network.drop.register_forward_hook(lambda module, given, out, kept=kept: given[0] * kept / 0.7)
        probabilities.append(reader.classifier(reader.cushioned(few.images)).softmax(1).double().numpy())
        handle.remove()
    expected = np.var(probabilities, axis=0).mean(1)
    np.testing.assert_allclose(detector.score(few).numpy(), expected, rtol=1e-4)
    assert detector.learned["kept"].float().mean().item() == pytest.approx(0.7, abs=0.15)


def test_uncertainty_is_high_where_the_decision_hangs_on_single_features():
    """Features along what tells the classes apart survive any dropout; those across it cancel only all together."""
    reader = toy_reader()
    clean, _, labels = seen_by(reader, 30)
    detector = BayesianUncertainty().fit(clean, labels)
    along = reader.head.weight[0] - reader.head.weight[1]
    across = torch.randn(6, generator=torch.Generator().manual_seed(0))
    across -= along * (across @ along) / (along @ along)
    features = 100 * torch.stack([along / along.norm(), across / across.norm()])
    decided, hanging = detector.score(Reading(torch.eye(2), {PENULTIMATE: features})).tolist()
    assert decided < 0.01
    assert hanging > 0.1


def test_uncertainty_needs_a_last_linear_layer():
    network = nn.Sequential(nn.Conv2d(3, 2, 3, stride=8), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    reader = Reader(
        Classifier(
            network, classes=["a", "b"], size=16, mean=IMAGENET_MEAN, std=IMAGENET_STD, backbone="own", taps=["0"]
        )
    )
    assert (reader.taps, reader.head) == (("0",), None)
    with pytest.raises(ConfigError, match="penultimate"):
        BayesianUncertainty().fit(reader.read(torch.rand(12, 3, 16, 16)), torch.arange(12) % 2)


@pytest.mark.parametrize("cushion", ["none", "jpeg:70"])
def test_squeezing_is_the_largest_change_of_the_probabilities(cushion):
    reader = toy_reader(3, cushion=cushion)
    clean, _, _ = seen_by(reader, 20)
    detector = FeatureSqueezing().fit(clean, torch.arange(20) % 3)
    expected = []
    for image in clean.images:

        def probabilities(pixels):
            return reader.classifier(parse_cushion(cushion)(pixels)).softmax(1)

        usual = probabilities(image[None])
        bits = torch.div((image[None] * 255).round(), 8, rounding_mode="floor") * 8 / 255
        squeezed = [probabilities(bits), probabilities(parse_cushion("median:3")(image[None]))]
        expected.append(max((other - usual).abs().sum().item() for other in squeezed))
    np.testing.assert_allclose(detector.score(clean).numpy(), expected, rtol=1e-4, atol=1e-6)


def test_impossible_options_are_refused():
    for options in ({"passes": 1}, {"dropout": 0.0}, {"dropout": 1.0}):
        with pytest.raises(ConfigError, match="give 2 or more passes"):
            BayesianUncertainty(**options)
    with pytest.raises(ConfigError, match="no squeezers"):
        FeatureSqueezing(squeezers=())
    with pytest.raises(ConfigError, match="no cushion named"):
        FeatureSqueezing(squeezers=("blur",))
    with pytest.raises(ConfigError, match=r"noise:0\.1 squeezes at random"):
        FeatureSqueezing(squeezers=("bits:3", "noise:0.1"))


def test_both_look_at_images_or_the_head_again():
    clean, labels = drawn(30)
    for detector in (BayesianUncertainty(), FeatureSqueezing()):
        with pytest.raises(ConfigError, match=r"Reader\.read"):
            detector.fit(clean, labels).score(clean)
