"""Images that leave as soon as they are broken: nobody breaks less, and what is left goes its way as before."""

import math

import pytest
import torch
from tests.attacks.toys import toy_bank, toy_classifier, toy_images, toy_labels, toy_victim
from torch import nn

from medaegis.attacks.addons import ADD_ONS
from medaegis.attacks.balls import to_grid
from medaegis.attacks.catalogue import CATALOGUE, find_attack
from medaegis.attacks.engine import Attack
from medaegis.attacks.ensemble import Ensemble
from medaegis.attacks.losses.answer import CarliniWagner
from medaegis.attacks.normal import fit_mixtures
from medaegis.attacks.objective import Goal
from medaegis.attacks.victim import Victim
from medaegis.cushions import RandomCushion
from medaegis.cushions.filters import Unrounded
from medaegis.errors import ConfigError
from medaegis.models.classifier import Classifier

EPS = 16 / 256
N = 16


@pytest.fixture(scope="module")
def victim():
    return toy_victim(4, shields=True, cushion="bits:4")


def few(name, steps=12):
    attack = find_attack(name).attack
    return attack.with_options(steps=min(steps, attack.steps))


def scene(victim, name, n=N):
    """Images, labels and whatever the attack needs beside them."""
    images = toy_images(n, victim.exact)
    labels, attack = toy_labels(victim, images), few(name)
    options = {"eps": EPS, "seed": 3, "ids": torch.arange(n) * 5 + 1}
    pool = toy_images(150, victim.exact, seed=8)
    if attack.objective.needs_guides:
        options["guides"] = images.flip(0)
    if attack.objective.needs_normal:
        options["normal"] = fit_mixtures(victim.pooled(pool, ("relu", "last")), toy_labels(victim, pool))
    if attack.learns:
        options["known"] = (pool[:100], toy_labels(victim, pool[:100]))
    return attack, images, labels, options


@pytest.mark.parametrize("name", [*CATALOGUE, *(f"pgd+{name}" for name in ADD_ONS)])
def test_nobody_breaks_less_and_it_costs_no_more(name, victim):
    attack, images, labels, options = scene(victim, name)
    whole = attack.run(victim, images, labels, **options, batch_size=7)
    found = attack.run(victim, images, labels, **options, until="broken", batch_size=7)
    most = attack.passes(Goal(labels), 4)
    if attack.learns:
        assert most >= whole.forwards + whole.backwards  # fewer images are known than it would learn from
    elif name.startswith("deepfool") or name in ("jsma", "sparsefool") or isinstance(attack, Ensemble):
        assert most >= whole.forwards + whole.backwards  # a batch comes to rest, members go on with what is left
    else:
        assert most == whole.forwards + whole.backwards
    assert (found.broken | ~whole.broken).all()
    left = ~found.broken
    assert torch.equal(found.images[left], whole.images[left]), "an image that stays goes the same way"
    assert torch.equal(found.wrong, whole.wrong)
    assert (whole.checks, found.forwards <= whole.forwards, found.backwards <= whole.backwards) == (0, True, True)
    assert attack.ball.holds(found.images, images, torch.full((N, 1, 1, 1), EPS)).all()
    assert torch.equal(to_grid(found.images), found.images)
    verdict = victim.judge(found.images)
    assert torch.equal(found.broken, (verdict.predicted != labels) & verdict.accepted)
    if isinstance(attack, Attack):
        assert found.checks <= N * (1 + 2 * math.log2(2 * attack.steps))
    order = torch.randperm(N, generator=torch.Generator().manual_seed(0))
    of_each = {key: options[key][order] for key in ("guides", "ids") if key in options}
    turned = attack.run(victim, images[order], labels[order], **{**options, **of_each}, until="broken", batch_size=N)
    assert torch.equal(turned.images[order.argsort()], found.images)
    if not find_attack(name).minimal:  # some of those end once a batch rests
        assert (turned.forwards, turned.backwards, turned.checks) == (found.forwards, found.backwards, found.checks)


@pytest.mark.parametrize("name", ["pgd", "wb", "apgd-ce", "square", "auto-guard"])
def test_most_of_the_work_is_spared_where_most_break(name, victim):
    _, images, labels, options = scene(victim, name)
    attack, options = few(name, 40), options | {"eps": 64 / 256}
    whole = attack.run(victim, images, labels, **options)
    found = attack.run(victim, images, labels, **options, until="broken")
    assert found.broken.sum() >= whole.broken.sum() >= N / 2
    spent = found.forwards + found.backwards + found.checks
    assert spent < (whole.forwards + whole.backwards) / 2


