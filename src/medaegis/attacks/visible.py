"""A patch that anybody can see (Brown 2017): any values in a small square, the rest of the image as it was."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from medaegis.attacks.steps import Problem, Walker
from medaegis.errors import ConfigError


@dataclass(frozen=True)
class Patch:
    """Steepest descent within one square of each image, whose place the first gradient chooses.

    It lies where the loss, taken as linear, falls most when all values of the square change as far as the ball allows.
    At eps 1 that is any value; below, it is a square of an ordinary change. Brown's patch is one for all images and
    places; this one is made for its image, as by one who can alter its file. Hands over the best point on the way.

    Args:
        share: of the image's area that the square takes at most; it has one pixel at least.
    """

    share: float = 0.02
    needs_gradient = True
    by_sign = False
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
        x, ball, eps = self.problem.x, self.problem.ball, self.problem.eps
        height, width = x.shape[2:]
        side = self.rule.side(height, width)
        low, high = (ball.project_(torch.full_like(x, end), x, eps) for end in (0.0, 1.0))
        gain = torch.maximum(grad * (x - low), grad * (x - high)).sum(1, keepdim=True)
        best = F.avg_pool2d(gain.double(), side, stride=1).flatten(1).argmax(1)
        rows, columns = best // (width - side + 1), best % (width - side + 1)
        down, across = (_from(first, side, size) for first, size in ((rows, height), (columns, width)))
        return (down[:, :, None] & across[:, None, :]).unsqueeze(1)


def _from(first: Tensor, side: int, size: int) -> Tensor:
    """Which of `size` places are the `side` ones from `first` `(N,)` on: bool `(N, size)`."""
    ahead = torch.arange(size, device=first.device) - first.view(-1, 1)
    return (ahead >= 0) & (ahead < side)
