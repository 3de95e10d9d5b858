"""The checks of an assessment must go off for attacks and classifiers that deserve it, and stay quiet otherwise."""

import dataclasses
from types import SimpleNamespace

import pytest
import torch
from tests.attacks.toys import toy_classifier, toy_images
from tests.bench.campaigns import toy_campaign
from tests.bench.test_alarms import Rounded, wrapped
from tests.bench.test_controls import N, piece, planned
from torch import nn

from medaegis.attacks.losses import answer
from medaegis.attacks.losses.answer import CarliniWagner
from medaegis.attacks.victim import Victim
from medaegis.bench.campaign import ON_CLASSIFIER
from medaegis.bench.checks import alarms
from medaegis.bench.checks import classifier as checks
from medaegis.bench.checks.alarms import followed
from medaegis.bench.plan import Planned
from medaegis.bench.sample import draw
from medaegis.progress import silent
from medaegis.task import SINGLE


class Told:
    """A campaign of N images that answers with shares given beforehand, and remembers what it was asked."""

    effort = ON_CLASSIFIER
    victim = SimpleNamespace(exact=SimpleNamespace(task=SINGLE))

    def __init__(self, answer, places=None):
        self.answer, self.asked = answer, []
        self.places = torch.arange(N) if places is None else places

    def __len__(self):
        return N

    def few(self, n):
        return draw(self.places % 2, n, 0)

    def only(self, places):
        part = Told(self.answer, self.places[places])
        part.asked = self.asked
        return part

    def attack(self, planned, progress):
        self.asked.append((planned.value.steps, self.places.tolist(), planned.eps))
        return self.answer(planned)


@pytest.mark.parametrize(
    ("curve", "passed"),
    [((0.1, 0.5, 1.0), True), ((0.1, 0.5, 0.475), True), ((0.5, 0.4, 1), True), ((0.5, 0.25, 1), False)],
)
def test_success_must_rise_with_eps(curve, passed):
    outcomes = [(planned("pgd", levels), piece(share)) for levels, share in zip((2, 8, 16), curve, strict=True)]
    outcomes += [(planned("fgsm", levels), piece(share)) for levels, share in ((2, 0.9), (16, 0.1))]  # may overshoot
    outcomes += [(planned("stress-up", levels), piece(share)) for levels, share in ((2, 0.9), (16, 0.1))]
    (control,) = checks._more_change(outcomes[::-1])
    assert control.passed is passed
    assert control.measured == f"pgd {curve[0]:.1%} / {curve[1]:.1%} / {curve[2]:.1%}"
    assert checks._more_change(outcomes[:1]) == []


@pytest.mark.parametrize(("worst", "passed"), [(1.0, True), (0.975, True), (0.9, False)])
def test_attacks_must_win_where_nothing_can_stand(worst, passed):
    campaign = Told(lambda planned: piece(worst if planned.value.random_start else 1.0))
    outcomes = [(planned(name, levels), piece(0.1)) for name in ("bim", "pgd") for levels in (2, 8)]
    control = checks._full_success(campaign, outcomes, silent)
    assert control.passed is passed
    assert campaign.asked == [(10, list(range(N)), 64 / 256)] * 2, "each attack once, far out"


def test_what_is_judged_far_out():
    names = ("fgsm", "pgd", "cw-linf", "hfc", "lid-evasion", "feature-match", "pgd-l2", "square", "auto", "bias-field")
    judged = [name for name in names if checks._plain(planned(name, 8))]
    assert judged == ["pgd", "cw-linf"]


@pytest.mark.parametrize(
    ("longer", "elsewhere", "passed"),
    [(0.5, 0.0, True), (0.575, 0.0, True), (0.6, 0.0, False), (0.6, 0.55, True), (1.0, 0.55, False), (0.3, 0.0, False)],
    ids=["the same", "little more", "noticeably more", "what another attack had turned", "and more", "worse"],
)
def test_more_steps_must_change_little(longer, elsewhere, passed):
    campaign = Told(lambda planned: piece(longer))
    outcomes = [(planned("auto", 8), piece(elsewhere)), (planned("pgd-l2", 8), piece(1.0))]
    outcomes += [(planned("pgd", levels), piece(share)) for levels, share in ((16, 1.0), (8, 0.5), (2, 0.1))]
    alarm, ((cell, found),) = checks._more_steps(campaign, outcomes, silent)
    assert alarm.passed is passed
    assert campaign.asked == [(100, list(range(N)), 8 / 256)], "where PGD did not turn all, at the largest such eps"
    added = max(0.0, longer - max(0.5, elsewhere))
    assert alarm.measured == f"10 steps: 50.0%, 100 steps: {longer:.1%}; {added:.1%} added"
    assert (cell.check, cell.steps, cell.eps) == (alarm.name, 100, 8 / 256)
    assert torch.equal(found["fooled"], piece(longer)["fooled"])


