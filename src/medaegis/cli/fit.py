"""`medaegis fit`: a guard around a classifier."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from medaegis.cli import console, datasets, options
from medaegis.errors import ConfigError


class Recipe(StrEnum):
    """How Shields are trained."""

    strong = "strong"
    smooth = "smooth"
    paper = "paper"


def fit(
    classifier_dir: options.ClassifierDir,
    spec: options.Spec,
    out: Annotated[Path, typer.Option("--out", help="Folder for the guard.", show_default=False)],
    cushion: Annotated[str, typer.Option("--cushion", help="Filter in front (medaegis cushions).")] = "jpeg:80",
    recipe: Annotated[
        Recipe,
        typer.Option(
            "--recipe", help="strong: ours; smooth: ours for smooth pictures, as of the fundus; paper: as published."
        ),
    ] = Recipe.strong,
    updates: Annotated[
        int, typer.Option("--updates", min=1, help="Training steps of each Shield; fewer if its gradients mask.")
    ] = 2400,
    taps: Annotated[
        str | None,
        typer.Option(
            "--taps",
            help="Modules that Shields of recipe paper, and attacks on features, read.",
            show_default="those of the classifier",
        ),
    ] = None,
    shields: Annotated[
        Path | None,
        typer.Option(
            "--shields",
            metavar="GUARD_DIR",
            help="Take this guard's Shields and set their thresholds anew; nothing is trained by --recipe, --updates.",
            show_default="train them",
        ),
    ] = None,
    tnr: Annotated[
        float, typer.Option("--tnr", min=0.5, max=0.999, help="Share of clean images to be accepted.")
    ] = datasets.TNR,
    sign: options.SigningKey = None,
    kinds: Annotated[
        str | None,
        typer.Option(
            "--for",
            metavar="MODALITIES",
            help="What it is for, as DICOM calls it, such as CR,DX; other DICOM pictures are withheld. any: all.",
            show_default="what the training images say",
        ),
    ] = None,
    body_part: Annotated[
        str,
        typer.Option("--body-part", help="With --for: body parts, such as CHEST,THORAX.", show_default="not asked for"),
    ] = "",
    images: options.Images = None,
    seed: options.Seed = 0,
    network: options.Factory = None,
    device: options.Device = "auto",
    as_json: options.AsJson = False,
) -> None:
    """Train the Shields (of a network for masks one), set their thresholds on validation images, write the guard.

    Called again after a kill with the same options, it goes on where it was. The images are split as for the
    classifier: what it was tested on, no Shield learns from.
    """
    from medaegis.artefact import check_target
    from medaegis.bench.chance import why_no_better_than_chance
    from medaegis.cushions import parse_cushion
    from medaegis.guard.fitting import fit_guard, refit_guard, shield_config
    from medaegis.guard.guard import Guard
    from medaegis.guard.looks import FIT_AGAIN, LOOKS, unfinished
    from medaegis.guard.purpose import asked_purpose, told_purpose
    from medaegis.models.store import load_classifier, read_learned

    filtering = parse_cushion(cushion)
    if body_part and kinds is None:
        raise ConfigError("--body-part", "needs --for", "name the modalities too, such as --for CR,DX")
    purpose = None if kinds is None else asked_purpose(kinds, body_part)
    options.check_out(out, check_target, kind="guard", empty=shields is not None, signing_key=sign)
    place = options.device_of(device)
    classifier = load_classifier(classifier_dir, options.factory(network)).to(place)
    if taps is not None:
        classifier = classifier.around(classifier.network, taps=options.comma_separated(taps, "--taps"))
    dataset, split = datasets.data_of_classifier(classifier_dir, classifier, spec, images=images)
    datasets.tell_small_classes(dataset, split, tnr)
    with console.progress("Judging the classifier"):
        asked = split.adv_test and dataset.task.name == "single"
        doubt = why_no_better_than_chance(classifier, dataset, split.adv_test) if asked else None
    if doubt is not None:
        console.say(f"Warning: the classifier is no better than chance: {console.shown(doubt)}. No guard mends that.")
    hashes = read_learned(classifier_dir)
    if shields is not None:
        source = Guard.load(shields, factory=options.factory(network)).to(place)
        with console.progress("Setting thresholds"):
            guard = refit_guard(
                source,
                classifier,
                dataset,
                split,
                cushion=filtering,
                out_dir=out,
                tnr=tnr,
                learned=hashes,
                signing_key=sign,
                purpose=purpose,
            )
    else:
        config = shield_config(recipe, classifier, updates=updates, seed=seed)
        if updates < LOOKS:
            console.say(
                f"Warning: {updates} updates are fewer than the {LOOKS} that Shields need to be looked at while they "
                "learn. Nothing will be said of what they reach, nor whether their gradients mask."
            )
        with console.progress("Fitting") as progress:
            guard = fit_guard(
                classifier,
                dataset,
                split,
                cushion=filtering,
                config=config,
                out_dir=out,
                tnr=tnr,
                signing_key=sign,
                purpose=purpose,
                about={"images": images, "recipe": recipe.value, **datasets.origin_of(classifier_dir)},
                learned=hashes,
                progress=progress,
            )
    told, doubts = guard.calibration, unfinished(guard.training)
    if as_json:
        learned = {"shields": guard.training["shields"], "finished": not doubts, "unfinished": doubts}
        console.write_json({"guard": str(out), "calibration": told, **learned})
        return
    if shields is None:
        seconds = sum(shield["seconds"] for shield in guard.training["shields"].values())
        trained = f"of recipe {recipe.value}, {updates} updates asked for, {seconds:.0f} s"
    else:
        trained = f"of {shields.name}"
    lines = {
        "For": told_purpose(guard.purpose),
        "Cushion": filtering.spec,
        "Shields": f"{len(guard.judged)} {trained}",
        **shields_told(guard.training),
        "Accepts of clean test images": f"{console.percent(told['tnr_reached'])} (chosen {console.percent(tnr)})",
        **{f"  {name}": console.percent(share) for name, share in told["tnr_by_class"].items()},
        "Pooled thresholds": pooled(told["thresholds"], tnr),
        **accuracy_told(told),
        "Signed": "no" if guard.version is None else f"yes, version {guard.version}",
    }
    title = "Unfinished guard" if doubts else "Guard"
    console.write(console.facts(lines, title=f"{title} for {', '.join(map(console.shown, guard.classes))}"))
    if doubts:
        console.say(f"Not finished: {'; '.join(map(console.shown, doubts))}. {FIT_AGAIN}.")
    step = options.next_step("evaluate", out, spec, "--out", "EVALUATION_DIR", backbone=classifier.backbone)
    console.say(f"Written to {out}. {step}")


def accuracy_told(calibration: Mapping[str, Any]) -> dict[str, str]:
    """What the network itself is worth behind the Cushion."""
    if "dice" not in calibration:
        return {"Accuracy behind the Cushion": console.percent(calibration["accuracy"])}
    right, dice = console.percent(calibration["accuracy"]), console.decimal(calibration["dice"])
    return {"Right masks behind the Cushion": f"{right}, mean Dice {dice}"}


def shields_told(training: Mapping[str, Any]) -> dict[str, str]:
    """By class: how many updates, and what the look at what was kept saw."""
    from medaegis.guard.looks import reached, shield_facts

    lines = {}
    for name, shield in (shield_facts(training) or {}).items():
        look = shield.look
        seen = f"{reached(look)} at update {look['update']:.0f}" if look and reached(look) else "never looked at"
        lines[f"  Shield {name}"] = f"{shield.last} updates; {seen}" if shield.last else seen
    return lines


def pooled(thresholds: Mapping[str, Mapping[str, Any]], tnr: float) -> str:
    """Which classes have no threshold of their own, and why."""
    from medaegis.detectors.thresholds import enough_images

    small = [f"{console.shown(name)} ({one['images']})" for name, one in thresholds.items() if not one["own"]]
    if not small:
        return "none; every class has its own"
    return f"{', '.join(small)}: fewer than {enough_images(tnr)} clean validation images are predicted as these"
