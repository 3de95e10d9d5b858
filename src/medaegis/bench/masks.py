"""Evaluating a guard for masks: does any attack get a wrong mask shown?

Harm is a mask that is wrong (Dice below that of a right one) and accepted. An attack that leaves the mask right does
none, whatever it did to the picture. Chunks are stored when they are done, so a killed run goes on there.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import torch

from medaegis.ambient import own_modes
from medaegis.attacks.balls import Linf, parse_eps
from medaegis.attacks.catalogue import find_attack
from medaegis.attacks.victim import Victim
from medaegis.bench.campaign import Campaign, Effort, guard_key
from medaegis.bench.checks.alarms import run_alarms
from medaegis.bench.checks.controls import run_controls
from medaegis.bench.figures import Figures, guard_facts
from medaegis.bench.metrics import as_fields, share_interval
from medaegis.bench.outcome import Outcomes, broken_by
from medaegis.bench.plan import Planned, plan
from medaegis.bench.records.archive import provenance, write_record
from medaegis.bench.records.masks import RECORD, CleanMasks, MaskCell, MaskEvaluation, WorstMasks
from medaegis.bench.sample import Sample, check_images, data_facts
from medaegis.bench.store import Piece, Store
from medaegis.bench.worst_case import Reached
from medaegis.cushions import Gradient
from medaegis.errors import ConfigError
from medaegis.guard.guard import Guard
from medaegis.guard.site import Site
from medaegis.progress import Progress, Resumed, silent
from medaegis.task import Dense

THREAT_MODEL = (
    "The attacker knows everything: the Cushion, the network, the Shield, their weights and the threshold. He may "
    "change every pixel by at most eps before the image reaches the guard, on 8-bit pixels, and wants any wrong mask "
    "that the Shield accepts. He does not control the scanner, the guard's files or its hardware."
)
LEADING = "orthogonal-dice"  # the attack that must win far out
ATTACKS = ("pgd", "pgd-dice", "wb", "wb-dice", "wb-dice-3", "selective-dice", LEADING)
SIZES = ("2/256", "4/256", "8/256", "16/256")
EFFORT = Effort(harmless=90, far=16, probed=16)


def plan_masks(
    guard: Guard,
    *,
    attacks: Sequence[str] = ATTACKS,
    eps: Sequence[str] = SIZES,
    steps: int | None = None,
    gradient: Gradient = "bpda",
) -> list[Planned]:
    """A cell for every attack at every eps; behind a Cushion the leading one also as if there were none.

    Args:
        steps: of the attacks that know the guard; None: their own.

    Raises:
        ConfigError: an attack that is not for masks, or no such attack or eps.
    """
    for name in attacks:
        if not find_attack(name).serves("dense"):
            raise ConfigError(f"attack {name!r}", "is not for masks", f"take {', '.join(ATTACKS)}")
    radii = [(text, parse_eps(text)) for text in eps]
    cells = plan(attacks, radii, steps=steps, gradient=gradient)
    if LEADING in attacks and guard.cushion.spec != "none" and gradient != "skip":
        cells += [Planned(LEADING, value, text, steps=steps, gradient="skip") for text, value in radii]
    return cells


@own_modes()
def evaluate_masks(
    guard: Guard,
    site: Site,
    *,
    cells: Sequence[Planned],
    out_dir: Path,
    limit: int | None = None,
    seed: int = 0,
    command: str = "",
    progress: Progress = silent,
) -> MaskEvaluation:
    """Measure every planned cell on "adv_test" images and write the record.

    Args:
        cells: of `plan_masks`.
        limit: attack at most so many images; clean figures and areas use all test images.

    Raises:
        ConfigError: no cell, a limit below 1, or a guard that is not for masks.
        DataError: the data are not those the guard was fitted for, or no test image has a right mask.
    """
    started = time.perf_counter()
    check_images(guard.classifier, site.dataset, site.split, limit, "guard", task="dense")
    task = guard.classifier.task
    assert isinstance(task, Dense), "as just checked"
    if not cells:
        raise ConfigError("evaluation", "no attack is planned", "name at least one")
    test = site.dataset.subset(site.split.adv_test)
    about = provenance(seed, command, guard.classifier.device)  # of the code that runs, whatever is committed meanwhile
    progress = Resumed(progress)
    store = Store(out_dir / "pieces", progress.begin)
    campaign = Campaign(
        guard.victim(),
        Sample.draw(test, lambda x, ids: guard.judge(x, ids=ids, seed=seed), limit=limit, seed=seed, judge_all=True),
        store,
        guard_key(guard, seed),
        "any wrong class",
        alone=Victim(guard.classifier),
        effort=EFFORT,
    )
    figures = Figures(campaign)
    outcomes = campaign.run(cells, progress)
    controls = run_controls(
        guard, site.dataset, site.split, campaign, outcomes, planted=False, progress=progress, leading=LEADING
    )
    sizes = {planned.eps: planned.eps_text for planned in cells}
    found = MaskEvaluation(
        **about,
        seconds=time.perf_counter() - started + store.spent_before,
        threat_model=THREAT_MODEL,
        least=task.least,
        guard=guard_facts(guard),
        data=data_facts(test, site.split, site),
        clean=_clean(figures),
        cells=[_cell(figures, planned, piece) for planned, piece in outcomes],
        worst_case=[_worst_case(figures, outcomes, eps, sizes[eps]) for eps in sorted(sizes)],
        controls=controls + run_alarms(campaign, outcomes),
    )
    write_record(out_dir / RECORD, found)
    return found


def _clean(figures: Figures) -> CleanMasks:
    test, clean = figures.sample.test, figures.sample.clean
    right = test.task.is_right(clean.predicted, test.labels)
    return CleanMasks(
        n=len(test),
        dice=float(test.task.quality(clean.predicted, test.labels).mean()),
        right=float(right.float().mean()),
        **as_fields("accepted", share_interval(clean.accepted, test.patients)),
        accepted_right=float(clean.accepted[right].float().mean()) if right.any() else None,
    )


def _cell(figures: Figures, planned: Planned, piece: Piece) -> MaskCell:
    sample, wrong = figures.sample, piece["fooled"]
    undetected, _ = figures.shares(broken_by(piece))
    seconds, forwards, backwards = piece["cost"].sum(0).tolist()
    return MaskCell(
        id=planned.id,
        attack=planned.attack,
        title=figures.title(planned),
        adaptive=find_attack(planned.attack).adaptive,
        eps=planned.eps,
        eps_text=planned.eps_text,
        steps=planned.value.steps,
        gradient=planned.gradient,
        n=len(sample),
        dice=float(sample.test.task.quality(piece["predicted"], sample.labels).mean()),
        wrong=float(wrong.float().mean()),
        **as_fields("undetected", undetected),
        auroc=figures.area(piece["score"][wrong], sample.rows[wrong]).value if wrong.any() else None,
        seconds=seconds,
        forwards=int(forwards),
        backwards=int(backwards),
    )


def _worst_case(figures: Figures, outcomes: Outcomes, eps: float, eps_text: str) -> WorstMasks:
    sample = figures.sample
    reached = Reached.of(outcomes, sample.pixels, Linf(), eps)
    wrong, broken = reached.fooled.any(0), reached.broken.any(0)
    scores = torch.stack([piece["score"] for _, piece in outcomes]).where(reached.fooled, torch.inf).amin(0)
    area = figures.area(scores[wrong], sample.rows[wrong]) if wrong.any() else None
    undetected, robust = figures.shares(broken)
    return WorstMasks(
        eps=eps,
        eps_text=eps_text,
        n=len(sample),
        wrong=float(wrong.float().mean()),
        **as_fields("undetected", undetected),
        **as_fields("auroc", area),
        **as_fields("robust", robust),
    )
