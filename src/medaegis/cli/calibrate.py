"""`medaegis calibrate`: a guard's thresholds set anew on clean images of another site."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medaegis.cli import console, datasets, options
from medaegis.cli.fit import pooled

if TYPE_CHECKING:
    from rich.console import RenderableType

    from medaegis.guard.guard import Guard
    from medaegis.guard.site import Site


def calibrate(
    guard_dir: options.GuardDir,
    spec: options.Spec,
    out: Annotated[Path, typer.Option("--out", help="Folder for the calibrated guard.", show_default=False)],
    tnr: Annotated[
        float | None,
        typer.Option(
            "--tnr", min=0.5, max=0.999, help="Share of clean images to be accepted.", show_default="as the guard"
        ),
    ] = None,
    sign: options.SigningKey = None,
    images: options.Images = None,
    seed: options.Seed = 0,
    network: options.Factory = None,
    device: options.Device = "auto",
    as_json: options.AsJson = False,
) -> None:
    """Set a guard's thresholds on clean images of another site; classifier and Shields stay as they are.

    Two fifths of the site's patients set thresholds, two fifths measure them; the rest is left for `evaluate`. Images
    that the guard learned from are left out. Classes are matched by name.
    """
    from medaegis.artefact import check_target
    from medaegis.bench.calibrate import calibrate_site
    from medaegis.bench.chance import why_no_better_than_chance
    from medaegis.guard.guard import Guard

    options.check_out(out, check_target, kind="guard", empty=True, signing_key=sign)
    place = options.device_of(device)
    guard = Guard.load(guard_dir, factory=options.factory(network)).to(place)
    chosen = guard.tnr if tnr is None else tnr
    site = datasets.site_for(guard, spec, images=images, seed=seed, recalibrate=True)
    if not as_json:
        console.write(promises(guard, site, chosen))
    doubt = why_no_better_than_chance(guard.classifier, site.dataset, site.split.adv_test)
    if doubt is not None:
        console.say(
            f"Warning: on these images the classifier is no better than chance: {console.shown(doubt)}. Thresholds do "
            "not mend that: do not use it at this site."
        )
    made = calibrate_site(guard, site, out, tnr=tnr, signing_key=sign)
    if as_json:
        console.write_json({"guard": str(out), "calibration": made.calibration})
        return
    console.write(before_and_after(guard, made))
    console.say(f"Pooled thresholds: {pooled(made.calibration['thresholds'], made.tnr)}.")
    step = options.next_step("evaluate", out, spec, "--out", "EVALUATION_DIR", backbone=guard.classifier.backbone)
    console.say(f"Written to {out}. {step}")


def promises(guard: Guard, site: Site, tnr: float) -> RenderableType:
    """A line per class: images that will set its threshold, those the classifier takes for that class, whatever they
    are, and how far acceptance of further ones may lie from it.
    """
    from medaegis.detectors.thresholds import accepted_range, enough_images, images_for

    dataset = site.dataset
    judged = dataset.subset(site.split.val)
    predicted = guard.judge(judged.pixels(), ids=judged.ids).predicted
    counts = predicted.bincount(minlength=len(dataset.classes)).tolist()
    rows = []
    for name, n in zip(dataset.classes, counts, strict=True):
        bounds = accepted_range(n, tnr) if n >= enough_images(tnr) else None
        told = "too few for a threshold of its own: pooled" if bounds is None else console.percent_bounds(*bounds)
        rows.append([name, n, told])
    title = (
        f"{len(site.split.val)} images set thresholds, {len(site.split.adv_test)} measure them. At {tnr:.0%} a class "
        f"needs {enough_images(tnr)} for its own, {images_for(tnr, 0.05)} for ±5 %, {images_for(tnr, 0.02)} for ±2 %"
    )
    return console.table("Diagnosis", "Images", "Further ones accepted, 95 % range", rows=rows, title=title)


def before_and_after(former: Guard, made: Guard) -> RenderableType:
    """What the site's measuring images get by the former thresholds and by the new ones."""
    told = made.calibration
    parts = [told["before"], told["after"]]
    rows = [["Accepted", *(interval(of["accepted"]) for of in parts)]]
    rows += [
        [f"  {name}", *(interval(of["accepted_by_class"][name]) for of in parts)]
        for name in made.classes
        if parts[0]["accepted_by_class"][name] is not None
    ]
    rows.append(["Accepted diagnoses that are right", *(interval(of["accuracy_accepted"]) for of in parts)])
    rows.append(["All diagnoses that are right", *(interval(of["accuracy"]) for of in parts)])
    columns = (f"chosen {former.tnr:.0%}, before", f"chosen {made.tnr:.0%}, after")
    return console.table("Clean images of the site", *columns, rows=rows, title="Share (95 % interval by patient)")


def interval(share: dict[str, Any] | None) -> str:
    """`86.1 % (80.0–90.6), n 180`, or a dash."""
    if share is None:
        return "–"
    bounds = console.percent_bounds(share["low"], share["high"])
    return f"{console.percent(share['value'])} ({bounds}), n {share['n']}"
