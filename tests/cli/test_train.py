"""`medaegis train`: what it says of a classifier that has learned nothing, and of grades."""

import json
import re
from pathlib import Path

import pytest
from tests.cli.shop import call
from tests.cli.test_data import grades


@pytest.fixture(scope="module")
def noise(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Three grades of pure noise: nothing tells them apart."""
    return f"csv:{grades(tmp_path_factory.mktemp('noise'), {'0': 60, '1': 60, '2': 30})}"


def test_a_classifier_that_tells_nothing_apart_is_not_sent_on_to_fit(noise: str, tmp_path: Path):
    options = ("--size", 16, "--channels", "gray", "--epochs", 1, "--device", "cpu", "--val-share", 0.2)
    shown = call("train", noise, *options, "--out", tmp_path / "classifier")
    assert shown.exit_code == 0, shown.output
    told = " ".join((shown.stdout + shown.stderr).split())
    assert "Warning: this classifier is no better than chance" in told
    assert "medaegis fit" not in told
    assert "--epochs" in told.split("Next:")[1]
    assert "Quadratic kappa" in shown.stdout
    assert "as 2" in told
    assert re.search(r"class '2' has 30 images, \d of them for validation", told)
    again = json.loads(call("train", noise, *options, "--out", tmp_path / "classifier", "--json").stdout)
    assert "test images" in again["no_use"]
    test = again["metrics"]["adv_test"]
    assert sum(map(sum, test["confusion"])) == test["n"]
    assert -1 <= test["quadratic_kappa"] <= 1
    split = json.loads((tmp_path / "classifier" / "split.json").read_text())
    assert split["fractions"][1] == 0.2
    assert len(split["val"]) == pytest.approx(30, abs=3)


def test_shares_that_leave_too_little_to_learn_from_are_refused(noise: str, tmp_path: Path):
    shown = call("train", noise, "--val-share", 0.4, "--test-share", 0.38, "--out", tmp_path / "classifier")
    assert shown.exit_code == 2
    assert "val share 0.4 and test share 0.38" in " ".join((shown.stdout + shown.stderr).split())


def test_a_training_that_scores_no_epoch_tells_its_cost_all_the_same(noise: str, tmp_path: Path):
    options = ("--size", 16, "--channels", "gray", "--epochs", 1, "--device", "cpu", "--robust", "teacher")
    shown = call("train", noise, *options, "--temperature", 5, "--out", tmp_path / "teacher")
    assert shown.exit_code == 0, shown.output
    told = " ".join((shown.stdout + shown.stderr).split())
    assert "1 epochs of" in told
    assert "kept: epoch" not in told
