"""The size of a classifier's images: the side of a square, or height and width."""

from __future__ import annotations

import operator
import re
from typing import Any

from medaegis.errors import ConfigError

Size = int | tuple[int, int]


def as_size(given: Any, *, least: int = 1) -> Size:
    """One number for a square, else (height, width), in pixels.

    >>> as_size((224, 320)), as_size([64, 64])
    ((224, 320), 64)

    Raises:
        ConfigError: neither a whole number nor two, or less than `least`.
    """
    remedy = "give the side of a square, as 224, or height and width, as (224, 320)"
    try:
        pair = tuple(given) if isinstance(given, tuple | list) else (given, given)
        height, width = (operator.index(side) for side in pair if not isinstance(side, bool))
    except (TypeError, ValueError):
        raise ConfigError("size", f"got {given!r:.40}", remedy) from None
    if min(height, width) < least:
        raise ConfigError("size", f"got {given!r:.40}, images need at least {least} px a side", remedy)
    return height if height == width else (height, width)


def parse_size(text: str) -> Size:
    """Read `224` or, height first, `224x320`.

    Raises:
        ConfigError: anything else.
    """
    found = re.fullmatch(r"([0-9]{1,6})(?:x([0-9]{1,6}))?", text.strip())
    if found is None:
        raise ConfigError(f"size {text!r:.40}", "cannot be read", "write 224, or height x width as 224x320")
    return as_size((int(found[1]), int(found[2] or found[1])))


def sides(size: Size) -> tuple[int, int]:
    """Height and width in pixels."""
    return (size, size) if isinstance(size, int) else size


def told_size(size: Size) -> str:
    """As people read it: `224 px`, or `224 x 320 px`, height first."""
    return f"{size} px" if isinstance(size, int) else f"{size[0]} x {size[1]} px"
