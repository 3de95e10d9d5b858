"""The stem on blocks of pixels against the convolution itself, and every case in which it must be left alone."""

import pytest
import torch
from tests.attacks.toys import seeded
from tests.models.tiny_networks import lived_in
from torch import nn

from medaegis.models import stem
from medaegis.models.backbones import create_backbone
from medaegis.models.classifier import Classifier
from medaegis.models.folding import deviation
from medaegis.models.normalisation import IMAGENET_MEAN, IMAGENET_STD
from medaegis.models.stem import BlockConv, stem_on_blocks

NORMALISATIONS = {"imagenet": (IMAGENET_MEAN, IMAGENET_STD), "one": ((0.4,), (0.2,)), "none": ((0.0,), (1.0,))}


class Stem(nn.Module):
    """A stem and just enough behind it, smooth so that gradients compare."""

    def __init__(self, channels=3, **options):
        super().__init__()
        options = {"kernel_size": 7, "stride": 2, "padding": 3, "bias": False} | options
        self.conv = nn.Conv2d(channels, 8, **options)
        self.norm = nn.BatchNorm2d(8)
        self.act = nn.Tanh()
        self.fc = nn.Linear(8, 3)

    def forward(self, x):
        return self.fc(self.act(self.norm(self.conv(x))).mean((2, 3)))


class Twice(Stem):
    def forward(self, x):
        return super().forward(x) + x.mean((1, 2, 3))[:, None]


class Again(Stem):
    def forward(self, x):
        return super().forward(x) + self.conv(x.flip(3)).mean((1, 2, 3))[:, None]


class Later(Stem):
    def forward(self, x):
        return super().forward(x * 1.5)


class Tied(Stem):
    def __init__(self):
        super().__init__()
        self.other = nn.Conv2d(3, 8, 7)
        self.other.weight = self.conv.weight


def made(network, channels="rgb", size=24, normalise="imagenet", taps=()):
    mean, std = NORMALISATIONS[normalise]
    options = {"classes": "abc", "size": size, "channels": channels, "taps": taps, "mean": mean, "std": std}
    return Classifier(lived_in(network), backbone="x:y", outputs="logits", **options).eval()


def images(classifier, n=3):
    shape = (n, classifier.in_channels, classifier.size, classifier.size)
    return torch.rand(shape, generator=torch.Generator().manual_seed(1))


def stems(classifier):
    return [module for module in classifier.modules() if isinstance(module, BlockConv)]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("sides", [(8, 8), (10, 34), (2, 2)])
@pytest.mark.parametrize("shifted", [False, True])
def test_it_is_the_convolution_at_every_place(channels, bias, sides, shifted):
    """Borders included, where the convolution sees 0 and not the shift."""
    with seeded(2):
        conv = nn.Conv2d(3, 5, 7, stride=2, padding=3, bias=bias).double()
        gain, shift = torch.rand(1, 3, 1, 1).double() + 0.5, torch.randn(1, 3, 1, 1).double() * shifted
        pixels = torch.rand(2, channels, *sides).double().requires_grad_()
    expected, found = conv(gain * pixels + shift), BlockConv(conv, gain, shift, channels)(pixels)
    assert deviation(found.detach(), expected.detach()) < 1e-14
    weights = torch.randn(expected.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    wanted, given = (torch.autograd.grad((out * weights).sum(), pixels)[0] for out in (expected, found))
    assert deviation(given, wanted) < 1e-14


@pytest.mark.parametrize("normalise", NORMALISATIONS)
@pytest.mark.parametrize(("channels", "planes"), [("rgb", 3), ("gray", 3), ("gray", 1)])
def test_a_frozen_classifier_computes_the_same(normalise, channels, planes):
    if planes == 1 and normalise == "imagenet":
        pytest.skip("three means for one channel")
    c = made(Stem(planes), channels, normalise=normalise)
    f = c.frozen()
    (block,) = stems(f)
    several = normalise == "imagenet" and channels == "gray"
    assert block.weight.shape == (8, 4 * c.in_channels + several, 4, 4)
    assert not stems(c)
    assert not stems(c.frozen(fold=False))
    x = images(c).requires_grad_()
    a, b = c(x), f(x)
    torch.testing.assert_close(b, a, rtol=1e-5, atol=1e-5)
    wanted, given = (torch.autograd.grad(out.square().sum(), x)[0] for out in (a, b))
    assert deviation(given, wanted) < 1e-5
    assert not any(p.requires_grad for p in f.parameters())
    half = c.frozen(dtype=torch.bfloat16)
    assert stems(half)
    torch.testing.assert_close(half(x), a, rtol=0.05, atol=0.05)
    assert deviation(f.frozen()(x).detach(), a.detach()) < 1e-5, "frozen twice"


@pytest.mark.parametrize("channels", ["rgb", "gray"])
def test_a_resnet_with_its_taps(channels):
    with seeded(0):
        c = made(create_backbone("resnet18", classes=3), channels, size=64, taps=("input", "layer1.0", "layer4.1"))
    f, x = c.frozen(), images(c)
    assert len(stems(f)) == 1
    assert [name for name, _ in f.named_modules()] == [name for name, _ in c.named_modules()]
    with torch.no_grad():
        a, b = c.activations(x), f.activations(x)
        assert deviation(b.logits, a.logits) < 1e-5
        for tap in c.taps:
            assert deviation(b.features[tap], a.features[tap]) < 1e-5
        asked = f.activations(x, taps=("bn1",), logits=False).features["bn1"]
        assert deviation(asked, c.activations(x, taps=("bn1",)).features["bn1"]) < 1e-5, "folded, and then on blocks"


@pytest.mark.parametrize(
    ("network", "size"),
    [
        (Stem(kernel_size=5, padding=2), 24),
        (Stem(stride=1), 24),
        (Stem(padding=2), 24),
        (Stem(padding_mode="reflect"), 24),
        (Stem(dilation=2), 24),
        (Stem(), 25),
        (Twice(), 24),
        (Again(), 24),
        (Later(), 24),
        (Tied(), 24),
    ],
    ids=["5x5", "stride 1", "padding 2", "reflect", "dilation", "odd", "read twice", "called twice", "later", "tied"],
)
def test_what_is_no_such_stem_is_left_alone(network, size):
    c = made(network, size=size)
    f, x = c.frozen(), images(c)
    assert not stems(f)
    torch.testing.assert_close(f(x), c(x), rtol=1e-5, atol=1e-5)


def test_a_tapped_stem_is_left_alone():
    assert not stems(made(Stem(), taps=("conv",)).frozen())


@pytest.mark.parametrize("tolerance", ["PAIR_TOLERANCE_FLOAT64", "PAIR_TOLERANCE_FLOAT32", "NETWORK_TOLERANCE_FLOAT32"])
def test_what_would_differ_is_left_as_it_was(tolerance, monkeypatch):
    monkeypatch.setattr(stem, tolerance, -1.0)
    c = made(Stem(), "gray")
    f, x = c.frozen(), images(c)
    assert not stems(f)
    assert torch.equal(f.mean, c.mean)
    torch.testing.assert_close(f(x), c(x), rtol=1e-5, atol=1e-5)


def test_a_network_that_gives_no_numbers_is_left_alone():
    network = Stem()
    network.conv.weight.data[0, 0, 3, 3] = torch.nan
    ones, zeros = torch.ones(1, 3, 1, 1), torch.zeros(1, 3, 1, 1)
    pixels = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    assert stem_on_blocks(network.eval(), pixels, ones, zeros, answer=lambda y: y) is None