@pytest.mark.parametrize(("blind", "passed"), [(0, True), (2, True), (3, False)])
def test_guessing_is_tried_where_gradients_fail_and_must_add_little(blind, passed):
    """Of 32 images Square gets those that neither of two attacks by gradients turns, in their order."""

    def answer(planned):
        return {"fooled": torch.arange(len(campaign.asked[-1][1])) < blind}

    campaign = Told(answer)
    chosen = campaign.few(campaign.effort.guessed).tolist()
    even = {"fooled": torch.arange(N) % 2 == 0}
    outcomes = [(planned("pgd", 8), piece(12 / N)), (planned("bim", 8), even), (planned("pgd", 2), piece(1.0))]
    outcomes.append((planned("pgd-l2", 8), piece(1.0)))
    alarm, more = checks._guessing(campaign, outcomes, silent)
    ((cell, found),) = more
    left = [i for i in chosen if i >= 12 and i % 2]
    turned = 1 - len(left) / len(chosen)
    assert 0.5 < turned < 0.8
    assert campaign.asked == [(campaign.effort.queries, left, 8 / 256)]
    assert alarm.passed is passed
    assert alarm.measured == f"all attacks {turned:.1%}, Square {blind / len(chosen):.1%} more"
    assert (cell.check, cell.attack) == (alarm.name, "square")
    assert found["fooled"].nonzero().squeeze(1).tolist() == left[:blind]
    assert found["tried"].nonzero().squeeze(1).tolist() == left


def test_nothing_is_guessed_where_gradients_turn_all():
    outcomes = [(planned("pgd", 8), piece(1.0))]
    alarm, more = checks._guessing(Told(lambda _: pytest.fail("asked")), outcomes, silent)
    assert (alarm.passed, more) == (True, [])


@pytest.mark.parametrize(("attacks", "asked"), [(["auto"], True), (["hfc"], True), (["pgd", "square"], False)])
def test_guessing_is_tried_whatever_followed_gradients(attacks, asked, monkeypatch):
    """An ensemble, or an attack on features, must not switch it off; Square run on all is judged."""
    monkeypatch.setattr(alarms, "gradient_alarms", lambda *_: [])
    monkeypatch.setattr(checks, "_full_success", lambda *_: None)
    monkeypatch.setattr(checks, "_more_steps", lambda *_: (None, []))
    monkeypatch.setattr(alarms, "elsewhere_nothing", lambda *_: {})
    campaign = Told(lambda _: {"fooled": torch.arange(len(campaign.asked[-1][1])) % 2 == 0})
    outcomes = [(planned(name, 8), piece(0.7 + 0.3 * (name == "square"), 1.0)) for name in attacks]
    controls, _ = checks.run_checks(campaign, outcomes, silent)
    found = {alarm.name: alarm.passed for alarm in controls if alarm}
    assert found == ({"Gradients beat Square, 8/256": False} if asked else {"Gradients beat guessing, 8/256": False})


def run(classifier, folder, *, queries=50):
    campaign = toy_campaign(Victim(classifier), toy_images(40, classifier), folder, aim="any wrong class")
    campaign = dataclasses.replace(campaign, effort=dataclasses.replace(ON_CLASSIFIER, queries=queries))
    cells = [Planned(name, 16 / 256, "16/256") for name in ("fgsm", "pgd")]
    found, _ = checks.run_checks(campaign, campaign.run(cells, silent), silent)
    return {control.name.split(",")[0]: control.passed for control in found}


def test_a_sound_classifier_sets_nothing_off(tmp_path):
    found = run(toy_classifier(), tmp_path)
    assert set(found) == {
        *("Many steps beat one", "Full success far out", "More steps change little", "Gradients beat Square"),
        *("There are gradients", "Losses fall along their gradients"),
    }
    assert set(found.values()) == {True}


def test_masked_gradients_are_noticed(tmp_path):
    classifier, _ = wrapped(Rounded)
    found = run(classifier, tmp_path, queries=300)
    assert found["There are gradients"] is False
    assert found["Full success far out"] is False
    assert found["Gradients beat Square"] is False


class Scaled(nn.Module):
    """The same decisions, with logits so far apart that probabilities are 0 and 1 in float32."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        return 1e6 * self.network(x)


def test_the_losses_that_attacks_follow_are_looked_at(tmp_path, monkeypatch):
    """The margin has its slope on saturated logits; cross-entropy has one as its objective takes it, else none."""
    classifier, _ = wrapped(Scaled)
    found = run(classifier, tmp_path / "sound")
    assert found["There are gradients"] is found["Full success far out"] is found["Many steps beat one"] is True
    monkeypatch.setattr(answer, "FAINT", 0.0)
    found = run(classifier, tmp_path / "still")
    assert found["There are gradients"] is False
    assert found["Full success far out"] is False


def test_which_losses_those_are():
    """Each once, of what it is made of; an ensemble's only where its member runs; none of an attack on features."""
    names = ("pgd", "cw-linf", "hfc", "selective", "sma", "deepfool", "stress-up", "feature-match", "hopskipjump")
    found = followed([(planned(name, 8), None) for name in names], 2)
    assert set(found) == {"cross-entropy", "margin", "Shield"}
    assert set(followed([(planned("auto", 8), None)], 3)) == {"cross-entropy", "margin"}
    assert set(followed([(planned("auto", 8), None)], 4)) == {"cross-entropy", "margin", "ratio of logits"}
    assert set(followed([], 2, CarliniWagner())) == {"margin"}


def test_a_few_images_are_of_every_class():
    """Test images come sorted by class: the first ones would all be of one."""
    rows = torch.arange(60)
    labels = (rows >= 40).long()
    few = draw(labels, 12, 3)
    assert few.tolist() == sorted(set(few.tolist()))
    assert labels[few].tolist() == [0] * 8 + [1] * 4
    assert not torch.equal(few, draw(labels, 12, 4))
    assert draw(labels, 100, 0).tolist() == rows.tolist()
