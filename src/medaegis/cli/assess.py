"""`medaegis assess`: how robust a classifier is that nothing guards."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medaegis.cli import console, datasets, options
from medaegis.cli.command import FAILED
from medaegis.cli.evaluate import cascade_table, controls_table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import RenderableType

    from medaegis.bench.records.assessment import Assessment, ClassifierWorstCase, Proportion, Standing

ALL = "all"


def assess(
    context: typer.Context,
    classifier_dir: options.ClassifierDir,
    spec: options.Spec,
    out: Annotated[Path, typer.Option("--out", help="Folder for the tables and the figure.", show_default=False)],
    attacks: Annotated[
        str | None,
        typer.Option(
            "--attacks",
            help="Names from `medaegis attacks`, or `all` that a classifier alone can be given.",
            show_default="fgsm, bim, pgd, mim, cw-linf, pgd-l2, deepfool, cw-l2, auto; for findings and masks others",
        ),
    ] = None,
    eps: Annotated[str, typer.Option("--eps", help=options.SIZES)] = "1/256,2/256,4/256,8/256",
    cushion: Annotated[
        str, typer.Option("--cushion", help="In front of the classifier; the attacker knows it.")
    ] = "none",
    gradient: Annotated[
        str,
        typer.Option(
            "--gradient",
            help="Through the Cushion: bpda (straight), twin (by its differentiable twin), skip (ignoring it). With "
            "commas between, every attack goes every way.",
        ),
    ] = options.Gradient.bpda.value,
    targeted: options.Targeted = False,
    samples: options.Samples = None,
    steps: Annotated[
        int | None,
        typer.Option("--steps", min=1, help="Of the attacks by gradients within an eps.", show_default="their own"),
    ] = None,
    queries: Annotated[
        int | None, typer.Option("--queries", min=1, help=options.QUERIES, show_default="their own")
    ] = None,
    surrogate: Annotated[
        list[Path] | None,
        typer.Option(
            "--surrogate",
            metavar="CLASSIFIER_DIR",
            help="Also make the attacks by gradients on this classifier (several: their mean), judged by the other.",
            show_default="none",
        ),
    ] = None,
    limit: options.Limit = None,
    cascade: options.Cascade = None,
    images: options.Images = None,
    seed: options.Seed = 0,
    network: options.Factory = None,
    device: options.Device = "auto",
    as_json: options.AsJson = False,
) -> None:
    """Measure a classifier without guard: attacks at every size of change, and what the strongest leaves of each image.

    Of a network for several findings or for masks: the mean AUROC, or the overlap of the masks, that is left.
    The attacker knows it all and wants any wrong diagnosis, or one of his choice (--targeted). Called again after a
    kill with the same options, it goes on where it was. Exit code 1 if a control failed: then the figures are not to
    be relied on yet.
    """
    from medaegis.attacks.balls import parse_eps
    from medaegis.bench import plan
    from medaegis.bench.assess import ATTACKS, assess_classifier
    from medaegis.cushions import parse_cushion
    from medaegis.models.store import load_classifier

    options.check_out(out)
    place = options.device_of(device)
    sizes = [(text, parse_eps(text)) for text in options.comma_separated(eps, "--eps")]
    filtering = parse_cushion(cushion)
    draws = plan.samples_for(filtering, samples)
    names = [] if attacks is None else options.comma_separated(attacks, "--attacks")
    if ALL not in names:
        plan.check_attacks(names)
    classifier = load_classifier(classifier_dir, options.factory(network)).to(place)
    classes, task = len(classifier.classes), classifier.task.name
    if ALL in names:  # whatever stands beside it
        names = plan.every_attack(classes, task)
    names = names or list(ATTACKS[task])
    plan.check_attacks(names, classes, task=task)
    ways = plan.ways_through(filtering, options.comma_separated(gradient, "--gradient"), names)
    others = [load_classifier(path, options.factory(network)) for path in surrogate or []]
    carried = plan.carried_over(names) if others else ()
    cells = plan.plan_assessment(
        names, sizes, steps=steps, queries=queries, gradients=ways, samples=draws, transferred=carried
    )
    dataset, split = datasets.data_of_classifier(classifier_dir, classifier, spec, images=images)
    with console.progress("Assessing") as progress:
        found = assess_classifier(
            classifier,
            dataset,
            split,
            cells=cells,
            eps=sizes,
            out_dir=out,
            cushion=cushion,
            targeted=targeted,
            limit=limit,
            cascade=cascade,
            surrogates=others,
            seed=seed,
            command=options.recorded_command(context),
            progress=progress,
        )
    if as_json:
        console.write_json(found.model_dump(mode="json") | {"out": str(out)})
    else:
        console.write(worst_table(found, found.worst_case))
        if found.no_box:
            console.write(worst_table(found, found.no_box, "On surrogates, eps"))
        if found.cascade:
            console.write(cascade_table(found.cascade))
        console.write(attacks_table(found))
        console.write(strengths_table(found))
        console.write(controls_table(found.controls))
        console.say(f"Written to {out}: assessment.md, assessment.json, robust-accuracy.svg and .png.")
    if any(control.passed is False for control in found.controls):
        raise typer.Exit(FAILED)


def worst_table(
    found: Assessment, cases: Sequence[ClassifierWorstCase], title: str = "Worst case, eps"
) -> RenderableType:
    """Clean images, and a line per eps."""
    from medaegis.bench.report.quality import HEADS, quality_cells
    from medaegis.bench.report.words import beyond, capital

    single = found.task == "single"

    def told(standing: Standing) -> list[str]:
        recalls = [console.percent(recall.share) for recall in standing.recall.values()] if single else []
        return [*quality_cells(standing.quality), *_shares(standing.accuracy), *recalls]

    rows = [["clean", "", *told(found.clean), ""]]
    rows += [[worst.eps_text, worst.norm, *told(worst), beyond(worst.further)] for worst in cases]
    recalls = (f"Recall {name}" for name in found.classes if single)
    figures = map(capital, HEADS[found.task])
    columns = (title, "Norm", *figures, "Robust accuracy", "95 %", *recalls, "Checks on few images")
    return console.table(*columns, rows=rows)


def attacks_table(found: Assessment) -> RenderableType:
    """A line per attack, eps and way through the Cushion; passes and seconds are per image."""
    from medaegis.bench.records.assessment import attack_name
    from medaegis.bench.report.quality import HEADS, leading, quality_cells, told_mean
    from medaegis.bench.report.words import NOT_MEASURED, capital, decimal, eps_name, gradient_name

    ways = found.cushion != "none"
    rows = [
        [
            attack_name(tried),
            eps_name(tried.eps_text, tried.norm),
            tried.steps,
            *([gradient_name(tried.gradient)] if ways else []),
            *quality_cells(tried.quality, bounds=False),
            tried.success.n,
            *_shares(tried.success),
            console.percent(tried.noise.share)
            if tried.noise_quality is None
            else told_mean(leading(tried.noise_quality), bounds=False),
            *(decimal(tried.ssim), NOT_MEASURED if tried.psnr is None else f"{tried.psnr:.1f}"),
            *(f"{tried.forwards:.0f}", f"{tried.backwards:.0f}", f"{tried.seconds:.2f}"),
        ]
        for tried in found.attacks
    ]
    told = ("n", "Success", "95 %", "Noise", "SSIM", "PSNR", "Forwards", "Backwards", "Seconds")
    figures = map(capital, HEADS[found.task])
    return console.table("Attack", "eps", "Steps", *(["Gradient"] if ways else []), *figures, *told, rows=rows)


def strengths_table(found: Assessment) -> RenderableType:
    """A line per attack and way through the Cushion, over all its eps; medians, and passes per image."""
    from medaegis.bench.records.assessment import size_name
    from medaegis.bench.report.words import decimal, gradient_name

    ways = found.cushion != "none"
    rows = [
        [
            one.attack,
            *([gradient_name(one.gradient)] if ways else []),
            one.norm,
            one.turned,
            size_name(one.smallest, one.norm),
            size_name(one.best, one.norm),
            decimal(one.optimality),
            f"{one.passes:.0f}",
        ]
        for one in found.strengths
    ]
    told = ("Norm", "Turned", "Smallest change", "Best of all", "Optimality", "Passes")
    return console.table("Attack", *(["Gradient"] if ways else []), *told, rows=rows)


def _shares(found: Proportion) -> list[str]:
    bounds = "" if found.interval is None else f"{100 * found.interval[0]:.1f}-{100 * found.interval[1]:.1f}"
    return [console.percent(found.share), bounds]
