"""The comparison of defences: its page says what its record says, its figures by hand, and a row of it still runs."""

import json

import pytest
from benchmarks.defences import (
    BEGIN,
    DEFENCES,
    END,
    EPS,
    PAGE,
    QUICK,
    RESULTS,
    Bench,
    _diagonal,
    _harm,
    tables,
    with_tables,
)

from medaegis.bench.analyse import figures


def test_the_page_shows_what_was_recorded():
    content = json.loads(RESULTS.read_text(encoding="utf-8"))
    page = PAGE.read_text(encoding="utf-8")
    assert with_tables(page, content) == page
    assert [row["name"] for row in content["rows"]] == [defence.name for defence in DEFENCES]


def test_only_what_lies_between_the_marks_is_replaced():
    content = json.loads(RESULTS.read_text(encoding="utf-8"))
    page = f"before\n{BEGIN}\nold\n{END}\nafter\n"
    assert with_tables(page, content) == f"before\n{BEGIN}\n{tables(content)}\n{END}\nafter\n"


def test_wrong_diagnoses_given_out_are_counted_and_withheld_ones_are_not():
    """By true class: given out as the first, as the second, withheld."""
    confusion = {"nevus": [5, 2, 1], "melanoma": [3, 8, 1]}
    assert _diagonal(confusion) == pytest.approx(13 / 20)
    assert _harm(confusion) == pytest.approx(5 / 20)


def test_a_row_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(figures, "DPI", 60)
    bench = Bench(QUICK, tmp_path, 0, "test")
    found = bench.alone(DEFENCES[0])
    assert set(found["worst"]) == set(EPS)
    shares = [found["clean"]["share"], *(found["worst"][text]["share"] for text in EPS)]
    assert shares == sorted(shares, reverse=True)
    assert found["unaware"]["share"] <= found["clean"]["share"]
