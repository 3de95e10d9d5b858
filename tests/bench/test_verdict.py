"""The verdict page, parsed back from its HTML."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from tests.bench.sample import make_sample
from tests.bench.test_report import FEW, Page

from medaegis.bench.records.archive import read_evaluation, write_evaluation
from medaegis.bench.records.evaluation import Evaluation
from medaegis.bench.report.markdown import markdown
from medaegis.bench.report.report import write_report
from medaegis.bench.report.verdict import write_verdict
from medaegis.bench.report.words import percent, percent_range
from medaegis.errors import DataError


def judged(folder: Path, *, hostile: str = "", through: bool = True, **changes) -> Evaluation:
    """A sample evaluation by attacker, with two images that got through and an alarm that went off."""
    found = make_sample(folder, **{"attacks": FEW, "levels": (4, 16), "n": 60, "size": 24, "examples": 2, **changes})
    told = found.evaluation.model_dump(mode="json")
    told["by_attacker"] = [
        {**worst, "attacker": attacker, "undetected": worst["undetected"] * share, "undetected_interval": [0.0, 1.0]}
        for worst in told["worst_case"]
        for attacker, share in (("knows the guard", 1.0), ("knows the classifier", 0.25))
    ]
    if through:
        wb = [cell for cell in told["cells"] if cell["attack"] == "wb"]
        told["through"] = [
            {
                **{key: cell[key] for key in ("title", "eps", "eps_text")},
                "cell": cell["id"],
                "example": cell["examples"][0],
            }
            for cell in (wb[0], wb[-1])
        ]
        told["through"][0]["example"]["name"] += hostile
    alarm = {"kind": "alarm", "name": "There are gradients", "expectation": "all", "measured": "none", "passed": False}
    told["controls"].append(alarm)
    pixels = {
        f"through/{view}": np.concatenate([found.examples[f"{one['cell']}/{view}"][:1] for one in told["through"]])
        for view in ("clean", "adversarial")
        if through
    }
    evaluation = Evaluation.model_validate(told)
    write_evaluation(folder, dataclasses.replace(found, evaluation=evaluation, examples={**found.examples, **pixels}))
    return evaluation


@pytest.fixture(scope="module")
def verdict(tmp_path_factory) -> tuple[Evaluation, Page]:
    folder = tmp_path_factory.mktemp("verdict")
    evaluation = judged(folder)
    return evaluation, Page(write_verdict(folder, folder / "v.html").read_text(encoding="utf-8"))


def test_every_eps_has_a_row_with_every_attacker(verdict):
    evaluation, page = verdict
    heads = next(row for row in page.rows if row[0].startswith("Change"))
    assert heads[2:6] == ["no guard at all", "knows the guard", "knows the classifier", "anyone"]
    for worst in evaluation.worst_case:
        row = next(row for row in page.rows if row[0].startswith(worst.eps_text))
        parts = {part.attacker: part for part in evaluation.by_attacker if part.eps == worst.eps}
        for column, one in zip((3, 4, 5), (*parts.values(), worst), strict=True):
            assert percent(one.undetected) in row[column]
            assert percent_range(one.undetected_interval) in row[column]


def test_alarms_and_failed_controls_come_first_and_set_the_headline(verdict):
    _, page = verdict
    results = [row for row in page.rows if len(row) == 3 and row[0][:1] in "✓✗–"]
    assert results[0][:2] == ["✗ alarm", "There are gradients"]
    assert [row[0][0] for row in results] == sorted((row[0][0] for row in results), key="✗✓–".index)
    assert "Do not rely on these figures yet: one alarm" in page.text


def test_what_got_through_is_shown(verdict):
    evaluation, page = verdict
    assert len(page.all("figure")) == 2
    assert len(page.all("img")) == 6
    assert all(image["src"].startswith("data:image/png;base64,") and image["alt"] for image in page.all("img"))
    for one in evaluation.through:
        assert f"{one.example.label} → {one.example.adversarial.predicted}" in page.text


def test_the_page_runs_and_loads_nothing_and_escapes_names(tmp_path):
    judged(tmp_path, hostile="<script>alert(1)</script>")
    text = write_verdict(tmp_path, tmp_path / "v.html").read_text(encoding="utf-8")
    page = Page(text)
    assert not page.all("script")
    assert "<script>alert(1)</script>" in page.text
    assert not any(source.get("href", "#")[0] != "#" for source in page.all("a"))


def test_what_checks_tried_on_a_few_images_is_said(tmp_path):
    """In the row of the worst case, for an attacker whom no cell is of, beside the image, and in report and tables."""
    evaluation = judged(tmp_path)
    found = read_evaluation(tmp_path)
    told = evaluation.model_dump(mode="json")
    further = [{"check": "Gradients beat Square", "n": 5, "more": 2}]
    told["worst_case"][-1]["further"] = further
    bare = {key: told["worst_case"][-1][key] for key in ("eps", "eps_text", "norm", "n")}
    told["by_attacker"].append({**bare, "attacker": "asks and sees answers", "further": further})
    told["through"][1] |= {"cell": None, "check": "Gradients beat Square"}
    write_evaluation(tmp_path, dataclasses.replace(found, evaluation=Evaluation.model_validate(told)))
    words = "Gradients beat Square: 5 images tried, 2 more"
    page = Page(write_verdict(tmp_path, tmp_path / "v.html").read_text(encoding="utf-8"))
    row = next(row for row in page.rows if row[0].startswith("16/256"))
    assert words in row[1]
    assert row[5] == f"–{words}", "no figure of whom no cell is of"
    assert f"no others: {words}" in page.text
    assert "checks got more through than all attacks of the plan: Gradients beat Square (2)." in page.text
    assert "(only in a check: Gradients beat Square)" in page.text
    assert "Attacks run: none on all images, checks on a few" in page.text
    assert f"on few images only: {words}" in write_report(tmp_path).read_text(encoding="utf-8")
    assert f"| **worst case** ({words}) | 16/256 |" in markdown(tmp_path)


def test_nothing_measured_and_nothing_through_are_said(tmp_path):
    judged(tmp_path / "none", through=False)
    assert "No attacked image got through" in Page(write_verdict(tmp_path / "none", tmp_path / "a").read_text()).text
    make_sample(tmp_path / "empty", attacks=(), n=20, size=24)
    assert (
        "nothing is known about what holds" in Page(write_verdict(tmp_path / "empty", tmp_path / "b").read_text()).text
    )


def test_images_that_do_not_fit_are_refused(tmp_path):
    evaluation = judged(tmp_path)
    found = read_evaluation(tmp_path)
    pixels = {name: array for name, array in found.examples.items() if name != "through/adversarial"}
    with pytest.raises(DataError, match="through/adversarial"):
        write_evaluation(tmp_path, dataclasses.replace(found, examples=pixels))
    told = evaluation.model_dump(mode="json")
    told["through"][0]["cell"] = "elsewhere"
    with pytest.raises(ValueError, match="no cell 'elsewhere'"):
        Evaluation.model_validate(told)
