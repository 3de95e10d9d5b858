"""One-pixel attack (Su 2019): differential evolution over the places and colours of a few pixels."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor

from medaegis.attacks.search.square import Answer, Best, Queries, Search
from medaegis.attacks.steps import Problem
from medaegis.draws import Draws
from medaegis.errors import ConfigError


@dataclass(frozen=True)
class OnePixel(Search):
    """Change at most `pixels` pixels (Su 2019, section 3), by DE/rand/1 without crossover; a child replaces its father.

    The colours are those of the ball, so at eps 1 any; below that the attack is weaker than the paper's. Colours
    that mutate out of range stay at its end, places are drawn anew.

    Args:
        pixels: that may change.
        population: candidates (400 in the paper); each costs a query a generation.
        scale: weight F of the difference that mutates (0.5 in the paper).
    """

    pixels: int = 1
    population: int = 100
    scale: float = 0.5

    def __post_init__(self) -> None:
        if self.pixels < 1 or self.population < 4 or not 0 < self.scale <= 2:
            given = f"{self.pixels} pixels, population {self.population}, scale {self.scale}"
            raise ConfigError("one-pixel attack", given, "give 1 pixel or more, a population of 4 or more, 0 < F <= 2")

    def search(self, problem: Problem, best: Best) -> Queries:
        x, draws = problem.x, problem.draws
        places = draws.child("places").uniform(self.population, self.pixels, 2)
        # The paper draws colours from N(128, 127) of 255.
        colours = 0.5 + 0.5 * draws.child("colours").normal(self.population, self.pixels, x.shape[1])
        genes = torch.cat([places, colours.clamp(0, 1)], 3).to(x)  # row, column, colours, all in [0, 1]
        fitness = yield from self._ask(problem, best, genes)
        for generation in itertools.count():
            children = self._mutate(genes, draws.at(generation))
            theirs = yield from self._ask(problem, best, children)
            better = theirs < fitness
            genes = torch.where(better[:, :, None, None], children, genes)
            fitness = torch.where(better, theirs, fitness)

    def _ask(self, problem: Problem, best: Best, genes: Tensor) -> Answer:
        """Losses of a population, `(N, population)`."""
        losses = []
        for k in range(genes.shape[1]):
            z = painted(problem, genes[:, k])
            losses.append((yield z))
            best.see(z, losses[-1])
        return torch.stack(losses, 1).nan_to_num(nan=torch.inf)

    def _mutate(self, genes: Tensor, draws: Draws) -> Tensor:
        """x_r1 + F (x_r2 - x_r3) with three different candidates for each place of the population (eq. 3)."""
        size = self.population
        parents = draws.child("parents").keys(size, size).topk(3, 2).indices
        rows = torch.arange(len(genes), device=genes.device).view(-1, 1)
        first, second, third = (genes[rows, parents[:, :, k]] for k in range(3))
        children = first + self.scale * (second - third)
        children[..., 2:].clamp_(0, 1)
        anew = draws.child("anew").uniform(*genes.shape[1:]).to(genes)
        return torch.where((children >= 0) & (children <= 1), children, anew)


def painted(problem: Problem, genes: Tensor) -> Tensor:
    """Clean images with the pixels that `genes` `(N, pixels, 2 + C)` say, inside the ball."""
    x = problem.x
    low, high = x.clone(), x.clone()
    problem.ball.project_(low.zero_(), x, problem.eps)
    problem.ball.project_(high.fill_(1), x, problem.eps)
    height, width = x.shape[2:]
    images = torch.arange(len(x), device=x.device).view(-1, 1)
    rows = (genes[..., 0] * height).long().clamp_max(height - 1)
    columns = (genes[..., 1] * width).long().clamp_max(width - 1)
    z = x.clone()
    where = (images, slice(None), rows, columns)  # (N, pixels, C)
    z[where] = low[where] + genes[..., 2:] * (high[where] - low[where])
    return z
