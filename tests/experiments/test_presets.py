"""The presets run, at the scale of seconds, and their tables hold our figures beside the paper's."""

import csv
import re

import pytest

from medaegis.experiments.paper import paper_of, presets
from medaegis.experiments.plan import load_sources, plan_experiment
from medaegis.experiments.run import run_plan
from medaegis.experiments.schema import read_experiment
from medaegis.experiments.store import ExperimentStore
from medaegis.experiments.tables import entries, page_of, records

pytestmark = pytest.mark.usefixtures("cache")
# Every cell of a few tables, and of the others two: enough to see that each kind of cell can be measured.
WHOLE = ("ma-table2", "hfc-table1")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """One for all: what tables have in common is done once."""
    return tmp_path_factory.mktemp("presets")


@pytest.mark.parametrize("name", presets())
def test_a_preset_runs_at_scale_smoke(name, store):
    file = presets()[name]
    experiment = read_experiment(file, "smoke")
    planned = plan_experiment(experiment, load_sources(experiment, {}), "cpu")
    chosen = planned if name in WHOLE else [planned[0], planned[-1]]
    with ExperimentStore(store, write=True) as kept:
        assert run_plan(name, "smoke", chosen, kept, command="medaegis bench run").tasks_left == 0
        found = kept.cells(name, "smoke")
    made = entries(experiment, paper_of(file, experiment), found)
    measured = [entry for entry in made if entry.value is not None]
    assert {tuple(entry.place.items()) for entry in measured} == {
        tuple((axis, value) for axis, value in cell.place.items() if axis != "seed") for cell in chosen
    }
    beside = [entry for entry in measured if entry.printed is not None]
    assert beside
    for entry in beside:
        assert entry.difference == pytest.approx(entry.value - entry.printed.value)
    page = page_of(experiment, name, "smoke", made, [there.about for there in found.values()])
    for text in (page.markdown(), page.html()):
        assert "split by patient" in text
        assert "medaegis bench run" in text
        for entry in beside:
            assert f"paper {entry.printed.value:g}".replace("-", "−") in text
    _holds_every_figure_of_the_paper(made, file)
    assert len(records(made)) == len(made)


def _holds_every_figure_of_the_paper(made, file):
    """Of those at the places of this scale, by their own reader."""
    shown = {}
    for entry in made:
        if entry.printed is not None:
            shown.setdefault(entry.metric, set()).add((entry.printed.value, entry.printed.note))
    rows = list(csv.DictReader(file.with_suffix(".csv").open(encoding="utf-8")))
    printed = {(row["metric"], float(row["value"]), row["note"]) for row in rows}
    assert {(metric, *pair) for metric, pairs in shown.items() for pair in pairs} <= printed


def test_a_doubtful_figure_is_marked_and_its_note_told():
    file = presets()["hfc-table3"]
    experiment = read_experiment(file, "cpu")
    page = page_of(experiment, "hfc-table3", "cpu", entries(experiment, paper_of(file, experiment), {}), [])
    (note,) = (note for note in page.notes if note.startswith("doubtful"))
    place = page.notes.index(note) + 1
    assert "are measured" in page.about[1]
    assert "0 of 50" in page.about[1]
    text = page.markdown()
    assert re.search(rf"paper 77 \[{place}\]", text)
    assert f"- [{place}] {note}" in text
    assert note.replace("'", "&#x27;") in page.html()
