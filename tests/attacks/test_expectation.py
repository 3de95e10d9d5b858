"""Attacks behind a random Cushion: gradients by expectation over draws (EOT), verdicts that no attack could meet."""

import dataclasses
from dataclasses import dataclass, field

import pytest
import torch
from scipy.stats import chisquare
from tests.attacks.toys import SIZE, toy_classifier, toy_images, toy_victim
from torch import nn

from medaegis.attacks.catalogue import find_attack
from medaegis.attacks.choices import pick_targets
from medaegis.attacks.engine import Attack
from medaegis.attacks.ensemble import Ensemble, Member
from medaegis.attacks.losses.answer import CarliniWagner, CrossEntropy
from medaegis.attacks.losses.shield import ShieldLogit
from medaegis.attacks.normal import fit_mixtures
from medaegis.attacks.steps import Descent, Walker
from medaegis.attacks.transfer import transfer
from medaegis.attacks.universal import Universal
from medaegis.attacks.victim import Victim
from medaegis.cushions import RandomCushion, parse_cushion
from medaegis.errors import ConfigError
from medaegis.models.classifier import Classifier

RANDOM = "random:jpeg:40-70+bits:2-5+median:3"
N, EPS = 7, 16 / 256


@pytest.fixture(scope="module")
def victim():
    return toy_victim(3, shields=True, cushion=RANDOM)


@pytest.fixture(scope="module")
def images(victim):
    return toy_images(N, victim.exact)


@pytest.fixture(scope="module")
def labels(victim, images):
    return victim.verdicts(images).predicted


@pytest.fixture
def drawn(monkeypatch):
    """Every draw that is made, in order: what it is for, and the cushion of each image."""
    made = []
    draw = RandomCushion.draw

    def spied(self, seed, stream, ids):
        found = draw(self, seed, stream, ids)
        made.append((stream, dict(zip(ids, found.specs, strict=True))))
        return found

    monkeypatch.setattr(RandomCushion, "draw", spied)
    return made


def alone(victim, spec, **options):
    """The same network behind one deterministic cushion."""
    return Victim(
        toy_classifier(3), cushion=parse_cushion(spec), shields=victim.shields, dtype=torch.float32, **options
    )


