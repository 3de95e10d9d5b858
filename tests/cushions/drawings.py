"""Images for these tests: smooth shapes with noise on top, so that codecs and filters have both to deal with."""

import numpy as np
import torch
from torch import Tensor


def drawn(shape: tuple[int, ...], seed: int = 0, noise: float = 12) -> Tensor:
    """`(N, C, H, W)` of 8-bit values over 255."""
    random = np.random.default_rng(seed)
    n, c, h, w = shape
    y, x = np.mgrid[:h, :w] / 20
    phase = random.uniform(0, 6, (n, c, 1, 1))
    image = 128 + 90 * np.sin(x + phase) * np.cos(y - phase) + random.normal(0, noise, shape)
    return torch.from_numpy(np.clip(image, 0, 255).astype(np.uint8)).float() / 255
