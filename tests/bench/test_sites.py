"""The page of sites side by side: what it says is in the figures, and what does not belong together is refused."""

import re
from pathlib import Path

import numpy as np
import pytest
from tests.bench.sample import make_sample
from typer.testing import CliRunner

from medaegis.bench.records.archive import EvaluationFolder, read_evaluation, write_evaluation
from medaegis.bench.report.sites import write_sites
from medaegis.cli.app import app
from medaegis.errors import DataError


def site(
    folder: Path, *, accepted=(0.9, 0.86, 0.93), right=(0.95, 0.92, 0.97), shift=0.0, data=None, **options
) -> Path:
    """A made-up evaluation with these shares and bounds, its clean scores moved."""
    found = make_sample(folder, examples=0, **options)
    clean = {"tnr_reached": accepted[0], "accuracy_accepted": right[0]}
    intervals = {**found.evaluation.clean.intervals, "tnr_reached": accepted[1:], "accuracy_accepted": right[1:]}
    changed = found.evaluation.model_copy(
        update={
            "clean": found.evaluation.clean.model_copy(update={**clean, "intervals": intervals}),
            "data": found.evaluation.data.model_copy(update=data or {}),
        }
    )
    scores = {**found.scores, "clean": found.scores["clean"] + np.float32(shift)}
    write_evaluation(folder, EvaluationFolder(changed, scores, found.examples))
    return folder


def text(page: Path) -> str:
    return " ".join(re.sub(r"<[^>]+>|&emsp;", " ", page.read_text(encoding="utf-8")).split())


def test_sites_that_are_alike(tmp_path: Path):
    folders = [site(tmp_path / name, seed=seed) for name, seed in (("home", 0), ("clinic", 0))]
    page = text(write_sites(folders, tmp_path / "sites.html"))
    assert "accepts the chosen share of clean images at every site" in page
    assert "More suspicious than at home share of pairs of clean images; 50 %: no shift – 50.0 %" in page
    worst = read_evaluation(folders[1]).evaluation.worst_case[0]
    assert f"{100 * worst.undetected:.1f} % {100 * worst.undetected_interval[0]:.1f}" in page


def test_acceptance_apart_from_the_chosen_one_sends_to_calibrate(tmp_path: Path):
    home = site(tmp_path / "home")
    other = {"site": "another", "left_out": 7, "note": "the guard keeps no record"}
    there = site(tmp_path / "clinic", accepted=(0.69, 0.61, 0.76), shift=0.8, data=other)
    page = text(write_sites([home, there], tmp_path / "sites.html"))
    assert "At clinic the guard does not accept the share of clean images that was chosen." in page
    assert "69.0 % (61.0–76.0)" in page
    assert "medaegis calibrate" in page
    assert "another site, 7 images known to the guard left out" in page
    assert "clinic: the guard keeps no record." in page
    median = float(np.median(read_evaluation(there).scores["clean"]))
    assert f"{median:+.2f}".replace("-", "−") in page


def test_wrong_diagnoses_that_are_accepted_are_the_graver_finding(tmp_path: Path):
    there = site(tmp_path / "clinic", accepted=(0.69, 0.61, 0.76), right=(0.41, 0.33, 0.5))
    page = text(write_sites([site(tmp_path / "home"), there], tmp_path / "sites.html"))
    assert "At clinic the diagnoses that the guard accepts are wrong more often." in page
    assert "Thresholds do not mend that" in page


def test_names_from_outside_are_escaped_and_alike_ones_told_apart(tmp_path: Path):
    folders = [site(tmp_path / name / "evaluation") for name in ("home", "<b>clinic")]
    page = write_sites(folders, tmp_path / "sites.html").read_text(encoding="utf-8")
    assert "home/evaluation" in page
    assert "&lt;b&gt;clinic/evaluation" in page
    assert "<b>clinic" not in page
    assert "http:" not in re.sub(r'content="[^"]*"|base64,[^"]*', "", page), "it loads something from outside"


def test_what_does_not_belong_together_is_refused(tmp_path: Path):
    home = site(tmp_path / "home")
    for name, options in (
        ("classes", {"classes": ("A", "B")}),
        ("colour", {"channels": "rgb"}),
        ("size", {"size": 64}),
    ):
        with pytest.raises(DataError, match="of another guard than home"):
            write_sites([home, site(tmp_path / name, **options)], tmp_path / "sites.html")
    with pytest.raises(DataError, match="holds no scores of clean images"):
        write_sites([home, site_without_attacks(tmp_path / "bare")], tmp_path / "sites.html")
    with pytest.raises(DataError, match="two or more"):
        write_sites([home], tmp_path / "sites.html")


def site_without_attacks(folder: Path) -> Path:
    found = make_sample(folder, attacks=(), examples=0)
    write_evaluation(folder, EvaluationFolder(found.evaluation, {}, {}))
    return folder


def test_the_command_line_names_the_page(tmp_path: Path):
    folders = [str(site(tmp_path / name)) for name in ("home", "clinic")]
    asked = CliRunner().invoke(app, ["report", *folders])
    assert asked.exit_code == 2
    assert "--out sites.html" in asked.stderr
    made = CliRunner().invoke(app, ["report", *folders, "--out", str(tmp_path / "sites.html")])
    assert made.exit_code == 0
    assert made.stdout.strip() == str(tmp_path / "sites.html")
