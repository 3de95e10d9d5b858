"""A frontal chest X-ray: what the beam meets is added up as thickness, then exposed like a film (bright = dense)."""

import numpy as np

from medaegis.images.phantoms.canvas import Array, Canvas, grow


def draw_xray(canvas: Canvas, anatomy: np.random.Generator, shot: np.random.Generator, severity: float) -> Array:
    """(1, S, S): thorax, lungs, heart, spine, ribs, clavicles, vessels; opacities in the lungs if `severity` > 0."""
    u, v = _posture(canvas, shot)
    au, side = np.abs(u), np.sign(u)
    edge, a = canvas.edge, anatomy.uniform

    wide, heart_size = a(0.62, 0.72), a(0.9, 1.15)
    base = a(0.42, 0.56) + shot.uniform(-0.05, 0.05)  # how deep the breath was
    # The body, and the dark air beside neck and shoulders.
    torso = np.where(v < -0.62, 0.26 + 0.9 * np.clip(v + 1.02, 0, 1) ** 1.3, 1.3)
    flank = wide + 0.24 + 0.05 * v
    body = edge(torso - au, 0.05) * edge(flank + 0.5 * np.clip(-0.1 - v, 0, 1) - au, 0.05)
    depth = 0.62 * body * np.sqrt(np.clip(1.15 - (au / 1.05) ** 2, 0.1, 1))

    # Lungs: apex, side wall, dome of the diaphragm with its angle, and the edge to the mediastinum.
    wall = wide * (1 - 0.42 * np.clip(0.25 - v, 0, 1.2) ** 2.2) + 0.03 * v
    dome = base + 0.62 * (au - 0.34 * np.where(au < 0.34, 1.0, 1.0)) ** 2 - 0.06 * (side < 0)
    apex = -0.80 + 1.5 * (au - 0.30) ** 2
    lungs = edge(wall - au, 0.05) * edge(dome - v, 0.04) * edge(v - apex, 0.08) * edge(au - 0.13, 0.06)
    thorax = edge(wall + 0.05 - au, 0.06) * edge(dome + 0.25 - v, 0.3) * edge(v - apex + 0.06, 0.08)

    tilt = 0.45 * (u - 0.14)
    heart_y = base - 0.21
    heart = edge(
        1 - np.hypot((u - 0.13) / (0.34 * heart_size), (v - heart_y - tilt * 0.4) / (0.27 * heart_size)), 0.22
    )
    stem = edge(0.15 + 0.02 * np.cos(5 * v) - np.abs(u - 0.015), 0.07) * edge(v + 0.95, 0.2)
    knob = edge(0.10 - np.hypot(u - 0.12, (v + 0.30) * 0.8), 0.06)
    solid = np.maximum(np.maximum(heart, 0.75 * stem), 0.8 * knob)

    depth -= 0.43 * lungs * (1 - 0.88 * solid)
    depth += 0.10 * solid + 0.10 * edge(v - dome, 0.06) * body
    depth -= 0.16 * edge(0.10 - np.hypot(u - 0.36, (v - dome - 0.13) * 1.5), 0.08) * a(0, 1)  # gas in the stomach
    depth -= 0.11 * edge(0.045 - np.abs(u + 0.01), 0.03) * edge(-0.28 - v, 0.1) * body  # windpipe
    soft = a(0, 0.10) * edge(0.34 - np.hypot(au - 0.42, v - base + 0.10), 0.1)  # breasts
    depth += soft

    # Bones. Vertebrae and ribs repeat, so one periodic profile draws all of them.
    pace = a(0.145, 0.165)
    vertebra = edge(0.085 - au, 0.03) * (0.55 + 0.45 * np.cos(2 * np.pi * v / pace))
    depth += 0.07 * vertebra * body
    start = a(0, 1)
    back = (v - 0.30 * (au - 0.05) + 0.75 * np.clip(au - 0.38, 0, 1) ** 2 * 1.2) / pace + start
    front = (v + 0.05 - 0.75 * au) / (pace * 1.1) + start + 0.4
    depth += thorax * (0.085 * _rib(back, 0.17) * edge(au - 0.08, 0.04) + 0.045 * _rib(front, 0.15) * edge(au - 0.36, 0.3))
    depth += _clavicles(canvas, u, v, a(-0.05, 0.05)) * 0.13

    depth += lungs * (0.07 * _vessels(canvas, anatomy, u, v) + 0.022 * canvas.clouds(anatomy, 9, 3))
    if severity:
        depth += _opacities(canvas, anatomy, shot, severity, u, v, lungs) * (1 - 0.6 * solid)
    return _expose(canvas, shot, depth)[None]


