"""What is drawn for each image: the class to aim at, the image to imitate."""

from __future__ import annotations

import torch
from torch import Tensor

from medaegis.draws import Draws
from medaegis.errors import ConfigError


def pick_targets(labels: Tensor, classes: int, *, ids: Tensor | None = None, seed: int = 0) -> Tensor:
    """Target classes: the other one of two; a random other one of more, drawn per image."""
    ids = torch.arange(len(labels)) if ids is None else ids
    shifts = 1 + Draws(seed, ids, "target").integers(classes - 1)
    return (labels + shifts.to(labels.device)) % classes


def pick_guides(labels: Tensor, targets: Tensor, *, ids: Tensor, seed: int = 0) -> Tensor:
    """For each target class `(N,)` the row of a random image of that class among `labels` `(M,)`.

    Raises:
        ConfigError: a class of which there is no image.
    """
    rows = torch.empty_like(targets)
    for target in targets.unique().tolist():
        pool, wanted = _of_class(target, labels), targets == target
        rows[wanted] = pool[Draws(seed, ids[wanted], "guide").integers(len(pool))]
    return rows


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
