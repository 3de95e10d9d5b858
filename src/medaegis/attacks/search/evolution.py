"""Differential evolution over a few numbers: places and colours of a few pixels (Su 2019); place, opacity and
brightness of a watermark (Jia 2020).
"""

from __future__ import annotations

import itertools
from abc import abstractmethod
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from medaegis.attacks.search.square import Answer, Best, Queries, Search
from medaegis.attacks.steps import Problem
from medaegis.draws import Draws
from medaegis.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Evolution(Search):
    """DE/rand/1 without crossover, as in Su 2019, section 3; a child replaces its father where it is better.

    Genes are `(N, population, parts, 2 + rest)`, in [0, 1]: the place of each part by row and column, and what else it
    has. The rest stays at the end of the range where it mutates out of it, places are drawn anew.

    Args:
        population: candidates (400 in the paper); each costs a query a generation.
        scale: weight F of the difference that mutates (0.5 in the paper).
    """

    population: int = 100
    scale: float = 0.5

    def __post_init__(self) -> None:
        if self.population < 4 or not 0 < self.scale <= 2:
            given = f"population {self.population}, scale {self.scale}"
            raise ConfigError("evolution", given, "give a population of 4 or more, 0 < F <= 2")

    @abstractmethod
    def first(self, draws: Draws, channels: int) -> Tensor:
        """Genes of the first population."""

    @abstractmethod
    def paint(self, problem: Problem, genes: Tensor) -> Tensor:
        """The images that genes `(N, parts, 2 + rest)` make of the clean ones, inside the ball."""

    def search(self, problem: Problem, best: Best) -> Queries:
        genes = self.first(problem.draws, problem.x.shape[1]).to(problem.x)
        fitness = yield from self._ask(problem, best, genes)
        for generation in itertools.count():
            children = self._mutate(genes, problem.draws.at(generation))
            theirs = yield from self._ask(problem, best, children)
            better = theirs < fitness
            genes = torch.where(better[:, :, None, None], children, genes)
            fitness = torch.where(better, theirs, fitness)

    def _ask(self, problem: Problem, best: Best, genes: Tensor) -> Answer:
        """Losses of a population, `(N, population)`."""
        losses = []
        for k in range(genes.shape[1]):
            z = self.paint(problem, genes[:, k])
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


@dataclass(frozen=True, kw_only=True)
class OnePixel(Evolution):
    """Change at most `pixels` pixels (Su 2019). Genes beside the place: a value for each channel.

    The values are those of the ball, so at eps 1 any; below that the attack is weaker than the paper's.

    Args:
        pixels: that may change.
    """

    pixels: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.pixels < 1:
            raise ConfigError("one-pixel attack", f"{self.pixels} pixels", "give 1 pixel or more")

    def first(self, draws: Draws, channels: int) -> Tensor:
        places = draws.child("places").uniform(self.population, self.pixels, 2)
        # The paper draws colours from N(128, 127) of 255.
        colours = 0.5 + 0.5 * draws.child("colours").normal(self.population, self.pixels, channels)
        return torch.cat([places, colours.clamp(0, 1)], 3)

    def paint(self, problem: Problem, genes: Tensor) -> Tensor:
        x, (low, high) = problem.x, problem.ends()
        height, width = x.shape[2:]
        images = torch.arange(len(x), device=x.device).view(-1, 1)
        rows = (genes[..., 0] * height).long().clamp_max(height - 1)
        columns = (genes[..., 1] * width).long().clamp_max(width - 1)
        z = x.clone()
        where = (images, slice(None), rows, columns)  # (N, pixels, C)
        z[where] = low[where] + genes[..., 2:] * (high[where] - low[where])
        return z


# "COPY" in letters of 5 x 7.
COPY = (
    ".###...###..####..#...#",
    "#...#.#...#.#...#.#...#",
    "#.....#...#.#...#..#.#.",
    "#.....#...#.####....#..",
    "#.....#...#.#.......#..",
    "#...#.#...#.#.......#..",
    ".###...###..#.......#..",
)


@dataclass(frozen=True, kw_only=True)
class Watermark(Evolution):
    """A semi-transparent mark of one brightness, whose place and opacity are searched (after Jia 2020, Adv-watermark).

    Genes beside the place: opacity, in units of the largest, and brightness. Where the mark changes a value by more
    than eps it is cut; at eps 1 nothing is.

    Args:
        pattern: rows of the mark; "#" is covered.
        share: of the image's width that it takes.
        opacity: largest share of the image's own value that it hides.
    """

    pattern: tuple[str, ...] = COPY
    share: float = 0.6
    opacity: float = 0.5
    population: int = 50

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.pattern or len({len(row) for row in self.pattern}) != 1 or not any("#" in r for r in self.pattern):
            raise ConfigError("watermark", f"pattern {self.pattern}", 'give rows of one length, with "#" for the mark')
        if not (0 < self.share <= 1 and 0 < self.opacity <= 1):
            raise ConfigError("watermark", f"share {self.share}, opacity {self.opacity}", "give both in (0, 1]")

    def mark(self, height: int, width: int) -> Tensor:
        """How much of each pixel the mark covers in images of this size, float32 `(h, w)` in [0, 1]."""
        drawn = torch.tensor([[char == "#" for char in row] for row in self.pattern], dtype=torch.float32)
        across = max(1, round(self.share * width))
        down = max(1, min(height, round(across * drawn.shape[0] / drawn.shape[1])))
        return F.interpolate(drawn[None, None], size=(down, across), mode="area")[0, 0]

    def first(self, draws: Draws, channels: int) -> Tensor:
        return draws.child("marks").uniform(self.population, 1, 4)

    def paint(self, problem: Problem, genes: Tensor) -> Tensor:
        x = problem.x
        mark = self.mark(*x.shape[2:]).to(x)
        row, column, opacity, brightness = genes[:, 0].unbind(1)
        down, across = (
            torch.arange(size, device=x.device) - (first * (size - side + 1)).long().clamp_max(size - side).view(-1, 1)
            for first, size, side in ((row, x.shape[2], mark.shape[0]), (column, x.shape[3], mark.shape[1]))
        )
        on = [(places >= 0) & (places < side) for places, side in zip((down, across), mark.shape, strict=True)]
        covered = mark[down.clamp(0, len(mark) - 1)[:, :, None], across.clamp(0, mark.shape[1] - 1)[:, None, :]]
        covered = covered * (on[0][:, :, None] & on[1][:, None, :]) * self.opacity * opacity.view(-1, 1, 1)
        z = x + covered.unsqueeze(1) * (brightness.view(-1, 1, 1, 1) - x)
        return problem.ball.project_(z, x, problem.eps)
