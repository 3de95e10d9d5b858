"""Blur: an image spread by a point spread function that sums to 1; edges are repeated."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from medaegis.corruptions.base import scaled
from medaegis.cushions.base import pad_edges
from medaegis.draws import Draws

FINE = 16  # parts of a pixel that a disc and a line are measured in


def defocus(image: Tensor, radius: float, draws: Draws) -> Tensor:
    """Out of focus: spread over a disc."""
    return spread(image, disc(scaled(image, radius)))


def gaussian(image: Tensor, sigma: float, draws: Draws) -> Tensor:
    """Spread by a Gaussian bell."""
    weights = bell(scaled(image, sigma))
    return spread(spread(image, weights[None]), weights[:, None])


def motion(image: Tensor, length: float, draws: Draws) -> Tensor:
    """The patient or the camera moved: spread over a line in a direction drawn for the image."""
    return spread(image, line(scaled(image, length), math.pi * float(draws.uniform(1)[0])))


def spread(image: Tensor, psf: Tensor) -> Tensor:
    """`(C, H, W)` spread by a point spread function of odd sides."""
    (height, width), (down, right) = image.shape[1:], (side // 2 for side in psf.shape)
    padded = pad_edges(pad_edges(image, 1, down, down), 2, right, right)
    out = torch.zeros_like(image)
    for row, column in psf.nonzero().tolist():
        out.add_(padded[:, row : row + height, column : column + width], alpha=float(psf[row, column]))
    return out


def disc(radius: float) -> Tensor:
    """Each pixel's share of a disc of this radius in pixels; up to half a pixel all of it is in one."""
    radius = max(radius, 0.5)
    half = math.ceil(radius - 0.5)
    fine = (torch.arange((2 * half + 1) * FINE, dtype=torch.float64) + 0.5) / FINE - half - 0.5
    inside = (fine[:, None] ** 2 + fine**2 <= radius**2).double()
    covered = inside.view(2 * half + 1, FINE, 2 * half + 1, FINE).sum((1, 3))
    return covered / covered.sum()


def line(length: float, angle: float) -> Tensor:
    """Each pixel's share of a line of this length in pixels through the middle, at an angle in radians."""
    at = torch.linspace(-length / 2, length / 2, 2 * math.ceil(FINE * length / 2) + 1, dtype=torch.float64)
    half = math.ceil(length / 2) + 1
    shares = torch.zeros(2 * half + 1, 2 * half + 1, dtype=torch.float64)
    y, x = at * math.sin(angle) + half, at * math.cos(angle) + half
    for down in (0, 1):
        for right in (0, 1):
            row, column = y.floor().long() + down, x.floor().long() + right
            shares.index_put_((row, column), (1 - (y - row).abs()) * (1 - (x - column).abs()), accumulate=True)
    return shares / shares.sum()


def bell(sigma: float) -> Tensor:
    """Weights of a Gaussian of this deviation in pixels, cut off at four deviations."""
    half = math.ceil(4 * sigma)
    weights = (-0.5 * (torch.arange(-half, half + 1, dtype=torch.float64) / sigma) ** 2).exp()
    return weights / weights.sum()
