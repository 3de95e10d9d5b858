"""Balls: after rounding to 8 bits every image is inside to the last bit, on the grid, and as near as it can be."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.attacks.toys import toy_images, toy_labels, toy_victim

from medaegis.attacks.balls import L2, Linf, whole_levels
from medaegis.attacks.catalogue import find_attack
from medaegis.attacks.engine import Attack
from medaegis.attacks.losses.answer import CrossEntropy
from medaegis.draws import Draws
from medaegis.errors import ConfigError

SHAPE = (3, 1, 6, 5)
EPS = [0.0, 1 / 256, 1 / 255, 3 / 256, 8 / 256, 16 / 256, 64 / 256, 1.0]
seeds = st.integers(0, 2**32)
radii = st.sampled_from(EPS)


def drawn(seed, eps, *, on_edges=False):
    """8-bit images x, points z anywhere around them, and radii."""
    source = torch.Generator().manual_seed(seed)
    x = torch.randint(0, 256, SHAPE, generator=source).float()
    if on_edges:
        x = (x > 127).float() * 255
    z = x / 255 + (torch.rand(SHAPE, generator=source) - 0.5) * torch.rand((3, 1, 1, 1), generator=source) * 4 * eps
    return x / 255, z, torch.full((3, 1, 1, 1), eps)


def whole(x):
    levels = x * 255
    assert torch.equal(levels.round() / 255, x), "off the 8-bit grid"
    return levels.round().double()


@given(seeds, radii, st.booleans())
def test_linf_8bit_is_inside(seed, eps, on_edges):
    x, z, radius = drawn(seed, eps, on_edges=on_edges)
    rounded = Linf().to_8bit(Linf().project_(z.clone(), x, radius), x, radius)
    change = whole(rounded) - whole(x)
    assert change.abs().max() <= 256 * eps + 1e-2
    assert rounded.min() >= 0
    assert rounded.max() <= 1


def test_radii_of_the_papers_and_of_the_field_are_whole_levels():
    k = torch.arange(1, 256).float()
    assert torch.equal(whole_levels(k / 256), k)
    assert torch.equal(whole_levels(k / 255), k)
    between = torch.tensor([0.0, 0.0019, 0.002, 0.0039, 0.03, 0.031, 0.0313, 1.0])
    assert whole_levels(between).tolist() == [0, 0, 0, 1, 7, 7, 8, 255], "never above, but for a rounded decimal"


@given(seeds, radii, st.booleans(), st.booleans())
def test_l2_8bit_is_inside(seed, eps, on_edges, rms):
    x, z, radius = drawn(seed, eps, on_edges=on_edges)
    ball = L2(rms=rms)
    rounded = ball.to_8bit(ball.project_(z.clone(), x, radius), x, radius)
    squares = (whole(rounded) - whole(x)).square().sum((1, 2, 3))
    limit = (float(torch.tensor(eps)) * 255) ** 2 * (x[0].numel() if rms else 1)
    assert (squares <= limit * (1 + 1e-6)).all()
    assert rounded.min() >= 0
    assert rounded.max() <= 1


@given(seeds)
def test_what_is_inside_and_on_the_grid_stays(seed):
    source = torch.Generator().manual_seed(seed)
    x = torch.randint(0, 256, SHAPE, generator=source).float() / 255
    z = torch.randint(0, 256, SHAPE, generator=source).float() / 255
    for ball in (Linf(), L2()):
        assert torch.equal(ball.to_8bit(z, x, torch.full((3, 1, 1, 1), 1.0)), z)


@pytest.mark.parametrize("ball", [Linf(), L2(), L2(rms=False)], ids=repr)
@given(seeds, radii)
def test_what_a_ball_holds_is_what_rounding_into_it_leaves_as_it_is(ball, seed, eps):
    x, z, _ = drawn(seed, eps)
    z = (z.clamp(0, 1) * 255).round() / 255
    for radius in EPS:
        limits = torch.full((3, 1, 1, 1), radius)
        stays = (ball.to_8bit(z, x, limits) == z).flatten(1).all(1)
        assert torch.equal(ball.holds(z, x, limits), stays)


def test_l2_rounding_keeps_a_small_budget():
    """Truncation would leave nothing of a change below one level; what fits is kept."""
    x, _, _ = drawn(3, 0.0)
    eps = torch.full((3, 1, 1, 1), 1 / 256)
    ball = L2()
    z = ball.project_(x + torch.randn(SHAPE, generator=torch.Generator().manual_seed(0)), x, eps)
    changed = (whole(ball.to_8bit(z, x, eps)) - whole(x)).square().sum((1, 2, 3))
    assert (changed > 0.4 * 30 * (255 / 256) ** 2).all()


def test_l2_rounding_is_the_longest_that_fits():
    """Against all shares of the change on a fine grid."""
    x = torch.full((1, 1, 2, 2), 128 / 255)
    z = x + torch.tensor([0.9, -2.2, 1.4, 0.3]).view(1, 1, 2, 2) / 255
    eps = torch.full((1, 1, 1, 1), 2.3 / 255)
    ball = L2(rms=False)
    found = ((ball.to_8bit(z, x, eps) - x) * 255).round()
    shares = torch.linspace(0, 1, 5001).view(-1, 1, 1, 1)
    candidates = ((z - x) * 255 * shares).round()
    fitting = candidates[candidates.square().sum((1, 2, 3)) <= 2.3**2]
    assert found.square().sum() == fitting.square().sum((1, 2, 3)).max()


@given(seeds, radii)
def test_projection_is_inside_and_leaves_the_inside_alone(seed, eps):
    x, z, radius = drawn(seed, eps)
    for ball, length in (
        (Linf(), lambda d: d.abs().amax((1, 2, 3))),
        (L2(rms=False), lambda d: torch.linalg.vector_norm(d, dim=(1, 2, 3))),
    ):
        projected = ball.project_(z.clone(), x, radius)
        assert (length(projected - x) <= eps + 1e-6).all()
        assert projected.min() >= 0
        assert projected.max() <= 1
        torch.testing.assert_close(ball.project_(projected.clone(), x, radius), projected, rtol=0, atol=1e-6)


def test_linf_projection_is_the_nearest_point():
    x, z, radius = drawn(5, 8 / 256)
    expected = torch.tensor(
        [
            min(max(value, max(clean - 8 / 256, 0.0)), min(clean + 8 / 256, 1.0))
            for value, clean in zip(z.flatten().tolist(), x.flatten().tolist(), strict=True)
        ]
    ).view(SHAPE)
    torch.testing.assert_close(Linf().project_(z.clone(), x, radius), expected, rtol=0, atol=1e-7)


@pytest.mark.parametrize("ball", [Linf(), L2(), L2(rms=False)], ids=repr)
def test_length_is_the_norm_in_units_of_eps(ball):
    """By NumPy; a projection onto that radius leaves the change, onto half of it halves its length."""
    change = 0.1 * torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))
    order = np.inf if ball.name == "linf" else 2
    expected = [np.linalg.norm(one.flatten().numpy(), order) for one in change]
    unit = change[0].numel() ** 0.5 if getattr(ball, "rms", False) else 1
    assert (ball.length(change).flatten() * unit).tolist() == pytest.approx(expected, rel=1e-5)
    x = torch.full(SHAPE, 0.5)
    whole, half = (ball.project_(x + change, x, share * ball.length(change)) - x for share in (1.0, 0.5))
    torch.testing.assert_close(whole, change)
    torch.testing.assert_close(ball.length(half), ball.length(change) / 2)


@pytest.mark.parametrize("ball", [Linf(), L2(), L2(rms=False)], ids=repr)
def test_direction_is_the_steepest_of_its_length(ball):
    """No other step of length one (in the ball's norm) goes further along the gradient."""
    grad = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))
    best = (ball.direction(grad) * grad).sum((1, 2, 3))
    for seed in range(20):
        other = ball.direction(grad + torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed + 1)))
        assert ((other * grad).sum((1, 2, 3)) <= best + 1e-4).all()
    unit = ball.direction(grad)
    length = unit.abs().amax((1, 2, 3)) if isinstance(ball, Linf) else torch.linalg.vector_norm(unit, dim=(1, 2, 3))
    torch.testing.assert_close(length, torch.full((3,), 30**0.5 if getattr(ball, "rms", False) else 1.0))


