"""How much of what is said about findings and masks is right, of each image and of all; what an attack leaves of it.

In the worst case each value of an image is as the attack leaves it that leaves least, the attacker being free to leave
the image alone: its quality, its overlap, and of each finding the logit. So none is above that of any attack.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from medaegis.attacks.victim import Verdict
from medaegis.bench.metrics import Interval, aurocs, mean_auroc_interval, mean_interval
from medaegis.bench.records.quality import Mean, Quality
from medaegis.bench.sample import Sample
from medaegis.bench.store import Piece
from medaegis.models.metrics import mean_iou
from medaegis.task import Dense, PredictionTask


def measured(task: PredictionTask, verdict: Verdict, labels: Tensor) -> Piece:
    """What is kept of verdicts where an image has no single class, a row each; else nothing.

    Returns:
        "quality" `(N,)`, of findings "logits" `(N, L)`, where one that is no finite number is 0, unsure; of masks
        "iou" `(N,)`, the mean over all classes. "harm" `(N,)`: how far the answer is from the truth, 0 to 1; of masks
        1 - Dice, of findings 1 less the geometric mean of the chances given to what is true of each, which is what
        attacks drive at, and finer than how many are wrong. Above 0.5 an answer is worse than even odds.
    """
    if task.name == "single":
        return {}
    quality = task.quality(verdict.predicted, labels)
    if isinstance(task, Dense):
        return {"quality": quality, "harm": 1 - quality, "iou": mean_iou(verdict.predicted, labels, task.classes)}
    logits = verdict.logits.float()
    logits = logits.where(logits.isfinite(), 0)
    return {"quality": quality, "harm": 1 - torch.exp(-task.losses(logits, labels)), "logits": logits}


def worst(pieces: Sequence[Piece], inside: Tensor, labels: Tensor) -> Piece:
    """The same of each image in the worst case over these pieces.

    Args:
        pieces: at least one; "quality" is infinite of images that were not tried.
        inside: which images of each lie in the ball that is asked about, bool `(pieces, N)`.
        labels: of the images.
    """
    quality = torch.stack([piece["quality"] for piece in pieces])
    counts = inside & quality.isfinite()
    least = {"quality": quality.where(counts, torch.inf).amin(0)}
    if "iou" in pieces[0]:
        least["iou"] = torch.stack([piece["iou"] for piece in pieces]).where(counts, torch.inf).amin(0)
    if "logits" in pieces[0]:
        side = 2 * labels - 1  # of the logit that is right
        ahead = side * torch.stack([piece["logits"] for piece in pieces])
        least["logits"] = side * ahead.where(counts.unsqueeze(2), torch.inf).amin(0)
    return least


def quality_of(piece: Piece, sample: Sample) -> Quality | None:
    """The figures of all attacked images, with their intervals; None where an image has one class."""
    if "quality" not in piece:
        return None
    patients, n = sample.patients, len(sample)

    def mean(name: str) -> Mean:
        return _told(mean_interval(piece[name].double().numpy(), patients, seed=sample.seed), n)

    if "iou" in piece:
        return Quality(dice=mean("quality"), miou=mean("iou"))
    logits, truth = piece["logits"].double().numpy(), sample.labels.numpy()
    area = mean_auroc_interval(logits, truth, patients, seed=sample.seed)
    return Quality(
        auroc=None if area is None else _told(area, n),
        aurocs=dict(zip(sample.test.classes, aurocs(logits, truth), strict=True)),
        right=mean("quality"),
    )


def _told(found: Interval, n: int) -> Mean:
    return Mean(n=n, value=found.value, interval=found.bounds)
