"""Smooth light and chosen frequencies: the best field of a linear classifier by linear programming, and the family."""

import doctest

import numpy as np
import pytest
import torch
from scipy.fft import dctn, idctn
from scipy.optimize import linprog
from tests.attacks.test_minimal import Plane
from tests.attacks.toys import SIZE, Passes, separate_victim, toy_classifier, toy_images, toy_labels, toy_victim

from medaegis import waves
from medaegis.attacks.catalogue import find_attack
from medaegis.attacks.engine import Attack
from medaegis.attacks.losses.answer import CarliniWagner
from medaegis.attacks.objective import Goal
from medaegis.attacks.smooth import Fields, Polynomials, Waves
from medaegis.attacks.victim import Victim
from medaegis.cushions.filters import Unrounded
from medaegis.errors import ConfigError
from medaegis.models.classifier import Classifier
from medaegis.waves import cosines

NAMES = ["bias-field", "exposure", "frequency", "frequency-high"]
EPS = 16 / 255


def linear(scale=0.02, seed=3):
    """Two classes by a plane that low frequencies have a part in, before a victim that does not round."""
    generator = torch.Generator().manual_seed(seed)
    network = Plane(2)
    coarse = torch.randn(2, 1, 5, 5, generator=generator)
    weight = torch.nn.functional.interpolate(coarse, size=(SIZE, SIZE), mode="bicubic").flatten(1)
    network.fc.weight.data = scale * (weight + 0.3 * torch.randn(weight.shape, generator=generator))
    network.fc.bias.data = torch.zeros(2)
    classifier = Classifier(
        network, classes=("a", "b"), size=SIZE, channels="gray", backbone="x:y", mean=(0,) * 3, std=(1,) * 3
    )
    return Victim(classifier.eval(), cushion=Unrounded(), dtype=torch.float32)


def pictures(n, low=0.2, high=0.8):
    generator = torch.Generator().manual_seed(7)
    return low + (high - low) * torch.rand(n, 1, SIZE, SIZE, generator=generator)


def basis(family):
    """All fields of a family as columns, by applying its projection to every unit image: `(pixels, pixels)`."""
    unit = torch.eye(SIZE * SIZE, dtype=torch.float64).view(-1, SIZE, SIZE)
    return family.span(SIZE, SIZE).nearest(unit).flatten(1)


@pytest.mark.parametrize("family", [Polynomials(), Polynomials(2), Waves(), Waves(0.25), Waves(0.25, high=True)])
def test_a_family_is_a_linear_space_and_its_projection_is_orthogonal(family):
    """Symmetric, idempotent, and of the rank that the family has numbers."""
    found = basis(family).numpy()
    assert np.allclose(found, found.T, atol=1e-12)
    assert np.allclose(found @ found, found, atol=1e-12)
    numbers = {Polynomials(): 21, Polynomials(2): 6, Waves(): 4, Waves(0.25): 16, Waves(0.25, high=True): 256 - 16}
    assert round(np.trace(found)) == numbers[family]


def test_the_families_are_what_they_are_called():
    """Powers of row and column by NumPy, cosines by SciPy; on images that are no squares."""
    down, across = np.mgrid[0:12, 0:20]
    field = 3 - 0.2 * down + 0.01 * across**2 * down - 1e-3 * across**5
    span = Polynomials(5).span(12, 20)
    assert np.allclose(span.nearest(torch.from_numpy(field)), field, rtol=1e-9, atol=1e-9)
    wilder = field + 1e-2 * down**3 * across**3
    assert not np.allclose(span.nearest(torch.from_numpy(wilder)), wilder, rtol=1e-3)
    noise = np.random.default_rng(0).normal(size=(12, 20))
    weights = dctn(noise, norm="ortho")
    for high in (False, True):
        kept = np.zeros((12, 20), dtype=bool)
        kept[:3, :5] = True
        expected = idctn(np.where(kept != high, weights, 0), norm="ortho")
        assert np.allclose(Waves(0.25, high).span(12, 20).nearest(torch.from_numpy(noise)), expected, atol=1e-12)
    assert np.allclose(cosines(7, 7).numpy(), idctn(np.eye(7), axes=0, norm="ortho"), atol=1e-12)
    assert not doctest.testmod(waves).failed


