"""What a study is asked for, and the images under attack with all that an attack on them needs."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import zip_longest

import torch
from torch import Tensor

from medaegis.attacks.balls import check_eps, whole_levels
from medaegis.attacks.catalogue import find_attack
from medaegis.attacks.engine import Attack
from medaegis.attacks.known import Known
from medaegis.attacks.victim import Victim
from medaegis.bench.campaign import Campaign
from medaegis.bench.outcome import pixels_of
from medaegis.bench.plan import Planned
from medaegis.bench.sample import Sample, draw
from medaegis.bench.store import Store
from medaegis.cushions import Cushion, Gradient, parse_cushion
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
        gradient: way through the Cushion.
        limit: test images drawn at most; those of them that are diagnosed rightly are attacked.
        examples: pictures shown in the maps.
        layer: where Grad-CAM looks; None: the deepest tap with places.
        cushion: whose effect on the perturbation is shown.
    """

    attack: str = "bim"
    eps: float = 8 / 256
    eps_text: str = "8/256"
    steps: int | None = None
    gradient: Gradient = "bpda"
    limit: int = 64
    examples: int = 4
    layer: str | None = None
    cushion: Cushion
    seed: int = 0

    @property
    def planned(self) -> Planned:
        return Planned(self.attack, self.eps, self.eps_text, steps=self.steps, gradient=self.gradient)

    @property
    def value(self) -> Attack:
        attack = self.planned.value
        if not isinstance(attack, Attack):
            raise ConfigError(f"attack {self.attack!r}", "is not one walk over each image", "take one that is")
        return attack

    @property
    def levels(self) -> int:
        return int(whole_levels(torch.tensor(self.eps)))


class Subjects:
    """The attacked images, and the attacks on them.

    Args:
        key: names the victim where outcomes are stored.
        known: other clean images, in the attacker's hands.
    """

    def __init__(
        self,
        victim: Victim,
        test: Dataset,
        plan: Plan,
        store: Store,
        *,
        key: Mapping[str, object],
        known: Dataset | None = None,
    ) -> None:
        _check(victim, plan)
        self.victim, self.plan = victim, plan
        sample = Sample.draw(
            test,
            lambda x, ids: victim.verdicts(x, ids, seed=plan.seed, batch_size=BATCH),
            limit=plan.limit,
            seed=plan.seed,
        )
        if len(sample) < FEWEST:
            problem = f"only {len(sample)} test images are diagnosed rightly, {FEWEST} are needed"
            raise DataError(test.spec, problem, "give more images or a larger --limit, or train longer")
        taught = None if known is None else Known(known, seed=plan.seed)
        self.campaign = Campaign(victim, sample, store, key, "drawn class", known=taught)
        self.rows = draw(test.labels, plan.limit, plan.seed)[sample.rows]  # of all test images
        self.images, self.ids = sample.pixels, sample.ids
        self.labels, self.targets = sample.labels, sample.targets
        self.before = sample.clean[sample.rows]

    def cost(self, planned: Planned) -> int:
        """Passes over single images that an attack takes."""
        return planned.value.steps * planned.value.restarts * len(self.rows)

    def attacked(self, planned: Planned, progress: Progress) -> Tensor:
        """The images under another attack."""
        return pixels_of(self.campaign.attack(planned, progress))

    def examples(self, count: int) -> Tensor:
        """Rows of `count` images, the classes in turn."""
        queues = [(self.labels == k).nonzero().squeeze(1).tolist() for k in self.labels.unique().tolist()]
        turns = [row for turn in zip_longest(*queues) for row in turn if row is not None]
        return torch.tensor(turns[:count])

    def stressed(self) -> dict[str, Victim]:
        """By Cushion, the classifier alone behind it: the stress test asks no Shield."""
        bare = copy.copy(self.victim)
        bare.shields = None
        return {cushion.spec: bare.behind(cushion) for cushion in (self.victim.cushion, parse_cushion("none"))}


def _check(victim: Victim, plan: Plan) -> None:
    victim.exact.check_single("analysis")
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
