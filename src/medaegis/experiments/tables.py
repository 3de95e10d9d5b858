"""The paper's table with our figures, theirs and the difference, in four formats; and two stores side by side."""

from __future__ import annotations

import csv
import importlib
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from statistics import mean
from typing import Any

from medaegis.bench.records.archive import replace_file
from medaegis.bench.records.evaluation import Control
from medaegis.bench.report.markdown import table as markdown_table
from medaegis.errors import ConfigError
from medaegis.experiments.cells import cells_of
from medaegis.experiments.paper import PaperTable, Printed
from medaegis.experiments.schema import AXES, Experiment
from medaegis.experiments.store import Found
from medaegis.sizes import told_size

# Metrics that are no shares.
RAW = ("hd95", "mean", "difference", "change_pct", "share_of_clean_pct", "seconds", "seconds_per_epoch", "passes")
NOTHING = "–"


@dataclass(frozen=True)
class Entry:
    """A figure of the table: over all seeds, in the paper's unit, beside the paper's.

    Attributes:
        place: axes -> names, without the seed.
        value, low, high, n: ours; None where it is not measured. Of several seeds: the mean of the values, the lowest
            and the highest bound, the images of one seed.
    """

    place: Mapping[str, str]
    metric: str
    value: float | None
    low: float | None
    high: float | None
    n: int
    seeds: int
    printed: Printed | None

    @property
    def difference(self) -> float | None:
        """Ours less the paper's."""
        return None if self.value is None or self.printed is None else self.value - self.printed.value


def current(experiment: Experiment, found: Mapping[str, Found]) -> dict[str, Found]:
    """What was measured under the settings that the file says now, by place."""
    settings = {cell.name: cell.settings for cell in cells_of(experiment)}
    return {place: there for place, there in found.items() if settings.get(place) == there.settings}


def entries(experiment: Experiment, paper: PaperTable, found: Mapping[str, Found]) -> list[Entry]:
    """Every figure that the paper has or that was measured under the experiment's settings, cell by cell.

    Figures that were measured under other settings than the file says now count as not measured.
    """
    cells = sorted(cells_of(experiment), key=lambda cell: cell.place.get("seed", ""))
    groups: dict[tuple[tuple[str, str], ...], list[Found | None]] = {}
    found = current(experiment, found)
    for cell in cells:
        place = tuple((axis, name) for axis, name in cell.place.items() if axis != "seed")
        groups.setdefault(place, []).append(found.get(cell.name))
    made = []
    for axes, ours in groups.items():
        where = dict(axes)
        measured = [{one.metric: one for one in there.figures} for there in ours if there is not None]
        for metric in dict.fromkeys([*(metric for one in measured for metric in one), *_printed_at(paper, where)]):
            scale = 1 if metric in RAW else 100
            values = [one[metric] for one in measured if metric in one]
            lows = [one.low * scale for one in values if one.low is not None]
            highs = [one.high * scale for one in values if one.high is not None]
            made.append(
                Entry(
                    where,
                    metric,
                    scale * mean(one.value for one in values) if values else None,
                    min(lows, default=None),
                    max(highs, default=None),
                    values[0].n if values else 0,
                    len(values),
                    paper.of(where, metric),
                )
            )
    return made


def _printed_at(paper: PaperTable, place: Mapping[str, str]) -> Iterator[str]:
    """Metrics that the paper has at a place."""
    for metric in dict.fromkeys(line["metric"] for line, _ in paper.lines):
        if paper.of(place, metric) is not None:
            yield metric


@dataclass(frozen=True)
class InWords:
    """A figure of the table as it is written: ours, and what stands behind it, the paper's and the difference."""

    entry: Entry
    ours: str
    beside: str

    def __str__(self) -> str:
        return self.ours + self.beside


@dataclass(frozen=True)
class TableRow:
    """A row: names on the axes of the rows, and in each column the figures that stand there, mostly one or none."""

    names: tuple[str, ...]
    cells: tuple[tuple[InWords, ...], ...]

    @property
    def words(self) -> tuple[str, ...]:
        """The row as text, what is said twice in a cell once."""
        return (*self.names, *("; ".join(dict.fromkeys(map(str, cell))) or NOTHING for cell in self.cells))


