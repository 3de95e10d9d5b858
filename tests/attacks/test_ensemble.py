"""The ensemble against its members run alone, and against AutoAttack of torchattacks."""

import warnings

import pytest
import torch
from tests.attacks.toys import Rounding, seeded, toy_images, toy_labels, toy_victim

from medaegis.attacks.balls import L2
from medaegis.attacks.catalogue import find_attack
from medaegis.attacks.engine import Attack
from medaegis.attacks.ensemble import Ensemble, Member
from medaegis.attacks.losses.answer import CrossEntropy, LogitRatio
from medaegis.errors import ConfigError

EPS = 8 / 256
N = 20


def case(classes, **options):
    victim = toy_victim(classes, **options)
    images = toy_images(N, victim.exact, seed=3)
    return victim, images, toy_labels(victim, images)


@pytest.mark.parametrize(("name", "classes"), [("auto", 2), ("auto", 4), ("auto-guard", 2)])
def test_it_breaks_what_any_member_breaks_and_spends_what_they_spend(name, classes):
    """Every member alone, on all images, with the seed it has in the ensemble; no image depends on the others."""
    victim, images, labels = case(classes, shields=name == "auto-guard")
    ensemble = find_attack(name).attack.with_options(steps=12)
    found = ensemble.run(victim, images, labels, eps=EPS, seed=7)
    order = victim.judge(images).logits.scatter(1, labels.view(-1, 1), -torch.inf).argsort(1, descending=True)
    broken, number, forwards, backwards = torch.zeros(N, dtype=torch.bool), 0, 0, 0
    for member in ensemble.members:
        if member.classes > classes:
            continue
        for k in range(classes - 1) if member.per_class else [None]:
            aims = None if k is None else order[:, k]
            alone = member.attack.run(victim, images, labels, targets=aims, eps=EPS, seed=7 + number)
            through = (alone.verdict.predicted != labels) & alone.verdict.accepted
            left = ~broken
            assert torch.equal(found.images[left & through], alone.images[left & through]), (member, k)
            forwards += int(left.sum()) * alone.forwards // N
            backwards += int(left.sum()) * alone.backwards // N
            broken |= through
            number += 1
    assert number > 2
    assert broken.any()
    assert torch.equal(found.broken, broken)
    assert (found.forwards, found.backwards) == (forwards, backwards)
    verdict = victim.judge(found.images)
    assert torch.equal(found.verdict.predicted, verdict.predicted)
    assert torch.equal(found.verdict.accepted, verdict.accepted)
    torch.testing.assert_close(found.verdict.score, verdict.score, rtol=1e-4, atol=1e-5)
    assert torch.equal(found.fooled, verdict.predicted != labels)


def test_of_what_is_not_broken_the_least_suspicious_that_fools_is_kept():
    victim, images, labels = case(2, shields=True)
    victim.shields.centre += 1e3  # stricter than can be passed, so that every member runs on every image
    ensemble = find_attack("auto-guard").attack.with_options(steps=5)
    found = ensemble.run(victim, images, labels, eps=2 * EPS)
    scores = []
    for number, member in enumerate(ensemble.members):
        alone = member.attack.run(victim, images, labels, eps=2 * EPS, seed=number)
        scores.append(torch.where(alone.fooled, alone.verdict.score, torch.inf))
    held = found.fooled & ~found.broken
    assert held.sum() > 3
    torch.testing.assert_close(found.verdict.score[held], torch.stack(scores).amin(0)[held], rtol=1e-4, atol=1e-5)


def test_a_target_stays_the_goal():
    victim, images, labels = case(4)
    targets = (labels + 2) % 4
    found = find_attack("auto").attack.with_options(steps=10).run(victim, images, labels, targets=targets, eps=2 * EPS)
    assert torch.equal(found.fooled, victim.judge(found.images).predicted == targets)
    assert found.fooled.any()


def test_options_reach_the_members():
    ensemble = find_attack("auto").attack
    short = ensemble.with_options(steps=7, restarts=3)
    assert [member.attack.steps for member in short.members] == [7] * 4
    assert [member.attack.restarts for member in short.members] == [3, 3, 3, 1]
    assert (short.steps, short.restarts, short.ball.name) == (28, 3, "linf")
    assert ensemble.with_options() == ensemble
    assert not ensemble.objective.needs_shield
    assert find_attack("auto-guard").attack.objective.needs_shield


def test_what_makes_no_ensemble_is_refused():
    attack = Attack(objective=CrossEntropy())
    for members in ((), (Member(attack), Member(attack.with_options(ball=L2())))):
        with pytest.raises(ConfigError, match="one ball"):
            Ensemble(members)
    victim, images, labels = case(2)
    with pytest.raises(ConfigError, match="more classes"):
        Ensemble((Member(Attack(objective=LogitRatio()), classes=4),)).run(victim, images, labels, eps=EPS)


def test_it_breaks_what_autoattack_of_torchattacks_breaks():
    """The same network; theirs with 5000 queries by Square, ours with 100. Its targeted DLR loss looks for the fourth
    logit, so with two classes it fails wherever cross-entropy alone has left an image unbroken."""
    torchattacks = pytest.importorskip("torchattacks")
    victim, images, labels = case(4, fold=False)
    images, labels = images[:6], labels[:6]
    with seeded(0), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = torchattacks.AutoAttack(victim.exact, eps=EPS, n_classes=4, seed=0)(images, labels)
        pair = case(2)
        with pytest.raises(IndexError):
            torchattacks.AutoAttack(pair[0].exact, eps=1 / 255, n_classes=2, seed=0)(*(part[:4] for part in pair[1:]))
    by_theirs = Rounding(victim.exact)(theirs).argmax(1) != labels
    found = find_attack("auto").attack.with_options(steps=100).run(victim, images, labels, eps=EPS)
    assert 0 < by_theirs.sum() < 6
    assert (found.broken | ~by_theirs).all()
