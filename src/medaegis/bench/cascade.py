"""A whole suite for what it takes to break each image once: where only the worst case of each image is asked for.

At each radius the cheapest attack comes first; a cell is run on the images that none before it broke. What holds at a
radius holds at a smaller one, where the attacks find what there is to find. Images on which every cell was run tell
whether they do; then large radii come first, and an image that holds is left alone. Else small radii come first, and
every image that holds is attacked at each.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import pairwise

import torch
from torch import Tensor

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

ENOUGH = 30  # images that tell whether larger changes break what smaller ones do


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
    nested = larger_breaks_more(campaign, outcomes)
    rows = torch.isin(sample.ids, campaign.sample.ids).nonzero().squeeze(1)
    known = [(planned, elsewhere_nothing(piece, rows, len(sample))) for planned, piece in outcomes]
    wide = replace(campaign, sample=sample, alone=None)
    found = [*known, *cascade(wide, cells, known, progress, nested=nested)]
    told, checked = [], len(campaign) if nested else 0
    for text, eps, ball in places:
        broken = share_interval(Reached.of(found, sample.pixels, ball, eps).broken.any(0), sample.patients)
        norm, n = norm_name(ball), len(sample)
        share, interval = broken.value, broken.bounds
        told.append(Cascaded(eps=eps, eps_text=text, norm=norm, n=n, share=share, interval=interval, checked=checked))
    return told


def larger_breaks_more(campaign: Campaign, outcomes: Outcomes) -> bool:
    """Whether every image that the cells of one radius break is broken by those of the next larger one in that ball;
    few images do not tell.
    """
    if len(campaign) < ENOUGH:
        return False
    at: dict[tuple[Ball, float], Tensor] = {}
    for planned, piece in outcomes:
        if not (planned.check or _minimal(planned)):
            place = (planned.value.ball, planned.eps)
            at[place] = at.get(place, torch.zeros(len(campaign), dtype=torch.bool)) | broken_by(piece)
    return all((at[ball, larger] | ~at[ball, eps]).all() for (ball, eps), larger in _next_larger(at).items())


def _next_larger(places: Iterable[tuple[Ball, float]]) -> dict[tuple[Ball, float], float]:
    """Of each radius that is not the largest of its ball the next one."""
    by_ball: dict[Ball, list[float]] = {}
    for ball, eps in sorted(places, key=lambda place: place[1]):
        by_ball.setdefault(ball, []).append(eps)
    return {(ball, eps): larger for ball, radii in by_ball.items() for eps, larger in pairwise(radii)}


def cascade(
    campaign: Campaign,
    cells: Sequence[Planned],
    known: Outcomes = (),
    progress: Progress = silent,
    *,
    nested: bool = False,
) -> list[tuple[Planned, Piece]]:
    """What breaks each image, as outcomes for the worst case (`Reached`, `worst_cases`), in the order they came.

    An image is not attacked in a ball in which it was broken before; in a cell it leaves as soon as it is broken. So
    every image is broken that one of the cells would break in its ball. What looks for the smallest change is run to
    its end, on the images that are not broken at the smallest eps of the others; so is what is made on a surrogate,
    which cannot tell whom it broke.

    Args:
        known: what is known of some of the images: what broke them in a ball, and which cells were run on them.
        nested: large radii come first, and an image that none of the cells breaks at one is not attacked at smaller
            ones in that ball. Then an image is missed where only the cells of a smaller radius break it.

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
    larger = _next_larger(balls) if nested else {}

    def order(planned: Planned) -> tuple[float, int]:
        if not nested:
            return reach[planned], cost[planned]
        return -math.inf if _minimal(planned) else -reach[planned], cost[planned]

    meter = Meter(progress, sum(cost.values()))
    for planned in sorted(cells, key=order):
        told = meter.part(cost[planned], planned.id)
        place = (planned.value.ball, reach[planned])
        over = broken[place] | tried.get(planned, torch.zeros_like(broken[place]))
        if place in larger and not _minimal(planned):
            over = over | ~broken[place[0], larger[place]]
        left = (~over).nonzero().squeeze(1)
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
