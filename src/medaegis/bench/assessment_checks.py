"""What must come out right in an assessment, or its figures are not to be relied on: controls, and alarms of masked
gradients (Carlini et al. 2019, On evaluating adversarial robustness, section 3.1).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from medaegis.attacks.catalogue import find_attack
from medaegis.attacks.engine import Attack
from medaegis.attacks.objectives import CarliniWagner, Goal
from medaegis.bench.alarms import (
    BETTER,
    PROBED,
    guessing_alarm,
    guessing_is_missing,
    knowledge_helps,
    slope_alarms,
    steps_beat_one,
)
from medaegis.bench.bare import Bare, Pictures
from medaegis.bench.controls import FULL, rises
from medaegis.bench.planned import Planned
from medaegis.bench.schema import Control
from medaegis.bench.store import Piece
from medaegis.progress import Progress

FAR_EPS = 64 / 256  # a quarter of the range, where no classifier can stand
FAR_IMAGES = 64
LONGER = 10  # times the steps
BLIND_STEPS, BLIND_IMAGES = 1000, 32

Outcomes = Sequence[tuple[Planned, Piece]]


def run_checks(bare: Bare, pictures: Pictures, outcomes: Outcomes, targeted: bool, progress: Progress) -> list[Control]:
    """Every control and alarm that applies to what was measured, by the first way through the Cushion.

    Args:
        pictures: those that were attacked, in the order of the outcomes' rows.
    """
    way = outcomes[0][0].gradient
    bounded = [(p, piece) for p, piece in outcomes if not find_attack(p.attack).minimal and p.gradient == way]
    plain = [(p, piece) for p, piece in bounded if _plain(p)]
    found = [*_more_change(bounded), *steps_beat_one(bounded), *knowledge_helps(bounded, adaptive=False)]
    if plain:
        found.append(_full_success(bare, pictures, plain, targeted, progress))
        found.append(_more_steps(bare, pictures, plain, targeted, progress))
    if guessing_is_missing(bounded, adaptive=False):
        found.append(_guessing(bare, pictures, bounded, targeted, progress))
    few = pictures[pictures.few(PROBED, bare.seed)]
    goal = Goal(few.labels, few.targets)
    return found + slope_alarms(bare.smooth, few.pixels, goal, few.ids, bare.seed, {"classifier": CarliniWagner()})


def _plain(planned: Planned) -> bool:
    """One attack by gradients in many steps, in L-infinity, that wants a wrong answer and nothing beside it."""
    entry, attack = find_attack(planned.attack), planned.value
    alone = not (attack.objective.needs_normal or attack.objective.needs_guides)
    many = isinstance(attack, Attack) and attack.steps > 1 and attack.ball.name == "linf"
    return many and alone and entry.access == "white-box" and entry.misleads


def _more_change(outcomes: Outcomes) -> list[Control]:
    """One step may go too far; what takes many must not."""
    shares: dict[str, dict[float, float]] = {}
    for planned, piece in outcomes:
        if planned.value.steps > 1 and find_attack(planned.attack).misleads:
            shares.setdefault(planned.attack, {})[planned.eps] = _success(piece)
    curves = {name: [by[eps] for eps in sorted(by)] for name, by in shares.items() if len(by) > 1}
    if not curves:
        return []
    return [
        Control(
            name="More change, more success",
            expectation="the success of every iterated attack rises with eps",
            measured=", ".join(f"{name} {_listed(curve)}" for name, curve in curves.items()),
            passed=all(rises(curve) for curve in curves.values()),
        )
    ]


def _full_success(bare: Bare, pictures: Pictures, plain: Outcomes, targeted: bool, progress: Progress) -> Control:
    far = max(FAR_EPS, *(planned.eps for planned, _ in plain))
    text = f"{far * 256:g}/256"
    few, shares = pictures[pictures.few(FAR_IMAGES, bare.seed)], {}
    for planned in {p.attack: p for p, _ in plain}.values():
        piece = bare.attack(planned.value, few, far, targeted=targeted, gradient=planned.gradient, progress=progress)
        shares[planned.attack] = _success(piece)
    return Control(
        name=f"Full success far out, {text}",
        expectation=f"every iterated white-box attack on the answer alone reaches {FULL:.0%}",
        measured=", ".join(f"{attack} {share:.1%}" for attack, share in shares.items()),
        passed=min(shares.values()) >= FULL,
        detail=f"On {len(few)} images. An attack that fails here is stuck, and its failure at a smaller eps "
        "says nothing about the classifier.",
    )


def _more_steps(bare: Bare, pictures: Pictures, plain: Outcomes, targeted: bool, progress: Progress) -> Control:
    """PGD, or the first there is, with ten times the steps where it did not break all."""
    names = [planned.attack for planned, _ in plain]
    name = "pgd" if "pgd" in names else names[0]
    rows = pictures.few(FAR_IMAGES, bare.seed)
    few = pictures[rows]
    found = sorted(
        ((p, float(piece["fooled"][rows].float().mean())) for p, piece in plain if p.attack == name),
        key=lambda pair: pair[0].eps,
    )
    planned, usual = max((pair for pair in found if pair[1] < FULL), key=lambda pair: pair[0].eps, default=found[0])
    longer = replace(planned, steps=LONGER * planned.value.steps)
    more = _success(
        bare.attack(longer.value, few, planned.eps, targeted=targeted, gradient=planned.gradient, progress=progress)
    )
    return Control(
        kind="alarm",
        name=f"More steps do no worse, {planned.eps_text}",
        expectation=f"{name} with {LONGER} times the steps turns at least as many",
        measured=f"{planned.value.steps} steps: {usual:.1%}, {longer.value.steps} steps: {more:.1%}",
        passed=rises([usual, more]),
        detail=f"On {len(few)} images. Where many more fall, take more --steps.",
    )


def _guessing(bare: Bare, pictures: Pictures, bounded: Outcomes, targeted: bool, progress: Progress) -> Control:
    """Square on a few images, at the largest eps."""
    linf = [(p, piece) for p, piece in bounded if p.value.ball.name == "linf"]
    largest = max((p for p, _ in linf), key=lambda p: p.eps)
    square = Planned("square", largest.eps, largest.eps_text, steps=BLIND_STEPS)
    rows = pictures.few(BLIND_IMAGES, bare.seed)
    usual = torch.stack([piece["fooled"][rows] for p, piece in linf if p.eps == largest.eps]).any(0)

    def ask(left: Tensor) -> Tensor:
        piece = bare.attack(square.value, pictures[rows[left]], square.eps, targeted=targeted, progress=progress)
        return piece["fooled"]

    return guessing_alarm(usual, ask, text=largest.eps_text, queries=BLIND_STEPS, limit=BETTER)


def _success(piece: Piece) -> float:
    return float(piece["fooled"].float().mean())


def _listed(shares: Sequence[float]) -> str:
    return " / ".join(f"{share:.1%}" for share in shares)
