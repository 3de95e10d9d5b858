"""Universal perturbation: one change that fools for most images (Moosavi-Dezfooli 2017), by stochastic gradients.

As in Shafahi 2020: no inner DeepFool for each image but a step along the summed gradient of each batch, with a clipped
loss.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from medaegis.attacks.balls import LEVELS
from medaegis.attacks.learned import Change, Learned, Learner, Material, wanted
from medaegis.attacks.objective import Goal
from medaegis.errors import ConfigError
from medaegis.progress import Progress


@dataclass(frozen=True, kw_only=True)
class OneChange(Learner):
    """One change `(C, H, W)` for every image, or one for each wanted class: "change" in what was learned, in units of
    full brightness; whole grey levels where the victim rounds.
    """

    what: ClassVar[str] = "universal perturbation"
    stream: ClassVar[str] = "universal"

    def change(self, learned: Learned) -> Change:
        change = learned["change"]

        def same(x: Tensor) -> Tensor:
            if change.shape != x.shape[1:]:
                given, expected = tuple(change.shape), tuple(x.shape[1:])
                raise ConfigError(self.what, f"it is {given}, the images {expected}", "learn it on those")
            return change.to(x).expand_as(x)

        return same


@dataclass(frozen=True, kw_only=True)
class Universal(OneChange):
    """By stochastic gradients.

    Args:
        steps: passes over the known images, in an order drawn by the seed.
        step_size: of the first batch, in units of eps, by the sign of the summed gradient; falls to 0 over the batches.
    """

    step_size: float = 0.4

    def passes(self, goal: Goal, classes: int) -> int:
        """Of learning, from as many known images as it takes at most; nothing is asked about those it is added to."""
        return self.steps * self.images * sum(self.objective.passes(goal, classes)) * len(wanted(goal.targets))

    def _learned(self, known: Material, progress: Progress) -> tuple[dict[str, Tensor], int, int]:
        change = torch.zeros_like(known.images[0], device=known.victim.device)
        for victim, x, goal, left in known.shuffled(self.steps, self.learning_batch, progress):
            z = (x + change).clamp_(0, 1).requires_grad_(True)
            begun = self.objective.begin(victim, goal)
            _, grad = begun.pull(victim.look(z, goal, begun), z)
            change -= self.step_size * known.limit * left * grad.nan_to_num().sum(0).sign()
            change.clamp_(-known.limit, known.limit)
        spent = self.steps * len(known)
        return {"change": whole(change, known)}, spent, spent


def whole(change: Tensor, known: Material) -> Tensor:
    """In whole grey levels where the victim rounds."""
    return (change * LEVELS).round() / LEVELS if known.victim.cushion.rounds else change
