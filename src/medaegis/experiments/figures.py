"""The figures of a cell, from stored scores and images: values, 95 % intervals by patient, and of how many images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.nn.functional import cosine_similarity

from medaegis.attacks.balls import Linf
from medaegis.attacks.victim import Verdict
from medaegis.bench.analyse.shifts import along_weights
from medaegis.bench.campaign import Campaign
from medaegis.bench.metrics import auroc_interval, bootstrap_interval, share_interval, threshold_at_tnr
from medaegis.bench.outcome import pixels_of, within
from medaegis.bench.quality import measured, quality_of, worst
from medaegis.bench.sample import Sample
from medaegis.bench.scene import Scene
from medaegis.bench.store import Piece
from medaegis.detectors.reader import PENULTIMATE
from medaegis.errors import ConfigError
from medaegis.models.metrics import hausdorff95

TNR = 0.9


class Figure(NamedTuple):
    """A figure: shares and areas in [0, 1], means of features raw, changes in %; bounds where there is an interval."""

    metric: str
    value: float
    low: float | None = None
    high: float | None = None
    n: int = 0


def detection(scene: Scene, clean: torch.Tensor, hostile: torch.Tensor, fooled: torch.Tensor) -> tuple[Figure, ...]:
    """How well scores `(N,)` tell attacked images from clean ones, and how well the attack did (fooled: bool `(N,)`).

    "auc" and "tpr90" over all attacked images, "auc_fooling" and "tpr90_fooling" over those that fool the classifier;
    "adv_acc" is the share of them (HFC section 5.1).
    """
    sample = scene.test.sample
    threshold = threshold_at_tnr(clean.numpy(), TNR)
    found = []
    for suffix, rows in (("", torch.ones_like(fooled)), ("_fooling", fooled)):
        if not rows.any():
            continue
        area = scene.separation(clean, hostile, rows)
        patients = sample.patients_of(sample.rows[rows])
        caught = share_interval((hostile[rows].double() > threshold).numpy(), patients)
        found += [
            Figure(f"auc{suffix}", area.auroc, *area.auroc_interval, area.n),
            Figure(f"tpr90{suffix}", caught.value, caught.low, caught.high, area.n),
        ]
    success = share_interval(fooled.numpy(), sample.patients)
    found.append(Figure("adv_acc", success.value, success.low, success.high, len(fooled)))
    return tuple(found)


def worst_detection(
    scene: Scene, clean: torch.Tensor, scores: Sequence[Piece], attacked: Sequence[Piece], eps: float
) -> tuple[Figure, ...]:
    """The same in the worst case over attacks, as far as their images lie within eps of the clean ones in L-infinity.

    Of each image the lowest score among the attacks that fool the classifier counts, or among all where none does.
    """
    inside = torch.stack([within(piece, scene.test.sample.pixels, Linf(), eps) for piece in attacked])
    fooled = torch.stack([piece["fooled"].bool() for piece in attacked]) & inside
    counts = torch.where(fooled.any(0), fooled, inside)
    hostile = torch.stack([piece["scores"] for piece in scores]).where(counts, torch.inf).amin(0)
    return detection(scene, clean, hostile, fooled.any(0))


def model_area(scene: Scene) -> tuple[Figure, ...]:
    """The classifier's own AUROC on clean images, as "model_auc"; nothing of more than two classes."""
    campaign, sample = everyone(scene.test), scene.test.sample
    return tuple(_area("model_auc", campaign, sample.clean[sample.chosen].logits))


def answers(campaign: Campaign, attacked: Piece | None) -> tuple[Figure, ...]:
    """How right the classifier is on all chosen images, attacked or clean.

    Where each has one class "accuracy", and of two classes "auc"; of findings "auc", the mean over them, and "right",
    the share of them that is told rightly; of masks "miou", "dice" and "hd95" (Hausdorff, 95 %, in pixels).
    """
    sample = campaign.sample
    verdict = sample.clean[sample.rows] if attacked is None else _verdict(campaign, attacked)
    if sample.test.task.name != "single":
        return _qualities_of(verdict, sample)
    return (_accuracy(verdict.predicted == sample.labels, sample), *_area("auc", campaign, verdict.logits))


def worst_answers(campaign: Campaign, attacked: Sequence[Piece], eps: float) -> tuple[Figure, ...]:
    """The same, each image as the attack leaves it that leaves least, or as it is.

    Attacks count as far as their images lie within eps of the clean ones in L-infinity, whatever made them.
    """
    campaign = everyone(campaign)
    sample, labels = campaign.sample, campaign.sample.labels
    verdicts = [sample.clean[sample.rows], *(_verdict(campaign, piece) for piece in attacked)]
    near = [within(piece, sample.pixels, Linf(), eps) for piece in attacked]
    inside = torch.stack([torch.ones(len(sample), dtype=torch.bool), *near])
    if sample.test.task.name != "single":
        pieces = [measured(sample.test.task, verdict, labels) for verdict in verdicts]
        return _qualities(worst(pieces, inside, labels), sample)
    right = torch.stack([verdict.predicted == labels for verdict in verdicts]) | ~inside
    sides = torch.where(labels == 1, 1.0, -1.0)
    ahead = torch.stack([sides * (verdict.logits[:, 1] - verdict.logits[:, 0]) for verdict in verdicts])
    least = sides * ahead.where(inside, torch.inf).amin(0)
    logits = torch.stack([torch.zeros_like(least), least], 1)
    return (_accuracy(right.all(0), sample), *_area("auc", campaign, logits))