def _posture(canvas: Canvas, shot: np.random.Generator) -> tuple[Array, Array]:
    """Body coordinates of each pixel: a small turn, shift and scale for each exposure."""
    turn, scale = shot.normal(0, 0.035), shot.uniform(0.93, 1.08)
    x, y = canvas.x - shot.normal(0, 0.03), canvas.y - shot.normal(0, 0.03)
    u = (x * np.cos(turn) + y * np.sin(turn)) * scale
    v = (y * np.cos(turn) - x * np.sin(turn)) * scale
    return u.astype(np.float32), v.astype(np.float32)


def _rib(phase: Array, half: float) -> Array:
    """A bone seen edge-on at each whole number of `phase`: brighter at its two rims."""
    off = np.abs((phase + 0.5) % 1 - 0.5) / half
    return np.clip((1 - off) * 4, 0, 1) * (0.65 + 0.35 * off**2)


def _clavicles(canvas: Canvas, u: Array, v: Array, lift: float) -> Array:
    au = np.abs(u)
    middle = -0.60 + lift - 0.20 * np.clip(au - 0.08, 0, 1) + 0.03 * np.sin(7 * au)
    bar = canvas.edge(0.035 - np.abs(v - middle), 0.025) * (0.7 + 0.3 * np.abs(v - middle) / 0.035)
    return bar * canvas.edge(au - 0.09, 0.03) * canvas.edge(0.74 - au, 0.1)


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
    canvas: Canvas, anatomy: np.random.Generator, shot: np.random.Generator, severity: float, u: Array, v: Array, lungs: Array
) -> Array:
    """Consolidations (cloudy, one or two) or, in every third patient, scattered patches; fainter and smaller if hard."""
    strength = 0.09 + 0.24 * severity
    patchy = anatomy.random() < 0.33
    count = int(anatomy.integers(4, 8)) if patchy else int(anatomy.integers(1, 3))
    total = np.zeros_like(u)
    ragged = canvas.clouds(shot, 7, 2)
    for _ in range(count):
        side = anatomy.choice([-1, 1])
        x, y = side * anatomy.uniform(0.24, 0.50), anatomy.uniform(-0.40, 0.34)
        wide = anatomy.uniform(0.06, 0.10) if patchy else anatomy.uniform(0.13, 0.24)
        far = np.hypot(u - x, (v - y) * anatomy.uniform(0.75, 1.2)) / (wide * (0.8 + 0.4 * severity))
        total = np.maximum(total, np.exp(-((far * (1 + 0.16 * ragged)) ** 2)))
    return strength * total * (1 + 0.22 * ragged) * lungs


def _expose(canvas: Canvas, shot: np.random.Generator, depth: Array) -> Array:
    """From thickness to grey: kilovoltage and window differ from film to film; then the detector's noise and a marker."""
    low, gain = shot.uniform(-0.06, 0.10), shot.uniform(0.95, 1.45)
    uneven = 0.04 * (shot.normal() * canvas.x + shot.normal() * canvas.y)
    film = np.clip((depth - low) * gain + uneven, 0, 1.4)
    film = film / (1 + 0.25 * film**3)
    film = film + canvas.grain(shot) * (0.012 + 0.016 * np.sqrt(film)) * shot.uniform(0.6, 1.4)
    if shot.random() < 0.6:
        film = np.maximum(film, _marker(canvas, shot))
    return film.astype(np.float32)


def _marker(canvas: Canvas, shot: np.random.Generator) -> Array:
    """The lead letter L at an upper corner."""
    x, y = 0.84 + shot.uniform(-0.06, 0.04), -0.80 + shot.uniform(-0.08, 0.1)
    corners = np.array([[[x, y], [x, y + 0.12]], [[x, y + 0.12], [x + 0.07, y + 0.12]]], np.float32)
    return canvas.strokes(corners, np.full((2, 2), 0.012, np.float32)) * np.float32(0.95)
