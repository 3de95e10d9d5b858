"""Alarms must go off for victims that deserve them, and stay quiet for sound ones."""

import dataclasses
from types import SimpleNamespace

import pytest
import torch
from tests.attacks.toys import toy_bank, toy_classifier, toy_images
from tests.bench.campaigns import toy_campaign
from tests.bench.test_controls import N, piece, planned
from torch import nn

from medaegis.attacks.balls import Linf
from medaegis.attacks.losses.answer import CarliniWagner, LogitRatio
from medaegis.attacks.losses.shield import ShieldLogit
from medaegis.attacks.objective import Goal
from medaegis.attacks.victim import Victim
from medaegis.bench.campaign import ON_GUARD, Effort
from medaegis.bench.checks import alarms
from medaegis.draws import Draws
from medaegis.models.classifier import Classifier
from medaegis.models.normalisation import IMAGENET_MEAN, IMAGENET_STD
from medaegis.progress import silent

# ---- from outcomes alone


class Few:
    """A campaign of N images, of which a few are at these places."""

    effort = dataclasses.replace(ON_GUARD, queries=30)

    def __init__(self, places, only):
        self.places, self.only = places, only

    def __len__(self):
        return N

    def few(self, n):
        return self.places


@pytest.mark.parametrize(
    ("pgd", "fgsm", "passed"), [(0.9, 0.5, True), (0.9, 0.9, True), (0.5, 0.6, True), (0.5, 0.625, False)]
)
def test_many_steps_must_beat_one(pgd, fgsm, passed):
    outcomes = [(planned("pgd", 8), piece(pgd)), (planned("fgsm", 8), piece(fgsm)), (planned("pgd", 4), piece(0.0))]
    (alarm,) = alarms.steps_beat_one(outcomes)
    assert alarm.passed is passed
    assert alarms.steps_beat_one(outcomes[1:]) == []


@pytest.mark.parametrize(("short", "slow", "passed"), [(0.75, 0.0, True), (0.2, 0.0, False), (0.2, 0.75, True)])
def test_short_attacks_stand_beside_long_ones(short, slow, passed):
    outcomes = [
        (planned("wb", 16), piece(1.0, 0.8)),
        (planned("wb", 16, steps=20), piece(1.0, short)),
        (planned("wb-hfc", 16), piece(1.0, 0.75)),
        (planned("wb-hfc", 16, steps=20), piece(1.0, slow)),
        (planned("wb", 4, steps=20), piece(1.0, 0.2)),
        (planned("wb", 16, steps=20, gradient="twin"), piece(1.0, 0.2)),
        (planned("wb", 16, steps=20, restarts=5), piece(1.0, 0.2)),
    ]
    (alarm,) = alarms._patience(outcomes)
    assert alarm.measured.startswith(f"wb 80.0% (100 steps) and {short:.1%} (20), wb-hfc 75.0% (100 steps)")
    assert alarm.passed is passed


@pytest.mark.parametrize(("square", "passed"), [(0.3, True), (0.5, True), (0.55, False)])
def test_guessing_must_not_beat_gradients(square, passed):
    outcomes = [
        (planned("wb", 8), piece(1.0, 0.1)),
        (planned("wb-adaptive", 8), piece(1.0, 0.4)),
        (planned("square-guard", 8), piece(1.0, square)),
        (planned("square", 8), piece(1.0, 0.0)),
        (planned("pgd", 8), piece(1.0, 0.9)),  # does not know the guard: no yardstick
        (planned("wb", 4), piece(1.0, 0.0)),
    ]
    (alarm,) = alarms.knowledge_helps(outcomes, adaptive=True)
    assert alarm.passed is passed
    assert alarm.measured == f"wb-adaptive 40.0%, square-guard {square:.1%}"