def same(one, other):
    for name in ("images", "fooled", "broken"):
        assert torch.equal(getattr(one, name), getattr(other, name)), name
    torch.testing.assert_close(one.verdict.logits, other.verdict.logits, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(one.verdict.score, other.verdict.score, rtol=1e-4, atol=1e-5)


@dataclass(frozen=True)
class Recorder(Walker):
    """A step rule that stays where it is and remembers what it was told."""

    told: list = field(default_factory=list, compare=False)
    needs_gradient = True
    keeps_best = False

    def begin(self, problem):
        return self

    def step(self, z, grad, losses, i):
        self.told.append((losses.clone(), grad.clone()))
        return z


@pytest.mark.parametrize("gradient", ["bpda", "twin"])
def test_a_step_follows_the_mean_gradient_of_the_cushions_that_were_drawn(gradient, images, labels, drawn):
    """Each drawn cushion in front of the network by itself, an image at a time."""
    victim = toy_victim(3, shields=True, cushion=RANDOM, gradient=gradient)
    recorder, ids = Recorder(), torch.arange(N) * 5 + 2
    objective = CarliniWagner() + 0.3 * ShieldLogit()
    attack = Attack(objective=objective, rule=recorder, steps=2, samples=3)
    attack.run(victim, images, labels, eps=EPS, ids=ids)
    looks = [specs for stream, specs in drawn if stream.startswith("victim/attack/0/")]
    assert len(looks) == 6
    assert len({tuple(specs.values()) for specs in looks}) == 6, "some draw was taken twice"
    for step, (losses, grad) in enumerate(recorder.told):
        for i in range(N):
            found = []
            for specs in looks[3 * step : 3 * step + 3]:
                one = Recorder()
                spec = specs[int(ids[i])]
                rows = slice(i, i + 1)
                Attack(objective=objective, rule=one, steps=1).run(
                    alone(victim, spec, gradient=gradient), images[rows], labels[rows], eps=EPS
                )
                found.append(one.told[0])
            expected = [torch.stack(values).mean(0)[0] for values in zip(*found, strict=True)]
            torch.testing.assert_close(losses[i], expected[0], rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(grad[i], expected[1], rtol=1e-3, atol=1e-5)


class Bump(nn.Module):
    """The first logit is h, the mean over pixels of 5 (p - 0.3) above 0.3 and of 0.3 - p below; the second 0.3.

    A pixel of 100 shown as it is says: down, with slope 5. Cut to 64 by `bits:7:mid` it says: up, with slope 1, and
    nothing that happens to it within the bin changes what is seen.
    """

    def __init__(self) -> None:
        super().__init__()
        self.tap = nn.Identity()
        self.edge = nn.Parameter(torch.tensor(0.3))

    def forward(self, x):
        h = (5 * (x - self.edge).relu() + (self.edge - x).relu()).mean((1, 2, 3))
        return self.tap(torch.stack([h, torch.full_like(h, 0.3)], 1))


def test_expectation_beats_a_single_draw_where_single_draws_contradict_each_other():
    """The mean gradient is (5 - 1) / 2: down. A single draw's sign is a coin, so its walk leads nowhere."""
    classifier = Classifier(
        Bump(), classes=["a", "b"], size=SIZE, channels="gray", taps=["tap"], backbone="bump", mean=(0.0,), std=(1.0,)
    ).eval()
    victim = Victim(classifier, cushion=parse_cushion("random:none+bits:7:mid"), dtype=torch.float32)
    plain = Victim(classifier, dtype=torch.float32)
    x, labels = torch.full((40, 1, SIZE, SIZE), 100 / 255), torch.zeros(40, dtype=torch.int64)
    assert not plain.judge(x).predicted.any()
    attack = Attack(objective=CarliniWagner(), rule=Descent(), steps=10, step_size=0.25)
    margins, shares = {}, {}
    for samples in (1, 8):
        found = attack.with_options(samples=samples).run(victim, x, labels, eps=EPS)
        logits = plain.judge(found.images).logits
        margins[samples] = (logits[:, 0] - logits[:, 1]).mean().item()
        shares[samples] = (logits[:, 0] < logits[:, 1]).float().mean().item()
        assert found.forwards == found.backwards == 40 * 10 * samples
    best = attack.run(plain, x, labels, eps=EPS)
    assert bool(best.broken.all()), "without chance in it the same walk succeeds"
    assert shares[8] > 0.9 > shares[1] + 0.3
    assert margins[8] < margins[1] - 0.05


@pytest.mark.parametrize(
    ("name", "restarts"), [("bim", 1), ("pgd", 3), ("sma", 1), ("hfc", 1), ("square-guard", 1), ("auto-guard", 1)]
)
def test_no_attack_meets_the_draw_that_judges(name, restarts, victim, images, labels, drawn):
    """Every draw but the last is from another stream; the last is one per image, and gives the verdict."""
    entry = find_attack(name)
    attack = entry.attack.with_options(steps=min(3, entry.attack.steps), samples=2)
    if restarts > 1:
        attack = attack.with_options(restarts=restarts)
    ids, targets = torch.arange(N) * 3 + 1, pick_targets(labels, 3)
    features = victim.pooled(toy_images(60, victim.exact, seed=8), victim.exact.taps)
    normal = fit_mixtures(features, torch.arange(60) % 3)
    guides = toy_images(N, victim.exact, seed=5)
    drawn.clear()
    options = {"eps": EPS, "targets": targets, "guides": guides, "normal": normal, "ids": ids, "seed": 4}
    found = attack.run(victim, images, labels, **options)
    *walked, (stream, judging) = drawn
    assert stream == "victim/verdict"
    assert sorted(judging) == ids.tolist()
    assert all(other != stream for other, _ in walked)
    for i, image in enumerate(ids.tolist()):
        verdict = alone(victim, judging[image]).judge(found.images[i : i + 1])
        torch.testing.assert_close(found.verdict.logits[i], verdict.logits[0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(found.verdict.score[i], verdict.score[0], rtol=1e-4, atol=1e-5)
        assert bool(found.broken[i]) == bool(found.fooled[i] & verdict.accepted[0])
    drawn.clear()
    order = torch.arange(N).flip(0)
    options |= {key: options[key][order] for key in ("targets", "guides", "ids")}
    again = attack.run(victim, images[order], labels[order], **options, batch_size=3)
    assert torch.equal(again.images[order], found.images)
    assert torch.equal(again.broken[order], found.broken)
    assert (again.forwards, again.backwards) == (found.forwards, found.backwards)


def test_draws_on_the_way_tell_nothing_of_the_one_that_judges(victim, drawn):
    """Of many images, the judging draw is among the choices as often as chance has it, whatever was met before."""
    images = toy_images(400, victim.exact, seed=3)
    attack = Attack(objective=CrossEntropy(), steps=1)
    attack.run(victim, images, victim.verdicts(images).predicted, eps=EPS, batch_size=400)
    (_, met), (_, judging) = [one for one in drawn if one[0] == "victim/attack/0/0/0"] + drawn[-1:]
    choices = len(parse_cushion(RANDOM).choices)
    equal = sum(met[image] == judging[image] for image in judging)
    expected = 400 / choices
    assert chisquare([equal, 400 - equal], [expected, 400 - expected]).pvalue > 0.01


def test_success_on_the_way_must_hold_under_every_draw_of_the_attackers_own(victim):
    """One that is broken under a lucky draw alone is attacked again, by restarts and in an ensemble."""
    images, eps = toy_images(24, victim.exact), 4 / 256
    labels = victim.verdicts(images).predicted
    attack = Attack(objective=CarliniWagner() + ShieldLogit(), steps=2, random_start=True, restarts=4)
    spent = {samples: attack.with_options(samples=samples) for samples in (1, 6)}
    runs = {samples: one.run(victim, images, labels, eps=eps) for samples, one in spent.items()}
    images_walked = {samples: run.forwards / (2 * samples) for samples, run in runs.items()}
    assert 24 < images_walked[1] < images_walked[6] <= 4 * 24
    short = dataclasses.replace(attack, restarts=1)
    walked = {}
    for samples in (1, 6):
        ensemble = Ensemble(tuple([Member(short)] * 4)).with_options(samples=samples)
        assert ensemble.samples == samples
        walked[samples] = ensemble.run(victim, images, labels, eps=eps).forwards / (2 * samples)
    assert 24 < walked[1] < walked[6] <= 4 * 24


def test_an_image_is_judged_by_the_same_draw_whatever_attacks_it(victim, images, labels, drawn):
    seen = []
    for attack in (find_attack("fgsm").attack, find_attack("auto-guard").attack.with_options(steps=2)):
        attack.run(victim, images, labels, eps=EPS, seed=9)
        seen.append(drawn[-1])
    surrogate = toy_victim(3, seed=5)
    transfer(find_attack("fgsm").attack, surrogate, victim, images, labels, eps=EPS, seed=9)
    seen.append(drawn[-1])
    victim.verdicts(images, torch.arange(N), seed=9)
    seen.append(drawn[-1])
    assert all(one == seen[0] for one in seen)
    victim.verdicts(images, torch.arange(N), seed=8)
    assert drawn[-1] != seen[0]


def test_samples_are_one_where_nothing_that_is_looked_at_is_random(images, labels):
    attack = Attack(objective=CarliniWagner(), steps=4)
    for options in ({"cushion": "jpeg:60"}, {"cushion": RANDOM, "gradient": "skip"}):
        victim = toy_victim(3, **options)
        one, many = (attack.with_options(samples=k).run(victim, images, labels, eps=EPS) for k in (1, 5))
        same(one, many)
        assert (many.forwards, many.backwards) == (one.forwards, one.backwards) == (4 * N, 4 * N)
    with pytest.raises(ConfigError, match="samples=0"):
        attack.with_options(samples=0)


def test_results_repeat_with_the_seed_and_differ_without(victim, images, labels):
    attack = Attack(objective=CarliniWagner(), steps=4, samples=2)
    one, again, other = (attack.run(victim, images, labels, eps=EPS, seed=seed) for seed in (1, 1, 2))
    same(one, again)
    assert not torch.equal(one.images, other.images)
    assert ((one.images - images).abs() * 255).round().max() <= round(255 * EPS)


def test_nobody_looks_or_judges_before_a_draw(victim, images):
    for call in (victim.judge, lambda x: victim.suspicion(x, torch.zeros(N, dtype=torch.int64))):
        with pytest.raises(ConfigError, match="nothing is drawn"):
            call(images)
    with pytest.raises(ConfigError, match="draw first"):
        victim.redrawn("0/0")


def test_a_universal_perturbation_is_learned_over_draws(victim, images, labels, drawn):
    Universal(steps=2, learning_batch=4).learn(victim, images, labels, eps=EPS)
    assert len(drawn) == 4
    assert {stream for stream, _ in drawn} == {"victim/universal/None/0", "victim/universal/None/1"}
    assert sorted([*drawn[0][1], *drawn[1][1]]) == list(range(N))


@pytest.mark.parametrize("name", ["square", "spsa"])
def test_a_search_gets_one_answer_a_query(name, victim, images, labels):
    attack = find_attack(name).attack.with_options(steps=6)
    costs = {attack.with_options(samples=n).run(victim, images, labels, eps=EPS).forwards for n in (1, 4)}
    assert costs == {6 * N}
