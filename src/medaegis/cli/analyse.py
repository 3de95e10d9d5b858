"""`medaegis analyse`: the figures of a paper on what an attack does inside a network."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medaegis.cli import console, datasets, options
from medaegis.errors import ConfigError


def analyse(
    victim_dir: Annotated[
        Path, typer.Argument(metavar="DIR", help="A guard, or a classifier alone: what `fit` or `train` wrote.")
    ],
    spec: options.Spec,
    out: Annotated[Path, typer.Option("--out", help="Folder for figures, page and numbers.", show_default=False)],
    attack: options.Attack = "bim",
    eps: options.Eps = "8/256",
    steps: options.Steps = None,
    gradient: options.Way = options.Gradient.bpda,
    limit: Annotated[int, typer.Option("--limit", min=1, help=options.LIMIT)] = 64,
    examples: Annotated[int, typer.Option("--examples", min=1, max=12, help="Pictures shown with their maps.")] = 4,
    layer: Annotated[
        str | None,
        typer.Option("--layer", help="Where Grad-CAM looks: a module's name.", show_default="deepest tap with places"),
    ] = None,
    cushion: Annotated[
        str | None,
        typer.Option(
            "--cushion",
            help="For a classifier alone: the Cushion whose effect on the change is shown.",
            show_default="jpeg:80",
        ),
    ] = None,
    images: options.Images = None,
    seed: options.Seed = 0,
    network: options.Factory = None,
    device: options.Device = "auto",
    as_json: options.AsJson = False,
) -> None:
    """Draw what an attack does inside: t-SNE, Grad-CAM, saliency, activations, loss landscapes, stress test, spectra.

    Attacks test images that are diagnosed rightly, each towards another class. Writes analysis.html, every figure as
    PNG (300 dpi) and SVG, and the numbers behind them in analysis.json.
    """
    from medaegis.artefact import digest, kind_of
    from medaegis.attacks.balls import parse_eps
    from medaegis.attacks.catalogue import find_attack
    from medaegis.attacks.victim import Victim
    from medaegis.bench.analyse.page import write_analysis
    from medaegis.bench.analyse.study import study
    from medaegis.bench.analyse.subjects import Plan
    from medaegis.bench.campaign import classifier_key, guard_key
    from medaegis.bench.plan import ways_through
    from medaegis.cushions import parse_cushion
    from medaegis.guard.guard import Guard
    from medaegis.images import without_path
    from medaegis.models.store import load_classifier

    options.check_out(out)
    place = options.device_of(device)
    find_attack(attack)
    radius, filtering = parse_eps(eps), parse_cushion("jpeg:80" if cushion is None else cushion)
    if cushion is not None and kind_of(victim_dir) == "guard":
        raise ConfigError(f"--cushion {cushion}", "a guard has its own, and that one is shown", "leave it out")
    build = options.factory(network)
    if kind_of(victim_dir) == "guard":
        guard = Guard.load(victim_dir, factory=build).to(place)
        (way,) = ways_through(guard.cushion, [gradient.value], [attack])
        site = datasets.site_for(guard, spec, images=images)
        dataset, split = site.dataset, site.split
        victim, key = guard.victim(gradient=way), guard_key(guard, seed)
        name = f"{guard.classifier.backbone} behind {guard.cushion.spec}, with Shields"
    else:
        classifier, bare = load_classifier(victim_dir, build).to(place), parse_cushion("none")
        (way,) = ways_through(bare, [gradient.value], [attack])
        dataset, split = datasets.data_of_classifier(victim_dir, classifier, spec, images=images)
        victim, key = Victim(classifier), classifier_key(classifier, bare, seed)
        name = f"{classifier.backbone} alone"
    about = {
        "victim": name,
        "digest": digest(victim_dir),
        "data": without_path(spec),
        "split": "adv_test",
        "gradient": way if victim.cushion.spec != "none" else None,
    }
    plan = Plan(
        attack=attack,
        eps=radius,
        eps_text=eps,
        steps=steps,
        gradient=victim.gradient,
        limit=limit,
        examples=examples,
        layer=layer,
        cushion=filtering if victim.shields is None else victim.cushion,
        seed=seed,
    )
    known = dataset.subset([*split.train, *split.adv_train])
    with console.progress("Analysing") as progress:
        found = study(
            victim, dataset.subset(split.adv_test), plan, key=key, out_dir=out, known=known, progress=progress
        )
    page = write_analysis(found, out, about=about)
    n, fooled = len(found.rows), int(found.fooled.sum())
    if as_json:
        undetected = None if found.broken is None else int(found.broken.sum())
        console.write_json({"out": str(out), "n": n, "fooled": fooled, "undetected": undetected})
        return
    lines = {
        "Images": f"{n} test images that are diagnosed rightly",
        "Wrong diagnosis": f"{fooled} ({console.percent(fooled / n)})",
        **{f"Told apart at {tap}": console.percent(share) for tap, share in found.apart.items()},
    }
    console.write(console.facts(lines, title=f"{find_attack(attack).title}, eps {eps}, {plan.value.steps} steps"))
    console.say(f"Written to {out}. Next: open {page}")
