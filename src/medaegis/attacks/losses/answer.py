"""Losses on the classifier's answer."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from medaegis.attacks.objective import Objective, View, lead, margin
from medaegis.errors import ConfigError

FAINT = 1e-12  # weight of a slope that stands in for one that is lost: it leads where nothing else does


@dataclass(frozen=True)
class CrossEntropy(Objective):
    """Cross-entropy to the target, or minus that of the true class (FGSM, BIM, PGD, MIM; Aegis eq. 1).

    Of several findings the mean of their binary ones, of masks that over the pixels (survey, Table 4: BCE).

    Of a class whose probability rounds to 1 in float32 the cross-entropy is 0 and has lost its slope, wholly or in
    part (Carlini 2017, on defensive distillation). With l the logit of the true class less the log-sum-exp of the
    others it is log(1 + exp(-l)), whose slope is that of -l by a factor above 0: taken from there it keeps its
    direction, and at least the factor `FAINT`, on whatever scale the logits are.
    """

    title = "cross-entropy"
    any_task = True

    def __call__(self, view: View) -> Tensor:
        logits, goal = view.known_logits(), view.goal
        if goal.targets is not None:
            return goal.task.losses(logits, goal.targets)
        if goal.task.name != "single":
            return -goal.task.losses(logits, goal.labels)
        loss, ahead = -F.cross_entropy(logits, goal.labels, reduction="none"), lead(logits, goal.labels)
        return torch.where(loss == 0, FAINT * ahead - F.softplus(-ahead), loss)


@dataclass(frozen=True)
class CarliniWagner(Objective):
    """Margin of Carlini and Wagner: best other logit minus the target's, not below -kappa.

    The paper's eq. 2 has the two terms the other way round, which minimised would drive away from the target.
    Untargeted: true logit minus best wrong one. Of several findings, or pixels, the mean of theirs.

    Args:
        kappa: confidence to stop at, in logits; infinity never stops.
    """

    kappa: float = torch.inf
    title = "margin"
    any_task = True

    def walked(self) -> tuple[Objective, ...]:
        return (CarliniWagner(),)  # at its confidence it is flat on purpose

    def __call__(self, view: View) -> Tensor:
        logits, goal = view.known_logits(), view.goal
        if goal.task.name != "single":
            return goal.task.margins(logits, goal.labels, goal.targets).clamp_min(-self.kappa).mean(1)
        return margin(logits, goal).clamp_min(-self.kappa)


@dataclass(frozen=True)
class Odds(Objective):
    """Margin, walked against the slope of cross-entropy: that of one class's log-odds against all others together.

    Only the direction of the slope is that of cross-entropy, for rules that take no more of it; it is lost on no scale
    of the logits.
    """

    title = "cross-entropy"

    def walked(self) -> tuple[Objective, ...]:
        return (CrossEntropy(),)

    def __call__(self, view: View) -> Tensor:
        return margin(view.known_logits(), view.goal)

    def pull(self, view: View, z: Tensor) -> tuple[Tensor, Tensor]:
        logits, goal = view.known_logits(), view.goal
        odds = lead(logits, goal.labels) if goal.targets is None else -lead(logits, goal.targets)
        (grad,) = torch.autograd.grad(odds.sum(), z)
        return margin(logits.detach(), goal), grad


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
