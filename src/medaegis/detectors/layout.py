"""Shapes of what a detector has learned: arrays from a folder must fit them before anything is computed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from medaegis.errors import ConfigError

REMEDY = "fit the detector anew"

Layout = dict[str, tuple[int | str, ...]]
"""Array -> shape; a letter stands for a length that is free, but the same wherever it appears."""


def check_layout(kind: str, layout: Layout, tensors: Mapping[str, Tensor]) -> None:
    """Raises ConfigError unless the arrays have just these names and shapes, and are finite."""
    if set(tensors) != set(layout):
        raise ConfigError(f"detector {kind!r}", f"arrays {sorted(set(tensors) ^ set(layout))[:5]} do not fit", REMEDY)
    lengths: dict[str, int] = {}
    for name, shape in layout.items():
        found = tuple(tensors[name].shape)
        wanted = [
            lengths.setdefault(side, have) if isinstance(side, str) else side
            for side, have in zip(shape, found, strict=False)
        ]
        if len(found) != len(shape) or list(found) != wanted:
            raise ConfigError(f"detector {kind!r}", f"array {name!r} has shape {found}, not {shape}", REMEDY)
        if not bool(tensors[name].isfinite().all()):
            raise ConfigError(f"detector {kind!r}", f"array {name!r} is not finite", REMEDY)


def check_size(kind: str, what: str, sizes: Sequence[int], *, most: int) -> None:
    """Raises ConfigError for sizes that only a damaged or hostile folder has, before anything is built in them."""
    if not all(isinstance(size, int) and 1 <= size <= most for size in sizes):
        raise ConfigError(f"detector {kind!r}", f"{what} {sizes!s:.80} is out of range", REMEDY)
