"""Normalisation as it is written: `imagenet`, `clip`, `none`, or MEAN/STD of pixels in [0, 1], such as `0.5/0.25`."""

from __future__ import annotations

import math
from collections.abc import Sequence

from medaegis.errors import ConfigError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)  # of all published CLIP weights (Radford 2021)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)

Normalisation = tuple[tuple[float, ...], tuple[float, ...]]
Told = tuple[Sequence[float] | float, Sequence[float] | float]
# Of Python, also None and (mean, std).
REMEDY = "write imagenet, clip, none, or MEAN/STD of pixels in [0, 1]: 0.5/0.25, or 0.5,0.5,0.5/0.2,0.2,0.2"


def parse_normalisation(given: str | Told | None) -> Normalisation:
    """Mean and standard deviation, one value for all channels or one each; None is "none".

    >>> parse_normalisation("0.5/0.25"), parse_normalisation((0.5, 0.25))
    (((0.5,), (0.25,)), ((0.5,), (0.25,)))

    Raises:
        ConfigError: not of this form, or numbers that no pixels in [0, 1] have (values of 0 to 255, say).
    """
    if given == "imagenet":
        return IMAGENET_MEAN, IMAGENET_STD
    if given == "clip":
        return CLIP_MEAN, CLIP_STD
    if given in ("none", None):
        return (0.0,), (1.0,)
    parts = given.split("/") if isinstance(given, str) else given
    try:
        lists = (part.split(",") if isinstance(part, str) else part for part in parts)
        mean, std = (tuple(map(float, [part] if isinstance(part, int | float) else part)) for part in lists)
    except (TypeError, ValueError):
        raise ConfigError(f"normalise {given!r}", "not understood", REMEDY) from None
    check_normalisation(mean, std)
    if max(mean) > 1 or max(std) > 1:
        raise ConfigError(f"normalise {given!r}", "above 1, as of pixels from 0 to 255", "divide by 255")
    return mean, std


def check_normalisation(mean: Sequence[float], std: Sequence[float]) -> None:
    """Raises ConfigError unless both have one value, or three, all finite, and no deviation is 0 or below."""
    told = f"normalisation {tuple(mean)}/{tuple(std)}"
    if len(mean) != len(std) or len(mean) not in (1, 3):
        raise ConfigError(told, "expected one value each, or three", REMEDY)
    if not all(math.isfinite(value) for value in (*mean, *std)) or min(std) <= 0:
        raise ConfigError(told, "not finite, or a deviation that is not above 0", REMEDY)
