"""Ensembles of attacks in the spirit of AutoAttack (Croce and Hein 2020): nothing to tune, and good for two classes.

Attacks run one after the other, each on the images that none has broken so far; of each image the strongest result
stays.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from medaegis.attacks.balls import Ball
from medaegis.attacks.base import AnyAttack, AttackResult, Request
from medaegis.attacks.engine import Attack
from medaegis.attacks.objective import Goal, Objective, Sum
from medaegis.attacks.victim import Verdict, Victim
from medaegis.errors import ConfigError
from medaegis.progress import silent
from medaegis.task import without

MOST_TARGETS = 9  # classes that AutoAttack aims at, likeliest first


@dataclass(frozen=True)
class Member:
    """An attack of an ensemble.

    Args:
        per_class: an untargeted goal becomes a targeted attack on each wrong class, likeliest first.
        classes: fewest classes that it can attack; on fewer it is left out.
    """

    attack: Attack
    per_class: bool = False
    classes: int = 2


@dataclass(frozen=True)
class Ensemble(AnyAttack):
    """Attacks in one ball, run one after the other on what the others left.

    Passes add up over all members. Every run has a seed of its own, so that none starts where another did. Before a
    random Cushion the members are chosen between by draws of the attacker's own (`Attack.samples`), and what stays gets
    one verdict at the end.

    Args:
        members: in the order they run, cheap and strong ones first.

    Raises:
        ConfigError: no members, or not all in the same ball.
    """

    members: tuple[Member, ...]

    def __post_init__(self) -> None:
        if not self.members or len({member.attack.ball for member in self.members}) != 1:
            raise ConfigError("ensemble", "no attacks, or attacks in different balls", "give attacks in one ball")

    @property
    def ball(self) -> Ball:
        return self.members[0].attack.ball

    @property
    def objective(self) -> Objective:
        """Of all members together: says what any of them needs."""
        return Sum(tuple((1.0, member.attack.objective) for member in self.members))

    @property
    def steps(self) -> int:
        """Of one start of every member together."""
        return sum(member.attack.steps for member in self.members)

    @property
    def restarts(self) -> int:
        return max(member.attack.restarts for member in self.members)

    @property
    def random_start(self) -> bool:
        return any(member.attack.random_start for member in self.members)

    @property
    def samples(self) -> int:
        return max(member.attack.samples for member in self.members)

    def with_options(
        self, *, steps: int | None = None, restarts: int | None = None, samples: int | None = None
    ) -> Ensemble:
        """A copy of which no member takes more than so many steps, and those that start at random so many restarts.

        `samples` is the same for all members.
        """

        def changed(attack: Attack) -> Attack:
            most = None if steps is None else min(steps, attack.steps)
            return attack.with_options(steps=most, restarts=restarts if attack.random_start else None, samples=samples)

        return Ensemble(tuple(replace(member, attack=changed(member.attack)) for member in self.members))

    def followed(self, classes: int) -> tuple[Objective, ...]:
        return tuple(member.attack.objective for member in self.members if member.classes <= classes)

    def passes(self, goal: Goal, classes: int) -> int:
        aimed = replace(goal, targets=goal.labels)
        runs = self._runs(classes, goal.targets is None)
        return sum(attack.passes(goal if rank is None else aimed, classes) for attack, rank in runs)

    def _run(self, victim: Victim, request: Request) -> AttackResult:
        started = time.perf_counter()
        images, labels, ids, seed, size = request.images, request.labels, request.ids, request.seed, request.batch_size
        wanted = Goal(labels, request.targets, only_target=request.only_target)
        best: AttackResult | None = None
        runs = list(self._runs(len(victim.exact.classes), request.targets is None))
        likeliest: Tensor | None = None
        practice = victim.rehearsal()
        for number, (attack, rank) in enumerate(runs):
            if rank is None:
                aims = request.targets
            else:
                if likeliest is None:
                    seen = practice.verdicts(images, ids, seed=seed, batch_size=size)
                    likeliest = _likeliest(seen.logits.to(labels.device), labels)
                aims = likeliest[:, rank]
            rows = torch.arange(len(images))
            if best is not None:  # nothing is left to do where the answer was wrong from the start
                rows = (~(best.broken | best.wrong).cpu()).nonzero().squeeze(1)
            if len(rows):
                part = replace(request[rows], seed=seed + number, progress=silent)
                part = replace(part, targets=None if aims is None else aims[rows])
                found, goal = attack._run(practice, part), wanted[rows]
                found = found.judged(found.verdict, goal)  # by what was wanted, not by the class that this run aimed at
                for k in range(1, attack.samples if victim.random else 1):
                    stream = f"again/{k}"
                    verdict = practice.verdicts(found.images, ids[rows], seed=part.seed, stream=stream, batch_size=size)
                    found = _as_well(found, verdict.to(labels.device), goal)
                best = found if best is None else _stronger(best, found, rows)
            request.progress(number + 1, len(runs), "attacks of the ensemble")
        if best is None:
            raise ConfigError("ensemble", "every attack needs more classes", "add one that does with fewer")
        if victim.random:
            verdict = victim.verdicts(best.images, ids, seed=seed, batch_size=size)
            best = best.judged(verdict.to(labels.device), wanted)
        return replace(best, seconds=time.perf_counter() - started)

    def _runs(self, classes: int, untargeted: bool) -> Iterator[tuple[Attack, int | None]]:
        """Attacks, with the rank of the wrong class that they aim at, or None for the goal itself."""
        for member in self.members:
            if classes >= member.classes:
                ranks = range(min(classes - 1, MOST_TARGETS)) if member.per_class and untargeted else [None]
                yield from ((member.attack, rank) for rank in ranks)


def _likeliest(logits: Tensor, labels: Tensor) -> Tensor:
    """Wrong classes of each image, likeliest first, `(N, K)`; the last column is the true class."""
    return without(logits, labels).argsort(1, descending=True)


def _as_well(found: AttackResult, verdict: Verdict, goal: Goal) -> AttackResult:
    """What holds under another draw too: fooled and broken if under both, suspicion the higher one."""
    again = found.judged(verdict, goal)
    score, accepted = torch.maximum(found.verdict.score, verdict.score), found.verdict.accepted & verdict.accepted
    verdict = replace(verdict, score=score, accepted=accepted)
    return replace(again, verdict=verdict, reached=found.reached & again.reached)


def _stronger(best: AttackResult, found: AttackResult, rows: Tensor) -> AttackResult:
    """`best` with those of its rows that `found` got further: broken, else fooled, else less suspicious than before."""
    suspicion, before = found.verdict.score, best.verdict.score[rows]
    further = found.broken | (found.fooled & (~best.fooled[rows] | (suspicion < before)))
    chosen, where = further.nonzero().squeeze(1), rows[further.cpu()]
    unmoved = best.unmoved.index_put((rows.to(best.unmoved.device),), best.unmoved[rows] & found.unmoved)
    return replace(best.replaced(where, found[chosen]), wrong=best.wrong, unmoved=unmoved)
