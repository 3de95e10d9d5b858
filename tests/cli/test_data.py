"""`medaegis data inspect`: what is told of a set before anything is trained on it."""

import json
from pathlib import Path

import numpy as np
from PIL import Image
from tests.cli.shop import call


def grades(folder: Path, sizes: dict[str, int], *, of: str = "patient") -> Path:
    """A table with this many images of each class, and for each its patient, if one is to be known."""
    random, lines = np.random.default_rng(0), []
    for label, n in sizes.items():
        for i in range(n):
            name = f"{label}-{i}.png"
            Image.fromarray(random.integers(0, 256, (16, 16), dtype=np.uint8)).save(folder / name)
            lines.append(f"{name},{label},{label}{i // 2}")
    file = folder / "grades.csv"
    file.write_text("\n".join([f"image,label,{of}", *lines]))
    return file


def test_a_class_too_small_for_a_threshold_is_told_by_name(tmp_path: Path) -> None:
    file = grades(tmp_path, {"mild": 120, "severe": 40})
    told = call("data", "inspect", f"csv:{file}", "--size", 8, "--json")
    assert told.exit_code == 0
    found = json.loads(told.stdout)
    held = found["split"]["val"]["images"]["severe"]
    assert 0 < held < 10
    assert [remark for remark in found["remarks"] if f"'severe' has 40 images, {held} of them" in remark]
    assert found["split_by"] == "patient"
    assert found["groups"] == 80
    shown = call("data", "inspect", f"csv:{file}", "--size", 8)
    assert "split by patient, seed 0" in shown.stdout
    assert "Patients" in shown.stdout
    assert f"{held} of them for validation" in shown.stderr


def test_a_class_too_small_for_a_split_is_told_by_name_with_the_size_of_all(tmp_path: Path) -> None:
    told = call("data", "inspect", f"csv:{grades(tmp_path, {'mild': 60, 'severe': 3})}", "--size", 8)
    assert told.exit_code == 2
    assert "Images: mild 60, severe 3" in told.stderr
    assert "no image of class 'severe' (2 patients in all)" in told.stderr


def test_no_split_by_patient_where_no_patients_are_known(tmp_path: Path) -> None:
    shown = call("data", "inspect", f"csv:{grades(tmp_path, {'a': 40, 'b': 40}, of='eye')}", "--size", 8)
    words = shown.stdout + shown.stderr
    assert "split by image, for no patients are known" in words
    assert "by patient" not in words
    assert "Patients" not in shown.stdout
