"""Searches: step rules that only ask for losses, as an attacker who sees answers alone. One look is one query.

A search is a generator of images to ask about, so that an algorithm of many queries a round reads like its paper.
Here too: the Square attack (Andriushchenko 2020).
"""

from __future__ import annotations

import itertools
import math
from abc import abstractmethod
from collections.abc import Generator
from dataclasses import dataclass

import torch
from torch import Tensor

from medaegis.attacks.balls import L2
from medaegis.attacks.steps import Problem, StepRule, Walker, squares

Queries = Generator[Tensor, Tensor, None]  # yields images (N, C, H, W), is sent their losses (N,)
Answer = Generator[Tensor, Tensor, Tensor]  # a part of one, that ends in some tensor


class Best:
    """Of each image the point with the lowest loss so far; `point` `(N, C, H, W)`, `loss` `(N,)`."""

    def __init__(self, start: Tensor, losses: Tensor) -> None:
        self.point, self.loss = start.clone(), losses.nan_to_num(nan=torch.inf)

    def see(self, z: Tensor, losses: Tensor) -> None:
        """Keep those of `z` whose losses are lower; a loss that is no number never is."""
        better = losses < self.loss
        self.point = torch.where(better.view(-1, 1, 1, 1), z, self.point)
        self.loss = torch.where(better, losses, self.loss)


class Search(StepRule):
    """A step rule without gradients.

    All images of a batch go in lockstep and every image has draws of its own, so that none depends on the others: what
    is asked of one never hangs on the answers about another.
    """

    needs_gradient = False

    def begin(self, problem: Problem) -> Searcher:
        return Searcher(self, problem)

    @abstractmethod
    def search(self, problem: Problem, best: Best) -> Queries:
        """Images to ask about, without end: it is cut off when the steps are spent.

        Args:
            best: begins with the start and its losses. What it holds in the end is the result, so it is to be shown
                points of the ball.
        """


class Searcher(Walker):
    """Walks where a search wants to look."""

    def __init__(self, rule: Search, problem: Problem) -> None:
        self.rule, self.problem = rule, problem
        self.best: Best
        self.queries: Queries

    def step(self, z: Tensor, grad: Tensor, losses: Tensor, i: int) -> Tensor:
        if i > 0:
            return self.queries.send(losses)
        self.best = Best(z, losses)
        self.queries = self.rule.search(self.problem, self.best)
        return next(self.queries)

    def result(self, z: Tensor) -> Tensor:
        return self.best.point


@dataclass(frozen=True)
class Square(Search):
    """Square attack (Andriushchenko 2020, algorithms 1 to 3): random search by squares, without gradients.

    L-infinity: the first proposal is vertical stripes of +-eps, then squares of +-eps. L2: the first is a grid of
    bumps; then a window gets a new bump, paid by what another window and the box [0, 1] leave unused. The squares
    shrink by the schedule of the paper, stretched over the steps at hand. What does not lower the loss is taken back.

    Args:
        share: of the pixels in the first squares (0.8 in AutoAttack).
    """

    share: float = 0.8
    keeps_best = True

    def search(self, problem: Problem, best: Best) -> Queries:
        return self._l2(problem, best) if isinstance(problem.ball, L2) else self._linf(problem, best)

    def side(self, i: int, problem: Problem) -> int:
        """Side of the square in step `i`; in L2 odd and at least 3, where the image is that large."""
        height, width = problem.x.shape[2:]
        passed = int(i / problem.steps * 10_000)
        share = self.share / 2 ** sum(passed > mark for mark in _HALVINGS)
        side = round(math.sqrt(share * height * width))
        return min(max(3, side) | 1 if isinstance(problem.ball, L2) else max(1, side), height, width)

    def _linf(self, problem: Problem, best: Best) -> Queries:
        x, eps = problem.x, problem.eps
        channels, height, width = x.shape[1:]
        stripes = problem.draws.child("stripes").signs(channels, 1, width).to(x)
        places = problem.draws.child("places").uniform(problem.steps, 2).to(x)  # row and column
        signs = problem.draws.child("signs").signs(problem.steps, channels, 1, 1).to(x)
        proposal = (x + stripes * eps).clamp_(0, 1)
        for i in itertools.count(1):
            best.see(proposal, (yield proposal))
            side = self.side(i, problem)
            row, column = ((places[:, i, k] * (size - side + 1)).floor() for k, size in enumerate((height, width)))
            inside = squares(row, column, side, x.shape[2:])
            change = signs[:, i] * eps
            proposal = problem.ball.project_(torch.where(inside, x + change, best.point), x, eps)
            # Where all of a square has these signs already it gets the others: no query about a known answer.
            known = (problem.seen(proposal) == problem.seen(best.point)).flatten(1).all(1).view(-1, 1, 1, 1)
            other = problem.ball.project_(torch.where(inside, x - change, best.point), x, eps)
            proposal = torch.where(known, other, proposal)

    def _l2(self, problem: Problem, best: Best) -> Queries:
        x, eps = problem.x, problem.eps
        assert isinstance(problem.ball, L2)
        radius = problem.ball.radius(x, eps)
        places = problem.draws.child("places").uniform(problem.steps, 4).to(x)
        signs = problem.draws.child("signs").signs(problem.steps, 1 + x.shape[1]).to(x)
        change = _grid_of_bumps(problem)
        change *= radius / change.square().sum((1, 2, 3), keepdim=True).sqrt()
        proposal = (x + change).clamp_(0, 1)
        for i in itertools.count(1):
            best.see(proposal, (yield proposal))
            change = _moved(best.point - x, radius, self.side(i, problem), places[:, i], signs[:, i])
            proposal = problem.ball.project_(x + change, x, eps)


