"""Distances between many points at once, as one matrix product."""

from __future__ import annotations

import torch
from torch import Tensor


def squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """Squared Euclidean distances, float64 `(N, M)`, of points `(N, C)` to points `(M, C)`.

    |a|^2 + |b|^2 - 2ab cancels where points lie close together far from the origin, so the origin moves to the middle
    of `b`, and the product is taken in float64.
    """
    centre = b.mean(0, dtype=torch.float64)
    a, b = a - centre, b - centre
    lengths = [torch.linalg.vector_norm(points, dim=1).square_() for points in (a, b)]
    squares: Tensor = (lengths[0][:, None] + lengths[1]).addmm_(a, b.T, alpha=-2).clamp_min_(0)
    return squares
