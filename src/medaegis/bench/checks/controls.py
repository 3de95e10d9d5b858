"""Controls: what must come out right in every evaluation, or the evaluation itself is broken (alarms are in `alarms`).

From the field's experience with broken defences (Carlini et al. 2019; Tramer et al. 2020): noise must pass, the attacks
must work where nothing protects, a deliberately weak Shield must fall, and more eps must end in full success. Shares
are judged by exact tests at the n there is (`exact`); where that is too small, they are not judged.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from medaegis.attacks.balls import Linf
from medaegis.attacks.catalogue import find_attack
from medaegis.bench.campaign import Campaign
from medaegis.bench.checks.exact import Gain, at_least, check, gain, shown
from medaegis.bench.outcome import Outcomes, broken_by
from medaegis.bench.plan import Planned
from medaegis.bench.records.evaluation import Control
from medaegis.bench.report.words import PLANTED, gradient_name
from medaegis.bench.sample import draw
from medaegis.bench.store import Piece
from medaegis.cushions import parse_cushion
from medaegis.detectors.shield import ShieldBank
from medaegis.draws import Draws
from medaegis.guard.calibration import set_guard_thresholds
from medaegis.guard.guard import Guard
from medaegis.guard.shield_config import ShieldConfig
from medaegis.guard.shield_training import ShieldTraining
from medaegis.guard.side_by_side import side_by_side
from medaegis.images.datasets import Dataset
from medaegis.images.splits import Split
from medaegis.progress import Progress

NOISE_EPS = 16 / 256
TOLERATED = 0.05  # difference between two shares of the same images that is let pass, were it known exactly
FULL = 0.99
EVERYWHERE = 0.95  # undetected success that more eps must reach
BROKEN = 0.90  # undetected success against the planted weakness
WAYS = "Ways through the Cushion"
FULL_SUCCESS = "More eps ends in full success (WB)"
PLANTED_EPS = 16 / 256


def run_controls(
    guard: Guard,
    dataset: Dataset,
    split: Split,
    campaign: Campaign,
    outcomes: Outcomes,
    *,
    planted: bool,
    progress: Progress,
    leading: str = "wb",
) -> list[Control]:
    """Every control that applies to what was measured.

    Args:
        leading: the attack that must end in full success, and be no weaker than by other ways through the Cushion.
    """
    controls = [_noise(guard, campaign), _extra_jpeg(guard, campaign)]
    controls += _undefended(campaign, outcomes, progress)
    if not any(planned.attack == leading for planned, _ in outcomes):
        asked = {WAYS: guard.cushion.spec != "none", FULL_SUCCESS: True, PLANTED: planted}
        return controls + [not_measured(name) for name, wanted in asked.items() if wanted]
    controls += _ways_through(outcomes, leading)
    controls.append(_full_success(campaign, outcomes, progress, leading))
    if planted:
        longest = max((p for p, _ in outcomes if p.attack == "wb"), key=lambda p: (p.value.steps, p.samples))
        controls.append(_planted_weakness(guard, dataset, split, campaign, progress, like=longest))
    return controls


def attacks_ahead(campaign: Campaign, cells: Sequence[Planned], *, planted: bool) -> int:
    """How many attacks and trainings `run_controls` will make, for an estimate of what is left."""
    far = campaign.effort.far_eps
    largest = max((p.eps for p in cells if p.attack == "wb"), default=far)
    farther = sum(eps > largest for eps in (far / 2, far))
    weak = 2 * (planted and any(p.attack == "wb" for p in cells))
    return len(far_out(filter(_must_win, cells), far)) + farther + weak


def not_measured(name: str, kind: Literal["control", "alarm"] = "control") -> Control:
    """The row of a check that WB makes, where WB is not among the attacks."""
    return Control(
        kind=kind, name=name, expectation="WB is among the attacks", measured="not measured: no wb", passed=None
    )


def _noise(guard: Guard, campaign: Campaign) -> Control:
    rows = _harmless(campaign)
    x = campaign.sample.test.pixels(rows)
    eps = torch.full_like(x[:, :1, :1, :1], NOISE_EPS)
    ball = Linf()
    noisy = ball.random(x, eps, Draws(campaign.seed, campaign.sample.test.ids[rows], "noise"))
    return _as_clean(guard, campaign, ball.to_8bit(noisy, x, eps), "Random noise of 16/256")


def _extra_jpeg(guard: Guard, campaign: Campaign) -> Control:
    again = parse_cushion("jpeg:90")(campaign.sample.test.pixels(_harmless(campaign)))
    return _as_clean(guard, campaign, again, "One more JPEG pass at quality 90")


def _harmless(campaign: Campaign) -> torch.Tensor:
    """Rows of the test images that harmless changes are tried on: the chosen ones, or more where those are few."""
    if len(campaign.sample.chosen) >= campaign.effort.harmless:
        return campaign.sample.chosen
    return draw(campaign.sample.test.strata[0], campaign.effort.harmless, campaign.seed)


def _as_clean(guard: Guard, campaign: Campaign, images: torch.Tensor, name: str) -> Control:
    """`images`: changed ones, of `_harmless`."""
    rows = _harmless(campaign)
    clean = campaign.sample.clean.accepted[rows]
    accepted = guard.judge(images, ids=campaign.sample.test.ids[rows], seed=campaign.seed).accepted
    return check(
        [gain(clean, accepted, TOLERATED), gain(accepted, clean, TOLERATED)],
        name=name,
        expectation=f"as many accepted as of the same clean images, {_points(TOLERATED)} more or fewer let pass",
        measured=f"{shown(accepted)} accepted, clean {shown(clean)}",
        detail=f"{len(images)} images. A guard that rejects harmless changes cries wolf, which is no robustness.",
    )


def far_out(cells: Iterable[Planned], eps: float) -> list[Planned]:
    """Each attack once, at this eps, where nothing can stand, or at its largest eps if that is farther."""
    cells = list(cells)
    far = max([eps, *(planned.eps for planned in cells)])
    return [replace(p, eps=far, eps_text=f"{far * 256:g}/256") for p in {p.attack: p for p in cells}.values()]


def _undefended(campaign: Campaign, outcomes: Outcomes, progress: Progress) -> list[Control]:
    """The same attacks, far out on a few images, where nothing protects, and behind the Cushion alone.

    Of white-box attacks that aim at a wrong answer within an eps, image by image: one by answers may run out of
    queries, one that imitates features may do so without a wrong answer, one that looks for the smallest change knows
    no eps, one that is learned need not fool for all, nor one that is confined to smooth changes or the like, and none
    of that is a fault of the evaluation.
    """
    cells = far_out((planned for planned, _ in outcomes if _must_win(planned)), campaign.effort.far_eps)
    if not cells:
        return []
    small = campaign.only(campaign.few(campaign.effort.far))
    pieces = {planned.attack: small.attack(planned, progress) for planned in cells}
    rows = {"Attacks on the classifier alone": "fooled_bare", "Attacks through the Cushion, without Shield": "fooled"}
    return [
        check(
            [at_least(int(piece[key].sum()), len(piece[key]), FULL) for piece in pieces.values()],
            name=f"{name}, {cells[0].eps_text}",
            expectation=f"every iterated white-box attack on the answer succeeds on at least {FULL:.0%}",
            measured=", ".join(f"{attack} {shown(piece[key])}" for attack, piece in pieces.items()),
            detail=f"On {len(small)} images. If they failed here, their failure against the guard would say nothing.",
        )
        for name, key in rows.items()
    ]


def _must_win(planned: Planned) -> bool:
    entry, attack = find_attack(planned.attack), planned.value
    iterated = attack.steps > 1 and attack.ball.name == "linf" and not attack.learns
    aims = entry.misleads and not (entry.adaptive or entry.minimal or entry.confined)
    return iterated and aims and planned.access == "white-box"


def _name(leading: str) -> str:
    """As the names of controls have it."""
    return "WB" if leading == "wb" else leading


def _ways_through(outcomes: Outcomes, leading: str = "wb") -> list[Control]:
    """WB through the Cushion by every gradient there is: none of them may do much better than the one used."""
    found: dict[tuple[str, int], dict[str, Piece]] = {}
    for planned, piece in outcomes:
        if planned.attack == leading:
            found.setdefault((planned.eps_text, planned.value.steps), {})[planned.gradient] = piece
    controls = []
    for (eps, steps), by_way in found.items():
        if len(by_way) < 2:
            continue
        used, *others = map(broken_by, by_way.values())
        controls.append(
            check(
                [gain(other, used, TOLERATED) for other in others],
                name=f"{WAYS}, {_name(leading)} at {eps}, {steps} steps",
                expectation="no other way gets more of the same images through than the one used everywhere, "
                f"{_points(TOLERATED)} let pass",
                measured=", ".join(f"{gradient_name(way)} {shown(broken_by(hit))}" for way, hit in by_way.items()),
                detail="A Shield can hide behind the Cushion's rounding, where no gradient leads, and look robust. "
                "Should this fail, evaluate with the --gradient that gets most through.",
            )
        )
    return controls


def _full_success(campaign: Campaign, outcomes: Outcomes, progress: Progress, leading: str = "wb") -> Control:
    """WB's undetected success over eps must rise to nearly all images."""
    found = [(p, piece) for p, piece in outcomes if p.attack == leading]
    longest = max((p for p, _ in found), key=lambda p: p.value.steps)
    broken = {
        p.eps: broken_by(piece)
        for p, piece in found
        if (p.value.steps, p.gradient) == (longest.value.steps, longest.gradient)
    }
    measured, places = sorted(broken), campaign.few(campaign.effort.far)
    falls = falls_of([broken[eps] for eps in measured])
    before = broken[measured[-1]][places]
    small = campaign.only(places)
    for eps in (campaign.effort.far_eps / 2, campaign.effort.far_eps):
        if eps > measured[-1]:
            planned = replace(longest, eps=eps, eps_text=f"{eps * 256:g}/256", until="broken")
            piece = small.attack(planned, progress)
            broken[eps] = broken_by(piece)
            falls += falls_of([before, broken[eps]])
            before = broken[eps]
    # It is enough to reach it at one eps: where the data speak least against it.
    reached = max((at_least(int(hits.sum()), len(hits), EVERYWHERE) for hits in broken.values()), key=lambda c: c.p)
    return check(
        [*falls, reached],
        name=FULL_SUCCESS.replace("WB", _name(leading)),
        expectation=f"undetected success does not fall as eps grows, {_points(TOLERATED)} let pass, and reaches "
        f"{EVERYWHERE:.0%} somewhere (up to {campaign.effort.far_eps * 256:g}/256)",
        measured=", ".join(f"{eps * 256:g}/256: {shown(broken[eps])}" for eps in sorted(broken)),
        detail="A curve that stays flat would mean that the attack is stuck, not that the guard is strong.",
    )


