"""Artefacts of one kind of picture each: of X-rays, of fundus photographs, of skin photographs.

Lengths are shares of the shorter side, so that an artefact looks alike at any size. What is drawn for an image (where a
hair lies, to which side light falls off) is the same at every severity; only the amount grows.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from medaegis.corruptions.position import places
from medaegis.draws import Draws

LETTERS = {  # five by seven, as on a lead marker
    "L": ("10000", "10000", "10000", "10000", "10000", "10000", "11111"),
    "R": ("11110", "10001", "10001", "11110", "10100", "10010", "10001"),
}
HAIR = (0.16, 0.11, 0.08)  # colour
MOST_SPECKS, MOST_HAIRS = 64, 64  # drawn, of which the first are shown


def collimated(image: Tensor, share: float, draws: Draws) -> Tensor:
    """Blades of the collimator: a dark border, on each side half of `share` to all of it wide."""
    rows, columns = places(image)
    height, width = image.shape[1:]
    side = min(height, width)
    top, left, bottom, right = (share * side * (0.5 + 0.5 * draws.uniform(4)[0].double())).tolist()
    inside = torch.ones_like(rows)
    for far in (rows + 0.5 - top, columns + 0.5 - left, height - bottom - rows - 0.5, width - right - columns - 0.5):
        inside = inside * edge(far, max(1.0, 0.008 * side))
    return painted(image, 0.97 * (1 - inside), 0.0)


def marker(image: Tensor, share: float, draws: Draws) -> Tensor:
    """A bright letter R or L, `share` of the side high, burnt into an upper corner; R lies to the viewer's left."""
    height, width = image.shape[1:]
    high = max(1, round(share * min(height, width)))
    across, down, letter = draws.uniform(3)[0].tolist()
    name = "R" if letter < 0.5 else "L"
    shape = torch.tensor([[float(dot) for dot in line] for line in LETTERS[name]], dtype=torch.float64)
    wide = max(1, round(high * 5 / 7))
    ink = interpolate(shape[None, None], (high, wide), mode="bilinear", antialias=True)[0, 0]
    ink = (0.5 + max(1.0, high / 7) * (ink - 0.5)).clamp(0, 1)  # edges a pixel wide, however large the letter
    middle = (0.15 + 0.04 * across) * width
    top = round((0.15 + 0.04 * down) * height - high / 2)
    left = round((middle if name == "R" else width - middle) - wide / 2)
    cover = torch.zeros(height, width, dtype=torch.float64)
    top, left = max(0, top), max(0, min(left, width - wide))
    cover[top : top + high, left : left + wide] = ink[: height - top, : width - left]
    return painted(image, cover, 0.95)


def grid_lines(image: Tensor, depth: float, draws: Draws) -> Tensor:
    """Shadows of an anti-scatter grid: some 36 to 54 upright or level lines that take up to `depth` of the light."""
    start, often, level = draws.uniform(3)[0].tolist()
    rows, columns = places(image)
    along = (rows if level < 0.5 else columns) / min(image.shape[1:])
    wave = torch.cos(2 * math.pi * ((36 + 18 * often) * along + start))
    return image * (1 - depth * (0.5 + 0.5 * wave))


def vignetted(image: Tensor, depth: float, draws: Draws) -> Tensor:
    """Light that falls off from the middle, by `depth` at half the shorter side."""
    return image * (1 - depth * _from_middle(image).square().clamp(max=1))


def lit_unevenly(image: Tensor, depth: float, draws: Draws) -> Tensor:
    """Light that falls off from one side to the other, by `depth`, in a direction drawn for the image."""
    angle = 2 * math.pi * float(draws.uniform(1)[0])
    rows, columns = places(image)
    along = math.sin(angle) * rows + math.cos(angle) * columns
    return image * (1 - depth * (along - along.min()) / (along.max() - along.min()).clamp(min=1))


def bright_spot(image: Tensor, strength: float, draws: Draws) -> Tensor:
    """A reflex of the lens or cornea: a soft bright spot that lifts values by `strength` of what lacks to white."""
    ((row, column),) = _within(image, draws, 1, 0.6)
    rows, columns = places(image)
    wide = 0.13 * min(image.shape[1:])
    spot = (-0.5 * ((rows - row) ** 2 + (columns - column) ** 2) / wide**2).exp()
    return painted(image, strength * spot, 1.0)


def dust(image: Tensor, count: float, draws: Draws) -> Tensor:
    """So many dark specks on the lens, soft, 0.6 to 2 % of the side in radius."""
    rows, columns = places(image)
    side = min(image.shape[1:])
    radii = (side * (0.006 + 0.014 * draws.child("radius").uniform(MOST_SPECKS)[0].double())).tolist()
    clear = torch.ones_like(rows)
    for (row, column), radius in list(zip(_within(image, draws, MOST_SPECKS, 0.9), radii, strict=True))[: int(count)]:
        far = ((rows - row) ** 2 + (columns - column) ** 2).sqrt()
        clear = clear * (1 - 0.55 * edge(radius - far, max(1.0, 0.008 * side)))
    return image * clear


