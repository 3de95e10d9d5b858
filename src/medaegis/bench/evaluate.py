"""Evaluating a guard: every attack of a plan at every eps against the test patients, with the controls beside them.

Thresholds are fixed before any attack. All figures come from verdicts in float32 on 8-bit images. Each chunk of images
is stored when it is done, so a killed run goes on there. What the columns mean: `medaegis.bench.records.evaluation`.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import numpy as np
from torch import Tensor

from medaegis.attacks.known import Known
from medaegis.attacks.victim import Verdict, Victim
from medaegis.bench.campaign import ON_GUARD, Campaign, Effort, guard_key
from medaegis.bench.cascade import check_cascade, run_cascade
from medaegis.bench.checks.alarms import STAMINA, Attacking, guessing_is_missing, run_alarms, run_guessing, run_stamina
from medaegis.bench.checks.controls import attacks_ahead, not_measured, run_controls
from medaegis.bench.corruptions import run_corruptions
from medaegis.bench.figures import Figures, clean_result, guard_facts
from medaegis.bench.outcome import Outcomes, as_array
from medaegis.bench.plan import Planned, attacker_of, check_attacks, check_surrogates, norm_of
from medaegis.bench.records.archive import Array, EvaluationFolder, begin_evaluation, provenance, write_evaluation
from medaegis.bench.records.evaluation import Attacker, Cascaded, Control, Evaluation
from medaegis.bench.sample import Sample, check_images, data_facts
from medaegis.bench.store import Piece, Store
from medaegis.bench.surrogates import surrogate_of
from medaegis.bench.worst_case import got_through, worst_cases
from medaegis.errors import ConfigError
from medaegis.guard.guard import Guard
from medaegis.guard.site import Site
from medaegis.models.classifier import Classifier
from medaegis.progress import Progress, Resumed, Stages, silent

THREAT_MODEL = (
    "The attacker knows everything: the Cushion, the classifier, the Shields, their weights and thresholds. He may "
    "change every pixel by at most eps before the image reaches the guard, on 8-bit pixels, and wants a wrong class "
    "that the Shield accepts. He does not control the scanner, the guard's files or its hardware. Gradients pass the "
    "Cushion straight through (BPDA), by its differentiable twin, or as if there were none. Thresholds were set on "
    "clean images before any attack."
)

RANDOM_CUSHION = (
    " The Cushion is drawn anew for each image. The attacker knows what it is drawn from, but not the draw: gradients "
    "are averaged over draws of his own (EOT), what he chooses between he tries by further ones, and the one image he "
    "then hands in is judged once, by a draw that none of them depends on."
)


def evaluate_guard(
    guard: Guard,
    site: Site,
    *,
    cells: Sequence[Planned],
    surrogates: Sequence[Classifier] = (),
    out_dir: Path,
    limit: int | None = None,
    cascade: int | None = None,
    corruptions: bool = False,
    planted: bool = True,
    stamina: bool = False,
    healthy: str | None = None,
    effort: Effort = ON_GUARD,
    seed: int = 0,
    command: str = "",
    progress: Progress = silent,
) -> Evaluation:
    """Measure every planned cell on "adv_test" images and write the evaluation folder.

    Args:
        site: the images.
        surrogates: classifiers on which the transferred cells are made, by the mean of their logits.
        limit: attack at most so many images, classes in proportion; the clean figures use all test images.
        cascade: also tell how many of so many test images any of the attacks breaks, each left alone once it is broken.
        corruptions: also tell what the guard does with harmless changes of test images.
        planted: also train a deliberately weak Shield and show that the attacks break it.
        healthy: the class that no disease is, for how often the others are accepted as it; None: the first.
        effort: of the controls and alarms.
        stamina: also attack a few images with far more steps and restarts; what that breaks counts in the worst case.

    Raises:
        ConfigError: the same cell twice, a limit below 1, no such class, surrogates that do not fit the guard or cells.
        DataError: the data are not those the guard was fitted for, or no test image is diagnosed rightly.
    """
    started = time.perf_counter()
    _check(guard, site, cells, limit, healthy)
    check_cascade(cascade, limit)
    surrogate = surrogate_of(surrogates, guard.classifier)
    check_surrogates(bool(surrogates), cells)
    dataset, split = site.dataset, site.split
    test = dataset.subset(split.adv_test)
    about = provenance(seed, command, guard.classifier.device)  # of the code that runs, whatever is committed meanwhile
    progress = Resumed(progress)
    store = Store(out_dir / "pieces", progress.begin)
    begin_evaluation(out_dir, command)

    def judge(images: Tensor, ids: Tensor) -> Verdict:
        return guard.judge(images, ids=ids, seed=seed)

    campaign = Campaign(
        guard.victim(),
        Sample.draw(test, judge, limit=limit, seed=seed, judge_all=True),
        store,
        guard_key(guard, seed),
        "towards the drawn class",
        known=Known(dataset.subset([*split.train, *split.adv_train]), seed=seed),
        alone=Victim(guard.classifier),
        surrogate=surrogate,
        effort=effort,
    )
    figures = Figures(campaign, 0 if healthy is None else guard.classes.index(healthy))
    outcomes = campaign.run(cells, progress)
    controls, more = _checks(guard, site, campaign, outcomes, planted=planted, stamina=stamina, progress=progress)
    everything = [*outcomes, *more]
    tried_by = {attacker_of(planned) for planned, _ in everything}
    attackers = [attacker for attacker in get_args(Attacker)[1:] if attacker in tried_by]
    through, pixels = got_through(figures, everything)
    cascaded: list[Cascaded] = []
    if cascade is not None:
        wide = Sample.draw(test, judge, limit=cascade, seed=seed)
        places = {(norm_of(p), p.eps): (p.eps_text, p.eps, p.value.ball) for p in cells}
        cascaded = run_cascade(campaign, wide, cells, everything, [at for _, at in sorted(places.items())], progress)
    harmless, shown = run_corruptions(guard, test, store, seed=seed, progress=progress) if corruptions else ([], {})
    evaluation = Evaluation(
        **about,
        seconds=time.perf_counter() - started + store.spent_before,
        threat_model=_threat_model(guard),
        guard=guard_facts(guard),
        surrogates=surrogate.facts if surrogate is not None else [],
        data=data_facts(test, split, site),
        clean=clean_result(guard, test, campaign.sample.clean),
        cells=[figures.cell(planned, piece) for planned, piece in outcomes],
        worst_case=worst_cases(figures, everything),
        by_attacker=[row for attacker in attackers for row in worst_cases(figures, everything, attacker)],
        cascade=cascaded,
        corruptions=harmless,
        through=through,
        healthy=guard.classes[figures.healthy],
        healthy_told=healthy is not None,
        confusion=figures.confusion(),
        controls=controls,
    )
    examples = {name: array for planned, piece in outcomes for name, array in figures.pictures(planned, piece).items()}
    write_evaluation(out_dir, EvaluationFolder(evaluation, _scores(figures, outcomes), examples | pixels | shown))
    return evaluation


def _threat_model(guard: Guard) -> str:
    if not guard.cushion.random:
        return THREAT_MODEL
    votes = guard.cushion.votes
    return THREAT_MODEL + RANDOM_CUSHION + (f" A verdict is a vote of {votes} draws." if votes > 1 else "")


def _checks(
    guard: Guard,
    site: Site,
    campaign: Campaign,
    outcomes: Outcomes,
    *,
    planted: bool,
    stamina: bool,
    progress: Progress,
) -> tuple[list[Control], Outcomes]:
    """Controls and alarms, and what those that attack further made, for the worst case."""
    further: list[Attacking] = [run_guessing] if guessing_is_missing(outcomes, adaptive=True) else []
    cells = [planned for planned, _ in outcomes]
    ahead = attacks_ahead(campaign, cells, planted=planted) + len(further) + (1 + len(STAMINA)) * stamina
    checking = Stages(progress, ahead)
    controls = run_controls(guard, site.dataset, site.split, campaign, outcomes, planted=planted, progress=checking)
    controls += run_alarms(campaign, outcomes)
    if stamina and any(planned.attack == "wb" for planned in cells):
        further.append(run_stamina)
    elif stamina:
        controls.append(not_measured("Stamina", "alarm"))
    more: list[tuple[Planned, Piece]] = []
    for run in further:
        alarm, outcome = run(campaign, outcomes, checking)
        controls.append(alarm)
        more += outcome
    return controls, more


def _scores(figures: Figures, outcomes: Outcomes) -> dict[str, Array]:
    """Of the clean images and of every cell, as the folder keeps them."""
    clean, labels = figures.sample.clean, figures.sample.test.labels
    scores: dict[str, Array] = {
        "clean": figures.clean_scores(),
        "clean/wrong": as_array(clean.score[clean.predicted != labels]),
    }
    for planned, piece in outcomes:
        scores[planned.id] = as_array(piece["score"])
        scores[f"{planned.id}/fooled"] = piece["fooled"].numpy().astype(np.uint8)
    return scores


def _check(guard: Guard, site: Site, cells: Sequence[Planned], limit: int | None, healthy: str | None) -> None:
    """Whatever could stop the evaluation, before any hour is spent on it."""
    check_images(guard.classifier, site.dataset, site.split, limit, "guard")
    if not cells:
        raise ConfigError("evaluation", "no attack is planned", "name at least one")
    repeated = [name for name, times in Counter(cell.id for cell in cells).items() if times > 1]
    if repeated:
        raise ConfigError("evaluation", f"the cell {repeated[0]} is planned twice", "name each attack and eps once")
    check_attacks(dict.fromkeys(cell.attack for cell in cells), len(guard.classes), shields=True)
    if healthy is not None and healthy not in guard.classes:
        instead = f"name one of {', '.join(guard.classes)}"
        raise ConfigError(f"healthy class {healthy!r}", "the guard knows no such class", instead)
