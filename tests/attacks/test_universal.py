"""Universal perturbations: on a plane the best one is known; elsewhere it must beat noise and carry over."""

import pytest
import torch
from tests.attacks.test_engine import Passes, separate_victim
from tests.attacks.test_minimal import grey, plane
from tests.attacks.toys import toy_images, toy_labels, toy_victim

from medaegis.attacks.objectives import CrossEntropy
from medaegis.attacks.universal import universal_attack
from medaegis.errors import ConfigError

EPS = 16 / 256


def to_class(k, victim, n, seed):
    """Images of all classes but k, their labels, and k for each."""
    images = toy_images(n, victim.exact, seed=seed)
    labels = toy_labels(victim, images)
    images, labels = images[labels != k], labels[labels != k]
    return images, labels, torch.full_like(labels, k)


def test_on_a_plane_it_is_the_sign_of_the_weights():
    victim = plane(2)
    images = grey(victim, 40)
    labels = victim.judge(images).predicted
    images, labels = images[labels == 0], labels[labels == 0]
    attack = universal_attack(victim, images, labels, eps=20 / 255, targets=1 - labels, objective=CrossEntropy())
    weight = victim.exact.network.fc.weight
    expected = 20 * (weight[1] - weight[0]).sign().view(1, 16, 16)
    torch.testing.assert_close(attack.rule.change * 255, expected.detach())


@pytest.mark.parametrize("cushion", ["none", "bits:3"])
def test_it_carries_over_to_other_images_and_beats_noise(cushion):
    victim = toy_victim(3, cushion=cushion)
    fooled, by_noise = [], []
    for k in range(3):
        images, labels, targets = to_class(k, victim, 120, 1)
        attack = universal_attack(victim, images, labels, eps=EPS, targets=targets)
        others, their_labels, their_targets = to_class(k, victim, 60, 2)
        found = attack.run(victim, others, their_labels, eps=EPS, targets=their_targets)
        change = attack.rule.change
        assert ((found.images * 255).round() == ((others + change).clamp(0, 1) * 255).round()).all(), "one change"
        noise = change.flatten()[torch.randperm(change.numel(), generator=torch.Generator().manual_seed(k))]
        noisy = ((others + noise.view_as(change)).clamp(0, 1) * 255).round() / 255
        fooled.append(found.fooled.float().mean())
        by_noise.append((victim.judge(noisy).predicted == k).float().mean())
    assert torch.stack(fooled).mean() > torch.stack(by_noise).mean() + 0.3, (fooled, by_noise)


def test_it_never_asks_and_stays_in_each_ball():
    victim = separate_victim()
    known = toy_images(40, victim.exact, seed=1)
    attack = universal_attack(victim, known, toy_labels(victim, known), eps=EPS)
    images = toy_images(11, victim.exact, seed=2)
    labels = toy_labels(victim, images)
    eps = torch.linspace(0, EPS, 11)
    with Passes(victim) as passes:
        found = attack.run(victim, images, labels, eps=eps, batch_size=4)
    assert passes.forward == passes.backward == found.forwards == found.backwards == 0
    levels = ((found.images - images) * 255).round().abs().amax((1, 2, 3))
    assert (levels <= (255 * eps).round()).all()
    assert levels[-1] == 16
    assert torch.equal(attack.run(victim, images, labels, eps=eps, batch_size=11).images, found.images)


def test_it_repeats_with_the_seed_and_is_named_by_what_it_is():
    victim = toy_victim(2)
    known = toy_images(40, victim.exact, seed=1)
    labels = toy_labels(victim, known)
    one, again, other = (
        universal_attack(victim, known, labels, eps=EPS, epochs=2, batch_size=8, seed=s) for s in (3, 3, 4)
    )
    assert torch.equal(one.rule.change, again.rule.change)
    assert repr(one) == repr(again)
    assert not torch.equal(one.rule.change, other.rule.change)
    assert repr(one) != repr(other)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"images": torch.zeros(0, 1, 16, 16)}, "images are"),
        ({"labels": torch.zeros(3, dtype=torch.int64)}, "labels are"),
        ({"targets": torch.zeros(3, dtype=torch.int64)}, "targets are"),
        ({"eps": 1.5}, "eps 1.5"),
        ({"epochs": 0}, "epochs=0"),
    ],
)
def test_bad_input_is_named(wrong, words):
    given = {"images": torch.zeros(2, 1, 16, 16), "labels": torch.zeros(2, dtype=torch.int64), "eps": EPS, **wrong}
    with pytest.raises(ConfigError, match=words):
        universal_attack(toy_victim(2), given.pop("images"), given.pop("labels"), **given)


def test_images_of_another_size_are_refused():
    victim = toy_victim(2)
    known = toy_images(4, victim.exact)
    labels = toy_labels(victim, known)
    attack = universal_attack(victim, known, labels, eps=EPS, epochs=1)
    object.__setattr__(attack.rule, "change", torch.zeros(1, 8, 8))
    with pytest.raises(ConfigError, match="learn it on those"):
        attack.run(victim, known, labels, eps=EPS)
