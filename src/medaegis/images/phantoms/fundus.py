"""A fundus photograph: the round field of the camera, optic disc, vessel tree, macula; lesions of retinopathy."""

import numpy as np

from medaegis.images.phantoms.canvas import Array, Canvas, grow, tone


def draw_fundus(canvas: Canvas, anatomy: np.random.Generator, shot: np.random.Generator, severity: float) -> Array:
    """(3, S, S): healthy, or with microaneurysms, haemorrhages and exudates in number and size by `severity`."""
    field = canvas.x**2 + canvas.y**2
    light = 1.06 - 0.34 * field + 0.08 * (shot.normal() * canvas.x + shot.normal() * canvas.y)
    crescent = np.clip(shot.normal() * canvas.x + shot.normal() * canvas.y, 0, 1)
    canvas.move(turn=anatomy.normal(0, 0.08), shift=shot.normal(0, 0.03, 2), mirror=anatomy.random() < 0.5)
    disc = np.array([0.50, 0.0]) + anatomy.normal(0, 0.03, 2)
    macula = disc + np.array([-0.62, 0.05])
    to_macula = np.hypot(canvas.x - macula[0], canvas.y - macula[1])

    # Background: pigment differs between people, the choroid shines through, the macula is darker and has a glint.
    pigment = anatomy.uniform()
    image = tone(0.82 - 0.14 * pigment, 0.43 - 0.13 * pigment, 0.21 - 0.10 * pigment) * light
    image *= 1 + tone(0.02, 0.04, 0.06) * canvas.clouds(anatomy, 10, 3)
    image *= 1 - tone(0.20, 0.42, 0.40) * np.exp(-((to_macula / 0.16) ** 2))
    image += shot.uniform(0, 0.05) * np.exp(-(((to_macula - 0.21) / 0.045) ** 2))

    # Optic disc with a rim, and the paler cup in it.
    tall = anatomy.uniform(1.0, 1.2)
    to_disc = np.hypot((canvas.x - disc[0]) * tall, canvas.y - disc[1])
    image *= 1 - 0.16 * np.exp(-(((to_disc - 0.175) / 0.03) ** 2))
    _blend(image, 0.85 * canvas.edge(0.155 - to_disc, 0.05), tone(0.98, 0.78, 0.47))
    _blend(image, 0.75 * canvas.edge(anatomy.uniform(0.05, 0.085) - to_disc, 0.05), tone(1.0, 0.93, 0.74))

    image *= 1 - tone(0.36, 0.60, 0.50) * _vessels(canvas, anatomy, disc, 0.022, -0.1)
    image *= 1 - tone(0.12, 0.44, 0.42) * _vessels(canvas, anatomy, disc, 0.015, 0.1)
    if severity:
        dark, bright = _lesions(anatomy, severity, macula)
        image *= 1 - tone(0.42, 0.76, 0.70) * canvas.dots(*dark)
        _blend(image, 0.85 * canvas.dots(*bright), tone(0.98, 0.88, 0.48))

    # The camera: exposure and white balance, grain, the mask around the field with a bright crescent at times.
    image *= shot.uniform(0.82, 1.12) * (1 + tone(*shot.normal(0, 0.03, 3)))
    image += 0.15 * crescent * np.exp(-(((np.sqrt(field) - 0.90) / 0.05) ** 2))
    image += 0.012 * np.stack([canvas.grain(shot) for _ in range(3)])
    return np.asarray(image * canvas.edge(0.94 - np.sqrt(field), 0.02))


def _blend(image: Array, cover: Array, colour: Array) -> None:
    image += cover * (colour - image)


def _vessels(canvas: Canvas, anatomy: np.random.Generator, disc: Array, width: float, turn: float) -> Array:
    """Coverage of a vessel tree: four trunks leave the disc and arch around the macula, each twice branched."""
    # Two trunks towards the macula (left), two to the other side; angles grow clockwise, y points down.
    sign = np.array([-1.0, 1.0, -1.0, 1.0])
    heading = sign * (np.array([1.9, 1.9, 1.0, 1.0]) + turn + anatomy.normal(0, 0.12, 4))
    bend = sign * np.array([1.6, 1.6, -0.6, -0.6]) * anatomy.uniform(0.8, 1.2, 4)
    length = np.array([1.7, 1.7, 0.8, 0.8]) * anatomy.uniform(0.9, 1.1, 4)
    start: Array = disc + 0.03 * np.stack([np.cos(heading), np.sin(heading)], -1)
    radius: Array = np.full(4, width)
    cover: Array = np.zeros_like(canvas.x)
    for branches in (5, 3, 0):
        paths = grow(anatomy, start, heading, length, bend, 0.45)
        radii = radius[:, None] * np.linspace(1, 0.45, paths.shape[1])
        cover = np.maximum(cover, canvas.strokes(paths, radii))
        if not branches:
            break
        # Each branch leaves its parent somewhere on the way, to either side, thinner, and bends back.
        parent = np.repeat(np.arange(len(paths)), branches)
        place = anatomy.integers(2, paths.shape[1] - 3, len(parent))
        along = paths[parent, place + 1] - paths[parent, place]
        side = anatomy.choice([-1.0, 1.0], len(parent))
        start = paths[parent, place]
        heading = np.arctan2(along[:, 1], along[:, 0]) + side * anatomy.uniform(0.5, 0.9, len(parent))
        bend = -side * anatomy.uniform(0.1, 0.9, len(parent))
        radius = radii[parent, place] * 0.72
        length = length[parent] * anatomy.uniform(0.25, 0.45, len(parent))
    return cover


def _lesions(
    anatomy: np.random.Generator, severity: float, macula: Array
) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    """Centres and radii of dark spots (microaneurysms, blots) and of bright ones (exudates in clusters)."""
    dots, blots, clusters = 4 + int(9 * severity), 1 + int(5 * severity), int(severity * 3.5)
    dark = _around(anatomy, macula, 0.55, dots)
    centre = _around(anatomy, macula, 0.6, blots)
    blot = np.repeat(centre, 5, 0) + anatomy.normal(0, 0.022, (blots * 5, 2))
    radii = [anatomy.uniform(0.012, 0.018, dots), anatomy.uniform(0.012, 0.020 + 0.022 * severity, blots * 5)]
    bright = np.repeat(_around(anatomy, macula, 0.38, clusters + 1), 7, 0)
    bright = bright + anatomy.normal(0, 0.055, bright.shape)
    shown = 7 * clusters + 2  # a hard case has two bright specks at most
    return (np.concatenate([dark, blot]), np.concatenate(radii)), (
        bright[:shown],
        anatomy.uniform(0.010, 0.020 + 0.012 * severity, len(bright))[:shown],
    )


def _around(anatomy: np.random.Generator, centre: Array, spread: float, count: int) -> Array:
    """`count` places (count, 2) on a disc around `centre`."""
    angle, far = anatomy.uniform(0, 2 * np.pi, count), spread * np.sqrt(anatomy.uniform(0.06, 1, count))
    return np.asarray(centre + np.stack([far * np.cos(angle), far * np.sin(angle)], -1))
