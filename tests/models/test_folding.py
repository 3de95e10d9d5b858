"""Folding against the network itself in float64, and every case in which a pair must be left alone."""

import pytest
import torch
from tests.models.tiny_networks import Tiny, lived_in
from torch import nn

from medaegis.models import folding
from medaegis.models.backbones import create_backbone
from medaegis.models.folding import NETWORK_TOLERANCE_FLOAT32, deviation, fold_batchnorm, foldable_pairs
from medaegis.models.segmentation_networks import create_segmenter


def example(size=32, seed=0):
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(seed))


def norms(network):
    return sum(isinstance(module, nn.BatchNorm2d) for module in network.modules())


@pytest.mark.parametrize(("name", "left"), [("resnet18", 0), ("mobilenet_v2", 0), ("densenet121", 62)])
def test_folding_is_exact(name, left):
    # DenseNet's batch norms stand before the convolutions; only those between two convolutions of a layer can go.
    network = lived_in(create_backbone(name, classes=3))
    folded = fold_batchnorm(network, example())
    assert norms(folded) == left
    assert [key for key, _ in folded.named_modules()] == [key for key, _ in network.named_modules()]
    x = example(seed=1)
    with torch.no_grad():
        assert deviation(folded(x), network(x)) < 1e-5
        assert deviation(fold_batchnorm(network.double(), x.double())(x.double()), network(x.double())) < 1e-12


def test_the_network_itself_is_left_alone():
    network = lived_in(Tiny(3)).train()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    folded = fold_batchnorm(network, example())
    assert norms(network) == 2
    assert network.training
    assert not folded.training
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


class _Pair(nn.Module):
    def __init__(self, conv=None, norm=None):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1) if conv is None else conv
        self.norm = nn.BatchNorm2d(4) if norm is None else norm

    def forward(self, x):
        return self.norm(self.conv(x)).mean((2, 3))


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(3, 4, 5, stride=2, padding=2, bias=False),
        nn.Conv2d(3, 4, 3, dilation=2),
        nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"),
        nn.Conv2d(3, 3, 3, groups=3),
    ],
)
@pytest.mark.parametrize("affine", [True, False])
def test_kinds_of_convolution(conv, affine):
    norm = nn.BatchNorm2d(conv.out_channels, affine=affine)
    if not affine:
        norm.running_mean.fill_(0.3)
        norm.running_var.fill_(2.0)
    network = _Pair(conv, norm).eval() if not affine else lived_in(_Pair(conv, norm))
    folded = fold_batchnorm(network, example())
    assert norms(folded) == 0
    with torch.no_grad():
        torch.testing.assert_close(folded(example(seed=1)), network(example(seed=1)))


class _ReadTwice(_Pair):
    def forward(self, x):
        y = self.conv(x)
        return (self.norm(y) + y).mean((2, 3))  # no module reads y the second time


class _CalledTwice(_Pair):
    def forward(self, x):
        return (self.norm(self.conv(x)) + self.conv(x.flip(3))).mean((2, 3))


class _ChangedBetween(_Pair):
    def forward(self, x):
        return self.norm(self.conv(x).mul_(2)).mean((2, 3))


class _SharedWeight(_Pair):
    def __init__(self):
        super().__init__()
        self.twin = nn.Conv2d(3, 4, 3, padding=1)
        self.twin.weight = self.conv.weight

    def forward(self, x):
        return super().forward(x) + self.twin(x).mean((2, 3))


class _NormTwice(_Pair):
    def forward(self, x):
        return self.norm(self.norm(self.conv(x))).mean((2, 3))


@pytest.mark.parametrize("kind", [_ReadTwice, _CalledTwice, _ChangedBetween, _SharedWeight, _NormTwice])
def test_what_is_no_pair_is_left_alone(kind):
    network = lived_in(kind())
    assert foldable_pairs(network, example()) == []
    folded = fold_batchnorm(network, example())
    with torch.no_grad():
        assert torch.equal(folded(example(seed=1)), network(example(seed=1)))


def test_no_running_statistics_no_folding():
    network = _Pair(norm=nn.BatchNorm2d(4, track_running_stats=False)).eval()
    assert foldable_pairs(network, example()) == []


def test_a_kept_convolution_is_left_alone():
    network = lived_in(Tiny(3))
    assert foldable_pairs(network, example()) == [("conv1", "bn1"), ("conv2", "bn2")]
    assert foldable_pairs(network, example(), keep=("conv2", "bn1")) == [("conv1", "bn1")]


def test_a_pair_that_float32_cannot_hold_is_refused():
    # A bias of 1e8 that the running mean takes away again: exact in float64, lost when folded in float32.
    network = lived_in(_Pair())
    with torch.no_grad():
        network.conv.weight[0] *= 1e-12
        network.norm.running_var[0] = 1e-30
        network.norm.eps = 1e-32
        network.norm.running_mean[0] = network.conv.bias[0]
    assert foldable_pairs(network, example()) == [("conv", "norm")]
    assert norms(fold_batchnorm(network, example())) == 1


def test_a_network_that_comes_out_different_is_left_alone(monkeypatch):
    monkeypatch.setattr(folding, "_verified", lambda conv, norm, x: conv)
    network = lived_in(Tiny(3))
    folded = fold_batchnorm(network, example())
    assert norms(folded) == norms(network) > 0
    with torch.no_grad():
        assert torch.equal(folded(example(seed=1)), network(example(seed=1)))


def test_a_segnet_is_what_it_was_on_smooth_images():
    # Where neighbours are all but alike, last bits say which pixel a max-pooling takes, and where its value goes back.
    network = create_segmenter("segnet", classes=2).eval()
    x = torch.linspace(0, 0.3, 2 * 3 * 64 * 64).view(2, 3, 64, 64)
    with torch.no_grad():
        assert deviation(fold_batchnorm(network, x)(x), network(x)) <= NETWORK_TOLERANCE_FLOAT32
