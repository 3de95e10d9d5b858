"""Exact tests against SciPy's, against sums over all outcomes, and on checks that are planted to fail, at several n."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.stats import binomtest, multinomial, norm

from medaegis.bench.checks.exact import LEVEL, AtMost, Gain, at_least, gain, judge


@pytest.mark.parametrize("n", [1, 10, 64, 700])
@pytest.mark.parametrize("share", [0.01, 0.1, 0.95])
def test_a_share_is_judged_by_the_binomial_test(n, share):
    for hits in sorted({0, 1, n // 3, n - 1, n}):
        assert AtMost(hits, n, share).p == pytest.approx(binomtest(hits, n, share, "greater").pvalue, abs=1e-12)
        assert at_least(hits, n, share).p == pytest.approx(binomtest(hits, n, share, "less").pvalue, abs=1e-9)


@pytest.mark.parametrize(("more", "fewer"), [(0, 0), (5, 0), (5, 3), (3, 5), (40, 20)])
def test_without_a_margin_it_is_mcnemars_test(more, fewer):
    claim = Gain(more, fewer, 100, 0.0)
    told = binomtest(more, more + fewer, 0.5, "greater").pvalue if more + fewer else 1.0
    assert claim.p == pytest.approx(told, abs=1e-12)
    assert claim.name == "exact McNemar test"


def test_pairs_are_counted_from_the_images_themselves():
    one = torch.tensor([1, 1, 1, 0, 0, 1]) > 0
    other = torch.tensor([1, 0, 0, 0, 1, 1]) > 0
    assert gain(one, other, 0.05) == Gain(2, 1, 6, 0.05)


@pytest.mark.parametrize(("n", "margin"), [(8, 0.05), (14, 0.1), (16, 0.02)])
def test_with_a_margin_the_level_holds_whatever_share_of_pairs_differs(n, margin):
    """Summed over all outcomes, where the claim only just holds."""
    rejected = [
        (more, fewer)
        for more in range(n + 1)
        for fewer in range(n + 1 - more)
        if Gain(more, fewer, n, margin).p <= LEVEL
    ]
    assert rejected
    sizes = [
        sum(multinomial.pmf([b, c, n - b - c], n, [rate + margin, rate, 1 - 2 * rate - margin]) for b, c in rejected)
        for rate in np.linspace(0, (1 - margin) / 2 - 1e-9, 12)
    ]
    assert 0.02 < max(sizes) <= LEVEL


def test_with_many_images_it_agrees_with_the_normal_approximation():
    n, margin = 4000, 0.05
    for more, fewer in ((300, 100), (420, 180), (500, 280)):
        gained, differing = (more - fewer) / n, (more + fewer) / n
        z = (gained - margin) / np.sqrt((differing - gained**2) / n)
        assert Gain(more, fewer, n, margin).p == pytest.approx(norm.sf(z), abs=0.03)


@pytest.mark.parametrize("margin", [0.0, 0.05])
def test_p_falls_with_what_speaks_against_the_claim(margin):
    against = [Gain(more, 3, 60, margin).p for more in range(30)]
    assert all(later <= earlier + 1e-9 for earlier, later in pairwise(against))
    assert against[0] > 0.9
    assert against[-1] < 0.01


@pytest.mark.parametrize(
    ("claim", "passed"),
    [
        (at_least(3, 3, 0.99), None),  # all of three images: nothing is known
        (at_least(9, 10, 0.99), True),  # one image of ten decides nothing
        (at_least(8, 10, 0.99), False),
        (at_least(0, 1, 0.99), False),  # what is plain at once needs no more images
        (at_least(62, 64, 0.99), True),
        (at_least(60, 64, 0.99), False),
        (at_least(250, 300, 0.9), False),
        (AtMost(1, 10, 0.1), None),
        (AtMost(9, 10, 0.1), False),
        (AtMost(1, 16, 0.02), True),
        (AtMost(2, 16, 0.02), False),
        (Gain(1, 0, 10, 0.0), None),
        (Gain(5, 0, 10, 0.0), False),
        (Gain(4, 0, 40, 0.0), True),
        (Gain(1, 0, 10, 0.05), None),
        (Gain(9, 0, 10, 0.05), False),
        (Gain(3, 1, 40, 0.05), True),
        (Gain(8, 0, 40, 0.05), False),
        (Gain(60, 40, 1000, 0.05), True),
        (Gain(140, 40, 1000, 0.05), False),
    ],
)
def test_a_check_fails_where_it_should_and_is_not_judged_where_nothing_can_be_told(claim, passed):
    found, told = judge([claim])
    assert found is passed
    assert (told.n, told.level, told.comparisons) == (claim.n, LEVEL, 1)
    assert told.p == pytest.approx(claim.p)


def test_of_many_comparisons_one_by_chance_does_not_fail():
    """Alone it would fail; among ten attacks one such is what chance does."""
    odd = AtMost(5, 20, 0.08)
    assert 0.05 / 10 < odd.p <= 0.05
    quiet = [AtMost(0, 20, 0.08)] * 9
    found, told = judge([odd, *quiet])
    assert found is True
    assert (told.p, told.comparisons) == (pytest.approx(10 * odd.p), 10)
    assert judge([AtMost(9, 20, 0.08), *quiet])[0] is False, "a plain miss is found among any number"


@pytest.mark.parametrize("n", [6, 24, 100])
@pytest.mark.parametrize(
    "make", [lambda n: AtMost(0, n, 0.05), lambda n: Gain(0, 0, n, 0.05), lambda n: Gain(0, 0, n, 0.0)]
)
def test_the_chance_to_find_a_miss_is_that_of_drawing_one(make, n):
    claim = make(n)
    drawn = np.random.default_rng(0).binomial(n, (0.05 if isinstance(claim, AtMost) else claim.margin) + 0.3, 400)
    kind = (lambda k: AtMost(k, n, 0.05)) if isinstance(claim, AtMost) else (lambda k: Gain(k, 0, n, claim.margin))
    fails = {k: kind(k).p <= LEVEL for k in set(drawn.tolist())}
    assert claim.power(LEVEL) == pytest.approx(np.mean([fails[k] for k in drawn.tolist()]), abs=0.08)
