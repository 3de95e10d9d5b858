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
from medaegis.bench.campaign import Campaign
from medaegis.bench.checks import alarms
from medaegis.bench.checks.controls import FULL, TOLERATED, falls_of, far_out
from medaegis.bench.checks.exact import AtMost, at_least, check, shown
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
        *alarms.steps_beat_one(bounded),
        *alarms.knowledge_helps([*bounded, *transferred_ones(outcomes)], adaptive=False),
    ]
    further = [_guessing] if alarms.guessing_is_missing(bounded, adaptive=False) else []
    if plain:
        found.append(_full_success(campaign, plain, progress))
        further.insert(0, _more_steps)
    more: list[tuple[Planned, Piece]] = []
    for run in further:
        alarm, outcome = run(campaign, bounded, progress)
        found.append(alarm)
        more += outcome
    task = campaign.victim.exact.task
    if task.name != "single":
        found = [one.model_copy(update={"detail": f"{one.detail} {HARM[task.name]}".strip()}) for one in found]
    return found + alarms.gradient_alarms(campaign, own, CarliniWagner()), more


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
    return [
        check(
            [claim for curve in curves.values() for claim in falls_of(curve)],
            name="More change, more success",
            expectation="the success of no iterated attack falls as eps grows, "
            f"{100 * TOLERATED:g} points of the same images let pass",
            measured=", ".join(f"{name} {' / '.join(map(shown, curve))}" for name, curve in curves.items()),
        )
    ]


def _full_success(campaign: Campaign, plain: Outcomes, progress: Progress) -> Control:
    few = campaign.only(campaign.few(campaign.effort.far))
    cells = far_out((planned for planned, _ in plain), campaign.effort.far_eps)
    fooled = {p.attack: _harm(few.attack(p, progress)) > LOST for p in cells}
    return check(
        [at_least(int(hits.sum()), len(hits), FULL) for hits in fooled.values()],
        name=f"Full success far out, {cells[0].eps_text}",
        expectation=f"every iterated white-box attack on the answer alone reaches {FULL:.0%}",
        measured=", ".join(f"{attack} {shown(hits)}" for attack, hits in fooled.items()),
        detail=f"On {len(few)} images. An attack that fails here is stuck, and its failure at a smaller eps "
        "says nothing about the classifier.",
    )


def _more_steps(campaign: Campaign, bounded: Outcomes, progress: Progress) -> tuple[Control, Outcomes]:
    """PGD, or the first plain attack there is, with ten times the steps where it did not break all."""
    plain = [(p, piece) for p, piece in bounded if _plain(p)]
    names = [planned.attack for planned, _ in plain]
    attack = "pgd" if "pgd" in names else names[0]
    rows = campaign.few(campaign.effort.far)
    found = sorted(((p, _harm(piece)[rows]) for p, piece in plain if p.attack == attack), key=lambda pair: pair[0].eps)
    short = [pair for pair in found if float(pair[1].float().mean()) < FULL]
    planned, usual = max(short, key=lambda pair: pair[0].eps, default=found[0])
    name = f"More steps change little, {planned.eps_text}"
    longer = replace(planned, steps=LONGER * planned.value.steps, check=name)
    piece = campaign.only(rows).attack(longer, progress)
    here = [_harm(other)[rows] for p, other in bounded if (p.eps, p.value.ball.name) == (planned.eps, "linf")]
    more = _harm(piece)
    added = more - torch.stack(here).amax(0) > SLIGHT
    alarm = check(
        [*falls_of([usual, more]), AtMost(int(added.sum()), len(added), alarms.ADDED)],
        kind="alarm",
        name=name,
        expectation=f"{attack} with {LONGER} times the steps turns no fewer ({100 * TOLERATED:g} points let pass), and "
        f"adds at most {alarms.ADDED:.0%} to what all attacks turned",
        measured=f"{planned.value.steps} steps: {shown(usual)}, {longer.value.steps} steps: {shown(more)}; "
        f"{shown(added)} added",
        detail=f"On {len(rows)} images. Where many more fall, take more --steps; they count in the worst case.",
    )
    return alarm, [(longer, elsewhere_nothing(piece, rows, len(campaign)))]


def _guessing(campaign: Campaign, bounded: Outcomes, progress: Progress) -> tuple[Control, Outcomes]:
    return alarms.run_guessing(campaign, bounded, progress, attack="square", harm=_harm)


def _harm(piece: Piece) -> Tensor:
    return harm_of(piece, piece["fooled"])
