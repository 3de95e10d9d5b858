"""Losses on features against scikit-learn, plain loops and what the papers report of them."""

import numpy as np
import pytest
import torch
from scipy.ndimage import convolve
from sklearn.neighbors import KernelDensity as Reference
from tests.attacks.toys import Passes, separate_victim, toy_images, toy_labels, toy_victim

from medaegis.attacks.catalogue import find_attack
from medaegis.attacks.losses.evasion import (
    FeatureShift,
    KernelDensityEvasion,
    LocalDimensionEvasion,
    Stability,
    dimension,
)
from medaegis.attacks.normal import fit_mixtures
from medaegis.attacks.objective import Goal, View
from medaegis.errors import ConfigError

EPS = 16 / 256


@pytest.fixture(scope="module")
def victim():
    return toy_victim(3)


@pytest.fixture(scope="module")
def pool(victim):
    return toy_images(240, victim.exact, seed=5)


@pytest.fixture(scope="module")
def known(victim, pool):
    return toy_labels(victim, pool)


@pytest.fixture(scope="module")
def normal(victim, pool, known):
    return fit_mixtures(victim.pooled(pool, ("relu", "last")), known)


def loss_of(objective, victim, images, goal):
    begun = objective.begin(victim, goal)
    with torch.no_grad():
        return begun(victim.look(images, goal, begun))


@pytest.mark.parametrize("bandwidth", [0.26, 1.0])
def test_density_is_scikit_learns(victim, pool, known, normal, bandwidth):
    images, targets = pool[:9], (known[:9] + 1) % 3
    found = loss_of(KernelDensityEvasion(bandwidth), victim, images, Goal(known[:9], targets, normal=normal))
    features = victim.pooled(pool, ("last",))["last"]
    for i in range(9):
        reference = Reference(bandwidth=bandwidth).fit(features[known == targets[i]].double().numpy())
        expected = -reference.score_samples(features[i : i + 1].double().numpy())[0]
        assert found[i].item() == pytest.approx(expected, rel=1e-4, abs=1e-4)


