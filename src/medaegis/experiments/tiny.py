"""Networks of a few thousand weights, for experiments at scale "smoke": what takes hours there takes seconds here."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

TAPS = ("layer1", "layer2", "layer3", "layer4")


class TinyNetwork(nn.Module):
    """Four convolutions with batch norm, each a layer to tap, and a linear layer."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        widths = (3, 8, 12, 16, 24)
        for i, (given, wanted) in enumerate(pairwise(widths), start=1):
            convolution = nn.Conv2d(given, wanted, 3, stride=1 if i == 2 else 2, padding=1, bias=False)
            self.add_module(f"layer{i}", nn.Sequential(convolution, nn.BatchNorm2d(wanted), nn.ReLU()))
        self.drop = nn.Dropout(0.2)
        self.fc = nn.Linear(widths[-1], classes)

    def forward(self, x: Tensor) -> Tensor:
        for name in TAPS:
            x = self.get_submodule(name)(x)
        logits: Tensor = self.fc(self.drop(x.mean((2, 3))))
        return logits


def network(classes: int) -> nn.Module:
    """The factory, as a backbone is named: `medaegis.experiments.tiny:network`."""
    return TinyNetwork(classes)


class TinySegmenter(nn.Module):
    """Three convolutions at full size, the widest of seven pixels: a class for each pixel."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.layer1 = nn.Sequential(nn.Conv2d(3, 12, 7, padding=3), nn.ReLU())
        self.layer2 = nn.Sequential(nn.Conv2d(12, 12, 5, padding=2), nn.ReLU())
        self.head = nn.Conv2d(12, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.layer2(self.layer1(x)))
        return logits


def segmenter(classes: int) -> nn.Module:
    """The factory: `medaegis.experiments.tiny:segmenter`."""
    return TinySegmenter(classes)
