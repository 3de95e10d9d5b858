"""Cushions: what stands before the classifier and takes fine detail, where perturbations live, out of an image."""

from medaegis.cushions.base import Cushion, Gradient, cushion_with_gradient
from medaegis.cushions.registry import cushions, parse_cushion

__all__ = ["Cushion", "Gradient", "cushion_with_gradient", "cushions", "parse_cushion"]
