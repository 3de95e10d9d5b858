"""Mild augmentation on tensors: what another day, another machine or another position would do to a picture."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

MAX_TURN = math.radians(8)
MAX_SCALE = 0.08
MAX_SHIFT = 0.06  # of the side
MAX_CONTRAST = 0.15
MAX_BRIGHTNESS = 0.06


def augment(x: Tensor, u: Tensor) -> Tensor:
    """Mirrored (every second one), turned, scaled, shifted, and changed in contrast and brightness.

    Args:
        x: ``(N, C, H, W)`` in [0, 1].
        u: uniform ``(N, 7)`` in [0, 1).

    Returns:
        The same shape, in [0, 1]; what comes in from outside repeats the border.
    """
    spread = 2 * u.to(x.device) - 1
    contrast = 1 + spread[:, 5].view(-1, 1, 1, 1) * MAX_CONTRAST
    brightness = spread[:, 6].view(-1, 1, 1, 1) * MAX_BRIGHTNESS
    return ((_moved(x, u, "bilinear") - 0.5) * contrast + 0.5 + brightness).clamp_(0, 1)


def augment_with_masks(x: Tensor, masks: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    """As `augment`, and class numbers ``(N, H, W)`` that move with the images."""
    moved = _moved(masks.unsqueeze(1).to(x), u, "nearest").squeeze(1).to(masks.dtype)
    return augment(x, u), moved


def _moved(x: Tensor, u: Tensor, mode: str) -> Tensor:
    """Mirrored, turned, scaled and shifted."""
    u = u.to(x.device)
    spread = 2 * u - 1
    turn, scale = spread[:, 1] * MAX_TURN, 1 + spread[:, 2] * MAX_SCALE
    mirror = torch.where(u[:, 0] < 0.5, 1.0, -1.0).to(u)
    cos, sin = torch.cos(turn) * scale, torch.sin(turn) * scale
    # affine_grid's coordinates run from -1 to 1 whatever the side: a shift by the whole side is 2, and a turn of a
    # rectangle is one only in its proportions.
    tall = x.shape[2] / x.shape[3]
    across, down = -sin * tall, mirror * sin / tall
    rows = [mirror * cos, across, spread[:, 3] * 2 * MAX_SHIFT, down, cos, spread[:, 4] * 2 * MAX_SHIFT]
    grid = F.affine_grid(torch.stack(rows, dim=1).view(-1, 2, 3), list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, mode=mode, padding_mode="border", align_corners=False)
