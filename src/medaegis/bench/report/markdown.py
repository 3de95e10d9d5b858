"""An evaluation as Markdown tables, for papers and the project's own result pages: no figure is typed by hand."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from medaegis.bench.records.archive import read_evaluation, replace_file
from medaegis.bench.records.evaluation import Cascaded, Cell, Control, Corrupted, Evaluation, WorstCase
from medaegis.bench.report.words import (
    beyond,
    cascade_words,
    decimal,
    decimal_range,
    duration,
    eps_name,
    gradient_name,
    judged,
    percent,
    percent_range,
)
from medaegis.sizes import told_size


def markdown(evaluation_dir: Path | str) -> str:
    """What was measured, how, and every table of an evaluation folder.

    Raises:
        DataError: the folder does not fit (see `read_evaluation`).
    """
    evaluation = read_evaluation(evaluation_dir).evaluation
    controls = controls_table(evaluation.controls)
    more = [*cascade_tables(evaluation.cascade), *corruption_tables(evaluation.corruptions)]
    return "\n\n".join([_source(evaluation), _clean(evaluation), _attacks(evaluation), *more, controls]) + "\n"


def write_markdown(evaluation_dir: Path | str, out: Path) -> Path:
    """Writes those tables to `out`, and returns it."""
    replace_file(out, markdown(evaluation_dir).encode())
    return out


def _source(evaluation: Evaluation) -> str:
    guard, data = evaluation.guard, evaluation.data
    counts = ", ".join(f"{n} {name}" for name, n in data.counts.items())
    return (
        f"Measured on {evaluation.created:%Y-%m-%d} by `{evaluation.command}`, commit "
        f"{evaluation.commit or 'unknown'}, seed {evaluation.seed}, on {evaluation.machine.get('cpu')} "
        f"({evaluation.machine.get('cores')} cores), in {duration(evaluation.seconds)}. Data: {data.spec}, {data.n} "
        f"images of {data.split} split by {data.split_by} ({counts}). Guard {guard.digest[:12]}: {guard.backbone}, "
        f"{told_size(guard.size)} {guard.channels}, Cushion {guard.cushion}, Shields on {', '.join(guard.taps)}, "
        f"TNR {guard.tnr_target:.2f} chosen on clean validation images."
    )


def _clean(evaluation: Evaluation) -> str:
    clean = evaluation.clean
    rows = [
        ("accuracy behind the Cushion", percent(clean.accuracy), percent_range(clean.intervals.get("accuracy"))),
        ("accuracy without Cushion", percent(clean.accuracy_without_cushion), ""),
        ("AUROC of the diagnosis", decimal(clean.auroc), ""),
        ("sensitivity", percent(clean.sensitivity), ""),
        ("specificity", percent(clean.specificity), ""),
        ("accepted (TNR reached)", percent(clean.tnr_reached), percent_range(clean.intervals.get("tnr_reached"))),
        (f"rejected of the {clean.wrong} diagnosed wrongly", percent(clean.wrong_rejected), ""),
        *((f"accepted, {name}", percent(share), "") for name, share in clean.tnr_by_class.items()),
    ]
    return table(("clean images", "value", "95 %"), rows)


def _attacks(evaluation: Evaluation) -> str:
    heads = (
        *("attack", "eps", "steps", "gradient", "n", "fools the classifier alone", "fools it behind the Cushion"),
        *("AUROC", "95 %", "AUROC of those that fool", "AUROC, wanted class", "TPR at 90 / 95 / 99 % TNR"),
        *("undetected success", "95 %", "robust accuracy", "time"),
    )

    def size(row: Cell | WorstCase) -> tuple[str, float]:
        return row.norm, row.eps

    rows: list[Sequence[str]] = []
    for same, cells in groupby(sorted(evaluation.cells, key=size), size):
        rows += [_row(cell) for cell in cells]
        rows += [_worst(worst) for worst in evaluation.worst_case if size(worst) == same]
    return table(heads, rows)


def _row(cell: Cell) -> Sequence[str]:
    steps = f"{cell.steps}" if cell.restarts == 1 else f"{cell.steps} x {cell.restarts}"
    tprs = " / ".join(percent(value).removesuffix(" %") for value in (cell.tpr90, cell.tpr95, cell.tpr99))
    return (
        f"{cell.attack} (transfer)" if cell.access == "no-box" else cell.attack,
        eps_name(cell.eps_text, cell.norm),
        steps,
        gradient_name(cell.gradient),
        str(cell.n),
        percent(cell.success_on_classifier),
        percent(cell.success),
        decimal(cell.auroc),
        decimal_range(cell.auroc_interval),
        decimal(cell.auroc_fooling),
        decimal(cell.auroc_wanted),
        tprs,
        percent(cell.undetected),
        percent_range(cell.undetected_interval),
        percent(cell.robust_accuracy),
        duration(cell.seconds),
    )


def _worst(worst: WorstCase) -> Sequence[str]:
    return (
        "**worst case**" + (f" ({beyond(worst.further)})" if worst.further else ""),
        eps_name(worst.eps_text, worst.norm),
        *("",) * 2,
        str(worst.n),
        *("",) * 2,
        f"**{decimal(worst.auroc)}**",
        decimal_range(worst.auroc_interval),
        "",
        f"**{decimal(worst.auroc_wanted)}**",
        "",
        f"**{percent(worst.undetected)}**",
        percent_range(worst.undetected_interval),
        f"**{percent(worst.robust_accuracy)}**",
        "",
    )


def cascade_tables(cascade: Sequence[Cascaded]) -> list[str]:
    """What was counted over more images, in words and as a table; nothing where nothing was."""
    if not cascade:
        return []
    rows = [(eps_name(c.eps_text, c.norm), str(c.n), percent(c.share), percent_range(c.interval)) for c in cascade]
    return [cascade_words(cascade), table(("eps", "n", "broken", "95 %"), rows)]


def corruption_tables(corruptions: Sequence[Corrupted]) -> list[str]:
    """A row per harmless change and severity, the clean images first; nothing where nothing was measured."""
    if not corruptions:
        return []
    heads = (
        *("harmless change", "severity", "amount", "n", "accepted", "95 %", "diagnosed rightly", "95 %"),
        *("n accepted", "AUROC of the accepted", "95 %"),
    )
    rows = [
        (
            row.name,
            str(row.severity),
            "" if row.amount is None else f"{row.amount:g}",
            str(row.n),
            percent(row.accepted),
            percent_range(row.accepted_interval),
            percent(row.accuracy),
            percent_range(row.accuracy_interval),
            str(row.n_accepted),
            decimal(row.auroc),
            decimal_range(row.auroc_interval),
        )
        for row in corruptions
    ]
    return [table(heads, rows)]


def controls_table(controls: Sequence[Control]) -> str:
    """A row per control and alarm."""
    word = {True: "as expected", False: "**NOT as expected**", None: "not judged"}
    rows = [(c.name, c.expectation, c.measured, word[c.passed], judged(c.judged)) for c in controls]
    return table(("control or alarm", "expectation", "measured", "outcome", "test"), rows)


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; bars in cells are escaped."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
