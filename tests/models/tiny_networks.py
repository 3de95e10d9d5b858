"""Networks of a few hundred weights, as a user would bring them: ``tests.models.tiny_networks:tiny``."""

import threading
import time

import torch
from torch import Tensor, nn


class Tiny(nn.Module):
    """Convolution, batch norm, in-place ReLU, a residual block, dropout: what real networks are made of."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(6)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(6, 6, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(6)
        self.last = nn.ReLU(inplace=True)
        self.drop = nn.Dropout(0.3)
        self.fc = nn.Linear(6, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(x))
        y += x
        y = self.last(y)
        return self.fc(self.drop(y.mean((2, 3))))


def tiny(classes: int) -> nn.Module:
    return Tiny(classes)


class Certain(nn.Module):
    """Tells the squares of tests.models.drawn apart without a doubt that float32 could hold."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.relu = nn.ReLU()
        self.scale = nn.Parameter(torch.full((classes,), 1e4))

    def forward(self, x: Tensor) -> Tensor:
        bright = torch.where(self.relu(x).amax((1, 2, 3)) > 1.5, 1.0, -1.0)
        return torch.stack([-bright, bright], 1) * self.scale


def certain(classes: int) -> nn.Module:
    return Certain(classes)


class LosesItself(Tiny):
    """Its first update makes a weight no number, which the loss before that update cannot show."""

    def __init__(self, classes: int) -> None:
        super().__init__(classes)
        self.scale = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + 0 * self.scale.sqrt()


def loses_itself(classes: int) -> nn.Module:
    return LosesItself(classes)


class Hangs(Tiny):
    """Never answers for bright images."""

    def forward(self, x: Tensor) -> Tensor:
        if float(x.mean((1, 2, 3)).amax()) > 1.5:
            time.sleep(3600)
        return super().forward(x)


def hangs(classes: int) -> nn.Module:
    return Hangs(classes)


LET_GO = threading.Event()


class HangsAtOnce(Tiny):
    """Never answers until it is let go, so that no test leaves a thread behind."""

    def forward(self, x: Tensor) -> Tensor:
        LET_GO.wait(3600)
        return super().forward(x)


def hangs_at_once(classes: int) -> nn.Module:
    return HangsAtOnce(classes)


def no_module(classes: int) -> int:
    return classes


def lived_in(network: nn.Module, seed: int = 0) -> nn.Module:
    """Batch norms with the statistics of a network that has seen data, in eval mode."""
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            n = module.num_features
            module.running_mean.copy_(torch.randn(n, generator=generator) * 0.3)
            module.running_var.copy_(torch.rand(n, generator=generator) + 0.5)
            module.weight.data.copy_(torch.rand(n, generator=generator) + 0.5)
            module.bias.data.copy_(torch.randn(n, generator=generator) * 0.2)
    return network.eval()
