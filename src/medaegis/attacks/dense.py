"""Attacks on masks alone, as values of the one engine; most entries of the catalogue serve masks too."""

from __future__ import annotations

from medaegis.attacks.engine import Attack
from medaegis.attacks.entry import CatalogueEntry
from medaegis.attacks.losses.overlap import Overlap

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
}
