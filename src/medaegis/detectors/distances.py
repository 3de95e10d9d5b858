"""Distances between many points at once, as one matrix product."""

from __future__ import annotations

from torch import Tensor


def squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """Squared Euclidean distances, float64 `(N, M)`, of points `(N, C)` to points `(M, C)`.

    |a|^2 + |b|^2 - 2ab cancels where points lie close together far from the origin, so the origin moves to the middle
    of `b`, and the product is taken in float64.
    """
    centre = b.double().mean(0)
    a, b = a.double() - centre, b.double() - centre
    squares = a.square().sum(1)[:, None] + b.square().sum(1)
    return squares.addmm_(a, b.T, alpha=-2).clamp_min_(0)
