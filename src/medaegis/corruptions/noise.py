"""Noise of sensors: of the electronics (Gaussian), of counted photons (shot, Poisson), of coherent waves (speckle)."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from medaegis.draws import Draws


def gaussian(image: Tensor, sigma: float, draws: Draws) -> Tensor:
    """Adds normal noise of this deviation."""
    return image + sigma * draws.normal(*image.shape)[0].double()


def speckle(image: Tensor, sigma: float, draws: Draws) -> Tensor:
    """Multiplies by 1 + normal noise of this deviation."""
    return image * (1 + sigma * draws.normal(*image.shape)[0].double())


def shot(image: Tensor, photons: float, draws: Draws) -> Tensor:
    """Counts photons, of which white has so many on average: Poisson, by inversion of its distribution."""
    level = image.mul(255).round()
    table, width = _counts(photons)
    # All levels stand in one sorted table, each shifted by its own number, so that one search serves all pixels.
    wanted = (level + draws.uniform(*image.shape)[0].double()).contiguous()
    return (torch.searchsorted(table, wanted, right=True) - level.long() * width).double() / photons


@cache
def _counts(photons: float) -> tuple[Tensor, int]:
    """P(count <= k) at each of 256 levels, each plus its level; and how many counts k each has."""
    most = int(photons + 10 * photons**0.5 + 10)
    k = torch.arange(most + 1, dtype=torch.float64)
    rate = torch.arange(256, dtype=torch.float64)[:, None] / 255 * photons
    below = (torch.xlogy(k, rate) - rate - torch.lgamma(k + 1)).exp().cumsum(1).clamp(max=1)
    below[:, -1] = 1
    return (below + torch.arange(256)[:, None]).flatten(), most + 1