@dataclass(frozen=True)
class TablePage:
    """A table ready to be written.

    Attributes:
        about: words above it.
        axes: heads of the rows' names; heads: of the columns.
        notes: what cells refer to, from [1].
        checks: what controls and alarms of the attacks came to, a line for each classifier.
    """

    title: str
    about: tuple[str, ...]
    axes: tuple[str, ...]
    heads: tuple[str, ...]
    rows: tuple[TableRow, ...]
    notes: tuple[str, ...]
    checks: tuple[str, ...] = ()

    def markdown(self) -> str:
        """As Markdown."""
        notes = "\n".join(f"- [{i}] {note}" for i, note in enumerate(self.notes, start=1))
        table = markdown_table((*self.axes, *self.heads), [row.words for row in self.rows])
        checks = "\n".join(["Controls and alarms of the attacks:", "", *(f"- {told}" for told in self.checks)])
        parts = [f"# {self.title}", *self.about, table, notes, checks if self.checks else ""]
        return "\n\n".join(part for part in parts if part) + "\n"

    def html(self) -> str:
        """As one page that needs nothing else."""
        head = "".join(f'<th scope="col">{escape(word)}</th>' for word in (*self.axes, *self.heads))
        body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row.words)}</tr>\n" for row in self.rows)
        notes = "".join(f"<li>{escape(note)}</li>" for note in self.notes)
        about = "".join(f"<p>{escape(text)}</p>" for text in self.about)
        told = "".join(f"<li>{escape(one)}</li>" for one in self.checks)
        checks = f"<p>Controls and alarms of the attacks:</p><ul>{told}</ul>" if told else ""
        return (
            f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(self.title)}</title>'
            f"<style>{_STYLE}</style></head><body><h1>{escape(self.title)}</h1>{about}"
            f"<table><thead><tr>{head}</tr></thead><tbody>\n{body}</tbody></table><ol>{notes}</ol>{checks}</body></html>\n"
        )


_STYLE = (
    ":root{color-scheme:light dark}"
    "body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:80rem;padding:0 1rem}"
    "table{border-collapse:collapse;display:block;overflow-x:auto}"
    "th,td{border-bottom:1px solid #8886;padding:.35rem .6rem;"
    "text-align:left;vertical-align:top}thead th{border-bottom:2px solid #888}"
)


def page_of(
    experiment: Experiment,
    name: str,
    scale: str,
    made: Sequence[Entry],
    about: Sequence[Mapping[str, Any]],
    checks: Sequence[tuple[Sequence[str], Sequence[Control]]] = (),
) -> TablePage:
    """The table of an experiment.

    Args:
        made: of `entries`.
        about: provenance of its finished cells.
        checks: places of cells, and the controls and alarms beside them (`ExperimentStore.checks`).
    """
    notes: dict[str, int] = {}
    shown = [entry for entry in made if entry.printed is not None or not _extra(made, entry.metric)]
    rows, columns = (tuple(axis for axis in axes if axis != "seed") for axes in (experiment.rows, experiment.columns))
    heads = list(dict.fromkeys(_words(entry, columns) for entry in shown))
    lines: dict[tuple[str, ...], dict[str, list[InWords]]] = {}
    for entry in shown:
        line = lines.setdefault(tuple(_name(entry, axis) for axis in rows), {})
        line.setdefault(_words(entry, columns), []).append(_cell(entry, notes))
    body = tuple(TableRow(place, tuple(tuple(line.get(head, ())) for head in heads)) for place, line in lines.items())
    measured = sum(entry.value is not None for entry in shown)
    text = (
        "Each cell: ours, its 95 % interval by patient and n; the paper's; the difference. "
        f"{measured} of {len(shown)} figures are measured."
    )
    title = f"{experiment.title} ({experiment.paper}, {experiment.table})"
    words = (_settings(experiment, name, scale), *_origin(about), text, *experiment.notes)
    told = tuple(_checked(experiment, places, some) for places, some in checks if some)
    return TablePage(title, words, rows, tuple(heads), body, tuple(notes), told)


def _checked(experiment: Experiment, places: Sequence[str], checks: Sequence[Control]) -> str:
    """What the controls and alarms of the attacks on one classifier came to; those that did not pass by name."""
    several = [axis for axis in AXES if axis not in ("attack", "eps") and len(experiment.axis(axis)) > 1]
    where = dict.fromkeys(", ".join(filter(None, map(json.loads(place).get, several))) for place in places)
    said = [f"{sum(one.passed is True for one in checks)} of {len(checks)} pass"]
    said += [
        f"{one.name} does not: {one.measured} (expected: {one.expectation})" for one in checks if one.passed is False
    ]
    if unjudged := [one.name for one in checks if one.passed is None]:
        said.append(f"not judged: {', '.join(unjudged)}")
    return ": ".join(filter(None, (" and ".join(where), "; ".join(said))))


def _extra(made: Sequence[Entry], metric: str) -> bool:
    """Whether the paper prints figures, and none of this kind."""
    printed = [entry.metric for entry in made if entry.printed is not None]
    return bool(printed) and metric not in printed


def _name(entry: Entry, axis: str) -> str:
    return entry.metric if axis == "metric" else entry.place.get(axis, "")


def _words(entry: Entry, axes: Sequence[str]) -> str:
    return " ".join(word for word in (_name(entry, axis) for axis in axes) if word)