# After so many of 10,000 steps the share is halved (section 4 and code of the paper).
_HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)


def bump(side: int) -> Tensor:
    """The change of one window in L2, `(side, side)` of length 1: a positive pyramid above a negative one (eq. 2)."""
    plane = torch.cat([_pyramid(side // 2, side), -_pyramid(side - side // 2, side)])
    length: Tensor = torch.linalg.vector_norm(plane)
    return plane / length


def _pyramid(height: int, width: int) -> Tensor:
    """Falls with the distance D (larger of rows and columns) from the middle, as sum over k > D of 1 / k^2."""
    rows = (torch.arange(height) - height // 2).abs()
    columns = (torch.arange(width) - width // 2).abs()
    weights = 1 / torch.arange(1, max(height, width) // 2 + 2).double().square()
    tails = weights.flip(0).cumsum(0).flip(0)
    plane = tails[torch.maximum(rows[:, None], columns[None, :])]
    length: Tensor = torch.linalg.vector_norm(plane)
    return (plane / length.clamp_min(1e-12)).float()


def _grid_of_bumps(problem: Problem) -> Tensor:
    """A bump in every tile of a fifth of the side, lying or standing, with random signs: `(N, C, H, W)`."""
    x = problem.x
    channels, height, width = x.shape[1:]
    tile = max(1, min(height, width) // 5)
    down, across = height // tile, width // tile
    top, left = (height - down * tile) // 2, (width - across * tile) // 2
    signs = problem.draws.child("bumps").signs(1 + channels, down, across).to(x)
    signs = signs.repeat_interleave(tile, 2).repeat_interleave(tile, 3)
    one = bump(tile).to(x)
    pattern = torch.where(signs[:, :1] < 0, one.repeat(down, across), one.T.repeat(down, across))
    change = torch.zeros_like(x)
    change[:, :, top : top + down * tile, left : left + across * tile] = pattern * signs[:, 1:]
    return change


def _moved(change: Tensor, radius: Tensor, side: int, places: Tensor, signs: Tensor) -> Tensor:
    """Algorithm 3: a bump is added in one window, another window goes back to clean, the length becomes the radius.

    Args:
        places: in [0, 1), `(N, 4)`: row and column of both windows.
        signs: `(N, 1 + C)`: lying or standing, and the sign per channel.
    """
    planes = change.permute(0, 2, 3, 1).clone()  # (N, H, W, C), so that windows can be indexed
    n, height, width, channels = planes.shape
    images, steps = (torch.arange(size, device=change.device) for size in (n, side))
    images = images.view(-1, 1, 1)

    def window(row: Tensor, column: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        rows = (row * (height - side + 1)).long().view(-1, 1, 1) + steps.view(1, -1, 1)
        columns = (column * (width - side + 1)).long().view(-1, 1, 1) + steps.view(1, 1, -1)
        return images, rows, columns

    first, second = window(places[:, 0], places[:, 1]), window(places[:, 2], places[:, 3])
    either = torch.zeros_like(planes[..., :1])
    either[first], either[second] = 1.0, 1.0
    unused = (radius.view(-1, 1).square() - planes.square().sum((1, 2, 3)).view(-1, 1)).clamp_min(0)
    available = ((planes * either).square().sum((1, 2)) + unused / channels).sqrt()  # per channel
    one = bump(side).to(planes)
    turned = torch.where(signs[:, 0].view(-1, 1, 1) < 0, one, one.T).unsqueeze(3)
    fresh = turned * signs[:, 1:].view(n, 1, 1, channels) + _unit(planes[first])
    planes[second] = 0.0
    planes[first] = _unit(fresh) * available.view(n, 1, 1, channels)
    return planes.permute(0, 3, 1, 2)


def _unit(window: Tensor) -> Tensor:
    """Each channel of `(N, s, s, C)` at length 1."""
    return window / window.square().sum((1, 2), keepdim=True).sqrt().clamp_min(1e-12)
