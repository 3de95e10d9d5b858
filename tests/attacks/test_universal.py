"""Universal perturbations: on a plane the best one is known; elsewhere it must beat noise and carry over."""

import dataclasses
import math

import pytest
import torch
from tests.attacks.test_engine import Passes, separate_victim
from tests.attacks.test_minimal import grey, plane
from tests.attacks.toys import toy_images, toy_labels, toy_victim

from medaegis.attacks.catalogue import find_attack
from medaegis.attacks.choices import pick_targets
from medaegis.attacks.learned import wanted
from medaegis.attacks.losses.answer import CrossEntropy
from medaegis.attacks.universal import Universal
from medaegis.errors import ConfigError

EPS = 16 / 256


def known_to(victim, n, seed=1):
    """Clean images and what the victim says of them."""
    images = toy_images(n, victim.exact, seed=seed)
    return images, toy_labels(victim, images)


def test_on_a_plane_it_is_the_sign_of_the_weights():
    victim = plane(2)
    images = grey(victim, 40)
    labels = victim.judge(images).predicted
    for k in (0, 1):
        lesson = Universal(objective=CrossEntropy()).learn(victim, images, labels, eps=20 / 255, target=k)
        weight = victim.exact.network.fc.weight
        expected = 20 * (weight[k] - weight[1 - k]).sign().view(1, 16, 16)
        torch.testing.assert_close(lesson.learned["change"] * 255, expected.detach())


def test_it_is_the_batch_by_batch_descent_written_out():
    """By autograd through the classifier itself; rounding passes gradients straight through."""
    victim = toy_victim(3)
    images, labels = known_to(victim, 20)
    lesson = Universal(steps=3, learning_batch=8, step_size=0.25).learn(
        victim, images, labels, eps=EPS, target=2, seed=7
    )
    x = images[labels != 2]
    change, order = torch.zeros(1, 16, 16), torch.Generator().manual_seed(7)
    whole, done = 3 * math.ceil(len(x) / 8), 0
    for _ in range(3):
        for rows in torch.randperm(len(x), generator=order).split(8):
            z = (x[rows] + change).clamp(0, 1).requires_grad_()
            logits = victim.exact(z + ((z * 255).round() / 255 - z).detach())
            (logits[:, :2].amax(1) - logits[:, 2]).clamp_min(-9).mean().backward()
            change = (change - 0.25 * (1 - done / whole) * 16 / 255 * z.grad.sum(0).sign()).clamp(-16 / 255, 16 / 255)
            done += 1
    assert torch.equal((lesson.learned["change"] * 255).round(), (change * 255).round())
    assert len(x) < 20


@pytest.mark.parametrize("cushion", ["none", "bits:3"])
def test_it_carries_over_to_other_images_and_beats_noise(cushion):
    victim = toy_victim(3, cushion=cushion)
    known = known_to(victim, 120)
    others, labels = known_to(victim, 60, seed=2)
    targets = pick_targets(labels, 3)
    found = Universal().run(victim, others, labels, eps=EPS, targets=targets, known=known)
    changes = ((found.images - others) * 255).round()
    by_noise = []
    for k in range(3):
        lesson = Universal().learn(victim, *known, eps=EPS, target=k)
        mine = targets == k
        expected = ((others[mine] + lesson.learned["change"]).clamp(0, 1) * 255).round() - (others[mine] * 255).round()
        assert torch.equal(changes[mine], expected), "one change for each wanted class"
        noise = (
            lesson.learned["change"]
            .flatten()[torch.randperm(lesson.learned["change"].numel(), generator=torch.Generator().manual_seed(k))]
            .view_as(lesson.learned["change"])
        )
        noisy = ((others[mine] + noise).clamp(0, 1) * 255).round() / 255
        by_noise.append(victim.judge(noisy).predicted == k)
    assert found.fooled.float().mean() > torch.cat(by_noise).float().mean() + 0.3


def test_one_that_knows_the_shield_gets_more_past_it():
    victim = toy_victim(2, shields=True)
    known, (images, labels) = known_to(victim, 120), known_to(victim, 60, seed=2)
    targets = 1 - labels
    knowing, conventional = (
        find_attack(name).attack.run(victim, images, labels, eps=EPS, targets=targets, known=known)
        for name in ("uap-wb", "uap")
    )
    assert victim.suspicion(knowing.images, targets).mean() < victim.suspicion(conventional.images, targets).mean()
    assert knowing.broken.float().mean() >= conventional.broken.float().mean()
    assert knowing.broken.any()


