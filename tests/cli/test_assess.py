"""`medaegis assess` on the shared classifier: its files, its exit code, and what it refuses."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from tests.cli.shop import SMALL, Shop, call

from medaegis.bench.analyse import figures
from medaegis.bench.records.assessment import Assessment

OPTIONS = ("--attacks", "fgsm,bim,deepfool", "--eps", "4/256,16/256", "--steps", 4, "--limit", 6)


@pytest.fixture(autouse=True)
def _small_pictures(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(figures, "DPI", 60)


def test_a_classifier_is_assessed(shop: Shop, tmp_path: Path):
    out = tmp_path / "a"
    result = call("assess", shop.classifier, shop.spec, *OPTIONS, "--out", out, "--json")
    told = json.loads(result.stdout)
    failed = [control for control in told["controls"] if control["passed"] is False]
    assert result.exit_code == (1 if failed else 0), result.stderr
    found = Assessment.model_validate_json((out / "assessment.json").read_bytes())
    assert told == {**found.model_dump(mode="json"), "out": str(out)}
    assert [(t.attack, t.eps_text, t.steps) for t in found.attacks] == [
        *(("fgsm", eps, 1) for eps in ("4/256", "16/256")),
        *(("bim", eps, 4) for eps in ("4/256", "16/256")),
        ("deepfool", "smallest", 50),
    ]
    assert found.chosen == 6
    assert "--attacks fgsm,bim,deepfool" in found.command
    assert (out / "robust-accuracy.png").is_file()
    assert str(shop.root) not in (out / "assessment.json").read_text() + (out / "assessment.md").read_text()

    more = call("assess", shop.classifier, shop.spec, *OPTIONS, "--cascade", 12, "--out", tmp_path / "more", "--json")
    assert [row["n"] > found.attacked for row in json.loads(more.stdout)["cascade"]] == [True, True]
    assert "Over more images" in (tmp_path / "more" / "assessment.md").read_text()

    again = call("assess", shop.classifier, shop.spec, *OPTIONS, "--out", out)
    assert again.exit_code == result.exit_code
    assert "Worst case" in again.stdout
    assert "Full success far out" in again.stdout
    assert "Robust accuracy" in again.stdout


def test_a_failed_control_is_an_exit_code(shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from medaegis.bench import assess

    near = replace(SMALL, far_eps=1 / 256)  # so near that the attack does not succeed on all
    monkeypatch.setattr(assess, "assess_classifier", partial(assess.assess_classifier, effort=near))
    options = ("--attacks", "bim", "--eps", "1/256", "--limit", 8, "--out", tmp_path)
    result = call("assess", shop.classifier, shop.spec, *options)
    assert result.exit_code == 1
    assert "FAILED" in result.stdout


def test_all_takes_in_whatever_stands_beside_it(shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from medaegis.bench import plan

    monkeypatch.setattr(plan, "every_attack", lambda classes, task: ["fgsm"])
    options = ("--attacks", "pgd,all", "--eps", "4/256", "--limit", 2, "--out", tmp_path, "--json")
    told = json.loads(call("assess", shop.classifier, shop.spec, *options).stdout)
    assert [tried["attack"] for tried in told["attacks"]] == ["fgsm"]


def test_what_does_not_fit_is_told_in_a_line(shop: Shop, tmp_path: Path):
    out = tmp_path / "out"
    for code, problem, given in (
        (2, "not in the catalogue", (shop.spec, "--attacks", "pgd,zap")),
        (2, "take 'cw-linf'", (shop.spec, "--attacks", "wb")),
        (2, "needs 4 classes", (shop.spec, "--attacks", "apgd-dlr")),
        (2, "radius", (shop.spec, "--eps", "8")),
        (2, "jpeg", (shop.spec, "--cushion", "jpg")),
        (2, "its classes are clear, opacity", ("phantom-xray?n=60", "--attacks", "fgsm")),
        (2, "other images", (shop.spec, "--images", 100, "--attacks", "fgsm")),
    ):
        result = call("assess", shop.classifier, *given, "--out", out)
        assert result.exit_code == code, result.output
        assert problem in result.stderr
        assert not out.exists()
    guard = call("assess", shop.guard, shop.spec, "--out", out)
    assert guard.exit_code in (1, 2)
    assert not out.exists()
