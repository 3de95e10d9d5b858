"""The checks of an assessment must go off for attacks and classifiers that deserve it, and stay quiet otherwise."""

from types import SimpleNamespace

import pytest
import torch
from tests.attacks.toys import toy_classifier, toy_images
from tests.bench.test_alarms import Rounded, wrapped
from tests.bench.test_controls import N, piece, planned

from medaegis.attacks.engine import pick_targets
from medaegis.attacks.known import Known
from medaegis.attacks.victim import Victim
from medaegis.bench import assessment_checks as checks
from medaegis.bench.bare import Bare, Pictures
from medaegis.bench.planned import Planned
from medaegis.bench.store import Store
from medaegis.cushions import parse_cushion
from medaegis.progress import silent


def pictures(n=N):
    rows = torch.arange(n)
    return Pictures(torch.zeros(n, 1, 4, 4), rows % 2, 1 - rows % 2, rows, tuple(map(str, range(n))))


class Told:
    """Answers with shares that are given beforehand, and remembers what it was asked."""

    def __init__(self, answer):
        self.answer, self.asked = answer, []

    def attack(self, attack, few, eps, *, targeted, gradient, progress):
        self.asked.append((attack.steps, len(few), eps))
        return piece(self.answer(attack, eps))


@pytest.mark.parametrize(
    ("curve", "passed"), [((0.1, 0.5, 1.0), True), ((0.1, 0.5, 0.475), True), ((0.5, 0.4, 1), False)]
)
def test_success_must_rise_with_eps(curve, passed):
    outcomes = [(planned("pgd", levels), piece(share)) for levels, share in zip((2, 8, 16), curve, strict=True)]
    outcomes += [(planned("fgsm", levels), piece(share)) for levels, share in ((2, 0.9), (16, 0.1))]  # may overshoot
    outcomes += [(planned("stress-up", levels), piece(share)) for levels, share in ((2, 0.9), (16, 0.1))]
    (control,) = checks._more_change(outcomes[::-1])
    assert control.passed is passed
    assert control.measured == f"pgd {curve[0]:.1%} / {curve[1]:.1%} / {curve[2]:.1%}"
    assert checks._more_change(outcomes[:1]) == []


@pytest.mark.parametrize(("worst", "passed"), [(1.0, True), (0.975, False)])
def test_attacks_must_win_where_nothing_can_stand(worst, passed):
    bare = Told(lambda attack, eps: worst if attack.random_start else 1.0)
    outcomes = [(planned(name, levels), piece(0.1)) for name in ("bim", "pgd") for levels in (2, 8)]
    control = checks._full_success(bare, pictures(), outcomes, silent)
    assert control.passed is passed
    assert bare.asked == [(10, N, 64 / 256)] * 2, "each attack once, far out"


def test_what_is_judged_far_out():
    judged = [
        name
        for name in ("fgsm", "pgd", "cw-linf", "hfc", "lid-evasion", "feature-match", "pgd-l2", "square", "auto")
        if checks._plain(planned(name, 8))
    ]
    assert judged == ["pgd", "cw-linf"]


@pytest.mark.parametrize(("longer", "passed"), [(1.0, True), (0.5, True), (0.3, False)])
def test_more_steps_must_not_do_worse(longer, passed):
    bare = Told(lambda attack, eps: longer)
    outcomes = [(planned("bim", 8), piece(0.0))]
    outcomes += [(planned("pgd", levels), piece(share)) for levels, share in ((16, 1.0), (8, 0.5), (2, 0.1))]
    alarm = checks._more_steps(bare, pictures(), outcomes, silent)
    assert alarm.passed is passed
    assert bare.asked == [(100, N, 8 / 256)], "where PGD did not turn all, at the largest such eps"
    assert alarm.measured == f"10 steps: 50.0%, 100 steps: {longer:.1%}"


@pytest.mark.parametrize(("blind", "passed"), [(0, True), (1, True), (2, False)])
def test_guessing_is_tried_where_gradients_fail_and_must_add_little(blind, passed):
    """Of 32 images two attacks by gradients turn 22 together; Square gets the other 10, in their order."""
    few, asked = checks.BLIND_IMAGES, []

    def attack(attack, left, eps, **_):
        asked.append((attack.steps, left.ids.tolist(), left.patients, eps))
        return {"fooled": torch.arange(len(left)) < blind}

    even = {"fooled": torch.arange(N) % 2 == 0}  # 16 of the first 32
    outcomes = [(planned("pgd", 8), piece(12 / N)), (planned("bim", 8), even), (planned("pgd", 2), piece(1.0))]
    outcomes.append((planned("pgd-l2", 8), piece(1.0)))
    (alarm,) = checks._knowledge(SimpleNamespace(attack=attack), pictures(), outcomes, silent)
    left = [i for i in range(12, few) if i % 2]
    assert asked == [(checks.BLIND_STEPS, left, tuple(map(str, left)), 8 / 256)]
    assert alarm.passed is passed
    assert alarm.measured == f"gradients 68.8%, Square {blind / few:.1%} more"


def test_nothing_is_guessed_where_gradients_turn_all_or_guesses_were_asked_for():
    (alarm,) = checks._knowledge(None, pictures(), [(planned("pgd", 8), piece(1.0))], silent)
    assert alarm.passed is True
    for blind, passed in ((0.7, True), (0.8, False)):
        outcomes = [(planned("pgd", 8), piece(0.7, 1.0)), (planned("square", 8), piece(blind, 1.0))]
        (alarm,) = checks._knowledge(None, pictures(), outcomes, silent)
        assert alarm.passed is passed


def run(classifier, folder):
    images = toy_images(16, classifier)
    labels = Victim(classifier, dtype=torch.float32).judge(images).predicted
    ids = torch.arange(len(images))
    mine = Pictures(images, labels, pick_targets(labels, 2), ids, tuple(map(str, ids.tolist())))
    known = Known(SimpleNamespace(fingerprint="none"))
    bare = Bare(classifier, parse_cushion("none"), known, 0, Store(folder))
    cells = [Planned(name, 16 / 256, "16/256") for name in ("fgsm", "pgd")]
    outcomes = [(p, bare.attack(p.value, mine, p.eps, targeted=False, progress=silent)) for p in cells]
    return {control.name.split(",")[0]: control.passed for control in checks.run_checks(bare, mine, outcomes, silent)}


def test_a_sound_classifier_sets_nothing_off(tmp_path, monkeypatch):
    monkeypatch.setattr(checks, "BLIND_STEPS", 50)
    found = run(toy_classifier(), tmp_path)
    assert set(found) == {
        *("Many steps beat one", "Full success far out", "More steps do no worse", "Gradients beat guessing"),
        *("There are gradients", "Losses fall along their gradients"),
    }
    assert set(found.values()) == {True}


def test_masked_gradients_are_noticed(tmp_path, monkeypatch):
    monkeypatch.setattr(checks, "BLIND_STEPS", 300)
    classifier, _ = wrapped(Rounded)
    found = run(classifier, tmp_path)
    assert found["There are gradients"] is False
    assert found["Full success far out"] is False
    assert found["Gradients beat guessing"] is False
