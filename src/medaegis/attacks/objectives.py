"""Objectives: what an attack minimises. Each gives one loss per image; they add and scale like numbers.

`CarliniWagner() + ShieldLogit()` is the white-box attack of Medical Aegis. An objective says what it needs (logits,
tapped features, Shields), so that one forward pass stops at the deepest layer that anybody asked for.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from medaegis.errors import ConfigError


@dataclass(frozen=True)
class Goal:
    """What the attacker wants of each image.

    Attributes:
        labels: true classes, int64 `(N,)`.
        targets: wanted classes, int64 `(N,)`; None: any class but the true one.
    """

    labels: Tensor
    targets: Tensor | None = None

    def __getitem__(self, index: Tensor | slice) -> Goal:
        return Goal(self.labels[index], None if self.targets is None else self.targets[index])

    def to(self, device: torch.device) -> Goal:
        return Goal(self.labels.to(device), None if self.targets is None else self.targets.to(device))

    def reached(self, predicted: Tensor) -> Tensor:
        """Whether each predicted class `(N,)` is what the attacker wants."""
        return predicted != self.labels if self.targets is None else predicted == self.targets

    def class_to_be(self, logits: Tensor | None) -> Tensor:
        """The class each image is driven to: its target, or the best-scoring wrong class."""
        if self.targets is not None:
            return self.targets
        if logits is None:
            raise ConfigError("attack", "an untargeted goal needs logits to know the class it drives to", "set targets")
        return without(logits, self.labels).argmax(1)


def without(logits: Tensor, classes: Tensor) -> Tensor:
    """Logits `(N, K)` with each image's given class at minus infinity (right for negative logits, unlike a product)."""
    return logits.scatter(1, classes.view(-1, 1), -torch.inf)


@dataclass(frozen=True)
class View:
    """What the victim shows for one batch: logits `(N, K)`, features by tap, and the logits of its Shields."""

    goal: Goal
    logits: Tensor | None
    features: dict[str, Tensor]
    shield_logits: Callable[[dict[str, Tensor], Tensor], Tensor] | None = None

    def shield_logit(self) -> Tensor:
        """S_y of the class each image is driven to, `(N,)`; higher is more genuine."""
        if self.shield_logits is None:
            raise ConfigError("attack", "the objective needs a Shield and the victim has none", "attack a guard")
        return self.shield_logits(self.features, self.goal.class_to_be(self.logits))

    def known_logits(self) -> Tensor:
        assert self.logits is not None, "an objective that reads logits must say so in needs_logits"
        return self.logits


class Objective(ABC):
    """A loss per image, `(N,)`, to be minimised."""

    needs_logits: bool = True
    needs_shield: bool = False
    taps: tuple[str, ...] = ()

    @abstractmethod
    def __call__(self, view: View) -> Tensor: ...

    def __add__(self, other: Objective) -> Objective:
        return Sum(((1.0, self), (1.0, other)))

    def __rmul__(self, weight: float) -> Objective:
        return Sum(((weight, self),))


@dataclass(frozen=True)
class Sum(Objective):
    """A weighted sum of objectives."""

    terms: tuple[tuple[float, Objective], ...]
    needs_logits: bool = field(init=False)
    needs_shield: bool = field(init=False)
    taps: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        objectives = [objective for _, objective in self.terms]
        object.__setattr__(self, "needs_logits", any(o.needs_logits for o in objectives))
        object.__setattr__(self, "needs_shield", any(o.needs_shield for o in objectives))
        object.__setattr__(self, "taps", tuple(dict.fromkeys(tap for o in objectives for tap in o.taps)))

    def __call__(self, view: View) -> Tensor:
        return torch.stack([weight * objective(view) for weight, objective in self.terms]).sum(0)


@dataclass(frozen=True)
class CrossEntropy(Objective):
    """Cross-entropy to the target, or minus that of the true class (FGSM, BIM, PGD, MIM; Aegis eq. 1)."""

    def __call__(self, view: View) -> Tensor:
        if view.goal.targets is None:
            return -F.cross_entropy(view.known_logits(), view.goal.labels, reduction="none")
        return F.cross_entropy(view.known_logits(), view.goal.targets, reduction="none")


@dataclass(frozen=True)
class CarliniWagner(Objective):
    """Margin of Carlini and Wagner: best other logit minus the target's, not below -kappa.

    The paper's eq. 2 has the two terms the other way round, which minimised would drive away from the target.
    Untargeted: true logit minus best wrong one.

    Args:
        kappa: confidence to stop at, in logits; infinity never stops.
    """

    kappa: float = torch.inf

    def __call__(self, view: View) -> Tensor:
        return margin(view.known_logits(), view.goal).clamp_min(-self.kappa)


def margin(logits: Tensor, goal: Goal) -> Tensor:
    """How far each image is from its goal, in logits `(N,)`; negative once reached."""
    wanted = goal.class_to_be(logits)
    ours = logits.gather(1, wanted.view(-1, 1)).squeeze(1)
    if goal.targets is None:
        return logits.gather(1, goal.labels.view(-1, 1)).squeeze(1) - ours
    return without(logits, wanted).amax(1) - ours


@dataclass(frozen=True)
class ShieldLogit(Objective):
    """Minus the logit of the Shield that will judge (J_shield, J_m.aegis: Aegis eq. 3 and 4).

    With targets the classifier's logits are not needed, so the pass stops at the Shield's deepest tap.
    """

    needs_shield = True
    needs_logits = False

    def __call__(self, view: View) -> Tensor:
        return -view.shield_logit()