def hairs(image: Tensor, count: float, draws: Draws) -> Tensor:
    """So many dark hairs, bent, 0.4 to 1 of the side long and 0.5 to 1 % of it thick."""
    height, width = image.shape[1:]
    side = min(height, width)
    cover = torch.zeros(height * width, dtype=torch.float64)
    for row, column, turn, long, bent, thick in draws.uniform(MOST_HAIRS, 6)[0].double().tolist()[: int(count)]:
        angle, length, half = 2 * math.pi * turn, (0.4 + 0.6 * long) * side, (0.0025 + 0.0025 * thick) * side
        t = torch.linspace(-0.5, 0.5, 2 * math.ceil(length) + 1, dtype=torch.float64)
        away = 0.5 * (bent - 0.5) * length * (1 - 4 * t.square())  # a parabola beside the straight line
        y = row * height + length * t * math.sin(angle) + away * math.cos(angle)
        x = column * width + length * t * math.cos(angle) - away * math.sin(angle)
        reach = torch.arange(-math.ceil(half + 1), math.ceil(half + 1) + 1)
        at_y, at_x = y.round().long()[:, None, None] + reach[:, None], x.round().long()[:, None, None] + reach
        far = ((at_y - y[:, None, None]) ** 2 + (at_x - x[:, None, None]) ** 2).sqrt()
        shown = (at_y >= 0) & (at_y < height) & (at_x >= 0) & (at_x < width)
        ink = (half + 0.5 - far).clamp(0, min(1.0, 2 * half))  # what is thinner than a pixel covers a part of it
        cover.scatter_reduce_(0, (at_y * width + at_x)[shown], ink[shown], "amax")
    return painted(image, 0.9 * cover.view(height, width), HAIR)


def bubbles(image: Tensor, share: float, draws: Draws) -> Tensor:
    """Three air bubbles in the gel under a dermoscope, the largest of radius `share`: dark rim, bright glint."""
    rows, columns = places(image)
    side = min(image.shape[1:])
    for (row, column), size in zip(_within(image, draws, 3, 0.75), (1.0, 0.6, 0.4), strict=True):
        radius = share * size * side
        y, x = (rows - row) / radius, (columns - column) / radius
        far, soft = (y**2 + x**2).sqrt(), 0.7 / radius
        image = painted(image, 0.12 * edge(1 - far, soft), 1.0)
        image = painted(image, 0.45 * edge(0.12 - (far - 0.94).abs(), soft), 0.1)
        glint = ((y + 0.45) ** 2 + (x + 0.45) ** 2).sqrt()
        image = painted(image, 0.85 * edge(0.2 - glint, max(soft, 0.15)), 1.0)
    return image


def black_corners(image: Tensor, share: float, draws: Draws) -> Tensor:
    """The round field of a dermoscope: black beyond `share` of the half diagonal."""
    height, width = image.shape[1:]
    side = min(height, width)
    radius = share * math.hypot(height, width) / 2
    return painted(image, edge(_from_middle(image) * side / 2 - radius, max(1.0, 0.01 * side)), 0.0)


def painted(image: Tensor, cover: Tensor, colour: float | tuple[float, float, float]) -> Tensor:
    """`colour` over the image as far as `cover` `(H, W)` says, 0 to 1; a grey image takes the mean of the colour."""
    ink = torch.tensor(colour, dtype=image.dtype).expand(3)[:, None, None]
    return image + cover * ((ink if len(image) == 3 else ink.mean(0, keepdim=True)) - image)


def edge(far: Tensor, soft: float) -> Tensor:
    """1 inside and 0 outside an edge that is `soft` wide, by the distance inwards from its middle."""
    return (0.5 + far / soft).clamp(0, 1)


def _from_middle(image: Tensor) -> Tensor:
    """Distance of each pixel from the middle, in halves of the shorter side."""
    rows, columns = places(image)
    height, width = image.shape[1:]
    return ((rows - (height - 1) / 2) ** 2 + (columns - (width - 1) / 2) ** 2).sqrt() / (min(height, width) / 2)


def _within(image: Tensor, draws: Draws, count: int, reach: float) -> list[tuple[float, float]]:
    """Rows and columns of so many places, even over a disc about the middle of `reach` halves of the shorter side."""
    height, width = image.shape[1:]
    found = []
    for far, turn in draws.child("places").uniform(count, 2)[0].double().tolist():
        away, angle = reach * min(height, width) / 2 * math.sqrt(far), 2 * math.pi * turn
        found.append(((height - 1) / 2 + away * math.sin(angle), (width - 1) / 2 + away * math.cos(angle)))
    return found
