"""Losses on masks: how much of what is marked still overlaps the truth (survey, Tables 4 and 10), and what those pixels
lack that are not yet as an attacker wants.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from medaegis.attacks.losses.answer import CarliniWagner
from medaegis.attacks.objective import Objective, View
from medaegis.errors import ConfigError
from medaegis.task import IGNORE


@dataclass(frozen=True)
class Overlap(Objective):
    """The soft overlap with the true mask, or minus that with the wanted one; mean over the classes but the background.

    With probabilities p and truth t of each pixel: Dice 2 sum(p t) / (sum p + sum t), intersection over union
    sum(p t) / (sum p + sum t - sum(p t)).

    Args:
        kind: "dice" or "iou".
    """

    kind: Literal["dice", "iou"] = "dice"
    any_task = True
    title = "overlap"

    def __call__(self, view: View) -> Tensor:
        logits, goal = view.known_logits(), view.goal
        if goal.task.name != "dense":
            raise ConfigError("overlap", f"is for masks, and here it is {goal.task.title}", "take pgd")
        wanted = goal.labels if goal.targets is None else goal.targets
        known = (wanted != IGNORE).unsqueeze(1)
        truth = F.one_hot(torch.where(wanted == IGNORE, 0, wanted.long()), logits.shape[1]).movedim(-1, 1)
        p, t = (values[:, 1:] * known for values in (logits.softmax(1), truth.to(logits)))
        both, sizes = (p * t).sum((2, 3)), (p + t).sum((2, 3))
        share = 2 * both / sizes.clamp_min(1e-6) if self.kind == "dice" else both / (sizes - both).clamp_min(1e-6)
        return share.mean(1) if goal.targets is None else -share.mean(1)


@dataclass(frozen=True)
class Active(Objective):
    """What the pixels that are not yet as wanted lack of it, in logits, mean over all pixels (DAG; Xie 2017, eq. 2).

    With a target that is best other logit minus that of the wanted class, else the true one minus the best other one;
    a pixel that is there already has no part in it. -1 once the image is through.
    """

    any_task = True
    tells_by_sign = True
    title = "active pixels"

    def walked(self) -> tuple[Objective, ...]:
        return (CarliniWagner(),)  # where nothing is active it is flat on purpose

    def __call__(self, view: View) -> Tensor:
        logits, goal = view.known_logits(), view.goal
        lacking = goal.task.margins(logits, goal.labels, goal.targets).clamp_min(0).mean(1)
        return torch.where(goal.reached(goal.task.predicted(logits)), -1.0, lacking)
