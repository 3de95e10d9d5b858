"""A whole suite for what it takes to break each image once: where only the worst case of each image is asked for.

Small radii come first, and at each the cheapest attack; a cell is run on the images that none before it broke.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from medaegis.attacks.catalogue import find_attack
from medaegis.bench.campaign import Campaign
from medaegis.bench.outcome import broken_by, elsewhere_nothing, within
from medaegis.bench.plan import Planned
from medaegis.bench.store import Piece
from medaegis.progress import Meter, Progress, silent


def cascade(campaign: Campaign, cells: Sequence[Planned], progress: Progress = silent) -> list[tuple[Planned, Piece]]:
    """What breaks each image, as outcomes for the worst case (`Reached`, `worst_cases`), in the order they came.

    An image is not attacked in a ball in which it was broken before; in a cell it leaves as soon as it is broken. So
    every image is broken that one of the cells would break in its ball. What looks for the smallest change is run to
    its end, on the images that are not broken at the smallest eps of the others; so is what is made on a surrogate,
    which cannot tell whom it broke.

    Returns:
        For each cell that somebody was left for a piece of all images, those that were not attacked neither fooled nor
        accepted; "tried" says which were, "cost" what it took. Success is of those tried, and no measure of the attack:
        the easy images are gone.
    """
    cost = {planned: campaign.passes(planned) for planned in cells}
    smallest = min((planned.eps for planned in cells if not _minimal(planned)), default=0.0)
    reach = {planned: smallest if _minimal(planned) else planned.eps for planned in cells}
    pixels, found = campaign.sample.pixels, []
    balls = {(planned.value.ball, reach[planned]) for planned in cells}
    broken = {ball: torch.zeros(len(campaign), dtype=torch.bool) for ball in balls}
    meter = Meter(progress, sum(cost.values()))
    for planned in sorted(cells, key=lambda planned: (reach[planned], cost[planned])):
        told = meter.part(cost[planned], planned.id)
        left = (~broken[planned.value.ball, reach[planned]]).nonzero().squeeze(1)
        if not len(left):
            continue
        if not (_minimal(planned) or planned.transferred):
            planned = replace(planned, until="broken")
        piece = campaign.only(left).attack(planned, told)
        for (ball, eps), gone in broken.items():
            gone[left] |= broken_by(piece) & within(piece, pixels[left], ball, eps)
        found.append((planned, {**elsewhere_nothing(piece, left, len(campaign)), "cost": piece["cost"]}))
    return found


def _minimal(planned: Planned) -> bool:
    return find_attack(planned.attack).minimal
