"""Searches: the frame, the Square attack, and what every black-box entry of the catalogue must keep and reach."""

import math

import pytest
import torch
from tests.attacks.toys import Rounding, drive, seeded, toy_classifier, toy_images, toy_labels, toy_victim

from medaegis.attacks.balls import L2, Linf, to_grid
from medaegis.attacks.catalogue import CATALOGUE, find_attack
from medaegis.attacks.engine import Attack
from medaegis.attacks.losses.answer import CarliniWagner
from medaegis.attacks.objective import Goal
from medaegis.attacks.search.estimation import Spsa
from medaegis.attacks.search.evolution import OnePixel
from medaegis.attacks.search.square import Best, Square, bump
from medaegis.attacks.steps import Problem
from medaegis.attacks.victim import Victim
from medaegis.draws import Draws

EPS = 16 / 256
N = 5
DRAWS = Draws(0, torch.arange(N), "search")
SEARCHES = [name for name, entry in CATALOGUE.items() if entry.access == "black-box" and hasattr(entry.attack, "rule")]


def clip(z, x):
    return torch.minimum(torch.maximum(z, x - EPS), x + EPS).clamp(0, 1)


def landscape(size=(1, 12, 10), rows=slice(None)):
    source = torch.Generator().manual_seed(2)
    x, c = (torch.rand((N, *size), generator=source, dtype=torch.float64)[rows] for _ in range(2))
    return x, lambda z: (z - c).square().sum((1, 2, 3))


def guides_of(images, labels):
    """For each image the first one of another class."""
    return images[torch.stack([(labels != label).nonzero()[0, 0] for label in labels])]


@pytest.mark.parametrize("name", SEARCHES)
def test_a_search_keeps_to_the_ball_and_to_its_own_image(name):
    """With enough steps for a round: on the grid, inside the ball to the last bit, alike for any batch, repeatable."""
    victim = toy_victim(3, shields=True, cushion="bits:3")
    images = toy_images(5, victim.exact, seed=3)
    labels = toy_labels(victim, images)
    attack = find_attack(name).attack.with_options(steps=60)
    eps, ids = torch.linspace(0, EPS, 5), torch.arange(5) * 7 + 3
    run = {"eps": eps, "guides": guides_of(images, labels), "ids": ids, "seed": 5}
    found = attack.run(victim, images, labels, **run, batch_size=3)
    change = ((found.images - images) * 255).round().double()
    assert torch.equal(to_grid(found.images), found.images)
    if attack.ball.name == "l2":
        assert (change.square().mean((1, 2, 3)).sqrt() <= 255 * eps * (1 + 1e-6)).all()
    else:
        assert (change.abs().amax((1, 2, 3)) <= (255 * eps).round()).all()
    assert change[1:].abs().amax() > 0
    assert (found.forwards, found.backwards) == (5 * 60, 0)
    for again in (5, 3):
        assert torch.equal(attack.run(victim, images, labels, **run, batch_size=again).images, found.images)


# So that some hundred queries make some rounds, and more than one pixel, for one alone breaks few.
QUICK = {
    "spsa": {"rule": Spsa(samples=24)},
    "one-pixel": {"rule": OnePixel(pixels=3, population=50)},
    "hopskipjump": {"steps": 1600},  # it is told no losses
}


@pytest.mark.parametrize("name", [name for name in SEARCHES if not CATALOGUE[name].adaptive])
def test_a_search_breaks_an_undefended_classifier(name):
    """Half of the images more than noise of the same size does; some by three pixels of any colour, or by a mark."""
    victim = toy_victim(3)
    images = toy_images(24, victim.exact, seed=3)
    labels = toy_labels(victim, images)
    attack = find_attack(name).attack.with_options(**{"steps": 800, **QUICK.get(name, {})})
    few = name in ("one-pixel", "watermark")
    eps = 1.0 if few else EPS
    found = attack.run(victim, images, labels, eps=eps, guides=guides_of(images, labels))
    draws = Draws(0, torch.arange(24), "noise")
    if name == "one-pixel":
        assert (found.images != images).any(1).sum((1, 2)).max() == 3
        noisy, where = images.clone(), draws.child("where").integers(16, 2, 3)
        for image, (rows, columns), colours in zip(noisy, where, draws.uniform(3), strict=True):
            image[:, rows, columns] = colours
    elif name == "watermark":
        genes, ones = attack.rule.first(draws, 1)[:, 0], torch.ones(24, 1, 1, 1)
        noisy = to_grid(attack.rule.paint(Problem(images, ones, ones, 1, Linf(), draws), genes))
    else:
        radius = torch.full((24, 1, 1, 1), EPS)
        noisy = attack.ball.to_8bit(attack.ball.random(images, radius, draws), images, radius)
    by_noise = (victim.judge(noisy).predicted != labels).float().mean()
    share = found.fooled.float().mean()
    assert share >= by_noise + (0.15 if few else 0.5), (share, by_noise)


