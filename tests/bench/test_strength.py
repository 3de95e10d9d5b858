"""Optimality against an area found by counting on a fine grid, smallest changes by hand, and SSIM window by window."""

import doctest

import numpy as np
import pytest
import torch
from tests.bench.test_controls import planned

from medaegis.attacks.catalogue import CATALOGUE
from medaegis.bench import similarity, strength
from medaegis.bench.similarity import psnr, ssim
from medaegis.bench.strength import measure_of, optimality, sizes_of, strengths
from medaegis.errors import ConfigError


def area(distances, most, steps=200_000):
    """Under the share of images that stand, by counting at the middle of every step."""
    at = (np.arange(steps) + 0.5) * most / steps
    distances = np.sort(distances)
    return float((1 - np.searchsorted(distances, at, side="right") / len(distances)).mean() * most)


@pytest.mark.parametrize("seed", range(4))
def test_optimality_is_the_ratio_of_areas(seed):
    generator = np.random.default_rng(seed)
    best = generator.exponential(size=40)
    found = best * (1 + generator.exponential(size=40) * (generator.random(40) < 0.6))
    found[generator.random(40) < 0.1] = np.inf
    most = best.max()
    whole, mine = area(best, most), area(found, most)
    told = optimality(torch.tensor(found), torch.tensor(best))
    assert told == pytest.approx(1 - (mine - whole) / (most - whole), abs=1e-3)
    assert 0 < told < 1


def test_what_nobody_turned_adds_nothing_and_a_scale_changes_nothing():
    best, found = torch.tensor([1.0, 2.0, 5.0]), torch.tensor([2.0, 2.0, torch.inf])
    told = optimality(found, best)
    assert told == pytest.approx(1 - 1 / 7)
    longer = torch.cat([best, torch.full((3,), torch.inf)]), torch.cat([found, torch.full((3,), torch.inf)])
    assert optimality(longer[1], longer[0]) == told
    assert optimality(7 * found, 7 * best) == pytest.approx(told)


@pytest.mark.parametrize("best", [[], [2.0], [2.0, 2.0], [torch.inf, torch.inf]])
def test_where_nothing_lies_between_there_is_no_optimality(best):
    best = torch.tensor(best)
    assert optimality(best, best) is None


@pytest.mark.parametrize("module", [similarity, strength])
def test_the_examples(module):
    found = doctest.testmod(module)
    assert found.attempted
    assert not found.failed


CLEAN = torch.full((3, 1, 4, 4), 100 / 255)


def piece(*changes, fooled=(True, True, True), forwards=3.0):
    """Of three images each changed by so many grey levels in its first pixel and one more in the second."""
    images = torch.full((3, 1, 4, 4), 100, dtype=torch.uint8)
    for i, change in enumerate(changes):
        images[i, 0, 0, 0] += change
        images[i, 0, 0, 1] += 1
    cost = torch.tensor([[9.0, forwards, 6.0]], dtype=torch.float64)
    return {"images": images, "fooled": torch.tensor(fooled), "cost": cost}


def test_the_smallest_changes_by_hand():
    outcomes = [
        (planned("pgd", 2), piece(2, 2, 2, fooled=(True, False, False))),
        (planned("pgd", 8), piece(8, 8, 8, fooled=(True, True, False))),
        (planned("deepfool", 256), piece(1, 9, 20)),
        (planned("pgd-l2", 8), piece(3, 4, 5)),
        (planned("jsma", 256), piece(30, 30, 30, fooled=(False, True, True))),
    ]
    pgd, deepfool, l2, jsma = strengths(outcomes, [], CLEAN)
    assert (pgd.attack, pgd.norm, pgd.n, pgd.turned) == ("pgd", "Linf", 3, 2)
    assert pgd.smallest * 255 == pytest.approx((2 + 8) / 2)
    assert pgd.best * 255 == pytest.approx((1 + 8) / 2), "of the same images"
    # Best: 1, 8, 20, so e0 is 20; PGD is 1 more at the first image, and at the third nothing below e0 is to be found.
    assert pgd.optimality == pytest.approx(1 - 1 / (19 + 12))
    assert deepfool.optimality == pytest.approx(1 - 1 / (19 + 12))
    assert (pgd.passes, deepfool.passes) == (pytest.approx(2 * 9 / 3), pytest.approx(9 / 3))
    assert l2.norm == "L2"
    assert l2.smallest * 255 == pytest.approx(17**0.5), "Euclidean, of (4, 1)"
    assert l2.optimality == 1
    assert (jsma.norm, jsma.turned, jsma.smallest, jsma.best) == ("L0", 2, 2, 2)
    assert jsma.optimality is None


def test_what_checks_found_counts_among_the_best():
    outcomes = [(planned("pgd", 8), piece(8, 8, 8)), (planned("bim", 8), piece(4, 6, 8))]
    alone, bim = strengths(outcomes, [], CLEAN)
    assert bim.optimality == 1
    beside, second = strengths(outcomes, [(planned("pgd", 8), piece(2, 8, 8, fooled=(True, False, False)))], CLEAN)
    assert beside.best == alone.best
    assert second.optimality == pytest.approx(1 - 2 / (6 + 2))
    assert beside.optimality == alone.optimality == 0, "nothing below 8, the largest of the best"


