"""Bounds and radii of a certificate: against scipy's exact intervals, and against truths that are known."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, norm

from medaegis.bench.radius import SLACK, Bounds, Terms, lower, upper
from medaegis.errors import ConfigError

SIGMA = 0.25


@given(n=st.integers(1, 20_000), share=st.floats(0, 1), level=st.sampled_from([0.001, 1e-5, 0.05]))
def test_bounds_are_those_of_clopper_and_pearson(n, share, level):
    k = round(share * n)
    exact = binomtest(k, n).proportion_ci(1 - 2 * level, method="exact")
    counts = np.array([k])
    assert upper(counts, n, level)[0] == pytest.approx(min(exact.high + SLACK, 1.0), abs=1e-10)
    assert lower(counts, n, level)[0] == pytest.approx(max(exact.low - SLACK, 0.0), abs=1e-10)
    assert lower(counts, n, level)[0] < k / n + SLACK
    assert upper(counts, n, level)[0] > k / n - SLACK


def ask(terms: Terms, chances, label: int, generator, *, stop: bool = True) -> Bounds:
    """What is known of an image whose copies are accepted as class j with chance `chances[0, j]`, else withheld, and
    taken for it with `chances[1, j]`, stage by stage."""
    seen = Bounds(terms, classes=chances.shape[1], label=label)
    counts, before = np.zeros_like(chances, dtype=int), 0
    for n in terms.stages:
        for row in (0, 1):
            rest = max(0.0, 1 - chances[row].sum())
            counts[row] += generator.multinomial(n - before, [*chances[row], rest])[:-1]
        seen.take(counts.tolist(), n)
        before = n
        if stop and seen.settled:
            break
    return seen


def test_all_bounds_of_an_image_hold_as_often_as_they_say():
    """With the look that decides when to stop; at an alpha that many repetitions can check."""
    terms = Terms(SIGMA, (0.1, 0.3, 0.5), samples=2000, alpha=0.2)
    generator, runs = np.random.default_rng(0), 2500
    chances = np.array([[0.72, 0.08, 0.02], [0.8, 0.15, 0.05]])
    truth = chances[0].copy()
    truth[0] = 1 - truth[0]
    failed = 0
    for _ in range(runs):
        found = ask(terms, chances, 0, generator)
        failed += bool((found.chances[0] < truth).any())
    assert failed > runs * 0.02, "an exact bound is not far on the safe side"
    assert binomtest(failed, runs, terms.alpha, alternative="greater").pvalue > 1e-3


def test_of_a_half_space_no_radius_is_larger_than_its_distance_but_as_often_as_alpha_says():
    """There the theorem is tight: a linear classifier at distance r gives the other diagnosis with Phi(-r / sigma)."""
    generator, runs, far = np.random.default_rng(1), 2000, 0.2
    terms = Terms(SIGMA, (0.1, 0.2, 0.3), samples=1000, alpha=0.2)
    wrong = norm.cdf(-far / SIGMA)
    chances = np.array([[1 - wrong, wrong], [1 - wrong, wrong]])
    radii = np.array([ask(terms, chances, 0, generator).radii[0, 0] for _ in range(runs)])
    failed = int((radii > far).sum())
    assert failed > 0, "and near it, so that a bound of a higher level would fail this"
    assert binomtest(failed, runs, terms.alpha, alternative="greater").pvalue > 1e-3
    assert radii.mean() > 0.75 * far


counts_of = st.integers(2, 4).flatmap(
    lambda classes: st.lists(
        st.tuples(*[st.tuples(st.integers(0, 25), st.integers(0, 25)) for _ in range(classes)]), min_size=3, max_size=3
    )
)


@given(counts=counts_of, label=st.integers(0, 1))
def test_without_the_shield_there_is_never_more_without_harm_and_never_less_right(counts, label):
    terms = Terms(SIGMA, (0.1, 0.3), samples=10_000)
    classes = len(counts[0])
    seen = Bounds(terms, classes=classes, label=label)
    total = np.zeros((2, classes), dtype=int)
    before = 0
    for n, stage in zip(terms.stages, counts, strict=True):
        accepted, withheld = np.array(stage).T
        total += np.array([accepted, accepted + withheld]) * (n - before) // (50 * classes)
        seen.take(total.tolist(), n)
        before = n
        (no_harm, right), (plain_no_harm, plain_right) = seen.radii
        assert plain_no_harm <= no_harm
        assert right <= plain_right
        assert right <= no_harm
        assert plain_right <= plain_no_harm


@given(seed=st.integers(0, 2**32), p=st.floats(0, 1), q=st.floats(0, 1))
def test_stopping_early_never_says_more(seed, p, q):
    terms = Terms(SIGMA, (0.1, 0.2, 0.4), samples=10_000)
    chances = np.array([[q * (1 - p), q * p], [1 - p, p]])
    early = ask(terms, chances, 0, np.random.default_rng(seed))
    whole = ask(terms, chances, 0, np.random.default_rng(seed), stop=False)
    assert (early.radii <= whole.radii).all()
    assert (early.chances >= whole.chances).all()


def test_an_image_stops_once_nothing_that_is_asked_can_change():
    terms = Terms(SIGMA, (0.1, 0.2), samples=10_000)
    none = Bounds(terms, classes=2, label=0)
    none.take([[100, 0], [100, 0]], 100)
    assert none.settled
    assert none.radii.min() > 0.2, "everything is certified"
    harmed = Bounds(terms, classes=2, label=0)
    harmed.take([[0, 100], [0, 100]], 100)
    assert harmed.settled
    assert harmed.radii.max() < 0, "everything is lost"
    farther = Bounds(Terms(SIGMA, (0.1, 0.6), samples=10_000), classes=2, label=0)
    farther.take([[100, 0], [100, 0]], 100)
    assert not farther.settled, "more copies reach 0.6"
    beyond = Bounds(Terms(SIGMA, (0.1, 2.0), samples=10_000), classes=2, label=0)
    beyond.take([[100, 0], [100, 0]], 100)
    assert beyond.settled, "no number of copies that is asked for reaches 2"
    even = Bounds(terms, classes=2, label=0)
    even.take([[50, 50], [50, 50]], 100)
    assert not even.settled, "whether it is right at 0 is open"
    last = Bounds(Terms(SIGMA, (0.1,), samples=100), classes=2, label=0)
    last.take([[50, 50], [50, 50]], 100)
    assert last.settled


def test_a_guard_that_withholds_everything_does_no_harm_and_is_never_right():
    terms = Terms(SIGMA, (0.1, 0.5), samples=10_000)
    seen = Bounds(terms, classes=3, label=1)
    for n in terms.stages:
        seen.take([[0, 0, 0], [0, n, 0]], n)
    assert seen.radii[0, 0] == terms.reach(3)
    assert seen.radii[0, 1] < 0
    assert seen.radii[1, 1] == terms.reach(3)


def test_the_reach_is_where_an_event_that_never_showed_may_still_be():
    terms = Terms(SIGMA, (0.1,), samples=10_000, alpha=0.001)
    assert terms.stages == (100, 1000, 10_000)
    level = 0.001 / (2 * 3)
    assert terms.level(2) == level
    most = 1 - level ** (1 / 10_000)  # (1 - p)^n = level
    assert terms.reach(2) == pytest.approx(-SIGMA * norm.ppf(most), rel=1e-5)
    assert terms.reach(2, drift=1e-3) < terms.reach(2) - 0.01
    assert Terms(SIGMA, (0.1,), samples=60).stages == (60,)
    assert Terms(SIGMA, (0.1,), samples=100).stages == (100,)
    assert Terms(SIGMA, (0.1,), samples=2500).stages == (100, 1000, 2500)


def test_drift_is_added_to_every_bound():
    terms = Terms(SIGMA, (0.1,), samples=100)
    sure, drifting = Bounds(terms, classes=2, label=0), Bounds(terms, classes=2, label=0, drift=0.01)
    for seen in (sure, drifting):
        seen.take([[90, 4], [92, 8]], 100)
    assert drifting.chances == pytest.approx(sure.chances + 0.01)
    assert (drifting.radii < sure.radii).all()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"sigma": 0.0}, "sigma 0.0"),
        ({"radii": ()}, "radii none"),
        ({"radii": (-0.1, 0.2)}, "radii -0.1, 0.2: expected numbers above 0"),
        ({"radii": (0.1, float("nan"))}, "expected numbers above 0"),
        ({"radii": (0.2, 0.1)}, "do not rise"),
        ({"samples": 0}, "samples 0"),
        ({"samples": 2**32}, "samples 4294967296"),
        ({"alpha": 0.0}, r"alpha 0\.0"),
        ({"alpha": 0.5}, r"alpha 0\.5"),
    ],
)
def test_terms_that_cannot_be_are_refused(options, said):
    with pytest.raises(ConfigError, match=said):
        Terms(**{"sigma": SIGMA, "radii": (0.1,), **options})


def test_too_few_samples_for_any_radius_are_refused():
    with pytest.raises(ConfigError, match=r"radius 0\.1: at most 0 can be certified by 8 samples"):
        Terms(SIGMA, (0.1,), samples=8).check_reach(2)
    with pytest.raises(ConfigError, match=r"radius 2: at most 0\.78\d* can be certified by 10000 samples"):
        Terms(SIGMA, (2.0,)).check_reach(2)
    Terms(SIGMA, (0.1, 2.0)).check_reach(2)