@pytest.mark.parametrize("ball", [Linf(), L2(), L2(rms=False)], ids=repr)
def test_no_gradient_no_step(ball):
    assert torch.equal(ball.direction(torch.zeros(SHAPE)), torch.zeros(SHAPE))


@pytest.mark.parametrize("ball", [Linf(), L2()], ids=repr)
def test_random_points_fill_the_ball_on_both_sides(ball):
    x = torch.full((200, 1, 4, 4), 0.5)
    eps = torch.full((200, 1, 1, 1), 0.1)
    change = ball.random(x, eps, Draws(0, torch.arange(200), "start")) - x
    assert abs(float(change.mean())) < 0.01, "one-sided"
    length = change.abs().amax((1, 2, 3)) if isinstance(ball, Linf) else change.square().mean((1, 2, 3)).sqrt()
    assert length.max() <= 0.1 + 1e-6
    # The largest of 16 uniform numbers, like the radius in 16 dimensions, has mean 16 / 17 of the radius.
    assert abs(float(length.mean()) / 0.1 - 16 / 17) < 0.02


def test_random_points_belong_to_the_image_not_the_batch():
    x = torch.rand((6, 1, 4, 4), generator=torch.Generator().manual_seed(0))
    eps = torch.full((6, 1, 1, 1), 0.05)
    for ball in (Linf(), L2()):
        draws = Draws(7, torch.arange(6), "start")
        whole_batch = ball.random(x, eps, draws)
        alone = [ball.random(x[i : i + 1], eps[i : i + 1], draws[i : i + 1]) for i in range(6)]
        assert torch.equal(whole_batch, torch.cat(alone))


@settings(max_examples=20)
@given(seeds)
def test_radii_are_per_image(seed):
    x, z, _ = drawn(seed, 64 / 256)
    eps = torch.tensor([0.0, 4 / 256, 64 / 256]).view(3, 1, 1, 1)
    for ball in (Linf(), L2()):
        together = ball.to_8bit(ball.project_(z.clone(), x, eps), x, eps)
        for i in range(3):
            one = slice(i, i + 1)
            alone = ball.to_8bit(ball.project_(z[one].clone(), x[one], eps[one]), x[one], eps[one])
            assert torch.equal(alone, together[one])
        assert torch.equal(together[0], x[0])


def test_an_absolute_length_may_exceed_one():
    """Two grey levels of full brightness in all: no share of a pixel, so no reason to stop at 1."""
    victim = toy_victim(2)
    images = toy_images(4, victim.exact)
    labels = toy_labels(victim, images)
    attack = Attack(objective=CrossEntropy(), ball=L2(rms=False), steps=5)
    found = attack.run(victim, images, labels, eps=2.0)
    length = (found.images - images).flatten(1).norm(dim=1)
    assert ((length > 1) & (length <= 2)).all()
    with pytest.raises(ConfigError, match=r"not in \[0, 16\]"):
        attack.run(victim, images, labels, eps=17.0)
    with pytest.raises(ConfigError, match=r"not in \[0, 1\]"):
        find_attack("pgd-l2").attack.run(victim, images, labels, eps=1.5)
