"""Balls: the set of images an attacker may choose from, around each clean image and inside [0, 1].

A ball knows how to start at random inside it, how to project back onto it, what the steepest step in its norm is,
and how to round a point to 8-bit pixels without leaving it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from medaegis.draws import Draws
from medaegis.errors import ConfigError

LEVELS = 255  # an 8-bit pixel v stands for v / 255
SHRINKINGS = 12  # bisections that bring a rounded change back into an L2 ball: to 1/2000 of its length


class Ball(Protocol):
    """Images within `eps` of a clean image; `eps` is `(N, 1, 1, 1)`, in pixel units, one radius per image."""

    @property
    def name(self) -> str: ...

    def largest(self, values: int) -> float:
        """The `eps` that reaches every image of so many values."""
        ...

    def project_(self, z: Tensor, x: Tensor, eps: Tensor) -> Tensor:
        """Move `z` in place to the nearest point of the ball around `x`, and from there to that of [0, 1]."""
        ...

    def direction(self, grad: Tensor) -> Tensor:
        """Step of length one (in the ball's norm) along `grad`, shape `(N, C, H, W)`."""
        ...

    def length(self, change: Tensor) -> Tensor:
        """Of changes `(N, C, H, W)` in the ball's norm and in units of `eps`, `(N, 1, 1, 1)`."""
        ...

    def random(self, x: Tensor, eps: Tensor, draws: Draws) -> Tensor:
        """A random point of the ball around each `x`."""
        ...

    def to_8bit(self, z: Tensor, x: Tensor, eps: Tensor) -> Tensor:
        """Nearest 8-bit image (values k / 255) to `z` that is still in the ball around the 8-bit image `x`."""
        ...

    def holds(self, z: Tensor, x: Tensor, eps: Tensor) -> Tensor:
        """Which 8-bit images `z` lie in the ball around the 8-bit images `x`, bool `(N,)`."""
        ...


def to_grid(z: Tensor) -> Tensor:
    """Nearest image that a file can hold: values k / 255 in [0, 1]."""
    return (z * LEVELS).round().clamp_(0, LEVELS) / LEVELS


def whole_levels(eps: Tensor) -> Tensor:
    """Grey levels of 255 that a radius in L-infinity allows; 0.002 of one is forgiven to decimals as 0.0039."""
    return (256 * eps + 0.002).floor().clamp_max(LEVELS)


@dataclass(frozen=True)
class Linf:
    """Every value may change by at most eps.

    On 8-bit pixels a radius of k/256, or k/255, is k whole grey levels. The papers' 1/256 is 0.996 levels; counting it
    as none would make their smallest budget empty, so it counts as one. Radii in between count down.
    """

    name = "linf"

    def largest(self, values: int) -> float:
        return 1.0

    def project_(self, z: Tensor, x: Tensor, eps: Tensor) -> Tensor:
        torch.minimum(z, x + eps, out=z)
        torch.maximum(z, x - eps, out=z)
        return z.clamp_(0, 1)

    def direction(self, grad: Tensor) -> Tensor:
        return grad.sign()

    def length(self, change: Tensor) -> Tensor:
        return change.abs().amax((1, 2, 3), keepdim=True)

    def random(self, x: Tensor, eps: Tensor, draws: Draws) -> Tensor:
        return (x + draws.noise(*x.shape[1:]).to(x) * eps).clamp_(0, 1)

    def to_8bit(self, z: Tensor, x: Tensor, eps: Tensor) -> Tensor:
        clean, levels = (x * LEVELS).round(), whole_levels(eps)
        rounded = torch.minimum(torch.maximum((z * LEVELS).round(), clean - levels), clean + levels)
        return rounded.clamp_(0, LEVELS) / LEVELS

    def holds(self, z: Tensor, x: Tensor, eps: Tensor) -> Tensor:
        return (_change(z, x).abs() <= whole_levels(eps)).flatten(1).all(1)


@dataclass(frozen=True)
class L2:
    """The Euclidean length of the change is at most eps.

    Args:
        rms: read eps as a root mean square per value, ||d||_2 / sqrt(C*H*W). This is the only reading under which the
            papers' `L2 = 8/256` means anything for a whole image; False takes eps as the absolute length.
    """

    rms: bool = True
    name = "l2"

    def largest(self, values: int) -> float:
        return 1.0 if self.rms else float(values**0.5)

    def radius(self, x: Tensor, eps: Tensor) -> Tensor:
        return eps * x[0].numel() ** 0.5 if self.rms else eps

    def project_(self, z: Tensor, x: Tensor, eps: Tensor) -> Tensor:
        change = z - x
        change *= (self.radius(x, eps) / _length(change).clamp_min(1e-12)).clamp_max(1)
        return torch.add(x, change, out=z).clamp_(0, 1)

    def direction(self, grad: Tensor) -> Tensor:
        unit = grad / _length(grad).clamp_min(1e-30)
        return unit * grad[0].numel() ** 0.5 if self.rms else unit

    def length(self, change: Tensor) -> Tensor:
        return _length(change) / change[0].numel() ** 0.5 if self.rms else _length(change)

    def random(self, x: Tensor, eps: Tensor, draws: Draws) -> Tensor:
        noise = draws.child("direction").normal(*x.shape[1:])
        share = draws.child("length").uniform(1, 1, 1) ** (1 / x[0].numel())
        step = (noise / _length(noise) * share).to(x)
        return (x + step * self.radius(x, eps)).clamp_(0, 1)

    def to_8bit(self, z: Tensor, x: Tensor, eps: Tensor) -> Tensor:
        clean, change = (x * LEVELS).round(), z * LEVELS - (x * LEVELS).round()
        limit = self._limit(x, eps)
        # Rounding can lengthen the change. The rounded length never falls as the change is drawn out, so bisection
        # finds the longest that fits; squares of whole levels add up exactly.
        low, high = torch.zeros_like(limit), torch.ones_like(limit)
        share = high
        for _ in range(SHRINKINGS):
            fits = _squares((change * share).round()) <= limit
            low, high = torch.where(fits, share, low), torch.where(fits, high, share)
            share = torch.where(low < 1, (low + high) / 2, low)
        return (clean + (change * low).round().to(clean)).clamp_(0, LEVELS) / LEVELS

    def holds(self, z: Tensor, x: Tensor, eps: Tensor) -> Tensor:
        return (_squares(_change(z, x)) <= self._limit(x, eps)).flatten()

    def _limit(self, x: Tensor, eps: Tensor) -> Tensor:
        """Largest sum of squares of a change in grey levels."""
        return (self.radius(x, eps).double() * LEVELS) ** 2


def _change(z: Tensor, x: Tensor) -> Tensor:
    """Between 8-bit images, in whole grey levels."""
    return (z * LEVELS).round() - (x * LEVELS).round()


def _squares(levels: Tensor) -> Tensor:
    return levels.double().square().sum((1, 2, 3), keepdim=True)


def _length(x: Tensor) -> Tensor:
    length: Tensor = torch.linalg.vector_norm(x, dim=(1, 2, 3), keepdim=True)
    return length


def parse_eps(text: str, *, rounds: bool = True) -> float:
    """Read `16/256`, `8/255` or `0.03`.

    Raises:
        ConfigError: not a number above 0 and at most 1, or less than a grey level where pixels are rounded to those.
    """
    parts = text.split("/")
    try:
        value = float(parts[0]) / float(parts[1]) if len(parts) == 2 else float(text)
    except (ValueError, ZeroDivisionError):
        value = -1.0
    if not 0 < value <= 1:
        problem = "not a radius above 0 and at most 1"
        raise ConfigError(f"eps {text!r}", problem, "write pixel units, as 16/256 or 8/255")
    if rounds:
        check_eps(text, value)
    return value


def check_eps(text: str, value: float) -> None:
    """Whether a radius, as it was written and in pixel units, leaves an attacker anything to do on 8-bit pixels.

    Raises:
        ConfigError: less than a grey level: whatever is attacked would seem to hold.
    """
    if whole_levels(torch.tensor(value)) < 1:
        raise ConfigError(f"eps {text!r}", "is less than a grey level", "give 1/256 or more")
