"""What a training is told: its settings, and how it learns from a batch.

The trainer takes the steps; a recipe says what each of them minimises. Recipes that attack lie in `robust`, so that
`models` need not know of attacks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from medaegis.images.datasets import Dataset
from medaegis.models.backbones import Weights
from medaegis.models.classifier import Classifier
from medaegis.models.denoising import Denoising
from medaegis.task import PredictionTask

WARM_UP = 0.2  # share of the steps in which the learning rate rises


class TrainConfig(BaseModel):
    """Everything that decides how a classifier is trained, beside its recipe.

    Attributes:
        backbone: registered name, ``timm:NAME``, ``torchvision:NAME`` or ``package.module:factory``.
        weights: local file of pretrained weights, or "imagenet" where those come as a package (see `weights_file`);
            None starts at random.
        normalise: what the network expects, as `parse_normalisation` reads it; None: ImageNet's, as published weights
            of registered networks and torchvision's do. With weights of other networks it must be said.
        taps: module names; None takes the backbone's default.
        denoise: low-pass filters in the network (`medaegis.models.denoising`); None: none.
        epochs, batch_size: passes over the train part; images per step.
        optimizer: "adamw", or "sgd" with Nesterov momentum of 0.9.
        lr: highest learning rate of the one-cycle schedule. With AdamW 1e-3 suits random weights, 2e-4 pretrained ones.
        weight_decay: on weights of two and more dimensions.
        label_smoothing: share of the target spread over all classes.
        balance: "loss" weighs the loss by inverse class frequency, where each image has one class; "sampling" draws
            every class as often instead; "none" does neither.
        augmentation: mild changes of position and exposure, see `augment`.
        seed: of weights, order, augmentation and dropout.
        device: "auto", "cpu", "cuda", ...
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    backbone: str = "resnet18"
    weights: Weights | None = None
    normalise: str | None = None
    taps: tuple[str, ...] | None = None
    denoise: Denoising | None = None
    epochs: int = Field(default=12, ge=1)
    batch_size: int = Field(default=32, ge=2)
    optimizer: Literal["adamw", "sgd"] = "adamw"
    lr: float = Field(default=1e-3, gt=0)
    weight_decay: float = Field(default=0.05, ge=0)
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    balance: Literal["loss", "sampling", "none"] = "loss"
    augmentation: bool = True
    seed: int = Field(default=0, ge=0, lt=2**32)
    device: str = "auto"


def learning_rate(step: float, steps: int, peak: float) -> float:
    """One cycle (Smith 2018): half a cosine up from peak / 25 in the first fifth, half a cosine down to peak / 10^4."""
    rise = WARM_UP * steps
    if step < rise:
        low, height = peak / 25, (1 - math.cos(math.pi * step / rise)) / 2
    else:
        low, height = peak / 1e4, (1 + math.cos(math.pi * (step - rise) / (steps - rise))) / 2
    return low + (peak - low) * height


@dataclass(frozen=True)
class Batch:
    """What a step learns from.

    Attributes:
        x: images `(N, C, H, W)` in [0, 1]; labels: of the classifier's task.
        ids: one number per image, int64 `(N,)`, for what is drawn for it.
        done: share of the training that is over.
        seed: of this step.
    """

    x: Tensor
    labels: Tensor
    ids: Tensor
    done: float
    seed: int


class Trainer(Protocol):
    """The trainer, as a recipe sees it."""

    classifier: Classifier

    @property
    def task(self) -> PredictionTask: ...

    def logits(self, x: Tensor) -> Tensor:
        """Of the network in training mode, with gradients to its weights."""

    def features(self, x: Tensor, tap: str) -> Tensor:
        """Likewise, what a tap gives; the pass ends there."""

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The loss that plain training minimises: mean over the batch, weighted by class where that was asked for."""

    def mean(self, losses: Tensor, labels: Tensor) -> Tensor:
        """Mean of other losses `(N,)`, weighted alike."""

    def spent(self, forwards: int, backwards: int) -> None:
        """Count passes over single images that the trainer does not see."""


class TrainingRecipe(Protocol):
    """How a classifier learns from a batch; `medaegis.robust.Robust` is one, plain training needs none.

    Attributes:
        replays: steps that it takes for each batch, which is seen so many times less often.
        average: how much of the mean of all weights so far each step keeps (exponential moving average), which is then
            what is measured and saved; 0 takes the last weights.
        awp: length of the weights' own worst step before each loss, in units of their length, layer by layer
            (adversarial weight perturbation, Wu 2020); 0 is none.
    """

    @property
    def replays(self) -> int: ...
    @property
    def average(self) -> float: ...
    @property
    def awp(self) -> float: ...

    def identity(self) -> dict[str, Any]:
        """All that decides what it does, plain JSON values: part of what identifies a run."""

    def losses(self, learner: Trainer, batch: Batch) -> Iterator[Callable[[], Tensor]]:
        """What to minimise, step by step: for each function that it gives, the trainer calls it and takes one step.

        Its gradients are there when the next one is asked for.
        """

    def score(self, classifier: Classifier, dataset: Dataset, places: Sequence[int], *, seed: int) -> dict[str, Any]:
        """How well an epoch's classifier, in eval mode, holds on images of the validation part.

        "robust_accuracy" among it, with the clean one, chooses the epoch whose weights are kept; or "worth", if told.
        """


class Plain:
    """Plain training: the loss on the images as they are."""

    replays, average, awp = 1, 0.0, 0.0

    def identity(self) -> dict[str, Any]:
        return {}

    def losses(self, learner: Trainer, batch: Batch) -> Iterator[Callable[[], Tensor]]:
        yield lambda: learner.loss(learner.logits(batch.x), batch.labels)

    def score(self, classifier: Classifier, dataset: Dataset, places: Sequence[int], *, seed: int) -> dict[str, Any]:
        return {}
