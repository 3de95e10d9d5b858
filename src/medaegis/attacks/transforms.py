"""Transforms: what an attack does to an image before the victim looks, and to the gradient before it steps.

They make an attack carry over to networks it has not seen. A transform is a value (its settings); `begin` returns what
works on one batch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from medaegis.draws import Draws
from medaegis.errors import ConfigError


class Transformer:
    """What a transform does to one batch: to the image, to the gradient, or to both."""

    def image(self, z: Tensor, i: int) -> Tensor:
        """What the victim is shown of `z` `(N, C, H, W)` in step `i`; differentiable."""
        return z

    def gradient(self, grad: Tensor) -> Tensor:
        """The gradient to step along, instead of `grad` `(N, C, H, W)`."""
        return grad


class Transform(ABC):
    """A value; `moves`: the image is shown elsewhere than it is, where a mask would no longer fit it."""

    moves: bool = False

    @abstractmethod
    def begin(self, steps: int, draws: Draws) -> Transformer:
        """For one batch; what is random comes from its draws."""


@dataclass(frozen=True)
class InputDiversity(Transform):
    """DIM (Xie 2019): with some probability, shrink the image by a random factor and put it at a random place on black.

    Args:
        probability: of shrinking an image in a step (0.5 in the authors' code).
        smallest: least side in units of the image's own. The paper grows 299 px to 299 to 330; a classifier of fixed
            size shrinks by the same factor instead (0.9).
    """

    probability: float = 0.5
    smallest: float = 0.9
    moves = True

    def __post_init__(self) -> None:
        if not 0 <= self.probability <= 1 or not 0 < self.smallest <= 1:
            raise ConfigError("input diversity", f"{self.probability}, {self.smallest}", "give shares in [0, 1]")

    def begin(self, steps: int, draws: Draws) -> Transformer:
        return _Diverse(self, draws.child("diversity").uniform(steps, 4))


class _Diverse(Transformer):
    def __init__(self, settings: InputDiversity, numbers: Tensor) -> None:
        self.settings, self.numbers = settings, numbers

    def image(self, z: Tensor, i: int) -> Tensor:
        u = self.numbers[:, i].to(z)
        shrinks = u[:, 0] < self.settings.probability
        scale = torch.where(shrinks, self.settings.smallest + (1 - self.settings.smallest) * u[:, 1], 1.0)
        # The centre may move by the margin that shrinking leaves; affine_grid maps the shown image onto its source.
        x, y = ((2 * u[:, k] - 1) * (1 - scale) for k in (2, 3))
        zero = torch.zeros_like(scale)
        rows = [1 / scale, zero, -x / scale, zero, 1 / scale, -y / scale]
        grid = F.affine_grid(torch.stack(rows, 1).view(-1, 2, 3), list(z.shape), align_corners=False)
        shrunk = F.grid_sample(z, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        return torch.where(shrinks.view(-1, 1, 1, 1), shrunk, z)


@dataclass(frozen=True)
class Smoothing(Transform):
    """TIM (Dong 2019): the gradient is convolved with a Gaussian, as if the attack looked at shifted images too.

    Args:
        length: side of the kernel (15 in the paper), odd.
        sigma: how many deviations of the Gaussian the kernel reaches from its middle (3 in the authors' code).
    """

    length: int = 15
    sigma: float = 3.0

    def __post_init__(self) -> None:
        if self.length < 1 or self.length % 2 == 0 or self.sigma <= 0:
            raise ConfigError("smoothing", f"length {self.length}, sigma {self.sigma}", "give an odd length, sigma > 0")

    def kernel(self) -> Tensor:
        """`(length, length)`, sums to 1: a Gaussian sampled from -sigma to sigma deviations."""
        line = torch.exp(-torch.linspace(-self.sigma, self.sigma, self.length, dtype=torch.float64).square() / 2)
        plane = line[:, None] * line[None, :]
        return (plane / plane.sum()).float()

    def begin(self, steps: int, draws: Draws) -> Transformer:
        return _Smooth(self.kernel())


class _Smooth(Transformer):
    def __init__(self, kernel: Tensor) -> None:
        self.kernel = kernel

    def gradient(self, grad: Tensor) -> Tensor:
        channels = grad.shape[1]
        weight = self.kernel.to(grad).expand(channels, 1, *self.kernel.shape)
        return F.conv2d(grad, weight, padding=self.kernel.shape[0] // 2, groups=channels)
