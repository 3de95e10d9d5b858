"""No step of an attack waits for the device: on torch's meta device a host read, or a tensor left behind, raises."""

import copy

import pytest
import torch
from tests.attacks.toys import toy_bank, toy_classifier, toy_images

from medaegis.attacks.addons import ADD_ONS
from medaegis.attacks.catalogue import CATALOGUE, find_attack
from medaegis.attacks.engine import Attack
from medaegis.attacks.normal import fit_mixtures
from medaegis.attacks.objective import Goal
from medaegis.attacks.victim import Victim
from medaegis.cushions import parse_cushion
from medaegis.draws import Draws

N = 6
WALKS = [name for name, entry in CATALOGUE.items() if isinstance(entry.attack, Attack)]


@pytest.fixture(scope="module")
def scene():
    """A guard on the meta device, and a goal for images there, with guides and normal features."""
    classifier = toy_classifier(4)
    victim = Victim(classifier, cushion=parse_cushion("jpeg:80"), shields=toy_bank(classifier), dtype=torch.float32)
    known = toy_images(40, classifier)
    normal = fit_mixtures(victim.pooled(known, ("relu",)), torch.arange(40) % 4)
    away = copy.copy(victim)
    away.exact = away.fast = copy.deepcopy(victim.exact).to("meta")
    away.shields = copy.deepcopy(victim.shields).to("meta")
    x = torch.empty(known[:N].shape, device="meta")
    numbers = torch.empty(N, dtype=torch.int64, device="meta")
    return away, x, Goal(numbers, numbers, x, normal.to("meta"))


@pytest.mark.parametrize("gradient", ["bpda", "twin"])
@pytest.mark.parametrize("name", [*WALKS, *(f"pgd+{name}" for name in ADD_ONS)])
def test_no_step_waits_for_the_device(scene, name, gradient):
    victim, x, goal = scene
    eps = torch.empty(N, 1, 1, 1, device="meta")
    attack = find_attack(name).attack.with_options(steps=3)
    draws = Draws(0, goal.labels, "attack")
    start = attack.ball.random(x, eps, draws) if attack.random_start else x
    found, steps = attack.descend(victim.by(gradient), x, goal, eps, start, draws)
    assert (found.device.type, found.shape, steps) == ("meta", x.shape, 3)
    assert attack.ball.to_8bit(found, x, eps).device.type == "meta"


@pytest.mark.parametrize("name", ["pgd", "wb"])
def test_no_step_behind_a_random_cushion_waits_for_the_device(scene, name):
    """Draws of Cushions stay on the processor, which sorts the images by them."""
    victim, x, goal = scene
    eps = torch.empty(N, 1, 1, 1, device="meta")
    attack = find_attack(name).attack.with_options(steps=2, samples=3)
    drawn = victim.behind(parse_cushion("random:jpeg:60-95")).drawn(torch.arange(N), seed=0, stream="attack/0")
    found, steps = attack.descend(drawn, x, goal, eps, x, Draws(0, goal.labels, "attack"))
    assert (found.device.type, found.shape, steps) == ("meta", x.shape, 2)
