"""Metrics against scikit-learn, brute force and closed forms."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest, norm
from sklearn.metrics import roc_auc_score
from sklearn.metrics import roc_curve as sklearn_roc_curve

from medaegis.bench import metrics
from medaegis.bench.metrics import (
    Interval,
    auroc,
    auroc_interval,
    aurocs,
    bootstrap_interval,
    mean_auroc_interval,
    mean_interval,
    roc_curve,
    share_interval,
    threshold_at_tnr,
    tpr_at_tnr,
    wilson_interval,
)
from medaegis.errors import ConfigError

# Few distinct values: ties within and between the two sides are the hard part.
tied = st.lists(st.sampled_from([-2.0, -0.5, 0.0, 0.25, 1.0, 3.5]), min_size=1, max_size=25)
free = st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=25)
scores = st.one_of(tied, free)
# A busy machine must not fail a test for its time.
unhurried = settings(deadline=None)
shares = st.one_of(st.sampled_from([0.5, 0.7, 0.9, 0.95, 0.99, 1.0]), st.floats(0.001, 1.0))


@unhurried
@given(scores, scores)
def test_auroc_agrees_with_scikit_learn(negatives: list[float], positives: list[float]) -> None:
    truth = [0] * len(negatives) + [1] * len(positives)
    assert auroc(negatives, positives) == pytest.approx(roc_auc_score(truth, negatives + positives), abs=1e-12)


@unhurried
@given(scores, scores)
def test_auroc_of_swapped_sides_is_the_complement(negatives: list[float], positives: list[float]) -> None:
    assert auroc(negatives, positives) + auroc(positives, negatives) == pytest.approx(1.0, abs=1e-12)


def test_auroc_does_not_lose_large_scores_in_a_sigmoid() -> None:
    assert auroc([40.0, 41.0], [42.0, 43.0]) == 1.0
    assert auroc([0.0, np.inf], [np.inf]) == 0.75


@unhurried
@given(scores, scores)
def test_roc_curve_has_the_corners_of_scikit_learn_and_the_area_of_auroc(
    negatives: list[float], positives: list[float]
) -> None:
    curve = roc_curve(negatives, positives)
    truth = [0] * len(negatives) + [1] * len(positives)
    fpr, tpr, thresholds = sklearn_roc_curve(truth, negatives + positives, drop_intermediate=False)
    np.testing.assert_allclose(curve.fpr, fpr, atol=1e-12)
    np.testing.assert_allclose(curve.tpr, tpr, atol=1e-12)
    np.testing.assert_array_equal(curve.thresholds, thresholds)
    assert np.trapezoid(curve.tpr, curve.fpr) == pytest.approx(auroc(negatives, positives), abs=1e-12)


@unhurried
@given(scores, shares)
def test_threshold_is_the_smallest_score_that_accepts_the_share(negatives: list[float], tnr: float) -> None:
    accepted = {t: sum(score <= t for score in negatives) for t in negatives}
    enough = [t for t, count in accepted.items() if count >= tnr * len(negatives) - 1e-6]
    assert threshold_at_tnr(negatives, tnr) == min(enough)


@unhurried
@given(scores, scores, shares)
def test_tpr_counts_what_lies_above_the_threshold(negatives: list[float], positives: list[float], tnr: float) -> None:
    threshold = threshold_at_tnr(negatives, tnr)
    assert tpr_at_tnr(negatives, positives, tnr) == sum(score > threshold for score in positives) / len(positives)


@pytest.mark.parametrize(("tnr", "rank"), [(0.7, 7), (0.9, 9), (0.91, 10), (1.0, 10), (0.05, 1)])
def test_threshold_rank_is_not_moved_by_binary_rounding(tnr: float, rank: int) -> None:
    assert threshold_at_tnr(np.arange(1.0, 11.0), tnr) == rank


@unhurried
@given(st.integers(1, 400), st.data(), st.sampled_from([0.8, 0.95, 0.99]))
def test_wilson_agrees_with_scipy(n: int, data: Any, confidence: float) -> None:
    successes = data.draw(st.integers(0, n))
    mine = wilson_interval(successes, n, confidence=confidence)
    oracle = binomtest(successes, n).proportion_ci(confidence, method="wilson")
    assert (mine.low, mine.high) == pytest.approx((oracle.low, oracle.high), abs=1e-9)
    assert 0 <= mine.low <= mine.value <= mine.high <= 1


@unhurried
@given(st.lists(st.booleans(), min_size=1, max_size=300))
def test_with_one_image_per_patient_a_share_has_wilsons_interval(hits: list[bool]) -> None:
    mine = share_interval(hits, [f"p{i}" for i in range(len(hits))])
    oracle = binomtest(sum(hits), len(hits)).proportion_ci(0.95, method="wilson")
    assert (mine.low, mine.high) == pytest.approx((oracle.low, oracle.high), abs=1e-9)


def covered(truth: float, intervals: list[Any]) -> float:
    return float(np.mean([one.low <= truth <= one.high for one in intervals]))


@pytest.mark.parametrize(("truth", "alike"), [(0.3, 1.5), (0.05, 1.5), (0.9, 1.5), (0.5, 0.1), (0.3, 1e4)])
def test_the_interval_of_a_share_covers_where_images_of_a_patient_fall_together(truth: float, alike: float) -> None:
    """Patients of one to six images, their shares of a beta distribution: the smaller `alike`, the wider."""
    generator, mine, images = np.random.default_rng(0), [], []
    for _ in range(400):
        sizes = generator.choice([1, 2, 3, 6], size=30)
        patients = np.repeat([f"p{i}" for i in range(30)], sizes)
        hits = generator.random(len(patients)) < np.repeat(
            generator.beta(alike * truth, alike * (1 - truth), size=30), sizes
        )
        mine.append(share_interval(hits, patients.tolist()))
        images.append(wilson_interval(int(hits.sum()), len(hits)))
    assert covered(truth, mine) >= 0.92
    assert (covered(truth, images) < 0.85) == (alike < 10), "images taken for independent do not cover"
    assert np.mean([one.high - one.low for one in mine]) < 2.5 * np.mean([one.high - one.low for one in images])


def test_copies_of_an_image_tell_what_one_of_it_tells() -> None:
    hits = np.arange(40) < 9
    once = wilson_interval(9, 40)
    often = share_interval(np.repeat(hits, 7), np.repeat([f"p{i}" for i in range(40)], 7).tolist())
    assert often.value == once.value
    assert often.low <= once.low < once.high <= often.high
    assert often.high - often.low < 1.03 * (once.high - once.low)


def test_the_interval_of_a_share_is_sensible_at_the_ends() -> None:
    """None, one and all of three images of each of 26 patients: between what images and patients would give."""
    patients = np.repeat([f"p{i}" for i in range(26)], 3).tolist()
    none, one, every = (share_interval(np.arange(78) < count, patients) for count in (0, 1, 78))
    assert (none.low, every.high) == (0.0, 1.0)
    assert every.low == pytest.approx(1 - none.high)
    assert wilson_interval(0, 78).high < none.high <= 1.1 * wilson_interval(0, 26).high
    assert none.high < one.high
    alone = share_interval([True, False, True], ["p", "p", "p"])
    assert 0 <= alone.low < 0.25 < 0.9 < alone.high <= 1, "one patient tells next to nothing"


def test_a_perfect_area_is_no_certainty() -> None:
    groups = [[f"p{i}" for i in range(12)], [f"p{i}" for i in range(20)]]
    found = auroc_interval(np.arange(12.0), np.arange(20.0) + 50, groups)
    assert (found.value, found.high) == (1.0, 1.0)
    assert found.low**12 == pytest.approx(0.05), "twelve pairs would all come out right in one of twenty tests"
    mirrored = auroc_interval(np.arange(12.0) + 50, np.arange(20.0), groups)
    assert (mirrored.value, mirrored.low, mirrored.high) == (0.0, 0.0, pytest.approx(1 - found.low))
    by_patient = auroc_interval(np.arange(12.0), np.arange(20.0) + 50, [["a", "b"] * 6, groups[1]])
    assert by_patient.low**2 == pytest.approx(0.05)
    mixed = [np.arange(12.0), np.arange(20.0)]
    assert auroc_interval(*mixed, groups, n=50, seed=3) == bootstrap_interval(auroc, mixed, n=50, seed=3, groups=groups)


def test_the_interval_of_a_nearly_perfect_area_covers_it() -> None:
    truth = float(norm.cdf(3.0 / np.sqrt(2)))
    mine, bootstrap = [], []
    for seed in range(200):
        generator = np.random.default_rng(seed)
        arrays = [generator.normal(size=15), generator.normal(3.0, size=15)]
        groups = [[f"{side}{i}" for i in range(15)] for side in "np"]
        mine.append(auroc_interval(*arrays, groups, n=100, seed=seed))
        bootstrap.append(bootstrap_interval(auroc, arrays, n=100, seed=seed, groups=groups))
    assert covered(truth, mine) >= 0.9 > 0.75 > covered(truth, bootstrap)


def test_bootstrap_of_a_mean_is_near_the_normal_interval() -> None:
    sample = np.random.default_rng(3).normal(2.0, 1.5, size=400)
    interval = bootstrap_interval(np.mean, [sample], n=2000, seed=1)
    half = norm.ppf(0.975) * sample.std() / np.sqrt(len(sample))
    assert interval.value == sample.mean()
    assert (interval.low, interval.high) == pytest.approx((sample.mean() - half, sample.mean() + half), abs=0.1 * half)


def test_bootstrap_covers_the_true_auroc() -> None:
    truth = float(norm.cdf(1.0 / np.sqrt(2)))
    hits = 0
    for seed in range(60):
        generator = np.random.default_rng(seed)
        arrays = [generator.normal(size=60), generator.normal(1.0, size=60)]
        interval = bootstrap_interval(auroc, arrays, n=200, seed=seed)
        hits += interval.low <= truth <= interval.high
    assert 50 <= hits <= 60


def test_bootstrap_depends_on_the_seed_alone_and_leaves_the_global_generator() -> None:
    arrays = [np.arange(20.0), np.arange(5.0, 30.0)]
    statistic = partial(tpr_at_tnr, tnr=0.9)
    before = repr(np.random.get_state())  # noqa: NPY002
    first = bootstrap_interval(statistic, arrays, n=50, seed=7)
    assert first == bootstrap_interval(statistic, arrays, n=50, seed=7)
    assert first != bootstrap_interval(statistic, arrays, n=50, seed=8)
    assert before == repr(np.random.get_state())  # noqa: NPY002


def test_bootstrap_resamples_each_array_apart() -> None:
    sizes = set()

    def statistic(negatives: np.ndarray, positives: np.ndarray) -> float:
        sizes.add((len(negatives), len(positives)))
        assert set(negatives) <= {0.0, 1.0}
        assert set(positives) <= {5.0, 6.0, 7.0}
        return 0.0

    bootstrap_interval(statistic, [[0.0, 1.0], [5.0, 6.0, 7.0]], n=30)
    assert sizes == {(2, 3)}


def test_whole_patients_are_drawn_and_pairs_stay_together() -> None:
    """Scores are patient numbers; every draw must hold each patient's images equally often, on both sides alike."""
    patients = [np.repeat(np.arange(6), 3), np.repeat(np.arange(6), 2)]

    def statistic(negatives: np.ndarray, positives: np.ndarray) -> float:
        low, high = (np.bincount(side.astype(int), minlength=6) for side in (negatives, positives))
        assert not (low % 3).any()
        np.testing.assert_array_equal(low // 3, high // 2)
        assert high.sum() == 12
        return 0.0

    bootstrap_interval(statistic, [side.astype(float) for side in patients], n=50, groups=patients)


def test_patients_with_many_alike_images_widen_the_interval() -> None:
    generator = np.random.default_rng(5)
    values = np.repeat(generator.normal(size=30), 20)
    patients = np.repeat(np.arange(30), 20)
    plain = bootstrap_interval(np.mean, [values], seed=2)
    grouped = bootstrap_interval(np.mean, [values], seed=2, groups=[patients])
    # 20 copies of each image carry the information of one: the honest interval is sqrt(20) times wider.
    assert (grouped.high - grouped.low) / (plain.high - plain.low) == pytest.approx(np.sqrt(20), rel=0.15)


def test_a_patient_alone_on_one_side_never_leaves_it_empty() -> None:
    groups = [["a", "b", "c", "d"], ["d"]]
    interval = bootstrap_interval(auroc, [[0.0, 1.0, 2.0, 3.0], [9.0]], n=40, groups=groups)
    assert (interval.low, interval.high) == (1.0, 1.0)


@pytest.mark.parametrize("function", [auroc, roc_curve, partial(tpr_at_tnr, tnr=0.9)])
@pytest.mark.parametrize(
    ("negatives", "positives", "names"),
    [
        ([], [1.0], "negatives"),
        ([1.0], [], "positives"),
        ([1.0, np.nan], [1.0], "NaN"),
        ([1.0], [np.nan], "NaN"),
        ([[1.0]], [1.0], "shape"),
    ],
)
def test_bad_scores_are_refused(function: Any, negatives: Any, positives: Any, names: str) -> None:
    with pytest.raises(ConfigError, match=names):
        function(negatives, positives)


@pytest.mark.parametrize("tnr", [0.0, -0.1, 1.1, float("nan")])
def test_bad_share_is_refused(tnr: float) -> None:
    with pytest.raises(ConfigError, match="tnr"):
        threshold_at_tnr([1.0], tnr)


@pytest.mark.parametrize(
    "call",
    [
        lambda: bootstrap_interval(np.mean, []),
        lambda: bootstrap_interval(np.mean, [[]]),
        lambda: bootstrap_interval(np.mean, [[np.nan]]),
        lambda: bootstrap_interval(np.mean, [[1.0]], n=0),
        lambda: bootstrap_interval(np.mean, [[1.0]], confidence=95),
        lambda: bootstrap_interval(np.mean, [[1.0, 2.0]], groups=[["a"]]),
        lambda: bootstrap_interval(np.mean, [[1.0]], groups=[]),
        lambda: wilson_interval(2, 1),
        lambda: wilson_interval(0, 0),
        lambda: wilson_interval(1, 2, confidence=1.0),
        lambda: wilson_interval(1, 2, design=0.5),
        lambda: share_interval([True], ["a", "b"]),
        lambda: share_interval([], []),
    ],
)
def test_other_bad_input_is_refused(call: Any) -> None:
    with pytest.raises(ConfigError):
        call()


def test_intervals_of_means() -> None:
    values, groups = np.random.default_rng(0).random(60), [f"p{i // 3}" for i in range(60)]
    found = mean_interval(values, groups)
    means = values.reshape(20, 3).mean(1)
    error = 1.96 * means.std(ddof=1) / np.sqrt(20)
    general = bootstrap_interval(np.mean, [values], groups=[groups])
    assert dataclasses.astuple(found) == pytest.approx(dataclasses.astuple(general), rel=1e-12)
    assert found.value == pytest.approx(values.mean())
    assert (found.low, found.high) == pytest.approx((values.mean() - error, values.mean() + error), abs=0.02)
    none = mean_interval(np.zeros(6), list("aabbcc"))
    assert (none.value, none.low, none.high) == (0, 0, pytest.approx(1 - 0.05 ** (1 / 3)))


def test_the_mean_area_of_findings() -> None:
    random = np.random.default_rng(1)
    truth = np.c_[random.random((80, 2)) < 0.4, np.zeros(80, dtype=bool)]
    scores = random.normal(size=(80, 3)) + truth
    areas = [roc_auc_score(truth[:, k], scores[:, k]) for k in range(2)]
    assert aurocs(scores, truth) == [*map(pytest.approx, areas), None]
    groups = [f"p{i:02}" for i in range(80)]
    found = mean_auroc_interval(scores, truth, groups)
    assert found.value == pytest.approx(np.mean(areas))
    # DeLong's error of one area, by the placements of its positives and negatives; the findings are independent.
    errors = []
    for k in range(2):
        wins = (scores[truth[:, k], k][:, None] > scores[~truth[:, k], k][None]).astype(float)
        errors.append(wins.mean(1).var(ddof=1) / len(wins) + wins.mean(0).var(ddof=1) / wins.shape[1])
    half = 1.96 * np.sqrt(sum(errors)) / 2
    assert (found.low, found.high) == pytest.approx((found.value - half, found.value + half), abs=0.03)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metrics, "_percentiles", lambda value, drawn: Interval(value, drawn.min(), drawn.max()))
        few = mean_auroc_interval(scores.round(1), truth, groups, n=3, seed=5)
    rows = np.random.default_rng(5).integers(0, 80, (3, 80))  # groups are the images, in their order
    drawn = [np.mean([roc_auc_score(truth[row, k], scores.round(1)[row, k]) for k in range(2)]) for row in rows]
    assert (few.low, few.high) == pytest.approx((min(drawn), max(drawn))), "each draw by itself, ties counted half"
    assert mean_auroc_interval(scores, np.ones((80, 3)), groups) is None
    sure = mean_auroc_interval(truth.astype(float), truth, groups)
    fewest = truth[:, :2].sum(0).min()
    assert (sure.value, sure.high) == (1, 1)
    assert sure.low == pytest.approx(0.05 ** (1 / fewest))
