"""The images of a batch that are still attacked: where only breaking counts, one that is broken is let go at once."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from medaegis.attacks.base import is_through
from medaegis.attacks.objective import Goal, Objective
from medaegis.attacks.steps import Problem
from medaegis.attacks.victim import Victim


class Remaining:
    """Those of a batch that the victim is still asked about: all of them until some are let go.

    A step rule keeps the whole batch; what it is told of those that are gone has no bearing on the others.

    Args:
        victim: drawn for the batch.
        objective: begun for it.
        draws: of a random Cushion, the attacker's own, under each of which an image must be through to be broken.

    Attributes:
        victim, goal, objective: for those that are left.
        broken: which of the whole batch are gone, bool `(N,)`.
        point: what those were when they broke, `(N, C, H, W)`: in the ball, and on the 8-bit grid where that counts.
        checks: passes over single images for verdicts.
    """

    def __init__(self, victim: Victim, goal: Goal, objective: Objective, problem: Problem, draws: int) -> None:
        self.victim, self.goal, self.objective = victim, goal, objective
        self.problem, self.draws = problem, draws
        self.point, self.checks = problem.x, 0
        self.broken, self._doubted = (torch.zeros_like(problem.x[:, 0, 0, 0], dtype=torch.bool) for _ in range(2))
        self._rows: Tensor | None = None

    def __len__(self) -> int:
        return len(self.broken if self._rows is None else self._rows)

    def of(self, values: Tensor) -> Tensor:
        """Of a row for each of the batch, those that are left."""
        return values if self._rows is None else values[self._rows]

    def among(self, values: Tensor, whole: Tensor | float) -> Tensor:
        """The other way round; the rows of those that are gone are as in `whole`."""
        if self._rows is None:
            return values
        if not isinstance(whole, Tensor):
            whole = values.new_full((len(self.broken), *values.shape[1:]), whole)
        return whole.index_put((self._rows,), values)

    def complete(self, z: Tensor) -> Tensor:
        """Where the batch stands, `z` `(N, C, H, W)`, with those that are gone as they were."""
        return z if self._rows is None else torch.where(self.broken.view(-1, 1, 1, 1), self.point, z)

    @torch.no_grad()
    def let_go(self, z: Tensor, turn: str, *, told: Tensor | None = None) -> None:
        """Judge the batch as it stands at `z`, and let go what is broken.

        Args:
            turn: names the attacker's own draws.
            told: judge only those that are left and seem to be through, bool `(N left,)`; of them none that was judged
                so in vain since the last call for all.
        """
        if told is None:
            places = torch.arange(len(self), device=z.device)
        else:
            places = (told & ~self.of(self._doubted)).nonzero().squeeze(1)
        if not len(places):
            return
        rows = self.of(torch.arange(len(z), device=z.device))[places]
        problem = replace(self.problem, x=self.problem.x[rows], eps=self.problem.eps[rows])
        point = problem.inside(z[rows])
        if problem.rounds:
            point = problem.ball.to_8bit(point, problem.x, problem.eps)
        judge, goal, through = self.victim.only(places), self.goal[places], torch.ones_like(places, dtype=torch.bool)
        for draw in range(self.draws):
            through &= is_through(judge.redrawn(f"{turn}/{draw}").judge(point), goal)
        self.checks += self.draws * self.victim.votes * len(places)
        self._doubted[rows] = ~through & (told is not None)
        if through.any():
            gone = rows[through]
            self.point = self.point.index_put((gone,), point[through])
            self.broken = self.broken.index_fill(0, gone, True)
            stay = (~self.of(self.broken)).nonzero().squeeze(1)
            self.victim, self.goal = self.victim.only(stay), self.goal[stay]
            self.objective = self.objective.only(stay)
            self._rows = stay if self._rows is None else self._rows[stay]
