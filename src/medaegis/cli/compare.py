"""`medaegis compare`: detectors side by side, against every attack, with and without a Cushion."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medaegis.cli import console, datasets, options


def compare(
    context: typer.Context,
    classifier_dir: options.ClassifierDir,
    spec: options.Spec,
    out: Annotated[Path, typer.Option("--out", help="Folder for the tables and scores.", show_default=False)],
    detectors: Annotated[
        str | None, typer.Option("--detectors", help="Names from `medaegis detectors`.", show_default="all")
    ] = None,
    attacks: Annotated[str, typer.Option("--attacks", help="Names from `medaegis attacks`.")] = "bim,hfc",
    learn_from: Annotated[
        str, typer.Option("--learn-from", help="Attack whose images the detectors learn from that need some.")
    ] = "bim",
    cushions: Annotated[
        str,
        typer.Option(
            "--cushions",
            help="In front of classifier and detectors, each in turn; `float`: none, and images are not rounded to 8 "
            "bits either, as in papers that say nothing of files.",
        ),
    ] = "none,jpeg:80",
    eps: options.Eps = "1/256",
    steps: Annotated[
        int | None, typer.Option("--steps", min=1, help="Of every iterated attack.", show_default="their own")
    ] = None,
    guard: Annotated[
        Path | None,
        typer.Option("--guard", help="A guard of this classifier, for the detector `shield`.", show_default="none"),
    ] = None,
    taps: Annotated[
        str | None,
        typer.Option("--taps", help="Modules whose features are read.", show_default="those of the classifier"),
    ] = None,
    limit: options.Limit = None,
    images: options.Images = None,
    seed: options.Seed = 0,
    network: options.Factory = None,
    device: options.Device = "auto",
    as_json: options.AsJson = False,
) -> None:
    """Compare detectors by the protocol of the papers: fitted once, judged on every attack, by AUROC and TPR.

    The attacker knows classifier and Cushion, and no detector; `hfc` hides among normal features all the same. Called
    again after a kill with the same options, it goes on where it was.
    """
    from medaegis.attacks.balls import parse_eps
    from medaegis.bench.compare import check_comparison, compare_detectors
    from medaegis.bench.scene import SHIELD
    from medaegis.detectors.registry import DETECTORS
    from medaegis.guard.guard import Guard
    from medaegis.models.store import load_classifier

    options.check_out(out)
    place = options.device_of(device)
    names = [name for name in DETECTORS if name != SHIELD or guard is not None]
    if detectors is not None:
        names = options.comma_separated(detectors, "--detectors")
    radius = parse_eps(eps)
    named, filters = options.comma_separated(attacks, "--attacks"), options.comma_separated(cushions, "--cushions")
    classifier = load_classifier(classifier_dir, options.factory(network)).to(place)
    shielded = None if guard is None else Guard.load(guard, factory=options.factory(network)).to(place)
    check_comparison(names, named, learn_from, filters, shielded, len(classifier.classes))
    dataset, split = datasets.data_of_classifier(classifier_dir, classifier, spec, images=images)
    with console.progress("Comparing") as progress:
        found = compare_detectors(
            classifier,
            dataset,
            split,
            detectors=names,
            attacks=named,
            guard=shielded,
            learn_from=learn_from,
            eps=radius,
            eps_text=eps,
            out_dir=out,
            taps=None if taps is None else options.comma_separated(taps, "--taps"),
            cushions=filters,
            steps=steps,
            limit=limit,
            seed=seed,
            command=options.recorded_command(context),
            progress=progress,
        )
    if as_json:
        console.write_json(found.model_dump(mode="json") | {"out": str(out)})
        return
    rows = [
        [
            row.cushion,
            row.detector,
            row.attack,
            console.decimal(row.auroc),
            f"{row.auroc_interval[0]:.3f}-{row.auroc_interval[1]:.3f}",
            console.percent(row.tpr90),
            console.decimal(row.fooling.auroc if row.fooling else None),
        ]
        for row in found.rows
    ]
    heads = ("Cushion", "Detector", "Attack", "AUROC", "95 %", "TPR at 90 % TNR", "AUROC, those that fool")
    console.write(console.table(*heads, rows=rows))
    fooled = [[a.cushion, a.attack, a.n, console.percent(a.success)] for a in found.attacks]
    console.write(console.table("Cushion", "Attack", "n", "Fools the classifier", rows=fooled))
    console.say(f"Written to {out / 'comparison.md'} and comparison.json.")
