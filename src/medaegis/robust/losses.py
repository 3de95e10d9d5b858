"""What robust training minimises: losses on clean images and changed ones.

Each is given the learner, the batch and its changed images, and returns one number with gradients to the weights.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from medaegis.errors import ConfigError
from medaegis.models.classifier import Classifier
from medaegis.models.fingerprint import weights_fingerprint
from medaegis.models.learning import Batch, Trainer


class _Loss(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    def identity(self) -> dict[str, Any]:
        """All that decides what it is, plain JSON values."""
        return self.model_dump(mode="json")


class Answer(_Loss):
    """The loss of plain training on the changed images (Madry 2018, eq. 2.1)."""

    kind: Literal["answer"] = "answer"

    def __call__(self, learner: Trainer, batch: Batch, changed: Tensor) -> Tensor:
        return learner.loss(learner.logits(changed), batch.labels)


class Trades(_Loss):
    """Clean loss and divergence of the changed from the clean answer (TRADES, Zhang 2019, eq. 5).

    Attributes:
        beta: weight of the divergence, 1 / lambda there.
    """

    kind: Literal["trades"] = "trades"
    beta: float = Field(default=6.0, ge=0)

    def __call__(self, learner: Trainer, batch: Batch, changed: Tensor) -> Tensor:
        clean, away = learner.logits(batch.x), learner.logits(changed)
        apart = learner.mean(learner.task.divergences(away, clean), batch.labels)
        return learner.loss(clean, batch.labels) + self.beta * apart


class Mart(_Loss):
    """Boosted cross-entropy, and divergence weighed by how unsure the clean answer is (MART, Wang 2020, eq. 11).

    Attributes:
        beta: weight of the divergence, lambda there.
    """

    kind: Literal["mart"] = "mart"
    beta: float = Field(default=6.0, ge=0)

    def __call__(self, learner: Trainer, batch: Batch, changed: Tensor) -> Tensor:
        if learner.task.name != "single":
            raise ConfigError("mart", f"is for one class an image; the task is {learner.task.name}", "take trades")
        labels = batch.labels.view(-1, 1)
        clean, away = learner.logits(batch.x), learner.logits(changed)
        others = away.softmax(1).scatter(1, labels, 0).amax(1)
        boosted = F.cross_entropy(away, batch.labels, reduction="none") - (1.0001 - others).log()
        unsure = 1 - clean.softmax(1).gather(1, labels).squeeze(1)
        return learner.mean(boosted + self.beta * unsure * learner.task.divergences(away, clean), batch.labels)


class Hat(_Loss):
    """TRADES, and images changed beyond the ball labelled by a plainly trained network (HAT, Rade 2022, eq. 5).

    Attributes:
        beta: weight of the divergence; gamma: of the images beyond; reach: how many times as far they are changed.
        helper: the plainly trained network, which says what they show.
    """

    kind: Literal["hat"] = "hat"
    beta: float = Field(default=6.0, ge=0)
    gamma: float = Field(default=1.0, ge=0)
    reach: float = Field(default=2.0, ge=1)
    helper: Classifier = Field(exclude=True)

    def identity(self) -> dict[str, Any]:
        return super().identity() | {"helper": weights_fingerprint(self.helper)}

    def __call__(self, learner: Trainer, batch: Batch, changed: Tensor) -> Tensor:
        with torch.no_grad():
            learner.spent(len(changed), 0)
            said = learner.task.predicted(self.helper.to(changed.device).eval()(changed))
        clean, away = learner.logits(batch.x), learner.logits(changed)
        beyond = learner.logits(batch.x + self.reach * (changed - batch.x))
        apart = learner.mean(learner.task.divergences(away, clean), batch.labels)
        plain = learner.loss(clean, batch.labels)
        return plain + self.beta * apart + self.gamma * learner.loss(beyond, said)


RobustLoss = Annotated[Answer | Trades | Mart | Hat, Field(discriminator="kind")]
