"""An evaluation folder: it comes back as it was written, and whatever does not fit in it is refused by name."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tests.bench.test_report import FEW, rewritten, small

from medaegis.bench.records.archive import EvaluationFolder, begin_evaluation, read_evaluation, write_evaluation
from medaegis.bench.report.report import write_report
from medaegis.errors import DataError, MedaegisError


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda c: c.pop("guard"), "guard"),
        (lambda c: c["cells"][1].pop("eps"), r"cells\[1\]\.eps"),
        (lambda c: c["cells"][0].update(auroc=1.2), r"cells\[0\]\.auroc"),
        (lambda c: c["cells"][0].update(undetected=float("nan")), r"cells\[0\]\.undetected"),
        (lambda c: c["cells"][0].update(auroc_interval=[0.9, 0.8]), r"cells\[0\]\.auroc_interval"),
        (lambda c: c["cells"][0].update(surprise=1), r"cells\[0\]\.surprise"),
        (lambda c: c["cells"][0].update(id="../x"), r"cells\[0\]\.id"),
        (lambda c: c["cells"][1].update(id=c["cells"][0]["id"]), "more than once"),
        (lambda c: c["guard"]["thresholds"].pop("NORMAL"), "NORMAL"),
        (lambda c: c["clean"]["tnr_by_class"].update(Foreign=0.5), "Foreign"),
        (lambda c: c.update(format="other"), "format"),
        (lambda c: c.update(version=1), "version"),
        (lambda c: c["cells"][0].update(n=61), r"expected float32 \(61,\)"),
        (lambda c: c["cells"][0]["examples"].pop(), r"/clean: expected uint8 \(1"),
    ],
)
def test_a_broken_evaluation_is_refused_by_name(tmp_path: Path, change: Callable[[Any], object], named: str) -> None:
    small(tmp_path, attacks=FEW[:1], examples=2)
    rewritten(tmp_path, change)
    with pytest.raises(DataError, match=named) as caught:
        write_report(tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize("name", ["evaluation.json", "scores.safetensors", "examples.safetensors"])
@pytest.mark.parametrize("content", [None, b"", b"\xff\xfe{", b"[]"])
def test_a_missing_or_damaged_file_is_refused_by_name(tmp_path: Path, name: str, content: bytes | None) -> None:
    small(tmp_path, attacks=FEW[:1], levels=(4,))
    if content is None:
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=re.escape(name)):
        write_report(tmp_path)


@pytest.mark.parametrize(
    ("file", "key", "array", "named"),
    [
        ("scores", "clean", np.array([np.nan], np.float32), "NaN"),
        ("scores", "fgsm-4-1", np.zeros((60, 1), np.float32), r"\(60,\), got float32 \(60, 1\)"),
        ("scores", "fgsm-4-1/fooled", np.zeros(60, np.float32), "uint8"),
        ("examples", "fgsm-4-1/cushioned", np.zeros((2, 1, 9, 9), np.uint8), "alike"),
        ("examples", "fgsm-4-1/adversarial", np.zeros((2, 1, 24, 24), np.float32), "uint8"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(tmp_path: Path, file: str, key: str, array: np.ndarray, named: str) -> None:
    small(tmp_path, attacks=FEW[:1], levels=(4,))
    path = tmp_path / f"{file}.safetensors"
    save_file({**load_file(path), key: array}, path)
    with pytest.raises(DataError, match=named):
        write_report(tmp_path)


def test_a_folder_that_is_none_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(MedaegisError, match="medaegis evaluate"):
        write_report(tmp_path / "nothing")


def test_an_evaluation_comes_back_as_it_was_written(tmp_path: Path) -> None:
    written = small(tmp_path)
    found = read_evaluation(tmp_path)
    assert found.evaluation == written.evaluation
    for ours, theirs in ((written.scores, found.scores), (written.examples, found.examples)):
        assert set(ours) == set(theirs)
        for key in ours:
            np.testing.assert_array_equal(ours[key], theirs[key])
    assert not list(tmp_path.glob("*.partial"))


def test_nothing_is_written_that_could_not_be_read(tmp_path: Path) -> None:
    found = small(tmp_path / "good")
    with pytest.raises(DataError, match="clean"):
        write_evaluation(tmp_path / "bad", EvaluationFolder(found.evaluation, {}, found.examples))
    assert not (tmp_path / "bad").exists()


def test_an_evaluation_that_is_not_finished_is_said_to_be(tmp_path):
    """Killed before any figures were there, and killed in a folder that holds those of an earlier call."""
    (tmp_path / "new" / "pieces").mkdir(parents=True)
    (tmp_path / "new" / "pieces" / "ab.safetensors").write_bytes(b"")
    with pytest.raises(DataError, match=r"not finished: 1 pieces are measured.*again; it goes on where it was"):
        read_evaluation(tmp_path / "new")
    found = small(tmp_path / "old")
    begin_evaluation(tmp_path / "old", "medaegis evaluate guard spec")
    with pytest.raises(DataError, match="not finished"):
        read_evaluation(tmp_path / "old")
    write_evaluation(tmp_path / "old", found)
    assert read_evaluation(tmp_path / "old").evaluation == found.evaluation
