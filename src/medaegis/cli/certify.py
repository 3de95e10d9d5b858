"""`medaegis certify`: how far any attack whatever must go to get a wrong diagnosis from a smoothed guard."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medaegis.cli import console, datasets, options
from medaegis.cli.command import FAILED
from medaegis.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from medaegis.bench.records.certificate import AttackCheck, Certificate


def certify(
    context: typer.Context,
    guard_dir: options.GuardDir,
    spec: options.Spec,
    out: Annotated[Path, typer.Option("--out", help="Folder for record and page.", show_default=False)],
    sigma: Annotated[
        float, typer.Option("--sigma", help="Standard deviation of the noise, in units of full brightness.")
    ] = 0.25,
    radii: Annotated[
        str, typer.Option("--radii", help="L2 radii asked about, in units of full brightness, with commas between.")
    ] = "0.25,0.5,1,2",
    samples: Annotated[
        int, typer.Option("--samples", min=1, help="Noisy copies of an image at most; it stops earlier where it can.")
    ] = 10_000,
    alpha: Annotated[
        float, typer.Option("--alpha", help="Chance at most that anything said of an image is not so.")
    ] = 0.001,
    calibrate: Annotated[
        bool,
        typer.Option(
            help="Set the thresholds on noisy copies of validation images, at the guard's true-negative rate; or keep "
            "those that it has."
        ),
    ] = True,
    attack_check: Annotated[
        int, typer.Option("--attack-check", min=0, metavar="N", help="Attack N certified images within their radius.")
    ] = 0,
    limit: Annotated[
        int | None,
        typer.Option("--limit", min=1, help="At most so many test images, classes in proportion.", show_default="all"),
    ] = None,
    images: options.Images = None,
    seed: options.Seed = 0,
    network: options.Factory = None,
    device: options.Device = "auto",
    as_json: options.AsJson = False,
) -> None:
    """Certify a guard under noise: radii in L2 within which no attack, known or not, gets a wrong diagnosis accepted.

    The certificate is of the smoothed guard, which gives a diagnosis only if more than half of many noisy copies are
    accepted as it. Its classifier should be trained with noise of that size. Called again after a kill with the same
    options, it goes on where it was. Exit code 1 if an attack broke the certificate.
    """
    from medaegis.bench.certify import certify_guard
    from medaegis.bench.radius import Terms
    from medaegis.guard.guard import Guard

    options.check_out(out)
    place = options.device_of(device)
    terms = Terms(sigma, radii_of(radii), samples, alpha)
    guard = Guard.load(guard_dir, factory=options.factory(network)).to(place)
    terms.check_reach(len(guard.classes))
    site = datasets.site_for(guard, spec, images=images)
    with console.progress("Certifying") as progress:
        found = certify_guard(
            guard,
            site,
            terms=terms,
            out_dir=out,
            limit=limit,
            calibrate=calibrate,
            attack_check=attack_check,
            seed=seed,
            command=options.recorded_command(context),
            progress=progress,
        )
    if as_json:
        console.write_json(found.model_dump(mode="json", exclude={"images"}) | {"out": str(out)})
    else:
        console.write(shares_table(found))
        if found.attacks is not None:
            console.write(attacks_table(found.attacks))
        for remark in remarks(found):
            console.say(remark)
        console.say(f"Written to {out}. Next: open {out / 'certificate.html'}")
    if found.attacks is not None and found.attacks.broken:
        raise typer.Exit(FAILED)


def radii_of(text: str) -> tuple[float, ...]:
    """`0.25,0.5` as numbers, each once, the smallest first."""
    try:
        return tuple(sorted({float(part) for part in options.comma_separated(text, "--radii")}))
    except ValueError:
        raise ConfigError(f"--radii {text}", "not numbers", "give L2 radii, as 0.25,0.5,1") from None


def shares_table(found: Certificate) -> RenderableType:
    """A line per radius."""
    from medaegis.bench.report.words import percent, percent_range

    rows = []
    for row in found.shares:
        shares = (row.no_harm, row.right, row.plain_no_harm, row.plain_right)
        told = [f"{percent(one.share)} ({percent_range(one.interval)})" if row.within_reach else "–" for one in shares]
        rows.append([f"{row.radius:g}", f"{255 * row.linf:.2f}/255", *told])
    heads = ("No wrong diagnosis", "Right and accepted", "Classifier alone: none wrong", "Classifier alone: right")
    title = f"Certified share of {found.n} images (95 % interval by patient), noise {found.sigma:g}"
    return console.table("Radius, L2", "L∞", *heads, rows=rows, title=title)


def attacks_table(attacks: AttackCheck) -> RenderableType:
    """What attacks within the radii, and beyond, came to."""
    n = len(attacks.images)
    rows = [
        ["within the certified radius", n, attacks.broken],
        [f"within {attacks.farther:g} times it", n, attacks.broken_farther],
    ]
    return console.table("Attacks on the smoothed guard", "Images", "Broken", rows=rows)


def remarks(found: Certificate) -> list[str]:
    """What somebody who reads the table should know."""
    told = [
        f"Under this noise the classifier takes {console.percent(found.noisy_accuracy)} of the copies for the right "
        f"class, and the guard accepts {console.percent(found.noisy_accepted)}."
    ]
    if not found.shares[-1].within_reach:
        told.append(
            f"{found.samples} samples at sigma {found.sigma:g} can certify no radius above {found.reach:.3g}: more "
            "noise reaches farther, more samples a little."
        )
    return told
