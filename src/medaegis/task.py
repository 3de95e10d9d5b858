"""What the outputs of a network mean, and how they are compared with the truth.

A task is a value. Training, attacks and figures ask it, so that they are written once for all of them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from medaegis.errors import ConfigError

TaskName = Literal["single", "multi", "dense"]
FREE = -1  # among targets of several labels: what becomes of this one does not matter to the attacker
IGNORE = 255  # in class maps: pixels that count neither way
RIGHT_DICE = 0.7  # a mask that overlaps the true one by less is wrong (Zijdenbos 1994: above it is excellent agreement)
SURE_DICE = 0.02  # by so much a mask is wrong that is surely so: on 8-bit pixels it is a little another one
AS_WANTED = 0.99  # share of the pixels that must be as the attacker wants (ALMA-prox, Rony 2023)


def without(logits: Tensor, classes: Tensor) -> Tensor:
    """Logits `(N, K, …)` with each image's (or pixel's) given class at minus infinity.

    Right for negative logits, unlike a product.
    """
    return logits.scatter(1, classes.unsqueeze(1), -torch.inf)


class PredictionTask(ABC):
    """How logits and labels of one kind belong together; `N` images in every method."""

    name: ClassVar[TaskName]
    title: ClassVar[str]

    def logits_shape(self, images: int, classes: int, size: tuple[int, int]) -> tuple[int, ...]:
        """Shape of the logits of so many images of this height and width."""
        return images, classes

    @abstractmethod
    def check_labels(self, labels: Tensor, images: int, classes: int, size: tuple[int, int], *, what: str) -> None:
        """Raises ConfigError, which names `what`, unless they are labels of so many images."""

    @abstractmethod
    def losses(self, logits: Tensor, labels: Tensor, *, smoothing: float = 0.0) -> Tensor:
        """Loss of each image `(N,)` that training minimises.

        Args:
            smoothing: share of the target spread over all classes.
        """

    @abstractmethod
    def divergences(self, logits: Tensor, others: Tensor, labels: Tensor) -> Tensor:
        """Kullback-Leibler divergence of what `logits` say from what `others` say, `(N,)`; zero where they agree.

        Of `labels` it only counts which pixels count.
        """

    @abstractmethod
    def predicted(self, logits: Tensor) -> Tensor:
        """What the network says, in the form of labels."""

    def shields(self, classes: Sequence[str]) -> tuple[str, ...]:
        """What the Shields of a guard judge, a name each; none where there is no guard for such answers."""
        return ()

    def shield_of(self, predicted: Tensor) -> Tensor:
        """Which of these Shields judges each image's answer, int64 `(N,)`.

        Raises:
            ConfigError: there is none.
        """
        raise ConfigError("guard", f"there is none for {self.title}", "give a network of one class an image, or masks")

    @abstractmethod
    def quality(self, predicted: Tensor, labels: Tensor) -> Tensor:
        """How much of what it says is true, `(N,)` from 0 to 1."""

    @abstractmethod
    def is_right(self, predicted: Tensor, labels: Tensor) -> Tensor:
        """Of which images it says the truth, bool `(N,)`."""

    def is_surely_wrong(self, predicted: Tensor, labels: Tensor) -> Tensor:
        """Of which images it says something else, and rounding them to 8 bits will not change that, bool `(N,)`."""
        return ~self.is_right(predicted, labels)

    @abstractmethod
    def reached(self, predicted: Tensor, targets: Tensor) -> Tensor:
        """Of which images it says what an attacker wants, bool `(N,)`."""

    @abstractmethod
    def margins(self, logits: Tensor, labels: Tensor, targets: Tensor | None) -> Tensor:
        """How far each answer about an image is from what an attacker wants, in logits `(N, M)`; negative once there.

        Args:
            targets: what he wants; None: anything but the truth. What does not matter to him is at 0.
        """


@dataclass(frozen=True)
class SingleLabel(PredictionTask):
    """One class of several for each image: logits `(N, K)`, labels int64 `(N,)`.

    >>> task = SingleLabel()
    >>> logits = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    >>> task.is_right(task.predicted(logits), torch.tensor([0, 0])).tolist()
    [True, False]
    """

    name = "single"
    title = "one class for each image"

    def check_labels(self, labels: Tensor, images: int, classes: int, size: tuple[int, int], *, what: str) -> None:
        _check_form(labels, (images,), what, "one per image")
        _check_range(labels, 0, classes - 1, what)

    def losses(self, logits: Tensor, labels: Tensor, *, smoothing: float = 0.0) -> Tensor:
        return F.cross_entropy(logits, labels, label_smoothing=smoothing, reduction="none")

    def divergences(self, logits: Tensor, others: Tensor, labels: Tensor) -> Tensor:
        return F.kl_div(logits.log_softmax(1), others.log_softmax(1), log_target=True, reduction="none").sum(1)

    def predicted(self, logits: Tensor) -> Tensor:
        return logits.argmax(1)

    def shields(self, classes: Sequence[str]) -> tuple[str, ...]:
        return tuple(classes)

    def shield_of(self, predicted: Tensor) -> Tensor:
        return predicted

    def quality(self, predicted: Tensor, labels: Tensor) -> Tensor:
        return (predicted == labels).float()

    def is_right(self, predicted: Tensor, labels: Tensor) -> Tensor:
        return predicted == labels

    def reached(self, predicted: Tensor, targets: Tensor) -> Tensor:
        return predicted == targets

    def margins(self, logits: Tensor, labels: Tensor, targets: Tensor | None) -> Tensor:
        return _lead(logits, labels, targets).unsqueeze(1)


@dataclass(frozen=True)
class MultiLabel(PredictionTask):
    """Several findings, each there or not: logits `(N, L)`, above 0 for what is there; labels int64 `(N, L)`, 0 or 1.

    An image is right if every finding is. Targets have `FREE` (-1) where the attacker does not mind.

    >>> task = MultiLabel()
    >>> logits = torch.tensor([[2.0, -1.0, 0.5]])
    >>> task.quality(task.predicted(logits), torch.tensor([[1, 0, 0]])).round(decimals=2).tolist()
    [0.67]
    >>> task.reached(task.predicted(logits), torch.tensor([[FREE, FREE, 1]])).tolist()
    [True]
    """

    name = "multi"
    title = "several findings in an image"

    def check_labels(self, labels: Tensor, images: int, classes: int, size: tuple[int, int], *, what: str) -> None:
        _check_form(labels, (images, classes), what, "0 or 1 for each finding")
        _check_range(labels, FREE if what == "targets" else 0, 1, what)

    def losses(self, logits: Tensor, labels: Tensor, *, smoothing: float = 0.0) -> Tensor:
        wanted = labels.float() * (1 - smoothing) + smoothing / 2
        known = labels != FREE
        each = F.binary_cross_entropy_with_logits(logits, wanted.clamp(0, 1), reduction="none")
        return each.where(known, 0).sum(1) / known.sum(1).clamp_min(1)

    def divergences(self, logits: Tensor, others: Tensor, labels: Tensor) -> Tensor:
        there, gone = F.logsigmoid(others), F.logsigmoid(-others)
        each = there.exp() * (there - F.logsigmoid(logits)) + gone.exp() * (gone - F.logsigmoid(-logits))
        return each.mean(1)

    def predicted(self, logits: Tensor) -> Tensor:
        return (logits > 0).to(torch.int64)

    def quality(self, predicted: Tensor, labels: Tensor) -> Tensor:
        return (predicted == labels).float().mean(1)

    def is_right(self, predicted: Tensor, labels: Tensor) -> Tensor:
        return (predicted == labels).all(1)

    def reached(self, predicted: Tensor, targets: Tensor) -> Tensor:
        return ((predicted == targets) | (targets == FREE)).all(1)

    def margins(self, logits: Tensor, labels: Tensor, targets: Tensor | None) -> Tensor:
        if targets is None:
            return (2 * labels - 1) * logits
        return ((1 - 2 * targets) * logits).where(targets != FREE, 0)


@dataclass(frozen=True)
class Dense(PredictionTask):
    """A class for each pixel: logits `(N, K, H, W)`, labels `(N, H, W)` of class numbers, the first the background.

    Pixels with the label `IGNORE` (255) count neither way. What is measured of an image is the Dice coefficient (Dice
    1945), mean over the classes other than the first that are there or are found; 1 where nothing is, and is found.

    >>> task = Dense()
    >>> truth = torch.tensor([[[0, 0, 1, 1]]])
    >>> task.quality(torch.tensor([[[0, 1, 1, 1]]]), truth).round(decimals=3).tolist()
    [0.8]

    Args:
        classes: K.
        least: Dice from which on a mask is right.
    """

    classes: int = 2
    least: float = RIGHT_DICE
    name = "dense"
    title = "a class for each pixel"

    def logits_shape(self, images: int, classes: int, size: tuple[int, int]) -> tuple[int, ...]:
        return images, classes, *size

    def check_labels(self, labels: Tensor, images: int, classes: int, size: tuple[int, int], *, what: str) -> None:
        _check_form(labels, (images, *size), what, "a class for each pixel", kinds=(torch.uint8, torch.int64))
        _check_range(torch.where(labels == IGNORE, 0, labels), 0, classes - 1, what)

    def losses(self, logits: Tensor, labels: Tensor, *, smoothing: float = 0.0) -> Tensor:
        each = F.cross_entropy(logits, labels.long(), label_smoothing=smoothing, ignore_index=IGNORE, reduction="none")
        return self._mean(each, labels)

    def divergences(self, logits: Tensor, others: Tensor, labels: Tensor) -> Tensor:
        each = F.kl_div(logits.log_softmax(1), others.log_softmax(1), log_target=True, reduction="none")
        return self._mean(each.sum(1), labels)

    def predicted(self, logits: Tensor) -> Tensor:
        return logits.argmax(1).to(torch.uint8)

    def shields(self, classes: Sequence[str]) -> tuple[str, ...]:
        return ("mask",)

    def shield_of(self, predicted: Tensor) -> Tensor:
        return torch.zeros(len(predicted), dtype=torch.int64, device=predicted.device)

    def quality(self, predicted: Tensor, labels: Tensor) -> Tensor:
        both, sizes = overlaps(predicted, labels, range(1, self.classes))
        dice = 2 * both / sizes.clamp_min(1)
        there = sizes > 0
        return (dice.sum(1) / there.sum(1).clamp_min(1)).where(there.any(1), 1.0)

    def is_right(self, predicted: Tensor, labels: Tensor) -> Tensor:
        return self.quality(predicted, labels) >= self.least

    def is_surely_wrong(self, predicted: Tensor, labels: Tensor) -> Tensor:
        return self.quality(predicted, labels) < self.least - SURE_DICE

    def reached(self, predicted: Tensor, targets: Tensor) -> Tensor:
        return self._mean((predicted == targets).float(), targets) >= AS_WANTED

    def margins(self, logits: Tensor, labels: Tensor, targets: Tensor | None) -> Tensor:
        wanted = None if targets is None else torch.where(targets == IGNORE, 0, targets.long())
        known = torch.where(labels == IGNORE, 0, labels.long())
        counts = (labels if targets is None else targets) != IGNORE
        return _lead(logits, known, wanted).where(counts, 0).flatten(1)

    def _mean(self, values: Tensor, labels: Tensor) -> Tensor:
        """Over the pixels that count, `(N,)`."""
        known = labels != IGNORE
        return values.where(known, 0).sum((1, 2)) / known.sum((1, 2)).clamp_min(1)


def overlaps(predicted: Tensor, labels: Tensor, classes: range) -> tuple[Tensor, Tensor]:
    """Pixels in both, and the sum of those in either, of each of these classes: float `(N, K)` each."""
    known = labels != IGNORE
    both, sizes = [], []
    for k in classes:
        mine, true = (predicted == k) & known, labels == k
        both.append((mine & true).sum((1, 2)))
        sizes.append(mine.sum((1, 2)) + true.sum((1, 2)))
    return torch.stack(both, 1).float(), torch.stack(sizes, 1).float()


def _lead(logits: Tensor, labels: Tensor, targets: Tensor | None) -> Tensor:
    """By how much the true class is ahead of the best other one, or the best other one of the target; `(N, …)`."""
    if targets is not None:
        return without(logits, targets).amax(1) - logits.gather(1, targets.unsqueeze(1)).squeeze(1)
    return logits.gather(1, labels.unsqueeze(1)).squeeze(1) - without(logits, labels).amax(1)


def _check_form(
    labels: Tensor, shape: Sequence[int], what: str, each: str, *, kinds: Sequence[torch.dtype] = (torch.int64,)
) -> None:
    if tuple(labels.shape) != tuple(shape) or labels.dtype not in kinds:
        given = f"got {labels.dtype} {tuple(labels.shape)}"
        raise ConfigError(f"attack {what}", given, f"give int64 {tuple(shape)}, {each}".replace("(,", "("))


def _check_range(labels: Tensor, low: int, high: int, what: str) -> None:
    if not bool(((labels >= low) & (labels <= high)).all()):
        given = f"{int(labels.min())} to {int(labels.max())}"
        raise ConfigError(f"attack {what}", given, f"give classes from {low} to {high}")


SINGLE, MULTI = SingleLabel(), MultiLabel()


def task_named(name: TaskName, classes: int) -> PredictionTask:
    """The task of this name, for so many classes.

    Raises:
        ConfigError: no such task.
    """
    tasks: dict[TaskName, PredictionTask] = {"single": SINGLE, "multi": MULTI, "dense": Dense(classes)}
    if name not in tasks:
        raise ConfigError(f"task {name!r:.40}", "unknown", f"give one of {', '.join(tasks)}")
    return tasks[name]
