"""`medaegis analyse` on the shared guard and classifier: its files, and its figures against `medaegis attack`."""

import json
from pathlib import Path

import pytest
from PIL import Image
from tests.cli.shop import Shop, call

from medaegis.bench.analyse import figures

FIGURES = ("tsne", "attention", "activations", "landscape", "direction", "stress", "spectra")


@pytest.fixture(autouse=True)
def _small_pictures(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(figures, "DPI", 60)


def test_a_guard_is_shown_under_the_very_attack_that_attack_runs(shop: Shop, tmp_path: Path):
    options = ("--attack", "wb", "--eps", "4/256", "--steps", 3, "--limit", 9, "--seed", 5, "--gradient", "twin")
    result = call("analyse", shop.guard, shop.spec, *options, "--examples", 2, "--out", tmp_path / "a", "--json")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    kept = json.loads((tmp_path / "a" / "analysis.json").read_text())
    assert {told[name] == kept[name] for name in ("n", "fooled", "undetected")} == {True}
    attacked = json.loads(call("attack", shop.guard, shop.spec, *options, "--out", tmp_path / "b", "--json").stdout)
    assert (told["n"], told["fooled"], told["undetected"]) == (
        attacked["images"],
        attacked["fooled"],
        attacked["undetected"],
    )
    assert kept["digest"] == attacked["guard"]
    assert kept["gradient"] == attacked["gradient"] == "twin"
    assert set(kept["stress"]["cushions"]) == {"jpeg:80", "none"}
    assert kept["direction"]["steps"] == [1, 2, 3]
    for name in FIGURES:
        with Image.open(tmp_path / "a" / f"{name}.png") as picture:
            assert picture.height > 50
        assert (tmp_path / "a" / f"{name}.svg").stat().st_size > 1000
    page = (tmp_path / "a" / "analysis.html").read_text(encoding="utf-8")
    assert str(shop.root) not in page + json.dumps(kept)  # paths say something about this machine only
    assert "wb, ε = 4/256, 3 steps" in page


def test_a_classifier_alone_is_shown_too(shop: Shop, tmp_path: Path):
    options = ("--steps", 2, "--limit", 8, "--cushion", "bits:3", "--out", tmp_path)
    result = call("analyse", shop.classifier, shop.spec, *options)
    assert result.exit_code == 0, result.output
    assert "Told apart at" in result.stdout
    kept = json.loads((tmp_path / "analysis.json").read_text())
    assert (kept["undetected"], kept["gradient"]) == (None, None)
    assert kept["landscape"]["suspicion"] is None
    assert kept["spectra"]["cushion"] == "bits:3"
    assert set(kept["stress"]["cushions"]) == {"none"}


def test_what_does_not_fit_is_told_in_a_line(shop: Shop, tmp_path: Path):
    out = tmp_path / "out"
    for code, problem, options in (
        (2, "aimed at a Shield", (shop.classifier, shop.spec, "--attack", "wb")),
        (2, "no tap", (shop.classifier, shop.spec, "--layer", "layer9")),
        (2, "too few", (shop.guard, shop.spec, "--limit", 3)),
        (2, "the guard learned from", (shop.guard, shop.spec, "--images", 120)),
        (2, "without a Cushion", (shop.classifier, shop.spec, "--gradient", "twin")),
        (2, "a guard has its own", (shop.guard, shop.spec, "--cushion", "jpeg:80")),
        (2, "less than a grey level", (shop.guard, shop.spec, "--eps", "0.0035")),
        (1, "manifest.json", (tmp_path, shop.spec)),
    ):
        result = call("analyse", *options, "--out", out)
        assert result.exit_code == code, result.output
        assert problem in result.stderr
        assert "Traceback" not in result.stderr
        assert not out.exists()
