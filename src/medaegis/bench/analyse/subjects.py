"""What a study is asked for, and the images under attack with all that an attack on them needs."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor

from medaegis.attacks.balls import check_eps, whole_levels
from medaegis.attacks.catalogue import find_attack
from medaegis.attacks.choices import pick_targets
from medaegis.attacks.engine import Attack, AttackResult
from medaegis.attacks.known import Known
from medaegis.attacks.victim import Verdict, Victim
from medaegis.cushions import Cushion, parse_cushion
from medaegis.errors import ConfigError, DataError
from medaegis.images.datasets import Dataset
from medaegis.progress import Progress

FEWEST = 8  # attacked images; fewer make no picture of a distribution
BATCH = 32


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to look at.

    Attributes:
        attack: name in the catalogue; steps None: its own.
        eps: radius in pixel units; eps_text as it was written.
        limit: images at most.
        examples: pictures shown in the maps.
        layer: where Grad-CAM looks; None: the deepest tap with places.
        cushion: whose effect on the perturbation is shown.
    """

    attack: str = "bim"
    eps: float = 8 / 256
    eps_text: str = "8/256"
    steps: int | None = None
    limit: int = 64
    examples: int = 4
    layer: str | None = None
    cushion: Cushion
    seed: int = 0

    @property
    def value(self) -> Attack:
        attack = find_attack(self.attack).attack
        if not isinstance(attack, Attack):
            raise ConfigError(f"attack {self.attack!r}", "is not one walk over each image", "take one that is")
        return attack.with_options(steps=self.steps)

    @property
    def levels(self) -> int:
        return int(whole_levels(torch.tensor(self.eps)))


class Subjects:
    """The attacked images and what an attack on them needs."""

    def __init__(self, victim: Victim, test: Dataset, plan: Plan, known: Dataset | None) -> None:
        _check(victim, plan)
        self.victim, self.plan = victim, plan
        pixels = test.pixels()
        verdict = Verdict.concatenate([victim.judge(x.to(victim.device)) for x in pixels.split(BATCH)])
        verdict = verdict.to(pixels.device)
        right = ((verdict.predicted == test.labels) & verdict.logits.isfinite().all(1)).nonzero().squeeze(1)
        if len(right) < FEWEST:
            problem = f"only {len(right)} test images are diagnosed rightly, {FEWEST} are needed"
            raise DataError(test.spec, problem, "give more images, or train longer")
        if plan.limit < len(right):
            right = right[torch.linspace(0, len(right) - 1, plan.limit).long()]
        self.rows, self.images, self.ids, self.labels = right, pixels[right], test.ids[right], test.labels[right]
        self.before = Verdict(
            verdict.logits[right], verdict.predicted[right], verdict.score[right], verdict.accepted[right]
        )
        self.targets = pick_targets(self.labels, len(test.classes), ids=self.ids, seed=plan.seed)
        self.knowledge: dict[str, Any] = {}
        if known is not None:
            taught = Known(known, seed=plan.seed)
            self.knowledge = taught.options(plan.value, victim, self.images, self.targets, self.ids)

    def cost(self, attack: Attack) -> int:
        """Passes over single images that `run` takes."""
        return attack.steps * attack.restarts * len(self.rows)

    def run(self, attack: Attack, progress: Progress) -> AttackResult:
        return attack.run(
            self.victim,
            self.images,
            self.labels,
            eps=self.plan.eps,
            targets=self.targets,
            ids=self.ids,
            seed=self.plan.seed,
            progress=progress,
            **self.knowledge,
        )

    def examples(self, count: int) -> Tensor:
        """Rows of `count` images, the classes in turn."""
        queues = [(self.labels == k).nonzero().squeeze(1).tolist() for k in self.labels.unique().tolist()]
        turns = [row for turn in zip_longest(*queues) for row in turn if row is not None]
        return torch.tensor(turns[:count])

    def stressed(self) -> dict[str, Victim]:
        """By Cushion, the classifier alone behind it: the stress test asks no Shield."""
        victims = {}
        for cushion in dict.fromkeys((self.victim.cushion, parse_cushion("none"))):
            if cushion.spec not in victims:
                victims[cushion.spec] = copy.copy(self.victim)
                victims[cushion.spec].cushion, victims[cushion.spec].shields = cushion, None
        return victims


def _check(victim: Victim, plan: Plan) -> None:
    entry = find_attack(plan.attack)
    if entry.adaptive and victim.shields is None:
        raise ConfigError(f"attack {plan.attack!r}", "is aimed at a Shield and a classifier has none", "give a guard")
    if victim.random or plan.cushion.random:
        spec = victim.cushion.spec if victim.random else plan.cushion.spec
        problem = "is random, and what is looked at here is one network"
        raise ConfigError(f"cushion {spec!r}", problem, "give a guard, or a Cushion, that draws nothing")
    if entry.classes > len(victim.exact.classes):
        given = f"needs {entry.classes} classes, there are {len(victim.exact.classes)}"
        raise ConfigError(f"attack {plan.attack!r}", given, "take another one")
    check_eps(plan.eps_text, plan.eps)
    if plan.limit < FEWEST:
        raise ConfigError(f"limit {plan.limit}", "too few to see a distribution", f"give {FEWEST} or more")
