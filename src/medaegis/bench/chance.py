"""Whether a classifier tells its classes apart at all: asked before a guard is built around it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from medaegis.bench.metrics import aurocs, bootstrap_interval, design_effect
from medaegis.bench.report.words import decimal, decimal_range, percent
from medaegis.images.datasets import Dataset
from medaegis.models.classifier import Classifier

ALPHA = 0.05
DRAWS = 300


def why_no_better_than_chance(classifier: Classifier, dataset: Dataset, indices: Sequence[int]) -> str | None:
    """In words, why the diagnoses of these images, on which nothing was trained, are worth nothing; None if they are.

    Worth nothing: one class for all images; or neither is the accuracy above the share of the most frequent class
    (exact binomial test, one-sided, 5 %, of as many images as their patients tell), nor does the 95 % interval of the
    AUROC by patient leave 0.5 out.
    """
    places = torch.as_tensor(indices)
    with torch.inference_mode():
        logits = torch.cat(
            [classifier(dataset.pixels(part, device=classifier.device)).cpu() for part in places.split(64)]
        )
    patients = [dataset.patients[i] for i in places.tolist()]
    return chance_level(logits, dataset.labels[places], patients, classifier.classes)


def chance_level(logits: Tensor, labels: Tensor, patients: Sequence[str], classes: Sequence[str]) -> str | None:
    """As `why_no_better_than_chance`, of logits `(N, K)`, labels `(N,)` and the patient of each image."""
    from scipy.stats import binom

    predicted, n = logits.argmax(1), len(labels)
    if len(predicted.unique()) == 1 and len(labels.unique()) > 1:
        return f"it names each of {n} test images {classes[int(predicted[0])]!r}"
    hits = (predicted == labels).numpy()
    most, name = max((float((labels == k).float().mean()), name) for k, name in enumerate(classes))
    alone = 1 / design_effect(hits, patients)
    p = float(binom.sf(int(hits.sum() * alone) - 1, max(1, int(n * alone)), most))
    if p < ALPHA or most == 1:
        return None
    scores, truth = logits.double(), labels.numpy()
    own = torch.eye(len(classes), dtype=torch.bool)
    odds = np.stack([(scores[:, k] - scores[:, ~own[k]].logsumexp(1)).numpy() for k in range(len(classes))], 1)
    area = bootstrap_interval(
        lambda rows: _area(odds[rows.astype(int)], truth[rows.astype(int)]), [np.arange(n)], n=DRAWS, groups=[patients]
    )
    if area.low > 0.5:
        return None
    return (
        f"on {n} test images it is right on {percent(float(hits.mean()))}, where always {name!r} would be on "
        f"{percent(most)} (p = {p:.2g}), and its AUROC is {decimal(area.value)} (95 %: "
        f"{decimal_range(area.bounds)}), where guessing has 0.5"
    )


def _area(odds: np.ndarray, truth: np.ndarray) -> float:
    """Mean AUROC of each class against the rest, over the classes that have images on both sides; 0.5 if none has."""
    areas = [area for area in aurocs(odds, truth[:, None] == np.arange(odds.shape[1])) if area is not None]
    return float(np.mean(areas)) if areas else 0.5
