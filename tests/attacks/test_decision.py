"""HopSkipJump against the distance to a plane in closed form, foolbox at equal queries, and what it may know."""

import math
import warnings

import pytest
import torch
from tests.attacks.toys import Rounding, drive, seeded, toy_classifier, toy_images, toy_labels, toy_victim

from medaegis.attacks.balls import L2, Linf, to_grid
from medaegis.attacks.catalogue import find_attack
from medaegis.attacks.engine import Attack
from medaegis.attacks.losses.matching import LogitMatch
from medaegis.attacks.objective import Goal, View
from medaegis.attacks.search.decision import Decision, GuardDecision, HopSkipJump
from medaegis.attacks.victim import Victim
from medaegis.errors import ConfigError

BALLS = {"linf": Linf(), "l2": L2(rms=False)}


def length(change, norm):
    change = change.flatten(1)
    return change.norm(dim=1) if norm == "l2" else change.abs().amax(1)


def plane(n=6):
    """Clean images on one side of a plane, guides on the other, the answers, and the distance in either norm."""
    source = torch.Generator().manual_seed(1)
    w = torch.randn((1, 1, 8, 8), generator=source)
    x = to_grid(0.4 + 0.2 * torch.rand((n, 1, 8, 8), generator=source))
    b = (w * x).sum((1, 2, 3)) + 0.7
    guides = to_grid(x + 0.4 * w.sign() * torch.rand(x.shape, generator=source))
    assert ((w * guides).sum((1, 2, 3)) > b).all()
    distance = {"l2": 0.7 / w.norm(), "linf": 0.7 / w.abs().sum()}
    return x, guides, lambda z: torch.where((w * z).sum((1, 2, 3)) > b, -1.0, 1.0), distance


# One level of 255 is a quarter of the distance in the cube, so a search on 8-bit pixels cannot come closer than that.
@pytest.mark.parametrize(("norm", "slack"), [("l2", 1.10), ("linf", 1.75)])
def test_it_comes_close_to_a_plane(norm, slack):
    x, guides, answer, distance = plane()
    rule = HopSkipJump()
    points, losses, found = drive(rule, answer, x, eps=1.0, steps=3000, ball=BALLS[norm], guides=guides)
    assert torch.equal(to_grid(points), points), "every query is an image that a file can hold"
    assert (answer(found) == -1).all()
    closest = torch.where(losses == -1, length((points - x).flatten(0, 1), norm).view(losses.shape), torch.inf)
    assert torch.equal(length(found - x, norm), closest.amin(0))
    assert (length(found - x, norm) >= distance[norm] * (1 - 1e-5)).all()
    assert (length(found - x, norm) <= slack * distance[norm]).all(), length(found - x, norm) / distance[norm]


@pytest.mark.parametrize("norm", BALLS)
def test_the_normal_of_a_plane_is_found(norm):
    """From answers alone; with n probes in d dimensions the cosine is about sqrt(n / (n + d pi / 2)), here 0.7.

    In the cube the jump is along its signs, whose cosine with it is sqrt(2 / pi) in many dimensions.
    """
    x, guides, answer, _ = plane(60)
    w = answer.__closure__[-1].cell_contents
    points, _, _ = drive(HopSkipJump(), answer, x, eps=1.0, steps=138, ball=BALLS[norm], guides=guides)
    # A guide, 25 images of noise and 10 bisections come first, after the clean image; then 100 probes and the jumps.
    jump = points[1 + 26 + 10 + 100]
    probes = points[1 + 26 + 10 : 1 + 26 + 10 + 100]
    near = probes.mean(0)
    cosine = torch.nn.functional.cosine_similarity((jump - near).flatten(1), w.flatten(1).expand(len(x), -1))
    expected = math.sqrt(100 / (100 + 64 * math.pi / 2)) * (1 if norm == "l2" else math.sqrt(2 / math.pi))
    assert float(cosine.mean()) == pytest.approx(expected, rel=0.1)
    assert (cosine > 0.25).all(), cosine


def test_it_starts_from_noise_where_there_is_no_guide_or_a_useless_one():
    x, _, _, _ = plane()

    def answer(z):
        return torch.where((z - x).abs().mean((1, 2, 3)) > 0.1, -1.0, 1.0)

    for guides in (None, x):
        _, _, found = drive(HopSkipJump(), answer, x, eps=1.0, steps=400, ball=L2(), guides=guides)
        assert (answer(found) == -1).all()