@pytest.mark.parametrize("name", ["square", "spsa"])
def test_a_search_on_the_guard_does_better_on_it_than_one_on_the_classifier(name):
    victim = toy_victim(2, shields=True)
    images = toy_images(16, victim.exact, seed=3)
    labels = toy_labels(victim, images)
    goal, objective = Goal(labels, 1 - labels), find_attack(f"{name}-guard").attack.objective
    losses = []
    for which in (name, f"{name}-guard"):
        attack = find_attack(which).attack.with_options(steps=300, **QUICK.get(name, {}))
        found = attack.run(victim, images, labels, targets=1 - labels, eps=EPS).images
        with torch.no_grad():
            losses.append(objective(victim.look(found, goal, objective)))
    assert (losses[1] < losses[0]).float().mean() > 0.8


def test_a_search_asks_the_exact_network():
    """Answers are the deployed guard's, whatever arithmetic gradients are worked out in."""
    classifier = toy_classifier(3)
    images = toy_images(8, classifier, seed=3)
    fast, exact = (Victim(classifier, dtype=dtype) for dtype in (torch.bfloat16, torch.float32))
    labels = toy_labels(exact, images)
    attack = find_attack("square").attack.with_options(steps=60)
    found = [attack.run(victim, images, labels, eps=EPS).images for victim in (fast, exact)]
    assert torch.equal(*found)


def test_best_keeps_the_lowest_and_no_nan():
    z = torch.arange(3.0).view(3, 1, 1, 1)
    best = Best(z, torch.tensor([1.0, math.nan, 0.0]))
    best.see(z + 10, torch.tensor([0.5, 2.0, math.nan]))
    best.see(z + 20, torch.tensor([0.7, 3.0, 0.0]))
    assert best.point.flatten().tolist() == [10.0, 11.0, 2.0]
    assert best.loss.tolist() == [0.5, 2.0, 0.0]


@pytest.mark.parametrize("channels", [1, 3])
def test_square_asks_nothing_twice_in_a_row(channels):
    """Of a grey image a whole square often has the signs drawn for it already."""
    x, _ = landscape()
    x = x[:, :1].expand(-1, channels, -1, -1).clone()
    points, _, _ = drive(Square(), lambda z: z.sum((1, 2, 3)), x, eps=EPS, steps=60)
    best, lowest = points[0], points[0].sum((1, 2, 3))
    for z in points[1:]:
        assert ((z * 255).round() != (best * 255).round()).flatten(1).any(1).all()
        losses = z.sum((1, 2, 3))
        lower = losses < lowest
        best, lowest = torch.where(lower.view(-1, 1, 1, 1), z, best), torch.where(lower, losses, lowest)


def test_square_changes_one_square_at_a_time_and_keeps_what_helps():
    x, loss = landscape()
    points, losses, final = drive(Square(), loss, x, eps=EPS, steps=40)
    problem = Problem(x, x, x, 40, Linf(), DRAWS)
    assert torch.equal(points[0], x)
    stripes = points[1] - clip(points[1], x)
    assert stripes.abs().max() < 1e-12
    column = ((points[1] - x) / EPS).sign()
    assert torch.equal(column, column[:, :, :1].expand_as(column)), "stripes are vertical"
    for i in range(2, len(points)):
        best = torch.stack([points[:i, n][losses[:i, n].argmin()] for n in range(N)])
        for n in range(N):
            changed = (points[i, n] != best[n]).any(0)
            high, wide = changed.any(1).nonzero(), changed.any(0).nonzero()
            if len(high):
                assert high.max() - high.min() < Square().side(i - 1, problem)
                assert wide.max() - wide.min() < Square().side(i - 1, problem)
            inside = points[i, n][:, changed]
            clean = x[n][:, changed]
            edge = (clean + EPS * (inside - clean).sign()).clamp(0, 1)
            torch.testing.assert_close(inside, edge)
    assert torch.equal(loss(final), losses.amin(0))
    assert (losses.amin(0) < losses[0]).all()


@pytest.mark.parametrize("ball", [Linf(), L2()], ids=["linf", "l2"])
def test_square_draws_for_each_image_alone(ball):
    x, loss = landscape()
    whole = drive(Square(), loss, x, eps=EPS, steps=40, ball=ball)[0]
    x, loss = landscape(rows=slice(1, 3))
    part = drive(Square(), loss, x, eps=EPS, steps=40, ball=ball, ids=(1, 2))[0]
    torch.testing.assert_close(whole[:, 1:3], part, rtol=0, atol=1e-12)


