"""SPSA and ZOO: every query and every step against PyTorch's Adam on gradients worked out by hand."""

import logging

import numpy as np
import pytest
import torch
from tests.attacks.toys import Rounding, drive, seeded, toy_classifier, toy_images
from torch.nn import functional as F

from medaegis.attacks.balls import L2, Linf, to_grid
from medaegis.attacks.engine import Attack
from medaegis.attacks.losses.answer import CarliniWagner
from medaegis.attacks.search.estimation import Spsa, Zoo
from medaegis.attacks.victim import Victim
from medaegis.errors import ConfigError, ImageError

EPS = 16 / 255
SIZE = (3, 1, 5, 4)


def bowl(low=0.3, high=0.7):
    """Images, a quadratic loss and its gradient, which central differences give exactly."""
    source = torch.Generator().manual_seed(3)
    x, c, a = (torch.rand(SIZE, generator=source, dtype=torch.float64) for _ in range(3))
    x = to_grid(low + (high - low) * x)
    return x, lambda z: (a * (z - c).square()).sum((1, 2, 3)), lambda z: 2 * a * (z - c)


def projected_adam(x, ball, gradients, rate):
    """PyTorch's own Adam, projected after each step."""
    z = x.clone().requires_grad_()
    adam = torch.optim.Adam([z], lr=rate)
    radius = torch.full((len(x), 1, 1, 1), EPS, dtype=x.dtype)
    for gradient in gradients:
        z.grad = gradient(z.detach())
        adam.step()
        with torch.no_grad():
            ball.project_(z, x, radius)
        yield z.detach().clone()


@pytest.mark.parametrize("ball", [Linf(), L2()], ids=["linf", "l2"])
def test_spsa_walks_by_adam_on_what_it_was_told(ball):
    x, loss, _ = bowl()
    samples, rounds, rate = 7, 6, 0.2
    length = 2 * samples + 1
    points, losses, final = drive(
        Spsa(samples=samples, rate=rate), loss, x, eps=EPS, steps=1 + rounds * length, ball=ball
    )
    assert torch.equal(points[0], x)

    def gradient(k):
        def estimate(z):
            queries, told = (v[1 + k * length :][: 2 * samples] for v in (points, losses))
            ahead, behind = queries[0::2], queries[1::2]
            torch.testing.assert_close((ahead + behind) / 2, to_grid(z).expand_as(ahead), rtol=0, atol=1e-12)
            torch.testing.assert_close((ahead - behind).abs(), torch.full_like(ahead, 6 / 255), rtol=0, atol=1e-12)
            rise = (told[0::2] - told[1::2]).view(samples, -1, 1, 1, 1)
            return (rise * (ahead - behind).sign() / (6 / 255)).mean(0)

        return estimate

    walk = projected_adam(x, ball, map(gradient, range(rounds)), rate * EPS)
    for k, z in enumerate(walk):
        torch.testing.assert_close(points[(k + 1) * length], z, rtol=0, atol=1e-7)
    ends = torch.arange(0, len(points), length)
    torch.testing.assert_close(loss(final), losses[ends].amin(0), rtol=0, atol=1e-12)


def test_zoo_with_every_coordinate_is_adam_on_the_true_gradient():
    x, loss, gradient = bowl()
    size, rounds, rate = x[0].numel(), 6, 0.2
    length = 2 * size + 1
    points, _, _ = drive(Zoo(coordinates=size, rate=rate), loss, x, eps=EPS, steps=1 + rounds * length)
    walk = projected_adam(x, Linf(), [lambda z: gradient(to_grid(z))] * rounds, rate * EPS)
    for k, z in enumerate(walk):
        torch.testing.assert_close(points[(k + 1) * length], z, rtol=0, atol=1e-6)


def test_zoo_counts_the_visits_of_each_coordinate():
    """A coordinate drawn for the first time takes Adam's first step, of the whole rate, whenever that is."""
    x, loss, gradient = bowl()
    count, rounds = 3, 12
    length = 2 * count + 1
    points, _, _ = drive(Zoo(coordinates=count, rate=0.25), loss, x, eps=EPS, steps=1 + rounds * length)
    ends = points[::length].flatten(2)
    moves = ends.diff(dim=0)
    assert ((moves != 0).sum(2) <= count).all()
    late = 0
    for n in range(len(x)):
        seen = set()
        for k in range(rounds):
            for place in moves[k, n].nonzero().flatten().tolist():
                if place not in seen:
                    direction = -gradient(to_grid(points[k * length]))[n].flatten()[place].sign()
                    assert moves[k, n, place].item() == pytest.approx(0.25 * EPS * direction.item(), rel=1e-4)
                    late += k > 2
                seen.add(place)
    assert late > 3, "no coordinate was first drawn late: a blind test"


