"""Tone: contrast about the image's mean, brightness, gamma, as windows, exposure and displays differ."""

from __future__ import annotations

from torch import Tensor

from medaegis.draws import Draws


def contrast(image: Tensor, factor: float, draws: Draws) -> Tensor:
    """Distances from the mean times `factor`."""
    mean = image.mean()
    return mean + factor * (image - mean)


def brightness(image: Tensor, added: float, draws: Draws) -> Tensor:
    """`added` to every value."""
    return image + added


def gamma(image: Tensor, exponent: float, draws: Draws) -> Tensor:
    """Values to the power of `exponent`: above 1 darker, below 1 brighter."""
    return image**exponent