def test_an_attack_that_turns_nothing():
    never = piece(8, 8, 8, fooled=(False, False, False))
    (told,) = strengths([(planned("pgd", 8), never)], [], CLEAN)
    assert (told.turned, told.smallest, told.best, told.optimality) == (0, None, None, None)
    first, second = strengths([(planned("pgd", 8), never), (planned("bim", 8), piece(4, 6, 8))], [], CLEAN)
    assert (first.optimality, first.smallest, second.optimality) == (0, None, 1)


def test_as_many_grey_levels_are_as_much_wherever_they_begin():
    images = torch.arange(3, 200, 7, dtype=torch.uint8).view(-1, 1, 1, 1)
    part = {"images": images + 3, "fooled": torch.ones(len(images), dtype=torch.bool)}
    assert len(sizes_of(planned("pgd", 8), part, images.float() / 255).unique()) == 1


def test_floats_are_not_rounded():
    clean = torch.full((1, 1, 2, 2), 0.5)
    part = {"images": clean + 0.001, "fooled": torch.ones(1, dtype=torch.bool)}
    assert sizes_of(planned("pgd", 8), part, clean).item() == pytest.approx(0.001, rel=1e-4)


def test_only_what_changes_few_pixels_is_counted_in_pixels():
    counted = {name for name in CATALOGUE if measure_of(planned(name, 8)) == "L0"}
    assert counted == {"jsma", "one-pixel", "sparsefool", "patch", "patch-guard", "watermark"}


# ---- how alike images look


def pair(channels, seed=0):
    generator = torch.Generator().manual_seed(seed)
    first = torch.rand((2, channels, 17, 14), generator=generator)
    return first, (first + 0.2 * torch.randn(first.shape, generator=generator)).clamp(0, 1)


def by_windows(first, second):
    """Wang's formula at every window of an image, with weighted moments by NumPy."""
    grid = np.arange(11) - 5
    weight = np.exp(-(grid[:, None] ** 2 + grid[None] ** 2) / (2 * 1.5**2))
    weight /= weight.sum()
    values = []
    for a, b in zip(first.double().numpy(), second.double().numpy(), strict=True):
        for i in range(a.shape[0] - 10):
            for j in range(a.shape[1] - 10):
                p, q = (x[i : i + 11, j : j + 11].ravel() for x in (a, b))
                both = np.cov(p, q, aweights=weight.ravel(), ddof=0)
                mean = np.average(p, weights=weight.ravel()), np.average(q, weights=weight.ravel())
                values.append(
                    (2 * mean[0] * mean[1] + 1e-4)
                    * (2 * both[0, 1] + 9e-4)
                    / ((mean[0] ** 2 + mean[1] ** 2 + 1e-4) * (both[0, 0] + both[1, 1] + 9e-4))
                )
    return np.mean(values)


@pytest.mark.parametrize("channels", [1, 3])
def test_ssim_is_wangs_window_by_window(channels):
    first, second = pair(channels)
    expected = [by_windows(a, b) for a, b in zip(first, second, strict=True)]
    assert ssim(first, second).tolist() == pytest.approx(expected, rel=1e-9)
    assert ssim(first, first).tolist() == [1, 1]
    assert (ssim(first, second) < 0.9).all()


def test_ssim_agrees_with_adv_lib():
    theirs = pytest.importorskip("adv_lib.distances.structural_similarity").ssim
    first, second = pair(3)
    expected = [float(theirs(a[None], b[None], max_val=1.0)) for a, b in zip(first, second, strict=True)]
    assert ssim(first, second).tolist() == pytest.approx(expected, rel=1e-5)


def test_many_images_are_each_as_alone():
    first, second = (torch.cat([images] * 20) for images in pair(1))
    assert torch.equal(ssim(first, second)[:2], ssim(first[:2], second[:2]))
    assert torch.equal(ssim(first, second)[:2], ssim(first, second)[-2:])


def test_psnr_is_that_of_the_mean_square():
    first, second = pair(3)
    for a, b, told in zip(first.numpy(), second.numpy(), psnr(first, second).tolist(), strict=True):
        assert told == pytest.approx(10 * np.log10(1 / np.mean((a - b) ** 2)), rel=1e-6)
    assert psnr(first, first).isinf().all()


def test_of_an_image_narrower_than_a_window_there_is_no_ssim():
    small = torch.rand(2, 1, 32, 10)
    assert ssim(small, small).isnan().all()


@pytest.mark.parametrize("measure", [ssim, psnr])
def test_images_that_do_not_fit_are_refused(measure):
    with pytest.raises(ConfigError, match="same shape"):
        measure(torch.rand(2, 1, 16, 16), torch.rand(2, 1, 16, 15))
    with pytest.raises(ConfigError, match="same shape"):
        measure(torch.rand(0, 1, 16, 16), torch.rand(0, 1, 16, 16))