def _accuracy(right: torch.Tensor, sample: Sample) -> Figure:
    found = share_interval(right.numpy(), sample.patients)
    return Figure("accuracy", found.value, found.low, found.high, len(sample))


def each_finding(campaign: Campaign, attacked: Sequence[Piece]) -> tuple[Figure, ...]:
    """Mean AUROC over the findings, as "auc", each on the images of the attack on it, in their order."""
    campaign = everyone(campaign)
    verdicts = [_verdict(campaign, piece) for piece in attacked]
    logits = torch.stack([verdict.logits[:, k] for k, verdict in enumerate(verdicts)], 1)
    found = _qualities_of(replace(verdicts[0], logits=logits), campaign.sample)
    return tuple(figure for figure in found if figure.metric == "auc")


def _verdict(campaign: Campaign, attacked: Piece) -> Verdict:
    sample = campaign.sample
    return campaign.victim.verdicts(pixels_of(attacked), sample.ids, seed=sample.seed, batch_size=64)


def _qualities_of(verdict: Verdict, sample: Sample) -> tuple[Figure, ...]:
    """Of findings or masks."""
    figures = _qualities(measured(sample.test.task, verdict, sample.labels), sample)
    if sample.test.task.name != "dense":
        return figures
    apart = [hausdorff95(*pair) for pair in zip(verdict.predicted, sample.labels, strict=True)]
    known = np.array([value for value in apart if value is not None])
    return (*figures, Figure("hd95", float(known.mean()), n=len(known))) if len(known) else figures


def _qualities(piece: Piece, sample: Sample) -> tuple[Figure, ...]:
    found = quality_of(piece, sample)
    assert found is not None, "asked where images have no single class"
    means = {"auc": found.auroc, "right": found.right, "miou": found.miou, "dice": found.dice}
    return tuple(Figure(name, m.value, *m.interval, m.n) for name, m in means.items() if m is not None)


def features(means: Piece, layer: str, direction: str) -> tuple[Figure, ...]:
    """The mean of a layer's activations, clean or pushed, and what that changes (Medical Aegis and HFC, tables 1)."""
    clean, value, n = float(means[f"clean {layer}"]), float(means[f"{direction} {layer}"]), int(means["n"])
    change = 100 * (value - clean) / max(abs(clean), 1e-12)
    figures = {
        "mean": value,
        "difference": abs(value - clean),
        "change_pct": change,
        "share_of_clean_pct": 100 + change,
    }
    return tuple(Figure(metric, amount, n=n) for metric, amount in figures.items())


def attack_time(attacked: Piece) -> tuple[Figure, ...]:
    """What an attack took for all images: "seconds", and "passes" (forwards and backwards) of an image."""
    seconds, forwards, backwards = attacked["cost"].sum(0).tolist()
    n = len(attacked["fooled"])
    return Figure("seconds", seconds, n=n), Figure("passes", (forwards + backwards) / n, n=n)


def training_time(told: Mapping[str, Any]) -> tuple[Figure, ...]:
    """What training took (`read_training`): "seconds_per_epoch", and "passes" of an image in an epoch."""
    epochs, images = len(told["history"]), told["images"]
    passes = sum(told["passes"].values()) / (epochs * images)
    return Figure("seconds_per_epoch", told["seconds"] / epochs, n=images), Figure("passes", passes, n=images)


def shift(scene: Scene, clean: Piece, hostile: Piece, reference: Piece) -> tuple[Figure, ...]:
    """Which way an attack moves what the last layer is given (HFC theorem 1 and fig. 2): mean cosines over the images.

    "cosine_weights" with the weights of the wanted class minus those of the true one, "cosine_reference" with the shift
    that another attack causes in the same images.

    Raises:
        ConfigError: the network does not end in a linear layer.
    """
    head, sample, name = scene.reader.head, scene.test.sample, f"of {PENULTIMATE}"
    if head is None:
        raise ConfigError("shift", "the network does not end in a linear layer", "take another backbone")
    moved, other = (seen[name] - clean[name] for seen in (hostile, reference))
    weight = head.weight.detach().float().cpu()
    cosines = {
        "cosine_weights": along_weights(moved, weight, sample.labels, sample.targets),
        "cosine_reference": cosine_similarity(moved, other, dim=1),
    }
    return tuple(_mean(metric, values, sample.patients, sample.seed) for metric, values in cosines.items())


def _mean(metric: str, values: torch.Tensor, patients: Sequence[str], seed: int) -> Figure:
    found = bootstrap_interval(np.mean, [values.double().numpy()], seed=seed, groups=[patients])
    return Figure(metric, found.value, found.low, found.high, len(values))


def everyone(campaign: Campaign) -> Campaign:
    """On all chosen images, those too that are diagnosed wrongly from the start, as Ma et al. attack them."""
    return replace(campaign, sample=replace(campaign.sample, rows=campaign.sample.chosen))


def _area(metric: str, campaign: Campaign, logits: torch.Tensor) -> list[Figure]:
    """The classifier's AUROC on the campaign's images, whose logits these are; nothing of more than two classes."""
    sample = campaign.sample
    if len(sample.test.classes) != 2 or len(sample.labels.unique()) < 2:
        return []
    score = (logits[:, 1] - logits[:, 0]).double()
    sides = [sample.labels == k for k in (0, 1)]
    groups = [[sample.patients[i] for i in side.nonzero().flatten().tolist()] for side in sides]
    healthy, ill = (score[side].numpy() for side in sides)
    area = auroc_interval(healthy, ill, groups, seed=sample.seed)
    return [Figure(metric, area.value, area.low, area.high, len(score))]