@pytest.mark.parametrize("family", [Waves(0.25), Polynomials(3), Waves(0.25, high=True)])
def test_an_added_field_comes_to_the_best_one_of_a_linear_classifier(family):
    """By linear programming: the largest change of the margin by a field of the family of which none exceeds eps."""
    victim = linear()
    images = pictures(3)
    labels = victim.judge(images).predicted
    rule = Fields(family, multiplies=False)
    attack = Attack(objective=CarliniWagner(), rule=rule, steps=40, step_size=2.0)
    found = attack.run(victim, images, labels, eps=EPS).images
    weight = victim.exact.network.fc.weight.detach().double()
    vectors = torch.linalg.svd(basis(family))[0][:, : round(float(basis(family).trace()))].numpy()
    for x, z, label in zip(images, found, labels.tolist(), strict=True):
        slope = (weight[1 - label] - weight[label]).numpy()
        best = linprog(
            -slope @ vectors,
            A_ub=np.concatenate([vectors, -vectors]),
            b_ub=np.full(2 * SIZE * SIZE, EPS),
            bounds=(None, None),
        )
        assert best.success
        gained = float(slope @ (z - x).double().flatten().numpy())
        assert 0.95 * -best.fun <= gained <= -best.fun * (1 + 1e-4), gained / -best.fun


def test_a_field_of_light_comes_to_the_best_one_of_a_linear_classifier():
    """To first order, at a small eps: bounds of the logarithm differ from pixel to pixel."""
    victim, eps = linear(), 4 / 255
    images = pictures(3)
    labels = victim.judge(images).predicted
    attack = Attack(objective=CarliniWagner(), rule=Fields(Polynomials(3)), steps=40, step_size=2.0)
    found = attack.run(victim, images, labels, eps=eps).images
    weight = victim.exact.network.fc.weight.detach().double()
    vectors = torch.linalg.svd(basis(Polynomials(3)))[0][:, :10].numpy()
    for x, z, label in zip(images, found, labels.tolist(), strict=True):
        light = x.double().flatten().numpy()
        slope = (weight[1 - label] - weight[label]).numpy() * light
        limits = np.concatenate([np.log1p(eps / light), -np.log1p(-eps / light)])
        best = linprog(-slope @ vectors, A_ub=np.concatenate([vectors, -vectors]), b_ub=limits, bounds=(None, None))
        gained = float(slope @ np.log(z.double().flatten().numpy() / light))
        assert 0.9 * -best.fun <= gained <= -best.fun * 1.001, gained / -best.fun


@pytest.mark.parametrize("name", NAMES)
def test_what_comes_out_is_a_field_of_the_family_in_the_ball(name):
    """On pixels that are not rounded and that nothing cuts; the logarithm of the light, or the change."""
    victim = Victim(toy_victim(3).exact, cushion=Unrounded(), dtype=torch.float32)
    images = pictures(8)
    labels = victim.judge(images).predicted
    attack = find_attack(name).attack.with_options(steps=12)
    found = attack.run(victim, images, labels, eps=EPS).images
    rule = attack.rule
    field = (found.double() / images.double()).log() if rule.multiplies else (found - images).double()
    assert field.abs().amax((1, 2, 3)).min() > 0.01, "nothing moved: a blind test"
    torch.testing.assert_close(rule.family.span(SIZE, SIZE).nearest(field), field, rtol=0, atol=2e-6)
    assert (found - images).abs().max() <= EPS + 1e-7
    assert (found - images).abs().amax((1, 2, 3)).min() > 0.9 * EPS, "the ball is used"


