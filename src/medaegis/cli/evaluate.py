"""`medaegis evaluate`: every attack at every eps against a guard, with controls."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, get_args

import typer

from medaegis.cli import console, datasets
from medaegis.cli.command import FAILED
from medaegis.cli.options import (
    AsJson,
    Factory,
    Gradient,
    GuardDir,
    Images,
    Samples,
    Seed,
    Spec,
    check_out,
    comma_separated,
    eps_list,
    factory,
    gradient_list,
    next_step,
    recorded_command,
    samples_for,
)
from medaegis.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import RenderableType

    from medaegis.bench.records.evaluation import Control, Evaluation


def evaluate(
    guard_dir: GuardDir,
    spec: Spec,
    out: Annotated[Path, typer.Option("--out", help="Folder for figures and scores.", show_default=False)],
    suite: Annotated[
        str, typer.Option("--suite", help="What to run: quick, standard, paper or worst-case (medaegis suites).")
    ] = "standard",
    attacks: Annotated[
        str | None,
        typer.Option("--attacks", help="Names from `medaegis attacks`, with commas between.", show_default="suite's"),
    ] = None,
    eps: Annotated[
        str | None,
        typer.Option("--eps", help="Largest changes of a pixel, with commas between.", show_default="suite's"),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option("--steps", min=1, help="Of the attacks that know the guard.", show_default="suite's"),
    ] = None,
    gradient: Annotated[
        Gradient, typer.Option("--gradient", help="Through the Cushion: straight, by its twin, or ignoring it.")
    ] = Gradient.bpda,
    samples: Samples = None,
    queries: Annotated[
        int | None,
        typer.Option(
            "--queries",
            min=1,
            help="Of the attacks that see answers alone; the most of any attack of an ensemble.",
            show_default="suite's",
        ),
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
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="Attack at most so many test images.", show_default="suite's")
    ] = None,
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
    images: Images = None,
    seed: Seed = 0,
    network: Factory = None,
    as_json: AsJson = False,
) -> None:
    """Measure a guard on test images that nothing was trained on, the attacker knowing everything.

    Called again after a kill with the same options, it goes on where it was. Exit code 1 if a control failed, which
    means that the figures are not to be relied on yet.
    """
    from medaegis.attacks.catalogue import find_attack
    from medaegis.bench.evaluate import evaluate_guard
    from medaegis.bench.plan import plan
    from medaegis.bench.suites import MADE_TO_CARRY, applicable, find_suite
    from medaegis.bench.surrogates import transferable
    from medaegis.cushions import Gradient as Way
    from medaegis.guard.guard import Guard
    from medaegis.models.store import load_classifier

    check_out(out)
    asked = find_suite(suite)
    names = list(asked.attacks) if attacks is None else comma_separated(attacks, "--attacks")
    for name in names:
        find_attack(name)
    sizes = eps_list(",".join(asked.eps) if eps is None else eps)
    in_l2 = eps_list(",".join(asked.l2_eps)) if eps is None and asked.l2_eps else []
    steps = asked.steps if steps is None else steps
    queries = asked.queries if queries is None else queries
    limit = asked.limit if limit is None else limit
    guard = Guard.load(guard_dir, factory=factory(network))
    if attacks is None:
        names = applicable(names, len(guard.classes))
    (way,) = gradient_list(gradient.value, guard.cushion, names)
    # Without a Cushion every way through it is the same.
    other_ways = [other for other in get_args(Way) if other != way and guard.cushion.spec != "none"]
    surrogates = surrogate or []
    carried = dict.fromkeys(name for name in names if transferable(name)) if surrogates else {}
    if surrogates and attacks is None:
        carried |= dict.fromkeys(MADE_TO_CARRY)
    if surrogates and not carried:
        problem = "none of these attacks can be made on another classifier"
        raise ConfigError("--surrogate with --attacks", problem, "name one on the classifier too, as dim")
    draws = samples_for(guard.cushion, samples)
    cells = plan(
        names,
        sizes,
        l2_eps=in_l2,
        steps=steps,
        queries=queries,
        gradient=way,
        other_ways=other_ways,
        samples=draws,
        transferred=list(carried),
    )
    stand_ins = [load_classifier(path, factory(network)) for path in surrogates]
    site = datasets.site_for(guard, spec, images=images)
    given: dict[str, object] = {"--suite": suite, "--seed": seed, "--attacks": attacks, "--eps": eps, "--steps": steps}
    given |= {"--queries": queries, "--limit": limit, "--images": images, "--gradient": way}
    given |= {"--samples": draws if draws > 1 else None, "--surrogate": surrogates, "--no-planted": not planted}
    given |= {"--healthy": healthy}
    command = recorded_command("evaluate", guard_dir, spec, given | {"--factory": network})
    with console.progress("Evaluating") as progress:
        found = evaluate_guard(
            guard,
            site.dataset,
            site.split,
            cells=cells,
            surrogates=stand_ins,
            site=site,
            out_dir=out,
            limit=limit,
            planted=planted,
            stamina=asked.stamina,
            healthy=healthy,
            seed=seed,
            command=command,
            progress=progress,
        )
    if as_json:
        console.write_json(
            found.model_dump(mode="json", include={"clean", "cells", "worst_case", "by_attacker", "controls"})
            | {"out": str(out), "seconds": found.seconds}
        )
    else:
        console.write(worst_table(found))
        console.write(cells_table(found))
        console.write(controls_table(found.controls))
        console.say(f"Written to {out}. {next_step('report', out)}")
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


def controls_table(controls: Sequence[Control]) -> RenderableType:
    """A line per control and alarm."""
    from medaegis.bench.report.words import judged

    word = {True: "passed", False: "FAILED", None: "not judged"}
    rows = [[c.name, word[c.passed], c.measured, c.expectation, judged(c.judged)] for c in controls]
    return console.table("Control or alarm", "Outcome", "Measured", "Expected", "Test", rows=rows)
