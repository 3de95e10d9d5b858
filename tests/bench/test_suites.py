"""Suites name attacks that there are, and those alone that fit the classifier are run."""

from pathlib import Path

import pytest
from tests.models.tiny_networks import tiny

from medaegis.attacks.balls import parse_eps
from medaegis.attacks.catalogue import CATALOGUE, find_attack
from medaegis.bench.plan import plan
from medaegis.bench.suites import SUITES, applicable, find_suite, plan_suite
from medaegis.errors import ConfigError
from medaegis.guard.guard import Guard


@pytest.mark.parametrize("name", SUITES)
def test_every_suite_can_be_planned(name):
    suite = find_suite(name)
    assert suite.about
    assert all(find_attack(attack) for attack in suite.attacks)
    assert len(set(suite.attacks)) == len(suite.attacks)
    assert all(0 < parse_eps(eps) <= 16 / 256 for eps in (*suite.eps, *suite.l2_eps))
    assert any(CATALOGUE[attack].adaptive for attack in suite.attacks), "an evaluation without them shows little"


def test_attacks_that_need_more_classes_are_left_out():
    assert set(CATALOGUE) - set(applicable(tuple(CATALOGUE), 2)) == {"apgd-dlr"}
    assert applicable(tuple(CATALOGUE), 4) == list(CATALOGUE)


@pytest.mark.parametrize(("suite", "ways"), [("quick", [8]), ("standard", [1, 4, 8, 16])])
def test_the_quick_suite_goes_other_ways_through_the_cushion_at_one_eps_alone(suite, ways):
    guard = Guard.load(Path("tests/golden/guard"), factory=tiny)
    sizes = [f"{eps}/256" for eps in ([4, 8, 16] if suite == "quick" else ways)]
    for given in (None, sizes, sizes[::-1]):
        cells = plan_suite(guard, suite, eps=given).cells
        for way in ("twin", "skip"):
            there = sorted(round(cell.eps * 256) for cell in cells if cell.gradient == way)
            assert there == ways


def test_an_unknown_suite_is_told():
    with pytest.raises(ConfigError, match="quick"):
        find_suite("slow")


def test_the_paper_suite_is_the_papers():
    """Medical Aegis, section 4.1: L-infinity 16/256, L2 8/256, WB and WB_d, feature match and HFC with 100 steps."""
    suite = find_suite("paper")
    cells = plan(
        suite.attacks,
        [(text, parse_eps(text)) for text in suite.eps],
        l2_eps=[(text, parse_eps(text)) for text in suite.l2_eps],
        transferred=["pgd-l2"],
    )
    assert {cell.attack: cell.eps_text for cell in cells} == {
        **dict.fromkeys(suite.attacks, "16/256"),
        **dict.fromkeys(("pgd-l2", "cw-l2"), "8/256"),
    }
    longest = {cell.attack: max(c.value.steps for c in cells if c.attack == cell.attack) for cell in cells}
    assert all(longest[name] == 100 for name in ("wb", "wb-decay", "feature-match", "hfc", "shield-only"))
