"""The commands: plan, run, status, table, diff and export, as a person calls them."""

import csv
import importlib
import json

import pytest
from tests.cli.shop import call
from tests.experiments.small import figures, written

from medaegis.experiments import tables
from medaegis.experiments.cells import cells_of
from medaegis.experiments.estimate import estimate
from medaegis.experiments.schema import read_experiment
from medaegis.experiments.store import ExperimentStore
from medaegis.experiments.tasks import everything
from medaegis.models.backbones import create_backbone


def shown(verb, *arguments):
    result = call("bench", verb, *arguments)
    assert result.exit_code == 0, result.output
    return result


@pytest.fixture
def file(tmp_path):
    return written(tmp_path)


def test_a_plan_tells_cells_tasks_and_what_is_left(whole, file):
    planned, store = whole
    told = json.loads(shown("plan", file, "--store", file.parent / "none", "--device", "cpu", "--json").stdout)
    assert told["cells"] == 6
    assert sum(row["left"] for row in told["tasks"]) == len(list(everything(planned)))
    assert told["left"]["seconds"] > 0
    assert told["left"]["memory_bytes"] > 0
    assert not (file.parent / "none").exists()
    done = json.loads(shown("plan", file, "--store", store, "--device", "cpu", "--json").stdout)
    assert {row["left"] for row in done["tasks"]} == {0}
    assert "What is left takes about" in shown("plan", file, "--store", store, "--device", "cpu").stderr


def test_only_asks_for_a_part_of_it(whole, file):
    _, store = whole
    place = cells_of(read_experiment(file, "smoke"))[0].place
    axis, name = "defence", place["defence"]
    told = json.loads(
        shown("plan", file, "--store", store, "--only", f"{axis}={name}", "--device", "cpu", "--json").stdout
    )
    assert 0 < told["cells"] < 6
    refused = call("bench", "run", file, "--store", store, "--only", axis)
    assert refused.exit_code == 2
    assert "write AXIS=NAME" in refused.output
    refused = call("bench", "plan", file, "--store", store, "--only", f"{axis}=none of them")
    assert refused.exit_code == 2
    assert name in refused.output


def test_an_estimate_counts_the_passes(whole):
    planned, _ = whole
    found = estimate(everything(planned), next(everything(planned)).source.dataset.images.device)
    for task in everything(planned):
        told, split = task.told, task.source.split
        if task.kind == "attacked":  # a forward and a backward a step; WB looks at the Shield too, in the same pass
            images = len(split.adv_train if told["part"] == "learn" else split.adv_test)
            assert found[task.key].passes == 2 * 3 * images
            assert found[task.key].disk == images * 32 * 32
        elif task.kind == "classifier":
            assert found[task.key].passes == 4 * (3 * len(split.train) + len(split.val))
        network = create_backbone("medaegis.experiments.tiny:network", classes=2)
        weights = sum(value.numel() * value.element_size() for value in network.state_dict().values())
        assert found[task.key].memory > 4 * weights


def test_run_status_table_diff_and_export(whole, file, tmp_path):
    planned, store = whole
    folder = tmp_path / "runs"
    first = shown("run", file, "--store", folder, "--device", "cpu", "--limit-minutes", 0, "--json")
    assert json.loads(first.stdout) == {
        "experiment": "small",
        "done": 1,
        "overhead": None,
        "tasks_left": len(list(everything(planned))) - 1,
        "cells": 6,
    }
    assert json.loads(shown("status", file, "--store", folder, "--json").stdout)["measured"] == 0
    second = shown("run", file, "--store", folder, "--device", "cpu", "--data", "chest=phantom-xray?n=160")
    assert "0 of 6 cells to go" in second.stderr
    assert json.loads(shown("status", file, "--store", folder, "--json").stdout)["measured"] == 6

    assert "same to the last bit" in shown("diff", file, "--store", folder, "--other", store).stderr
    with ExperimentStore(folder, write=True) as kept:
        kept._index.execute(
            "UPDATE figures SET value = value + 1e-12 WHERE metric = 'auc' AND key = ?", [planned[0].task.key]
        )
        kept._index.commit()
    differing = call("bench", "diff", file, "--store", folder, "--other", store, "--json")
    assert differing.exit_code == 1
    (row,) = json.loads(differing.stdout)
    assert (row["place"], row["metric"]) == (planned[0].name, "auc")
    assert row["store"] - row["other"] == pytest.approx(1e-12, rel=1e-3)

    text = shown("table", file, "--store", store).stdout
    auc = next(figure for figure in figures(store)[planned[0].name].figures if figure.metric == "auc")
    assert f"{100 * auc.value:.1f} ({100 * auc.low:.1f}–{100 * auc.high:.1f}) n={auc.n}" in text
    assert "`medaegis bench run" in shown("table", file, "--store", folder).stdout
    page = tmp_path / "table.html"
    shown("table", file, "--store", store, "--form", "html", "--out", page)
    assert "<table>" in page.read_text(encoding="utf-8")

    out = tmp_path / "figures.csv"
    shown("export", file, "--store", store, "--out", out)
    lines = list(csv.DictReader(out.open(encoding="utf-8")))
    assert len(lines) == sum(len(found.figures) for found in figures(store).values())
    mine = [line for line in lines if line["defence"] == "KD" and line["cushion"] == "none" and line["metric"] == "auc"]
    assert [float(line["value"]) for line in mine] == [100 * auc.value]


def test_parquet_where_pyarrow_is(whole, file, tmp_path):
    _, store = whole
    pyarrow = pytest.importorskip("pyarrow.parquet")
    shown("export", file, "--store", store, "--out", tmp_path / "figures.parquet")
    found = pyarrow.read_table(tmp_path / "figures.parquet").to_pylist()
    assert len(found) == sum(len(there.figures) for there in figures(store).values())


def test_what_cannot_be_exported_is_told(whole, file, tmp_path, monkeypatch):
    _, store = whole
    assert "end it with .csv or .parquet" in call("bench", "export", file, "--store", store, "--out", "x.xls").output
    find = importlib.import_module

    def without(name):
        if name.startswith("pyarrow"):
            raise ImportError(name)
        return find(name)

    monkeypatch.setattr(tables.importlib, "import_module", without)
    refused = call("bench", "export", file, "--store", store, "--out", tmp_path / "x.parquet")
    assert refused.exit_code == 2
    assert "pip install medaegis[parquet]" in refused.output
    assert not (tmp_path / "x.parquet").exists()


def test_wrong_usage_is_told(file, tmp_path):
    store = "--store", tmp_path / "store"
    for words, told in (
        (("run", "aegis-table9", *store), "aegis-table1"),
        (("run", file, "--data", "chest", *store), "KEY=SPEC"),
        (("run", file, "--data", "lung=phantom-xray", *store), "no data set of this experiment"),
        (("status", file, "--store", tmp_path / "none"), "holds no experiments"),
        (("plan", "aegis-table2", "--scale", "cpu"), "--data fundus=SPEC"),
    ):
        result = call("bench", *words)
        assert result.exit_code == 2, words
        assert told in result.output.replace("\n", " "), result.output
