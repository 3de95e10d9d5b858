"""Objectives: what an attack minimises. Each gives one loss per image; they add and scale like numbers.

`CarliniWagner() + ShieldLogit()` is the white-box attack of Medical Aegis. An objective says what it needs (logits,
tapped features, Shields), so that one forward pass stops at the deepest layer that anybody asked for.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from medaegis.errors import ConfigError

if TYPE_CHECKING:
    from medaegis.attacks.hfc import Mixtures
    from medaegis.attacks.victim import Victim


@dataclass(frozen=True)
class Goal:
    """What the attacker wants of each image.

    Attributes:
        labels: true classes, int64 `(N,)`.
        targets: wanted classes, int64 `(N,)`; None: any class but the true one.
        guides: clean images to imitate, pixels `(N, C, H, W)`; None where no objective asks for them.
        normal: how features of clean images are distributed; None where no objective asks for it.
        only_target: no other wrong class than the target counts as success; the target is where it is driven to.
    """

    labels: Tensor
    targets: Tensor | None = None
    guides: Tensor | None = None
    normal: Mixtures | None = None
    only_target: bool = True

    def __getitem__(self, index: Tensor | slice) -> Goal:
        return self._each(lambda values: values[index])

    def to(self, device: torch.device) -> Goal:
        return self._each(lambda values: values.to(device))

    def _each(self, change: Callable[[Tensor], Tensor]) -> Goal:
        targets = None if self.targets is None else change(self.targets)
        guides = None if self.guides is None else change(self.guides)
        return Goal(change(self.labels), targets, guides, self.normal, self.only_target)

    def reached(self, predicted: Tensor) -> Tensor:
        """Whether each predicted class `(N,)` is what the attacker wants."""
        if self.targets is None or not self.only_target:
            return predicted != self.labels
        return predicted == self.targets

    def class_to_be(self, logits: Tensor | None) -> Tensor:
        """The class each image is driven to: its target, or the best-scoring wrong class."""
        if self.targets is not None:
            return self.targets
        if logits is None:
            raise ConfigError("attack", "an untargeted goal needs logits to know the class it drives to", "set targets")
        return without(logits, self.labels).argmax(1)


SURE = 0.05  # logits by which an image fools at least, so that rounding to 8 bits does not take it back


def without(logits: Tensor, classes: Tensor) -> Tensor:
    """Logits `(N, K)` with each image's given class at minus infinity (right for negative logits, unlike a product)."""
    return logits.scatter(1, classes.view(-1, 1), -torch.inf)


@dataclass(frozen=True)
class View:
    """What the victim shows for one batch: logits `(N, K)`, features by tap, and the logits of its Shields.

    `suspicion` puts a Shield's logits `(N,)` of given classes on the scale of the threshold. `pixels` are the images it
    was shown, before its Cushion.
    """

    goal: Goal
    logits: Tensor | None
    features: dict[str, Tensor]
    shield_logits: Callable[[dict[str, Tensor], Tensor], Tensor] | None = None
    suspicion: Callable[[Tensor, Tensor], Tensor] | None = None
    pixels: Tensor | None = None

    @cached_property
    def shield_logit(self) -> Tensor:
        """S_y of the class each image is driven to, `(N,)`; higher is more genuine."""
        if self.shield_logits is None:
            raise ConfigError("attack", "the objective needs a Shield and the victim has none", "attack a guard")
        return self.shield_logits(self.features, self.goal.class_to_be(self.logits))

    @torch.no_grad()
    def through(self, *, shield: bool) -> Tensor:
        """Whether each image, as it is seen here, surely fools and, if `shield`, is accepted too: bool `(N,)`.

        Nothing more is computed for it: where no logits were asked for, none is known to.
        """
        if self.logits is None:
            return torch.zeros_like(self.goal.labels, dtype=torch.bool)
        # Of another wrong class than the target the Shield was not looked at.
        any_wrong = not (self.goal.only_target or shield)
        fools = margin(self.logits, Goal(self.goal.labels) if any_wrong else self.goal) <= -SURE
        if not shield or self.suspicion is None:
            return fools
        return fools & (self.suspicion(self.shield_logit, self.goal.class_to_be(self.logits)) <= 1)

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
    title: str = "loss"

    def walked(self) -> tuple[Objective, ...]:
        """The losses on the answer whose slopes an attack with this objective follows, each by itself.

        Without those that need to know more than the victim: guides, normal features, an answer given before.
        """
        return () if self.needs_guides or self.needs_normal else (self,)

    def begin(self, victim: Victim, goal: Goal) -> Objective:
        """The objective for one batch, with whatever stays the same over its steps worked out."""
        return self

    def guide_taps(self, victim: Victim) -> tuple[str, ...]:
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
    def begin(self, victim: Victim, goal: Goal) -> Objective: ...

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
    taps: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        objectives = [objective for _, objective in self.terms]
        for need in ("needs_logits", "needs_shield", "needs_guides", "needs_normal"):
            object.__setattr__(self, need, any(getattr(o, need) for o in objectives))
        object.__setattr__(self, "taps", tuple(dict.fromkeys(tap for o in objectives for tap in o.taps)))

    def walked(self) -> tuple[Objective, ...]:
        return tuple(dict.fromkeys(loss for _, objective in self.terms for loss in objective.walked()))

    def begin(self, victim: Victim, goal: Goal) -> Objective:
        return Sum(tuple((weight, objective.begin(victim, goal)) for weight, objective in self.terms))

    def guide_taps(self, victim: Victim) -> tuple[str, ...]:
        return tuple(dict.fromkeys(tap for _, objective in self.terms for tap in objective.guide_taps(victim)))

    def passes(self, goal: Goal, classes: int) -> tuple[int, int]:
        # All terms share one look and one backward; some look once more.
        return 1 + sum(objective.passes(goal, classes)[0] - 1 for _, objective in self.terms), 1

    def __call__(self, view: View) -> Tensor:
        return torch.stack([weight * objective(view) for weight, objective in self.terms]).sum(0)


