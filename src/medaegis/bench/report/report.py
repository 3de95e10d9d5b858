"""The report: one self-contained HTML file of an evaluation, for a clinician and a security assessor alike.

Everything in it comes from the evaluation folder; names come from outside and are escaped wherever they appear.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy.typing as npt

from medaegis.bench.records.archive import read_evaluation
from medaegis.bench.records.evaluation import Cell, Confusion, Corrupted, Evaluation, Example, Missed, WorstCase
from medaegis.bench.report import plots, words
from medaegis.bench.report.pages import write_page
from medaegis.bench.report.pictures import change_picture, magnification, picture
from medaegis.bench.report.summary import BROKEN, HELD, summarise

# Pictures of the whole page, in characters; a strip is shown while there is room.
PICTURE_BUDGET = 3_500_000
SIDE = {"gray": 160, "rgb": 128}
CORRUPTED_SIDE = 92


@dataclass(frozen=True)
class EpsBlock:
    """The rows of the table of attacks at one eps, strongest cell marked, the worst case over all cells last."""

    name: str
    words: str
    cells: tuple[Cell, ...]
    strongest: str
    worst: WorstCase | None


@dataclass(frozen=True)
class Strip:
    """One attacked image: its pictures as data URIs and what came of it."""

    cell: Cell
    example: Example
    clean: str
    change: str
    adversarial: str
    cushioned: str
    factor: int
    outcome: str
    through: bool


@dataclass(frozen=True)
class HarmlessLine:
    """One harmless change: its figures by growing severity, and what it does to one image, as data URIs."""

    title: str
    parameter: str
    cells: tuple[tuple[Corrupted, str], ...]


def write_report(evaluation_dir: Path | str, out_html: Path | str | None = None) -> Path:
    """Writes the report of an evaluation folder, by default as report.html in it, and returns its path.

    The page needs no network and no script. Raises DataError that says what is missing when the folder does not fit.
    """
    folder = Path(evaluation_dir)
    found = read_evaluation(folder)
    evaluation, guard = found.evaluation, found.evaluation.guard
    series = plots.series_of(evaluation.cells)
    strips, left_out = _strips(series, found.examples, SIDE[guard.channels])
    return write_page(
        folder / "report.html" if out_html is None else Path(out_html),
        "report.html.j2",
        evaluation=evaluation,
        guard=guard,
        data=evaluation.data,
        clean=evaluation.clean,
        summary=summarise(evaluation),
        held_limit=HELD,
        broken_limit=BROKEN,
        blocks=_blocks(evaluation),
        confusions=_confusions(evaluation),
        harmless=_harmless(evaluation.corruptions, found.examples),
        eps_figure=plots.eps_figure(series, evaluation.worst_case) if series else None,
        roc_figure=plots.roc_figure(series, found.scores, guard.tnr_target) if series else None,
        histograms=plots.histogram_figures(series, found.scores, guard.thresholds) if series else [],
        strips=strips,
        left_out=left_out,
        totals={name: _total(evaluation.cells, name) for name in ("seconds", "forwards", "backwards")},
    )


def _blocks(evaluation: Evaluation) -> list[EpsBlock]:
    cells: dict[tuple[bool, float], list[Cell]] = {}
    for cell in evaluation.cells:
        cells.setdefault((cell.norm != "Linf", cell.eps), []).append(cell)
    worst = {(row.norm != "Linf", row.eps): row for row in evaluation.worst_case}
    blocks = []
    for key in sorted({*cells, *worst}):
        rows = cells.get(key, [])
        eps = rows[0] if rows else worst[key]
        measured = [cell for cell in rows if cell.undetected is not None]
        blocks.append(
            EpsBlock(
                name=words.eps_name(eps.eps_text, eps.norm),
                words=words.eps_in_words(eps.eps_text, eps.norm),
                cells=tuple(rows),
                strongest=max(measured, key=plots.harm).id if measured else "",
                worst=worst.get(key),
            )
        )
    return blocks


def _confusions(evaluation: Evaluation) -> list[tuple[str, Confusion, Missed | None]]:
    """What is given out before any attack, and at each eps in L-infinity after the worst of them."""
    found: list[tuple[str, Confusion, Missed | None]] = [("Before any attack", evaluation.confusion, None)]
    for worst in sorted(evaluation.worst_case, key=lambda row: row.eps):
        if worst.confusion and worst.norm == "Linf":
            title = f"After attack, ε = {words.eps_name(worst.eps_text, worst.norm)}"
            found.append((title, worst.confusion, worst.missed))
    return found


def _harmless(
    corruptions: Sequence[Corrupted], examples: Mapping[str, npt.NDArray[Any]]
) -> dict[str, list[HarmlessLine]]:
    """Lines by group, that of the clean images first."""
    found: dict[str, dict[str, list[Corrupted]]] = {}
    for row in corruptions:
        found.setdefault(row.group, {}).setdefault(row.name, []).append(row)

    def cell(row: Corrupted) -> tuple[Corrupted, str]:
        return row, picture(examples[f"corruptions/{row.name}"][max(0, row.severity - 1)], CORRUPTED_SIDE)

    return {
        group: [HarmlessLine(rows[0].title, rows[0].parameter, tuple(map(cell, rows))) for rows in names.values()]
        for group, names in found.items()
    }


def _strips(
    series: Sequence[plots.Series], examples: Mapping[str, npt.NDArray[Any]], side: int
) -> tuple[list[tuple[str, list[Strip]]], int]:
    """(attack, strips) pairs, one strip per eps of each attack, and the number of examples left out.

    Every attack's largest eps comes first, so that a page without room for all still shows all attacks.
    """
    places = []
    for row, one in enumerate(series):
        shown = [cell for cell in one.strongest() if cell.examples]
        places += [(turn, row, cell) for turn, cell in enumerate(reversed(shown))]
    made: dict[int, list[Strip]] = {}
    spent = 0
    for _, row, cell in sorted(places, key=lambda place: place[:2]):
        if spent < PICTURE_BUDGET:
            strip = _strip(cell, examples, side)
            spent += len(strip.clean) + len(strip.change) + len(strip.adversarial) + len(strip.cushioned)
            made.setdefault(row, []).insert(0, strip)
    left_out = sum(len(cell.examples) for one in series for cell in one.cells) - sum(map(len, made.values()))
    return [(series[row].name, made[row]) for row in sorted(made)], left_out


def _strip(cell: Cell, examples: Mapping[str, npt.NDArray[Any]], side: int) -> Strip:
    clean, adversarial, cushioned = (examples[f"{cell.id}/{view}"][0] for view in ("clean", "adversarial", "cushioned"))
    factor = magnification(cell.eps)
    example = cell.examples[0]
    wrong, accepted = example.adversarial.predicted != example.label, example.adversarial.accepted
    if wrong:
        outcome = "Got through: wrong diagnosis, accepted" if accepted else "Caught: wrong diagnosis, withheld"
    else:
        outcome = "Harmless: diagnosis still right" if accepted else "Withheld, though the diagnosis is still right"
    return Strip(
        cell=cell,
        example=example,
        clean=picture(clean, side),
        change=change_picture(clean, adversarial, factor=factor, side=side),
        adversarial=picture(adversarial, side),
        cushioned=picture(cushioned, side),
        factor=factor,
        outcome=outcome,
        through=wrong and accepted,
    )


def _total(cells: Sequence[Cell], name: str) -> float | None:
    values = [value for cell in cells if (value := getattr(cell, name)) is not None]
    return sum(values) if values else None