@pytest.mark.parametrize(
    ("far", "elsewhere", "passed"),
    [(0.5, 0.5, True), (0.9, 0.5, False), (0.9, 0.85, True)],
    ids=["nothing more", "more", "what others had found"],
)
def test_stamina_shows_what_more_effort_adds_to_the_worst_case(far, elsewhere, passed):
    asked = []

    places = torch.arange(0, N, 2)

    def attack(cell, progress):
        asked.append((cell.value.steps, cell.value.restarts, cell.eps))
        found = piece(1.0, far if cell.value.restarts == 20 else 0.5)
        return {**{name: values[places] for name, values in found.items()}, "score": places + 0.5}

    small = SimpleNamespace(attack=attack)
    campaign = Few(places, lambda given: small)
    outcomes = [(planned("wb", levels, steps=7), piece(1.0, 0.5)) for levels in (4, 16)]
    outcomes += [(planned("wb", 16, steps=2), piece(1.0)), (planned("wb-adaptive", 16), piece(1.0, elsewhere))]
    # At another eps or in another norm all get through, which is no excuse here.
    outcomes += [(planned("selective", 32), piece(1.0, 1.0)), (planned("pgd-l2", 16), piece(1.0, 1.0))]
    alarm, more = alarms.run_stamina(campaign, outcomes, silent)
    assert alarm.passed is passed
    assert [(p.value.steps, p.value.restarts) for p, _ in more] == [(7, 1), (70, 1), (7, 5), (7, 20)]
    for cell, found in more:
        share = far if cell.value.restarts == 20 else 0.5
        assert found["fooled"].tolist() == [i % 2 == 0 for i in range(N)]
        assert found["accepted"].tolist() == [i % 2 == 0 and i < share * N for i in range(N)]
        assert found["score"].tolist() == [i + 0.5 if i % 2 == 0 else float("inf") for i in range(N)]
    assert asked == [(7, 1, 16 / 256), (70, 1, 16 / 256), (7, 5, 16 / 256), (7, 20, 16 / 256)]
    assert f"all attacks: {elsewhere:.1%}" in alarm.measured


@pytest.mark.parametrize(("blind", "passed"), [(0, True), (2, True), (3, False)])
def test_guessing_is_tried_where_nothing_got_through_and_counts(blind, passed):
    """Of 20 images 15 are broken by one attack or another; Square is asked about the other five."""
    places, asked = torch.arange(0, N, 2), []

    def only(left):
        def attack(cell, progress):
            asked.append((cell.attack, cell.value.steps, cell.eps, left.tolist()))
            hit = torch.arange(len(left)) < blind
            return {"fooled": hit, "accepted": hit, "score": left - 100.0}

        return SimpleNamespace(attack=attack)

    campaign = Few(places, only)
    last = {name: torch.arange(N) >= 30 for name in ("fooled", "accepted")}
    outcomes = [(planned("wb", 16), piece(1.0, 0.5)), (planned("pgd", 16), last), (planned("wb", 4), piece(1.0, 1.0))]
    outcomes.append((planned("pgd-l2", 16), piece(1.0, 1.0)))
    assert alarms.guessing_is_missing(outcomes, adaptive=True)
    alarm, ((_, found),) = alarms.run_guessing(campaign, outcomes, silent)
    left = [20, 22, 24, 26, 28]
    assert asked == [("square-guard", 30, 16 / 256, left)]
    assert alarm.passed is passed
    assert alarm.measured == f"all attacks 75.0%, Square {blind / 20:.1%} more"
    assert found["fooled"].nonzero().squeeze(1).tolist() == left[:blind]
    assert found["score"].isfinite().nonzero().squeeze(1).tolist() == left


def test_nothing_is_guessed_where_all_got_through():
    places = torch.arange(N)
    campaign = Few(places, lambda left: pytest.fail("asked"))
    alarm, more = alarms.run_guessing(campaign, [(planned("wb", 16), piece(1.0, 1.0))], silent)
    assert (alarm.passed, more) == (True, [])


