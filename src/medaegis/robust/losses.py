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
from medaegis.models.dual_encoder import EMBEDDING, DualEncoder
from medaegis.models.fingerprint import weights_fingerprint
from medaegis.models.learning import Batch, Trainer
from medaegis.robust.perturbing import embeddings


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
    beta: float = Field(default=6.0, ge=0, allow_inf_nan=False)

    def __call__(self, learner: Trainer, batch: Batch, changed: Tensor) -> Tensor:
        clean, away = learner.logits(batch.x), learner.logits(changed)
        apart = learner.mean(learner.task.divergences(away, clean, batch.labels), batch.labels)
        return learner.loss(clean, batch.labels) + self.beta * apart


class Mart(_Loss):
    """Boosted cross-entropy, and divergence weighed by how unsure the clean answer is (MART, Wang 2020, eq. 11).

    Attributes:
        beta: weight of the divergence, lambda there.
    """

    kind: Literal["mart"] = "mart"
    beta: float = Field(default=6.0, ge=0, allow_inf_nan=False)

    def __call__(self, learner: Trainer, batch: Batch, changed: Tensor) -> Tensor:
        if learner.task.name != "single":
            raise ConfigError("mart", f"is for one class an image; the task is {learner.task.name}", "take trades")
        labels = batch.labels.view(-1, 1)
        clean, away = learner.logits(batch.x), learner.logits(changed)
        others = away.softmax(1).scatter(1, labels, 0).amax(1)
        boosted = F.cross_entropy(away, batch.labels, reduction="none") - (1.0001 - others).log()
        unsure = 1 - clean.softmax(1).gather(1, labels).squeeze(1)
        return learner.mean(
            boosted + self.beta * unsure * learner.task.divergences(away, clean, batch.labels), batch.labels
        )


class _Helped(_Loss):
    helper: Classifier | None = Field(default=None, exclude=True)

    def identity(self) -> dict[str, Any]:
        return super().identity() | ({} if self.helper is None else {"helper": weights_fingerprint(self.helper)})

    def told(self, helper: Classifier, learner: Trainer, x: Tensor) -> Tensor:
        """Logits of the helper, without gradients.

        Raises:
            ConfigError: it knows other classes.
        """
        known, wanted = helper.classes, learner.classifier.classes
        if (known, helper.task) != (wanted, learner.task):
            problem = f"knows {', '.join(known)}, and {', '.join(wanted)} are to be learned"
            raise ConfigError("helper", problem, "give one that was trained on the same classes")
        with torch.no_grad():
            learner.spent(len(x), 0)
            return helper.to(x.device).eval()(x)  # type: ignore[no-any-return]


class Hat(_Helped):
    """TRADES, and images changed beyond the ball labelled by a plainly trained network (HAT, Rade 2022, eq. 5).

    Attributes:
        beta: weight of the divergence; gamma: of the images beyond; reach: how many times as far they are changed.
        helper: the plainly trained network, which says what they show.
    """

    kind: Literal["hat"] = "hat"
    beta: float = Field(default=6.0, ge=0, allow_inf_nan=False)
    gamma: float = Field(default=1.0, ge=0)
    reach: float = Field(default=2.0, ge=1)
    helper: Classifier = Field(exclude=True)

    def __call__(self, learner: Trainer, batch: Batch, changed: Tensor) -> Tensor:
        said = learner.task.predicted(self.told(self.helper, learner, changed))
        clean, away = learner.logits(batch.x), learner.logits(changed)
        beyond = learner.logits(batch.x + self.reach * (changed - batch.x))
        apart = learner.mean(learner.task.divergences(away, clean, batch.labels), batch.labels)
        plain = learner.loss(clean, batch.labels)
        return plain + self.beta * apart + self.gamma * learner.loss(beyond, said)


class Distilled(_Helped):
    """What a teacher says of the clean images, learned with all logits divided by a temperature (Papernot 2016).

    The divergence from the teacher's answer: the paper's cross-entropy with its soft labels, less their entropy, which
    no weight of the student changes. The student is used at temperature 1, where its logits are so many times as far
    apart: slopes of the cross-entropy vanish, and nothing else is gained (Carlini 2017, section VIII).

    Attributes:
        temperature: of both.
        helper: the teacher, trained at that temperature itself; None: the true labels are learned, which makes one.
    """

    kind: Literal["distilled"] = "distilled"
    temperature: float = Field(default=20.0, ge=1, allow_inf_nan=False)

    def __call__(self, learner: Trainer, batch: Batch, changed: Tensor) -> Tensor:
        said = learner.logits(changed) / self.temperature
        if self.helper is None:
            return learner.loss(said, batch.labels)
        soft = self.told(self.helper, learner, batch.x) / self.temperature
        return learner.mean(learner.task.divergences(said, soft, batch.labels), batch.labels)


class Tecoa(_Loss):
    """The loss of the answers to changed images by a fixed text head (TeCoA, Mao 2023, eq. 3)."""

    kind: Literal["tecoa"] = "tecoa"

    def __call__(self, learner: Trainer, batch: Batch, changed: Tensor) -> Tensor:
        check_text_head(learner, "tecoa")
        return learner.loss(learner.logits(changed), batch.labels)


class PmgFt(_Helped):
    """TeCoA, and divergences of the answer from the pretrained one's and from the clean one (PMG-FT, Wang 2024).

    Both are of the changed images' answer: from what the pretrained network says of the same changed images, and from
    what the network itself says of the clean ones. Each weighs as much as the loss.

    Attributes:
        helper: the pretrained network.
    """

    kind: Literal["pmg-ft"] = "pmg-ft"
    helper: Classifier = Field(exclude=True)

    def __call__(self, learner: Trainer, batch: Batch, changed: Tensor) -> Tensor:
        check_text_head(learner, "pmg-ft")
        said = self.told(self.helper, learner, changed)
        clean, away = learner.logits(batch.x), learner.logits(changed)
        labels, apart_from = batch.labels, learner.task.divergences
        apart = apart_from(away, said, labels) + apart_from(away, clean, labels)
        return learner.loss(away, labels) + learner.mean(apart, labels)


class Fare(_Helped):
    """Squared distance of a changed image's embedding from the clean one's before training (FARE, Schlarmann 2024).

    No label is learned from, so that whatever text is asked later is answered as before.

    Attributes:
        helper: the network before this training.
    """

    kind: Literal["fare"] = "fare"
    helper: Classifier = Field(exclude=True)

    def __call__(self, learner: Trainer, batch: Batch, changed: Tensor) -> Tensor:
        check_text_head(learner, "fare")
        learner.spent(len(batch.x), 0)
        wanted = embeddings(self.helper, batch.x)
        return (learner.features(changed, EMBEDDING) - wanted).square().sum(1).mean()


def check_text_head(learner: Trainer, name: str) -> None:
    """Raises ConfigError unless a dual encoder learns."""
    if not isinstance(learner.classifier.network, DualEncoder):
        problem = f"is for dual encoders, and {learner.classifier.backbone} has no text head"
        raise ConfigError(name, problem, "train one first (--text), and go on from its weights; or take pgd-at")


RobustLoss = Annotated[Answer | Trades | Mart | Hat | Distilled | Tecoa | PmgFt | Fare, Field(discriminator="kind")]
