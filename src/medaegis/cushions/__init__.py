"""Cushions: what stands before the classifier and takes fine detail, where perturbations live, out of an image."""

from medaegis.cushions.base import Cushion, Gradient, cushion_with_gradient
from medaegis.cushions.random import Drawable, DrawnCushion, RandomCushion
from medaegis.cushions.registry import cushions, parse_cushion
from medaegis.cushions.voting import vote_shares

__all__ = [
    "Cushion",
    "Drawable",
    "DrawnCushion",
    "Gradient",
    "RandomCushion",
    "cushion_with_gradient",
    "cushions",
    "parse_cushion",
    "vote_shares",
]
