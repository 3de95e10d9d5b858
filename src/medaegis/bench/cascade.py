"""A whole suite for what it takes to break each image once: where only the worst case of each image is asked for.

Small radii come first, and at each the cheapest attack; a cell is run on the images that none before it broke.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from medaegis.attacks.balls import Ball
from medaegis.attacks.catalogue import find_attack
from medaegis.bench.campaign import Campaign
from medaegis.bench.metrics import share_interval
from medaegis.bench.outcome import Outcomes, broken_by, elsewhere_nothing, within
from medaegis.bench.plan import Planned, norm_name
from medaegis.bench.records.evaluation import Cascaded
from medaegis.bench.sample import Sample
from medaegis.bench.store import Piece
from medaegis.bench.worst_case import Reached
from medaegis.errors import ConfigError
from medaegis.progress import Meter, Progress, silent


def check_cascade(images: int | None, limit: int | None) -> None:
    """Whether a cascade over so many test images is over more than are attacked anyway.

    Raises:
        ConfigError: it is not.
    """
    if images is not None and (limit is None or images <= limit):
        attacked = "all are attacked" if limit is None else f"{limit} are attacked"
        raise ConfigError(f"cascade {images}", f"{attacked} by every attack anyway", "give more, or a smaller limit")


def run_cascade(
    campaign: Campaign,
    sample: Sample,
    cells: Sequence[Planned],
    outcomes: Outcomes,
    places: Sequence[tuple[str, float, Ball]],
    progress: Progress,
) -> list[Cascaded]:
    """How many of more images any of the cells breaks.

    Args:
        campaign: of the images that every cell was run on to its end, with these outcomes, which count.
        sample: more images, those among them.
        places: eps, as text and in pixel units, and balls to count in.
    """
    rows = torch.isin(sample.ids, campaign.sample.ids).nonzero().squeeze(1)
    known = [(planned, elsewhere_nothing(piece, rows, len(sample))) for planned, piece in outcomes]
    found = [*known, *cascade(replace(campaign, sample=sample, alone=None), cells, known, progress)]
    told = []
    for text, eps, ball in places:
        broken = share_interval(Reached.of(found, sample.pixels, ball, eps).broken.any(0), sample.patients)
        norm, n = norm_name(ball), len(sample)
        told.append(Cascaded(eps=eps, eps_text=text, norm=norm, n=n, share=broken.value, interval=broken.bounds))
    return told


def cascade(
    campaign: Campaign, cells: Sequence[Planned], known: Outcomes = (), progress: Progress = silent
) -> list[tuple[Planned, Piece]]:
    """What breaks each image, as outcomes for the worst case (`Reached`, `worst_cases`), in the order they came.

    An image is not attacked in a ball in which it was broken before; in a cell it leaves as soon as it is broken. So
    every image is broken that one of the cells would break in its ball. What looks for the smallest change is run to
    its end, on the images that are not broken at the smallest eps of the others; so is what is made on a surrogate,
    which cannot tell whom it broke.

    Args:
        known: what is known of some of the images: what broke them in a ball, and which cells were run on them.

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
    tried = {planned: piece["tried"] for planned, piece in known}
    for _, piece in known:
        for (ball, eps), gone in broken.items():
            gone |= broken_by(piece) & within(piece, pixels, ball, eps)
    meter = Meter(progress, sum(cost.values()))
    for planned in sorted(cells, key=lambda planned: (reach[planned], cost[planned])):
        told = meter.part(cost[planned], planned.id)
        over = broken[planned.value.ball, reach[planned]]
        left = (~(over | tried.get(planned, torch.zeros_like(over)))).nonzero().squeeze(1)
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
