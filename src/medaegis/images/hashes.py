"""Hashes of pixels, by which images are known again without keeping any: those that were learned from, and copies."""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from torch import Tensor


def pixel_hashes(images: Tensor) -> Tensor:
    """int64 (N,) of uint8 images `(N, C, S, S)`: the first 64 bits of the SHA-256 of each one's pixels.

    The same file read at the same size gives the same hash; a re-encoded or rescaled copy gives another one.
    """
    found = [hashlib.sha256(image.tobytes()).digest()[:8] for image in images.contiguous().numpy()]
    return torch.from_numpy(np.frombuffer(b"".join(found), dtype="<i8").astype(np.int64))


def equal_pairs(images: Tensor) -> list[tuple[int, int]]:
    """Places of each picture that came before with the same pixels, and of the first such; plain ones left out."""
    first: dict[bytes, int] = {}
    pairs = []
    for place, image in enumerate(images.numpy()):
        if image.min() < image.max():
            before = first.setdefault(hashlib.sha256(image.tobytes()).digest(), place)
            if before != place:
                pairs.append((before, place))
    return pairs
