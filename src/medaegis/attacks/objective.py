"""Objectives: what an attack minimises. Each gives one loss per image; they add and scale like numbers.

`CarliniWagner() + ShieldLogit()` is the white-box attack of Medical Aegis. An objective says what it needs (logits,
tapped features, Shields), so that one forward pass stops at the deepest layer that anybody asked for.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from medaegis.attacks.normal import Mixtures
from medaegis.detectors.shield import ShieldBank
from medaegis.errors import ConfigError
from medaegis.models.classifier import Classifier
from medaegis.task import SINGLE, PredictionTask, without


class Target(Protocol):
    """What an objective may ask of the victim it is aimed at."""

    exact: Classifier
    shields: ShieldBank | None

    @property
    def device(self) -> torch.device: ...

    def look(self, z: Tensor, goal: Goal, objective: Objective) -> View: ...


@dataclass(frozen=True)
class Goal:
    """What the attacker wants of each image.

    Attributes:
        labels: true classes, int64 `(N,)`, or as the task has them.
        targets: wanted classes, int64 `(N,)`, likewise; None: any class but the true one.
        guides: clean images to imitate, pixels `(N, C, H, W)`; None where no objective asks for them.
        normal: how features of clean images are distributed; None where no objective asks for it.
        only_target: no other wrong class than the target counts as success; the target is where it is driven to.
        task: what labels are.
    """

    labels: Tensor
    targets: Tensor | None = None
    guides: Tensor | None = None
    normal: Mixtures | None = None
    only_target: bool = True
    task: PredictionTask = SINGLE

    def __getitem__(self, index: Tensor | slice) -> Goal:
        return self._each(lambda values: values[index])

    def to(self, device: torch.device) -> Goal:
        return self._each(lambda values: values.to(device))

    def _each(self, change: Callable[[Tensor], Tensor]) -> Goal:
        targets = None if self.targets is None else change(self.targets)
        guides = None if self.guides is None else change(self.guides)
        return Goal(change(self.labels), targets, guides, self.normal, self.only_target, self.task)

    def reached(self, predicted: Tensor) -> Tensor:
        """Whether each prediction is what the attacker wants, bool `(N,)`."""
        if self.targets is None or not self.only_target:
            return ~self.task.is_right(predicted, self.labels)
        return self.task.reached(predicted, self.targets)

    def class_to_be(self, logits: Tensor | None) -> Tensor:
        """The class each image is driven to: its target, or the best-scoring wrong class."""
        if self.targets is not None:
            return self.targets
        if logits is None:
            raise ConfigError("attack", "an untargeted goal needs logits to know the class it drives to", "set targets")
        return without(logits, self.labels).argmax(1)

    def shield_to_pass(self, logits: Tensor | None) -> Tensor:
        """Which Shield judges each image once it is where it is driven to, int64 `(N,)`."""
        return self.task.shield_of(self.class_to_be(logits) if self.task.name == "single" else self.labels)


SURE = 0.05  # logits by which an image fools at least, so that rounding to 8 bits does not take it back


@dataclass(frozen=True)
class View:
    """What the victim shows for one batch: logits `(N, K)`, features by tap, and the logits of its Shields.

    `suspicion` puts a Shield's logits `(N,)` of given classes on the scale of the threshold. `pixels` are the images it
    was shown, before its Cushion; `target` is who looked, at the draw it looked with.
    """

    goal: Goal
    logits: Tensor | None
    features: dict[str, Tensor]
    shield_logits: Callable[[dict[str, Tensor], Tensor], Tensor] | None = None
    suspicion: Callable[[Tensor, Tensor], Tensor] | None = None
    pixels: Tensor | None = None
    target: Target | None = None

    @cached_property
    def shield_logit(self) -> Tensor:
        """Logit of the Shield that will judge, of the class each image is driven to, `(N,)`; higher is more genuine."""
        if self.shield_logits is None:
            raise ConfigError("attack", "the objective needs a Shield and the victim has none", "attack a guard")
        return self.shield_logits(self.features, self.goal.shield_to_pass(self.logits))

    def suspicions(self) -> Tensor:
        """The same on the scale of the threshold, `(N,)`: above 1 is rejected."""
        logit = self.shield_logit  # refused where there is no Shield
        assert self.suspicion is not None, "a view with a Shield's logit has its suspicion"
        return self.suspicion(logit, self.goal.shield_to_pass(self.logits))

    @torch.no_grad()
    def through(self, *, shield: bool) -> Tensor:
        """Whether each image, as it is seen here, surely fools and, if `shield`, is accepted too: bool `(N,)`.

        Nothing more is computed for it: where no logits were asked for, none is known to.
        """
        if self.logits is None:
            return torch.zeros(len(self.goal.labels), dtype=torch.bool, device=self.goal.labels.device)
        if self.goal.task.name != "single":
            fools = surely_reached(self.logits, self.goal)
        else:
            # Of another wrong class than the target the Shield was not looked at.
            any_wrong = not (self.goal.only_target or shield)
            fools = surely_reached(self.logits, Goal(self.goal.labels) if any_wrong else self.goal)
        return fools if not shield or self.suspicion is None else fools & (self.suspicions() <= 1)

    def known_logits(self) -> Tensor:
        assert self.logits is not None, "an objective that reads logits must say so in needs_logits"
        return self.logits


class Objective(ABC):
    """A loss per image, `(N,)`, to be minimised."""

    needs_logits: bool = True
    needs_shield: bool = False
    taps: tuple[str, ...] = ()
    needs_guides: bool = False
    needs_normal: bool = False
    components: int = 1  # of the mixtures of normal features that it is given
    any_task: bool = False  # whether it is a loss of findings and masks too, and not of one class an image alone
    tells_by_sign: bool = False  # whether of those too it is below 0 just where an image is through
    title: str = "loss"

    def walked(self) -> tuple[Objective, ...]:
        """The losses on the answer whose slopes an attack with this objective follows, each by itself.

        Without those that need to know more than the victim: guides, normal features, an answer given before.
        """
        return () if self.needs_guides or self.needs_normal else (self,)

    def begin(self, victim: Target, goal: Goal) -> Objective:
        """The objective for one batch, with whatever stays the same over its steps worked out."""
        return self

    def only(self, rows: Tensor) -> Objective:
        """The same, begun for a batch, for these images `(M,)` of it."""
        return self

    def guide_taps(self, victim: Target) -> tuple[str, ...]:
        """Modules in which each guide must be the nearest of its class; none: any image of the class is as good."""
        return ()

    def passes(self, goal: Goal, classes: int) -> tuple[int, int]:
        """Forward and backward passes of one gradient step, on a classifier of so many classes."""
        return 1, 1

    @abstractmethod
    def __call__(self, view: View) -> Tensor: ...

    def pull(self, view: View, z: Tensor) -> tuple[Tensor, Tensor]:
        """Losses `(N,)` of what was seen of `z`, and the gradient `(N, C, H, W)` to walk against."""
        losses = self(view)
        (grad,) = torch.autograd.grad(losses.sum(), z)
        return losses, grad

    def ask(self, view: View, z: Tensor) -> tuple[Tensor, Tensor]:
        """Losses alone, for a walk without gradients: it gets zeros."""
        return self(view), torch.zeros_like(z)

    def __add__(self, other: Objective) -> Objective:
        return Sum(((1.0, self), (1.0, other)))

    def __rmul__(self, weight: float) -> Objective:
        return Sum(((weight, self),))


class Begun(Objective):
    """One that must look at something first, once a batch: what is run is what its `begin` gives."""

    @abstractmethod
    def begin(self, victim: Target, goal: Goal) -> Objective: ...

    def walked(self) -> tuple[Objective, ...]:
        return ()

    def __call__(self, view: View) -> Tensor:
        raise ConfigError(type(self).__name__, "it was not begun", "run it as an attack")


@dataclass(frozen=True)
class Sum(Objective):
    """A weighted sum of objectives."""

    terms: tuple[tuple[float, Objective], ...]
    needs_logits: bool = field(init=False)
    needs_shield: bool = field(init=False)
    needs_guides: bool = field(init=False)
    needs_normal: bool = field(init=False)
    components: int = field(init=False)
    taps: tuple[str, ...] = field(init=False)
    any_task: bool = field(init=False)

    def __post_init__(self) -> None:
        objectives = [objective for _, objective in self.terms]
        object.__setattr__(self, "any_task", all(objective.any_task for objective in objectives))
        for need in ("needs_logits", "needs_shield", "needs_guides", "needs_normal"):
            object.__setattr__(self, need, any(getattr(o, need) for o in objectives))
        object.__setattr__(self, "components", max(o.components for o in objectives))
        object.__setattr__(self, "taps", tuple(dict.fromkeys(tap for o in objectives for tap in o.taps)))

    def walked(self) -> tuple[Objective, ...]:
        return tuple(dict.fromkeys(loss for _, objective in self.terms for loss in objective.walked()))

    def begin(self, victim: Target, goal: Goal) -> Objective:
        return Sum(tuple((weight, objective.begin(victim, goal)) for weight, objective in self.terms))

    def only(self, rows: Tensor) -> Objective:
        return Sum(tuple((weight, objective.only(rows)) for weight, objective in self.terms))

    def guide_taps(self, victim: Target) -> tuple[str, ...]:
        return tuple(dict.fromkeys(tap for _, objective in self.terms for tap in objective.guide_taps(victim)))

    def passes(self, goal: Goal, classes: int) -> tuple[int, int]:
        # All terms share one look and one backward; some look once more.
        return 1 + sum(objective.passes(goal, classes)[0] - 1 for _, objective in self.terms), 1

    def __call__(self, view: View) -> Tensor:
        return torch.stack([weight * objective(view) for weight, objective in self.terms]).sum(0)


def surely_reached(logits: Tensor, goal: Goal, *, sure: float = SURE) -> Tensor:
    """Whether each image has reached its goal by so much that rounding it to 8 bits does not take it back, bool `(N,)`.

    Args:
        sure: by so many logits, of one class an image; of masks the task says by how much.
    """
    if goal.task.name == "single":
        return margin(logits, goal) <= -sure
    predicted = goal.task.predicted(logits)
    return goal.task.is_surely_wrong(predicted, goal.labels) if goal.targets is None else goal.reached(predicted)


def lead(logits: Tensor, labels: Tensor) -> Tensor:
    """Log-odds of the class against all others, `(N,)`: a margin to all of them at once."""
    return logits.gather(1, labels.view(-1, 1)).squeeze(1) - without(logits, labels).logsumexp(1)


def margin(logits: Tensor, goal: Goal) -> Tensor:
    """How far each image is from its goal, in logits `(N,)`; negative once reached."""
    wanted = goal.class_to_be(logits)
    ours = logits.gather(1, wanted.view(-1, 1)).squeeze(1)
    if goal.targets is None:
        far = logits.gather(1, goal.labels.view(-1, 1)).squeeze(1) - ours
        if not far.requires_grad:
            return far
        # A class tied with the true one may be so everywhere, and no way lead from it; the others show one then.
        ahead = lead(logits, goal.labels)
        return torch.where(far == 0, ahead - ahead.detach(), far)
    return without(logits, wanted).amax(1) - ours
