"""Attacks on masks alone, as values of the one engine; most entries of the catalogue serve masks too.

And the step rule of the dense adversary generation (DAG; Xie et al. 2017, "Adversarial examples for semantic
segmentation and object detection", algorithm 1).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from medaegis.attacks.balls import LEVELS
from medaegis.attacks.engine import Attack
from medaegis.attacks.entry import CatalogueEntry
from medaegis.attacks.losses.overlap import Active, Overlap
from medaegis.attacks.losses.shield import Orthogonal, Selective, ShieldLogit
from medaegis.attacks.steps import Descent, Problem, Walker
from medaegis.errors import ConfigError

# The Dice, from 0 to 1, is weighed against a Shield's logit: once as much as it and a mask stays right.
_DICE, _SHIELD, _BEST = Overlap("dice"), ShieldLogit(), Descent(keeps_best=True)


@dataclass(frozen=True)
class Accumulate:
    """Adds up gradients, the largest value of each drawn to `rate`, until the loss is below 0 (DAG).

    Args:
        rate: in pixel units; half a grey level in the paper.
    """

    rate: float = 0.5 / LEVELS
    needs_gradient = True
    by_sign = True
    keeps_best = False

    def __post_init__(self) -> None:
        if not 0 < self.rate <= 1:
            raise ConfigError("DAG", f"rate is {self.rate}", "give pixel units above 0, at most 1")

    def begin(self, problem: Problem) -> Walker:
        return _AccumulateWalker(self, problem)


class _AccumulateWalker(Walker):
    def __init__(self, rule: Accumulate, problem: Problem) -> None:
        self.rule, self.problem, self.point = rule, problem, problem.x
        self.through = torch.zeros(len(problem.x), dtype=torch.bool, device=problem.x.device)

    def step(self, z: Tensor, grad: Tensor, losses: Tensor, i: int) -> Tensor:
        now = (losses < 0) & ~self.through
        self.point = torch.where(now.view(-1, 1, 1, 1), self.problem.seen(z), self.point)
        self.through |= now
        longest = grad.abs().amax((1, 2, 3), keepdim=True).clamp_min(1e-30)
        return torch.where(self.through.view(-1, 1, 1, 1), z, (z - self.rule.rate * grad / longest).clamp(0, 1))

    def rests(self) -> bool:
        return bool(self.through.all())

    def result(self, z: Tensor) -> Tensor:
        """What got through when it did, of the others the last point; drawn into the ball where it lies outside."""
        return self.problem.inside(torch.where(self.through.view(-1, 1, 1, 1), self.point, z))


DENSE: dict[str, CatalogueEntry] = {
    "pgd-dice": CatalogueEntry(
        "Projected gradient descent on the Dice of masks",
        "Madry 2018; Dong 2024 (survey), Table 4",
        Attack(objective=Overlap("dice"), random_start=True),
        task="dense",
    ),
    "pgd-iou": CatalogueEntry(
        "Projected gradient descent on the overlap of masks",
        "Madry 2018; Dong 2024 (survey), Table 4",
        Attack(objective=Overlap("iou"), random_start=True),
        task="dense",
    ),
    "wb-dice": CatalogueEntry(
        "White-box: the Dice of masks and the Shield",
        "the loss of Medical Aegis on masks",
        Attack(objective=10.0 * _DICE + _SHIELD, random_start=True, steps=100),
        adaptive=True,
        task="dense",
    ),
    "wb-dice-3": CatalogueEntry(
        "White-box on masks, Dice weighs less",
        "the loss of Medical Aegis on masks",
        Attack(objective=3.0 * _DICE + _SHIELD, random_start=True, steps=100),
        adaptive=True,
        task="dense",
    ),
    "selective-dice": CatalogueEntry(
        "Selective on masks: the Dice until a mask is wrong, then the Shield",
        "Bryniarski 2021",
        Attack(objective=Selective(_DICE, _SHIELD), rule=_BEST, random_start=True, steps=100),
        adaptive=True,
        task="dense",
    ),
    "orthogonal-dice": CatalogueEntry(
        "Orthogonal on masks: each step without what the other loss minds",
        "Bryniarski 2021",
        Attack(objective=Orthogonal(_DICE, _SHIELD), rule=_BEST, random_start=True, steps=100),
        adaptive=True,
        task="dense",
    ),
    "dag": CatalogueEntry(
        "Dense adversary generation, until the mask is as wanted",
        "Xie 2017 (DAG)",
        Attack(objective=Active(), rule=Accumulate(), steps=200, exact=True),
        minimal=True,
        task="dense",
    ),
}
