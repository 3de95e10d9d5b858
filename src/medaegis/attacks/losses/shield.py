"""Losses on the Shield's logit, and on classifier and Shield in turn (Bryniarski 2021)."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from medaegis.attacks.losses.answer import CarliniWagner
from medaegis.attacks.objective import SURE, Goal, Objective, View, margin, surely_reached


@dataclass(frozen=True)
class ShieldLogit(Objective):
    """Minus the logit of the Shield that will judge (J_shield, J_m.aegis: Aegis eq. 3 and 4).

    With targets the classifier's logits are not needed, so the pass stops at the Shield's deepest tap.
    """

    needs_shield = True
    needs_logits = False
    any_task = True
    title = "Shield"

    def __call__(self, view: View) -> Tensor:
        return -view.shield_logit


@dataclass(frozen=True)
class GettingThrough(Objective):
    """Below 0 just where an image fools the classifier and its Shield accepts it.

    The larger of the margin, in logits, and of the suspicion less 1, its threshold.
    """

    needs_shield = True

    def walked(self) -> tuple[Objective, ...]:
        return (CarliniWagner(), ShieldLogit())

    def __call__(self, view: View) -> Tensor:
        return torch.maximum(margin(view.known_logits(), view.goal), view.suspicions() - 1)


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

    @property
    def any_task(self) -> bool:  # type: ignore[override]
        return self.fooling.any_task and self.passing.any_task

    def walked(self) -> tuple[Objective, ...]:
        return (*self.fooling.walked(), *self.passing.walked())

    def __call__(self, view: View) -> Tensor:
        return self._chosen(view, self.fooling(view), self.passing(view))

    def fooled(self, view: View) -> Tensor:
        """Whether each image has surely reached its goal, bool `(N,)`."""
        return surely_reached(view.known_logits(), view.goal, sure=self.sure)

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


# Beside another aim a margin, up to this confidence: away from a class that a network is sure of, cross-entropy has no
# slope left to weigh against the other one.
CONFIDENT = CarliniWagner(kappa=1.0)

WHITE_BOX = CONFIDENT + ShieldLogit()  # the loss of Medical Aegis's white-box attack
