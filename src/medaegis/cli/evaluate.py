"""`medaegis evaluate`: every attack at every eps against a guard, with controls."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medaegis.cli import console, datasets, masks, options
from medaegis.cli.command import FAILED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import RenderableType

    from medaegis.bench.records.evaluation import Cascaded, Control, Corrupted, Evaluation
    from medaegis.bench.records.masks import MaskEvaluation


def evaluate(
    context: typer.Context,
    guard_dir: options.GuardDir,
    spec: options.Spec,
    out: Annotated[Path, typer.Option("--out", help="Folder for figures and scores.", show_default=False)],
    suite: Annotated[
        str, typer.Option("--suite", help="What to run: quick, standard, paper or worst-case (medaegis suites).")
    ] = "standard",
    attacks: Annotated[
        str | None,
        typer.Option("--attacks", help="Names from `medaegis attacks`, with commas between.", show_default="suite's"),
    ] = None,
    eps: Annotated[str | None, typer.Option("--eps", help=options.SIZES, show_default="suite's")] = None,
    steps: Annotated[
        int | None, typer.Option("--steps", min=1, help="Of the attacks that know the guard.", show_default="suite's")
    ] = None,
    gradient: options.Way = options.Gradient.bpda,
    samples: options.Samples = None,
    queries: Annotated[
        int | None, typer.Option("--queries", min=1, help=options.QUERIES, show_default="suite's")
    ] = None,
    surrogate: Annotated[
        list[Path] | None,
        typer.Option(
            "--surrogate",
            metavar="CLASSIFIER_DIR",
            help="Also make conventional attacks on this classifier (several: their mean), judged by the guard.",
            show_default="none",
        ),
    ] = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help=options.LIMIT, show_default="suite's")] = None,
    cascade: options.Cascade = None,
    corruptions: Annotated[
        bool,
        typer.Option(
            "--corruptions", help="Also tell what the guard does with harmless changes (medaegis corruptions)."
        ),
    ] = False,
    planted: Annotated[
        bool, typer.Option(help="Control: also train a weak Shield and show that the attacks break it.")
    ] = True,
    healthy: Annotated[
        str | None,
        typer.Option(
            "--healthy",
            metavar="CLASS",
            help="The class that no disease is: how often is a diseased image accepted as it?",
            show_default="the first",
        ),
    ] = None,
    images: options.Images = None,
    seed: options.Seed = 0,
    network: options.Factory = None,
    device: options.Device = "auto",
    as_json: options.AsJson = False,
) -> None:
    """Measure a guard on test images that nothing was trained on, the attacker knowing everything.

    Called again after a kill with the same options, it goes on where it was. Exit code 1 if a control failed, which
    means that the figures are not to be relied on yet. Of a guard for masks: whether attacks get a wrong mask accepted;
    no --suite, and no weak Shield is planted.
    """
    from medaegis.bench.evaluate import evaluate_guard
    from medaegis.bench.masks import ATTACKS, SIZES, evaluate_masks, plan_masks
    from medaegis.bench.plan import ways_through
    from medaegis.bench.suites import check_suite, find_suite, plan_suite
    from medaegis.guard.guard import Guard
    from medaegis.models.store import load_classifier

    options.check_out(out)
    place = options.device_of(device)
    names = None if attacks is None else options.comma_separated(attacks, "--attacks")
    sizes = None if eps is None else options.comma_separated(eps, "--eps")
    check_suite(suite, attacks=names, eps=sizes)  # before the guard is read, which takes longer
    guard = Guard.load(guard_dir, factory=options.factory(network)).to(place)
    if guard.classifier.task.name == "dense":
        masks.check_options(
            {
                "--suite": suite != "standard",
                "--queries": queries,
                "--samples": samples,
                "--surrogate": surrogate,
                "--cascade": cascade,
                "--corruptions": corruptions,
                "--healthy": healthy,
            }
        )
        (way,) = ways_through(guard.cushion, [gradient.value], names or ATTACKS)
        site = datasets.site_for(guard, spec, images=images)
        planned_masks = plan_masks(
            guard, attacks=names or ATTACKS, eps=sizes or SIZES, steps=steps or masks.STEPS, gradient=way
        )
        with console.progress("Evaluating") as progress:
            of_masks = evaluate_masks(
                guard,
                site,
                cells=planned_masks,
                out_dir=out,
                limit=limit or masks.LIMIT,
                seed=seed,
                command=options.recorded_command(context),
                progress=progress,
            )
        _tell_masks(of_masks, out, as_json=as_json)
        return
    (way,) = ways_through(guard.cushion, [gradient.value], names or find_suite(suite).attacks)
    planned = plan_suite(
        guard,
        suite,
        attacks=names,
        eps=sizes,
        steps=steps,
        queries=queries,
        limit=limit,
        gradient=way,
        samples=samples,
        transfer=bool(surrogate),
    )
    site = datasets.site_for(guard, spec, images=images)
    with console.progress("Evaluating") as progress:
        found = evaluate_guard(
            guard,
            site,
            cells=planned.cells,
            surrogates=[load_classifier(path, options.factory(network)) for path in surrogate or []],
            out_dir=out,
            limit=planned.limit,
            cascade=cascade,
            corruptions=corruptions,
            planted=planted,
            stamina=planned.stamina,
            healthy=healthy,
            seed=seed,
            command=options.recorded_command(context),
            progress=progress,
        )
    if as_json:
        shown = {"clean", "cells", "worst_case", "cascade", "corruptions", "by_attacker", "controls"}
        told = found.model_dump(mode="json", include=shown)
        console.write_json(told | {"out": str(out), "seconds": found.seconds})
    else:
        console.write(worst_table(found))
        if found.cascade:
            console.write(cascade_table(found.cascade))
        console.write(cells_table(found))
        if found.corruptions:
            console.write(corruptions_table(found.corruptions))
        console.write(controls_table(found.controls))
        console.say(f"Written to {out}. {options.next_step('report', out)}")
    if any(control.passed is False for control in found.controls):
        raise typer.Exit(FAILED)


def _tell_masks(found: MaskEvaluation, out: Path, *, as_json: bool) -> None:
    if as_json:
        told = found.model_dump(mode="json", include={"clean", "cells", "worst_case", "controls"})
        console.write_json(told | {"out": str(out), "seconds": found.seconds})
    else:
        for table in (masks.worst_table(found), masks.cells_table(found), controls_table(found.controls)):
            console.write(table)
        console.say(masks.clean_told(found))
        console.say(f"Written to {out}.")
    if any(control.passed is False for control in found.controls):
        raise typer.Exit(FAILED)


def worst_table(found: Evaluation) -> RenderableType:
    """A line per eps: for each image the strongest attack."""
    from medaegis.bench.report.words import percent_range

    rows = [
        [
            worst.eps_text,
            worst.norm,
            worst.n,
            console.decimal(worst.auroc),
            console.percent(worst.undetected),
            percent_range(worst.undetected_interval),
            console.percent(worst.robust_accuracy),
        ]
        for worst in found.worst_case
    ]
    columns = ("Worst case, eps", "Norm", "n", "AUROC", "Undetected", "95 %", "Robust accuracy")
    return console.table(*columns, rows=rows)


def cascade_table(cascade: Sequence[Cascaded]) -> RenderableType:
    """A line per eps, over more images: how many any attack breaks."""
    from medaegis.bench.report.words import percent_range

    rows = [[row.eps_text, row.norm, row.n, console.percent(row.share), percent_range(row.interval)] for row in cascade]
    return console.table("Over more images, eps", "Norm", "n", "Broken by any attack", "95 %", rows=rows)


def cells_table(found: Evaluation) -> RenderableType:
    """A line per attack, eps and way through the Cushion."""
    from medaegis.bench.report.words import eps_name, gradient_name

    ways = found.guard.cushion != "none"
    rows = [
        [
            f"{cell.attack} (transfer)" if cell.access == "no-box" else cell.attack,
            eps_name(cell.eps_text, cell.norm),
            cell.steps,
            *([gradient_name(cell.gradient)] if ways else []),
            cell.n,
            console.percent(cell.success_on_classifier),
            console.percent(cell.success),
            console.decimal(cell.auroc),
            console.percent(cell.tpr90),
            console.percent(cell.undetected),
        ]
        for cell in found.cells
    ]
    told = ("n", "Fools bare", "Fools cushioned", "AUROC", "TPR at 90 % TNR", "Undetected")
    return console.table("Attack", "eps", "Steps", *(["Gradient"] if ways else []), *told, rows=rows)


def corruptions_table(corruptions: Sequence[Corrupted]) -> RenderableType:
    """A line per harmless change, with its severities from 1 to 5; first the clean images."""
    lines: dict[str, list[Corrupted]] = {}
    for row in corruptions:
        lines.setdefault(row.title, []).append(row)

    def told(shares: Sequence[float]) -> str:
        return " ".join(f"{100 * share:3.0f}" for share in shares)

    rows = [
        [
            title,
            told([row.accepted for row in found]),
            told([row.accuracy for row in found]),
            " ".join("  – " if row.auroc is None else f"{row.auroc:.2f}" for row in found),
        ]
        for title, found in lines.items()
    ]
    columns = ("Harmless change, severity 1 to 5", "Accepted, %", "Diagnosed rightly, %", "AUROC of the accepted")
    return console.table(*columns, rows=rows, title=f"{corruptions[0].n} images that nobody attacked")


def controls_table(controls: Sequence[Control]) -> RenderableType:
    """A line per control and alarm."""
    from medaegis.bench.report.words import judged

    word = {True: "passed", False: "FAILED", None: "not judged"}
    rows = [[c.name, word[c.passed], c.measured, c.expectation, judged(c.judged)] for c in controls]
    return console.table("Control or alarm", "Outcome", "Measured", "Expected", "Test", rows=rows)