@pytest.mark.parametrize(
    ("attacks", "guard", "classifier"),
    [
        (["wb"], True, True),
        (["pgd"], True, True),
        (["auto"], True, True),
        (["pgd+hfc"], True, True),
        (["wb", "square-guard"], False, True),
        (["pgd", "square"], True, False),  # it never asks the Shield
        (["pgd", "square-l2"], True, True),
        (["pgd", "one-pixel"], True, True),
        (["pgd", "uap-black-box"], True, True),  # it asks about other images
        (["pgd-l2"], False, False),
        (["square-guard"], False, False),
    ],
)
def test_guessing_is_missing_until_one_of_the_same_aim_guessed(attacks, guard, classifier):
    outcomes = [(planned(name, 16), piece(1.0)) for name in attacks]
    assert alarms.guessing_is_missing(outcomes, adaptive=True) is guard
    assert alarms.guessing_is_missing(outcomes, adaptive=False) is classifier
    transferred = [(planned("bim", 16, transferred=True), piece(1.0))]
    assert alarms.guessing_is_missing([*outcomes, *transferred], adaptive=True) is guard
    assert not alarms.guessing_is_missing(transferred, adaptive=True), "nobody followed its gradients"


# ---- from gradients


class Rounded(nn.Module):
    """A network whose pixels are quantised first: its gradient is zero everywhere."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        return self.network((x * 8).round() / 8)


class OneBit(Rounded):
    """Logits of one bit, with a straight-through gradient as quantisation-aware training has it."""

    def forward(self, x):
        logits = self.network(x)
        return logits + (100.0 * (logits == logits.amax(1, keepdim=True)) - logits).detach()


class Saturated(nn.Module):
    """A Shield that answers with the sigmoid of a logit far from zero: 1 for nearly every image, without slope."""

    def __init__(self, shield):
        super().__init__()
        self.shield, self.taps = shield, shield.taps

    def forward(self, features):
        return torch.sigmoid(self.shield(features) + 100)


@pytest.fixture
def slopes(tmp_path):
    """The alarms of slopes for a classifier and its Shields, on images in an order of one's own."""

    def found(classifier, bank, n=40, order=None, effort=ON_GUARD):
        images = toy_images(n, classifier)
        victim = Victim(classifier, shields=bank)
        campaign = toy_campaign(victim, images if order is None else images[order(victim, images)], tmp_path)
        campaign = dataclasses.replace(campaign, effort=effort)
        return alarms.gradient_alarms(campaign, [], CarliniWagner(), ShieldLogit()), campaign

    return found


def wrapped(wrapper):
    """The toy classifier with its network wrapped, and Shields on its pixels."""
    classifier = toy_classifier()
    odd = Classifier(
        wrapper(classifier.network),
        classes=classifier.classes,
        size=classifier.size,
        channels="gray",
        taps=("network.last",),
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        backbone="tests.models.tiny_networks:tiny",
    ).eval()
    return odd, toy_bank(odd, taps=("input",))


def test_a_sound_victim_sets_nothing_off(slopes):
    classifier = toy_classifier()
    found, _ = slopes(classifier, toy_bank(classifier))
    assert [alarm.passed for alarm in found] == [True, True]
    assert {alarm.kind for alarm in found} == {"alarm"}


def test_a_quantised_network_has_no_gradients(slopes):
    (none, uphill), _ = slopes(*wrapped(Rounded))
    assert none.measured == "100.0% for the margin, 0.0% for the Shield"
    assert (none.passed, uphill.passed) == (False, False)


def test_a_straight_through_gradient_that_leads_nowhere_is_noticed(slopes):
    (none, uphill), _ = slopes(*wrapped(OneBit))
    assert none.passed is True
    assert uphill.passed is False


