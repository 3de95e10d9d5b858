"""The verdict: one page for an assessor. What holds, up to which eps, against whom, how sure, and what got through."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy.typing as npt

from medaegis.bench.records.archive import read_evaluation
from medaegis.bench.records.evaluation import Attacker, Evaluation, Through, WorstCase
from medaegis.bench.report.pages import write_page
from medaegis.bench.report.pictures import change_picture, magnification, picture
from medaegis.bench.report.summary import BROKEN, HELD, Rung, rung, summarise

SIDE = 132
KNOWLEDGE: dict[Attacker, str] = {
    "knows the guard": "Cushion, classifier and Shields with all weights and thresholds; gradients of the whole",
    "knows the classifier": "the classifier and the Cushion, not the Shields",
    "asks and sees answers": "no weights; may ask as often as the attack's steps",
    "knows neither": "nothing but a network of the same task",
}


@dataclass(frozen=True)
class WorstCaseRow:
    """One eps: the worst case over everybody, and by what the attacker knows, None where nothing was run."""

    anyone: Rung
    by_attacker: dict[Attacker, Rung | None]


@dataclass(frozen=True)
class Shown:
    """One image that got through: its pictures as data URIs."""

    through: Through
    clean: str
    change: str
    adversarial: str
    factor: int


def write_verdict(evaluation_dir: Path | str, out_html: Path) -> Path:
    """Writes the verdict page of an evaluation folder, and returns its path.

    Raises:
        DataError: what is missing when the folder does not fit.
    """
    found = read_evaluation(evaluation_dir)
    evaluation = found.evaluation
    present = {row.attacker for row in evaluation.by_attacker}
    attackers = [attacker for attacker in get_args(Attacker)[1:] if attacker in present]
    return write_page(
        out_html,
        "verdict.html.j2",
        evaluation=evaluation,
        guard=evaluation.guard,
        data=evaluation.data,
        summary=summarise(evaluation),
        rows=_rows(evaluation),
        attackers=attackers,
        knowledge=KNOWLEDGE,
        attacks={attacker: _attacks(evaluation, attacker) for attacker in attackers},
        checks=sorted(evaluation.controls, key=lambda check: (check.passed is not False, check.passed is None)),
        shown=_shown(evaluation, found.examples),
        held_limit=HELD,
        broken_limit=BROKEN,
    )


def _rows(evaluation: Evaluation) -> list[WorstCaseRow]:
    def place(worst: WorstCase) -> tuple[bool, float]:
        return worst.norm != "Linf", worst.eps

    parts = {(row.attacker, place(row)): rung(row) for row in evaluation.by_attacker}
    return [
        WorstCaseRow(
            rung(worst), {attacker: parts.get((attacker, place(worst))) for attacker in get_args(Attacker)[1:]}
        )
        for worst in sorted(evaluation.worst_case, key=place)
    ]


def _attacks(evaluation: Evaluation, attacker: Attacker) -> list[str]:
    """Titles of the attacks that were run with that knowledge."""
    access = {"asks and sees answers": "black-box", "knows neither": "no-box"}.get(attacker, "white-box")
    adaptive = {"knows the guard": True, "knows the classifier": False}.get(attacker)
    fitting = [c for c in evaluation.cells if c.access == access and adaptive in (None, c.adaptive)]
    return list(dict.fromkeys(cell.title for cell in fitting))


def _shown(evaluation: Evaluation, examples: Mapping[str, npt.NDArray[Any]]) -> list[Shown]:
    shown = []
    for i, one in enumerate(evaluation.through):
        clean, adversarial = examples["through/clean"][i], examples["through/adversarial"][i]
        factor = magnification(one.eps)
        change = change_picture(clean, adversarial, factor=factor, side=SIDE)
        shown.append(Shown(one, picture(clean, SIDE), change, picture(adversarial, SIDE), factor))
    return shown
