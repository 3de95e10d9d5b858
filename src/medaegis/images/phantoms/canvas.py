"""Drawing tools of the phantoms, in NumPy alone: soft edges, cloud noise, strokes, and growing branches.

Coordinates go from -1 (left, top) to 1 (right, bottom), so a drawing is the same at every size.
"""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]


class Canvas:
    """A square of `size` pixels; `x` is (1, S), `y` (S, 1), `pixel` the width of one."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.pixel = 2 / size
        axis = ((np.arange(size, dtype=np.float32) + 0.5) * self.pixel - 1).astype(np.float32)
        self.x = axis[None, :]
        self.y = axis[:, None]

    def edge(self, inside: Array, width: float = 0.0) -> Array:
        """0 where `inside` (a signed distance) is negative, 1 where it is positive, a ramp `width` wide between."""
        return np.clip(inside / max(width, self.pixel) + 0.5, 0, 1)

    def clouds(self, random: np.random.Generator, cells: int, octaves: int = 1) -> Array:
        """Smooth noise (S, S) of about unit spread, `cells` bumps across; each octave is twice as fine, half as strong."""
        total = np.zeros((self.size, self.size), dtype=np.float32)
        for octave in range(octaves):
            weights = _spline(self.size, cells << octave)
            bumps = random.standard_normal((weights.shape[1], weights.shape[1]), dtype=np.float32)
            total += weights @ bumps @ weights.T * np.float32(2.1 / 2**octave)
        return total

    def grain(self, random: np.random.Generator) -> Array:
        """Independent noise (S, S), of unit spread at 112 px and finer-grained above, as a detector's would be."""
        return random.standard_normal((self.size, self.size), dtype=np.float32)

    def strokes(self, points: Array, radii: Array) -> Array:
        """Coverage (S, S) in [0, 1] of polylines (K, T, 2) of (x, y) with radii (K, T)."""
        length = np.abs(np.diff(points, axis=1)).sum(-1).max() / self.pixel / (points.shape[1] - 1)
        points, radii = _refine(points, max(1, int(np.ceil(length * 1.5)))), _refine(
            radii[..., None], max(1, int(np.ceil(length * 1.5)))
        )
        return self.dots(points.reshape(-1, 2), radii.reshape(-1))

    def dots(self, centres: Array, radii: Array) -> Array:
        """Coverage (S, S) in [0, 1] of discs at (P, 2) with radii (P,); thinner than a pixel means fainter."""
        where = (centres + 1) / self.pixel - 0.5
        radius = radii / self.pixel
        reach = int(np.ceil(radius.max() + 0.5)) if len(radius) else 0
        steps = np.arange(-reach, reach + 1)
        columns = np.rint(where[:, 0]).astype(np.int64)[:, None, None] + steps[None, None, :]
        lines = np.rint(where[:, 1]).astype(np.int64)[:, None, None] + steps[None, :, None]
        far = np.hypot(columns - where[:, 0, None, None], lines - where[:, 1, None, None])
        cover = np.clip(radius[:, None, None] + 0.5 - far, 0, 1) * np.minimum(radius * 2, 1)[:, None, None]
        flat = np.zeros((self.size + 2 * reach) ** 2, dtype=np.float32)
        # A margin takes what falls outside, so that no stroke has to be cut.
        columns, lines = (np.clip(place, -reach, self.size + reach - 1) + reach for place in (columns, lines))
        np.maximum.at(flat, (lines * (self.size + 2 * reach) + columns).ravel(), cover.astype(np.float32).ravel())
        return flat.reshape(self.size + 2 * reach, -1)[reach : reach + self.size, reach : reach + self.size]


def grow(
    random: np.random.Generator, starts: Array, headings: Array, lengths: Array, bends: Array, wander: float = 0.0
) -> Array:
    """Paths (K, 48, 2) from (K, 2) `starts`, turning by `bends` radians on the way, plus a random walk of `wander`."""
    steps = 48
    along = np.linspace(0, 1, steps, dtype=np.float32)
    walk = random.standard_normal((len(starts), steps), dtype=np.float32).cumsum(1) * np.float32(wander / steps**0.5)
    angle = headings[:, None] + bends[:, None] * along + walk
    step = (lengths / steps)[:, None, None] * np.stack([np.cos(angle), np.sin(angle)], -1)
    return (starts[:, None] + step.cumsum(1)).astype(np.float32)


def _refine(values: Array, times: int) -> Array:
    """Insert `times - 1` points between each two along axis 1."""
    share = np.linspace(0, 1, times, endpoint=False, dtype=np.float32)[:, None]
    between = values[:, :-1, None] * (1 - share) + values[:, 1:, None] * share
    return between.reshape(len(values), -1, values.shape[-1])


@lru_cache(maxsize=64)
def _spline(size: int, cells: int) -> Array:
    """Cubic B-spline weights (size, cells + 3) that spread one value per cell over `size` pixels."""
    place = (np.arange(size) + 0.5) * cells / size
    cell = np.minimum(place.astype(np.int64), cells - 1)
    t = place - cell
    taps = np.stack([(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3], 1) / 6
    weights = np.zeros((size, cells + 3), dtype=np.float32)
    weights[np.arange(size)[:, None], cell[:, None] + np.arange(4)] = taps
    weights.setflags(write=False)
    return weights