@pytest.mark.parametrize("name", ["bias-field", "exposure"])
def test_light_of_coloured_images_is_one_for_all_channels_and_leaves_black_black(name):
    victim = Victim(toy_classifier(3, channels="rgb"), cushion=Unrounded(), dtype=torch.float32)
    images = 0.1 + 0.5 * torch.rand(4, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    images[:, :, :4] = 0.0
    images[:, :, -4:] = 1.0
    attack = find_attack(name).attack.with_options(steps=12)
    found = attack.run(victim, images, victim.judge(images).predicted, eps=EPS).images
    assert torch.equal(found[:, :, :4], images[:, :, :4])
    light = (found / images)[:, :, 4:-4]
    torch.testing.assert_close(light, light[:, :1].expand_as(light), rtol=1e-5, atol=0)
    assert (light - 1).abs().max() > 0.02
    assert found.max() <= 1


@pytest.mark.parametrize("name", NAMES)
def test_they_beat_a_random_field_of_the_same_size(name):
    victim = toy_victim(3)
    images = toy_images(40, victim.exact, seed=3)
    labels = toy_labels(victim, images)
    attack = find_attack(name).attack
    found = attack.run(victim, images, labels, eps=2 * EPS)
    span = attack.rule.family.span(SIZE, SIZE)
    noise = span.nearest(
        torch.randn(40, 1, SIZE, SIZE, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    )
    noise = noise / noise.abs().amax((1, 2, 3), keepdim=True) * 2 * EPS
    noisy = images * noise.exp() if attack.rule.multiplies else images + noise
    by_noise = (toy_labels(victim, (noisy.clamp(0, 1).float() * 255).round() / 255) != labels).float().mean()
    assert found.fooled.float().mean() >= by_noise + 0.25, (found.fooled.float().mean(), by_noise)


def test_one_that_knows_the_shield_gets_less_suspicion():
    victim = toy_victim(2, shields=True)
    images = toy_images(24, victim.exact, seed=3)
    labels = toy_labels(victim, images)
    for name in ("bias-field", "frequency"):
        suspicion = [
            victim.suspicion(
                find_attack(which).attack.run(victim, images, labels, eps=2 * EPS, targets=1 - labels).images,
                1 - labels,
            ).mean()
            for which in (f"{name}-guard", name)
        ]
        assert suspicion[0] < suspicion[1]


def test_each_step_is_one_look_and_one_gradient():
    victim = separate_victim()
    images = toy_images(7, victim.exact)
    with Passes(victim) as passes:
        found = (
            find_attack("bias-field")
            .attack.with_options(steps=4)
            .run(victim, images, toy_labels(victim, images), eps=EPS, batch_size=3)
        )
    assert passes.forward == passes.backward == found.forwards == found.backwards == 28


def test_black_and_white_images_are_no_trouble():
    """No light makes black brighter, and white has only one way to go; eps 0 leaves all as it is."""
    victim = toy_victim(2)
    images = torch.stack([torch.zeros(1, SIZE, SIZE), torch.ones(1, SIZE, SIZE), toy_images(1, victim.exact)[0]])
    labels = toy_labels(victim, images)
    for name in NAMES:
        attack = find_attack(name).attack.with_options(steps=6)
        found, _ = attack.descend(victim, images, Goal(labels), torch.full((3, 1, 1, 1), EPS), images)
        assert found.isfinite().all()
        assert torch.equal(found[0], images[0]) or not attack.rule.multiplies
        assert torch.equal(attack.run(victim, images, labels, eps=0.0).images, images)


@pytest.mark.parametrize(
    "make", [lambda: Polynomials(-1), lambda: Waves(0.0), lambda: Waves(1.5), lambda: Waves(1.0, high=True)]
)
def test_families_of_nothing_are_refused(make):
    with pytest.raises(ConfigError, match="give"):
        make()
