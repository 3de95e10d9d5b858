"""Controls: what must come out right in every evaluation, or the evaluation itself is broken (alarms are in `alarms`).

From the field's experience with broken defences (Carlini et al. 2019; Tramer et al. 2020): noise must pass, the attacks
must work where nothing protects, a deliberately weak Shield must fall, and more eps must end in full success.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Literal

import torch

from medaegis.attacks.balls import Linf
from medaegis.attacks.catalogue import find_attack
from medaegis.attacks.engine import generator
from medaegis.attacks.universal import Universal
from medaegis.bench.chosen import draw
from medaegis.bench.field import Field
from medaegis.bench.pieces import Outcomes, undetected
from medaegis.bench.planned import Planned
from medaegis.bench.schema import Control
from medaegis.bench.words import gradient_name
from medaegis.cushions import parse_cushion
from medaegis.detectors.shield import ShieldBank
from medaegis.guard.calibration import set_guard_thresholds
from medaegis.guard.guard import Guard
from medaegis.guard.shield_training import ShieldConfig, ShieldTraining
from medaegis.images.datasets import Dataset
from medaegis.images.splits import Split
from medaegis.progress import Progress

NOISE_EPS = 16 / 256
HARMLESS_IMAGES = 200  # at least, where there are so many: of ten images one alone would decide
TOLERANCE = 0.10  # difference in acceptance that noise may make
FULL = 0.99
FAR_EPS = 64 / 256  # a quarter of the range, where nothing can stand
FAR_IMAGES = 64
WAYS = "Ways through the Cushion"
FULL_SUCCESS = "More eps ends in full success (WB)"
PLANTED = "Planted weakness: a Shield trained at 1/256 only"
PLANTED_UPDATES = 150
PLANTED_EPS = 16 / 256


def run_controls(
    guard: Guard,
    dataset: Dataset,
    split: Split,
    field: Field,
    outcomes: Outcomes,
    *,
    planted: bool,
    progress: Progress,
) -> list[Control]:
    """Every control that applies to what was measured."""
    controls = [_noise(guard, field), _extra_jpeg(guard, field)]
    controls += _undefended(field, outcomes, progress)
    if not any(planned.attack == "wb" for planned, _ in outcomes):
        asked = {WAYS: guard.cushion.spec != "none", FULL_SUCCESS: True, PLANTED: planted}
        return controls + [not_measured(name) for name, wanted in asked.items() if wanted]
    controls += _ways_through(outcomes)
    controls.append(_full_success(field, outcomes, progress))
    if planted:
        samples = max(planned.samples for planned, _ in outcomes)
        controls.append(_planted_weakness(guard, dataset, split, field, progress, samples=samples))
    return controls


def not_measured(name: str, kind: Literal["control", "alarm"] = "control") -> Control:
    """The row of a check that WB makes, where WB is not among the attacks."""
    return Control(
        kind=kind, name=name, expectation="WB is among the attacks", measured="not measured: no wb", passed=None
    )


def _noise(guard: Guard, field: Field) -> Control:
    rows = _harmless(field)
    x = field.test.pixels(rows)
    eps = torch.full((len(x), 1, 1, 1), NOISE_EPS)
    ball = Linf()
    noisy = ball.random(x, eps, [generator(field.seed, int(i), 0) for i in field.test.ids[rows]])
    return _as_clean(guard, field, ball.to_8bit(noisy, x, eps), "Random noise of 16/256")


def _extra_jpeg(guard: Guard, field: Field) -> Control:
    again = parse_cushion("jpeg:90")(field.test.pixels(_harmless(field)))
    return _as_clean(guard, field, again, "One more JPEG pass at quality 90")


def _harmless(field: Field) -> torch.Tensor:
    """Rows of the test images that harmless changes are tried on: the chosen ones, or more where those are few."""
    if len(field.chosen) >= HARMLESS_IMAGES:
        return field.chosen
    return draw(field.test.labels, HARMLESS_IMAGES, field.seed)


def _as_clean(guard: Guard, field: Field, images: torch.Tensor, name: str) -> Control:
    """`images`: changed ones, of `_harmless`."""
    rows = _harmless(field)
    clean, ids = float(field.clean.accepted[rows].float().mean()), field.test.ids[rows]
    accepted = float(guard.judge(images, ids=ids, seed=field.seed).accepted.float().mean())
    return Control(
        name=name,
        expectation=f"accepted within {TOLERANCE:.0%} of clean images",
        measured=f"{accepted:.1%} accepted, clean {clean:.1%}",
        passed=abs(accepted - clean) <= TOLERANCE,
        detail=f"{len(images)} images. A guard that rejects harmless changes cries wolf, which is no robustness.",
    )


def far_out(cells: Iterable[Planned]) -> list[Planned]:
    """Each attack once, at 64/256, where nothing can stand, or at its largest eps if that is farther."""
    cells = list(cells)
    far = max([FAR_EPS, *(planned.eps for planned in cells)])
    return [replace(p, eps=far, eps_text=f"{far * 256:g}/256") for p in {p.attack: p for p in cells}.values()]


def _undefended(field: Field, outcomes: Outcomes, progress: Progress) -> list[Control]:
    """The same attacks, far out on a few images, where nothing protects, and behind the Cushion alone.

    Of white-box attacks that aim at a wrong answer within an eps, image by image: one by answers may run out of
    queries, one that imitates features may do so without a wrong answer, one that looks for the smallest change knows
    no eps, a universal one need not fool for all, and none of that is a fault of the evaluation.
    """
    cells = far_out(planned for planned, _ in outcomes if _must_win(planned))
    if not cells:
        return []
    small = field.only(field.few(FAR_IMAGES))
    pieces = {planned.attack: small.attack(planned, progress) for planned in cells}
    rows = (
        ("Attacks on the classifier alone", "fooled_bare"),
        ("Attacks through the Cushion, without Shield", "fooled"),
    )
    controls = []
    for name, key in rows:
        shares = {attack: float(piece[key].float().mean()) for attack, piece in pieces.items()}
        controls.append(
            Control(
                name=f"{name}, {cells[0].eps_text}",
                expectation=f"every iterated white-box attack on the answer succeeds on more than {FULL:.0%}",
                measured=", ".join(f"{attack} {share:.1%}" for attack, share in shares.items()),
                passed=min(shares.values()) > FULL,
                detail=f"On {len(small.right)} images. If they failed here, their failure against the guard would say "
                "nothing.",
            )
        )
    return controls


def _must_win(planned: Planned) -> bool:
    entry, attack = find_attack(planned.attack), planned.value
    iterated = attack.steps > 1 and attack.ball.name == "linf" and not isinstance(attack, Universal)
    aims = entry.misleads and not entry.adaptive and not entry.minimal
    return iterated and aims and planned.access == "white-box"


def _ways_through(outcomes: Outcomes) -> list[Control]:
    """WB through the Cushion by every gradient there is: none of them may do much better than the one used."""
    shares: dict[tuple[float, int], dict[str, float]] = {}
    for planned, piece in outcomes:
        if planned.attack == "wb":
            broken = undetected(piece)
            shares.setdefault((planned.eps, planned.value.steps), {})[planned.gradient] = broken
    controls = []
    for (eps, steps), by_way in shares.items():
        if len(by_way) < 2:
            continue
        used, *others = by_way.values()
        controls.append(
            Control(
                name=f"{WAYS}, WB at {eps * 256:g}/256, {steps} steps",
                expectation=f"no other way gets {TOLERANCE:.0%} more through than the one used everywhere",
                measured=", ".join(f"{gradient_name(way)} {share:.1%}" for way, share in by_way.items()),
                passed=max(others) - used <= TOLERANCE,
                detail="A Shield can hide behind the Cushion's rounding, where no gradient leads, and look robust. "
                "Should this fail, evaluate with the --gradient that gets most through.",
            )
        )
    return controls


def _full_success(field: Field, outcomes: Outcomes, progress: Progress) -> Control:
    """WB's undetected success over eps must rise to nearly all images."""
    found = [(p, piece) for p, piece in outcomes if p.attack == "wb"]
    longest = max((p for p, _ in found), key=lambda p: p.value.steps)
    shares = {
        p.eps: undetected(piece)
        for p, piece in found
        if (p.value.steps, p.gradient) == (longest.value.steps, longest.gradient)
    }
    measured = max(shares)
    small = field.only(field.few(FAR_IMAGES))
    for eps in (FAR_EPS / 2, FAR_EPS):
        if eps > measured:
            piece = small.attack(replace(longest, eps=eps, eps_text=f"{eps * 256:g}/256"), progress)
            shares[eps] = undetected(piece)
    ordered = [shares[eps] for eps in sorted(shares)]
    return Control(
        name=FULL_SUCCESS,
        expectation="undetected success rises with eps and reaches 95 % somewhere (up to 64/256)",
        measured=", ".join(f"{eps * 256:g}/256: {shares[eps]:.1%}" for eps in sorted(shares)),
        passed=rises(ordered) and max(ordered) >= 0.95,
        detail="A curve that stays flat would mean that the attack is stuck, not that the guard is strong.",
    )


