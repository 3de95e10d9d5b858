"""Attacks on masks alone, as values of the one engine; most entries of the catalogue serve masks too."""

from __future__ import annotations

from medaegis.attacks.engine import Attack
from medaegis.attacks.entry import CatalogueEntry
from medaegis.attacks.losses.overlap import Overlap
from medaegis.attacks.losses.shield import Orthogonal, Selective, ShieldLogit
from medaegis.attacks.steps import Descent

# The Dice, from 0 to 1, is weighed against a Shield's logit: once as much as it and a mask stays right.
_DICE, _SHIELD, _BEST = Overlap("dice"), ShieldLogit(), Descent(keeps_best=True)

DENSE: dict[str, CatalogueEntry] = {
    "pgd-dice": CatalogueEntry(
        "Projected gradient descent on the Dice of masks",
        "Madry 2018; Dong 2024 (survey), Table 4",
        Attack(objective=Overlap("dice"), random_start=True),
        task="dense",
    ),
    "pgd-iou": CatalogueEntry(
        "Projected gradient descent on the overlap of masks",
        "Madry 2018; Dong 2024 (survey), Table 4",
        Attack(objective=Overlap("iou"), random_start=True),
        task="dense",
    ),
    "wb-dice": CatalogueEntry(
        "White-box: the Dice of masks and the Shield",
        "the loss of Medical Aegis on masks",
        Attack(objective=10.0 * _DICE + _SHIELD, random_start=True, steps=100),
        adaptive=True,
        task="dense",
    ),
    "wb-dice-3": CatalogueEntry(
        "White-box on masks, Dice weighs less",
        "the loss of Medical Aegis on masks",
        Attack(objective=3.0 * _DICE + _SHIELD, random_start=True, steps=100),
        adaptive=True,
        task="dense",
    ),
    "selective-dice": CatalogueEntry(
        "Selective on masks: the Dice until a mask is wrong, then the Shield",
        "Bryniarski 2021",
        Attack(objective=Selective(_DICE, _SHIELD), rule=_BEST, random_start=True, steps=100),
        adaptive=True,
        task="dense",
    ),
    "orthogonal-dice": CatalogueEntry(
        "Orthogonal on masks: each step without what the other loss minds",
        "Bryniarski 2021",
        Attack(objective=Orthogonal(_DICE, _SHIELD), rule=_BEST, random_start=True, steps=100),
        adaptive=True,
        task="dense",
    ),
}