def _cell(entry: Entry, notes: dict[str, int]) -> InWords:
    ours = NOTHING
    if entry.value is not None:
        bounds = f" ({_number(entry.low, entry)}–{_number(entry.high, entry)})" if entry.low is not None else ""
        seeds = f", {entry.seeds} seeds" if entry.seeds > 1 else ""
        ours = f"{_number(entry.value, entry)}{bounds} n={entry.n}{seeds}"
    if entry.printed is None:
        return InWords(entry, ours, "")
    mark = ""
    if entry.printed.note:
        mark = f" [{notes.setdefault(entry.printed.note, len(notes) + 1)}]"
    difference = "" if entry.difference is None else f", {_number(entry.difference, entry, sign=True)}"
    beside = f"; paper {entry.printed.value:g}{mark}{difference}".replace("paper -", "paper −")
    return InWords(entry, ours, beside)


def _number(value: float | None, entry: Entry, *, sign: bool = False) -> str:
    if value is None:
        return NOTHING
    decimals = 3 if entry.metric in ("mean", "difference") else 1
    return f"{value:{'+' if sign else ''}.{decimals}f}".replace("-", "−")


def _settings(experiment: Experiment, name: str, scale: str) -> str:
    leaks = "" if experiment.split == "patient" else ", as in the paper: images of one patient may be in two parts"
    networks = ", ".join(
        f"{told} is {one.backbone}" + (f" with {one.training['weights']} weights" if "weights" in one.training else "")
        for told, one in experiment.backbone.items()
    )
    seeds = ", ".join(map(str, experiment.seeds))
    return (
        f"`{name}` at scale {scale}: {networks}; {told_size(experiment.size)} {experiment.channels}, split by "
        f"{experiment.split}{leaks}, attacks {experiment.goal}, seeds {seeds}."
    )


def _origin(about: Sequence[Mapping[str, Any]]) -> list[str]:
    """How the figures came about, once for each way they did."""
    told: dict[str, list[str]] = {}
    for one in about:
        machine = one["machine"]
        words = (
            f"Measured by `{one['command']}`, commit {one['commit'] or 'unknown'}, on {machine.get('cpu')} "
            f"({machine.get('cores')} cores), {one['device']}"
        )
        told.setdefault(words, []).append(one["created"][:10])
    return [f"{words}, {' to '.join(dict.fromkeys((min(days), max(days))))}." for words, days in told.items()]


def differences(
    one: Mapping[str, Found], other: Mapping[str, Found]
) -> list[tuple[str, str, float | None, float | None]]:
    """Place, metric and both figures, of all that are not the same to the bit; None where one has none."""
    told = []
    for place in dict.fromkeys([*one, *other]):
        ours, theirs = (
            {figure.metric: figure.value for figure in there[place].figures} if place in there else {}
            for there in (one, other)
        )
        for metric in dict.fromkeys([*ours, *theirs]):
            if ours.get(metric) != theirs.get(metric):
                told.append((place, metric, ours.get(metric), theirs.get(metric)))
    return told


def records(made: Sequence[Entry]) -> list[dict[str, Any]]:
    """A flat record per figure, for CSV, Parquet and JSON."""
    axes = [axis for axis in AXES if any(entry.place.get(axis) for entry in made)]
    return [
        {
            **{axis: entry.place.get(axis, "") for axis in axes},
            "metric": entry.metric,
            "value": entry.value,
            "low": entry.low,
            "high": entry.high,
            "n": entry.n,
            "seeds": entry.seeds,
            "paper": None if entry.printed is None else entry.printed.value,
            "difference": entry.difference,
            "note": "" if entry.printed is None else entry.printed.note,
        }
        for entry in made
    ]


def write_records(records: Sequence[Mapping[str, Any]], out: Path) -> None:
    """Write these records; as CSV or Parquet, the file's ending says.

    Raises:
        ConfigError: an ending other than .csv and .parquet, no records, or no pyarrow.
    """
    if not records:
        raise ConfigError("export", "there are no figures", "run the experiment first")
    if out.suffix == ".csv":
        text = io.StringIO()
        writer = csv.DictWriter(text, list(records[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(records)
        replace_file(out, text.getvalue().encode())
    elif out.suffix == ".parquet":
        replace_file(out, _parquet(records))
    else:
        raise ConfigError(f"--out {out}", "has neither ending", "end it with .csv or .parquet")


def _parquet(records: Sequence[Mapping[str, Any]]) -> bytes:
    try:
        arrow, parquet = (importlib.import_module(name) for name in ("pyarrow", "pyarrow.parquet"))
    except ImportError:
        raise ConfigError("Parquet", "needs pyarrow", "pip install medaegis[parquet], or take .csv") from None
    sink = io.BytesIO()
    parquet.write_table(arrow.Table.from_pylist([dict(one) for one in records]), sink)
    return sink.getvalue()
