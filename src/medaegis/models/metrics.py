"""How well a classifier does on labelled images: discrimination, decisions, calibration."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medaegis.errors import DataError
from medaegis.images.datasets import Dataset
from medaegis.images.fundus import GRADES, MESSIDOR_GRADES
from medaegis.models.classifier import Classifier
from medaegis.task import IGNORE, MULTI, Dense, overlaps

CALIBRATION_BINS = 15
MOST_SHOWN = 50  # classes of which a confusion matrix is kept


def calibration_error(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Expected calibration error over 15 equal bins of the winning probability (Guo et al. 2017, eq. 3).

    Args:
        probabilities: ``(N, K)``, rows sum to 1.
        labels: int ``(N,)``.
    """
    confidence, correct = probabilities.max(1), probabilities.argmax(1) == labels
    bins = np.minimum((confidence * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    gaps = np.bincount(bins, weights=confidence - correct, minlength=CALIBRATION_BINS)
    return float(np.abs(gaps).sum() / len(labels))


def classification_metrics(logits: Tensor, labels: Tensor, classes: Sequence[str]) -> dict[str, Any]:
    """Figures of merit, ready for JSON.

    Args:
        logits: ``(N, K)``.
        labels: int64 ``(N,)``.
        classes: the K names.

    Returns:
        ``n``, ``accuracy``, ``auroc`` (binary: of the second class; else mean of one class against the rest; None where
        a class has no image), ``ece``, ``recall`` per class (None without images), ``confusion`` of up to 50 classes
        (images by true class, then by predicted one), and for two classes ``sensitivity`` and ``specificity``, the
        second class being the positive one.
    """
    from sklearn.metrics import roc_auc_score  # slow to import

    probabilities = logits.double().softmax(1).cpu().numpy()
    truth = labels.cpu().numpy()
    predicted = probabilities.argmax(1)
    recall = {
        name: float((predicted[truth == k] == k).mean()) if (truth == k).any() else None
        for k, name in enumerate(classes)
    }
    # Ranks of the log odds, not of the probability: saturated probabilities would tie.
    chances = logits.double().cpu()
    own = torch.eye(len(classes), dtype=torch.bool)
    odds = [(chances[:, k] - chances[:, ~own[k]].logsumexp(1)).numpy() for k in range(len(classes))]
    complete = all(value is not None for value in recall.values())
    positives = [1] if len(classes) == 2 else range(len(classes))
    auroc = float(np.mean([roc_auc_score(truth == k, odds[k]) for k in positives])) if complete else None
    result: dict[str, Any] = {
        "n": len(truth),
        "accuracy": float((predicted == truth).mean()),
        "auroc": auroc,
        "ece": calibration_error(probabilities, truth),
        "recall": recall,
    }
    if len(classes) <= MOST_SHOWN:
        places = truth * len(classes) + predicted
        result["confusion"] = np.bincount(places, minlength=len(classes) ** 2).reshape(len(classes), -1).tolist()
    if len(classes) == 2:
        result |= {"sensitivity": recall[classes[1]], "specificity": recall[classes[0]]}
    return result


def findings_metrics(logits: Tensor, labels: Tensor, findings: Sequence[str]) -> dict[str, Any]:
    """Figures of merit where images have several findings, ready for JSON.

    Args:
        logits: ``(N, L)``; labels: 0 or 1 ``(N, L)``; findings: the L names.

    Returns:
        ``n``, ``accuracy`` (images of which every finding is right), ``auroc`` (mean over the findings that some images
        have and some have not; None if there is none), ``aurocs`` and ``recall`` of each finding.
    """
    from sklearn.metrics import roc_auc_score  # slow to import

    truth, scores = labels.numpy(), logits.double().numpy()
    found = MULTI.predicted(logits)
    aurocs = {
        name: float(roc_auc_score(truth[:, k], scores[:, k])) if 0 < truth[:, k].sum() < len(truth) else None
        for k, name in enumerate(findings)
    }
    known = [value for value in aurocs.values() if value is not None]
    recall = {
        name: float(found[labels[:, k] == 1, k].double().mean()) if (labels[:, k] == 1).any() else None
        for k, name in enumerate(findings)
    }
    return {
        "n": len(truth),
        "accuracy": float(MULTI.is_right(found, labels).double().mean()),
        "auroc": float(np.mean(known)) if known else None,
        "aurocs": aurocs,
        "recall": recall,
    }


def mask_metrics(predicted: Tensor, labels: Tensor, classes: Sequence[str]) -> dict[str, Any]:
    """Figures of merit of masks, means over the images, ready for JSON.

    Args:
        predicted, labels: class numbers ``(N, H, W)``; classes: the K names, the first the background.

    Returns:
        ``n``, ``accuracy`` (masks with a Dice of at least 0.7), ``dice`` and ``miou`` (mean over the classes but the
        first, and over all classes), ``hausdorff95`` in pixels (`hausdorff95`; None where no image has it).
    """
    task = Dense(len(classes))
    far = [value for value in map(hausdorff95, predicted, labels) if value is not None]
    return {
        "n": len(labels),
        "accuracy": float(task.is_right(predicted, labels).double().mean()),
        "dice": float(task.quality(predicted, labels).double().mean()),
        "miou": float(mean_iou(predicted, labels, len(classes)).double().mean()),
        "hausdorff95": float(np.mean(far)) if far else None,
    }


def mean_iou(predicted: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Intersection over union, mean over the classes that are there or are found, the background too: `(N,)`.

    1 where no pixel counts.
    """
    both, sizes = overlaps(predicted, labels, range(classes))
    union = sizes - both
    there = union > 0
    return ((both / union.clamp_min(1) * there).sum(1) / there.sum(1).clamp_min(1)).where(there.any(1), 1.0)


def hausdorff95(predicted: Tensor, labels: Tensor) -> float | None:
    """The 95th percentile of the distances between two outlines, in pixels (Huttenlocher 1993, made robust).

    Of a pixel of one outline, the distance is to the nearest of the other; both ways, the larger percentile counts.

    Args:
        predicted, labels: class numbers `(H, W)`; what is not the background is taken together.

    Returns:
        The diagonal of the image where one of them is empty, for no outline is farther; None where both are.
    """
    from scipy.ndimage import binary_erosion, distance_transform_edt  # slow to import

    known = labels != IGNORE
    both = [((values > 0) & known).numpy() for values in (predicted, labels)]
    if not all(mask.any() for mask in both):
        return float(np.hypot(*labels.shape)) if any(mask.any() for mask in both) else None
    outlines = [mask & ~binary_erosion(mask) for mask in both]
    one, other = (distance_transform_edt(~outlines[1 - i])[outlines[i]] for i in range(2))
    return float(max(np.percentile(one, 95), np.percentile(other, 95)))


def are_ordered(classes: Sequence[str]) -> bool:
    """Whether the names are three or more numbers in rising order, or grades of retinopathy as data sets name them."""
    if len(classes) > 2 and tuple(classes) in (GRADES[: len(classes)], MESSIDOR_GRADES[: len(classes)]):
        return True
    try:
        values = [float(name) for name in classes]
    except ValueError:
        return False
    return len(values) > 2 and all(low < high for low, high in pairwise(values))


def quadratic_kappa(confusion: Sequence[Sequence[int]]) -> float | None:
    """Agreement of ordered grades beyond chance, errors by the square of their distance (Cohen, 1968).

    Args:
        confusion: images by true grade, then by predicted one; grades count as equally far apart.

    Returns:
        1 where all are right, about 0 for guessing; None where all are of one grade and so predicted.
    """
    seen = np.asarray(confusion, dtype=np.float64)
    grades = np.arange(len(seen))
    weight = np.square(grades[:, None] - grades[None, :])
    expected = np.outer(seen.sum(1), seen.sum(0)) / seen.sum()
    disagreement = float((weight * expected).sum())
    return 1 - float((weight * seen).sum()) / disagreement if disagreement else None


def evaluate_classifier(
    classifier: Classifier, dataset: Dataset, indices: Sequence[int], *, batch_size: int = 64
) -> dict[str, Any]:
    """Figures of the images at ``indices``, computed as the classifier stands (freeze it first).

    `classification_metrics`, or of another task `findings_metrics` or `mask_metrics`.

    Raises:
        DataError: no image, or images that do not fit the classifier.
    """
    if len(indices) == 0:
        raise DataError(dataset.spec, "no image to measure on", "give a part of the split that is not empty")
    places = torch.as_tensor(indices)
    parts = []
    with torch.inference_mode():
        for part in torch.split(places, batch_size):
            logits = classifier(dataset.pixels(part, device=classifier.device)).cpu()
            # Of masks the classes alone are kept: logits of many whole images would fill the memory.
            parts.append(dataset.task.predicted(logits) if dataset.task.name == "dense" else logits)
    labels = dataset.labels[places]
    figures = {"single": classification_metrics, "multi": findings_metrics, "dense": mask_metrics}
    return figures[dataset.task.name](torch.cat(parts), labels, classifier.classes)
