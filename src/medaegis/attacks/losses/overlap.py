"""Losses on masks: how much of what is marked still overlaps the truth (survey, Tables 4 and 10)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

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
