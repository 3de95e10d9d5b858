"""Changes that are a field of few numbers: an illumination that varies slowly over the image (bias field, Tian 2021;
exposure, Cheng 2020), or a change of chosen frequencies alone (Guo 2019; Chen 2023).

The field is walked, not the pixels, so that every image on the way is one of the family. And it lies in the ball of
L-infinity, as after any other attack of the same eps: the projection is onto both, the family and the ball.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import torch
from numpy.polynomial import legendre
from torch import Tensor

from medaegis.attacks.steps import Problem, StepRule, Walker
from medaegis.errors import ConfigError
from medaegis.waves import cosines, low_count

TURNS = 24  # of Dykstra's projections between the family and the ball
WIDEST = 5.0  # of a logarithm of light where no eps bounds it: black stays black, white stays white


@dataclass(frozen=True)
class Span:
    """A linear family of fields: `rows @ weights @ columns.T`, in which only the weights that are `kept` are not 0.

    Attributes:
        rows, columns: float64 `(H, k)` and `(W, l)`, each with orthonormal columns.
        kept: `(k, l)`, 1 for a weight that may be anything, else 0.
        others: the family is the orthogonal complement instead: all fields that have none of those.
    """

    rows: Tensor
    columns: Tensor
    kept: Tensor
    others: bool = False

    def to(self, device: torch.device) -> Span:
        return Span(self.rows.to(device), self.columns.to(device), self.kept.to(device), self.others)

    def nearest(self, z: Tensor) -> Tensor:
        """The field of the family that is nearest to each `(..., H, W)`: its orthogonal projection."""
        inside = self.rows @ (self.rows.T @ z @ self.columns * self.kept) @ self.columns.T
        return z - inside if self.others else inside


class Family(Protocol):
    """Fields of any size that vary alike."""

    def span(self, height: int, width: int) -> Span: ...


@dataclass(frozen=True)
class Polynomials:
    """Polynomials of row and column together (Tian 2021, eq. 3).

    Args:
        degree: the largest of row and column together; 5 leaves 21 numbers.
    """

    degree: int = 5

    def __post_init__(self) -> None:
        if self.degree < 0:
            raise ConfigError("polynomials", f"degree {self.degree}", "give 0 or more")

    def span(self, height: int, width: int) -> Span:
        rows, columns = (self._line(side) for side in (height, width))
        degrees = torch.arange(rows.shape[1])[:, None] + torch.arange(columns.shape[1])
        return Span(rows, columns, (degrees <= self.degree).double())

    def _line(self, side: int) -> Tensor:
        """Orthonormal polynomials of rising degree at the middles of so many pixels, `(side, degrees)`."""
        places = (torch.arange(side, dtype=torch.float64) + 0.5) / side * 2 - 1
        powers = legendre.legvander(places.numpy(), min(self.degree, side - 1))
        orthonormal: Tensor = torch.linalg.qr(torch.from_numpy(powers)).Q
        return orthonormal


@dataclass(frozen=True)
class Waves:
    """The lowest frequencies of the cosine transform (DCT-II), or all others.

    Args:
        share: of the frequencies of either side that are low (1 / r in Guo 2019, where r = 8 is the least).
        high: the family is all other frequencies.
    """

    share: float = 1 / 8
    high: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1 or (self.high and self.share == 1):
            raise ConfigError(
                "frequencies", f"the lowest {self.share} of them", "give a share in (0, 1], below 1 if high"
            )

    def span(self, height: int, width: int) -> Span:
        rows, columns = (cosines(side, low_count(self.share, side)) for side in (height, width))
        return Span(rows, columns, torch.ones((rows.shape[1], columns.shape[1]), dtype=torch.float64), self.high)


@dataclass(frozen=True)
class Fields(StepRule):
    """Steepest descent over the fields of a family, from that of no change, whose images lie in the ball of L-infinity.

    A field multiplies the light, pixel * exp(field), or is added, pixel + field; what is brighter than white is white,
    and what is darker than black is black. A step goes along the part of the gradient that lies in the family, and at
    first as far as `step_size` in the pixel that it changes most; that falls to 0 over the steps. The nearest field
    within family and ball is then found by Dykstra's alternating projections, which are cut off after a few turns; so
    what is left over is scaled away.

    Args:
        family: of the fields.
        multiplies: the light; else the field is added.
        shared: one field for all channels.
    """

    family: Family = field(default_factory=Polynomials)
    multiplies: bool = True
    shared: bool = True

    def begin(self, problem: Problem) -> Walker:
        return _FieldWalker(self, problem)


class _FieldWalker(Walker):
    """Computes in float64, so that sums over the image add nothing to what rounding makes of the gradient."""

    def __init__(self, rule: Fields, problem: Problem) -> None:
        self.rule, self.problem, self.x = rule, problem, problem.x.double()
        self.span = rule.family.span(*problem.x.shape[2:]).to(problem.x.device)
        self.low, self.high = self._bounds(problem.eps.double())
        self.field = torch.zeros_like(self.low)

    def _bounds(self, eps: Tensor) -> tuple[Tensor, Tensor]:
        """Between which values of the field each pixel stays within eps, `(N, 1 or C, H, W)`."""
        if not self.rule.multiplies:
            shape = torch.zeros_like(self.x[:, :1] if self.rule.shared else self.x)
            return shape - eps, shape + eps
        share = eps / self.x.clamp_min(1e-9)
        low = torch.log1p(-share.clamp_max(1)).clamp_min(-WIDEST)
        high = torch.where(self.x + eps < 1, torch.log1p(share), WIDEST).clamp_max(WIDEST)
        return (low.amax(1, keepdim=True), high.amin(1, keepdim=True)) if self.rule.shared else (low, high)

    def step(self, z: Tensor, grad: Tensor, losses: Tensor, i: int) -> Tensor:
        lit = self._lit()
        grows = lit if self.rule.multiplies else torch.ones_like(lit)
        slope = grad.double() * grows * ((lit >= 0) & (lit <= 1))
        towards = self.span.nearest(slope.sum(1, keepdim=True) if self.rule.shared else slope)
        farthest = (grows * towards).abs().amax((1, 2, 3), keepdim=True)
        length = self.problem.step_size * (1 - i / self.problem.steps)
        self.field = self._inside(self.field - length / farthest.clamp_min(1e-300) * towards)
        # float32 may be a last bit beyond the ball.
        return self.problem.ball.project_(self._lit().to(z), self.problem.x, self.problem.eps)

    def _lit(self) -> Tensor:
        """What the field makes of the image, black and white not minded: float64 `(N, C, H, W)`."""
        return self.x * self.field.exp() if self.rule.multiplies else self.x + self.field

    def _inside(self, field: Tensor) -> Tensor:
        """A field of the family within the bounds, near to the nearest one; what is one already stays."""
        left = torch.zeros_like(field)
        for _ in range(TURNS):
            field = field + left
            cut = field.clamp(self.low, self.high)
            left, field = field - cut, self.span.nearest(cut)
        room = torch.where(field > 0, self.high, self.low) / field
        return field * torch.where(field == 0, 1.0, room).amin((1, 2, 3), keepdim=True).clamp_max(1)
