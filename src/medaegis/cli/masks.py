"""`medaegis evaluate` of a guard for masks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from medaegis.cli import console
from medaegis.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from medaegis.bench.records.masks import MaskEvaluation

STEPS, LIMIT = 40, 40  # where none are given


def check_options(given: Mapping[str, object]) -> None:
    """Raises ConfigError for the first of these options of `evaluate` that was given: none is for masks."""
    for option, value in given.items():
        if value:
            remedy = "leave it out; --attacks and --eps say what is run"
            raise ConfigError(option, "is not for a guard of masks", remedy)


def worst_table(found: MaskEvaluation) -> RenderableType:
    """A line per eps: for each image the strongest attack."""
    from medaegis.bench.report.words import percent_range

    rows = [
        [
            worst.eps_text,
            worst.n,
            console.percent(worst.wrong),
            console.decimal(worst.auroc),
            console.percent(worst.undetected),
            percent_range(worst.undetected_interval),
            console.percent(worst.robust),
        ]
        for worst in found.worst_case
    ]
    columns = ("Worst case, eps", "n", "Mask made wrong", "AUROC", "Wrong and accepted", "95 %", "Right and accepted")
    return console.table(*columns, rows=rows)


def cells_table(found: MaskEvaluation) -> RenderableType:
    """A line per attack, eps and way through the Cushion."""
    from medaegis.bench.report.words import gradient_name

    rows = [
        [
            cell.attack,
            cell.eps_text,
            cell.steps,
            gradient_name(cell.gradient),
            console.decimal(cell.dice),
            console.percent(cell.wrong),
            console.decimal(cell.auroc),
            console.percent(cell.undetected),
        ]
        for cell in found.cells
    ]
    columns = ("Attack", "eps", "Steps", "Gradient", "Dice", "Mask made wrong", "AUROC", "Wrong and accepted")
    return console.table(*columns, rows=rows)


def clean_told(found: MaskEvaluation) -> str:
    """A sentence on the images that nobody attacked."""
    clean = found.clean
    return (
        f"{clean.n} clean images: mean Dice {clean.dice:.3f}, {console.percent(clean.right)} of the masks are right "
        f"(Dice from {found.least:g} on), {console.percent(clean.accepted)} are accepted."
    )
