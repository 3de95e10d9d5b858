"""DDN, FMN and FAB against closed forms on planes, SciPy's programs within [0, 1], and adv-lib on curved networks."""

import doctest

import numpy as np
import pytest
import torch
from scipy.optimize import brentq, linprog
from tests.attacks.adversarial_library import peer
from tests.attacks.test_minimal import Plane, lengths, rounded, victim_lengths
from tests.attacks.test_peers import Rounding
from tests.attacks.toys import SIZE, toy_classifier, toy_images, toy_labels, toy_victim
from torch import nn

from medaegis.attacks import distance
from medaegis.attacks.balls import L2, Linf
from medaegis.attacks.catalogue import find_attack
from medaegis.attacks.distance import Decoupled, FastBoundary, FastMinimum, annealed, filled
from medaegis.attacks.losses.answer import CrossEntropy, Odds
from medaegis.attacks.losses.shield import GettingThrough
from medaegis.attacks.objective import Goal, View, margin
from medaegis.attacks.victim import Victim
from medaegis.cushions.filters import Unrounded
from medaegis.errors import ConfigError
from medaegis.models.classifier import Classifier

NAMES = ("ddn", "fmn", "fmn-l2", "fab", "fab-l2")
ORDER = {"ddn": 2, "fmn": torch.inf, "fmn-l2": 2, "fab": torch.inf, "fab-l2": 2}


def float_plane(classes):
    """A linear classifier of pixels that nothing rounds, and images with a third of their pixels black or white."""
    generator = torch.Generator().manual_seed(3)
    network = Plane(classes)
    network.fc.weight.data = torch.randn(classes, SIZE * SIZE, generator=generator)
    network.fc.bias.data = -network.fc.weight.data.sum(1) / 2
    names = [f"class {k}" for k in range(classes)]
    classifier = Classifier(
        network, classes=names, size=SIZE, channels="gray", backbone="x:y", mean=(0,) * 3, std=(1,) * 3
    )
    victim = Victim(classifier.eval(), cushion=Unrounded(), dtype=torch.float32)
    towards = network.fc.weight.data[torch.arange(8) % classes].view(8, 1, SIZE, SIZE)
    images = 0.5 + 0.05 * towards + 0.04 * torch.randn(towards.shape, generator=generator)
    bounds = torch.rand(images.shape, generator=generator)
    return victim, torch.where(bounds < 1 / 6, 0.0, torch.where(bounds > 5 / 6, 1.0, images)).clamp(0, 1)


def least(point, slope, value, order):
    """Least change of `point`, in [0, 1], that brings value + slope * change to 0: by SciPy."""
    x, w, c = point.double().numpy(), slope.double().numpy(), float(value)
    if order == 2:  # the optimal change is along the slope wherever there is room

        def moved(t):
            return np.clip(x - t * w, 0, 1) - x

        t = brentq(lambda t: c + w @ moved(t), 0, 1e3)
        return float(np.linalg.norm(moved(t)))
    n = len(x)
    each, last = np.eye(n), -np.ones((n, 1))
    found = linprog(
        np.append(np.zeros(n), 1.0),
        A_ub=np.block([[each, last], [-each, last]]),
        b_ub=np.zeros(2 * n),
        A_eq=np.append(w, 0.0)[None],
        b_eq=[-c],
        bounds=[*zip(-x, 1 - x, strict=True), (0, None)],
    )
    assert found.success
    return float(found.fun)


def closed_form(victim, images, labels, order, targets=None):
    """The same to the nearest other class, or to the target of two."""
    weight, logits = victim.exact.network.fc.weight.detach(), victim.exact(images).detach()
    far = []
    for i, label in enumerate(labels.tolist()):
        others = [k for k in range(len(weight)) if k != label] if targets is None else [int(targets[i])]
        far.append(
            min(
                least(images[i].flatten(), weight[label] - weight[k], logits[i, label] - logits[i, k], order)
                for k in others
            )
        )
    return torch.tensor(far)


@pytest.mark.parametrize(("classes", "targeted"), [(2, False), (2, True), (4, False)])
@pytest.mark.parametrize("name", NAMES)
def test_on_a_plane_they_come_to_the_closed_form(name, classes, targeted):
    """Never nearer than the boundary within [0, 1], and hardly farther."""
    victim, images = float_plane(classes)
    labels = victim.exact(images).argmax(1)
    targets = 1 - labels if targeted else None
    true = closed_form(victim, images, labels, ORDER[name], targets)
    found = find_attack(name).attack.run(victim, images, labels, eps=1.0, targets=targets)
    assert found.fooled.all()
    ratio = lengths(found.images - images, ORDER[name]) / true
    assert (ratio > 0.9999).all(), ratio
    assert ratio.median() < 1.01, ratio
    if name != "ddn" or classes == 2:  # cross-entropy looks at all classes, and may lead to one that is not the nearest
        assert (ratio < 1.03).all(), ratio


