"""Detectors that compare with every clean image, against transcriptions of their formulas and the usual libraries."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial.distance import cdist
from sklearn.neighbors import KernelDensity as Kernel

from benchmarks.record import Record
from benchmarks.timing import Case
from medaegis.detectors.density import KernelDensity
from medaegis.detectors.neighbours import LocalDimension
from medaegis.detectors.reader import PENULTIMATE, Reading

ABOUT = (
    "Scores of images whose pooled features are known (ResNet-50's four taps and penultimate layer), averaged over the "
    "layers. A transcription takes one image after the other and computes its distances to all clean images by NumPy; "
    "scikit-learn and SciPy stand for the way published code goes. All give the same numbers, which is checked."
)
CHANNELS = {"layer1.0": 256, "layer2.0": 512, "layer3.0": 1024, "layer4.0": 2048, PENULTIMATE: 2048}
NEIGHBOURS = 20
Scorer = Callable[[], NDArray[np.floating]]
Points = Mapping[str, NDArray[np.float64]]


def run(record: Record) -> None:
    clean_count, reference, batch = (60, 30, 8) if record.quick else (1000, 100, 256)
    record.settings(
        clean=clean_count, reference=reference, images=batch, neighbours=NEIGHBOURS, channels=sum(CHANNELS.values())
    )
    clean, labels = _features(clean_count, record.seed)
    test, _ = _features(batch, record.seed + 1)
    _density(record, clean, labels, test)
    _dimension(record, clean, labels, test, reference)


def _features(count: int, seed: int) -> tuple[Reading, torch.Tensor]:
    """Two classes, features of the spread of pooled activations, and logits that tell the class."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 2
    features = {
        tap: 0.1 * labels[:, None] + 0.3 * torch.rand((count, channels), generator=draw)
        for tap, channels in CHANNELS.items()
    }
    return Reading(torch.nn.functional.one_hot(labels, 2).float(), features), labels


def _arrays(seen: Reading) -> Points:
    return {tap: values.double().numpy() for tap, values in seen.features.items()}


def _density(record: Record, clean: Reading, labels: torch.Tensor, test: Reading) -> None:
    detector = KernelDensity(taps=None).fit(clean, labels)
    points, x, predicted = _arrays(clean), _arrays(test), test.predicted.numpy()
    rows = [labels.numpy() == k for k in range(2)]
    kernels = {tap: [Kernel(bandwidth=1.0).fit(points[tap][of]) for of in rows] for tap in CHANNELS}

    def transcription() -> NDArray[np.float64]:
        found = np.zeros(len(predicted))
        for i, k in enumerate(predicted):
            for tap in CHANNELS:
                near = points[tap][rows[k]]
                logs = -((near - x[tap][i]) ** 2).sum(1) / 2
                top = logs.max()
                volume = near.shape[1] / 2 * np.log(2 * np.pi)
                found[i] += np.log(len(near)) + volume - top - np.log(np.exp(logs - top).sum())
        return found / len(CHANNELS)

    def library() -> NDArray[np.float64]:
        found = np.zeros(len(predicted))
        for k in range(2):
            of = predicted == k
            found[of] = -np.mean([kernels[tap][k].score_samples(x[tap][of]) for tap in CHANNELS], 0)
        return found

    _compare(record, "kernel density", lambda: detector.score(test).numpy(), transcription, library, "scikit-learn")


def _dimension(record: Record, clean: Reading, labels: torch.Tensor, test: Reading, reference: int) -> None:
    detector = LocalDimension(learn=False, neighbours=NEIGHBOURS, reference=reference).fit(clean, labels)
    points = {tap: detector.learned[f"{tap}/reference"].double().numpy() for tap in CHANNELS}
    x = _arrays(test)

    def lid(radii: NDArray[np.float64]) -> NDArray[np.float64]:
        result: NDArray[np.float64] = -1 / np.log(radii / radii[..., -1:]).mean(-1)
        return result

    def transcription() -> NDArray[np.float64]:
        found = np.zeros(len(test))
        for i in range(len(test)):
            for tap in CHANNELS:
                found[i] += lid(np.sort(np.sqrt(((points[tap] - x[tap][i]) ** 2).sum(1)))[:NEIGHBOURS])
        return found / len(CHANNELS)

    def library() -> NDArray[np.float64]:
        each = [lid(np.sort(cdist(x[tap], points[tap]), 1)[:, :NEIGHBOURS]) for tap in CHANNELS]
        result: NDArray[np.float64] = np.mean(each, 0)
        return result

    _compare(record, "LID", lambda: detector.score(test).numpy(), transcription, library, "SciPy's cdist")


def _compare(record: Record, group: str, ours: Scorer, transcription: Scorer, library: Scorer, other: str) -> None:
    expected = transcription()
    for name, found in (("medaegis", ours()), (other, library())):
        if not np.allclose(found, expected, rtol=1e-4):
            raise RuntimeError(f"{group}: {name} gives other numbers than the formula")
    cases = [
        Case("medaegis", ours, len(expected)),
        Case("transcription", transcription, len(expected)),
        Case(other, library, len(expected)),
    ]
    seconds = record.measure(group, cases, unit="image", rounds=5, budget=1 if record.quick else 60)
    record.ratio(f"transcription / medaegis, {group}", seconds, "transcription", "medaegis", goal=">= 10")
    record.ratio(f"{other} / medaegis, {group}", seconds, other, "medaegis")