def test_a_saturated_shield_has_no_gradients(slopes):
    classifier = toy_classifier()
    bank = toy_bank(classifier)
    bank.shields = nn.ModuleList(Saturated(shield) for shield in bank.shields)
    (none, uphill), _ = slopes(classifier, bank)
    assert none.passed is False
    assert none.measured.startswith("0.0% for the margin")
    assert uphill.passed is False


def test_a_random_point_that_gets_through_needs_no_gradient(tmp_path):
    """Of logits (0, s, 2 s - 0.01) a true class comes third once noise turns s, and their ratio is flat there."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(192, 3))
    network[1].bias.data = torch.tensor([0.0, 0.0, -0.01])
    network[1].weight.data = torch.tensor([0.0, 1.0, 2.0])[:, None] * torch.eye(192)[0]
    classifier = Classifier(
        network,
        classes=("a", "b", "c"),
        size=8,
        channels="gray",
        taps=("1",),
        mean=(0.5,) * 3,
        std=(0.25,) * 3,
        backbone="any",
    ).eval()
    images = torch.full((64, 1, 8, 8), 128 / 255)
    images[:, 0, 0, 0] += torch.tensor([-2.0, 2.0]).repeat(32) / 255
    victim = Victim(classifier)
    campaign = toy_campaign(victim, images, tmp_path, aim="any wrong class")
    noisy = Linf().random(images, torch.full((64, 1, 1, 1), alarms.PROBE_EPS), Draws(0, torch.arange(64), "any"))
    vanished, _ = alarms.probe(victim, noisy, campaign.goal, LogitRatio())
    assert 0.1 < vanished.float().mean() < 0.6
    assert [alarm.passed for alarm in alarms.gradient_alarms(campaign, [], LogitRatio())] == [True, True]


def test_a_probe_agrees_with_finite_differences():
    """Where the loss at a small step against the sign of the gradient is known, so is what the probe says."""
    classifier = toy_classifier()
    victim = Victim(classifier, shields=toy_bank(classifier), dtype=torch.float32, gradient="skip")
    images = toy_images(30, classifier)
    labels = victim.judge(images).predicted
    goal = Goal(labels, 1 - labels)
    for loss in (CarliniWagner(), ShieldLogit()):
        vanished, uphill = alarms.probe(victim, images, goal, loss)
        for i in range(len(images)):
            one, mine = images[i : i + 1], goal[slice(i, i + 1)]
            z = one.clone().requires_grad_()
            value = loss(victim.look(z, mine, loss))
            (grad,) = torch.autograd.grad(value.sum(), z)
            with torch.no_grad():
                after = loss(victim.look(one - grad.sign() / 255, mine, loss))
            assert bool(vanished[i]) == (grad.abs().max().item() == 0)
            assert bool(uphill[i]) == (after.item() >= value.item()) or abs(after.item() - value.item()) < 1e-4


@pytest.mark.parametrize("masked", [0, 1])
def test_one_shield_without_gradients_is_noticed_though_images_come_sorted_by_class(masked, slopes):
    classifier = toy_classifier()
    bank = toy_bank(classifier)
    bank.shields[masked] = Saturated(bank.shields[masked])

    def by_class(victim, images):
        return victim.verdicts(images).predicted.argsort(stable=True)

    (none, _), campaign = slopes(classifier, bank, 80, by_class, effort=Effort(probed=12))
    assert len(set(campaign.sample.labels[:12].tolist())) == 1
    assert none.passed is False
    share = float((campaign.sample.targets[campaign.few(12)] == masked).float().mean())
    assert none.measured == f"0.0% for the margin, {share:.1%} for the Shield"


def test_alarms_that_apply_are_run(monkeypatch):
    monkeypatch.setattr(alarms, "gradient_alarms", lambda *_: [])
    few = [(planned("pgd", 8), piece(1.0))]
    assert alarms.run_alarms(None, few) == []
    assert len(alarms.run_alarms(None, [*few, (planned("fgsm", 8), piece(0.5))])) == 1
