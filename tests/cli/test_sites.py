"""Another site by the command line: calibrated, measured, and set beside the home site."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.cli.shop import SIDE, Shop, call

from medaegis.guard.guard import Guard


@pytest.fixture(scope="module")
def clinic(shop: Shop, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The same patients before another scanner, every pixel 20 levels brighter."""
    folder = tmp_path_factory.mktemp("clinic") / "data"
    for file in sorted((shop.root / "data").rglob("*.png")):
        place = folder / file.relative_to(shop.root / "data")
        place.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.asarray(Image.open(file)).astype(int) + 20
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(place)
    return f"folder:{folder}"


def test_a_site_is_calibrated_measured_and_set_beside_the_home(shop: Shop, clinic: str, tmp_path: Path):
    secret = shop.root / "keys" / "signing-key.pem"
    spec = f"{clinic}?classes=clear,disc"
    shown = call("calibrate", shop.guard, spec, "--sign", secret, "--out", tmp_path / "guard")
    assert shown.exit_code == 0, shown.output
    words = " ".join((shown.stdout + shown.stderr).split())
    assert "Not the images of the fit: taken as another site, 240 images" in words
    assert "needs 10 for its own" in words
    assert "no better than chance" not in words
    assert f"Next: medaegis evaluate {tmp_path / 'guard'} '{spec}' --out EVALUATION_DIR" in words
    assert "Accepted diagnoses that are right" in words
    home, made = Guard.load(shop.guard), Guard.load(tmp_path / "guard", public_key=shop.public_key)
    assert made.calibration["guard"] == home.digest
    assert str(shop.root) not in json.dumps(made.calibration)

    options = ("--attacks", "fgsm", "--eps", "8/256", "--limit", 4, "--no-planted", "--json")
    found = {}
    for name, guard, spec in (("home", shop.guard, shop.spec), ("clinic", tmp_path / "guard", clinic)):
        result = call("evaluate", guard, spec, *options, "--out", tmp_path / name)
        assert result.exit_code in (0, 1), result.output
        found[name] = json.loads((tmp_path / name / "evaluation.json").read_text())
    assert (found["home"]["data"]["site"], found["clinic"]["data"]["site"]) == ("of the fit", "another")
    assert found["clinic"]["guard"]["calibrated_from"] == home.digest
    after = made.calibration["after"]
    assert found["clinic"]["clean"]["tnr_reached"] == pytest.approx(after["accepted"]["value"])
    assert found["clinic"]["clean"]["accuracy_accepted"] == pytest.approx(after["accuracy_accepted"]["value"])
    page = call("report", tmp_path / "home", tmp_path / "clinic", "--out", tmp_path / "sites.html")
    assert page.exit_code == 0, page.output
    assert "One guard at 2 sites" in (tmp_path / "sites.html").read_text(encoding="utf-8")


def test_a_site_where_the_classifier_knows_nothing_is_told(shop: Shop, tmp_path: Path):
    folder = tmp_path / "data"
    rng = np.random.default_rng(8)
    for i in range(150):
        place = folder / ("clear", "disc")[i % 2] / f"patient-{i}"
        place.mkdir(parents=True)
        Image.fromarray(rng.normal(90, 12, (SIDE, SIDE)).clip(0, 255).astype(np.uint8)).save(place / "0.png")
    result = call("calibrate", shop.guard, f"folder:{folder}", "--out", tmp_path / "guard")
    assert result.exit_code == 0, result.output
    assert "the classifier is no better than chance" in result.stderr
    assert "do not use it at this site" in result.stderr
    words = " ".join(result.stdout.split())
    predicted = Guard.load(tmp_path / "guard").calibration["thresholds"]
    for name, told in predicted.items():  # classes of the table are those of the diagnoses, as the thresholds' are
        assert f"{name} {told['images']} " in words


def test_images_of_the_fit_among_those_of_the_site_are_left_out_and_counted(shop: Shop, clinic: str, tmp_path: Path):
    folder = Path(shutil.copytree(clinic.removeprefix("folder:"), tmp_path / "data"))
    known = json.loads((shop.classifier / "split.json").read_text())["train"][0]
    names = sorted(path.relative_to(shop.root / "data") for path in (shop.root / "data").rglob("*.png"))
    shutil.copy(shop.root / "data" / names[known], folder / names[known])
    result = call("calibrate", shop.guard, f"folder:{folder}", "--out", tmp_path / "guard")
    assert result.exit_code == 0, result.output
    assert "3 images are left out" in result.stderr
    assert Guard.load(tmp_path / "guard").calibration["site"]["left_out"] == 3


def test_the_data_of_the_fit_are_no_other_site(shop: Shop, tmp_path: Path):
    result = call("calibrate", shop.guard, shop.spec, "--out", tmp_path / "guard")
    assert result.exit_code == 2
    assert "the guard learned from" in result.stderr
    assert not (tmp_path / "guard").exists()
