"""Transforms of images and gradients against what their papers say."""

import math

import pytest
import torch
from tests.attacks.toys import toy_images, toy_victim

from medaegis.attacks.transforms import InputDiversity, Smoothing
from medaegis.draws import Draws
from medaegis.errors import ConfigError


def draws(n):
    return Draws(0, torch.arange(n), "transforms")


def test_diverse_inputs_shrink_and_move_in_their_share():
    """A white image shrunk by s covers s^2 of the black ground, in one piece, wherever it lies."""
    n, side = 300, 40
    worker = InputDiversity(probability=0.5, smallest=0.6).begin(2, draws(n))
    shown = worker.image(torch.ones(n, 1, side, side), 0)
    area = shown.mean((1, 2, 3))
    whole = area > 0.999
    assert 0.4 < whole.float().mean() < 0.6
    sides = area[~whole].sqrt()
    assert 0.58 < sides.min() < 0.65 < 0.93 < sides.max()
    first = (shown[~whole].amax((1, 2)) > 0.5).float().argmax(1) / side  # left edge of the picture
    assert first.min() == 0
    assert first.max() > 0.2
    assert not torch.equal(worker.image(torch.ones(n, 1, side, side), 1), shown), "each step draws anew"


def test_diverse_inputs_are_those_of_the_image_not_of_the_batch():
    images = torch.rand(6, 1, 20, 20)
    whole = InputDiversity(1.0).begin(3, draws(6)).image(images, 2)
    part = InputDiversity(1.0).begin(3, draws(6)[4:]).image(images[4:], 2)
    torch.testing.assert_close(whole[4:], part, rtol=0, atol=0)
    assert torch.equal(InputDiversity(0.0).begin(3, draws(6)).image(images, 2), images)


def test_a_shrunk_image_is_the_image():
    """By half, centred: every shown pixel is the mean of four, as bilinear sampling at their corner gives."""
    worker = InputDiversity(1.0, 0.5).begin(1, draws(1))
    worker.numbers[:, 0] = torch.tensor([[0.0, 0.0, 0.5, 0.5]])
    image = torch.rand(1, 1, 8, 8)
    shown = worker.image(image, 0)
    torch.testing.assert_close(shown[:, :, 2:6, 2:6], torch.nn.functional.avg_pool2d(image, 2), rtol=0, atol=1e-6)
    assert shown.sum() == pytest.approx(float(image.sum()) / 4, rel=1e-5)


def test_smoothing_by_hand():
    kernel = Smoothing(length=5, sigma=2.0).kernel()
    weights = [math.exp(-(t**2) / 2) for t in (-2, -1, 0, 1, 2)]
    total = sum(a * b for a in weights for b in weights)
    assert kernel[0, 1].item() == pytest.approx(weights[0] * weights[1] / total, rel=1e-5)
    assert kernel.sum().item() == pytest.approx(1, abs=1e-6)
    grad = torch.zeros(1, 2, 11, 11)
    grad[0, 1, 5, 5] = 2.0
    smooth = Smoothing(length=5, sigma=2.0).begin(1, draws(2)).gradient(grad)
    torch.testing.assert_close(smooth[0, 1, 3:8, 3:8], 2 * kernel)
    assert smooth[0, 0].eq(0).all()


@pytest.mark.parametrize("length", [1, 15])
def test_an_odd_kernel_keeps_the_shape(length):
    assert Smoothing(length).begin(1, draws(2)).gradient(torch.rand(2, 3, 9, 7)).shape == (2, 3, 9, 7)


@pytest.mark.parametrize(
    "wrong",
    [lambda: Smoothing(4), lambda: Smoothing(5, 0), lambda: InputDiversity(2.0), lambda: InputDiversity(1, 0)],
)
def test_settings_without_meaning_are_refused(wrong):
    with pytest.raises(ConfigError, match="give"):
        wrong()


def test_verdicts_come_from_the_image_itself():
    """What is shown in the steps never changes what is judged."""
    from medaegis.attacks.catalogue import find_attack

    victim = toy_victim(2)
    images = toy_images(8, victim.exact)
    labels = victim.judge(images).predicted
    found = find_attack("dim").attack.run(victim, images, labels, eps=16 / 256)
    assert torch.equal(victim.judge(found.images).predicted, found.verdict.predicted)
    assert ((found.images - images).abs() * 255).round().max() <= 16