def linear(seed=0):
    """Two classes by a line: the step by signs is the same each time, so the margin falls by the same at each."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(256, 2))
    generator = torch.Generator().manual_seed(seed)
    network[1].weight.data = torch.randn(2, 256, generator=generator)
    network[1].bias.data.zero_()
    return Classifier(
        network, classes=("a", "b"), size=16, channels="gray", backbone="x:y", mean=(0.0,), std=(1.0,), outputs="logits"
    ).eval()


@pytest.mark.parametrize("steps", [1, 7, 32])
def test_where_breaking_is_monotone_the_same_images_break_each_at_its_step(steps):
    """The step at which each breaks, by hand: k grey levels along the signs of the weights."""
    classifier = linear()
    victim = Victim(classifier, dtype=torch.float32)
    # No pixel near black or white, so that nothing is cut off.
    images = to_grid(0.3 + 0.4 * torch.rand((60, 1, 16, 16), generator=torch.Generator().manual_seed(1)))
    labels = toy_labels(victim, images)
    weight = classifier.network[1].weight
    towards = (weight[1 - labels] - weight[labels]).sign().view_as(images).detach()
    breaks = torch.full((60,), steps + 1)
    for k in range(steps, 0, -1):
        breaks[toy_labels(victim, images + towards * k / 255) != labels] = k
    eps = steps / 255
    attack = Attack(objective=CarliniWagner(), steps=steps, step_size=1 / steps)
    whole = attack.run(victim, images, labels, eps=eps)
    assert torch.equal(whole.broken, breaks <= steps)
    found = attack.run(victim, images, labels, eps=eps, until="broken")
    assert torch.equal(found.broken, whole.broken)
    assert steps != 7 or 10 < int(found.broken.sum()) < 60
    for i, first in enumerate(breaks.tolist()):
        one = attack.run(victim, images[i : i + 1], labels[i : i + 1], eps=eps, until="broken")
        taken = round(float(((one.images - images[i]).abs() * 255).max()))
        if first > steps:
            assert one.forwards == taken == steps
        else:
            # At once, or where it fools by less than is sure, a few steps on; one look more tells of it.
            assert first <= taken <= min(steps, 2 * first)
            assert taken <= one.forwards <= min(steps, taken + 1)
            torch.testing.assert_close(one.images[0], images[i] + towards[i] * taken / 255, rtol=0, atol=1e-6)


def test_gradients_in_bfloat16_let_nobody_go_who_is_not_broken(victim):
    classifier = toy_classifier(4)
    coarse = Victim(classifier, shields=toy_bank(classifier), dtype=torch.bfloat16)
    _, images, labels, options = scene(coarse, "pgd")
    found = few("pgd").run(coarse, images, labels, **options | {"eps": 4 / 256}, until="broken")
    verdict = Victim(classifier, shields=toy_bank(classifier), dtype=torch.float32).judge(found.images)
    assert 0 < found.broken.sum() < N
    assert torch.equal(found.broken, (verdict.predicted != labels) & verdict.accepted)


@pytest.mark.parametrize("name", ["pgd", "wb", "pgd-l2", "cw-l2"])
def test_restarts_go_on_with_what_is_left(name):
    victim = toy_victim(4, shields=True)
    attack, images, labels, options = scene(victim, name)
    if attack.random_start:
        attack = attack.with_options(restarts=3)
    options |= {"eps": 6 / 256}
    whole = attack.run(victim, images, labels, **options)
    found = attack.run(victim, images, labels, **options, until="broken")
    assert (found.broken | ~whole.broken).all()
    assert 0 < found.broken.sum() < N
    assert torch.equal(found.images[~found.broken], whole.images[~found.broken])
    assert found.forwards < whole.forwards


@pytest.mark.parametrize("name", ["bim", "cw-l2", "deepfool", "square"])
def test_before_a_victim_that_does_not_round_they_leave_inside_the_ball(name):
    victim = Victim(toy_classifier(4), cushion=Unrounded(), dtype=torch.float32)
    attack, images, labels, options = scene(victim, name)
    found = attack.run(victim, images, labels, **options, until="broken")
    assert found.broken.any()
    change = found.images - images
    far = change.square().mean((1, 2, 3)).sqrt() if attack.ball.name == "l2" else change.abs().amax((1, 2, 3))
    assert (far <= EPS * (1 + 1e-5)).all()
    assert torch.equal(found.broken, victim.judge(found.images).predicted != labels)


@pytest.mark.parametrize("name", ["pgd", "wb", "square", "auto"])
def test_before_a_random_cushion_the_attackers_own_draws_let_go(name, monkeypatch):
    """And the verdict is by the one draw that no attack meets: some that left on the others do not count."""
    victim = toy_victim(3, shields=True, cushion="random:jpeg:40-70+bits:2-5+median:3")
    images = toy_images(N, victim.exact)
    ids = torch.arange(N) * 3 + 1
    labels = victim.verdicts(images, ids, seed=4).predicted
    streams, draw = [], RandomCushion.draw
    monkeypatch.setattr(
        RandomCushion,
        "draw",
        lambda self, seed, stream, ids: streams.append((stream, ids)) or draw(self, seed, stream, ids),
    )
    attack = few(name, 6).with_options(samples=2)
    found = attack.run(victim, images, labels, eps=EPS, ids=ids, seed=4, until="broken")
    assert [stream for stream, _ in streams].count("victim/verdict") == 1
    assert streams[-1] == ("victim/verdict", ids.tolist())
    assert len({len(ids) for _, ids in streams}) > 1, "nobody left"
    verdict = victim.verdicts(found.images, ids, seed=4)
    assert torch.equal(found.broken, (verdict.predicted != labels) & verdict.accepted & ~found.wrong)
    order = torch.arange(N).flip(0)
    again = attack.run(
        victim, images[order], labels[order], eps=EPS, ids=ids[order], seed=4, until="broken", batch_size=5
    )
    assert torch.equal(again.images[order], found.images)


@pytest.mark.parametrize("name", ["pgd", "pgd-l2", "feature-match", "uap", "auto"])
def test_what_broke_at_an_eps_counts_at_every_larger_one(name, victim):
    attack, images, labels, options = scene(victim, name)
    radii = [8 / 256, 2 / 256, 16 / 256, 2 / 256]
    del options["eps"]
    curve = attack.curve(victim, images, labels, eps=radii, until="broken", **options)
    by_eps = dict(zip(radii, curve, strict=True))
    before = None
    for radius in sorted(by_eps):
        found = by_eps[radius]
        assert attack.ball.holds(found.images, images, torch.full((N, 1, 1, 1), radius)).all()
        verdict = victim.judge(found.images)
        assert torch.equal(found.broken, (verdict.predicted != labels) & verdict.accepted)
        left = torch.ones(N, dtype=torch.bool)
        if before is not None:
            left = ~before.broken
            assert torch.equal(found.images[~left], before.images[~left])
            assert found.broken[~left].all()
        part = {key: options[key][left] for key in ("guides", "ids") if key in options}
        run = {**options, **part, "eps": radius, "until": "broken"}
        alone = attack.run(victim, images[left], labels[left], **run)
        assert torch.equal(found.images[left], alone.images)
        assert (found.forwards, found.backwards, found.checks) == (alone.forwards, alone.backwards, alone.checks)
        before = found
    assert by_eps[2 / 256].broken.sum() < by_eps[16 / 256].broken.sum()


def test_to_the_end_every_eps_is_a_run_of_its_own(victim):
    attack, images, labels, options = scene(victim, "pgd")
    radii = options.pop("eps"), 1 / 256, 8 / 256
    for radius, found in zip(radii, attack.curve(victim, images, labels, eps=radii, **options), strict=True):
        assert torch.equal(found.images, attack.run(victim, images, labels, eps=radius, **options).images)


def test_where_nobody_is_left_nothing_is_run(victim):
    attack, images, labels, options = scene(victim, "bim", 3)
    wide = attack.run(victim, images, labels, **options | {"eps": 1.0})
    rows = wide.broken.nonzero().squeeze(1)
    assert len(rows)
    options |= {"eps": [0.9, 1.0], "ids": options["ids"][rows]}
    first, second = attack.curve(victim, images[rows], labels[rows], **options, until="broken")
    assert first.broken.all()
    assert torch.equal(second.images, first.images)
    assert (second.forwards, second.backwards, second.checks, second.seconds) == (0, 0, 0, 0)


def test_another_end_is_refused(victim):
    attack, images, labels, options = scene(victim, "fgsm")
    with pytest.raises(ConfigError, match="give 'end' or 'broken'"):
        attack.run(victim, images, labels, **options, until="fooled")
