"""Cosine waves (DCT-II), of which an image or a map of features is made, and which of them are low."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def cosines(side: int, count: int) -> Tensor:
    """The first vectors of the orthonormal DCT-II, float64 `(side, count)`.

    >>> cosines(2, 2)
    tensor([[ 0.7071,  0.7071],
            [ 0.7071, -0.7071]], dtype=torch.float64)
    """
    places, frequencies = torch.arange(side, dtype=torch.float64), torch.arange(count, dtype=torch.float64)
    waves = torch.cos((places[:, None] + 0.5) * frequencies * math.pi / side)
    return waves / waves.square().sum(0).sqrt()


def low_count(share: float, side: int) -> int:
    """How many frequencies along a side of so many pixels are low, if this share of them is: at least one."""
    return max(1, round(share * side))
