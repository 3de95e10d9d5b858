"""Objectives that imitate a guide, a clean image of the wanted class, in its features or its answer, or leave it.

Sabour 2016, section 3; Tramer 2020; Zhang 2019. What the guide shows is worked out once a batch, in `begin`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from medaegis.attacks.objective import Begun, Goal, Objective, Target, View
from medaegis.errors import ConfigError


@dataclass(frozen=True)
class FeatureMatch(Begun):
    """Look like a guide inside (Sabour 2016): mean squared distance of activations, in units of the guide's own.

    Args:
        taps: where; none: the classifier's deepest, of several surrogates one in each.
    """

    taps: tuple[str, ...] = ()
    needs_logits = False
    needs_guides = True
    any_task = True

    def begin(self, victim: Target, goal: Goal) -> Objective:
        return FeatureDistance(_guides(victim, goal, FeatureMatch(self.matched(victim))).features)

    def matched(self, victim: Target) -> tuple[str, ...]:
        """The taps, of this victim where none are named."""
        return self.taps or victim.exact.deepest()


@dataclass(frozen=True)
class ClosestFeatureMatch(FeatureMatch):
    """As `FeatureMatch`, its guide the image whose activations there are closest (Sabour 2016; HFC, section 5.2).

    Who has the images to pick from picks them (`Known`).
    """

    def guide_taps(self, victim: Target) -> tuple[str, ...]:
        return self.matched(victim)


@dataclass(frozen=True)
class LogitMatch(Begun):
    """Answer like a guide (Tramer 2020): squared distance of logits, each less the mean of all.

    A shift common to all logits changes no answer, so it must not count as a distance.
    """

    needs_guides = True

    def begin(self, victim: Target, goal: Goal) -> Objective:
        return _MatchedLogits(_guides(victim, goal, self).known_logits())


@dataclass(frozen=True)
class Away(Begun):
    """Answer otherwise than a guide, which is the clean image itself (TRADES, Zhang 2019, eq. 5).

    Minus the divergence of the answer from the guide's, whose slope is zero at the guide: start beside it.
    """

    needs_guides = True
    any_task = True

    def begin(self, victim: Target, goal: Goal) -> Objective:
        return _Left(_guides(victim, goal, self).known_logits())


@dataclass(frozen=True)
class _Left(Objective):
    said: Tensor
    any_task = True

    def only(self, rows: Tensor) -> Objective:
        return _Left(self.said[rows])

    def __call__(self, view: View) -> Tensor:
        return -view.goal.task.divergences(view.known_logits().float(), self.said, view.goal.labels)


@dataclass(frozen=True)
class FeatureDistance(Objective):
    """Mean squared distance of activations from given ones, in units of those; its negative leaves them.

    Args:
        wanted: tap -> features `(N, …)`, one row for each image of the batch.
    """

    wanted: dict[str, Tensor]
    taps: tuple[str, ...] = field(init=False)
    needs_logits = False
    any_task = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "taps", tuple(self.wanted))

    def only(self, rows: Tensor) -> Objective:
        return FeatureDistance({tap: wanted[rows] for tap, wanted in self.wanted.items()})

    def __call__(self, view: View) -> Tensor:
        losses = []
        for tap, wanted in self.wanted.items():
            far = (view.features[tap] - wanted).float().flatten(1).square().mean(1)
            losses.append(far / wanted.float().flatten(1).square().mean(1).clamp_min(1e-12))
        return torch.stack(losses).mean(0)


@dataclass(frozen=True)
class _MatchedLogits(Objective):
    wanted: Tensor

    def only(self, rows: Tensor) -> Objective:
        return _MatchedLogits(self.wanted[rows])

    def __call__(self, view: View) -> Tensor:
        apart = (view.known_logits() - self.wanted).float()
        return (apart - apart.mean(1, keepdim=True)).square().sum(1)


@torch.no_grad()
def _guides(victim: Target, goal: Goal, objective: Objective) -> View:
    """What the victim shows of the guides: once a batch, not once a step."""
    if goal.guides is None:
        raise ConfigError("attack", "the objective imitates guides and none are given", "set guides")
    return victim.look(goal.guides, goal, objective)
