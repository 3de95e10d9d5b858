"""Distances between many points at once, as one matrix product."""

from __future__ import annotations

import torch
from torch import Tensor

ROWS = 64  # points at a time, so that their copies in float64 stay in the cache


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
