"""A frontal chest X-ray: what the beam meets is added up as thickness, then exposed like a film (bright = dense)."""

from collections.abc import Callable

import numpy as np

from medaegis.images.phantoms.canvas import Array, Canvas, grow


def draw_xray(canvas: Canvas, anatomy: np.random.Generator, shot: np.random.Generator, severity: float) -> Array:
    """(1, S, S): thorax, lungs, heart, spine, ribs, clavicles, vessels; opacities in the lungs if `severity` > 0."""
    return draw_chest(canvas, anatomy, shot, severity)[0]


def draw_chest(
    canvas: Canvas,
    anatomy: np.random.Generator,
    shot: np.random.Generator,
    severity: float,
    findings: Callable[[Canvas, Array], Array] | None = None,
) -> tuple[Array, Array]:
    """The film (1, S, S), and how much of the lungs is seen beside the heart at each pixel (S, S).

    Args:
        findings: of the canvas and that, thickness to add.
    """
    marker = _marker(canvas, shot)
    canvas.move(turn=shot.normal(0, 0.035), scale=shot.uniform(0.93, 1.08), shift=shot.normal(0, 0.03, 2))
    u, v = canvas.x, canvas.y
    au = np.abs(u)
    edge, a = canvas.edge, anatomy.uniform

    wide, big = a(0.62, 0.72), a(0.92, 1.15)
    base = a(0.44, 0.56) + shot.uniform(-0.05, 0.05)  # how deep the breath was
    # The body: neck, sloping shoulders, upper arms, flanks, and the dark air around them.
    shoulders = 0.23 + 1.35 * np.clip((v + 1.0) / 0.62, 0, 1) ** 1.9
    flank = wide + 0.17 + 0.05 * v + 0.9 * np.clip(0.05 - v, 0, 1) ** 1.5
    arm = 0.55 * edge(0.17 - np.abs(au - 1.06 - 0.08 * v), 0.08) * edge(v + 0.42, 0.3)
    body = np.maximum(edge(np.minimum(shoulders, flank) - au, 0.06), arm)
    depth = 0.52 * body * np.sqrt(np.clip(1.2 - au**2, 0.15, 1)) * (0.88 + 0.12 * edge(v, 0.8))

    # Lungs: apex, side wall, dome of the diaphragm with its angle, and the edge to the mediastinum.
    wall = wide * (1 - 0.46 * np.clip(0.22 - v, 0, 1.2) ** 2.1) + 0.03 * v
    dome = base + 0.75 * (au - 0.33) ** 2 - 0.05 * (u < 0)
    apex = -0.78 + 1.6 * (au - 0.29) ** 2
    lungs = edge(wall - au, 0.06) * edge(dome - v, 0.05) * edge(v - apex, 0.08) * edge(au - 0.12, 0.07)
    cage = edge(wall + 0.05 - au, 0.04) * edge(dome + 0.30 - v, 0.3) * edge(v - apex + 0.05, 0.06)

    # Heart (leaning on the diaphragm, apex to the right of the picture), great vessels, aortic knob.
    down, across = v - base + 0.16, u - 0.09
    heart = edge(1 - np.hypot((across - 0.45 * down) / 0.33, (down + 0.28 * across) / 0.34) / big, 0.35)
    atrium = edge(1 - np.hypot((u + 0.07) / 0.15, (down + 0.02) / 0.26) / big, 0.4)
    stem = edge(0.13 + 0.025 * np.cos(5 * v) + 0.05 * edge(v + 0.1, 0.6) - np.abs(u - 0.01), 0.07)
    knob = edge(0.10 - np.hypot(u - 0.11, (v + 0.32) * 0.75), 0.07)
    solid = np.maximum(np.maximum(0.95 * heart, 0.85 * atrium), np.maximum(0.75 * stem, 0.75 * knob))

    depth -= 0.36 * lungs * (1 - 0.85 * solid)
    depth += 0.07 * solid * body + 0.13 * edge(v - dome, 0.06) * body
    depth -= 0.15 * edge(0.09 - np.hypot(u - 0.36, (v - dome - 0.13) * 1.5), 0.08) * a(0, 1)  # gas in the stomach
    depth -= 0.10 * edge(0.045 - np.abs(u + 0.01), 0.04) * edge(-0.28 - v, 0.1) * body  # windpipe
    depth += a(0, 0.09) * edge(0.32 - np.hypot(au - 0.40, v - base + 0.12), 0.12)  # breasts

    # Bones. Vertebrae and ribs repeat, so one periodic profile draws all of them.
    pace = a(0.150, 0.170)
    column = edge(0.085 - au, 0.03) * (0.6 + 0.4 * np.cos(2 * np.pi * v / pace))
    depth += 0.075 * body * (column + 0.5 * edge(0.03 - np.abs(au - 0.06), 0.02))
    start = a(0, 1)
    back = (v - 0.22 * (au - 0.05) + 1.1 * np.clip(au - 0.36, 0, 1) ** 2 - 1.6 * np.clip(0.25 - au, 0, 1) ** 2) / pace
    front = (v + 0.05 - 0.75 * au) / (pace * 1.1) + 0.4
    ribs = 0.125 * _rib(back + start, 0.19) * edge(au - 0.07, 0.05)
    ribs += 0.06 * _rib(front + start, 0.17) * edge(au - 0.36, 0.3)
    depth += cage * ribs * (1 - 0.55 * edge(v - dome, 0.1)) * (1 - 0.4 * solid)
    depth += 0.16 * _shoulder_bones(canvas, u, v, a(-0.04, 0.04))
    depth += 0.5 * edge(0.25 - np.hypot(u * 0.8, (v + 1.12) * 1.0), 0.08) * a(0, 0.5)  # jaw

    depth += lungs * (0.07 * _vessels(canvas, anatomy, u, v) + 0.022 * canvas.clouds(anatomy, 9, 3))
    if severity:
        depth += _opacities(canvas, anatomy, shot, severity, lungs) * (1 - 0.6 * solid)
    if findings is not None:
        depth += findings(canvas, lungs)
    return np.maximum(_expose(canvas, shot, depth), marker)[None], lungs * (1 - solid)


