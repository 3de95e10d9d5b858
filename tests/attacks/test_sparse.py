"""SparseFool: its linear problem by linear programming, its path on a plane in closed form, and torchattacks."""

import doctest

import numpy as np
import pytest
import torch
from scipy.optimize import linprog
from tests.attacks.test_minimal import PIXELS, grey, plane, walk
from tests.attacks.toys import SIZE, Rounding, toy_classifier, toy_images, toy_labels, toy_victim

from medaegis.attacks import sparse
from medaegis.attacks.balls import L2
from medaegis.attacks.catalogue import find_attack
from medaegis.attacks.engine import Attack
from medaegis.attacks.minimal import NearestBoundary
from medaegis.attacks.sparse import SparseFool, onto_plane
from medaegis.attacks.victim import Victim
from medaegis.errors import ConfigError


def attack(steps=60, **options):
    return Attack(objective=NearestBoundary(L2()), rule=SparseFool(**options), steps=steps, exact=True)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.7, 1.0])
def test_the_way_onto_a_plane_is_that_of_linear_programming(share):
    """The least sum of moves within the room of each; some slopes and rooms are nil."""
    generator = np.random.default_rng(1)
    slope, room = generator.random((5, 40)), generator.random((5, 40))
    slope[:, ::7], room[:, ::5] = 0.0, 0.0
    amount = share * (slope * room).sum(1)
    found = onto_plane(*(torch.from_numpy(values) for values in (slope, room, amount))).numpy()
    assert (found >= 0).all()
    assert (found <= room + 1e-12).all()
    for i in range(5):
        best = linprog(
            np.ones(40),
            A_eq=slope[i : i + 1],
            b_eq=amount[i : i + 1],
            bounds=list(zip(room[i] * 0, room[i], strict=True)),
        )
        assert found[i].sum() == pytest.approx(best.fun, abs=1e-9)
        assert (slope[i] * found[i]).sum() == pytest.approx(amount[i], abs=1e-9)


def test_a_plane_out_of_reach_is_approached_as_far_as_there_is_room():
    assert not doctest.testmod(sparse).failed
    slope, room = torch.tensor([[1.0, 0.0, 2.0]]), torch.tensor([[0.5, 1.0, 0.25]])
    assert torch.equal(onto_plane(slope, room, torch.tensor([9.0])), torch.tensor([[0.5, 0.0, 0.25]]))


@pytest.mark.parametrize("eps", [1.0, 0.25])
def test_on_a_plane_it_takes_the_steepest_values_that_are_needed(eps):
    """With reach 1 as few of the steepest as close the margin, each as far as black, white and eps let it; the two
    overshoots make that 4 % more.
    """
    victim = plane(2, gradient="skip")
    images = grey(victim, 12)
    labels = victim.exact(images).argmax(1)
    found = walk(attack(reach=1.0), victim, images, labels, eps=eps)
    weight, logits = victim.exact.network.fc.weight.detach(), victim.exact(images).detach()
    assert (victim.exact(found).argmax(1) != labels).all()
    for x, z, label, mine in zip(images.flatten(1), found.flatten(1), labels.tolist(), logits, strict=True):
        slope = weight[1 - label] - weight[label]
        room = torch.where(slope > 0, 1 - x, x).clamp_max(eps)
        order = slope.abs().argsort(descending=True)
        gains = (slope.abs() * room)[order].cumsum(0)
        needed = int((gains < 1.02**2 * (mine[label] - mine[1 - label])).sum()) + 1
        changed = ((z - x).abs() > 1e-6).nonzero().flatten()
        assert set(changed.tolist()) == set(order[:needed].tolist())
        torch.testing.assert_close((z - x).abs()[order[: needed - 1]], room[order[: needed - 1]])
        assert ((z - x).sign() == slope.sign())[changed].all()


def test_it_changes_few_values_and_fools():
    victim = toy_victim(4)
    images = toy_images(20, victim.exact)
    labels = toy_labels(victim, images)
    found = find_attack("sparsefool").attack.run(victim, images, labels, eps=1.0)
    assert found.fooled.float().mean() >= 0.9
    few = (found.images != images).flatten(1).sum(1)[found.fooled]
    assert few.double().mean() < 0.1 * PIXELS, few
    dense = find_attack("deepfool-l2").attack.run(victim, images, labels, eps=1.0)
    assert few.double().mean() < 0.2 * (dense.images != images).flatten(1).sum(1).double().mean()


def test_targets_are_reached():
    victim = toy_victim(3)
    images = toy_images(12, victim.exact)
    labels = toy_labels(victim, images)
    targets = (labels + 1) % 3
    found = find_attack("sparsefool").attack.run(victim, images, labels, eps=1.0, targets=targets)
    assert found.fooled.float().mean() > 0.7
    assert torch.equal(found.fooled, victim.judge(found.images).predicted == targets)


def test_eps_bounds_each_value_on_the_way():
    """A smaller eps takes more values, and none by more."""
    victim = toy_victim(2)
    images = toy_images(16, victim.exact)
    labels = toy_labels(victim, images)
    counts = []
    for levels in (255, 40):
        found = find_attack("sparsefool").attack.run(victim, images, labels, eps=levels / 255)
        change = ((found.images - images) * 255).round().abs()
        assert change.max() <= levels
        counts.append((change > 0).flatten(1).sum(1)[found.fooled].double().mean())
        assert found.fooled.float().mean() > 0.6
    assert counts[1] > counts[0]


def test_nothing_is_asked_once_all_images_rest():
    """On a plane with reach 1: DeepFool's look, the one beyond that, that for the normal, and one that sees it done."""
    victim = plane(2, gradient="skip")
    images = grey(victim, 6)
    labels = victim.exact(images).argmax(1)
    found = attack(reach=1.0).run(victim, images, labels, eps=1.0)
    assert found.fooled.all()
    assert found.forwards == found.backwards == 6 * 4


@pytest.mark.filterwarnings("ignore:__array__ implementation")
def test_it_changes_no_more_values_than_torchattacks():
    """Theirs solves each plane from the clean image, and with a reach of 3, as in the authors' code."""
    torchattacks = pytest.importorskip("torchattacks")
    classifier = toy_classifier(3).frozen(fold=False)
    network = Rounding(classifier).eval()
    images = toy_images(10, classifier)
    labels = classifier(images).argmax(1)
    theirs = torchattacks.SparseFool(classifier, steps=20, lam=3, overshoot=0.02)(images, labels)
    theirs = (theirs * 255).round() / 255
    victim = Victim(classifier, dtype=torch.float32, fold=False)
    found = find_attack("sparsefool").attack.run(victim, images, labels, eps=1.0)
    through = network(theirs).argmax(1) != labels
    assert through.any()
    assert found.fooled.sum() >= through.sum()
    both = through & found.fooled
    ours, others = ((z != images).flatten(1).sum(1)[both].double() for z in (found.images, theirs))
    assert ours.mean() <= others.mean(), (ours, others)


def test_a_flat_network_lets_it_rest_where_it_is():
    victim = toy_victim(2)
    victim.exact.network.fc.weight.data.zero_()
    images = toy_images(3, victim.exact)
    found = attack().run(victim, images, toy_labels(victim, images), eps=1.0)
    assert torch.equal(found.images, images)
    assert found.still.all()
    assert images.shape[2] == SIZE


@pytest.mark.parametrize("wrong", [{"reach": 0.5}, {"overshoot": -0.1}, {"steps": 0}])
def test_settings_that_make_no_sense_are_refused(wrong):
    with pytest.raises(ConfigError, match="reach >= 1"):
        SparseFool(**wrong)
