"""What a reader sees is what the classifier gives, tap by tap, folded or not, with and without Cushion."""

import pytest
import torch
from tests.attacks.toys import toy_classifier, toy_images
from tests.detectors.read import toy_reader

from medaegis.cushions import parse_cushion
from medaegis.detectors.reader import PENULTIMATE, Reader
from medaegis.errors import ConfigError
from medaegis.models.backbones import create_backbone, default_taps
from medaegis.models.classifier import Classifier
from medaegis.models.normalisation import IMAGENET_MEAN, IMAGENET_STD


@pytest.mark.parametrize("taps", [None, ("conv2", "input", "bn1")], ids=["its own", "others"])
@pytest.mark.parametrize("cushion", ["none", "jpeg:70"])
def test_features_are_channel_means_of_the_classifiers_own(taps, cushion):
    classifier = toy_classifier(3)
    images = toy_images(11, classifier)
    seen = Reader(classifier, cushion=parse_cushion(cushion), taps=taps, batch_size=4).read(images)
    names = taps or ("relu", "last")
    with torch.no_grad():
        plain = classifier.activations(parse_cushion(cushion)(images), taps=names)
    torch.testing.assert_close(seen.logits, plain.logits, rtol=1e-4, atol=1e-4)
    for tap in names:
        torch.testing.assert_close(seen.features[tap], plain.features[tap].mean((2, 3)), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(seen.features[PENULTIMATE], plain_mean(classifier, parse_cushion(cushion)(images)))
    assert tuple(seen.features) == (*names, PENULTIMATE)


@torch.no_grad()
def plain_mean(classifier, pixels):
    return classifier.activations(pixels, taps=("last",)).features["last"].mean((2, 3))


# Every form of head there is; VGG's is that of MobileNet, and 134 million weights take their time.
@pytest.mark.parametrize("name", ["resnet18", "densenet121", "mobilenet_v2"])
def test_the_last_layers_input_is_found(name):
    network = create_backbone(name, classes=2)
    classifier = Classifier(
        network,
        classes=["a", "b"],
        size=32,
        taps=default_taps(name)[:1],
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        backbone=name,
    ).eval()
    reader = Reader(classifier)
    seen = reader.read(torch.rand((2, 3, 32, 32), generator=torch.Generator().manual_seed(0)))
    head = reader.head
    found = seen.features[PENULTIMATE] @ head.weight.T + head.bias
    torch.testing.assert_close(found, seen.logits, rtol=1e-4, atol=1e-4)
    assert set(classifier.network.state_dict()) == set(network.state_dict()), "the classifier itself is left alone"


def test_a_look_is_differentiable_and_stops_at_its_tap():
    reader = toy_reader()
    x = toy_images(3, reader.classifier).requires_grad_()
    seen = reader.look(x, ("relu",))
    assert seen.logits.shape == (3, 0)
    (slope,) = torch.autograd.grad(seen.features["relu"].sum(), x)
    assert slope.abs().sum() > 0


def test_batch_size_changes_nothing_and_progress_is_told():
    classifier = toy_classifier()
    images = toy_images(10, classifier)
    told = []
    one = Reader(classifier, batch_size=3).read(images, progress=lambda *report: told.append(report[:2]))
    other = Reader(classifier, batch_size=10).read(images)
    assert told == [(3, 10), (6, 10), (9, 10), (10, 10)]
    for tap in one.features:
        torch.testing.assert_close(one.features[tap], other.features[tap], rtol=1e-5, atol=1e-6)


def test_unknown_taps_and_batches_of_none_are_refused():
    with pytest.raises(ConfigError, match="has no tap 'layer9'"):
        Reader(toy_classifier(), taps=("layer9",))
    with pytest.raises(ConfigError, match="batch_size is 0"):
        Reader(toy_classifier(), batch_size=0)
