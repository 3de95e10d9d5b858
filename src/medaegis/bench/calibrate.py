"""A guard's thresholds set anew on clean images of another site, and what that changes there.

Classifier and Shields stay as they are. One part of the site's patients sets the thresholds, another measures them.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medaegis.artefact import check_target
from medaegis.bench.metrics import share_interval
from medaegis.errors import ConfigError, DataError
from medaegis.guard.calibration import calibrate
from medaegis.guard.guard import KIND, Guard
from medaegis.guard.site import Site
from medaegis.images.datasets import Dataset
from medaegis.images.sources import without_path

Figures = dict[str, Any]


def calibrate_site(
    source: Guard, site: Site, out_dir: Path, *, tnr: float | None = None, signing_key: Path | None = None
) -> Guard:
    """The guard with thresholds set on "val" of a site, written as a folder of its own; `source` stays as it was.

    Its `calibration` has, beside what `fit` writes: "before" and "after", figures on "adv_test" of the site
    (`measured`) with the former and the new thresholds; "site"; "guard", the digest of `source`; "former", its
    thresholds.

    Args:
        site: of `other_site(..., recalibrate=True)`.
        tnr: share of clean images to be accepted; None: as `source`.

    Raises:
        ConfigError: a tnr that cannot be, or an unusable key.
        DataError: too few images to set thresholds or to measure.
        ArtefactError: the folder holds something, or nothing can be written there.
    """
    source.classifier.check_single("calibrate")
    check_target(out_dir, kind=KIND, empty=True, signing_key=signing_key)
    dataset, split = site.dataset, site.split
    if site.home:
        raise ConfigError("calibrate", "these are the images of the fit", "set their thresholds with `medaegis fit`")
    if not split.val or not split.adv_test:
        problem = f"{len(dataset)} images: none to set thresholds on, or none to measure on"
        raise DataError(dataset.spec, problem, "give images of more patients")
    test = dataset.subset(split.adv_test)
    before = measured(source, test)
    seen = None if source.seen is None else source.seen.after(dataset.subset(split.val))
    guard = Guard(
        source.classifier,
        source.cushion,
        copy.deepcopy(source.bank),
        tnr=source.tnr if tnr is None else tnr,
        training=source.training,
        seen=seen,
    )
    guard.calibration = {
        **calibrate(guard, dataset, split),
        "before": before,
        "after": measured(guard, test),
        "site": {
            "spec": without_path(dataset.spec),
            "fingerprint": dataset.fingerprint,
            "seed": split.seed,
            "left_out": site.left_out,
            "note": site.note,
        },
        "guard": source.digest,
        "former": {
            "tnr": source.tnr,
            "centre": source.bank.centre.tolist(),
            "scale": source.bank.scale.tolist(),
            "site": source.calibration.get("site"),
        },
    }
    guard.save(out_dir, signing_key=signing_key)
    return guard


def measured(guard: Guard, test: Dataset) -> Figures:
    """Shares with their 95 % intervals by patient, each {"value", "low", "high", "n"}: "accepted", "accuracy",
    "accuracy_accepted" (of the accepted diagnoses; None where there is none), and "accepted_by_class".
    """
    verdict = guard.judge(test.pixels(), ids=test.ids)
    right = verdict.predicted == test.labels
    rows = {name: (test.labels == k).nonzero().flatten() for k, name in enumerate(test.classes)}

    def share(hits: Any, places: Any = None) -> Mapping[str, float] | None:
        chosen = range(len(test)) if places is None else places.tolist()
        if not len(chosen):
            return None
        found = share_interval([bool(hits[i]) for i in chosen], [test.patients[i] for i in chosen])
        return {"value": found.value, "low": found.low, "high": found.high, "n": len(chosen)}

    return {
        "accepted": share(verdict.accepted),
        "accuracy": share(right),
        "accuracy_accepted": share(right, verdict.accepted.nonzero().flatten()),
        "accepted_by_class": {name: share(verdict.accepted, places) for name, places in rows.items()},
    }
