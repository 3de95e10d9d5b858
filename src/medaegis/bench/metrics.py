"""Figures of merit for detectors and classifiers, from ranks, in NumPy alone.

A score is higher the more suspicious an image is; negatives are clean images, positives attacked ones. All of it comes
from ranks, so no sigmoid, binning or rounding can create ties; real ties count half (Mann and Whitney, 1947).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt

from medaegis.errors import ConfigError

FloatArray = npt.NDArray[np.float64]
Groups = Sequence[Sequence[str] | npt.NDArray[np.generic]]


def threshold_at_tnr(negatives: npt.ArrayLike, tnr: float) -> float:
    """The smallest score of a negative that accepts at least a share `tnr` of them; accepted is `score <= threshold`.

    negatives: (n,) scores of clean images; tnr: in (0, 1]. It is the k-th smallest score with k = ceil(tnr * n); with
    ties the share accepted may be higher, never lower. Raises ConfigError on empty input, NaN, or tnr outside (0, 1].
    """
    scores = np.sort(_scores("negatives", negatives))
    if not 0.0 < tnr <= 1.0:
        raise ConfigError("tnr", f"got {tnr!r}, expected a share in (0, 1]", "write 0.9 for 90 %")
    # A product such as 0.7 * 10 = 7.000000000000001 must not ask for one image more than the share names.
    needed = math.ceil((tnr - 1e-9) * len(scores))
    return float(scores[max(needed, 1) - 1])


def tpr_at_tnr(negatives: npt.ArrayLike, positives: npt.ArrayLike, tnr: float) -> float:
    """Share of positives scored above `threshold_at_tnr(negatives, tnr)`: the share of attacked images withheld.

    negatives: (n,), positives: (m,). Raises ConfigError as `threshold_at_tnr` does.
    """
    threshold = threshold_at_tnr(negatives, tnr)
    return float(np.mean(_scores("positives", positives) > threshold))


def auroc(negatives: npt.ArrayLike, positives: npt.ArrayLike) -> float:
    """Probability that a random positive scores above a random negative, ties counting half: Mann-Whitney U / (n m).

    negatives: (n,), positives: (m,). Infinite scores keep their place. Raises ConfigError on empty input or NaN.
    """
    low, high = np.sort(_scores("negatives", negatives)), _scores("positives", positives)
    below = np.searchsorted(low, high, side="left")
    not_above = np.searchsorted(low, high, side="right")
    return float((below.sum() + not_above.sum()) / (2 * len(low) * len(high)))


@dataclass(frozen=True)
class RocCurve:
    """Corners of a ROC curve from (0, 0) to (1, 1); corner k withholds images whose score >= thresholds[k]."""

    fpr: FloatArray
    tpr: FloatArray
    thresholds: FloatArray


def roc_curve(negatives: npt.ArrayLike, positives: npt.ArrayLike) -> RocCurve:
    """ROC curve with one corner per distinct score, so that the area of its trapezoids is `auroc`.

    negatives: (n,), positives: (m,). thresholds[0] is +inf: nothing withheld. Raises ConfigError on empty input or NaN.
    """
    low, high = np.sort(_scores("negatives", negatives)), np.sort(_scores("positives", positives))
    distinct = np.unique(np.concatenate([low, high]))[::-1]
    fpr = (len(low) - np.searchsorted(low, distinct, side="left")) / len(low)
    tpr = (len(high) - np.searchsorted(high, distinct, side="left")) / len(high)
    return RocCurve(np.r_[0.0, fpr], np.r_[0.0, tpr], np.r_[np.inf, distinct])


@dataclass(frozen=True)
class Interval:
    """A value and the bounds of its interval."""

    value: float
    low: float
    high: float

    @property
    def bounds(self) -> tuple[float, float]:
        return self.low, self.high


def as_fields(name: str, found: Interval | None) -> dict[str, Any]:
    """A figure as records keep it: the value under its name, the bounds under `<name>_interval`; None where there is
    none."""
    value, bounds = (None, None) if found is None else (found.value, found.bounds)
    return {name: value, f"{name}_interval": bounds}


def share_interval(hits: npt.ArrayLike, groups: Sequence[str]) -> Interval:
    """Wilson interval of the share of hits `(n,)` (true or false), as of n / `design_effect` independent images.

    groups: the patient of each image, `(n,)`. Raises ConfigError as `wilson_interval`, and where the two do not fit.
    """
    told = np.asarray(hits, dtype=bool)
    effect = design_effect(told, groups) if len(told) else 1.0
    return wilson_interval(int(told.sum()), len(told), design=effect)


def design_effect(hits: npt.ArrayLike, groups: Sequence[str]) -> float:
    """How much less images of one patient tell than as many independent ones (Kish, 1965): at least 1, which it is with
    one image per patient.

    The variance of the share with patients drawn as a whole (ratio estimator; Cochran 1977, eq. 11.30) over that with
    images drawn singly. A few patients without a difference do not show that there is none, so two of the mean size are
    added, one wholly hit and one not at all, as Agresti and Coull (1998) add successes and failures.

    hits: `(n,)`, true or false; groups: the patient of each, `(n,)`. Raises ConfigError where they do not fit.
    """
    told = np.asarray(hits, dtype=np.float64)
    if len(told) != len(groups) or not len(told):
        problem = f"got {len(groups)}, expected {len(told)}, and at least one"
        raise ConfigError("groups", problem, "pass one label per image")
    codes = np.unique(np.asarray(groups), return_inverse=True)[1]
    sizes, hit = np.bincount(codes).astype(np.float64), np.bincount(codes, weights=told)
    sizes, hit = np.r_[sizes, sizes.mean(), sizes.mean()], np.r_[hit, sizes.mean(), 0.0]
    n, m, share = sizes.sum(), len(sizes), hit.sum() / sizes.sum()
    by_patient = m / (m - 1) * np.square(hit - share * sizes).sum() / n**2
    return float(max(1.0, by_patient / (share * (1 - share) / (n - 1))))


def wilson_interval(successes: int, n: int, *, design: float = 1.0, confidence: float = 0.95) -> Interval:
    """Score interval of a share (Wilson, 1927): inside [0, 1], and sensible at 0 and n where the normal one collapses.

    design: n counts as n / design, but as one at least. Raises ConfigError when n < 1, when successes is not in 0..n,
    when design is below 1 or confidence not in (0, 1).
    """
    if n < 1 or not 0 <= successes <= n:
        problem = f"got {successes} successes of {n}, expected 0 <= successes <= n and n >= 1"
        raise ConfigError("wilson_interval", problem, "pass counts, not shares")
    if not design >= 1:
        raise ConfigError("wilson_interval", f"design is {design}, expected 1 or more", "take `design_effect`")
    z = NormalDist().inv_cdf(0.5 + _confidence(confidence) / 2)
    share, alone = successes / n, max(1.0, n / design)
    scale = 1 + z * z / alone
    centre = (share + z * z / (2 * alone)) / scale
    half = z / scale * math.sqrt(share * (1 - share) / alone + z * z / (4 * alone * alone))
    # At the ends the bound is the end itself; rounding would leave 1e-17 there.
    low = 0.0 if successes == 0 else centre - half
    high = 1.0 if successes == n else centre + half
    return Interval(share, low, high)


def bootstrap_interval(
    statistic: Callable[..., float | np.floating],
    arrays: Sequence[npt.ArrayLike],
    *,
    n: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
    groups: Groups | None = None,
) -> Interval:
    """Percentile bootstrap interval of `statistic(*arrays)` (Efron, 1979), each array resampled apart (stratified).

    arrays: one (n_k,) array per stratum, e.g. [negatives, positives]. groups: for each array one label per element,
    e.g. the patient. Then whole groups are drawn (cluster bootstrap), because images of one patient are not
    independent; a group found in several arrays is drawn equally often in all, so that a patient's clean and attacked
    images stay together, and a draw that leaves an array empty is drawn again. The result depends on the arguments
    alone; the global generator is not touched. Raises ConfigError on empty arrays, NaN, groups that do not fit, or n <
    1.
    """
    data = [_scores(f"arrays[{k}]", array) for k, array in enumerate(arrays)]
    if not data or n < 1:
        problem = f"got {len(data)} arrays and n={n}, expected at least one of each"
        raise ConfigError("bootstrap_interval", problem, "pass the arrays that the statistic takes, in its order")
    tail = (1 - _confidence(confidence)) / 2
    generator = np.random.default_rng(seed)
    samples = _element_draws(data, n, generator) if groups is None else _group_draws(data, groups, n, generator)
    draws = np.fromiter((float(statistic(*sample)) for sample in samples), dtype=np.float64, count=n)
    low, high = np.quantile(draws, [tail, 1 - tail])
    return Interval(float(statistic(*data)), float(low), float(high))


def auroc_interval(
    negatives: npt.ArrayLike, positives: npt.ArrayLike, groups: Groups, *, n: int = 500, seed: int = 0
) -> Interval:
    """The AUROC with its interval of 95 %, by patient: bootstrap, or where that says nothing, the rule of three.

    Where every positive scores above every negative (or below) each draw gives the same area. Then k pairs of a
    negative and a positive, on each side of different patients, all came out the same way; k is the smaller number of
    patients. Were a share 1 - 0.05^(1/k), about 3 / k, of pairs the other way, that would happen with a chance of 5 %
    (Hanley and Lippman-Hand, 1983): so far may the area be from the end.

    groups: for negatives and positives the patient of each. Raises ConfigError as `bootstrap_interval`.
    """
    found = bootstrap_interval(auroc, [negatives, positives], n=n, seed=seed, groups=groups)
    return _widened(found, min(len(set(labels)) for labels in groups))


def _widened(found: Interval, patients: int) -> Interval:
    """By the rule of three (`auroc_interval`) where all of so many patients are at one end."""
    far = 1 - 0.05 ** (1 / patients)
    if found.value == 1.0:
        return Interval(1.0, 1.0 - far, 1.0)
    return Interval(0.0, 0.0, far) if found.value == 0.0 else found


def mean_interval(values: npt.ArrayLike, groups: Sequence[str], *, seed: int = 0) -> Interval:
    """The mean of shares `(N,)` with its interval of 95 %, by patient: bootstrap, or where all are 0, or all 1, the
    rule of three: were a share p of the patients otherwise, k would all be so with a chance of (1 - p)^k.

    groups: the patient of each. Raises ConfigError on empty input, NaN or groups that do not fit.

    >>> mean_interval([1.0, 1.0, 1.0], ["a", "b", "c"])
    Interval(value=1.0, low=0.36840314986403866, high=1.0)
    """
    told = _scores("values", values)
    times = _times_drawn(groups, len(told), 1000, seed)
    return _widened(_percentiles(float(told.mean()), times @ told / times.sum(1)), len(set(groups)))


def aurocs(scores: npt.ArrayLike, truth: npt.ArrayLike) -> list[float | None]:
    """`auroc` of each of L findings, None where all images have it or none has.

    scores: (N, L), higher where a finding seems to be there; truth: (N, L), 1 where it is.
    """
    columns = zip(np.asarray(scores, dtype=np.float64).T, np.asarray(truth, dtype=bool).T, strict=True)
    return [auroc(seen[~there], seen[there]) if 0 < there.sum() < len(there) else None for seen, there in columns]


def mean_auroc_interval(
    scores: npt.ArrayLike, truth: npt.ArrayLike, groups: Sequence[str], *, n: int = 500, seed: int = 0
) -> Interval | None:
    """The mean of `aurocs` over the findings that have one, with its interval of 95 %, by patient; None if none has.

    Bootstrap; a draw has the mean over the findings that have an area in it, and is left out where none has. At either
    end the rule of three (`auroc_interval`), over the finding of which fewest patients tell. scores, truth: as of
    `aurocs`; groups: the patient of each image. Raises ConfigError on empty input or groups that do not fit.
    """
    seen, there = np.asarray(scores, dtype=np.float64), np.asarray(truth, dtype=bool)
    areas = {k: area for k, area in enumerate(aurocs(seen, there)) if area is not None}
    if not areas:
        return None
    times, names = _times_drawn(groups, len(seen), n, seed), np.asarray(groups)
    drawn = np.stack([_areas_drawn(seen[:, k], there[:, k], times) for k in areas])
    drawn = drawn[:, np.isfinite(drawn).any(0)]
    sides = [names[there[:, k] == side] for k in areas for side in (False, True)]
    found = _percentiles(float(np.mean(list(areas.values()))), np.nanmean(drawn, axis=0))
    return _widened(found, min(len(set(side)) for side in sides))


def _areas_drawn(seen: FloatArray, there: npt.NDArray[np.bool_], times: FloatArray) -> FloatArray:
    """`auroc` in each of n draws, (n,), of images that are drawn so many times, (n, N); NaN where a side is empty."""
    order = seen.argsort(kind="stable")
    _, starts = np.unique(seen[order], return_index=True)
    low, high = (np.add.reduceat(times[:, order] * (there[order] == side), starts, axis=1) for side in (False, True))
    below = low.cumsum(1) - low
    pairs = low.sum(1) * high.sum(1)
    area = np.full(len(pairs), np.nan)
    np.divide((high * (below + low / 2)).sum(1), pairs, out=area, where=pairs > 0)
    return area


def _times_drawn(groups: Sequence[str], wanted: int, n: int, seed: int) -> FloatArray:
    """How often each image is in each of n draws of whole groups, (n, N)."""
    if len(groups) != wanted:
        raise ConfigError("groups", f"got {len(groups)}, expected {wanted}", "pass one label per image")
    names, codes = np.unique(np.asarray(groups), return_inverse=True)
    drawn = np.random.default_rng(seed).integers(0, len(names), size=(n, len(names)))
    times = np.stack([np.bincount(one, minlength=len(names)) for one in drawn])
    return times[:, codes].astype(np.float64)


def _percentiles(value: float, drawn: FloatArray) -> Interval:
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Interval(value, float(low), float(high))


def _scores(name: str, values: npt.ArrayLike) -> FloatArray:
    """`values` as a (n,) float64 array, refused when empty or not a number."""
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or not array.size:
        raise ConfigError(name, f"got shape {array.shape}, expected (n,) with n >= 1", "pass one score per image")
    if missing := int(np.isnan(array).sum()):
        raise ConfigError(name, f"{missing} of {array.size} are NaN", "count such images as withheld: score +inf")
    return array


def _confidence(value: float) -> float:
    if not 0.0 < value < 1.0:
        raise ConfigError("confidence", f"got {value!r}, expected a share in (0, 1)", "write 0.95 for 95 %")
    return value


def _element_draws(data: Sequence[FloatArray], n: int, generator: np.random.Generator) -> Iterator[list[FloatArray]]:
    indices = [generator.integers(0, len(array), size=(n, len(array))) for array in data]
    for k in range(n):
        yield [array[index[k]] for array, index in zip(data, indices, strict=True)]


def _group_draws(
    data: Sequence[FloatArray], groups: Groups, n: int, generator: np.random.Generator
) -> Iterator[list[FloatArray]]:
    sizes, wanted = [len(labels) for labels in groups], [len(array) for array in data]
    if sizes != wanted:
        problem = f"got lengths {sizes}, expected {wanted}"
        raise ConfigError("groups", problem, "pass one label per element of every array")
    names, codes = np.unique(np.concatenate([np.asarray(labels) for labels in groups]), return_inverse=True)
    members = np.split(codes, np.cumsum(wanted)[:-1])
    drawn = 0
    while drawn < n:
        times = np.bincount(generator.integers(0, len(names), size=len(names)), minlength=len(names))
        sample = [np.repeat(array, times[code]) for array, code in zip(data, members, strict=True)]
        if all(len(array) for array in sample):
            drawn += 1
            yield sample