def test_where_no_start_is_found_and_where_none_is_needed_the_image_stays():
    x, guides, answer, _ = plane()

    def split(z):
        told = answer(z)
        told[0], told[1], told[2] = 1.0, -1.0, torch.nan
        return told

    _, _, found = drive(HopSkipJump(), split, x, eps=1.0, steps=400, guides=guides)
    assert torch.equal(found[:3], x[:3])
    _, _, expected = drive(HopSkipJump(), answer, x, eps=1.0, steps=400, guides=guides)
    assert torch.equal(found[3:], expected[3:])
    assert (found[3:] != x[3:]).flatten(1).any(1).all()


@pytest.mark.parametrize("norm", BALLS)
def test_it_comes_closer_than_foolbox(norm):
    """At equal queries on files. Theirs probes at 1/d of the distance, which rounding to 8 bits takes away, and divides
    its direction by the length of the whole batch's, so it is asked one image at a time."""
    foolbox = pytest.importorskip("foolbox")
    classifier = toy_classifier(2).frozen(fold=False)
    images = toy_images(6, classifier, seed=3)
    labels = classifier(images).argmax(1)
    guides = images[torch.stack([(labels != label).nonzero()[0, 0] for label in labels])]
    network = Rounding(classifier).eval()
    model = foolbox.PyTorchModel(network, bounds=(0, 1), device="cpu")
    theirs = foolbox.attacks.HopSkipJumpAttack(steps=3, constraint=norm)
    parts = []
    with seeded(0), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for i in range(len(images)):
            criterion = foolbox.criteria.Misclassification(labels[i : i + 1])
            parts.append(theirs.run(model, images[i : i + 1], criterion, starting_points=guides[i : i + 1]))
    victim = Victim(classifier, dtype=torch.float32, fold=False)
    attack = Attack(objective=Decision(), ball=BALLS[norm], rule=HopSkipJump(), steps=network.seen // len(images))
    goal, anywhere = Goal(labels, None, guides), torch.full((6, 1, 1, 1), 100.0)
    found, _ = attack.descend(victim, images, goal, anywhere, images)
    assert (classifier(found).argmax(1) != labels).all()
    ours, their = length(found - images, norm), length(torch.cat(parts) - images, norm)
    assert (ours < their).float().mean() > 0.8, (ours, their)


def test_on_the_guard_it_ends_with_what_the_guard_gives_out():
    victim = toy_victim(2, shields=True)
    images = toy_images(16, victim.exact, seed=3)
    labels = toy_labels(victim, images)
    accepted = victim.judge(images).accepted
    guides = images[torch.stack([((labels != label) & accepted).nonzero()[0, 0] for label in labels])]
    run = {"eps": 1.0, "guides": guides, "targets": 1 - labels}
    found, caught = (
        find_attack(name).attack.with_options(steps=300).run(victim, images, labels, **run)
        for name in ("hopskipjump-guard", "hopskipjump-l2")
    )
    assert found.broken.all()
    assert (length(found.images - images, "l2") < 0.5 * length(guides - images, "l2")).float().mean() > 0.7
    assert caught.fooled.all()
    assert not caught.broken.all()


def test_the_decision_is_the_verdict_and_nothing_else():
    victim = toy_victim(3, shields=True, cushion="bits:3")
    images = toy_images(60, victim.exact, seed=4)
    labels = toy_labels(victim, images).roll(1)
    victim.shields.scale *= 0.2  # stricter, so that some are withheld
    verdict = victim.judge(images)
    for targets in (None, (labels + 1) % 3):
        goal = Goal(labels, targets)
        for objective, expected in (
            (Decision(), goal.reached(verdict.predicted)),
            (GuardDecision(), goal.reached(verdict.predicted) & verdict.accepted),
        ):
            begun = objective.begin(victim, goal)
            with torch.no_grad():
                told = begun(victim.look(images, goal, begun))
            assert torch.equal(told, torch.where(expected, -1.0, 1.0))
        assert (goal.reached(verdict.predicted) & ~verdict.accepted).sum() > 0, "no image tells the two apart"


def test_what_is_missing_is_said():
    view = View(Goal(torch.tensor([0])), torch.zeros(1, 2), {})
    with pytest.raises(ConfigError, match="attack a guard"):
        GuardDecision()(view)
    with pytest.raises(ConfigError, match="begun"):
        LogitMatch()(view)
    with pytest.raises(ConfigError, match="probe above 0"):
        HopSkipJump(probe=0)