def falls_of(hits: Sequence[Tensor]) -> list[Gain]:
    """The claims that success does not fall from one to the next; bool `(N,)` each, of the same images."""
    return [gain(earlier, later, TOLERATED) for earlier, later in pairwise(hits)]


def _points(share: float) -> str:
    return f"{100 * share:g} points"


def _planted_weakness(
    guard: Guard, dataset: Dataset, split: Split, campaign: Campaign, progress: Progress, *, like: Planned
) -> Control:
    """A Shield trained at 1/256 only must be broken by WB, as long as the guard was attacked."""
    learn = dataset.subset([*split.train, *split.adv_train])
    config = ShieldConfig(
        taps=guard.bank.taps,
        updates=campaign.effort.planted,
        batch_size=16,
        eps_start=1 / 256,
        eps_end=1 / 256,
        inner_steps=3,
        seed=campaign.seed,
    )
    made_of = hashlib.sha256(f"{guard.fingerprint()} {config.model_dump_json()}".encode()).hexdigest()[:16]
    folder = campaign.store.folder.with_name("planted") / made_of
    trainings = [
        ShieldTraining(guard.classifier, guard.cushion, learn, label, config, folder / str(label))
        for label in range(len(guard.classes))
    ]
    shields = side_by_side(trainings, progress)
    weak = Guard(guard.classifier, guard.cushion, ShieldBank(shields), tnr=guard.tnr)
    set_guard_thresholds(weak, dataset, split.val)
    eps_text = f"{PLANTED_EPS * 256:g}/256"
    planned = Planned("wb", PLANTED_EPS, eps_text, steps=like.steps, samples=like.samples, until="broken")
    piece = campaign.only(campaign.few(campaign.effort.far)).against(weak).attack(planned, progress)
    hits = broken_by(piece)
    return check(
        [at_least(int(hits.sum()), len(hits), BROKEN)],
        name=PLANTED,
        expectation=f"WB at {eps_text} gets at least {BROKEN:.0%} through undetected",
        measured=f"{shown(hits)} undetected ({len(hits)} images)",
        detail="Shows that the attacks find a Shield that is weak by construction.",
    )
