"""The report as a reader and a browser meet it: parsed back from its HTML, with friendly, hostile and broken input."""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image
from tests.bench.sample import ATTACKS, make_sample

from medaegis.bench.records.archive import EvaluationFolder, write_evaluation
from medaegis.bench.records.evaluation import Evaluation
from medaegis.bench.report import report
from medaegis.bench.report.pictures import change_picture, magnification, picture
from medaegis.bench.report.plots import series_of
from medaegis.bench.report.report import write_report
from medaegis.bench.report.summary import summarise
from medaegis.bench.report.words import PLANTED, decimal, duration, percent

FEW = (ATTACKS[0], ATTACKS[6], ATTACKS[7], ATTACKS[8])
VOID = {"meta", "link", "img", "br", "input", "hr", "rect", "path"}


class Page(HTMLParser):
    """Tags with attributes, the visible text, and table rows as lists of cell texts."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.open: list[str] = []
        self.rows: list[list[str]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" in self.open:
            return
        self.text += data
        if "td" in self.open or "th" in self.open:
            self.rows[-1][-1] += data

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attrs for name, attrs in self.tags if name == tag]


def small(folder: Path, **changes: Any) -> EvaluationFolder:
    return make_sample(folder, **{"attacks": FEW, "levels": (4, 16), "n": 60, "size": 24, "examples": 2, **changes})


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> EvaluationFolder:
    return small(tmp_path_factory.mktemp("evaluation"))


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Page:
    folder = tmp_path_factory.mktemp("page")
    small(folder)
    return Page(write_report(folder).read_text(encoding="utf-8"))


def rewritten(folder: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """The folder with its evaluation.json changed by hand."""
    path = folder / "evaluation.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content), encoding="utf-8")
    return folder


def test_every_cell_has_its_figures_in_its_row(page: Page, sample: EvaluationFolder) -> None:
    rows = [row for row in page.rows if len(row) == 14]
    assert len(rows) == len(sample.evaluation.cells) + 2
    for cell in sample.evaluation.cells:
        assert cell.undetected is not None
        assert cell.undetected_interval is not None
        assert cell.auroc is not None
        low, high = cell.undetected_interval
        wanted = f"{100 * cell.undetected:.1f} %{100 * low:.1f}–{100 * high:.1f}"
        found = [row for row in rows if cell.title in row[0] and row[1] == f"{cell.steps} × 1" and row[11] == wanted]
        assert found, cell.id
        for value, column in ((cell.auroc, 5), (cell.auroc_fooling, 6), (cell.auroc_wanted, 7)):
            assert any(row[column].startswith((decimal(value), "> 0.999", "1.000")) for row in found)


def test_worst_case_follows_the_rows_of_its_eps_and_one_row_is_marked_strongest(
    page: Page, sample: EvaluationFolder
) -> None:
    rows = [row for row in page.rows if len(row) == 14 or row[0].startswith("ε = ")]
    blocks = re.findall(r"E(?:[SC]+)W", "".join(_kind(row) for row in rows))
    assert len(blocks) == 2
    assert all(block.count("S") == 1 for block in blocks)
    for worst in sample.evaluation.worst_case:
        assert any(row[0].startswith("Worst") and row[11].startswith(percent(worst.undetected)) for row in rows)


def _kind(row: list[str]) -> str:
    return "E" if row[0].startswith("ε") else "W" if row[0].startswith("Worst") else "S" if "▲" in row[0] else "C"


def test_the_page_is_complete_in_itself_and_runs_nothing(page: Page) -> None:
    for tag, attrs in page.tags:
        assert tag not in {"script", "link", "iframe", "object", "embed", "form", "base"}
        for name, value in attrs.items():
            assert not name.startswith("on")
            if name in {"src", "href"}:
                assert value.startswith(("data:image/", "#"))
    policy = [attrs["content"] for attrs in page.all("meta") if attrs.get("http-equiv")]
    assert policy == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]


def test_headings_links_and_pictures_are_accessible(page: Page) -> None:
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch(r"h\d", tag)]
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    assert {attrs["href"][1:] for attrs in page.all("a")} <= set(ids)
    assert all(attrs["alt"].strip() for attrs in page.all("img"))
    assert all(attrs.get("scope") in {"row", "col", "rowgroup", "colgroup"} for attrs in page.all("th"))
    assert page.all("html")[0]["lang"] == "en"
    assert len(page.all("caption")) == len(page.all("table"))


def test_figures_are_whole_svg_and_strips_are_whole_png(page: Page) -> None:
    kinds = {"svg+xml": 0, "png": 0}
    for attrs in page.all("img"):
        kind, content = re.fullmatch(r"data:image/(svg\+xml|png);base64,(.*)", attrs["src"]).groups()  # type: ignore[union-attr]
        kinds[kind] += 1
        raw = base64.b64decode(content, validate=True)
        if kind == "png":
            with Image.open(io.BytesIO(raw)) as image:
                image.load()
                assert image.size == (24, 24)
        else:
            assert ElementTree.fromstring(raw).tag.endswith("svg")
    # Charts over eps, ROC curves, one row of histograms per attack; four pictures per attack and eps.
    assert kinds == {"svg+xml": 2 + 3, "png": 4 * 3 * 2}


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    evil = "<script>alert('x')</script>\" onload=\"y() $\\frac{$ {{ 7*7 }}"
    small(tmp_path, classes=(evil, "B & C"))

    def spoil(content: dict[str, Any]) -> None:
        content["threat_model"] = content["command"] = evil
        content["data"]["spec"] = content["guard"]["backbone"] = content["guard"]["cushion"] = evil
        content["guard"]["recipe"] = {evil: evil}
        content["versions"]["medaegis"] = content["machine"][evil] = evil
        content["controls"][0] = {"name": evil, "expectation": evil, "measured": evil, "passed": False, "detail": evil}
        for cell in content["cells"]:
            cell["title"] = cell["access"] = cell["gradient"] = evil
            cell["examples"][0]["name"] = evil

    text = write_report(rewritten(tmp_path, spoil)).read_text(encoding="utf-8")
    page = Page(text)
    assert "<script" not in text
    assert page.all("script") == []
    assert not [name for _, attrs in page.tags for name in attrs if name.startswith("on")]
    assert page.text.count(evil) > 20
    assert "49" not in re.findall(r"\$ (\S+)", page.text)


def test_what_was_not_measured_is_a_dash(tmp_path: Path) -> None:
    small(tmp_path, attacks=FEW[:1], levels=(8,))

    def blank(content: dict[str, Any]) -> None:
        kept = {"id", "attack", "title", "access", "adaptive", "eps", "eps_text", "steps", "restarts", "n", "norm"}
        content["cells"] = [{key: value for key, value in cell.items() if key in kept} for cell in content["cells"]]
        content["worst_case"] = [{"eps": 0.03125, "eps_text": "8/256", "n": 60}]
        content["clean"] = {"n": 60}
        content["commit"] = None

    page = Page(write_report(rewritten(tmp_path, blank)).read_text(encoding="utf-8"))
    (row,) = [row for row in page.rows if len(row) == 14 and row[0].startswith("FGSM")]
    assert row[3:] == ["–"] * 11
    assert [row[1:] for row in page.rows if row[0] == "Sensitivity"] == [["–", "–"]]
    assert "No worst case was measured" in page.text
    assert not re.search(r"\b(None|nan|inf|null)\b", page.text)
    assert "No example images" in page.text


def test_no_attacks_and_infinite_scores_make_a_page_too(tmp_path: Path) -> None:
    small(tmp_path / "none", attacks=())
    assert "No attack was run" in write_report(tmp_path / "none").read_text(encoding="utf-8")
    found = small(tmp_path / "infinite")
    scores = {key: np.full_like(a, np.inf) if a.dtype == np.float32 else a for key, a in found.scores.items()}
    write_evaluation(tmp_path / "infinite", EvaluationFolder(found.evaluation, scores, found.examples))
    assert write_report(tmp_path / "infinite").stat().st_size > 10_000


def test_the_same_folder_gives_the_same_page_anywhere(tmp_path: Path) -> None:
    small(tmp_path / "a")
    first = write_report(tmp_path / "a")
    second = write_report(tmp_path / "a", tmp_path / "else" / "where.html")
    assert first == tmp_path / "a" / "report.html"
    assert first.read_bytes() == second.read_bytes()
    assert [path.name for path in second.parent.iterdir()] == ["where.html"]


def test_without_room_every_attack_still_has_a_strip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = small(tmp_path)
    series = series_of(found.evaluation.cells)
    (_, first), *_ = report._strips(series, found.examples, 24)[0]
    one = sum(len(getattr(first[0], view)) for view in ("clean", "change", "adversarial", "cushioned"))
    monkeypatch.setattr(report, "PICTURE_BUDGET", int(2.5 * one))
    strips, left_out = report._strips(series, found.examples, 24)
    assert [name for name, _ in strips] == [one.name for one in series]
    assert all([strip.cell.eps_text for strip in items] == ["16/256"] for _, items in strips)
    assert left_out == 16 - 3


def _pixels(uri: str) -> np.ndarray:
    with Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))) as image:
        return np.asarray(image)


@pytest.mark.parametrize("channels", [1, 3])
def test_the_change_is_shown_magnified_about_mid_grey(channels: int) -> None:
    generator = np.random.default_rng(0)
    clean = generator.integers(0, 256, (channels, 20, 30), dtype=np.uint8)
    attacked = generator.integers(0, 256, (channels, 20, 30), dtype=np.uint8)
    shown = _pixels(change_picture(clean, attacked, factor=3, side=64))
    for c, y, x in [(0, 0, 0), (channels - 1, 7, 29), (0, 19, 3)]:
        expected = min(255, max(0, 128 + 3 * (int(attacked[c, y, x]) - int(clean[c, y, x]))))
        assert (shown[y, x] if channels == 1 else shown[y, x, c]) == expected
    np.testing.assert_array_equal(_pixels(change_picture(clean, clean, factor=8, side=64)), 128)


def test_pictures_are_brought_down_but_never_up() -> None:
    tall = np.full((1, 200, 100), 7, dtype=np.uint8)
    assert _pixels(picture(tall, 50)).shape == (50, 25)
    assert _pixels(picture(tall, 500)).shape == (200, 100)
    assert (_pixels(picture(tall, 50)) == 7).all()


@pytest.mark.parametrize(("eps", "factor"), [(16 / 256, 8), (8 / 256, 16), (1 / 256, 128), (0.9, 1), (0.0, 1)])
def test_magnification_fills_the_range(eps: float, factor: int) -> None:
    assert magnification(eps) == factor


def verdict_of(found: EvaluationFolder, undetected: list[float | None], **changes: Any) -> Any:
    worst = [
        {"eps": 2**k / 256, "eps_text": f"{2**k}/256", "n": 500, "undetected": share}
        for k, share in enumerate(undetected)
    ]
    content = found.evaluation.model_dump() | {"worst_case": worst[::-1]} | changes
    return summarise(Evaluation.model_validate(content))


@pytest.mark.parametrize(
    ("undetected", "tone", "words"),
    [
        ([0.0, 0.01, 0.05], "good", "held in this test at every change tried, up to ε = 4/256"),
        ([0.0, 0.03, 0.051, 0.4], "mixed", "up to ε = 2/256. At 4/256 it is weakened"),
        ([0.0, 0.6, 0.01], "mixed", "up to ε = 1/256. At 2/256 it does not hold"),
        ([0.02, None], "mixed", "up to ε = 1/256. At 2/256 it was not measured"),
        ([0.3, 0.9], "bad", "not even at ε = 1/256"),
        ([None], "doubt", "No worst case was measured"),
        ([], "doubt", "No worst case was measured"),
    ],
)
def test_the_headline_says_how_far_the_guard_holds(
    sample: EvaluationFolder, undetected: list[float | None], tone: str, words: str
) -> None:
    passed = [control.model_copy(update={"passed": True}) for control in sample.evaluation.controls]
    summary = verdict_of(sample, undetected, controls=passed)
    assert summary.tone == tone
    assert words in summary.headline


def test_a_failed_control_overrides_a_good_result(sample: EvaluationFolder) -> None:
    failed = {"name": "Planted weakness", "expectation": "broken", "measured": "not broken", "passed": False}
    summary = verdict_of(sample, [0.0], controls=[failed])
    assert summary.tone == "doubt"
    assert "Do not rely" in summary.headline
    assert any("Planted weakness" in point for point in summary.points)


def test_a_check_that_is_not_judged_is_no_pass(sample: EvaluationFolder) -> None:
    """One of several takes the shine off; where none was judged nothing shows that the attacks worked."""
    assert any(control.passed is None for control in sample.evaluation.controls)
    summary = verdict_of(sample, [0.0])
    assert summary.tone == "mixed"
    assert "could not be judged" in summary.headline
    nothing = [control.model_copy(update={"passed": None}) for control in sample.evaluation.controls]
    summary = verdict_of(sample, [0.0], controls=nothing)
    assert summary.tone == "doubt"
    assert "no control or alarm shows that the attacks were working" in summary.headline


def beside(found: EvaluationFolder, *rows: tuple[float, float], **changes: Any) -> Any:
    """The summary where of 8 images such shares get through, and are turned without any guard."""
    missed = {"n": 5, "share": 0.2, "interval": (0.04, 0.62)}
    worst = [
        {
            "eps": 2**k / 256,
            "eps_text": f"{2**k}/256",
            "n": 8,
            "undetected": through,
            "unguarded": bare,
            "missed": missed,
        }
        for k, (through, bare) in enumerate(rows)
    ]
    content = found.evaluation.model_dump() | {"worst_case": worst, "healthy": "NORMAL"} | changes
    return summarise(Evaluation.model_validate(content))


def test_the_headline_sets_the_guard_beside_no_guard_and_counts(sample: EvaluationFolder) -> None:
    summary = beside(sample, (0.0, 0.25), (0.0, 1.0), (0.5, 1.0))
    assert (
        "At ε = 2/256 attacks turned 8 of 8 (100.0 %) of the diagnoses without a guard; with it 0 of 8"
        in summary.headline
    )
    points = " ".join(summary.points)
    assert "0 of 8 (0.0 %) of the attacked images" in points
    assert "Without any guard: 2 of 8 (25.0 %)." in points
    assert "1 of 5 (20.0 %) were accepted as NORMAL (the first class: nobody said which is the healthy one)" in points
    assert "the first class" not in " ".join(beside(sample, (0.0, 1.0), healthy_told=True).points)


def test_a_guard_is_not_said_to_hold_where_nothing_was_turned_without_it(sample: EvaluationFolder) -> None:
    summary = beside(sample, (0.0, 0.0), (0.0, 0.0))
    assert summary.tone == "doubt"
    assert "the attacks hardly turn a diagnosis without any guard" in summary.headline
    assert "held in this test" not in summary.headline


def test_a_guard_whose_training_ended_itself_is_not_called_finished(sample: EvaluationFolder) -> None:
    told = sample.evaluation.guard.model_dump() | {
        "unfinished": ["NORMAL: its training ended itself at update 168 of 900"]
    }
    passed = [control.model_copy(update={"passed": True}) for control in sample.evaluation.controls]
    summary = verdict_of(sample, [0.0], guard=told, controls=passed)
    assert summary.tone == "mixed"
    assert "The guard is not finished: NORMAL: its training ended itself at update 168 of 900." in summary.headline


@pytest.mark.parametrize("undetected", [[0.0, 0.01], [0.0, 0.6]])
def test_without_an_attack_that_knows_the_guard_or_without_controls_nothing_is_said_to_hold(
    sample: EvaluationFolder, undetected: list[float | None]
) -> None:
    naive = [cell.model_dump() | {"adaptive": False} for cell in sample.evaluation.cells]
    for changes, told in (
        ({"cells": naive}, "no attack knew the guard."),
        ({"controls": []}, ": no control or alarm shows"),
        ({"cells": naive, "controls": []}, "no attack knew the guard and no control or alarm shows"),
    ):
        summary = verdict_of(sample, undetected, **changes)
        assert summary.tone == "doubt"
        assert told in summary.headline
        assert "held in this test" not in summary.headline
    assert verdict_of(sample, [0.6], cells=naive, controls=[]).tone == "bad", "what is broken is broken"


def test_doubts_are_named(sample: EvaluationFolder) -> None:
    naive = [cell.model_dump() | {"adaptive": False} for cell in sample.evaluation.cells]
    points = " ".join(verdict_of(sample, [0.0], cells=naive, controls=[]).points)
    assert "No attack was aimed at the guard itself" in points
    assert "No controls were run" in points
    assert "Few images" not in points
    assert "Few images: a figure here rests on 60" in " ".join(summarise(sample.evaluation).points)
    assert all("not a proof" in verdict_of(sample, shares).points[-1] for shares in ([0.0], [0.9]))
    controls = [control.model_dump() for control in sample.evaluation.controls]
    others = [control | {"name": "another"} for control in controls]
    assert "One control was left out (--no-planted)" in " ".join(verdict_of(sample, [0.0], controls=others).points)
    planted = [*others, controls[0] | {"name": PLANTED}]
    assert "left out" not in " ".join(verdict_of(sample, [0.0], controls=planted).points)


def test_the_strongest_run_of_a_series_is_the_one_that_gets_most_through(sample: EvaluationFolder) -> None:
    series = {one.name: one for one in series_of(sample.evaluation.cells)}
    assert set(series) == {
        "FGSM", "White-box on classifier + Shield, BPDA", "White-box on classifier + Shield, twin"
    }  # fmt: skip
    both = series["White-box on classifier + Shield, BPDA"]
    assert len(both.cells) == 4
    for cell in both.strongest():
        assert cell.undetected == max(c.undetected or 0.0 for c in both.cells if c.eps == cell.eps)


@pytest.mark.parametrize(
    ("shown", "text"),
    [
        (percent(1.0), "100.0 %"), (percent(0.99996), "> 99.9 %"), (percent(0.0), "0.0 %"), (percent(1e-5), "< 0.1 %"),
        (percent(None), "–"), (decimal(0.99999), "> 0.999"), (decimal(1.0), "1.000"), (decimal(0.9726), "0.973"),
        (duration(0.04), "< 0.1 s"), (duration(59.7), "1 min 00 s"), (duration(3725), "1 h 02 min"),
        (duration(None), "–"),
    ],
)  # fmt: skip
def test_numbers_never_promise_more_than_was_measured(shown: str, text: str) -> None:
    assert shown == text