def test_the_schedule_of_square_is_that_of_torchattacks():
    torchattacks = pytest.importorskip("torchattacks")
    theirs = torchattacks.Square(torch.nn.Identity(), n_queries=300, p_init=0.8)
    theirs.rescale_schedule = True
    x = torch.zeros(1, 1, 64, 64)
    for i in range(300):
        side = round(math.sqrt(theirs.p_selection(i) * 64 * 64))
        assert Square().side(i, Problem(x, x, x, 300, Linf(), DRAWS)) == max(side, 1), i
        assert Square().side(i, Problem(x, x, x, 300, L2(), DRAWS)) == max(side, 3) | 1, i


@pytest.mark.parametrize("side", [1, 2, 3, 4, 7, 8, 15, 44])
def test_the_bump_is_that_of_torchattacks(side):
    torchattacks = pytest.importorskip("torchattacks")
    theirs = torchattacks.Square(torch.nn.Identity())
    theirs.device = torch.device("cpu")
    with seeded(0):
        expected = theirs.eta(side)
    if torch.equal(expected[:, :1].expand_as(expected).sign(), expected.sign()):
        expected = expected.nan_to_num()  # a side of one leaves their upper half empty
    upright = expected if (expected[: side // 2] >= 0).all() else expected.T
    torch.testing.assert_close(bump(side), upright, rtol=0, atol=1e-6)
    assert bump(side).norm().item() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("channels", [1, 3])
def test_square_in_l2_moves_its_budget_from_window_to_window(channels):
    """Algorithm 3 on images far from black and white: each proposal is as long as it may be, and differs from the best
    only where one window was filled anew and another emptied, within which the length of each channel stays."""
    size = (channels, 20, 20)
    source = torch.Generator().manual_seed(4)
    x = 0.45 + 0.1 * torch.rand((N, *size), generator=source, dtype=torch.float64)
    c = torch.rand((N, *size), generator=source, dtype=torch.float64)
    radius = 0.5
    ball, steps = L2(rms=False), 60
    points, losses, final = drive(
        Square(), lambda z: (z - c).square().sum((1, 2, 3)), x, eps=radius, steps=steps, ball=ball
    )
    changes = points - x
    lengths = changes[1:].flatten(2).norm(dim=2)
    torch.testing.assert_close(lengths, torch.full_like(lengths, radius), rtol=0, atol=1e-6)
    moved = 0
    for i in range(2, steps):
        side = Square().side(i - 1, Problem(x, x, x, steps, ball, DRAWS))
        for n in range(N):
            best = changes[losses[:i, n].argmin(), n]
            differs = ((changes[i, n] - best).abs() > 1e-9).any(0)
            assert differs.sum() <= 2 * side**2
            if losses[:i, n].argmin() == 0:
                continue
            per_channel = changes[i, n].square().sum((1, 2)), best.square().sum((1, 2))
            torch.testing.assert_close(*per_channel, rtol=0, atol=1e-6)
            emptied = differs & (changes[i, n].abs().amax(0) == 0)
            moved += int(emptied.any())
    assert moved > 50, "no window was ever emptied: a blind test"
    assert (losses.amin(0) < losses[1]).all()
    final_loss = (final - c).square().sum((1, 2, 3))
    torch.testing.assert_close(final_loss, losses.amin(0), rtol=0, atol=1e-12)


@pytest.mark.parametrize("size", [(4, 4), (14, 14), (9, 16)])
def test_square_in_l2_takes_any_size(size):
    """torchattacks lays its first tiles beyond the edge where the side is no multiple of the tile, and fails (14)."""
    x, loss = landscape((1, *size))
    _, losses, _ = drive(Square(), loss, x, eps=EPS, steps=40, ball=L2())
    assert (losses.amin(0) < losses[0]).all()


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_square_breaks_as_many_as_torchattacks(norm):
    """The same network behind the same rounding, the same queries; theirs stops an image once it is misclassified."""
    torchattacks = pytest.importorskip("torchattacks")
    classifier = toy_classifier(3, channels="rgb").frozen(fold=False)
    network = Rounding(classifier).eval()
    images = toy_images(48, classifier, seed=3)
    labels = classifier(images).argmax(1)
    radius = {"Linf": 8 / 255, "L2": 0.6}[norm]
    theirs = torchattacks.Square(
        network, norm=norm, eps=radius, n_queries=299, p_init=0.8, loss="margin", seed=0, resc_schedule=True
    )
    expected = (theirs(images, labels) * 255).round() / 255
    victim = Victim(classifier, dtype=torch.float32, fold=False)
    ball = Linf() if norm == "Linf" else L2(rms=False)
    attack = Attack(objective=CarliniWagner(), ball=ball, rule=Square(), steps=301)
    found = attack.run(victim, images, labels, eps=radius)
    by_theirs = classifier(expected).argmax(1) != labels
    assert by_theirs.sum() > 5
    assert found.fooled.sum() >= by_theirs.sum()