def test_local_dimension_is_mas_estimate(victim, pool, known, normal):
    """By loops over each image, tap and neighbour, against every (240 // 100)-th known image."""
    images = toy_images(6, victim.exact, seed=77)
    goal = Goal(toy_labels(victim, images), normal=normal)
    found = loss_of(LocalDimensionEvasion(), victim, images, goal)

    def lid(one, others, k=20):
        r = np.sort(np.linalg.norm(others - one, axis=1))[:k]
        return -1 / np.log(r / r[-1]).mean()

    expected = torch.zeros(6)
    rows = [i * 240 // 100 for i in range(100)]
    for tap in ("relu", "last"):
        clean = victim.pooled(pool, (tap,))[tap][rows].double().numpy()
        own = sorted(lid(one, np.delete(clean, i, 0)) for i, one in enumerate(clean))
        typical = own[49]  # the lower median, as torch takes it
        for i, one in enumerate(victim.pooled(images, (tap,))[tap].double().numpy()):
            expected[i] += max(0.0, lid(one, clean) / typical - 1) / 2
    assert (expected > 0).any()
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


def test_local_dimension_knows_the_dimension():
    """Points spread evenly in d dimensions have LID d; and equal points give a number and a gradient."""
    generator = torch.Generator().manual_seed(0)
    for d in (2, 5):
        points = torch.rand(4000, d, generator=generator) * 2 - 1
        inside = torch.cdist(torch.zeros(1, d), points)
        assert dimension(inside, 400).item() == pytest.approx(d, rel=0.15)
    same = torch.zeros(1, 30, requires_grad=True)
    value = dimension(same, 20)
    (grad,) = torch.autograd.grad(value.sum(), same)
    assert value.isfinite().all()
    assert grad.isfinite().all()


@pytest.mark.parametrize(
    ("name", "objective"), [("kde-evasion", KernelDensityEvasion()), ("lid-evasion", LocalDimensionEvasion())]
)
@pytest.mark.parametrize("cushion", ["none", "bits:3"])
def test_evasion_beats_the_same_attack_without_it(name, objective, cushion, pool):
    """The detector's figure is better for the attacker than BIM's; the two aims compete, but most still fool."""
    victim = toy_victim(3, cushion=cushion)
    known = toy_labels(victim, pool)
    normal = fit_mixtures(victim.pooled(pool, ("relu", "last")), known)
    images, labels = pool[:20], known[:20]
    targets = (labels + 1) % 3
    goal = Goal(labels, targets, normal=normal)
    run = {"eps": 32 / 256, "targets": targets}
    plain = find_attack("bim").attack.with_options(steps=40).run(victim, images, labels, **run)
    evading = find_attack(name).attack.with_options(steps=40).run(victim, images, labels, **run, normal=normal)
    assert evading.fooled.float().mean() > 0.5
    there, here = (loss_of(objective, victim, found.images, goal).mean() for found in (plain, evading))
    assert here < there


def test_features_go_down_and_up(victim, pool, known):
    """By the mean of the tapped layer, past what noise of the same size does; at the deepest tap or a named one."""
    images, labels = pool[:12], known[:12]

    def mean(x, tap):
        with torch.no_grad():
            return victim.exact.activations(x, logits=False, taps=(tap,)).features[tap].mean((1, 2, 3))

    generator = torch.Generator().manual_seed(1)
    noise = torch.where(torch.rand(images.shape, generator=generator) < 0.5, -EPS, EPS)
    noisy = ((images + noise).clamp(0, 1) * 255).round() / 255
    for tap, taps in (("last", ()), ("relu", ("relu",))):
        at, by_noise = mean(images, tap), (mean(noisy, tap) - mean(images, tap)).abs()
        for name, sign in (("stress-down", -1), ("stress-up", 1)):
            attack = find_attack(name).attack.with_options(objective=FeatureShift(sign, taps))
            assert taps or attack == find_attack(name).attack
            found = attack.run(victim, images, labels, eps=EPS)
            assert (sign * (mean(found.images, tap) - at) > by_noise).all()


def test_the_loss_is_the_mean(victim):
    maps = torch.rand(4, 3, 2, 5)
    goal = Goal(torch.zeros(4, dtype=torch.int64))
    for sign in (-1, 1):
        begun = FeatureShift(sign, ("a", "b")).begin(victim, goal)
        found = begun(View(goal, None, {"a": maps, "b": 2 * maps}))
        torch.testing.assert_close(found, -sign * 3 * maps.mean((1, 2, 3)))


def test_stability_is_the_divergence_from_the_smoothed_answer(victim, pool, known):
    """Smoothed by SciPy with zeros between the kernel's points; no divergence where there is nothing to smooth."""
    goal = Goal(known[:5])
    found = loss_of(Stability(), victim, pool[:5], goal)
    line = torch.exp(-torch.tensor([1.0, 0.0, 1.0]) / 2)
    spread = torch.zeros(5, 5)
    spread[::2, ::2] = torch.outer(line, line) / line.sum() ** 2
    smooth = torch.stack([torch.from_numpy(convolve(x[0].numpy(), spread.numpy(), mode="nearest")) for x in pool[:5]])
    with torch.no_grad():
        there, here = (victim.exact(victim.cushion(x)).softmax(1) for x in (smooth[:, None], pool[:5]))
    torch.testing.assert_close(found, (there * (there / here).log()).sum(1), rtol=1e-3, atol=1e-5)
    flat = torch.full((2, 1, 16, 16), 128 / 255)
    assert loss_of(Stability(), victim, flat, Goal(known[:2])).abs().max() < 1e-6


def test_sma_fools_and_smoothing_changes_less():
    """Its images are answered more alike before and after smoothing than those of BIM; it costs a second forward."""
    victim = separate_victim()
    images = toy_images(20, victim.exact, seed=3)
    labels = toy_labels(victim, images)
    with Passes(victim) as passes:
        found = find_attack("sma").attack.run(victim, images, labels, eps=EPS)
    assert passes.backward == found.backwards == 20 * 10
    assert found.forwards == 2 * 20 * 10
    plain = find_attack("bim").attack.run(victim, images, labels, eps=EPS)
    assert found.fooled.float().mean() >= plain.fooled.float().mean() - 0.1
    there, here = (loss_of(Stability(), victim, each.images, Goal(labels)).mean() for each in (plain, found))
    assert here < there


def test_what_is_missing_is_told(victim, pool, known, normal):
    for name, words in (("kde-evasion", "KDE"), ("lid-evasion", "LID")):
        with pytest.raises(ConfigError, match=f"{words}.*clean images"):
            find_attack(name).attack.run(victim, pool[:2], known[:2], eps=EPS)
    few = fit_mixtures(victim.pooled(pool[:18], ("last",)), torch.arange(18) % 3)
    with pytest.raises(ConfigError, match="18 clean images are known"):
        find_attack("lid-evasion").attack.run(victim, pool[:2], known[:2], eps=EPS, normal=few)
    for make, words in (
        (lambda: KernelDensityEvasion(0.0), "bandwidth"),
        (lambda: LocalDimensionEvasion(neighbours=100), "neighbours"),
        (lambda: FeatureShift(sign=0), "sign"),
    ):
        with pytest.raises(ConfigError, match=words):
            make()
