"""What the outputs of a network mean, and how they are compared with the truth.

A task is a value. Training, attacks and figures ask it, so that they are written once for all of them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor


class Task(ABC):
    """How logits and labels of one kind belong together; `N` images in every method."""

    name: ClassVar[str]

    @abstractmethod
    def losses(self, logits: Tensor, labels: Tensor, *, smoothing: float = 0.0) -> Tensor:
        """Loss of each image `(N,)` that training minimises.

        Args:
            smoothing: share of the target spread over all classes.
        """

    @abstractmethod
    def divergences(self, logits: Tensor, others: Tensor) -> Tensor:
        """Kullback-Leibler divergence of what `logits` say from what `others` say, `(N,)`; zero where they agree."""

    @abstractmethod
    def predicted(self, logits: Tensor) -> Tensor:
        """What the network says, in the form of labels."""

    @abstractmethod
    def is_right(self, predicted: Tensor, labels: Tensor) -> Tensor:
        """Which images it says the truth of, bool `(N,)`."""


class SingleLabel(Task):
    """One class of several for each image: logits `(N, K)`, labels int64 `(N,)`.

    >>> import torch
    >>> task = SingleLabel()
    >>> logits = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    >>> task.is_right(task.predicted(logits), torch.tensor([0, 0])).tolist()
    [True, False]
    >>> task.divergences(logits, logits).tolist()
    [0.0, 0.0]
    """

    name = "single"

    def losses(self, logits: Tensor, labels: Tensor, *, smoothing: float = 0.0) -> Tensor:
        return F.cross_entropy(logits, labels, label_smoothing=smoothing, reduction="none")

    def divergences(self, logits: Tensor, others: Tensor) -> Tensor:
        return F.kl_div(logits.log_softmax(1), others.log_softmax(1), log_target=True, reduction="none").sum(1)

    def predicted(self, logits: Tensor) -> Tensor:
        return logits.argmax(1)

    def is_right(self, predicted: Tensor, labels: Tensor) -> Tensor:
        return predicted == labels


SINGLE = SingleLabel()
