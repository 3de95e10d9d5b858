"""HopSkipJump (Chen 2020): an attacker who is told the diagnosis and nothing else, not even a score.

From any image with the wanted answer towards the clean one, along the boundary, by the paper's algorithm 2. It asks
about 8-bit images alone where the victim sees no others.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from medaegis.attacks.balls import L2, LEVELS
from medaegis.attacks.objective import Objective, View
from medaegis.attacks.search.square import Answer, Best, Queries, Search
from medaegis.attacks.steps import Problem
from medaegis.errors import ConfigError

FRACTION = 0.1  # of the distance that a probe is at most, where nothing is rounded


@dataclass(frozen=True)
class Decision(Objective):
    """-1 where the classifier says what the attacker wants, 1 elsewhere: one bit an answer.

    A guide is an image that the attacker has, to start from.
    """

    needs_guides = True

    def __call__(self, view: View) -> Tensor:
        return _as_loss(view.goal.reached(view.known_logits().argmax(1)))


@dataclass(frozen=True)
class GuardDecision(Objective):
    """As `Decision`, of classifier and Shield together: -1 only where the wrong diagnosis is given out."""

    needs_guides = True
    needs_shield = True

    def __call__(self, view: View) -> Tensor:
        # Once the goal is reached, the class driven to is the predicted one, whose Shield judges.
        return _as_loss(view.goal.reached(view.known_logits().argmax(1)) & (view.suspicions() <= 1))


def _as_loss(reached: Tensor) -> Tensor:
    return 1 - 2 * reached.float()


@dataclass(frozen=True)
class HopSkipJump(Search):
    """HopSkipJump in the norm of the ball: find the boundary, estimate its normal from answers, jump, come back.

    It starts from the guide where that has the wanted answer, else from the first of some images of uniform noise that
    has. The result is the closest image with the wanted answer, whether inside the ball or not: the engine then draws
    it into the ball, where a result from outside seldom keeps its answer. Where none is found, it is the clean image.

    Two numbers are not the paper's: probes are `probe` grey levels long in each value (its d^-1 of the distance would
    be rounded away; before a victim that does not round, at most a tenth of the distance), and searches have a fixed
    count of queries, so that no image depends on the others.

    Args:
        probes: queries for the first normal; the t-th takes sqrt(t) times as many (100 in the paper).
        probe: root mean square of a probe, in grey levels.
        tries: images of noise to start from.
        bisections: of the way to the clean image, to a 1/1024 of it.
        halvings: of a jump that leaves the wanted side.
    """

    probes: int = 100
    probe: float = 4.0
    tries: int = 25
    bisections: int = 10
    halvings: int = 8

    def __post_init__(self) -> None:
        if min(self.probes, self.tries, self.bisections, self.halvings) < 1 or self.probe <= 0:
            raise ConfigError("HopSkipJump", f"got {self}", "give 1 or more of each, and a probe above 0")

    def search(self, problem: Problem, best: Best) -> Queries:
        # From here on a lower loss is a smaller distance, of images with the wanted answer.
        best.loss = torch.where(best.loss < 0, 0.0, torch.inf).to(problem.x)
        hop = _Hop(self, problem, best)
        far = yield from hop.start()
        near = yield from hop.approach(far)
        for t in itertools.count(1):
            normal = yield from hop.normal(near, int(self.probes * math.sqrt(t)))
            far = yield from hop.jump(near, normal, t)
            near = yield from hop.approach(far)


class _Hop:
    """The steps of one batch."""

    def __init__(self, rule: HopSkipJump, problem: Problem, best: Best) -> None:
        self.rule, self.problem, self.best = rule, problem, best
        self.euclidean = isinstance(problem.ball, L2)
        self.drawn = itertools.count()

    def ask(self, z: Tensor) -> Answer:
        """Whether each image has the wanted answer, bool `(N,)`; remembers the closest that has."""
        adversarial = (yield z) < 0
        self.best.see(z, torch.where(adversarial, self.distance(z), torch.inf))
        return adversarial

    def distance(self, z: Tensor) -> Tensor:
        """From the clean image, in the norm of the ball, `(N,)`."""
        change = (z - self.problem.x).flatten(1)
        length: Tensor = change.norm(dim=1) if self.euclidean else change.abs().amax(1)
        return length

    def start(self) -> Answer:
        x, found = self.problem.x, self.best.loss == 0
        chosen = x
        candidates = self.rule.tries + (self.problem.guides is not None)
        for k in range(candidates):
            if k == 0 and self.problem.guides is not None:
                z = self.problem.guides
            else:
                noise = self.problem.draws.child("start").at(k).noise(*x.shape[1:])
                z = self.problem.seen((0.5 + 0.5 * noise).to(x))
            adversarial = yield from self.ask(z)
            chosen = torch.where((adversarial & ~found).view(-1, 1, 1, 1), z, chosen)
            found = found | adversarial
        return chosen

    def between(self, far: Tensor, share: Tensor) -> Tensor:
        """The clean image at share 0, `far` at 1: on the line in L2, in a growing cube in L-infinity."""
        x, change, share = self.problem.x, far - self.problem.x, share.view(-1, 1, 1, 1)
        if self.euclidean:
            return self.problem.seen(x + share * change)
        reach = share * change.abs().amax((1, 2, 3), keepdim=True)
        return self.problem.seen(x + torch.maximum(torch.minimum(change, reach), -reach))

    def approach(self, far: Tensor) -> Answer:
        """Where the way from the wanted side to the clean image leaves it (algorithm 1)."""
        low, high = torch.zeros_like(far[:, 0, 0, 0]), torch.ones_like(far[:, 0, 0, 0])
        for _ in range(self.rule.bisections):
            middle = (low + high) / 2
            adversarial = yield from self.ask(self.between(far, middle))
            low, high = torch.where(adversarial, low, middle), torch.where(adversarial, middle, high)
        return self.between(far, high)

    def normal(self, near: Tensor, count: int) -> Answer:
        """Direction in which the answer stays the wanted one (eq. 9 and 16): answers times probes, less their mean."""
        weighted, total = torch.zeros_like(near), torch.zeros_like(near)
        answers = torch.zeros_like(near[:, 0, 0, 0])
        for _ in range(count):
            z = self.problem.seen(near + self._noise(near))
            answer = torch.where((yield from self.ask(z)), 1.0, -1.0).to(z)
            probe = z - near
            answers += answer
            weighted += answer.view(-1, 1, 1, 1) * probe
            total += probe
        mean = (answers / count).view(-1, 1, 1, 1)
        return weighted - torch.where(mean.abs() < 1, mean, 0.0) * total

    def _noise(self, near: Tensor) -> Tensor:
        length = self._probe(near)
        draws, shape = self.problem.draws.child("probes").at(next(self.drawn)), near.shape[1:]
        noise = draws.normal(*shape) if self.euclidean else math.sqrt(3) * draws.noise(*shape)
        return noise.to(near) * length

    def _probe(self, near: Tensor) -> Tensor:
        """Root mean square of a probe `(N, 1, 1, 1)`; no rounding keeps it from being short beside the way left."""
        length = torch.full_like(near[:, :1, :1, :1], self.rule.probe / LEVELS)
        if self.problem.rounds:
            return length
        way = self.distance(near).view(-1, 1, 1, 1) / (math.sqrt(near[0].numel()) if self.euclidean else 1)
        return torch.minimum(length, way * FRACTION)

    def jump(self, near: Tensor, normal: Tensor, t: int) -> Answer:
        """The longest of dist / sqrt(t) and its halves along the normal that keeps the wanted answer."""
        if self.euclidean:
            unit = normal / normal.flatten(1).norm(dim=1).clamp_min(1e-12).view(-1, 1, 1, 1)
        else:
            unit = normal.sign()
        length = (self.distance(near) / math.sqrt(t)).view(-1, 1, 1, 1)
        chosen, done = near, torch.zeros(len(near), dtype=torch.bool, device=near.device)
        for k in range(self.rule.halvings):
            z = self.problem.seen(near + unit * length / 2**k)
            adversarial = yield from self.ask(z)
            chosen = torch.where((adversarial & ~done).view(-1, 1, 1, 1), z, chosen)
            done = done | adversarial
        return chosen
