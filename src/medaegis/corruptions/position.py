"""Position: a small turn or shift of the patient, edges repeated."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from medaegis.draws import Draws


def rotated(image: Tensor, degrees: float, draws: Draws) -> Tensor:
    """Turned about the middle, to the left or the right as drawn for the image."""
    angle = math.radians(degrees) * float(draws.signs(1)[0])
    rows, columns = places(image)
    down, right = (image.shape[1] - 1) / 2, (image.shape[2] - 1) / 2
    y, x = rows - down, columns - right
    return sampled(
        image, down + math.cos(angle) * y - math.sin(angle) * x, right + math.sin(angle) * y + math.cos(angle) * x
    )


def shifted(image: Tensor, share: float, draws: Draws) -> Tensor:
    """Moved by a share of the shorter side, in a direction drawn for the image."""
    far, angle = share * min(image.shape[1:]), 2 * math.pi * float(draws.uniform(1)[0])
    rows, columns = places(image)
    return sampled(image, rows + far * math.sin(angle), columns + far * math.cos(angle))


def places(image: Tensor) -> tuple[Tensor, Tensor]:
    """Row and column of each pixel, float64 `(H, W)` each."""
    rows, columns = (torch.arange(side, dtype=torch.float64) for side in image.shape[1:])
    grids = torch.meshgrid(rows, columns, indexing="ij")
    return grids[0], grids[1]


def sampled(image: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """`(C, H, W)` read at these places `(H, W)`, by straight lines between the four pixels around each."""
    height, width = image.shape[1:]
    rows, columns = rows.clamp(0, height - 1), columns.clamp(0, width - 1)
    up, left = rows.floor().long(), columns.floor().long()
    down, right = (up + 1).clamp(max=height - 1), (left + 1).clamp(max=width - 1)
    y, x = rows - up, columns - left
    above = image[:, up, left] * (1 - x) + image[:, up, right] * x
    below = image[:, down, left] * (1 - x) + image[:, down, right] * x
    return above * (1 - y) + below * y
