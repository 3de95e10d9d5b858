"""`medaegis analyse`: the figures of a paper on what an attack does inside a network."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medaegis.cli import console, datasets
from medaegis.cli.options import (
    LIMIT,
    AsJson,
    Device,
    Eps,
    Factory,
    Gradient,
    Images,
    Seed,
    Spec,
    Steps,
    check_out,
    device_of,
    factory,
)
from medaegis.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch
    from torch import nn

    from medaegis.attacks.victim import Victim
    from medaegis.images import Dataset, Split


def analyse(
    victim_dir: Annotated[
        Path, typer.Argument(metavar="DIR", help="A guard, or a classifier alone: what `fit` or `train` wrote.")
    ],
    spec: Spec,
    out: Annotated[Path, typer.Option("--out", help="Folder for figures, page and numbers.", show_default=False)],
    attack: Annotated[str, typer.Option("--attack", help="Name from `medaegis attacks`.")] = "bim",
    eps: Eps = "8/256",
    steps: Steps = None,
    gradient: Annotated[
        Gradient, typer.Option("--gradient", help="Through the Cushion: straight, by its twin, or ignoring it.")
    ] = Gradient.bpda,
    limit: Annotated[int, typer.Option("--limit", min=1, help=LIMIT)] = 64,
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
    images: Images = None,
    seed: Seed = 0,
    network: Factory = None,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Draw what an attack does inside: t-SNE, Grad-CAM, saliency, activations, loss landscapes, stress test, spectra.

    Attacks test images that are diagnosed rightly, each towards another class. Writes analysis.html, every figure as
    PNG (300 dpi) and SVG, and the numbers behind them in analysis.json.
    """
    from medaegis.artefact import kind_of
    from medaegis.attacks.balls import parse_eps
    from medaegis.attacks.catalogue import find_attack
    from medaegis.bench.analyse.page import write_analysis
    from medaegis.bench.analyse.study import study
    from medaegis.bench.analyse.subjects import Plan
    from medaegis.cushions import parse_cushion

    check_out(out)
    place = device_of(device)
    find_attack(attack)
    radius, filtering = parse_eps(eps), parse_cushion("jpeg:80" if cushion is None else cushion)
    if cushion is not None and kind_of(victim_dir) == "guard":
        raise ConfigError(f"--cushion {cushion}", "a guard has its own, and that one is shown", "leave it out")
    victim, key, dataset, split, about = load_victim(
        victim_dir,
        spec,
        attack=attack,
        gradient=gradient.value,
        images=images,
        seed=seed,
        build=factory(network),
        place=place,
    )
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


def load_victim(
    folder: Path,
    spec: str,
    *,
    attack: str,
    gradient: str,
    images: int | None,
    seed: int,
    build: Callable[..., nn.Module] | None,
    place: torch.device,
) -> tuple[Victim, dict[str, object], Dataset, Split, dict[str, str | None]]:
    """A guard or a classifier as the target of attacks and what names it, its data and split, what both are called."""
    from medaegis.artefact import digest, kind_of
    from medaegis.attacks.victim import Victim
    from medaegis.bench.campaign import classifier_key, guard_key
    from medaegis.bench.plan import ways_through
    from medaegis.cushions import parse_cushion
    from medaegis.guard.guard import Guard
    from medaegis.images import without_path
    from medaegis.models.store import load_classifier

    if kind_of(folder) == "guard":
        guard = Guard.load(folder, factory=build).to(place)
        ways_through(guard.cushion, [gradient], [attack])
        dataset, split = datasets.data_of_guard(guard, spec, images=images)
        victim, key = guard.victim(gradient=gradient), guard_key(guard, seed)  # type: ignore[arg-type]
        name = f"{guard.classifier.backbone} behind {guard.cushion.spec}, with Shields"
    else:
        classifier = load_classifier(folder, build).to(place)
        ways_through(parse_cushion("none"), [gradient], [attack])
        dataset, split = datasets.data_of_classifier(folder, classifier, spec, images=images)
        victim, key = Victim(classifier), classifier_key(classifier, parse_cushion("none"), seed)
        name = f"{classifier.backbone} alone"
    way = gradient if victim.cushion.spec != "none" else None
    about = {"victim": name, "digest": digest(folder), "data": without_path(spec), "split": "adv_test"}
    return victim, key, dataset, split, {**about, "gradient": way}
