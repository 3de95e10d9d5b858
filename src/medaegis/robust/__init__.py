"""Robust training: recipes as values, by name or of one's own."""

from medaegis.robust.losses import Answer, Distilled, Fare, Hat, Mart, PmgFt, Tecoa, Trades
from medaegis.robust.perturbing import Inner, Noise
from medaegis.robust.recipe import Robust
from medaegis.robust.registry import ADD_ONS, RECIPES, find_recipe, parse_recipe

__all__ = [
    "ADD_ONS",
    "RECIPES",
    "Answer",
    "Distilled",
    "Fare",
    "Hat",
    "Inner",
    "Mart",
    "Noise",
    "PmgFt",
    "Robust",
    "Tecoa",
    "Trades",
    "find_recipe",
    "parse_recipe",
]
