"""The picture of what gets past a guard: its figures are those of the tables."""

import html
import re
from pathlib import Path

import pytest
from benchmarks.curve import DOCS, draw, read
from tests.bench.test_report import small

from medaegis.bench.report.markdown import markdown

WORST_CASE = DOCS / "results" / "chest-xray-worst-case.md"


def described(picture: Path) -> str:
    text = re.search(r"<dc:description>(.*?)</dc:description>", picture.read_text(encoding="utf-8"), re.DOTALL)[1]
    return html.unescape(text)


def test_the_picture_in_the_documents_is_of_the_table_there():
    assert described(DOCS / "images" / "curve.svg") == read(WORST_CASE).describe()


def test_the_figures_are_those_that_the_page_on_the_guard_tells():
    curve = read(WORST_CASE)
    page = (DOCS / "results" / "chest-xray.md").read_text(encoding="utf-8")
    told = re.findall(
        r"^\| (\d+)/256 \| [^|]+ \| ([\d.]+) % \(([\d.]+) to ([\d.]+)\) \| [\d.]+ \| [^|]*\|$", page, re.MULTILINE
    )
    assert len(told) == 4
    for eps, *shares in told:
        assert curve.worst[int(eps)] == pytest.approx([float(share) / 100 for share in shares], abs=0.0006)
    assert "do not know the Shield get none of the 34 through at 2 and 4/256, 2.9 % at 8 and 16/256" in page
    assert curve.unaware == pytest.approx({2: 0, 4: 0, 8: 0.029, 16: 0.029})
    assert "WB gets 94.1 % through at 32/256, 100 % at 64/256" in page
    assert curve.far == pytest.approx({32: 0.941, 64: 1.0})


def test_the_tables_that_report_writes_are_read(tmp_path: Path):
    found = small(tmp_path / "evaluation").evaluation
    page = tmp_path / "tables.md"
    page.write_text(markdown(tmp_path / "evaluation"), encoding="utf-8")
    curve = read(page)
    assert curve.worst
    for row in found.worst_case:
        value, low, high = curve.worst[round(row.eps * 256)]
        assert value == pytest.approx(row.undetected, abs=0.0006)
        assert low <= value <= high
    draw(curve, tmp_path / "curve.svg")
    assert described(tmp_path / "curve.svg") == curve.describe()


def test_a_page_without_tables_is_refused(tmp_path: Path):
    page = tmp_path / "empty.md"
    page.write_text("# Nothing\n", encoding="utf-8")
    with pytest.raises(ValueError, match="no tables of an evaluation"):
        read(page)
