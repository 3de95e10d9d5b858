"""Evaluating a guard with a random Cushion: stored verdicts against the deterministic cushions that were drawn."""

import pytest
import torch
from tests.bench.small import fitted

from medaegis.attacks.victim import Victim
from medaegis.bench.analyse.subjects import Plan, Subjects
from medaegis.bench.compare import compare_detectors
from medaegis.bench.evaluate import RANDOM_CUSHION, evaluate_guard
from medaegis.bench.plan import Planned, plan
from medaegis.bench.store import Store
from medaegis.cushions import parse_cushion
from medaegis.errors import ConfigError
from medaegis.guard.guard import Guard
from medaegis.guard.site import Site

RANDOM = "random:jpeg:40-60+bits:3-4"


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    guard, dataset, split = fitted(tmp_path_factory.mktemp("work"))
    return Guard(guard.classifier, parse_cushion(RANDOM), guard.bank, tnr=guard.tnr), dataset, split


def test_verdicts_are_those_of_the_judging_draws(scene, tmp_path, monkeypatch):
    guard, dataset, split = scene
    pieces, ask = [], Store.get

    def get(self, key, compute):
        piece = ask(self, key, compute)
        pieces.append((key, piece))
        return piece

    monkeypatch.setattr(Store, "get", get)
    cells = [Planned("bim", 8 / 256, "8/256", steps=2, samples=3)]
    options = {"cells": cells, "limit": 12, "planted": False, "seed": 5}
    found = evaluate_guard(guard, Site(dataset, split), out_dir=tmp_path / "a", **options)
    (cell,) = found.cells
    assert found.threat_model.endswith(RANDOM_CUSHION)
    assert (cell.id, cell.samples) == ("bim-8of256-2x1-bpda-3draws", 3)
    assert cell.forwards == cell.backwards == 3 * 2 * cell.n
    for key, piece in pieces:
        specs = guard.cushion.draw(5, "victim/verdict", key["ids"]).specs
        for i, spec in enumerate(specs):
            victim = Victim(guard.classifier, cushion=parse_cushion(spec), shields=guard.bank, dtype=torch.float32)
            verdict = victim.judge(piece["images"][i : i + 1].float() / 255)
            assert piece["predicted"][i] == verdict.predicted[0]
            assert piece["accepted"][i] == verdict.accepted[0]
            torch.testing.assert_close(piece["score"][i], verdict.score[0], rtol=1e-4, atol=1e-4)
    again = evaluate_guard(guard, Site(dataset, split), out_dir=tmp_path / "b", **options)
    left_out = {"seconds"}
    assert again.cells[0].model_dump(exclude=left_out) == cell.model_dump(exclude=left_out)
    assert again.clean == found.clean


def test_a_plan_carries_the_samples_into_every_cell():
    cells = plan(["pgd", "wb", "square-guard"], [("8/256", 8 / 256)], samples=4, other_ways=["twin"])
    assert len({cell.id for cell in cells}) == len(cells) == 6
    for cell in cells:  # a query has one answer
        assert cell.samples == cell.value.samples == (1 if cell.attack == "square-guard" else 4)


def test_what_happens_inside_is_not_shown_by_chance(scene, tmp_path):
    guard, dataset, split = scene
    test = dataset.subset(split.adv_test)
    for victim, cushion in ((guard.victim(), "none"), (Victim(guard.classifier), RANDOM)):
        with pytest.raises(ConfigError, match="is random, and what is looked at here is one network"):
            Subjects(victim, test, Plan(cushion=parse_cushion(cushion)), Store(tmp_path), key={})


def test_detectors_are_not_compared_by_chance(scene, tmp_path):
    guard, dataset, split = scene
    with pytest.raises(ConfigError, match="is random, and detectors are compared on the same pixels"):
        compare_detectors(
            guard.classifier,
            dataset,
            split,
            detectors=["kde"],
            attacks=["fgsm"],
            learn_from="fgsm",
            eps=8 / 256,
            eps_text="8/256",
            cushions=["none", RANDOM],
            out_dir=tmp_path,
        )