def rises(shares: Sequence[float]) -> bool:
    """Whether shares of success by growing eps never fall, but for what chance may do."""
    return all(later >= earlier - 0.05 for earlier, later in pairwise(shares))


def _planted_weakness(
    guard: Guard, dataset: Dataset, split: Split, field: Field, progress: Progress, *, samples: int = 1
) -> Control:
    """A Shield trained at 1/256 only must be broken by WB."""
    learn = dataset.subset([*split.train, *split.adv_train])
    config = ShieldConfig(
        taps=guard.bank.taps,
        updates=PLANTED_UPDATES,
        eps_start=1 / 256,
        eps_end=1 / 256,
        inner_steps=3,
        seed=field.seed,
    )
    made_of = hashlib.sha256(f"{guard.fingerprint()} {config.model_dump_json()}".encode()).hexdigest()[:16]
    shields = []
    for label in range(len(guard.classes)):
        folder = field.store.folder.with_name("planted") / made_of / str(label)
        training = ShieldTraining(guard.classifier, guard.cushion, learn, label, config, folder)
        shields.append(training.train(progress))
    weak = Guard(guard.classifier, guard.cushion, ShieldBank(shields), tnr=guard.tnr)
    set_guard_thresholds(weak, dataset, split.val)
    eps_text = f"{PLANTED_EPS * 256:g}/256"
    planned = Planned("wb", PLANTED_EPS, eps_text, samples=samples)
    piece = field.only(field.few(FAR_IMAGES)).against(weak).attack(planned, progress)
    share = undetected(piece)
    return Control(
        name=PLANTED,
        expectation=f"WB at {eps_text} gets at least 90 % through undetected",
        measured=f"{share:.1%} undetected ({len(piece['fooled'])} images)",
        passed=share >= 0.9,
        detail="Shows that the attacks find a Shield that is weak by construction.",
    )
