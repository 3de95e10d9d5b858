"""The generator: learned on known images, it carries over, is counted, repeats with the seed, and asks no more."""

import pytest
import torch
from tests.attacks.test_minimal import grey, plane
from tests.attacks.test_universal import known_to
from tests.attacks.toys import Passes, separate_victim, toy_images, toy_labels, toy_victim, trained

from medaegis.attacks.catalogue import find_attack
from medaegis.attacks.choices import pick_targets
from medaegis.attacks.generator import Generator, output
from medaegis.attacks.learned import wanted
from medaegis.attacks.victim import Victim
from medaegis.errors import ConfigError

EPS = 16 / 255
QUICK = Generator(steps=2, width=4)


def test_on_a_plane_it_learns_to_see_the_signs_of_the_weights():
    """A convolution cannot know the place, but each image leans to the weights of its class, under noise of its own."""
    victim = plane(2)
    images = grey(victim, 80)
    labels = victim.judge(images).predicted
    weight = victim.exact.network.fc.weight.detach()
    lesson = Generator(steps=20).learn(victim, images[:60], labels[:60], eps=EPS, target=1)
    there = labels[60:] == 0
    others = images[60:][there]
    change = Generator().change(lesson.learned)(others)
    gain = (change.flatten(1) * (weight[1] - weight[0])).sum(1)
    best = EPS * (weight[1] - weight[0]).abs().sum()
    assert (gain > 0.35 * best).all(), gain / best
    assert change.abs().max() <= EPS


def test_its_network_sees_far_and_no_farther():
    """A value's change depends on the image 10 pixels about it, and on no other; of images of odd sides too."""
    weights = {name: values.detach() for name, values in QUICK.first(1, 0, torch.device("cpu")).items()}
    x = torch.rand(1, 1, 45, 37, generator=torch.Generator().manual_seed(1)).requires_grad_()
    (slope,) = torch.autograd.grad(output(weights, x)[0, 0, 20, 20], x)
    rows, columns = slope[0, 0].any(1).nonzero(), slope[0, 0].any(0).nonzero()
    for places in (rows, columns):
        assert 8 <= (places - 20).abs().max() <= 12
    assert output(weights, x).shape == x.shape
    assert output(weights, x).abs().max() < 1


def test_it_carries_over_to_other_images_and_beats_noise():
    """On a network that has learned something: more than half of the images, where its shuffled changes turn few."""
    guard, images, labels = trained()
    victim, known = Victim(guard.classifier), (images[:160], labels[:160])
    others, theirs = images[160:], labels[160:]
    found = Generator(steps=10).run(victim, others, theirs, eps=8 / 255, known=known)
    change = ((found.images - others) * 255).round()
    assert change.abs().max() == 8
    turned = change.flatten(1)[:, torch.randperm(change[0].numel(), generator=torch.Generator().manual_seed(0))]
    noisy = ((others + turned.view_as(change) / 255).clamp(0, 1) * 255).round() / 255
    by_noise = (victim.judge(noisy).predicted != theirs).float().mean()
    assert found.fooled.float().mean() > by_noise + 0.35, (found.fooled.float().mean(), by_noise)
    assert not torch.equal(change[0], change[1]), "each image has a change of its own"


def test_one_that_knows_the_shield_gets_less_suspicion():
    guard, images, labels = trained()
    victim, known, targets = guard.victim(), (images[:96], labels[:96]), 1 - labels[160:]
    suspicion = []
    for name in ("generator-guard", "generator"):
        attack = find_attack(name).attack.with_options(steps=8)
        found = attack.run(victim, images[160:], labels[160:], eps=EPS, targets=targets, known=known)
        suspicion.append(victim.suspicion(found.images, targets).mean())
    assert suspicion[0] < suspicion[1]


def test_what_is_learned_is_counted_and_nothing_is_asked_after():
    victim = separate_victim()
    known = known_to(victim, 40)
    images, labels = known_to(victim, 11, seed=2)
    for targets in (None, pick_targets(labels, 3)):
        with Passes(victim) as passes:
            found = QUICK.run(victim, images, labels, eps=EPS, targets=targets, known=known)
        spent = 2 * sum(40 if k is None else int((known[1] != k).sum()) for k in wanted(targets))
        assert passes.forward == passes.backward == found.forwards == found.backwards == spent
        learned = {k: QUICK.learn(victim, *known, eps=EPS, target=k).learned for k in wanted(targets)}
        with Passes(victim) as passes:
            again = QUICK.fixed(learned).run(victim, images, labels, eps=EPS, targets=targets, batch_size=4)
        assert passes.forward == passes.backward == again.forwards == 0
        assert torch.equal(again.images, found.images)


def test_it_repeats_with_the_seed_and_leaves_the_global_random_state():
    victim = toy_victim(2)
    known, images = known_to(victim, 40), toy_images(3, victim.exact, seed=9)
    state = torch.random.get_rng_state()
    one, again, other = (QUICK.change(QUICK.learn(victim, *known, eps=EPS, seed=s).learned)(images) for s in (3, 3, 4))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_it_stays_in_each_ball():
    victim = toy_victim(2)
    known, (images, labels) = known_to(victim, 40), known_to(victim, 11, seed=2)
    eps = torch.linspace(0, EPS, 11)
    found = QUICK.run(victim, images, labels, eps=eps, known=known, batch_size=4)
    levels = ((found.images - images) * 255).round().abs().amax((1, 2, 3))
    assert (levels <= (255 * eps + 1e-3).floor()).all()
    assert levels[-1] > 8


def test_bad_input_is_named():
    victim = toy_victim(2)
    images = toy_images(3, victim.exact)
    labels = toy_labels(victim, images)
    with pytest.raises(ConfigError, match="generator: it is learned from known images, and none are given"):
        QUICK.run(victim, images, labels, eps=EPS)
    with pytest.raises(ConfigError, match="known images are"):
        QUICK.learn(victim, images[:0], labels[:0], eps=EPS)
    learned = QUICK.learn(victim, images, labels, eps=EPS).learned
    with pytest.raises(ConfigError, match="1 channels, the images 3"):
        QUICK.change(learned)(torch.zeros(1, 3, 16, 16))
    for wrong in ({"width": 0}, {"rate": 0.0}, {"steps": 0}):
        with pytest.raises(ConfigError, match="generator"):
            Generator(**wrong)
