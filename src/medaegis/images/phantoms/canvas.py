"""Drawing tools of the phantoms, in NumPy alone: soft edges, cloud noise, strokes, and growing branches.

Coordinates go from -1 (left, top) to 1 (right, bottom), so a drawing is the same at every size.
"""

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating[Any]]


class Canvas:
    """A square of `size` pixels; `x` and `y` are each pixel's coordinates in the scene, `pixel` the width of one."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.pixel = 2 / size
        axis = (np.arange(size, dtype=np.float32) + 0.5) * np.float32(self.pixel) - 1
        self.x, self.y = np.meshgrid(axis, axis)
        self._to_canvas = np.eye(2)
        self._shift: Array = np.zeros(2)

    def move(self, *, turn: float = 0.0, scale: float = 1.0, shift: Array, mirror: bool = False) -> None:
        """Place the scene on the canvas: mirrored, turned (radians), scaled about the middle, then shifted."""
        rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
        self._to_canvas = scale * rotation @ np.diag([-1.0 if mirror else 1.0, 1.0])
        self._shift = shift
        back = np.linalg.inv(self._to_canvas).astype(np.float32)
        x, y = self.x - np.float32(shift[0]), self.y - np.float32(shift[1])
        self.x, self.y = back[0, 0] * x + back[0, 1] * y, back[1, 0] * x + back[1, 1] * y

    def edge(self, inside: Array, width: float = 0.0) -> Array:
        """0 where `inside` (a signed distance) is negative, 1 where it is positive, a ramp `width` wide between."""
        return np.asarray(np.clip(inside / max(width, self.pixel) + 0.5, 0, 1))

    def clouds(self, random: np.random.Generator, cells: int, octaves: int = 1) -> Array:
        """Smooth noise (S, S) of about unit spread, `cells` bumps across; further octaves finer and weaker."""
        total = np.zeros((self.size, self.size), dtype=np.float32)
        for octave in range(octaves):
            weights = _spline(self.size, cells << octave)
            bumps = random.standard_normal((weights.shape[1], weights.shape[1]), dtype=np.float32)
            total += weights @ bumps @ weights.T * np.float32(2.1 / 2**octave)
        return total

    def grain(self, random: np.random.Generator) -> Array:
        """Independent noise (S, S) of unit spread, as a detector adds it to each pixel."""
        return random.standard_normal((self.size, self.size), dtype=np.float32)

    def strokes(self, points: Array, radii: Array) -> Array:
        """Coverage (S, S) in [0, 1] of polylines (K, T, 2) of scene (x, y) with radii (K, T)."""
        step = np.abs(np.diff(points, axis=1)).sum(-1).max() / self.pixel
        times = max(1, int(np.ceil(step * 1.5)))
        return self.dots(_refine(points, times).reshape(-1, 2), _refine(radii[..., None], times).reshape(-1))

    def dots(self, centres: Array, radii: Array) -> Array:
        """Coverage (S, S) in [0, 1] of discs at scene (P, 2) with radii (P,); thinner than a pixel means fainter."""
        where = (centres @ self._to_canvas.T + self._shift + 1) / self.pixel - 0.5
        radius = radii / self.pixel
        reach = int(np.ceil(radius.max() + 0.5))
        steps = np.arange(-reach, reach + 1)
        columns = np.rint(where[:, 0]).astype(np.int64)[:, None, None] + steps[None, None, :]
        lines = np.rint(where[:, 1]).astype(np.int64)[:, None, None] + steps[None, :, None]
        far = np.hypot(columns - where[:, 0, None, None], lines - where[:, 1, None, None])
        cover = np.clip(radius[:, None, None] + 0.5 - far, 0, 1) * np.minimum(radius * 2, 1)[:, None, None]
        # A margin of `reach` takes what falls outside, so that no stroke has to be cut.
        wide = self.size + 2 * reach + 2
        columns, lines = (np.clip(place + reach + 1, 0, wide - 1) for place in (columns, lines))
        flat = np.zeros(wide * wide, dtype=np.float32)
        np.maximum.at(flat, (lines * wide + columns).ravel(), cover.astype(np.float32).ravel())
        return flat.reshape(wide, wide)[reach + 1 : -reach - 1, reach + 1 : -reach - 1]


def tone(red: float, green: float, blue: float) -> Array:
    """A colour `(3, 1, 1)`."""
    return np.array([red, green, blue], dtype=np.float32)[:, None, None]


def grow(
    random: np.random.Generator, starts: Array, headings: Array, lengths: Array, bends: Array, wander: float = 0.0
) -> Array:
    """Paths (K, 24, 2) from (K, 2) `starts`, turning by `bends` radians on the way, plus a random walk of `wander`."""
    steps = 24
    along = np.linspace(0, 1, steps, dtype=np.float32)
    walk = random.standard_normal((len(starts), steps), dtype=np.float32).cumsum(1) * np.float32(wander / steps**0.5)
    angle = headings[:, None] + bends[:, None] * along + walk
    step = (lengths / steps)[:, None, None] * np.stack([np.cos(angle), np.sin(angle)], -1)
    return np.asarray(starts[:, None] + step.cumsum(1))


def _refine(values: Array, times: int) -> Array:
    """Insert `times - 1` points between each two along axis 1."""
    share = np.linspace(0, 1, times, endpoint=False, dtype=np.float32)[:, None]
    between = values[:, :-1, None] * (1 - share) + values[:, 1:, None] * share
    return np.asarray(between.reshape(len(values), -1, values.shape[-1]))


@lru_cache(maxsize=64)
def _spline(size: int, cells: int) -> NDArray[np.float32]:
    """Cubic B-spline weights (size, cells + 3) that spread one value per cell over `size` pixels."""
    place = (np.arange(size) + 0.5) * cells / size
    cell = np.minimum(place.astype(np.int64), cells - 1)
    t = place - cell
    taps = np.stack([(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3], 1) / 6
    weights = np.zeros((size, cells + 3), dtype=np.float32)
    weights[np.arange(size)[:, None], cell[:, None] + np.arange(4)] = taps
    weights.setflags(write=False)
    return weights
