"""Robust training: recipes as values, by name or of one's own."""

from medaegis.robust.losses import Answer, Distilled, Hat, Mart, Trades
from medaegis.robust.perturbing import Inner, Noise
from medaegis.robust.recipe import Robust
from medaegis.robust.registry import ADD_ONS, RECIPES, find_recipe, parse_recipe

__all__ = [
    "ADD_ONS",
    "RECIPES",
    "Answer",
    "Distilled",
    "Hat",
    "Inner",
    "Mart",
    "Noise",
    "Robust",
    "Trades",
    "find_recipe",
    "parse_recipe",
]