def test_what_is_learned_is_counted_and_nothing_is_asked_after():
    victim = separate_victim()
    known = known_to(victim, 40)
    images, labels = known_to(victim, 11, seed=2)
    attack = Universal(steps=3)
    for targets in (None, pick_targets(labels, len(victim.exact.classes))):
        with Passes(victim) as passes:
            found = attack.run(victim, images, labels, eps=EPS, targets=targets, known=known)
        lessons = [attack.learn(victim, *known, eps=EPS, target=k) for k in wanted(targets)]
        # Each known image in each pass, once for each wanted class that is not its own.
        spent = 3 * sum(40 if k is None else int((known[1] != k).sum()) for k in wanted(targets))
        assert passes.forward == found.forwards == sum(lesson.forwards for lesson in lessons) == spent
        assert passes.backward == found.backwards == sum(lesson.backwards for lesson in lessons) == spent
        with Passes(victim) as passes:
            again = attack.fixed({k: lesson.learned for k, lesson in zip(wanted(targets), lessons, strict=True)}).run(
                victim, images, labels, eps=EPS, targets=targets
            )
        assert passes.forward == passes.backward == again.forwards == again.backwards == 0
        assert torch.equal(again.images, found.images)


def test_it_stays_in_each_ball():
    victim = toy_victim(2)
    known, (images, labels) = known_to(victim, 40), known_to(victim, 11, seed=2)
    eps = torch.linspace(0, EPS, 11)
    attack = Universal(steps=2, step_size=1.0)
    found = attack.run(victim, images, labels, eps=eps, known=known, batch_size=4)
    levels = ((found.images - images) * 255).round().abs().amax((1, 2, 3))
    assert (levels <= (255 * eps).round()).all()
    assert levels[-1] == 16
    assert torch.equal(attack.run(victim, images, labels, eps=eps, known=known, batch_size=11).images, found.images)


def test_it_repeats_with_the_seed():
    victim = toy_victim(2)
    known = known_to(victim, 40)
    one, again, other = (
        Universal(steps=2, learning_batch=8).learn(victim, *known, eps=EPS, seed=s).learned["change"] for s in (3, 3, 4)
    )
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


def test_steps_are_a_limit():
    attack = find_attack("uap").attack
    assert attack.with_options(steps=3).steps == 3
    assert attack.with_options(steps=300) == attack.with_options() == attack
    with pytest.raises(ConfigError, match="one start"):
        attack.with_options(restarts=2)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"images": torch.zeros(0, 1, 16, 16)}, "known images are"),
        ({"labels": torch.zeros(3, dtype=torch.int64)}, "known labels are"),
        ({"target": 0}, "every known image is of class 0"),
        ({"eps": 1.5}, "eps 1.5"),
    ],
)
def test_bad_input_is_named(wrong, words):
    given = {"images": torch.zeros(2, 1, 16, 16), "labels": torch.zeros(2, dtype=torch.int64), "eps": EPS, **wrong}
    with pytest.raises(ConfigError, match=words):
        Universal().learn(toy_victim(2), given.pop("images"), given.pop("labels"), **given)


@pytest.mark.parametrize("setting", ["steps", "learning_batch", "images"])
def test_settings_that_leave_nothing_to_do_are_refused(setting):
    with pytest.raises(ConfigError, match=f"{setting}=0"):
        dataclasses.replace(Universal(), **{setting: 0})


def test_what_was_learned_for_something_else_is_refused():
    victim = toy_victim(2)
    images, labels = known_to(victim, 4)
    with pytest.raises(ConfigError, match="learn it on those"):
        Universal().fixed({None: {"change": torch.zeros(1, 8, 8)}}).run(victim, images, labels, eps=EPS)
    with pytest.raises(ConfigError, match="none was learned for class"):
        Universal().fixed({None: {"change": torch.zeros(1, 16, 16)}}).run(
            victim, images, labels, eps=EPS, targets=1 - labels
        )