def _rib(phase: Array, half: float) -> Array:
    """A bone seen edge-on at each whole number of `phase`: brighter at its two rims."""
    off = np.abs((phase + 0.5) % 1 - 0.5) / half
    return np.asarray(np.clip((1 - off) * 4, 0, 1) * (0.65 + 0.35 * off**2))


def _shoulder_bones(canvas: Canvas, u: Array, v: Array, lift: float) -> Array:
    """Collar bones, shoulder blades and the heads of the upper arms."""
    au = np.abs(u)
    middle = -0.58 + lift - 0.16 * np.clip(au - 0.08, 0, 1) + 0.025 * np.sin(7 * au)
    collar = canvas.edge(0.034 - np.abs(v - middle), 0.03) * (0.7 + 9 * np.abs(v - middle))
    collar = collar * canvas.edge(au - 0.08, 0.03) * canvas.edge(0.78 - au, 0.08)
    blade = canvas.edge(np.minimum(0.5 * (v + 0.72), 0.30 - np.abs(v + 0.38)) - np.abs(au - 0.72 + 0.18 * v), 0.06)
    humerus = canvas.edge(0.12 - np.hypot(au - 0.94, v + 0.52), 0.05) + canvas.edge(
        np.minimum(0.075 - np.abs(au - 0.99 - 0.1 * (v + 0.4)), v + 0.5), 0.04
    )
    return np.asarray(np.maximum(np.maximum(collar, 0.35 * blade), 0.7 * np.minimum(humerus, 1)))


def _vessels(canvas: Canvas, anatomy: np.random.Generator, u: Array, v: Array) -> Array:
    """Branches that leave each hilum and thin out."""
    each = 9
    fan = np.linspace(-1.25, 1.35, each, dtype=np.float32) + anatomy.normal(0, 0.12, each)
    heading = np.concatenate([fan, np.pi - fan]).astype(np.float32)
    starts = np.repeat(np.array([[0.15, -0.06], [-0.15, -0.04]], np.float32), each, 0)
    lengths = anatomy.uniform(0.3, 0.55, 2 * each).astype(np.float32)
    bends = anatomy.normal(0, 0.5, 2 * each).astype(np.float32)
    paths = grow(anatomy, starts, heading, lengths, bends, 0.4)
    radii = np.linspace(0.026, 0.006, paths.shape[1], dtype=np.float32)[None].repeat(2 * each, 0)
    hilum = np.exp(-(((np.abs(u) - 0.18) / 0.09) ** 2) - ((v + 0.03) / 0.13) ** 2)
    return canvas.strokes(paths, radii) + 0.9 * hilum


def _opacities(
    canvas: Canvas, anatomy: np.random.Generator, shot: np.random.Generator, severity: float, lungs: Array
) -> Array:
    """One or two clouded consolidations or, in every third patient, scattered patches; small and faint if hard."""
    u, v = canvas.x, canvas.y
    patchy = anatomy.random() < 0.33
    strength = (0.17 + 0.23 * severity) * (0.85 if patchy else 1.0)
    count = int(anatomy.integers(4, 8)) if patchy else int(anatomy.integers(1, 3))
    total = np.zeros_like(u)
    ragged = canvas.clouds(shot, 7, 2)
    for _ in range(count):
        side = anatomy.choice([-1, 1])
        x, y = side * anatomy.uniform(0.34 if side > 0 else 0.25, 0.50), anatomy.uniform(-0.40, 0.30)
        wide = anatomy.uniform(0.07, 0.11) if patchy else anatomy.uniform(0.15, 0.25)
        far = np.hypot(u - x, (v - y) * anatomy.uniform(0.75, 1.2)) / (wide * (0.8 + 0.4 * severity))
        total = np.maximum(total, np.exp(-((far * (1 + 0.16 * ragged)) ** 2)))
    return np.asarray(strength * total * (1 + 0.22 * ragged) * lungs)


def _expose(canvas: Canvas, shot: np.random.Generator, depth: Array) -> Array:
    """From thickness to grey: beam and window differ from film to film; then the detector's noise."""
    low, gain = shot.uniform(-0.06, 0.10), shot.uniform(0.95, 1.45)
    uneven = 0.04 * (shot.normal() * canvas.x + shot.normal() * canvas.y)
    film = np.clip((depth - low) * gain + uneven, 0, 1.4)
    film = film / (1 + 0.25 * film**3)
    film = film + canvas.grain(shot) * (0.012 + 0.016 * np.sqrt(film)) * shot.uniform(0.6, 1.4)
    return np.asarray(film)


def _marker(canvas: Canvas, shot: np.random.Generator) -> Array:
    """The lead letter L at the upper corner of some films."""
    shows = 0.95 * (shot.random() < 0.6)
    x, y = 0.84 + shot.uniform(-0.06, 0.04), -0.80 + shot.uniform(-0.08, 0.1)
    corners = np.array([[[x, y], [x, y + 0.12]], [[x, y + 0.12], [x + 0.07, y + 0.12]]], np.float32)
    return canvas.strokes(corners, np.full((2, 2), 0.012)) * np.float32(shows)
