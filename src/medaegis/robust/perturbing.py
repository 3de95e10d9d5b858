"""How images are changed before a classifier learns from them: attacked, or by noise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, field_serializer, model_validator
from torch import Tensor

from medaegis.ambient import own_modes
from medaegis.attacks.balls import Linf
from medaegis.attacks.engine import Attack
from medaegis.attacks.losses.answer import CrossEntropy
from medaegis.attacks.losses.matching import Away, FeatureDistance
from medaegis.attacks.objective import Goal, Objective
from medaegis.attacks.steps import Descent
from medaegis.attacks.victim import Victim
from medaegis.draws import Draws
from medaegis.models.classifier import Classifier
from medaegis.models.dual_encoder import EMBEDDING
from medaegis.models.fingerprint import weights_fingerprint
from medaegis.models.learning import Batch

NEAR = 0.001  # deviation of a start beside the clean image, as in the code of TRADES and MART


@dataclass(frozen=True)
class Perturbed:
    """Images of a batch after the change, `(N, C, H, W)`, and the passes over single images that it took."""

    x: Tensor
    forwards: int = 0
    backwards: int = 0


class Noise(BaseModel):
    """Normal noise on every value, cut to [0, 1], from which a classifier that is to be certified learns (Cohen 2019).

    Cut, for `medaegis certify` asks about noisy copies that are images (`medaegis.cushions.noise`): there black is
    brighter and white darker in the mean, by 0.4 eps.

    Attributes:
        eps: its deviation, in units of full brightness.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    eps: float = Field(gt=0, le=1)

    def __call__(self, classifier: Classifier, batch: Batch) -> Perturbed:
        """The noisy batch."""
        draws = Draws(batch.seed, batch.ids, "robust").to(batch.x.device)
        return Perturbed((batch.x + self.eps * draws.normal(*batch.x.shape[1:])).clamp_(0, 1))


class Inner(BaseModel):
    """The attack on images in training: descent in an L-infinity ball, untargeted, on the network in eval mode.

    Attributes:
        eps: radius, in units of full brightness.
        steps: of the attack; 0 leaves its start.
        step_size: length of a step, in units of full brightness, at full radius; None: 2.5 eps / steps (Madry 2018).
        start: "uniform" in the ball, "near" the clean image (TRADES), or "clean".
        follows: "answer" drives away from the true label (Madry 2018), "divergence" from what the network says of the
            clean image (TRADES, Zhang 2019, eq. 5).
        least_eps, least_steps: radius and steps are drawn anew for each batch from there to `eps` and `steps` (MPAdvT).
        growth: share of the training over which the radius grows from zero to eps.
        original: of "embedding" alone, which drives away from the embedding that this dual encoder gives of the clean
            image (FARE, Schlarmann 2024, eq. 3).
    """

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    eps: float = Field(gt=0, le=1)
    steps: int = Field(default=10, ge=0)
    step_size: float | None = Field(default=None, gt=0)
    start: Literal["uniform", "near", "clean"] = "uniform"
    follows: Literal["answer", "divergence", "embedding"] = "answer"
    least_eps: float | None = Field(default=None, ge=0)
    least_steps: int | None = Field(default=None, ge=1)
    growth: float = Field(default=0.0, ge=0, le=1)
    original: Classifier | None = None

    @field_serializer("original")
    def _told(self, original: Classifier | None) -> str | None:
        return None if original is None else weights_fingerprint(original)

    @model_validator(mode="after")
    def _ordered(self) -> Inner:
        if (self.least_eps or 0) > self.eps or (self.least_steps or 0) > self.steps:
            raise ValueError("least_eps and least_steps must not exceed eps and steps")
        if (self.follows == "embedding") != (self.original is not None):
            raise ValueError("an original goes with follows='embedding', and with nothing else")
        return self

    @own_modes()
    def __call__(self, classifier: Classifier, batch: Batch) -> Perturbed:
        """The attacked batch, in [0, 1]; labels stay."""
        x, (radius, size, steps) = batch.x, self.drawn(batch)
        draws = Draws(batch.seed, batch.ids, "robust").to(x.device)
        eps = x.new_full((len(x), 1, 1, 1), radius)
        z = x
        if self.start == "uniform":
            z = Linf().random(x, eps, draws)
        elif self.start == "near":
            z = Linf().project_(x + NEAR * draws.normal(*x.shape[1:]), x, eps)
        if not steps or not radius:
            return Perturbed(z)
        objective: Objective = CrossEntropy() if self.follows == "answer" else Away()
        guides = x if self.follows == "divergence" else None
        if self.original is not None:
            objective = -1.0 * FeatureDistance({EMBEDDING: embeddings(self.original, x)})
        attack = Attack(objective=objective, rule=Descent(), steps=steps, step_size=size / radius)
        victim = Victim(classifier, fold=False)  # folding takes longer than these few steps would gain by it
        found, taken = attack.descend(victim, x, Goal(batch.labels, guides=guides, task=classifier.task), eps, z)
        looks = len(x) * taken
        return Perturbed(found, looks + (0 if self.follows == "answer" else len(x)), looks)

    def drawn(self, batch: Batch) -> tuple[float, float, int]:
        """Radius, length of a step and steps for this batch."""
        u, v = Draws(batch.seed, torch.zeros(1, dtype=torch.int64), "robust/size").uniform(2)[0].tolist()
        low, few = self.least_eps, self.least_steps
        eps = self.eps if low is None else low + u * (self.eps - low)
        steps = self.steps if few is None else min(self.steps, few + int(v * (self.steps - few + 1)))
        size = 2.5 * eps / max(steps, 1) if self.step_size is None else self.step_size
        grown = 1.0 if batch.done >= self.growth else batch.done / self.growth
        return eps * grown, size * grown, steps


@torch.no_grad()
def embeddings(original: Classifier, x: Tensor) -> Tensor:
    """What a dual encoder that does not learn gives of images, `(N, D)` float32."""
    seen = original.to(x.device).eval().activations(x, logits=False, taps=(EMBEDDING,))
    return seen.features[EMBEDDING].float()
