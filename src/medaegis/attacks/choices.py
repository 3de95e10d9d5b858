"""What is drawn for each image: its random numbers, the class to aim at, the image to imitate."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from medaegis.errors import ConfigError


def generator(seed: int, image: int, restart: int) -> torch.Generator:
    """Random numbers of one image and restart: the same whatever the batch, the order or the number of workers."""
    digest = hashlib.blake2b(f"{seed}/{image}/{restart}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest) >> 1)


def pick_targets(labels: Tensor, classes: int, *, ids: Tensor | None = None, seed: int = 0) -> Tensor:
    """Target classes: the other one of two; a random other one of more, drawn per image."""
    ids = torch.arange(len(labels)) if ids is None else ids
    shifts = [int(torch.randint(1, classes, (1,), generator=generator(seed, int(i), -1))) for i in ids]
    return (labels + torch.tensor(shifts, device=labels.device)) % classes


def pick_guides(labels: Tensor, targets: Tensor, *, ids: Tensor, seed: int = 0) -> Tensor:
    """For each target class `(N,)` the row of a random image of that class among `labels` `(M,)`.

    Raises:
        ConfigError: a class of which there is no image.
    """
    rows = []
    for target, image in zip(targets.tolist(), ids.tolist(), strict=True):
        pool = _of_class(target, labels)
        rows.append(pool[int(torch.randint(len(pool), (1,), generator=generator(seed, image, -2)))])
    return torch.stack(rows)


def closest_guides(labels: Tensor, targets: Tensor, far: Tensor) -> Tensor:
    """As `pick_guides`, the image of the class that is closest by `far` `(N, M)`; of equal ones the first."""
    pools = {target: _of_class(target, labels) for target in targets.unique().tolist()}
    rows = [pools[target][line[pools[target]].argmin()] for target, line in zip(targets.tolist(), far, strict=True)]
    return torch.stack(rows)


def _of_class(target: int, labels: Tensor) -> Tensor:
    rows = (labels == target).nonzero().squeeze(1)
    if not len(rows):
        raise ConfigError("guides", f"no image of class {target}", "give images of every class")
    return rows
