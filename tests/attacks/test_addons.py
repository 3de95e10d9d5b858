"""Add-ons joined by name are the attacks that one would put together by hand."""

import pytest
import torch
from tests.attacks.toys import toy_images, toy_labels, toy_victim

from medaegis.attacks.addons import ADD_ONS, obstacle
from medaegis.attacks.balls import L2
from medaegis.attacks.catalogue import CATALOGUE, find_attack
from medaegis.attacks.engine import Attack
from medaegis.attacks.entry import CatalogueEntry
from medaegis.attacks.losses.answer import CrossEntropy
from medaegis.attacks.losses.hfc import HierarchicalFeature
from medaegis.attacks.normal import fit_mixtures
from medaegis.attacks.steps import Descent
from medaegis.attacks.transforms import InputDiversity, Smoothing
from medaegis.bench.plan import Planned, check_attacks
from medaegis.bench.suites import applicable
from medaegis.errors import ConfigError

EPS = 32 / 256
TAKEN = [(base, name) for base, entry in CATALOGUE.items() for name in ADD_ONS if obstacle(entry, name) is None]


def test_a_joined_name_is_the_attack_put_together_by_hand():
    hiding = CrossEntropy() + HierarchicalFeature()
    for name, expected in {
        "pgd+hfc": Attack(objective=hiding, random_start=True),
        "pgd-l2+dim": Attack(objective=CrossEntropy(), ball=L2(), random_start=True, transforms=(InputDiversity(),)),
        "pgd+hfc:64": Attack(objective=CrossEntropy() + HierarchicalFeature(64), random_start=True),
        "fgsm+tim": Attack(objective=CrossEntropy(), steps=1, step_size=1.0, transforms=(Smoothing(),)),
        "bim+momentum": Attack(objective=CrossEntropy(), rule=Descent(momentum=1.0)),
        "dim+hfc+momentum": Attack(objective=hiding, rule=Descent(momentum=1.0), transforms=(InputDiversity(),)),
    }.items():
        assert find_attack(name).attack == expected, name
    assert find_attack("pgd+dim+hfc") == find_attack("pgd+hfc+dim")


def test_entries_that_are_others_with_an_add_on_are_these():
    assert find_attack("bim+momentum").attack == find_attack("mim").attack
    assert find_attack("bim+tim+momentum").attack == find_attack("tim").attack
    assert find_attack("wb+hfc").attack == find_attack("wb-hfc").attack
    assert find_attack("bim+hfc").attack.with_options(steps=100) == find_attack("hfc").attack
    assert find_attack("wb-decay+momentum").attack.rule == Descent(momentum=1.0, decay=0.1)


def test_the_rest_of_the_entry_stays():
    found, base = find_attack("wb+tim+hfc"), find_attack("wb")
    assert found.adaptive
    assert found.attack.steps == base.attack.steps
    assert found.title == "White-box (WB), along smoothed gradients, with the hierarchical feature constraint"
    assert found.paper == f"{base.paper}, and Dong 2019, and Yao 2021 (HFC), eq. 7"
    assert find_attack("apgd-dlr+dim").classes == 4
    assert applicable(["apgd-dlr+dim", "pgd+dim"], 2) == ["pgd+dim"]
    assert not find_attack("feature-match+dim").misleads
    assert Planned("pgd+dim+hfc", 8 / 256, "8/256", steps=3).id == "pgd+dim+hfc-8of256-3x1-bpda"


def test_it_makes_the_images_that_its_parts_make():
    victim = toy_victim(2)
    pool = toy_images(120, victim.exact, seed=5)
    known = toy_labels(victim, pool)
    run = {"eps": EPS, "targets": 1 - known[:12], "normal": fit_mixtures(victim.pooled(pool, ("relu", "last")), known)}
    joined = find_attack("bim+hfc").attack.run(victim, pool[:12], known[:12], **run)
    by_hand = Attack(objective=CrossEntropy() + HierarchicalFeature(), steps=10)
    assert torch.equal(joined.images, by_hand.run(victim, pool[:12], known[:12], **run).images)
    assert not torch.equal(joined.images, find_attack("bim").attack.run(victim, pool[:12], known[:12], **run).images)


@pytest.fixture(scope="module")
def scene():
    """A guard, images, what it says of them, and how their features are distributed."""
    victim = toy_victim(4, shields=True)
    pool = toy_images(200, victim.exact, seed=8)
    known = toy_labels(victim, pool)
    return victim, pool[:6], known[:6], fit_mixtures(victim.pooled(pool, ("relu", "last")), known)


@pytest.mark.parametrize(("base", "name"), TAKEN)
def test_every_attack_runs_with_every_add_on_it_takes(base, name, scene):
    """Inside the ball, alike for any batch size, and not the attack without it."""
    victim, images, labels, normal = scene
    run = {"eps": EPS, "targets": (labels + 1) % 4, "guides": images.flip(0), "normal": normal}

    def attacked(name, **options):
        attack = find_attack(name).attack
        return attack.with_options(steps=min(4, attack.steps)).run(victim, images, labels, **run, **options)

    found, alone = attacked(f"{base}+{name}"), attacked(base)
    ball = find_attack(base).attack.ball
    radius = torch.full((6, 1, 1, 1), EPS)
    assert torch.equal(ball.to_8bit(found.images, images, radius), found.images)
    assert torch.equal(found.images, attacked(f"{base}+{name}", batch_size=4).images)
    assert not torch.equal(found.images, alone.images)
    assert (found.forwards, found.backwards) == (alone.forwards, alone.backwards)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("pgd+dim+dim", "has it already"),
        ("hfc+hfc", "has it already"),
        ("wb-hfc+hfc", "has it already"),
        ("tim+tim", "has it already"),
        ("mim+momentum", "has it already"),
        ("fgsm+momentum", "takes one step"),
        ("apgd-ce+momentum", "step rule of its own"),
        ("orthogonal+hfc", "turns its gradients"),
        ("stress-up+hfc", "aims at no wrong answer"),
        ("feature-match+hfc", "aims at no wrong answer"),
        ("cw-l2+hfc", "smallest change"),
        ("square+dim", "without gradients"),
        ("auto+hfc", "not one walk"),
        ("uap+hfc", "not one walk"),
        ("pgd+hfc:0", "'0' is no number of components; write hfc:64"),
        ("pgd+hfc:", "'' is no number of components"),
        ("pgd+hfc:2+hfc", "has it already"),
        ("pgd+dim:2", "takes no number"),
        ("pgd+eot", "choose from momentum, dim, tim, hfc"),
        ("pgd+", "choose from momentum"),
        ("zap+hfc", "not in the catalogue; .*choose from fgsm.*also with .momentum, .dim, .tim, .hfc"),
    ],
)
def test_what_makes_no_sense_is_refused(name, told):
    with pytest.raises(ConfigError, match=told):
        find_attack(name)


def test_an_entry_of_that_very_name_comes_first(monkeypatch):
    entry = CatalogueEntry("By someone else", "an example", Attack(objective=CrossEntropy()))
    monkeypatch.setitem(CATALOGUE, "pgd+dim", entry)
    assert find_attack("pgd+dim") is entry


def test_without_a_shield_the_same_add_ons_are_advised():
    for name, instead in (("wb+tim", "cw-linf[+]tim"), ("wb-hfc+dim", "hfc[+]dim")):
        with pytest.raises(ConfigError, match=f"take '{instead}'"):
            check_attacks([name])
        find_attack(instead.replace("[+]", "+"))
