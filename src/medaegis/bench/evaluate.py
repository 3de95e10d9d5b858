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
import torch
from torch import Tensor

from medaegis.attacks.catalogue import find_attack
from medaegis.attacks.known import Known
from medaegis.attacks.victim import Verdict
from medaegis.bench.checks.alarms import STAMINA, guessing_is_missing, run_alarms, run_guessing, run_stamina
from medaegis.bench.checks.controls import attacks_ahead, not_measured, run_controls
from medaegis.bench.code import code_fingerprint
from medaegis.bench.field import Field
from medaegis.bench.metrics import share_interval
from medaegis.bench.outcome import as_array
from medaegis.bench.plan import Planned, attacker_of
from medaegis.bench.records.archive import Array, EvaluationFolder, begin_evaluation, provenance, write_evaluation
from medaegis.bench.records.evaluation import (
    Attacker,
    Cell,
    CleanResult,
    Evaluation,
    GuardFacts,
)
from medaegis.bench.sample import check_images, data_facts, draw
from medaegis.bench.store import Piece, Store
from medaegis.bench.surrogates import surrogate_of
from medaegis.errors import ConfigError, DataError
from medaegis.guard.guard import Guard
from medaegis.guard.looks import unfinished
from medaegis.guard.site import Site
from medaegis.images.datasets import Dataset
from medaegis.images.splits import Split
from medaegis.models.classifier import Classifier
from medaegis.models.metrics import classification_metrics
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
    dataset: Dataset,
    split: Split,
    *,
    cells: Sequence[Planned],
    surrogates: Sequence[Classifier] = (),
    site: Site | None = None,
    out_dir: Path,
    limit: int | None = None,
    planted: bool = True,
    stamina: bool = False,
    healthy: str | None = None,
    seed: int = 0,
    command: str = "",
    progress: Progress = silent,
) -> Evaluation:
    """Measure every planned cell on "adv_test" images and write the evaluation folder (see `schema`).

    Args:
        site: where the images come from, for the record; None: the data of the fit.
        surrogates: classifiers on which the transferred cells are made, by the mean of their logits.
        limit: attack at most so many images, classes in proportion; the clean figures use all test images.
        planted: also train a deliberately weak Shield and show that the attacks break it.
        healthy: the class that no disease is, for how often the others are accepted as it; None: the first.
        stamina: also attack a few images with far more steps and restarts; what that breaks counts in the worst case.

    Raises:
        ConfigError: the same cell twice, a limit below 1, no such class, surrogates that do not fit the guard or cells.
        DataError: the data are not those the guard was fitted for, or no test image is diagnosed rightly.
    """
    started = time.perf_counter()
    _check(guard, dataset, split, cells, limit)
    if healthy is not None and healthy not in guard.classes:
        instead = f"name one of {', '.join(guard.classes)}"
        raise ConfigError(f"healthy class {healthy!r}", "the guard knows no such class", instead)
    whole = 0 if healthy is None else guard.classes.index(healthy)
    surrogate = surrogate_of(surrogates, guard.classifier)
    if (surrogate is not None) != any(cell.transferred for cell in cells):
        problem = "no cell is made on them" if surrogates else "none given, and some cells are made on them"
        raise ConfigError("surrogates", problem, "give both or neither")
    test = dataset.subset(split.adv_test)
    about = provenance(seed, command)  # of the code that runs, whatever is committed meanwhile
    progress = Resumed(progress)
    store = Store(out_dir / "pieces", progress.begin)
    begin_evaluation(out_dir, command)
    key: dict[str, object] = {"guard": guard.fingerprint(), "seed": seed, "code": code_fingerprint()}
    clean = guard.judge(test.pixels(), ids=test.ids, seed=seed)
    chosen = draw(test.labels, limit, seed)
    known = Known(dataset.subset([*split.train, *split.adv_train]), seed=seed)
    field = Field(guard, test, clean, chosen, seed, store, key, known, surrogate, whole)
    if not len(field.right):
        raise DataError(dataset.spec, "no test image is diagnosed rightly, so none can be attacked", "train longer")
    total, done = sum(cell.value.steps for cell in cells), 0
    measured: list[Cell] = []
    scores: dict[str, Array] = {
        "clean": as_array(clean.score[field.genuine]),
        "clean/wrong": as_array(clean.score[clean.predicted != test.labels]),
    }
    examples: dict[str, Array] = {}
    outcomes: list[tuple[Planned, Piece]] = []
    for planned in cells:
        begun, size = done, planned.value.steps

        def told(part: int, parts: int, _: str, begun: int = begun, size: int = size, name: str = planned.id) -> None:
            progress(begun + size * part // parts, total, name)

        piece = field.attack(planned, told)
        done += size
        measured.append(field.cell(planned, piece))
        outcomes.append((planned, piece))
        scores[planned.id] = as_array(piece["score"])
        scores[f"{planned.id}/fooled"] = piece["fooled"].numpy().astype(np.uint8)
        examples |= field.pictures(planned, piece)
    further = [run_guessing] if guessing_is_missing(outcomes, adaptive=True) else []
    ahead = attacks_ahead(cells, len(guard.classes), planted=planted) + len(further) + (1 + len(STAMINA)) * stamina
    checking = Stages(progress, ahead)
    controls = run_controls(guard, dataset, split, field, outcomes, planted=planted, progress=checking)
    controls += run_alarms(field, outcomes)
    if stamina and any(planned.attack == "wb" for planned, _ in outcomes):
        further.append(run_stamina)
    elif stamina:
        controls.append(not_measured("Stamina", "alarm"))
    all_outcomes = list(outcomes)
    for run in further:
        alarm, more = run(field, outcomes, checking)
        controls.append(alarm)
        all_outcomes += more
    tried_by = {attacker_of(planned) for planned, _ in all_outcomes}
    through, pixels = field.through(all_outcomes)
    evaluation = Evaluation(
        **about,
        seconds=time.perf_counter() - started + store.spent_before,
        threat_model=THREAT_MODEL + (RANDOM_CUSHION if guard.cushion.random else ""),
        guard=_guard_facts(guard),
        surrogates=surrogate.facts if surrogate is not None else [],
        data=data_facts(test, split, site),
        clean=_clean_result(guard, test, clean),
        cells=measured,
        worst_case=field.worst_cases(all_outcomes),
        by_attacker=[
            row
            for attacker in get_args(Attacker)[1:]
            if attacker in tried_by
            for row in field.worst_cases(all_outcomes, attacker)
        ],
        through=through,
        healthy=guard.classes[whole],
        healthy_told=healthy is not None,
        confusion=field.confusion(),
        controls=controls,
    )
    write_evaluation(out_dir, EvaluationFolder(evaluation, scores, examples | pixels))
    return evaluation


def _check(guard: Guard, dataset: Dataset, split: Split, cells: Sequence[Planned], limit: int | None) -> None:
    """Whatever could stop the evaluation, before any hour is spent on it."""
    check_images(guard.classifier, dataset, split, limit, "guard")
    if not cells:
        raise ConfigError("evaluation", "no attack is planned", "name at least one")
    repeated = [name for name, times in Counter(cell.id for cell in cells).items() if times > 1]
    if repeated:
        raise ConfigError("evaluation", f"the cell {repeated[0]} is planned twice", "name each attack and eps once")
    for name in dict.fromkeys(cell.attack for cell in cells):
        needed = find_attack(name).classes
        if needed > len(guard.classes):
            given = f"needs {needed} classes, the guard has {len(guard.classes)}"
            raise ConfigError(f"attack {name!r}", given, "leave it out")


def _mean(values: Tensor) -> float | None:
    """Share of true ones; None of nothing."""
    return float(values.float().mean()) if len(values) else None


def _guard_facts(guard: Guard) -> GuardFacts:
    config = guard.training.get("config", {})
    seconds = [facts.get("seconds", 0.0) for facts in guard.training.get("shields", {}).values()]
    return GuardFacts(
        digest=guard.digest,
        classes=list(guard.classes),
        backbone=guard.classifier.backbone,
        size=guard.classifier.size,
        channels=guard.classifier.channels,
        cushion=guard.cushion.spec,
        taps=list(guard.bank.taps),
        tnr_target=guard.tnr,
        thresholds=dict.fromkeys(guard.classes, 1.0),
        pooled=[name for name, told in guard.calibration.get("thresholds", {}).items() if not told["own"]],
        calibrated_from=guard.calibration.get("guard", ""),
        recipe={name: value for name, value in config.items() if not isinstance(value, dict)},
        training={"seconds": sum(seconds), "images": guard.training.get("data", {}).get("images")},
        unfinished=unfinished(guard.training),
    )


def _clean_result(guard: Guard, test: Dataset, clean: Verdict) -> CleanResult:
    bare = torch.cat([guard.classifier_logits(part) for part in test.pixels().split(64)])
    told = classification_metrics(clean.logits, test.labels, test.classes)
    wrong = clean.predicted != test.labels
    accuracy, accepted = share_interval(~wrong, test.patients), share_interval(clean.accepted, test.patients)
    by_class = {
        name: share_interval(clean.accepted[rows], [test.patients[i] for i in rows.nonzero().squeeze(1).tolist()])
        for name, rows in ((name, test.labels == k) for k, name in enumerate(test.classes))
        if rows.any()
    }
    shown = clean.accepted.nonzero().flatten().tolist()
    of_shown = share_interval(~wrong[shown], [test.patients[i] for i in shown]) if shown else None
    intervals = {"accuracy": accuracy, "tnr_reached": accepted} | (
        {} if of_shown is None else {"accuracy_accepted": of_shown}
    )
    return CleanResult(
        n=len(test),
        wrong=int(wrong.sum()),
        wrong_rejected=_mean(~clean.accepted[wrong]),
        accuracy=accuracy.value,
        accuracy_accepted=None if of_shown is None else of_shown.value,
        accuracy_without_cushion=_mean(bare.argmax(1) == test.labels),
        auroc=told["auroc"],
        sensitivity=told.get("sensitivity"),
        specificity=told.get("specificity"),
        ece=told["ece"],
        tnr_reached=accepted.value,
        tnr_by_class={name: by_class[name].value if name in by_class else None for name in test.classes},
        tnr_by_class_intervals={name: (found.low, found.high) for name, found in by_class.items()},
        intervals={name: (one.low, one.high) for name, one in intervals.items()},
    )
