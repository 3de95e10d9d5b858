"""Transfer: the surrogate is attacked, the victim judges and is never differentiated."""

import pytest
import torch
from tests.attacks.toys import toy_classifier, toy_images, toy_labels, toy_victim

from medaegis.attacks.catalogue import find_attack
from medaegis.attacks.transfer import committee, transfer
from medaegis.attacks.victim import Victim
from medaegis.errors import ConfigError

EPS = 16 / 256


def related(seed, classes=2, noise=0.15, **options):
    """The toy classifier with other weights, but not all too different: what attacks carry over between."""
    classifier = toy_classifier(classes, **options)
    source = torch.Generator().manual_seed(seed)
    for weights in classifier.network.parameters():
        weights.data += noise * weights.std().nan_to_num() * torch.randn(weights.shape, generator=source)
    return classifier


def surrogate_of(*classifiers, **options):
    return Victim(committee(classifiers), dtype=torch.float32, **options)


def test_a_committee_answers_with_the_mean_of_the_logits_and_of_the_gradients():
    members = [related(seed) for seed in range(3)]
    images = toy_images(6, members[0])
    together = committee(members)
    expected = torch.stack([member(images) for member in members]).mean(0)
    torch.testing.assert_close(together(images), expected)
    for fold in (True, False):
        frozen = together.frozen(fold=fold)
        torch.testing.assert_close(frozen(images), expected, rtol=1e-4, atol=1e-4)
    z = images.clone().requires_grad_()
    (grad,) = torch.autograd.grad(together(z)[:, 0].sum(), z)
    parts = [torch.autograd.grad(member(z)[:, 0].sum(), z)[0] for member in members]
    torch.testing.assert_close(grad, torch.stack(parts).mean(0))
    assert committee(members[:1]) is members[0]


def test_the_taps_of_a_committee_are_those_of_its_members():
    members = [related(seed) for seed in range(2)]
    together, images = committee(members), toy_images(4, members[0])
    seen = together.activations(images).features
    for i, member in enumerate(members):
        for tap, values in member.activations(images).features.items():
            torch.testing.assert_close(seen[f"members.{i}.network.{tap}"], values)


@pytest.mark.parametrize("name", ["pgd", "dim", "auto", "feature-match"])
def test_the_images_are_the_surrogates_and_the_verdict_the_victims(name):
    victim = toy_victim(2, shields=True, cushion="bits:3")
    surrogate = surrogate_of(related(1), related(2))
    images = toy_images(20, victim.exact, seed=3)
    labels = toy_labels(victim, images)
    attack = find_attack(name).attack.with_options(steps=10)
    run = {"eps": EPS, "targets": 1 - labels, "seed": 4, "guides": images.flip(0)}
    alone = attack.run(surrogate, images, labels, **run)
    found = transfer(attack, surrogate, victim, images, labels, **run, batch_size=7)
    assert torch.equal(found.images, alone.images)
    assert (found.forwards, found.backwards) == (alone.forwards, alone.backwards)
    verdict = victim.judge(found.images)
    assert torch.equal(found.verdict.predicted, verdict.predicted)
    assert torch.equal(found.fooled, verdict.predicted == 1 - labels)
    assert torch.equal(found.broken, found.fooled & verdict.accepted)


def test_the_victim_is_never_asked_before_the_end():
    """Restarts too are chosen by the surrogate: all that the victim sees is the result."""
    victim = toy_victim(2)
    images = toy_images(12, victim.exact, seed=3)
    labels = toy_labels(victim, images)
    seen = []
    victim.exact.network.register_forward_hook(lambda *_: seen.append(torch.is_grad_enabled()))
    attack = find_attack("pgd").attack.with_options(steps=5, restarts=3)
    transfer(attack, surrogate_of(related(1)), victim, images, labels, eps=EPS)
    assert seen == [False, False], "about the attacked images, and about the clean ones for what was wrong before"


def test_it_carries_over_between_related_networks_and_better_from_more_of_them():
    victim = toy_victim(2)
    images = toy_images(60, victim.exact, seed=3)
    labels = toy_labels(victim, images)
    attack = find_attack("pgd").attack.with_options(steps=10)
    direct = attack.run(victim, images, labels, eps=EPS).fooled.float().mean()
    members = [related(seed, noise=0.5) for seed in range(1, 6)]
    single = [
        transfer(attack, surrogate_of(member), victim, images, labels, eps=EPS).fooled.float().mean()
        for member in members
    ]
    together = transfer(attack, surrogate_of(*members), victim, images, labels, eps=EPS).fooled.float().mean()
    assert 0 < torch.stack(single).mean() < together <= direct


def test_strangers_are_refused():
    victim = toy_victim(2)
    images = toy_images(4, victim.exact)
    labels = toy_labels(victim, images)
    attack = find_attack("fgsm").attack
    with pytest.raises(ConfigError, match="same classes and images"):
        transfer(attack, surrogate_of(related(1, classes=3)), victim, images, labels, eps=EPS)
    with pytest.raises(ConfigError, match="same classes and images"):
        committee([related(1), related(1, channels="rgb")])
    with pytest.raises(ConfigError, match="at least one"):
        committee([])
    with pytest.raises(ConfigError, match="attack a guard"):
        transfer(find_attack("shield-only").attack, surrogate_of(related(1)), victim, images, labels, eps=EPS)


def test_attacks_on_features_go_for_every_member():
    members = [toy_classifier(3, seed=seed) for seed in (1, 2)]
    surrogate = surrogate_of(*members)
    assert surrogate.exact.deepest() == ("members.0.network.last", "members.1.network.last")
    assert members[0].deepest() == ("last",)
    images = toy_images(12, members[0])
    guides = toy_images(12, members[0], seed=7)
    labels = toy_labels(surrogate, images)
    attack = find_attack("feature-match").attack
    found = attack.run(surrogate, images, labels, eps=16 / 256, targets=(labels + 1) % 3, guides=guides).images

    def far(classifier, x):
        here, there = (classifier.activations(z, taps=("last",)).features["last"] for z in (x, guides))
        return float((here - there).square().mean() / there.square().mean())

    for member in members:
        assert far(member, found) < 0.9 * far(member, images)


@pytest.mark.parametrize("name", ["feature-match", "stress-up"])
def test_a_classifier_without_taps_is_refused_in_words(name):
    classifier = toy_classifier(2, taps=())
    images = toy_images(2, classifier)
    victim = Victim(classifier, dtype=torch.float32)
    labels = toy_labels(victim, images)
    with pytest.raises(ConfigError, match="has no taps"):
        find_attack(name).attack.run(victim, images, labels, eps=0.1, targets=1 - labels, guides=images)