@pytest.mark.parametrize("rule", [Spsa(samples=4), Zoo(coordinates=4)], ids=["spsa", "zoo"])
def test_black_and_white_are_asked_from_one_side(rule):
    """No query leaves [0, 1], and a linear loss still gives its gradient."""
    x = torch.tensor([0.0, 1.0, 0.5, 1 / 255]).view(1, 1, 2, 2).double()
    w = torch.tensor([-3.0, 2.0, 1.0, -4.0]).view_as(x).double()
    points, _, final = drive(rule, lambda z: (w * z).sum((1, 2, 3)), x, eps=EPS, steps=1 + 60 * 9)
    assert (points >= 0).all()
    assert (points <= 1).all()
    best = (x - EPS * w.sign()).clamp(0, 1)
    torch.testing.assert_close(final, best, rtol=0, atol=1e-6)


@pytest.mark.parametrize("rule", [Spsa(), Zoo()], ids=["spsa", "zoo"])
def test_few_steps_make_one_round(rule):
    x, loss, _ = bowl()
    _, losses, final = drive(rule, loss, x, eps=EPS, steps=12)
    assert (loss(final) < losses[0]).any()


@pytest.mark.parametrize("rule", [Spsa(samples=4), Zoo(coordinates=4)], ids=["spsa", "zoo"])
def test_where_the_loss_is_no_number_the_image_stays(rule):
    x, loss, _ = bowl()

    def broken(z):
        losses = loss(z)
        losses[1] = torch.nan
        return losses

    _, _, found = drive(rule, broken, x, eps=EPS, steps=60)
    _, _, expected = drive(rule, loss, x, eps=EPS, steps=60)
    assert torch.equal(found[1], x[1])
    assert torch.equal(found[[0, 2]], expected[[0, 2]])


def test_settings_that_do_nothing_are_refused():
    for make in (lambda: Spsa(samples=0), lambda: Spsa(levels=0), lambda: Zoo(rate=0.0), lambda: Zoo(coordinates=0)):
        with pytest.raises(ConfigError, match="whole level"):
            make()


def case(channels="gray"):
    classifier = toy_classifier(3, channels=channels).frozen(fold=False)
    images = toy_images(24, classifier, seed=3)
    labels = classifier(images).argmax(1)
    return classifier, images, labels, Victim(classifier, dtype=torch.float32, fold=False)


def test_spsa_breaks_as_many_as_torchattacks():
    """On floats: theirs asks about pixels outside [0, 1], so that a victim that reads files refuses its queries."""
    torchattacks = pytest.importorskip("torchattacks")
    classifier, images, labels, victim = case()
    theirs = {"eps": EPS, "delta": 3 / 255, "lr": 0.3 * EPS, "nb_iter": 8, "nb_sample": 24}
    with pytest.raises(ImageError, match="outside"):
        torchattacks.SPSA(Rounding(classifier).eval(), **theirs)(images, labels)
    with seeded(0):
        attacked = torchattacks.SPSA(classifier, **theirs)(images, labels)
    by_theirs = classifier((attacked * 255).round() / 255).argmax(1) != labels
    assert by_theirs.sum() > 5
    attack = Attack(objective=CarliniWagner(), rule=Spsa(samples=24), steps=1 + 8 * 49)
    assert attack.run(victim, images, labels, eps=EPS).fooled.sum() >= by_theirs.sum()


def test_zoo_of_art_gets_nowhere_on_files():
    """Its differences of 1e-4 are rounded away: on 8-bit pixels every estimate is nil and no image moves."""
    pytest.importorskip("art")
    from art.attacks.evasion import ZooAttack
    from art.estimators.classification import PyTorchClassifier

    classifier, images, labels, victim = case()
    images, labels = images[:4], labels[:4]
    network = Rounding(classifier).eval()
    estimator = PyTorchClassifier(
        network, loss=F.cross_entropy, input_shape=tuple(images.shape[1:]), nb_classes=3, clip_values=(0, 1)
    )
    logging.disable(logging.CRITICAL)
    options = {"max_iter": 20, "nb_parallel": 32, "use_resize": False, "use_importance": False, "verbose": False}
    theirs = ZooAttack(estimator, learning_rate=0.1, initial_const=10.0, **options)
    found = torch.from_numpy(theirs.generate(images.numpy(), np.eye(3)[labels.numpy()]))
    logging.disable(logging.NOTSET)
    assert network.seen > 4 * 2 * 64
    assert torch.equal((found * 255).round(), (images * 255).round())
    attack = Attack(objective=CarliniWagner(), rule=Zoo(coordinates=32), steps=1 + 20 * 65)
    assert attack.run(victim, images, labels, eps=EPS).fooled.any()
