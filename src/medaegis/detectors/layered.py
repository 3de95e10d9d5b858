"""Detectors on pooled features: of one tap or of several, whose scores are averaged or weighted by what was learned.

Average over layers: Medical Aegis, section 4; logistic regression: Ma 2018 (LID), Lee 2018 (Mahalanobis).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from medaegis.detectors.base import REMEDY, Detector, FitData, hold_out
from medaegis.detectors.reader import PENULTIMATE, Reading
from medaegis.errors import ConfigError
from medaegis.validation import Layout

ROWS = 64  # points at a time, so that their copies in float64 stay in the cache


@dataclass(kw_only=True, eq=False)
class OnFeatures(Detector):
    """A detector on pooled features.

    Args:
        taps: whose features; None: all that are read.
    """

    taps: tuple[str, ...] | None = (PENULTIMATE,)

    def wanted(self, seen: Reading) -> tuple[str, ...]:
        return tuple(seen.features) if self.taps is None else self.taps

    def _check(self, tensors: Mapping[str, Tensor]) -> None:
        if not self.channels:
            raise ConfigError(f"detector {self.kind!r}", "reads no tap", REMEDY)
        super()._check(tensors)

    def joined(self, seen: Reading) -> Tensor:
        """The features of all taps side by side, float32 `(N, C1 + C2 + ...)`."""
        return torch.cat([seen.feature(tap) for tap in self.reads], 1)

    @property
    def width(self) -> int:
        """Channels of `joined`."""
        return sum(self.channels.values())


@dataclass(kw_only=True, eq=False)
class Layered(OnFeatures):
    """A score per tap; the image's is their average, or what logistic regression makes of them.

    Args:
        learn: weight the taps by logistic regression, which needs attacked images; False: their average. Clean images
            that it learns from are not those that the statistics of the taps were taken from: a model finds the very
            images it was fitted on far too normal.
    """

    learn: bool = False

    @property
    def needs_attacked(self) -> bool:
        return self.learn

    def _fit(self, data: FitData) -> None:
        if not self.learn:
            self._fit_layers(data, torch.arange(len(data.clean), device=data.clean.device))
            return
        stay, held = self._divide(data)
        self._fit_layers(data, stay)
        clean, attacked = (self.in_parts(self._layers, seen) for seen in data.pair(held))
        self.learned |= fit_logistic(clean, attacked)

    def _divide(self, data: FitData) -> tuple[Tensor, Tensor]:
        """Rows for the statistics and rows for the regression."""
        return hold_out(data.labels, 0.5, data.seed)

    @abstractmethod
    def _fit_layers(self, data: FitData, rows: Tensor) -> None:
        """Take the statistics of all taps from these clean images."""

    @abstractmethod
    def _layers(self, seen: Reading) -> Tensor:
        """Suspicion by tap, float64 `(N, taps)`."""

    def _score(self, seen: Reading) -> Tensor:
        scores = self._layers(seen)
        return scores @ self.learned["weight"] + self.learned["bias"] if self.learn else scores.mean(1)

    def layout(self) -> Layout:
        return {"weight": (len(self.reads),), "bias": ()} if self.learn else {}


def fit_logistic(clean: Tensor, attacked: Tensor) -> dict[str, Tensor]:
    """Weights of a logistic regression, L2 penalty 1 on standardised scores; positive for attacked.

    Args:
        clean, attacked: scores `(N, L)` and `(M, L)`; either side counts as much as the other.

    Returns:
        "weight" `(L,)` and "bias" `()`, float64, on the scores as they are.
    """
    from sklearn.linear_model import LogisticRegression

    x = torch.cat([clean, attacked]).double()
    mean, std = x.mean(0), x.std(0, correction=0)
    std = torch.where(std > 0, std, 1.0)
    y = torch.cat([torch.zeros(len(clean)), torch.ones(len(attacked))]).numpy()
    model = LogisticRegression(class_weight="balanced", max_iter=1000, tol=1e-8)
    model.fit(((x - mean) / std).cpu().numpy(), y)
    weight = torch.from_numpy(model.coef_[0]).to(x) / std
    return {"weight": weight, "bias": float(model.intercept_[0]) - weight @ mean}


def squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """Squared Euclidean distances, float64 `(N, M)`, of points `(N, C)` to points `(M, C)`.

    |a|^2 + |b|^2 - 2ab cancels where points lie close together far from the origin, so the origin moves to the middle
    of `b`, and the product is taken in float64.
    """
    b = b.double()
    centre = b.mean(0)
    b = b - centre
    lengths = _squared_lengths(b)
    parts = []
    for rows in a.split(ROWS):
        points = rows - centre
        parts.append((_squared_lengths(points)[:, None] + lengths).addmm_(points, b.T, alpha=-2))
    squares: Tensor = torch.cat(parts).clamp_min_(0)
    return squares


def _squared_lengths(points: Tensor) -> Tensor:
    lengths: Tensor = torch.linalg.vector_norm(points, dim=1).square_()
    return lengths
