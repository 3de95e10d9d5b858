"""`medaegis evaluate` of a guard for masks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from medaegis.cli import console
from medaegis.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from medaegis.bench.records.masks import MaskEvaluation
    from medaegis.cushions import Gradient
    from medaegis.guard.guard import Guard
    from medaegis.guard.site import Site

STEPS, LIMIT = 40, 40


def check_options(given: Mapping[str, object]) -> None:
    """Raises ConfigError for the first of these options of `evaluate` that was given: none is for masks."""
    for option, value in given.items():
        if value:
            remedy = "leave it out; --attacks and --eps say what is run"
            raise ConfigError(option, "is not for a guard of masks", remedy)


def evaluate(
    guard: Guard,
    site: Site,
    *,
    out: Path,
    attacks: Sequence[str] | None,
    eps: Sequence[str] | None,
    steps: int | None,
    gradient: Gradient,
    limit: int | None,
    seed: int,
    command: str,
) -> MaskEvaluation:
    """`evaluate_masks`, with a bar; what is not given is as `--suite quick` has it: 40 steps, 40 images."""
    from medaegis.bench.masks import ATTACKS, SIZES, evaluate_masks, plan_masks

    cells = plan_masks(
        guard, attacks=attacks or ATTACKS, eps=eps or SIZES, steps=STEPS if steps is None else steps, gradient=gradient
    )
    with console.progress("Evaluating") as progress:
        return evaluate_masks(
            guard,
            site,
            cells=cells,
            out_dir=out,
            limit=LIMIT if limit is None else limit,
            seed=seed,
            command=command,
            progress=progress,
        )


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
