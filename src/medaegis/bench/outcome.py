"""What attacks made of the images, a row each, and what of it counts."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from medaegis.attacks.balls import LEVELS, Ball
from medaegis.bench.plan import Planned
from medaegis.bench.records.archive import Array
from medaegis.bench.store import Piece

MEASURED = ("quality", "harm", "logits", "iou")  # of a piece where an image has no single class (`quality.measured`)
Outcomes = Sequence[tuple[Planned, Piece]]  # of the same images, row by row


def within(piece: Piece, clean: Tensor, ball: Ball, eps: float) -> Tensor:
    """Which attacked images lie in this ball by their pixels, whatever ball they were made in, bool `(N,)`.

    Args:
        clean: the images `(N, C, H, W)` that were attacked; eps: in pixel units.
    """
    radius = torch.full_like(clean[:, :1, :1, :1], eps)
    return ball.holds(pixels_of(piece), clean, radius)


def pixels_of(piece: Piece) -> Tensor:
    """The attacked images of a piece, float in [0, 1]."""
    images = piece["images"]
    return images.float() / LEVELS if images.dtype == torch.uint8 else images


def transferred_ones(outcomes: Outcomes) -> Outcomes:
    """Those that were made on surrogates."""
    return [(planned, piece) for planned, piece in outcomes if planned.transferred]


def own_ones(outcomes: Outcomes) -> Outcomes:
    """Those that were made on the victim itself."""
    return [(planned, piece) for planned, piece in outcomes if not planned.transferred]


def broken_by(piece: Piece) -> Tensor:
    """Images that fool the classifier and are accepted, bool `(N,)`."""
    return piece["fooled"] & piece["accepted"]


def harm_of(piece: Piece, hits: Tensor) -> Tensor:
    """How far each image is harmed, float `(N,)`: as far as that is measured (`quality.measured`), else whether it is
    among these hits.
    """
    return piece["harm"] if "harm" in piece else hits.float()


def elsewhere_nothing(piece: Piece, places: Tensor, n: int) -> Piece:
    """What was found of some of n images as a piece of all n, in which the others were not fooled and score worst.

    "tried" tells which are which; of a piece that has it already, no more are.
    """
    whole = {
        name: torch.full((n, *values.shape[1:]), torch.inf if values.is_floating_point() else 0, dtype=values.dtype)
        for name, values in piece.items()
        if name in ("images", "score", "wanted", "predicted", "fooled", "accepted", *MEASURED)
    }
    for name, values in whole.items():
        values[places] = piece[name]
    tried = piece.get("tried", torch.ones(len(places), dtype=torch.bool))
    return {**whole, "tried": torch.zeros(n, dtype=torch.bool).index_put((places,), tried)}


def as_scores(values: Tensor) -> Tensor:
    """Scores as float32; NaN becomes +inf: what cannot be scored is withheld."""
    return torch.nan_to_num(values.float(), nan=torch.inf, posinf=torch.inf, neginf=-torch.inf)


def as_array(values: Tensor) -> Array:
    """The same as an array."""
    return as_scores(values).numpy()
