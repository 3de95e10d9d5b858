"""What a record tells of a guard: what it is, and what it does to clean images."""

from __future__ import annotations

import torch
from torch import Tensor

from medaegis.attacks.victim import Verdict
from medaegis.bench.metrics import share_interval
from medaegis.bench.records.evaluation import CleanResult, GuardFacts
from medaegis.guard.guard import Guard
from medaegis.guard.looks import unfinished
from medaegis.images.datasets import Dataset
from medaegis.models.metrics import classification_metrics


def _mean(values: Tensor) -> float | None:
    """Share of true ones; None of nothing."""
    return float(values.float().mean()) if len(values) else None


def guard_facts(guard: Guard) -> GuardFacts:
    """What a record tells of a guard."""
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
        thresholds=dict.fromkeys(guard.judged, 1.0),
        pooled=[name for name, told in guard.calibration.get("thresholds", {}).items() if not told["own"]],
        calibrated_from=guard.calibration.get("guard", ""),
        recipe={name: value for name, value in config.items() if not isinstance(value, dict)},
        training={"seconds": sum(seconds), "images": guard.training.get("data", {}).get("images")},
        unfinished=unfinished(guard.training),
    )


def clean_result(guard: Guard, test: Dataset, clean: Verdict) -> CleanResult:
    """Of a guard on clean test images, and of its classifier without the Cushion."""
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