@pytest.mark.parametrize(("ball", "order"), [(Linf(), torch.inf), (L2(), 2), (L2(rms=False), 2)])
def test_the_first_step_of_fab_is_the_projection(ball, order):
    """Of the clean image onto the plane within [0, 1], and a twentieth beyond; no nearer point lies on the plane."""
    victim, images = float_plane(2)
    labels = victim.exact(images).argmax(1)
    true = closed_form(victim, images, labels, order)
    attack = find_attack("fab").attack
    attack = type(attack)(objective=attack.objective, ball=ball, rule=FastBoundary(overshoot=1.0), steps=1)
    walked = []

    class Watched(FastBoundary):
        def begin(self, problem):
            walker = super().begin(problem)
            step = walker.step
            walker.step = lambda *given: walked.append(step(*given)) or walked[-1]
            return walker

    attack.with_options(rule=Watched(overshoot=1.0)).run(victim, images, labels, eps=1.0)
    change = walked[0] - images
    torch.testing.assert_close(lengths(change, order).double(), true.double(), rtol=1e-4, atol=1e-6)
    assert margin(victim.exact(walked[0]), Goal(labels)).abs().max() < 1e-3


def test_when_the_last_value_meets_its_bound_the_time_is_over():
    rate, lasting = (
        torch.tensor([[1.0, 3.0], [1.0, 3.0], [0.0, 0.0]]),
        torch.tensor([[2.0, 1.0], [2.0, 1.0], [0.0, 0.0]]),
    )
    assert filled(rate, lasting, torch.tensor([4.5, 9.0, 1.0])).tolist() == [1.5, 2.0, 0.0]
    assert filled(rate[:1], lasting[:1], torch.tensor([0.0])).tolist() == [0.0]


def test_its_example():
    found = doctest.testmod(distance)
    assert (found.attempted, found.failed) == (1, 0)


def expected_of(name, network, images, labels, targets=None):
    """adv-lib's images at as many passes."""
    aims = {"labels": labels if targets is None else targets}
    if name == "ddn":
        return peer("ddn")(network, images, **aims, targeted=targets is not None, steps=100, levels=None).detach()
    if name.startswith("fmn"):
        aims |= {"norm": ORDER[name], "targeted": targets is not None}
        return peer("fmn")(network, images, **aims, steps=100).detach()
    return peer("fab")(network, images, labels, norm=ORDER[name], n_iter=50).detach()


@pytest.mark.parametrize("rounds", [False, True], ids=["floats", "8 bits"])
@pytest.mark.parametrize(("classes", "targeted"), [(2, False), (4, False), (4, True)])
@pytest.mark.parametrize("name", NAMES)
def test_they_are_no_farther_than_adv_lib(name, classes, targeted, rounds):
    """On a curved network, black and white pixels. On 8 bits it rounds what it is shown, and results are rounded."""
    if name.startswith("fab") and targeted:
        pytest.skip("adv-lib's takes no targets")
    classifier = toy_classifier(classes).frozen(fold=False)
    images = toy_images(12, classifier, seed=5)
    labels = classifier(images).argmax(1)
    targets = (labels + 1) % classes if targeted else None
    network = Rounding(classifier).eval() if rounds else classifier
    expected = expected_of(name, network, images, labels, targets)
    options = {} if rounds else {"cushion": Unrounded()}
    victim = Victim(classifier, dtype=torch.float32, fold=False, **options)
    found = find_attack(name).attack.run(victim, images, labels, eps=1.0, targets=targets)
    assert found.fooled.all()
    if rounds:
        expected = rounded(expected)
    theirs = Goal(labels, targets).reached(classifier(expected).argmax(1))
    assert theirs.float().mean() > 0.5, "nothing to compare with"
    ratio = (lengths(found.images - images, ORDER[name]) / lengths(expected - images, ORDER[name]))[theirs]
    assert ratio.median() < 1.005, ratio
    assert ratio.mean() < 1.02, ratio


@pytest.mark.parametrize("name", NAMES)
def test_eps_has_the_last_word(name):
    """Where the smallest change is longer than eps nothing fools; where it is shorter all do, by a smaller change."""
    victim = toy_victim(2)
    images = toy_images(12, victim.exact)
    labels = toy_labels(victim, images)
    attack = find_attack(name).attack
    free = attack.run(victim, images, labels, eps=1.0)
    assert free.fooled.all()
    radius = victim_lengths(attack, free.images - images)
    again = attack.run(victim, images, labels, eps=radius * 1.001 + 1e-4)
    assert again.fooled.all()
    assert torch.equal(again.images, free.images)
    tight = attack.run(victim, images, labels, eps=radius / 2)
    assert (victim_lengths(attack, tight.images - images) <= radius / 2 + 0.51 / 255).all()
    assert not tight.fooled.all()


