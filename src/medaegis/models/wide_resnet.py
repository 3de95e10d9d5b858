"""Wide ResNet with the keys and numerics of the weights that TRADES and RobustBench publish.

Zagoruyko & Komodakis 2016, Wide Residual Networks: batch norm and ReLU come before each convolution, and nothing is
pooled before the end, where the mean is over all places: for their 32 x 32 pixels the 8 x 8 of the paper.
"""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn

from medaegis.models.networks import initialise


class _WideBlock(nn.Module):
    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(before)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv1 = nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)
        self.relu2 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.convShortcut = None if before == after else nn.Conv2d(before, after, 1, stride=stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.relu1(self.bn1(x))
        shortcut: Tensor = x if self.convShortcut is None else self.convShortcut(y)
        return shortcut + self.conv2(self.relu2(self.bn2(self.conv1(y))))  # type: ignore[no-any-return]


class WideResNet(nn.Module):
    """Three groups of blocks, `width` times as wide as the first ResNets for small images.

    Args:
        depth: convolutions in line, and one: 6 n + 4 for n blocks in each group.
    """

    def __init__(self, classes: int, *, depth: int, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        before = 16
        for group, after in enumerate((16 * width, 32 * width, 64 * width), start=1):
            blocks: list[nn.Module] = []
            for i in range((depth - 4) // 6):
                blocks.append(_WideBlock(before, after, stride=2 if group > 1 and i == 0 else 1))
                before = after
            self.add_module(f"block{group}", nn.Sequential(OrderedDict(layer=nn.Sequential(*blocks))))
        self.bn1 = nn.BatchNorm2d(before)
        self.relu = nn.ReLU(inplace=True)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(before, classes)
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        for group in (1, 2, 3):
            x = self.get_submodule(f"block{group}")(x)
        return self.fc(self.avgpool(self.relu(self.bn1(x))).flatten(1))  # type: ignore[no-any-return]
