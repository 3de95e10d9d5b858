"""Attacks that come to the smallest change along the boundary: DDN (Rony 2019), FMN (Pintor 2021) and FAB (Croce and
Hein 2020, "Minimally distorted adversarial examples").

As those of `minimal` they take an image for adversarial where its loss is below 0, and the ball has the last word. They
walk on pixels that are not rounded, whatever the victim sees, for a step of less than half a grey level would be lost;
what the victim sees is what counts as found.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from medaegis.attacks.balls import L2
from medaegis.attacks.minimal import FINEST, SHORTEST, Shortest
from medaegis.attacks.steps import Problem, StepRule, Walker
from medaegis.errors import ConfigError

EUCLIDEAN = L2(rms=False)


@dataclass(frozen=True)
class Decoupled(StepRule):
    """Direction and length apart (DDN; Rony 2019, algorithm 1): the length shrinks where it works, else it grows.

    A step of length 1, falling to `last` by a cosine, turns the direction; then the change is drawn to its length, a
    Euclidean one in pixel units, and cut to [0, 1].

    Args:
        gamma: share by which the length changes at each step (0.05 in the paper).
        first: length to begin with.
        last: step at the end.
    """

    gamma: float = 0.05
    first: float = 1.0
    last: float = 0.01
    by_sign = True

    def __post_init__(self) -> None:
        if not (0 < self.gamma < 1 and self.first > 0 and 0 < self.last <= 1):
            raise ConfigError("DDN", f"{self}", "give gamma in (0, 1), first > 0, last in (0, 1]")

    def begin(self, problem: Problem) -> Walker:
        return _DecoupledWalker(self, problem)


class _DecoupledWalker(Shortest):
    def __init__(self, rule: Decoupled, problem: Problem) -> None:
        super().__init__(problem)
        self.rule = rule
        self.widest = EUCLIDEAN.length(_widest(problem.x))
        self.length = torch.full_like(self.widest, rule.first)

    def step(self, z: Tensor, grad: Tensor, losses: Tensor, i: int) -> Tensor:
        reached, gamma, x = losses < 0, self.rule.gamma, self.problem.x
        self.see(z, losses, reached)
        rate = annealed(1.0, self.rule.last, i / self.problem.steps)
        change = z - x - rate * EUCLIDEAN.direction(grad)
        shrunk, grown = (1 - gamma) * self.length, (1 + gamma) * self.length
        self.length = torch.where(reached.view(-1, 1, 1, 1), shrunk, grown).minimum(self.widest)
        return (x + self.length * EUCLIDEAN.direction(change)).clamp_(0, 1)


@dataclass(frozen=True)
class FastMinimum(StepRule):
    """A ball around the image that shrinks onto the boundary (FMN; Pintor 2021, algorithm 1), in the norm of the ball.

    Until an adversarial change is found its radius grows by the distance at which the loss, taken as linear, is 0, and
    by `gamma` of that; from then on it shrinks where the image is adversarial, and never exceeds the shortest such
    change, else it grows. A step along the gradient and a projection onto that ball follow. Step and share fall by a
    cosine. (The paper adds the bare distance, to the length of the change, which [0, 1] cuts short: some images come
    near the boundary and never cross it.)

    Args:
        rate, last_rate: Euclidean length of the first step and the last.
        gamma, last_gamma: share by which the radius changes, at first and in the end.
    """

    rate: float = 1.0
    last_rate: float = 0.01
    gamma: float = 0.05
    last_gamma: float = 1e-3
    by_sign = True

    def __post_init__(self) -> None:
        if not (self.rate >= self.last_rate > 0 and 1 > self.gamma >= self.last_gamma > 0):
            raise ConfigError("FMN", f"{self}", "give rate >= last_rate > 0 and 1 > gamma >= last_gamma > 0")

    def begin(self, problem: Problem) -> Walker:
        return _FastMinimumWalker(self, problem)


class _FastMinimumWalker(Shortest):
    def __init__(self, rule: FastMinimum, problem: Problem) -> None:
        super().__init__(problem)
        self.rule = rule
        self.widest = problem.ball.length(_widest(problem.x))
        self.radius = torch.zeros_like(self.widest)

    def step(self, z: Tensor, grad: Tensor, losses: Tensor, i: int) -> Tensor:
        rule, problem, done = self.rule, self.problem, i / self.problem.steps
        reached = losses < 0
        self.see(z, losses, reached)
        self._resize(grad, losses, annealed(rule.gamma, rule.last_gamma, done))
        z = z - annealed(rule.rate, rule.last_rate, done) * EUCLIDEAN.direction(grad)
        return problem.ball.project_(z, problem.x, self.radius)

    def _resize(self, grad: Tensor, losses: Tensor, gamma: float) -> None:
        ball, shape = self.problem.ball, (-1, 1, 1, 1)
        slope = (grad * ball.direction(grad)).sum((1, 2, 3), keepdim=True)
        far = (1 + self.rule.gamma) * losses.view(shape).abs() / slope
        # A loss of 0, of two classes that are tied, says nothing of how far it is.
        far = torch.where((losses == 0).view(shape), self.rule.gamma * self.radius, far)
        ahead = far.clamp_min(SHORTEST if self.problem.rounds else FINEST)
        shortest = self.far.view(shape)
        grown = torch.where(shortest.isinf(), self.radius + ahead, self.radius * (1 + gamma))
        shrunk = torch.minimum(self.radius * (1 - gamma), shortest)
        radius = torch.where((losses < 0).view(shape), shrunk, grown)
        self.radius = torch.fmin(radius, self.widest)  # where the network gave no number, too


@dataclass(frozen=True)
class FastBoundary(StepRule):
    """From projection to projection onto the boundary, taken as linear (FAB; Croce and Hein 2020, algorithm 1).

    The point and the clean image are both projected onto the plane at which the loss is 0, within [0, 1]; the next
    point lies between the two, the nearer the clean image's the nearer that is to the plane. Where it is adversarial, a
    step towards the clean image follows and a look from there: an iteration of the paper is one look, or two. Its final
    search along the last segment is left out.

    Args:
        bias: largest weight of the clean image's projection (alpha_max).
        overshoot: by which both go beyond the plane (eta).
        back: share of the change that a step towards the clean image leaves (beta).
    """

    bias: float = 0.1
    overshoot: float = 1.05
    back: float = 0.9
    by_sign = True

    def __post_init__(self) -> None:
        if not (0 <= self.bias <= 1 and self.overshoot >= 1 and 0 < self.back < 1):
            raise ConfigError("FAB", f"{self}", "give bias in [0, 1], overshoot >= 1, back in (0, 1)")

    def begin(self, problem: Problem) -> Walker:
        return _FastBoundaryWalker(self, problem)


class _FastBoundaryWalker(Shortest):
    def __init__(self, rule: FastBoundary, problem: Problem) -> None:
        super().__init__(problem)
        self.rule = rule
        self.least = SHORTEST if problem.rounds else FINEST
        self.returned = torch.zeros(len(problem.x), dtype=torch.bool, device=problem.x.device)

    def step(self, z: Tensor, grad: Tensor, losses: Tensor, i: int) -> Tensor:
        rule, x, ball = self.rule, self.problem.x, self.problem.ball
        reached = losses < 0
        self.see(z, losses, reached)
        at_x = losses + (grad * (x - z)).sum((1, 2, 3))
        here, home = self._onto_plane(z, grad, losses) - z, self._onto_plane(x, grad, at_x) - x
        near, far = ball.length(here), ball.length(home)
        weight = (near / (near + far).clamp_min(1e-30)).clamp_max(rule.bias)
        # Short of the boundary the step is felt by pixels that are rounded.
        stretch = (self.least / near.clamp_min(1e-30)).clamp_min(rule.overshoot)
        stretch = torch.where(reached.view(-1, 1, 1, 1), rule.overshoot, stretch)
        between = (1 - weight) * (z + stretch * here) + weight * (x + rule.overshoot * home)
        returns = reached & ~self.returned
        self.returned = returns
        return torch.where(returns.view(-1, 1, 1, 1), x + rule.back * (z - x), between).clamp_(0, 1)

    def _onto_plane(self, point: Tensor, grad: Tensor, value: Tensor) -> Tensor:
        """Of `point` the nearest one in [0, 1] where a loss of `value` `(N,)` here and slope `grad` is 0."""
        towards = -self.problem.ball.direction(grad) * value.sign().view(-1, 1, 1, 1)
        room = torch.where(towards > 0, 1 - point, point)
        speed = towards.abs().flatten(1)
        lasting = torch.where(speed > 0, room.flatten(1) / speed, 0)
        length = filled(grad.flatten(1).abs() * speed, lasting, value.abs())
        return (point + length.view(-1, 1, 1, 1) * towards).clamp_(0, 1)


def filled(rate: Tensor, lasting: Tensor, amount: Tensor) -> Tensor:
    """Time `(N,)` at which `sum_j rate_j * min(time, lasting_j)` is `amount`; if never, the time the last one ends.

    `rate` and `lasting` are `(N, D)`, `amount` `(N,)`, none below 0. The distance to a plane within bounds is such a
    time: every value moves until it meets its bound.

    >>> filled(torch.tensor([[1.0, 2.0]]), torch.tensor([[0.5, 3.0]]), torch.tensor([4.5]))
    tensor([2.])
    """
    ends, order = lasting.double().sort(1)
    rate = rate.double().gather(1, order)
    ended = torch.nn.functional.pad((rate * ends).cumsum(1), (1, 0))  # what those that ended have brought
    going = torch.nn.functional.pad(rate.flip(1).cumsum(1).flip(1), (0, 1))  # how fast the others are
    amount = amount.double().view(-1, 1)
    # The first place at whose end it is reached.
    place = (ended[:, 1:] + ends * going[:, 1:] < amount).sum(1, keepdim=True)
    left = (amount - ended.gather(1, place)) / going.gather(1, place)
    time = torch.where(place < ends.shape[1], left, ends[:, -1:])
    return time.nan_to_num(0).clamp_min(0).minimum(ends[:, -1:]).squeeze(1).to(lasting.dtype)


def annealed(first: float, last: float, done: float) -> float:
    """From `first` to `last` by half a cosine (Loshchilov and Hutter 2017)."""
    return last + (first - last) * (1 + math.cos(math.pi * done)) / 2


def _widest(x: Tensor) -> Tensor:
    """The largest change of each value that stays in [0, 1]."""
    return torch.maximum(x, 1 - x)
