"""What must come out right in an assessment, or its figures are not to be relied on: controls, and alarms of masked
gradients (Carlini et al. 2019, On evaluating adversarial robustness, section 3.1). Shares are judged by exact tests
(`exact`).

Of findings and masks it is compared how much of each answer is lost.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from medaegis.attacks.catalogue import find_attack
from medaegis.attacks.engine import Attack
from medaegis.attacks.losses.answer import CarliniWagner
from medaegis.attacks.objective import Goal
from medaegis.bench.campaign import Campaign
from medaegis.bench.checks.alarms import (
    ADDED,
    followed,
    guessing_alarm,
    guessing_is_missing,
    knowledge_helps,
    slope_alarms,
    square_check,
    steps_beat_one,
)
from medaegis.bench.checks.controls import FULL, TOLERATED, falls_of, far_out
from medaegis.bench.checks.exact import AtMost, at_least, judge
from medaegis.bench.outcome import Outcomes, elsewhere_nothing, harm_of, own_ones, transferred_ones
from medaegis.bench.plan import Planned
from medaegis.bench.records.evaluation import Control
from medaegis.bench.records.quality import LOST, SLIGHT
from medaegis.bench.report.quality import HARM
from medaegis.bench.store import Piece
from medaegis.progress import Progress, Stages

LONGER = 10  # times the steps


def run_checks(campaign: Campaign, outcomes: Outcomes, progress: Progress) -> tuple[list[Control], Outcomes]:
    """Every control and alarm that applies to what was measured, by the first way through the Cushion.

    Returns:
        Them, and the outcomes of further attacks on few images, in which the others are not fooled, for the worst case.
    """
    own = own_ones(outcomes)
    way = own[0][0].gradient
    bounded = [(p, piece) for p, piece in own if not find_attack(p.attack).minimal and p.gradient == way]
    plain = [(p, piece) for p, piece in bounded if _plain(p)]
    progress = Stages(progress, len(far_out((p for p, _ in plain), campaign.effort.far_eps)) + 2)
    found = [
        *_more_change(bounded),
        *steps_beat_one(bounded),
        *knowledge_helps([*bounded, *transferred_ones(outcomes)], adaptive=False),
    ]
    further = [_guessing] if guessing_is_missing(bounded, adaptive=False) else []
    if plain:
        found.append(_full_success(campaign, plain, progress))
        further.insert(0, _more_steps)
    more: list[tuple[Planned, Piece]] = []
    for run in further:
        alarm, outcome = run(campaign, bounded, progress)
        found.append(alarm)
        more += outcome
    few, victim = campaign.only(campaign.few(campaign.effort.probed)).sample, campaign.smooth
    task = victim.exact.task
    goal = Goal(few.labels, None if campaign.aim == "any wrong class" else few.targets, task=task)
    losses = followed(own, len(victim.exact.classes), CarliniWagner())
    if task.name != "single":
        found = [one.model_copy(update={"detail": f"{one.detail} {HARM[task.name]}".strip()}) for one in found]
    found += slope_alarms(victim, few.pixels, goal, few.ids, few.seed, losses)
    return found, more


def _plain(planned: Planned) -> bool:
    """One attack by gradients in many steps, anywhere in L-infinity, that wants a wrong answer and nothing else."""
    entry, attack = find_attack(planned.attack), planned.value
    alone = not (attack.objective.needs_normal or attack.objective.needs_guides)
    many = isinstance(attack, Attack) and attack.steps > 1 and attack.ball.name == "linf"
    return many and alone and entry.access == "white-box" and entry.misleads and not entry.confined


def _more_change(outcomes: Outcomes) -> list[Control]:
    """One step may go too far; what takes many must not."""
    fooled: dict[str, dict[float, Tensor]] = {}
    for planned, piece in outcomes:
        if planned.value.steps > 1 and find_attack(planned.attack).misleads:
            fooled.setdefault(planned.attack, {})[planned.eps] = _harm(piece)
    curves = {name: [by[eps] for eps in sorted(by)] for name, by in fooled.items() if len(by) > 1}
    if not curves:
        return []
    passed, judged = judge([claim for curve in curves.values() for claim in falls_of(curve)])
    return [
        Control(
            name="More change, more success",
            expectation="the success of no iterated attack falls as eps grows, "
            f"{100 * TOLERATED:g} points of the same images let pass",
            measured=", ".join(f"{name} {' / '.join(map(_share, curve))}" for name, curve in curves.items()),
            passed=passed,
            judged=judged,
        )
    ]


def _full_success(campaign: Campaign, plain: Outcomes, progress: Progress) -> Control:
    few = campaign.only(campaign.few(campaign.effort.far))
    cells = far_out((planned for planned, _ in plain), campaign.effort.far_eps)
    fooled = {p.attack: _harm(few.attack(p, progress)) > LOST for p in cells}
    passed, judged = judge([at_least(int(hits.sum()), len(hits), FULL) for hits in fooled.values()])
    return Control(
        name=f"Full success far out, {cells[0].eps_text}",
        expectation=f"every iterated white-box attack on the answer alone reaches {FULL:.0%}",
        measured=", ".join(f"{attack} {_share(hits)}" for attack, hits in fooled.items()),
        passed=passed,
        judged=judged,
        detail=f"On {len(few)} images. An attack that fails here is stuck, and its failure at a smaller eps "
        "says nothing about the classifier.",
    )


def _more_steps(campaign: Campaign, bounded: Outcomes, progress: Progress) -> tuple[Control, Outcomes]:
    """PGD, or the first plain attack there is, with ten times the steps where it did not break all."""
    plain = [(p, piece) for p, piece in bounded if _plain(p)]
    names = [planned.attack for planned, _ in plain]
    name = "pgd" if "pgd" in names else names[0]
    rows = campaign.few(campaign.effort.far)
    found = sorted(((p, _harm(piece)[rows]) for p, piece in plain if p.attack == name), key=lambda pair: pair[0].eps)
    short = [pair for pair in found if float(pair[1].float().mean()) < FULL]
    planned, usual = max(short, key=lambda pair: pair[0].eps, default=found[0])
    check = f"More steps change little, {planned.eps_text}"
    longer = replace(planned, steps=LONGER * planned.value.steps, check=check)
    piece = campaign.only(rows).attack(longer, progress)
    turned = _at(bounded, planned.eps, rows)
    more = _harm(piece)
    added = more - turned > SLIGHT
    passed, judged = judge([*falls_of([usual, more]), AtMost(int(added.sum()), len(added), ADDED)])
    alarm = Control(
        kind="alarm",
        name=check,
        expectation=f"{name} with {LONGER} times the steps turns no fewer ({100 * TOLERATED:g} points let pass), and "
        f"adds at most {ADDED:.0%} to what all attacks turned",
        measured=f"{planned.value.steps} steps: {_share(usual)}, {longer.value.steps} steps: {_share(more)}; "
        f"{_share(added)} added",
        passed=passed,
        judged=judged,
        detail=f"On {len(rows)} images. Where many more fall, take more --steps; they count in the worst case.",
    )
    return alarm, [(longer, elsewhere_nothing(piece, rows, len(campaign)))]


def _guessing(campaign: Campaign, bounded: Outcomes, progress: Progress) -> tuple[Control, Outcomes]:
    """Square on a few images, at the largest eps."""
    largest = max((p for p, _ in bounded if p.value.ball.name == "linf"), key=lambda p: p.eps)
    square = square_check("square", largest, campaign.effort.queries)
    rows, more = campaign.few(campaign.effort.guessed), []

    def ask(left: Tensor) -> Tensor:
        piece = campaign.only(rows[left]).attack(square, progress)
        more.append((square, elsewhere_nothing(piece, rows[left], len(campaign))))
        return _harm(piece)

    return guessing_alarm(square, _at(bounded, largest.eps, rows), ask), more


def _at(outcomes: Outcomes, eps: float, rows: Tensor) -> Tensor:
    """How far any attack in L-infinity harmed each of these images at this eps."""
    here = [_harm(piece) for p, piece in outcomes if (p.eps, p.value.ball.name) == (eps, "linf")]
    return torch.stack([harm[rows] for harm in here]).amax(0)


def _harm(piece: Piece) -> Tensor:
    return harm_of(piece, piece["fooled"])


def _share(hits: Tensor) -> str:
    return f"{float(hits.float().mean()):.1%}"
