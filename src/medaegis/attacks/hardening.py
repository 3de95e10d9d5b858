"""Adversarial training of a classifier (Madry 2018, section 2.1): part of each batch is attacked before it is learned.

Few steps from a random start with a radius that grows, as in Wong 2020 (Fast is better than free). More than one step,
because training against a single one may end in gradients that only that step cannot follow (there, section 5.4).
"""

from __future__ import annotations

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from medaegis.ambient import own_modes
from medaegis.attacks.balls import Linf
from medaegis.attacks.engine import Attack
from medaegis.attacks.losses.answer import CrossEntropy
from medaegis.attacks.objective import Goal
from medaegis.attacks.steps import Descent
from medaegis.attacks.victim import Victim
from medaegis.draws import Draws
from medaegis.models.classifier import Classifier


class Hardening(BaseModel):
    """What a classifier in training is attacked with.

    Attributes:
        eps: largest change of a pixel, in units of full brightness.
        steps: of the attack; 0 leaves its random start, so that the classifier learns to see through plain noise.
        share: of each batch that is attacked; the others stay clean, so that clean accuracy does not pay for all.
        growth: share of the training over which the radius grows from zero to eps.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    eps: float = Field(gt=0, le=1)
    steps: int = Field(default=2, ge=0)
    share: float = Field(default=0.5, gt=0, le=1)
    growth: float = Field(default=0.5, ge=0, le=1)

    def radius(self, done: float) -> float:
        """The radius after the share `done` of the training."""
        return self.eps if done >= self.growth else self.eps * done / self.growth

    @own_modes()
    def __call__(
        self, classifier: Classifier, x: Tensor, labels: Tensor, ids: Tensor, *, done: float, seed: int
    ) -> Tensor:
        """The batch `x` `(N, C, H, W)` with its last images attacked, untargeted, in eval mode; labels `(N,)` stay.

        Args:
            ids: one number per image that, with `seed`, draws its random start.
            done: share of the training that is over.
        """
        rows = slice(len(x) - round(self.share * len(x)), None)
        if rows.start == len(x):  # too few for that share
            return x
        victim = Victim(classifier, fold=False)  # folding takes longer than these few steps would gain by it
        goal = Goal(labels[rows], None).to(victim.device)
        clean = x[rows].to(victim.device)
        eps = torch.full_like(clean[:, :1, :1, :1], self.radius(done))
        start = Linf().random(clean, eps, Draws(seed, ids[rows], "hardening").to(victim.device))
        return torch.cat([x[: rows.start], self._attacked(victim, clean, goal, eps, start).to(x.device)])

    def _attacked(self, victim: Victim, x: Tensor, goal: Goal, eps: Tensor, start: Tensor) -> Tensor:
        if self.steps == 0:
            return start
        attack = Attack(objective=CrossEntropy(), rule=Descent(), steps=self.steps, step_size=2 / self.steps)
        return attack.descend(victim, x, goal, eps, start)[0]
