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
from medaegis.attacks.search.evolution import OnePixel, Watermark
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
    assert torch.equal(OnePixel(pixels=3).paint(problem, genes), torch.tensor([0.125, 0.75, 1.0, 0.65]).view_as(x))


def test_settings_that_cannot_work_are_refused():
    with pytest.raises(ConfigError, match="1 pixel or more"):
        OnePixel(pixels=0)
    for make in (lambda: OnePixel(population=3), lambda: OnePixel(scale=0.0), lambda: Watermark(population=3)):
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


# ---- the watermark


def placed(x, genes, **options):
    rule = Watermark(pattern=("#.", "##"), share=0.5, opacity=0.5, **options)
    problem = Problem(x, torch.full((len(x), 1, 1, 1), 1.0), x, 1, Linf(), Draws(0, torch.arange(len(x)), "genes"))
    return rule.paint(problem, torch.tensor(genes).view(len(x), 1, 4))


def test_a_mark_is_blended_where_its_genes_say():
    """2 x 2 of an image of 4 x 4, at the upper left and at the lower right, half and fully opaque, bright and dark."""
    x = torch.full((2, 1, 4, 4), 0.4)
    first, second = placed(x, [[0.0, 0.0, 0.5, 1.0], [0.99, 0.99, 1.0, 0.0]])
    expected = torch.full((4, 4), 0.4)
    expected[0, 0] = expected[1, 0] = expected[1, 1] = 0.4 + 0.25 * 0.6
    torch.testing.assert_close(first[0], expected)
    expected = torch.full((4, 4), 0.4)
    expected[2, 2] = expected[3, 2] = expected[3, 3] = 0.2
    torch.testing.assert_close(second[0], expected)


def test_the_best_mark_of_a_linear_loss_is_found():
    """Against every place, at full opacity, black and white."""
    x, w, loss = linear(side=8, channels=1)
    rule = Watermark(pattern=("##", ".#"), share=0.25, opacity=0.5, population=40)
    points, losses, found = drive(rule, loss, x, eps=1.0, steps=1 + 30 * 40)
    best = torch.zeros(len(x), dtype=torch.float64)
    mark = torch.tensor([[1.0, 1.0], [0.0, 1.0]], dtype=torch.float64)
    for row, column, bright in itertools.product(range(7), range(7), (0.0, 1.0)):
        inside = (slice(None), 0, slice(row, row + 2), slice(column, column + 2))
        best = torch.maximum(best, -(w[inside] * 0.5 * mark * (bright - x[inside])).sum((1, 2)))
    gained = loss(x) - loss(found)
    assert (gained <= best + 1e-9).all()
    assert (gained >= 0.8 * best).all(), gained / best
    assert torch.equal(loss(found), losses.amin(0))
    assert len(points) == 1 + 30 * 40


def test_eps_cuts_a_mark_and_it_covers_what_its_pattern_does():
    x, _, loss = linear(side=20, channels=3)
    rule = Watermark(population=10)
    points, _, _ = drive(rule, loss, x, eps=0.1, steps=21)
    assert (points - x).abs().max() <= 0.1 + 1e-7
    mark = rule.mark(20, 20)
    assert mark.shape == (4, 12)
    assert ((points[1:] != x).any(2).flatten(2).sum(2) <= int((mark > 0).sum())).all()
    assert (points[1:] != x).any()


@pytest.mark.parametrize(
    "wrong", [{"pattern": ()}, {"pattern": ("#", "##")}, {"pattern": ("..",)}, {"share": 0.0}, {"opacity": 1.5}]
)
def test_marks_that_cannot_be_are_refused(wrong):
    with pytest.raises(ConfigError, match="watermark"):
        Watermark(**wrong)
