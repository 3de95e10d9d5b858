"""Step rules: how an attack walks, given the gradient of its loss. Every rule serves every ball and objective.

A rule is a value (its settings); `begin` returns a walker that holds the state of one batch.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from medaegis.attacks.balls import Ball, to_grid
from medaegis.draws import Draws

FLOAT_ERROR = 1e-6  # of pixel values in float32, after a few additions


@dataclass(frozen=True)
class Problem:
    """One batch to walk in: clean images `x` `(N, C, H, W)`, radii and step lengths `(N, 1, 1, 1)`.

    `draws` are for rules that draw; those of an image never depend on the others. `guides`,
    images `(N, C, H, W)` that the attacker has, are for rules that start from one, `targets`, wanted classes `(N,)`,
    for rules that go another way for each. `rounds`: the victim sees 8-bit images, whatever it is shown.
    """

    x: Tensor
    eps: Tensor
    step_size: Tensor
    steps: int
    ball: Ball
    draws: Draws
    guides: Tensor | None = None
    targets: Tensor | None = None
    rounds: bool = True

    def seen(self, z: Tensor) -> Tensor:
        """What the victim sees of `z`, and will be given: an image in [0, 1], on the 8-bit grid where it rounds."""
        return to_grid(z) if self.rounds else z.clamp(0, 1)

    def inside(self, z: Tensor) -> Tensor:
        """`z` drawn into the ball; what lies there already stays as it is, to the last bit."""
        drawn = self.ball.project_(z.clone(), self.x, self.eps)
        moved = ((drawn - z).abs() > FLOAT_ERROR).flatten(1).any(1)
        return torch.where(moved.view(-1, 1, 1, 1), drawn, z)

    def ends(self) -> tuple[Tensor, Tensor]:
        """The images of each ball that are nearest to black and to white."""
        low, high = (self.ball.project_(torch.full_like(self.x, end), self.x, self.eps) for end in (0.0, 1.0))
        return low, high


class Walker(ABC):
    """One batch on its way."""

    @abstractmethod
    def step(self, z: Tensor, grad: Tensor, losses: Tensor, i: int) -> Tensor:
        """Next point from point `z` (may be changed in place), its gradient, its losses `(N,)`, step number `i`.

        A rule that needs no gradient is given zeros.
        """

    def rests(self) -> bool:
        """Whether no image will move again, so that further looks would tell nothing."""
        return False

    def result(self, z: Tensor) -> Tensor:
        """The point to hand over after the last step."""
        return z


class StepRule(ABC):
    """How an attack walks; a value (its settings).

    Attributes:
        by_sign: whether it takes a loss below 0 for a sign that the image is through, as it is of one class an image.
        keeps_best: whether the best point on its way is handed over (`Attack.descend`), and not the one where it ends.
    """

    needs_gradient: bool = True
    by_sign: bool = False
    keeps_best: bool = False

    @abstractmethod
    def begin(self, problem: Problem) -> Walker: ...


@dataclass(frozen=True)
class Descent(StepRule):
    """Steepest descent in the ball's norm: FGSM (one step), BIM, PGD (Madry 2018).

    Args:
        momentum: decay of the accumulated, L1-normalised gradient (MIM, Dong 2018, eq. 6; 1.0 there); 0 is none.
        decay, decay_from: multiply the step by `decay` once after that share of the steps (the WB_d attack of
            Medical Aegis: x 0.1 after 50 of 100 steps).
        keeps_best: hand over the best point on the way.
    """

    momentum: float = 0.0
    decay: float = 1.0
    decay_from: float = 0.5
    keeps_best: bool = False

    def begin(self, problem: Problem) -> Walker:
        return _DescentWalker(self, problem)


class _DescentWalker(Walker):
    def __init__(self, rule: Descent, problem: Problem) -> None:
        self.rule, self.problem = rule, problem
        self.turn = int(rule.decay_from * problem.steps) if rule.decay != 1 else problem.steps
        self.velocity: Tensor | None = None

    def step(self, z: Tensor, grad: Tensor, losses: Tensor, i: int) -> Tensor:
        problem, rule = self.problem, self.rule
        if rule.momentum:
            grad = grad / grad.abs().mean(dim=(1, 2, 3), keepdim=True).clamp_min(1e-30)
            self.velocity = grad if self.velocity is None else self.velocity.mul_(rule.momentum).add_(grad)
            grad = self.velocity
        size = problem.step_size if i < self.turn else problem.step_size * rule.decay
        z.sub_(problem.ball.direction(grad).mul_(size))
        return problem.ball.project_(z, problem.x, problem.eps)


@dataclass(frozen=True)
class Adaptive(StepRule):
    """Auto-PGD (Croce and Hein 2020, algorithm 1): starts at 2 eps, halves an image's step when it stops helping.

    Args:
        momentum: weight of the new step against the last move (alpha, 0.75 in the paper).
        rho: share of improving steps below which the step is halved (0.75 in the paper).
    """

    momentum: float = 0.75
    rho: float = 0.75
    keeps_best = True

    def begin(self, problem: Problem) -> Walker:
        return _AdaptiveWalker(self, problem)


def checkpoints(steps: int) -> list[int]:
    """Step numbers at which Auto-PGD looks back: p_0 = 0, p_1 = 0.22, gaps shrinking by 0.03 to 0.06 (their eq. 3)."""
    shares, gap = [0.0, 0.22], 0.22
    while shares[-1] < 1:
        gap = max(gap - 0.03, 0.06)
        shares.append(shares[-1] + gap)
    # 0.41 * 100 is 41.000000000000004 and must not become 42.
    return sorted({math.ceil(share * steps - 1e-9) for share in shares[1:]})


class _AdaptiveWalker(Walker):
    def __init__(self, rule: Adaptive, problem: Problem) -> None:
        n, device = len(problem.x), problem.x.device
        self.rule, self.problem = rule, problem
        self.size = 2 * problem.eps.clone()
        self.marks = checkpoints(problem.steps)
        self.best = problem.x.clone()
        self.best_grad = torch.zeros_like(problem.x)
        self.best_loss = torch.full((n,), torch.inf, dtype=torch.float32, device=device)
        self.last_loss = torch.full_like(self.best_loss, -torch.inf)  # the start is no improvement on anything
        self.improved = torch.zeros_like(self.best_loss)
        self.halved = torch.ones(n, dtype=torch.bool, device=device)  # no judgement on the best loss at the first mark
        self.mark_loss = self.best_loss.clone()
        self.last_mark = 0
        self.previous: Tensor | None = None

    def step(self, z: Tensor, grad: Tensor, losses: Tensor, i: int) -> Tensor:
        problem, ball = self.problem, self.problem.ball
        self.improved += losses < self.last_loss
        self.last_loss = losses
        better = losses < self.best_loss
        mask = better.view(-1, 1, 1, 1)
        self.best, self.best_grad = torch.where(mask, z, self.best), torch.where(mask, grad, self.best_grad)
        self.best_loss = torch.where(better, losses, self.best_loss)
        if i in self.marks:
            self._look_back(i)
            restart = self.halved.view(-1, 1, 1, 1)
            z, grad = torch.where(restart, self.best, z), torch.where(restart, self.best_grad, grad)
        step = self.size * ball.direction(grad)
        half = ball.project_(z - step, problem.x, problem.eps)
        if self.previous is not None:
            a = self.rule.momentum
            half = ball.project_(z + a * (half - z) + (1 - a) * (z - self.previous), problem.x, problem.eps)
        self.previous = z
        return half

    def _look_back(self, i: int) -> None:
        too_few = self.improved < self.rule.rho * (i - self.last_mark)
        stuck = ~self.halved & (self.best_loss >= self.mark_loss)
        self.halved = too_few | stuck
        self.size = torch.where(self.halved.view(-1, 1, 1, 1), self.size / 2, self.size)
        self.mark_loss, self.last_mark = self.best_loss.clone(), i
        self.improved.zero_()


def squares(row: Tensor, column: Tensor, side: int, size: torch.Size) -> Tensor:
    """Which pixels of images of this height and width lie in squares that begin there `(N,)`: bool `(N, 1, H, W)`."""
    corner = zip((row, column), size, strict=True)
    ahead = (torch.arange(length, device=row.device) - first.view(-1, 1) for first, length in corner)
    down, across = ((places >= 0) & (places < side) for places in ahead)
    return (down[:, :, None] & across[:, None, :]).unsqueeze(1)
