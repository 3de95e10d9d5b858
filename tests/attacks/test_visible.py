"""A patch: the best square of a linear classifier in closed form, its area, and what eps means for it."""

import itertools

import pytest
import torch
from tests.attacks.test_minimal import grey, plane, walk
from tests.attacks.toys import SIZE, Passes, separate_victim, toy_classifier, toy_images, toy_labels, toy_victim

from medaegis.attacks.catalogue import find_attack
from medaegis.attacks.engine import Attack
from medaegis.attacks.losses.answer import CarliniWagner
from medaegis.attacks.sparse import Patch
from medaegis.attacks.victim import Victim
from medaegis.errors import ConfigError

SHARE = 0.1  # a square of 5 x 5 of the 256 pixels


def squares(changed):
    """Height and width of the box around what has changed in each image, `(N, 2)`."""
    boxes = []
    for image in changed.any(1):
        rows, columns = image.any(1).nonzero(), image.any(0).nonzero()
        boxes.append(
            [int(rows.max() - rows.min()) + 1, int(columns.max() - columns.min()) + 1] if len(rows) else [0, 0]
        )
    return torch.tensor(boxes)


@pytest.mark.parametrize("eps", [1.0, 0.2])
@pytest.mark.parametrize("targeted", [False, True])
def test_on_a_plane_it_is_the_square_of_the_largest_gain(eps, targeted):
    """Of all squares, each value at black or white, or at eps, whichever its slope says."""
    victim = plane(2, gradient="skip")
    images = grey(victim, 6)
    labels = victim.exact(images).argmax(1)
    attack = Attack(objective=CarliniWagner(), rule=Patch(SHARE), steps=40)
    found = walk(attack, victim, images, labels, 1 - labels if targeted else None, eps=eps)
    weight = victim.exact.network.fc.weight.detach()
    for x, z, label in zip(images, found, labels.tolist(), strict=True):
        slope = (weight[1 - label] - weight[label]).view(SIZE, SIZE)
        ends = torch.where(slope > 0, (x[0] + eps).clamp_max(1), (x[0] - eps).clamp_min(0))
        gain = slope * (ends - x[0])
        best = max(
            itertools.product(range(SIZE - 4), range(SIZE - 4)),
            key=lambda at: float(gain[at[0] : at[0] + 5, at[1] : at[1] + 5].sum()),
        )
        expected = x[0].clone()
        inside = (slice(best[0], best[0] + 5), slice(best[1], best[1] + 5))
        expected[inside] = ends[inside]
        torch.testing.assert_close(z[0], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("size", [16, (12, 20)])
def test_it_changes_one_square_of_the_share_at_most(size):
    victim = Victim(toy_classifier(3, channels="rgb", size=size), dtype=torch.float32)
    images = toy_images(12, victim.exact)
    labels = toy_labels(victim, images)
    for share in (0.004, 0.02, 0.3):
        attack = find_attack("patch").attack.with_options(rule=Patch(share), steps=6)
        found = attack.run(victim, images, labels, eps=1.0)
        changed = squares(found.images != images)
        side = Patch(share).side(*victim.exact.image_shape[1:])
        assert changed.max() <= side
        assert changed.max() > 0
        assert side**2 <= max(1, share * images[0, 0].numel())
        assert (side + 1) ** 2 > share * images[0, 0].numel()


def test_at_a_smaller_eps_it_is_an_ordinary_change_of_a_square():
    victim = toy_victim(3)
    images = toy_images(12, victim.exact)
    labels = toy_labels(victim, images)
    found = find_attack("patch").attack.run(victim, images, labels, eps=8 / 255)
    change = ((found.images - images) * 255).round()
    assert change.abs().max() == 8
    assert squares(change != 0).max() <= 2


def test_it_does_more_than_a_square_of_noise_at_a_place_drawn_for_it():
    victim = toy_victim(3)
    images = toy_images(40, victim.exact, seed=3)
    labels = toy_labels(victim, images)
    attack = find_attack("patch").attack.with_options(rule=Patch(0.06))
    found = attack.run(victim, images, labels, eps=1.0)
    generator, noisy = torch.Generator().manual_seed(0), images.clone()
    for image in noisy:
        row, column = torch.randint(0, SIZE - 2, (2,), generator=generator).tolist()
        image[:, row : row + 3, column : column + 3] = torch.rand(1, 3, 3, generator=generator)
    by_noise = (toy_labels(victim, (noisy * 255).round() / 255) != labels).float().mean()
    assert found.fooled.float().mean() >= by_noise + 0.25, (found.fooled.float().mean(), by_noise)


def test_one_that_knows_the_shield_gets_less_suspicion():
    victim = toy_victim(2, shields=True)
    images = toy_images(24, victim.exact, seed=3)
    labels = toy_labels(victim, images)
    knowing, other = (
        find_attack(name).attack.run(victim, images, labels, eps=1.0, targets=1 - labels).images
        for name in ("patch-guard", "patch")
    )
    assert victim.suspicion(knowing, 1 - labels).mean() < victim.suspicion(other, 1 - labels).mean()


def test_each_step_is_one_look_and_one_gradient():
    victim = separate_victim()
    images = toy_images(5, victim.exact)
    attack = find_attack("patch").attack.with_options(steps=4, exact=False)
    with Passes(victim) as passes:
        found = attack.run(victim, images, toy_labels(victim, images), eps=1.0, batch_size=3)
    assert passes.forward == passes.backward == found.forwards == found.backwards == 20


@pytest.mark.parametrize("share", [0.0, -0.1, 1.1])
def test_a_share_that_is_none_is_refused(share):
    with pytest.raises(ConfigError, match="share of the area"):
        Patch(share)
