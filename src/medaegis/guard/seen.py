"""What a guard learned from, as hashes of pixels: so that nothing is measured on images it knows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from medaegis.errors import ArtefactError
from medaegis.images.datasets import Dataset
from medaegis.images.hashes import pixel_hashes

NAMES = ("learned", "thresholds")


@dataclass(frozen=True, eq=False)
class Seen:
    """Hashes (`pixel_hashes`), sorted: which images cannot measure this guard.

    Attributes:
        learned: classifier and Shields learned from these, or earlier thresholds were set on them.
        thresholds: the thresholds were set on these.
    """

    learned: Tensor
    thresholds: Tensor

    @classmethod
    def of(cls, learned: Dataset, thresholds: Dataset, more: Tensor | None = None) -> Seen:
        """more: hashes of what else was learned from, such as by the classifier before."""
        parts = [pixel_hashes(learned.images), *([] if more is None else [more])]
        return cls(torch.cat(parts).unique(), pixel_hashes(thresholds.images).unique())

    def after(self, thresholds: Dataset) -> Seen:
        """With thresholds set anew, on these images."""
        return Seen(torch.cat([self.learned, self.thresholds]).unique(), pixel_hashes(thresholds.images).unique())

    def tensors(self) -> dict[str, Tensor]:
        return {name: getattr(self, name) for name in NAMES}

    @classmethod
    def read(cls, tensors: Mapping[str, Tensor], source: object) -> Seen:
        """Raises ArtefactError for tensors that are not those of `tensors`."""
        if set(tensors) != set(NAMES) or any(t.dtype != torch.int64 or t.ndim != 1 for t in tensors.values()):
            raise ArtefactError(source, "its record of the images it learned from is no such record", "fit it anew")
        return cls(**{name: tensors[name] for name in NAMES})