FAINT = 1e-12  # weight of a slope that stands in for one that is lost: it leads where nothing else does


@dataclass(frozen=True)
class CrossEntropy(Objective):
    """Cross-entropy to the target, or minus that of the true class (FGSM, BIM, PGD, MIM; Aegis eq. 1).

    Of a class whose probability rounds to 1 in float32 the cross-entropy is 0 and has lost its slope, wholly or in
    part (Carlini 2017, on defensive distillation). With l the logit of the true class less the log-sum-exp of the
    others it is log(1 + exp(-l)), whose slope is that of -l by a factor above 0: taken from there it keeps its
    direction, and at least the factor `FAINT`, on whatever scale the logits are.
    """

    title = "cross-entropy"

    def __call__(self, view: View) -> Tensor:
        logits, goal = view.known_logits(), view.goal
        if goal.targets is not None:
            return F.cross_entropy(logits, goal.targets, reduction="none")
        loss, ahead = -F.cross_entropy(logits, goal.labels, reduction="none"), lead(logits, goal.labels)
        return torch.where(loss == 0, FAINT * ahead - F.softplus(-ahead), loss)


def lead(logits: Tensor, labels: Tensor) -> Tensor:
    """Log-odds of the class against all others, `(N,)`: a margin to all of them at once."""
    return logits.gather(1, labels.view(-1, 1)).squeeze(1) - without(logits, labels).logsumexp(1)


@dataclass(frozen=True)
class CarliniWagner(Objective):
    """Margin of Carlini and Wagner: best other logit minus the target's, not below -kappa.

    The paper's eq. 2 has the two terms the other way round, which minimised would drive away from the target.
    Untargeted: true logit minus best wrong one.

    Args:
        kappa: confidence to stop at, in logits; infinity never stops.
    """

    kappa: float = torch.inf
    title = "margin"

    def walked(self) -> tuple[Objective, ...]:
        return (CarliniWagner(),)  # at its confidence it is flat on purpose

    def __call__(self, view: View) -> Tensor:
        return margin(view.known_logits(), view.goal).clamp_min(-self.kappa)


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


@dataclass(frozen=True)
class LogitRatio(Objective):
    """Difference of logits ratio (DLR; Croce and Hein 2020, eq. 6 and 7): a margin that no scale of the logits changes.

    Untargeted it needs 3 classes, targeted 4.
    """

    title = "ratio of logits"

    def __call__(self, view: View) -> Tensor:
        logits, goal = view.known_logits(), view.goal
        needed = 3 if goal.targets is None else 4
        if logits.shape[1] < needed:
            given = f"the classifier has {logits.shape[1]} classes"
            raise ConfigError("DLR loss", f"{given}, it needs {needed}", "take the margin (CW) instead")
        first, _, third, *more = logits.topk(needed, 1).values.unbind(1)
        lower = third if goal.targets is None else (third + more[0]) / 2
        true = logits.gather(1, goal.labels.view(-1, 1)).squeeze(1)
        wanted = logits.gather(1, goal.class_to_be(logits).view(-1, 1)).squeeze(1)
        return (true - wanted) / (first - lower + 1e-12)


