"""Local intrinsic dimensionality (LID; Ma 2018): how fast the number of clean neighbours grows with the radius."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from medaegis.detectors.base import REMEDY, FitData
from medaegis.detectors.layered import Layered, squared_distances
from medaegis.detectors.reader import Reading
from medaegis.errors import ConfigError, DataError
from medaegis.validation import Layout

NEAREST = 1e-24  # squared distance that counts as none: a copy of a reference image has no logarithm otherwise
FLATTEST = 1e-6  # mean log ratio of neighbours that are all equally far


@dataclass(kw_only=True, eq=False)
class LocalDimension(Layered):
    """LID of an image among clean reference images, per tap: -1 / mean log(r_i / r_k) (Ma 2018, eq. 4).

    The papers compare with the images of the same batch. Here the reference is a fixed sample, so that a score depends
    on no batch, and no image that is judged or learned from is in it, nor the clean one it was made from.

    Args:
        neighbours: k.
        reference: clean images to compare with (the papers' batch size); as many as there are if there are fewer.
    """

    kind = "lid"
    taps: tuple[str, ...] | None = None
    learn: bool = True
    neighbours: int = 20
    reference: int = 100

    def __post_init__(self) -> None:
        if not 2 <= self.neighbours <= self.reference:
            given = f"{self.neighbours} neighbours among {self.reference} images"
            raise ConfigError("LID", given, "give at least 2 neighbours, and no more than reference images")

    @property
    def fewest(self) -> int:
        return max(super().fewest, self.neighbours * (2 if self.learn else 1))  # half of few are learned from

    def _divide(self, data: FitData) -> tuple[Tensor, Tensor]:
        order = torch.randperm(len(data.clean), generator=torch.Generator().manual_seed(data.seed))
        order = order.to(data.clean.device)
        # With few images half of them are left to learn from.
        count = min(self.reference, len(order) // 2)
        return order[:count], order[count:]

    def _fit_layers(self, data: FitData, rows: Tensor) -> None:
        if not self.learn:
            order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(data.seed))
            rows = order[: self.reference].to(rows.device)
        if len(rows) < self.neighbours:
            raise DataError("LID", f"{len(rows)} reference images for {self.neighbours} neighbours", "give more images")
        for tap in self.reads:
            self.learned[f"{tap}/reference"] = data.clean.feature(tap)[rows]

    def _layers(self, seen: Reading) -> Tensor:
        return torch.stack([self.dimension(tap, seen.feature(tap)) for tap in self.reads], 1)

    def dimension(self, tap: str, features: Tensor) -> Tensor:
        """LID of pooled features `(N, C)`, float64 `(N,)`."""
        squares = squared_distances(features, self.learned[f"{tap}/reference"])
        logs = squares.topk(self.neighbours, largest=False, sorted=True).values.clamp_min(NEAREST).log() / 2
        return 1 / (logs[:, -1] - logs.mean(1)).clamp_min(FLATTEST)

    def _check(self, tensors: Mapping[str, Tensor]) -> None:
        super()._check(tensors)
        fewest = min(len(values) for name, values in tensors.items() if name.endswith("/reference"))
        if fewest < self.neighbours:
            raise ConfigError("LID", f"{fewest} reference images for {self.neighbours} neighbours", REMEDY)

    def layout(self) -> Layout:
        reference: Layout = {f"{tap}/reference": ("n", channels) for tap, channels in self.channels.items()}
        return super().layout() | reference