class Lost(nn.Module):
    """A network that gives no number for images with a bright corner."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        return self.network(x) + torch.where(x[:, 0, -1, -1] > 2, torch.nan, 0.0).view(-1, 1)


@pytest.mark.parametrize("name", NAMES)
def test_an_image_without_a_number_stops_no_other(name):
    victim = toy_victim(3)
    images = toy_images(6, victim.exact)
    images[1:, :, -1, -1] = 0.5
    images = rounded(images)
    labels = toy_labels(victim, images)
    attack = find_attack(name).attack.with_options(steps=30)
    alone = attack.run(victim, images[1:], labels[1:], eps=1.0, ids=torch.arange(1, 6))
    victim.exact.network.forward = Lost(type(victim.exact.network).forward.__get__(victim.exact.network)).forward
    assert not victim.judge(images[:1]).logits.isfinite().any()
    found = attack.run(victim, images, labels, eps=1.0)
    assert not found.fooled[0]
    assert found.images.isfinite().all()
    assert torch.equal(found.images[1:], alone.images)


@pytest.mark.parametrize("targeted", [False, True])
def test_the_odds_have_the_direction_of_cross_entropy(targeted):
    """In float64, where its slope is not lost; the loss is the margin."""
    logits = torch.randn(20, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    labels = logits.detach().argmax(1)
    goal = Goal(labels, (labels + 1) % 5 if targeted else None)
    view = View(goal, logits, {})
    losses, found = Odds().pull(view, logits)
    assert torch.equal(losses, margin(logits.detach(), goal))
    assert torch.equal(Odds()(view).detach(), losses)
    (true,) = torch.autograd.grad(CrossEntropy()(view).sum(), logits)
    torch.testing.assert_close(nn.functional.normalize(found), nn.functional.normalize(true))


# ---- past classifier and Shield


def test_getting_through_is_below_0_just_where_the_verdict_is():
    victim = toy_victim(3, shields=True)
    images = toy_images(60, victim.exact)
    labels = toy_labels(victim, images).roll(1)  # some of these are what the classifier says, some not
    verdict = victim.judge(images)
    with torch.no_grad():
        losses = GettingThrough()(victim.look(images, Goal(labels), GettingThrough()))
    broken = (verdict.predicted != labels) & verdict.accepted
    assert torch.equal(losses < 0, broken)
    assert 0 < broken.sum() < 60


@pytest.mark.parametrize(("name", "alone"), [("ddn-guard", "ddn"), ("fmn-guard", "fmn")])
def test_past_a_shield_they_break_all_by_a_change_hardly_larger(name, alone):
    victim = toy_victim(3, shields=True)
    images = toy_images(24, victim.exact, seed=7)
    labels = toy_labels(victim, images)
    found, bare = (find_attack(one).attack.run(victim, images, labels, eps=1.0) for one in (name, alone))
    assert bare.fooled.all()
    assert not bare.broken.all(), "nothing to do for the Shield"
    assert found.broken.all()
    far, near = (lengths(one.images - images, ORDER[alone]) for one in (found, bare))
    assert (far[bare.broken] < 1.2 * near[bare.broken]).all()
    other = find_attack("hopskipjump-guard").attack.with_options(steps=400)
    by_answers = other.run(victim, images[:8], labels[:8], eps=1.0, guides=images[:8].flip(0))
    both = by_answers.broken
    assert both.sum() > 4
    theirs = lengths(by_answers.images - images[:8], ORDER[alone])
    assert (far[:8][both] / theirs[both]).median() < 1, "by its gradients nearer than by answers alone"


@pytest.mark.parametrize("name", ["ddn-guard", "fmn-guard"])
def test_past_a_shield_needs_one(name):
    victim = toy_victim(2)
    images = toy_images(2, victim.exact)
    with pytest.raises(ConfigError, match="needs a Shield"):
        find_attack(name).attack.run(victim, images, toy_labels(victim, images), eps=0.1)


# ---- settings


def test_a_cosine_leads_from_the_first_value_to_the_last():
    assert annealed(3.0, 1.0, 0.0) == 3.0
    assert annealed(3.0, 1.0, 0.5) == pytest.approx(2.0)
    assert annealed(3.0, 1.0, 1.0) == pytest.approx(1.0)


@pytest.mark.parametrize("options", [{"gamma": 0.0}, {"gamma": 1.0}, {"first": 0.0}, {"last": 0.0}, {"last": 2.0}])
def test_ddn_refuses_settings_that_make_no_sense(options):
    with pytest.raises(ConfigError, match="DDN"):
        Decoupled(**options)


@pytest.mark.parametrize("options", [{"rate": 0.001}, {"last_rate": 0.0}, {"gamma": 1.0}, {"last_gamma": 0.1}])
def test_fmn_refuses_settings_that_make_no_sense(options):
    with pytest.raises(ConfigError, match="FMN"):
        FastMinimum(**options)


@pytest.mark.parametrize("options", [{"bias": -0.1}, {"bias": 1.1}, {"overshoot": 0.9}, {"back": 0.0}, {"back": 1.0}])
def test_fab_refuses_settings_that_make_no_sense(options):
    with pytest.raises(ConfigError, match="FAB"):
        FastBoundary(**options)