@dataclass(frozen=True)
class ShieldLogit(Objective):
    """Minus the logit of the Shield that will judge (J_shield, J_m.aegis: Aegis eq. 3 and 4).

    With targets the classifier's logits are not needed, so the pass stops at the Shield's deepest tap.
    """

    needs_shield = True
    needs_logits = False
    title = "Shield"

    def __call__(self, view: View) -> Tensor:
        return -view.shield_logit


NOT_YET = 1e6  # above every loss of a Shield's logit, and still exact to a tenth in float32


@dataclass(frozen=True)
class Selective(Objective):
    """Selective PGD (Bryniarski 2021): the classifier's loss until an image fools it, the detector's from then on.

    An image hops to and fro over the boundary, so where it stands last is chance: take a rule that keeps the best
    point. Any value of an image that does not fool is above any of one that does.

    Args:
        sure: an image fools by at least so many logits (0.05 in the authors' code).
    """

    fooling: Objective = field(default_factory=CarliniWagner)
    passing: Objective = field(default_factory=ShieldLogit)
    sure: float = SURE
    needs_shield = True

    def walked(self) -> tuple[Objective, ...]:
        return (*self.fooling.walked(), *self.passing.walked())

    def __call__(self, view: View) -> Tensor:
        return self._chosen(view, self.fooling(view), self.passing(view))

    def fooled(self, view: View) -> Tensor:
        """Whether each image has surely reached its goal, bool `(N,)`."""
        return margin(view.known_logits(), view.goal) <= -self.sure

    def _chosen(self, view: View, fooling: Tensor, passing: Tensor) -> Tensor:
        return torch.where(self.fooled(view), passing, fooling + NOT_YET)


@dataclass(frozen=True)
class Orthogonal(Selective):
    """Orthogonal PGD (Bryniarski 2021): as `Selective`, each step without its part along the other loss's gradient.

    So no step towards fooling the classifier makes the detector more suspicious, to first order, nor the other way
    round. That holds for the step by signs, of L-infinity: of step - c * other the c is taken whose signs are
    orthogonal to the other gradient (`orthogonal`); with the projection of L2 they are not. Costs a second backward
    pass.
    """

    def passes(self, goal: Goal, classes: int) -> tuple[int, int]:
        return 1, 2

    def pull(self, view: View, z: Tensor) -> tuple[Tensor, Tensor]:
        fooling, passing = self.fooling(view), self.passing(view)
        (to_fool,) = torch.autograd.grad(fooling.sum(), z, retain_graph=True)
        (to_pass,) = torch.autograd.grad(passing.sum(), z)
        chosen = self.fooled(view).view(-1, 1, 1, 1)
        step, other = torch.where(chosen, to_pass, to_fool), torch.where(chosen, to_fool, to_pass)
        return self._chosen(view, fooling, passing), orthogonal(step, other)


def orthogonal(step: Tensor, other: Tensor) -> Tensor:
    """`step - c * other`, whose signs have no part along `other` but for that of a single value, which is 0.

    Of all steps d with |d| <= 1 and d * other = 0 these signs go the farthest along `step`. The dual of that problem
    is to minimise sum |step - c * other| over c: c is the median of step / other, weighted by |other|. Gradients are
    `(N, C, H, W)`.
    """
    weight = other.abs().flatten(1)
    ratio = torch.where(other == 0, 0.0, step / other).flatten(1)
    ratio, order = ratio.sort(1)
    half = weight.gather(1, order).cumsum(1, dtype=torch.float64)
    middle = (half < half[:, -1:] / 2).sum(1, keepdim=True)
    found = (step - ratio.gather(1, middle).view(-1, 1, 1, 1) * other).flatten(1)
    # 0 by definition; what rounding leaves there would have a sign by chance.
    balanced = torch.where(weight.any(1, keepdim=True), order.gather(1, middle), -1)
    places = torch.arange(found.shape[1], device=found.device)
    return torch.where(places == balanced, 0.0, found).view_as(step)
