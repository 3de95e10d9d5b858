"""Dermoscopy: skin with hairs and a ruler's ticks, one pigmented lesion; the ABCD rule tells melanoma from nevus."""

import numpy as np

from medaegis.images.phantoms.canvas import Array, Canvas, grow, tone

_TAN, _BROWN, _DARK = (0.62, 0.40, 0.26), (0.42, 0.25, 0.16), (0.20, 0.12, 0.09)
# Black, blue-grey, red, and white where pigment has gone, with how far each covers the brown.
_STRANGE = (
    ((0.09, 0.07, 0.07), 0.9),
    ((0.33, 0.38, 0.47), 0.8),
    ((0.68, 0.30, 0.26), 0.6),
    ((0.84, 0.70, 0.66), 0.6),
)


def draw_skin(canvas: Canvas, anatomy: np.random.Generator, shot: np.random.Generator, severity: float) -> Array:
    """(3, S, S): a nevus, or with `severity` asymmetry, a ragged border and further colours."""
    falloff = 1.05 - 0.22 * shot.uniform(0.3, 1.2) * (canvas.x**2 + canvas.y**2)
    ruler = _ruler(canvas, shot)
    hairs = _hairs(canvas, shot)
    canvas.move(turn=shot.uniform(-np.pi, np.pi), scale=shot.uniform(0.9, 1.1), shift=shot.normal(0, 0.07, 2))

    fair = anatomy.uniform()
    skin = tone(0.86 - 0.14 * fair, 0.68 - 0.17 * fair, 0.60 - 0.19 * fair)
    image = skin * (1 + 0.02 * canvas.clouds(anatomy, 24, 2) + 0.025 * canvas.clouds(anatomy, 4))

    depth, angle = _lesion(canvas, anatomy, severity)
    cover = canvas.edge(depth, anatomy.uniform(0.06, 0.14) * (1 - 0.5 * severity))
    shade = 0.5 * canvas.clouds(anatomy, 3) * (0.45 + 0.4 * severity) + 1.3 * depth
    dark = anatomy.uniform(0, 0.9)
    colour = _mix(tone(*_TAN), tone(*_BROWN), np.clip(0.35 + shade + 0.5 * dark, 0, 1))
    colour = _mix(colour, tone(*_DARK), np.clip(shade * 0.8 + dark - 0.62, 0, 1))
    network = canvas.clouds(anatomy, 26)
    colour = colour * (1 - 0.13 * canvas.edge(0.35 - np.abs(network), 0.5))
    for pigment, share in _STRANGE:
        # Clouded patches of a further colour, each off to one side; a hard melanoma shows them faintly.
        side = np.cos(angle - anatomy.uniform(0, 2 * np.pi))
        patch = canvas.edge(canvas.clouds(anatomy, 5, 2) + 0.6 * side - 1.1, 0.9)
        colour = _mix(colour, tone(*pigment), patch * share * (0.3 + 0.7 * severity) * (severity > 0))
    image = _mix(image, colour, cover * 0.93)

    image *= falloff * shot.uniform(0.85, 1.12) * (1 + tone(*shot.normal(0, 0.03, 3)))
    image *= 1 - 0.75 * ruler - 0.72 * hairs
    image += 0.010 * np.stack([canvas.grain(shot) for _ in range(3)])
    return image


def _mix(under: Array, over: Array, share: Array) -> Array:
    return np.asarray(under + share * (over - under))


def _lesion(canvas: Canvas, anatomy: np.random.Generator, severity: float) -> tuple[Array, Array]:
    """Depth below the border (negative outside) and angle around the centre of each pixel."""
    angle = np.arctan2(canvas.y, canvas.x)
    radius = anatomy.uniform(0.30, 0.52)
    oval = 1 + anatomy.uniform(0.05, 0.16) * np.cos(2 * (angle - anatomy.uniform(0, 6.3)))
    waves = np.arange(1, 12)
    size = anatomy.normal(0, 1, len(waves)) / waves**0.9 * (0.018 + 0.19 * severity)
    phase = anatomy.uniform(0, 2 * np.pi, len(waves))
    ragged = (size[:, None, None] * np.cos(waves[:, None, None] * angle + phase[:, None, None])).sum(0)
    border = radius * np.clip(oval + ragged, 0.35, 1.8)
    return np.asarray(border - np.hypot(canvas.x, canvas.y)), angle


def _hairs(canvas: Canvas, shot: np.random.Generator) -> Array:
    count = int(shot.choice([0, 2, 5, 10]))
    if not count:
        return np.zeros_like(canvas.x)
    along = shot.uniform(0, np.pi)
    start = shot.uniform(-1, 1, (count, 2)) - 0.7 * np.array([np.cos(along), np.sin(along)])
    heading = along + shot.normal(0, 0.45, count)
    paths = grow(shot, start, heading, shot.uniform(0.8, 1.8, count), shot.normal(0, 0.6, count), 0.1)
    return canvas.strokes(paths, np.full(paths.shape[:2], shot.uniform(0.006, 0.011)))


def _ruler(canvas: Canvas, shot: np.random.Generator) -> Array:
    """Millimetre ticks along the lower edge, every fifth longer, on a third of the pictures."""
    if shot.random() > 0.33:
        return np.zeros_like(canvas.x)
    ticks = np.arange(-12, 13)
    x, foot = ticks * 0.085 + shot.uniform(-0.04, 0.04), shot.uniform(0.88, 0.98)
    top = foot - np.where(ticks % 5 == 0, 0.15, 0.08)
    points = np.stack([np.stack([x, np.full(len(x), foot)], -1), np.stack([x, top], -1)], 1)
    return canvas.strokes(points, np.full((len(x), 2), 0.007))
