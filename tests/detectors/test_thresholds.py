"""Thresholds from few images: what split conformal prediction promises, and what small classes get instead."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from medaegis.detectors.thresholds import accepted_range, enough_images, set_thresholds


def numbers(n: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=n))


@pytest.mark.parametrize(("tnr", "enough"), [(0.6, 10), (0.9, 10), (0.95, 19), (0.99, 99), (0.999, 999)])
def test_how_many_images_a_threshold_of_its_own_needs(tnr, enough):
    """By hand: the lowest of n logits promises n / (n + 1)."""
    assert enough_images(tnr) == enough
    assert enough / (enough + 1) >= tnr - 1e-12


@pytest.mark.parametrize(("n", "tnr"), [(10, 0.9), (19, 0.95), (25, 0.9), (40, 0.75)])
def test_a_further_image_is_accepted_with_the_chosen_chance(n, tnr):
    """Of normal logits the chance is known exactly for each threshold; its mean over calibrations is m / (n + 1)."""
    chances = []
    for seed in range(1500):
        (one,) = set_thresholds(numbers(n, seed), torch.zeros(n, dtype=torch.int64), 1, tnr)
        assert one.own
        chances.append(stats.norm.sf(one.centre - one.scale))
    m = math.ceil((n + 1) * tnr - 1e-9)
    assert np.mean(chances) == pytest.approx(m / (n + 1), abs=0.01)
    assert np.mean(chances) >= tnr - 0.005
    low, high = accepted_range(n, tnr)
    assert np.mean([low <= chance <= high for chance in chances]) == pytest.approx(0.95, abs=0.02)


def test_a_class_with_few_images_takes_the_pooled_scale_and_a_centre_between():
    """Logits chosen by hand: class 0 at 100, 99, ... 81; class 1 has three images at 60; class 2 none."""
    logits = torch.cat([torch.arange(100.0, 80.0, -1), torch.full((3,), 60.0)])
    classes = torch.tensor([0] * 20 + [1] * 3)
    zero, one, two = set_thresholds(logits, classes, 3, 0.9)
    # m = ceil(21 * 0.9) = 19: the 19th highest is 82; the lower median of the 20 is 90, that of all 23 is 89.
    assert (zero.images, zero.own, zero.centre) == (20, True, 90)
    assert zero.scale == pytest.approx(8, rel=1e-5)
    assert (one.images, one.own) == (3, False)
    assert one.centre == pytest.approx((3 * 60 + 5 * 89) / 8)
    assert one.scale == zero.scale
    assert (two.images, two.own, two.centre, two.scale) == (0, False, 89, zero.scale)


def test_where_no_class_has_enough_all_share_one_threshold():
    logits = torch.arange(12.0)
    found = set_thresholds(logits, torch.arange(12) % 3, 3, 0.9)
    assert {(one.centre, one.own, one.images) for one in found} == {(5.0, False, 4)}
    accepted = (found[0].centre - logits) / found[0].scale <= 1
    assert accepted.tolist() == [True] * 12  # m = ceil(13 * 0.9) = 12 of 12


def test_the_draws_of_a_random_cushion_are_not_taken_for_images():
    """Nine images eight times over are nine: no threshold of their own."""
    logits = numbers(19 * 8)
    classes = torch.tensor([0] * 10 * 8 + [1] * 9 * 8)
    many, few = set_thresholds(logits, classes, 2, 0.9, draws=8)
    assert [(many.images, many.own), (few.images, few.own)] == [(10, True), (9, False)]
    once = torch.tensor([True] + [False] * 7).repeat(19)
    repeated = set_thresholds(logits[once].repeat_interleave(8), classes, 2, 0.9, draws=8)
    assert repeated == set_thresholds(logits[once], classes[once], 2, 0.9)
