"""Gradients from answers alone: by random directions (SPSA) and one coordinate at a time (ZOO), each walked by Adam.

A victim that reads 8-bit files sees whole grey levels alone, so every difference is taken over some of them, around a
point on that grid; the steps of 1e-4 that the papers take on floats would be rounded away. Before one that does not
round, the differences are as long, around the point itself.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor

from medaegis.attacks.balls import LEVELS
from medaegis.attacks.minimal import ADAM_EPS, BETAS
from medaegis.attacks.search.square import Best, Queries, Search
from medaegis.attacks.steps import Problem
from medaegis.errors import ConfigError


class Adam:
    """Adam (Kingma 2015, algorithm 1) with a count of its own for each value, as ZOO needs."""

    def __init__(self, like: Tensor) -> None:
        self.mean, self.square, self.count = (torch.zeros_like(like) for _ in range(3))

    def direction(self, grad: Tensor, touched: Tensor) -> Tensor:
        """Step of about one along `grad`, where `touched`; elsewhere none, and nothing is remembered."""
        first, second = BETAS
        self.count += touched
        self.mean = torch.where(touched, first * self.mean + (1 - first) * grad, self.mean)
        self.square = torch.where(touched, second * self.square + (1 - second) * grad.square(), self.square)
        count = self.count.clamp_min(1)
        step = (self.mean / (1 - first**count)) / ((self.square / (1 - second**count)).sqrt() + ADAM_EPS)
        return torch.where(touched, step, 0.0)


@dataclass(frozen=True)
class Spsa(Search):
    """Simultaneous perturbation (SPSA; Uesato 2018, algorithm 1): differences along random signs, averaged.

    A round takes two queries per direction and one of the new point. Directions stop at black and white, where only
    one side can be asked; the difference is divided by what it was taken over.

    Args:
        samples: directions a round; as many as fit where the steps do not reach for a round.
        levels: length of a direction in every pixel, in grey levels (0.01 of the range in the paper).
        rate: Adam's step in units of eps (the paper: 0.01 at eps 8/255).
    """

    samples: int = 128
    levels: int = 3
    rate: float = 0.3

    def __post_init__(self) -> None:
        _check("SPSA", self.samples, self.levels, self.rate)

    def search(self, problem: Problem, best: Best) -> Queries:
        x, reach = problem.x, self.levels / LEVELS
        adam, everywhere = Adam(x), torch.ones_like(x, dtype=torch.bool)
        samples = _that_fit(self.samples, problem)
        z = best.point
        directions, asked = problem.draws.child("directions"), itertools.count()
        while True:
            grad, middle = torch.zeros_like(x), problem.seen(z)
            for _ in range(samples):
                direction = directions.at(next(asked)).signs(*x.shape[1:]).to(x) * reach
                ahead, behind = (middle + direction).clamp_(0, 1), (middle - direction).clamp_(0, 1)
                rise = (yield ahead) - (yield behind)
                grad += rise.view(-1, 1, 1, 1) / (ahead - behind)
            # Where the victim gives no number there is no direction.
            step = adam.direction(grad.nan_to_num(0, 0, 0) / samples, everywhere)
            z = problem.ball.project_(z - self.rate * problem.eps * step, x, problem.eps)
            best.see(z, (yield z))


@dataclass(frozen=True)
class Zoo(Search):
    """Zeroth-order optimisation (ZOO; Chen 2017, algorithm 2, ZOO-Adam): differences along single coordinates.

    The margin of log-probabilities that the paper minimises is the margin of logits. Instead of its penalty on the
    distance, points stay in the ball. Its hierarchy of image sizes and importance sampling are left out.

    Args:
        coordinates: drawn a round, two queries each; as many as fit where the steps do not reach for a round.
        levels: length of a difference in grey levels.
        rate: Adam's step in units of eps.
    """

    coordinates: int = 128
    levels: int = 8
    rate: float = 1.0

    def __post_init__(self) -> None:
        _check("ZOO", self.coordinates, self.levels, self.rate)

    def search(self, problem: Problem, best: Best) -> Queries:
        x, reach = problem.x, self.levels / LEVELS
        adam = Adam(x)
        size = x[0].numel()
        count = min(_that_fit(self.coordinates, problem), size)
        z = best.point
        for turn in itertools.count():
            chosen = problem.draws.child("coordinates").at(turn).keys(size).topk(count).indices
            grad, middle = torch.zeros_like(x).flatten(1), problem.seen(z).flatten(1)
            for k in range(count):
                place = chosen[:, k : k + 1]
                value = middle.gather(1, place)
                up, down = (value + reach).clamp_(0, 1), (value - reach).clamp_(0, 1)
                ahead, behind = (middle.scatter(1, place, v).view_as(x) for v in (up, down))
                rise = (yield ahead) - (yield behind)
                grad.scatter_(1, place, rise.view(-1, 1) / (up - down))
            touched = torch.zeros_like(grad, dtype=torch.bool).scatter_(1, chosen, True).view_as(x)
            step = adam.direction(grad.view_as(x).nan_to_num(0, 0, 0), touched)
            z = problem.ball.project_(z - self.rate * problem.eps * step, x, problem.eps)
            best.see(z, (yield z))


def _that_fit(pairs: int, problem: Problem) -> int:
    """Pairs of queries a round, at most so many that one round is finished within the steps."""
    return max(1, min(pairs, (problem.steps - 2) // 2))


def _check(name: str, pairs: int, levels: int, rate: float) -> None:
    if pairs < 1 or levels < 1 or rate <= 0:
        given = f"{pairs} differences of {levels} levels, rate {rate}"
        raise ConfigError(name, given, "give at least one difference of a whole level, and a rate above 0")
