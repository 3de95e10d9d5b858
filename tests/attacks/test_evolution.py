"""One-pixel attack against the best pixel in closed form, and against torchattacks."""

import itertools

import numpy as np
import pytest
import torch
from scipy.stats import binomtest
from tests.attacks.toys import Rounding, drive, toy_classifier, toy_images

from medaegis.attacks.balls import Linf
from medaegis.attacks.engine import Attack
from medaegis.attacks.losses.answer import CarliniWagner
from medaegis.attacks.search.evolution import OnePixel, painted
from medaegis.attacks.steps import Problem
from medaegis.attacks.victim import Victim
from medaegis.draws import Draws
from medaegis.errors import ConfigError


def linear(n=4, channels=3, side=6, seed=0):
    source = torch.Generator().manual_seed(seed)
    x, w = (torch.rand((n, channels, side, side), generator=source, dtype=torch.float64) for _ in range(2))
    w = w - 0.5
    return x, w, lambda z: (w * z).sum((1, 2, 3))


@pytest.mark.parametrize("eps", [1.0, 0.1])
def test_it_finds_the_best_pixel_of_a_linear_loss(eps):
    """Closed form: the pixel whose channels gain most at the ends of what the ball and [0, 1] leave them."""
    x, w, loss = linear(side=4)
    points, losses, found = drive(OnePixel(population=100), loss, x, eps=eps, steps=5000)
    assert ((points != x).any(2).sum((2, 3)) <= 1).all()
    lowest, highest = (x - eps).clamp_min(0), (x + eps).clamp_max(1)
    gain = torch.maximum(w * (x - lowest), w * (x - highest)).sum(1)
    best = gain.flatten(1)
    torch.testing.assert_close(loss(x) - loss(found), best.amax(1), rtol=0.05, atol=0)
    assert torch.equal(loss(found), losses.amin(0))


def test_children_are_differences_of_candidates_and_replace_worse_fathers():
    """On one pixel in a row of many, where the colour of each candidate can be read off its image."""
    x = torch.full((3, 1, 1, 64), 0.5, dtype=torch.float64)
    population, scale = 10, 0.5
    points, _, _ = drive(
        OnePixel(population=population, scale=scale), lambda z: -z.sum((1, 2, 3)), x, eps=1.0, steps=1 + 4 * population
    )
    generations = points[1:].unflatten(0, (4, population)).flatten(3).sum(3) - 31.5  # all other pixels are 0.5
    fathers = generations[0]
    for children in generations[1:]:
        for n in range(len(x)):
            triples = itertools.permutations(fathers[:, n].tolist(), 3)
            possible = torch.tensor([a + scale * (b - c) for a, b, c in triples], dtype=torch.float64).clamp(0, 1)
            for child in children[:, n]:
                assert (possible - child).abs().min() < 1e-9
        assert (children > fathers).any(), "no child ever won: a blind test"
        fathers = torch.maximum(fathers, children)


def test_three_pixels_gain_more_than_one():
    x, _, loss = linear()
    gains = []
    for pixels in (1, 3):
        points, _, found = drive(OnePixel(pixels=pixels, population=60), loss, x, eps=1.0, steps=2400)
        assert (points != x).any(2).sum((2, 3)).max() == pixels
        gains.append(loss(x) - loss(found))
    assert (gains[1] > gains[0]).all()


def test_genes_paint_inside_the_ball():
    x = torch.tensor([0.0, 0.5, 1.0, 0.9]).view(1, 1, 2, 2)
    problem = Problem(x, torch.full((1, 1, 1, 1), 0.25), x, 1, Linf(), Draws(0, torch.arange(1), "genes"))
    genes = torch.tensor([[0.1, 0.1, 0.5], [0.1, 0.9, 1.0], [0.99, 1.0, 0.0]]).view(1, 3, 3)
    assert torch.equal(painted(problem, genes), torch.tensor([0.125, 0.75, 1.0, 0.65]).view_as(x))


def test_settings_that_cannot_work_are_refused():
    for make in (lambda: OnePixel(pixels=0), lambda: OnePixel(population=3), lambda: OnePixel(scale=0.0)):
        with pytest.raises(ConfigError, match="population of 4"):
            make()


def test_it_breaks_as_many_as_torchattacks():
    """At equal queries, but for chance; theirs is SciPy's best/1 with restarted genes, one image at a time."""
    torchattacks = pytest.importorskip("torchattacks")
    classifier = toy_classifier(3).frozen(fold=False)
    network = Rounding(classifier).eval()
    images = toy_images(48, classifier, seed=3)
    labels = classifier(images).argmax(1)
    np.random.seed(0)  # noqa: NPY002, theirs draws from the global state
    theirs = torchattacks.OnePixel(network, pixels=3, steps=20, popsize=45, inf_batch=512)(images, labels)
    queries = network.seen // len(images)
    by_theirs = classifier((theirs * 255).round() / 255).argmax(1) != labels
    assert by_theirs.sum() > 2
    victim = Victim(classifier, dtype=torch.float32, fold=False)
    attack = Attack(objective=CarliniWagner(), rule=OnePixel(pixels=3, population=45), steps=queries)
    by_ours = attack.run(victim, images, labels, eps=1.0).fooled
    alone, their_own = int((by_ours & ~by_theirs).sum()), int((by_theirs & ~by_ours).sum())
    fewer = binomtest(alone, max(1, alone + their_own), alternative="less").pvalue  # McNemar's test
    assert fewer > 0.1, (by_ours.sum(), by_theirs.sum(), queries)
