"""What a guard does with harmless changes: each corruption at each severity on the same clean test images.

A guard must not cry wolf. Of a picture that a clinic changed and nobody attacked it may be asked whether its diagnosis
is still right, whether the guard lets it pass, and how good the diagnoses are that it lets pass.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from medaegis.attacks.victim import Verdict
from medaegis.bench.campaign import guard_key
from medaegis.bench.metrics import Interval, as_fields, auroc, auroc_interval, bootstrap_interval, share_interval
from medaegis.bench.records.archive import Array
from medaegis.bench.records.evaluation import Corrupted
from medaegis.bench.sample import diagnosed_rightly, draw
from medaegis.bench.store import Piece, Store
from medaegis.corruptions import SEVERITIES, Corruption, corruptions_for
from medaegis.corruptions.base import Kind
from medaegis.guard.guard import Guard
from medaegis.guard.purpose import Purpose
from medaegis.images.datasets import Dataset
from medaegis.progress import Progress

IMAGES = 400  # at most so many, whatever is attacked: these are single forward passes
KINDS: tuple[tuple[Kind, frozenset[str]], ...] = (
    ("x-ray", frozenset(("CR", "DX", "RG", "PX", "IO", "MG", "RF", "XA"))),
    ("fundus", frozenset(("OP",))),
    ("skin", frozenset(("DMS", "XC"))),
)


def kind_of(purpose: Purpose | None) -> Kind:
    """Whose artefacts pictures of this purpose may have; "any" where it is not stated, or of several kinds or none."""
    stated = set() if purpose is None else set(purpose.modalities)
    return next((kind for kind, modalities in KINDS if stated and stated <= modalities), "any")


def run_corruptions(
    guard: Guard, test: Dataset, store: Store, *, seed: int, progress: Progress
) -> tuple[list[Corrupted], dict[str, Array]]:
    """Figures of the clean images first, then of every corruption that the guard's pictures may have; and pictures.

    Args:
        test: images that nothing was trained on; of more than `IMAGES` so many, the classes in proportion.

    Returns:
        Rows as the evaluation keeps them, and of one image "corruptions/clean" and "corruptions/<name>" at each
        severity, uint8 `(1, C, H, W)` and `(5, C, H, W)`.
    """
    chosen = test.subset(draw(test.labels, IMAGES, seed))
    images, shown = chosen.pixels(), chosen.subset([len(chosen) - 1])  # of the last class, which most often is ill
    key = {
        **guard_key(guard, seed),
        "ids": chosen.ids.tolist(),
        "images": chosen.pixel_fingerprint,
        "device": guard.classifier.device.type,
    }
    changes: list[tuple[Corruption | None, int]] = [(None, 0)]
    changes += [(one, severity) for one in corruptions_for(kind_of(guard.purpose)) for severity in SEVERITIES]
    rows, pictures = [], {"corruptions/clean": shown.images.numpy()}
    for done, (change, severity) in enumerate(changes):
        name = "clean" if change is None else change.name
        progress(done, len(changes), f"{name} {severity}")

        def judged(change: Corruption | None = change, severity: int = severity) -> Piece:
            started = time.perf_counter()
            seen = images if change is None else change(images, severity, ids=chosen.ids, seed=seed)
            verdict = guard.judge(seen, ids=chosen.ids, seed=seed)
            cost = torch.tensor([[time.perf_counter() - started]], dtype=torch.float64)
            return {"logits": verdict.logits, "score": verdict.score, "accepted": verdict.accepted, "cost": cost}

        piece = store.get({**key, "corruption": name, "severity": severity}, judged)
        verdict = Verdict(piece["logits"], piece["logits"].argmax(1), piece["score"], piece["accepted"])
        rows.append(_row(change, severity, verdict, chosen))
        if change is not None and severity == SEVERITIES[-1]:
            at = [change(shown.pixels(), each, ids=shown.ids, seed=seed) for each in SEVERITIES]
            pictures[f"corruptions/{name}"] = (torch.cat(at) * 255).round().byte().numpy()
    progress(len(changes), len(changes), "harmless changes")
    return rows, pictures


def _row(change: Corruption | None, severity: int, verdict: Verdict, chosen: Dataset) -> Corrupted:
    passed = verdict.accepted.nonzero().flatten()
    area = diagnosis_area(verdict.logits[passed], chosen.labels[passed], [chosen.patients[i] for i in passed.tolist()])
    return Corrupted(
        name="clean" if change is None else change.name,
        title="Clean images" if change is None else change.title,
        group="clean" if change is None else change.group,
        parameter="" if change is None else change.parameter,
        severity=severity,
        amount=None if change is None else change.amounts[severity - 1],
        n=len(chosen),
        **as_fields("accuracy", share_interval(diagnosed_rightly(verdict, chosen), chosen.patients)),
        **as_fields("accepted", share_interval(verdict.accepted, chosen.patients)),
        n_accepted=len(passed),
        **as_fields("auroc", area),
    )


def diagnosis_area(logits: Tensor, labels: Tensor, patients: Sequence[str]) -> Interval | None:
    """AUROC of the diagnosis with its interval of 95 %, by patient: of the second of two classes, else the mean of one
    class against the rest; None where a class has no image.

    Args:
        logits: finite, `(N, K)`; ranked by log odds, for saturated probabilities would tie.
        labels: int64 `(N,)`; patients: of each image.
    """
    count = logits.shape[1]
    places = [(labels == k).nonzero().flatten().numpy() for k in range(count)]
    if not all(len(rows) for rows in places):
        return None
    others = torch.eye(count, dtype=torch.bool, device=logits.device)
    wide = logits.double()
    odds = (wide - wide[:, None].expand(-1, count, -1).masked_fill(others, -torch.inf).logsumexp(2)).cpu().numpy()
    groups = [[patients[i] for i in rows.tolist()] for rows in places]
    if count == 2:
        return auroc_interval(odds[places[0], 1], odds[places[1], 1], groups)

    def mean(*drawn: np.ndarray) -> float:
        rows = [part.astype(np.int64) for part in drawn]
        areas = [auroc(odds[np.concatenate([*rows[:k], *rows[k + 1 :]]), k], odds[rows[k], k]) for k in range(count)]
        return float(np.mean(areas))

    return bootstrap_interval(mean, places, n=500, groups=groups)
