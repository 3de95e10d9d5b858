"""Few values changed: by DeepFool's boundaries and a greedy way onto their planes (SparseFool, Modas 2019), or those of
a small square that anybody can see (a patch, Brown 2017).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from medaegis.attacks.balls import LEVELS
from medaegis.attacks.minimal import FINEST, SHORTEST
from medaegis.attacks.steps import Problem, StepRule, Walker, squares
from medaegis.errors import ConfigError

LEAST = 1e-4  # change of a value that is not rounded, as in the authors' code


@dataclass(frozen=True)
class SparseFool(StepRule):
    """From plane to plane, each as near as can be in the sum of changes (Modas 2019, algorithms 1 and 2).

    From where an image stands, DeepFool (L2) goes to the boundary and beyond it, `reach` times as far. The gradient
    there is the normal of a plane, onto which the image moves: the value of the steepest slope as far as the ball
    allows, then the next, until the plane is met (`onto_plane`). It rests once it is adversarial. Every step of
    DeepFool is a look, and so is the point beyond. The result is a point of few changed values; an image that leaves
    once it is broken may leave on DeepFool's way, where all values are changed.

    Args:
        reach: the higher, the fewer rounds, and the more values (lambda; the authors' code has 3).
        overshoot: share by which each step of DeepFool and each move is longer (0.02 in the paper).
        steps: of DeepFool at most, before the point beyond is looked at.
    """

    reach: float = 1.5
    overshoot: float = 0.02
    steps: int = 10
    by_sign = True

    def __post_init__(self) -> None:
        if self.reach < 1 or self.overshoot < 0 or self.steps < 1:
            raise ConfigError("SparseFool", f"{self}", "give reach >= 1, overshoot >= 0, steps >= 1")

    def begin(self, problem: Problem) -> Walker:
        return _SparseFoolWalker(self, problem)


class _SparseFoolWalker(Walker):
    """`base` is where each image stands, `taken` its steps of DeepFool from there; `beyond`: it is looked at beyond the
    boundary, for the normal of the plane there.
    """

    def __init__(self, rule: SparseFool, problem: Problem) -> None:
        x = problem.x
        self.rule, self.problem, self.base = rule, problem, x.clone()
        self.low, self.high = problem.ends()
        self.taken = torch.zeros(len(x), dtype=torch.int64, device=x.device)
        self.beyond, self.resting = (torch.zeros_like(self.taken, dtype=torch.bool) for _ in range(2))
        self.least = (SHORTEST if problem.rounds else FINEST) * x[0].numel() ** 0.5

    def step(self, z: Tensor, grad: Tensor, losses: Tensor, i: int) -> Tensor:
        length: Tensor = torch.linalg.vector_norm(grad, dim=(1, 2, 3))
        standing = ~self.beyond & (self.taken == 0)
        # Where the gradient is nil there is no boundary to see, now and for good.
        self.resting |= (standing & (losses < 0)) | ~(length > 0)
        over = ~self.beyond & ~standing & ((losses < 0) | (self.taken >= self.rule.steps))
        moved = torch.where(_wide(self.beyond & ~self.resting), self._moved(z, grad), self.base)
        away = self.base + self.rule.reach * (z - self.base)
        far = ((1 + self.rule.overshoot) * losses / length).clamp_min(self.least) / length
        on = torch.where(_wide(over), away, z - _wide(far) * grad)
        stands = self.beyond | self.resting
        self.taken = torch.where(stands | over, 0, self.taken + 1)
        self.base, self.beyond = moved, over & ~self.resting
        return torch.where(_wide(stands), moved, on).clamp_(0, 1)

    def _moved(self, point: Tensor, normal: Tensor) -> Tensor:
        """Where each image stands once it has moved onto the plane through `point` with this `normal`."""
        base, shape = self.base, self.base.shape
        amount = (1 + self.rule.overshoot) * (normal * (base - point)).flatten(1).sum(1)
        room = torch.where(normal > 0, base - self.low, self.high - base)
        # A plane that it stands beyond already, or on, is as good as one that is just ahead.
        move = onto_plane(normal.flatten(1).abs(), room.flatten(1), amount.clamp_min(FINEST)).view(shape)
        least = (move * LEVELS - 1e-3).ceil().clamp_min(1) / LEVELS if self.problem.rounds else move.clamp_min(LEAST)
        move = torch.where(move > 0, torch.maximum(move, least), 0.0)
        return (base - normal.sign() * move).clamp(self.low, self.high)

    def rests(self) -> bool:
        return bool(self.resting.all())

    def result(self, z: Tensor) -> Tensor:
        return self.problem.inside(self.base)


def onto_plane(slope: Tensor, room: Tensor, amount: Tensor) -> Tensor:
    """Moves `m` `(N, D)`, `0 <= m <= room`, of the least sum for which `sum_j slope_j * m_j` is `amount` `(N,)`.

    The steepest go first, each as far as it can; all go where that is not enough. `slope` and `room` are `(N, D)`, none
    below 0.

    >>> onto_plane(torch.tensor([[1.0, 3.0, 2.0]]), torch.ones(1, 3), torch.tensor([4.0]))
    tensor([[0.0000, 1.0000, 0.5000]])
    """
    steepest, order = slope.double().sort(dim=1, descending=True, stable=True)
    far = room.double().gather(1, order)
    before = (steepest * far).cumsum(1) - steepest * far
    move = torch.where(steepest > 0, (amount.double().view(-1, 1) - before) / steepest, 0.0)
    move = torch.minimum(move.clamp_min(0), far)
    return torch.zeros_like(move).scatter(1, order, move).to(slope.dtype)


def _wide(values: Tensor) -> Tensor:
    """One number per image, beside images."""
    return values.view(-1, 1, 1, 1)


@dataclass(frozen=True)
class Patch(StepRule):
    """Steepest descent within one visible square of each image (Brown 2017), whose place the first gradient chooses.

    It lies where the loss, taken as linear, falls most when all values of the square change as far as the ball allows.
    At eps 1 that is any value; below, it is a square of an ordinary change. Brown's patch is one for all images and
    places; this one is made for its image, as by one who can alter its file. Hands over the best point on the way.

    Args:
        share: of the image's area that the square takes at most; it has one pixel at least.
    """

    share: float = 0.02
    keeps_best = True

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ConfigError("patch", f"share is {self.share}", "give a share of the area in (0, 1]")

    def side(self, height: int, width: int) -> int:
        """Of the square, in pixels."""
        return max(1, min(math.isqrt(int(self.share * height * width)), height, width))

    def begin(self, problem: Problem) -> Walker:
        return _PatchWalker(self, problem)


class _PatchWalker(Walker):
    def __init__(self, rule: Patch, problem: Problem) -> None:
        self.rule, self.problem = rule, problem
        self.square: Tensor | None = None

    def step(self, z: Tensor, grad: Tensor, losses: Tensor, i: int) -> Tensor:
        problem = self.problem
        if self.square is None:
            self.square = self._place(grad)
        z = z - problem.step_size * problem.ball.direction(grad)
        return torch.where(self.square, problem.ball.project_(z, problem.x, problem.eps), problem.x)

    def _place(self, grad: Tensor) -> Tensor:
        """The best square of each image, bool `(N, 1, H, W)`."""
        x, (low, high) = self.problem.x, self.problem.ends()
        height, width = x.shape[2:]
        side = self.rule.side(height, width)
        gain = torch.maximum(grad * (x - low), grad * (x - high)).sum(1, keepdim=True)
        best = F.avg_pool2d(gain.double(), side, stride=1).flatten(1).argmax(1)
        return squares(best // (width - side + 1), best % (width - side + 1), side, x.shape[2:])
