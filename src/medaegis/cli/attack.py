"""`medaegis attack`: adversarial images of test images, as lossless files to look at and to screen."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medaegis.cli import console, datasets, options
from medaegis.errors import ConfigError


def attack(
    guard_dir: options.GuardDir,
    spec: options.Spec,
    out: Annotated[Path, typer.Option("--out", help="Folder for the images and their table.", show_default=False)],
    attack: options.Attack = "wb",
    eps: options.Eps = "8/256",
    steps: options.Steps = None,
    restarts: Annotated[int, typer.Option("--restarts", min=1, help="Random starts.")] = 1,
    gradient: options.Way = options.Gradient.bpda,
    targeted: options.Targeted = True,
    samples: options.Samples = None,
    surrogate: Annotated[
        list[Path] | None,
        typer.Option(
            "--surrogate",
            metavar="CLASSIFIER_DIR",
            help="Attack this classifier instead (several: their mean) and only judge by the guard.",
            show_default="none",
        ),
    ] = None,
    limit: options.Limit = None,
    images: options.Images = None,
    seed: options.Seed = 0,
    network: options.Factory = None,
    device: options.Device = "auto",
    as_json: options.AsJson = False,
) -> None:
    """Attack the test images that the guard diagnoses rightly, with full knowledge of it, or none (--surrogate).

    Writes one PNG each, of the classifier's size, attack.csv and attack.json. Every figure is of those 8-bit files.
    """
    from medaegis.attacks.balls import parse_eps
    from medaegis.attacks.catalogue import find_attack
    from medaegis.bench.attack import RECORD, attack_guard
    from medaegis.bench.plan import Planned, samples_for, ways_through
    from medaegis.bench.surrogates import transferable
    from medaegis.cushions import parse_cushion
    from medaegis.guard.guard import Guard
    from medaegis.models.store import load_classifier

    options.check_out(out)
    place = options.device_of(device)
    if (out / RECORD).exists():
        raise ConfigError(f"--out {out}", f"holds another attack ({RECORD})", "name another folder")
    entry, radius, surrogates = find_attack(attack), parse_eps(eps), surrogate or []
    if surrogates and not transferable(attack):
        problem = "this attack needs the guard's own Shields or answers"
        raise ConfigError(f"--surrogate with --attack {attack}", problem, "take one on the classifier, as dim")
    if entry.access == "black-box" and samples is not None and samples > 1:
        raise ConfigError(f"--samples with --attack {attack}", "it gets one answer a query", "leave it out")
    guard = Guard.load(guard_dir, factory=options.factory(network)).to(place)
    if surrogates and samples is not None:
        raise ConfigError("--samples with --surrogate", "nothing in a surrogate is random", "leave one of them out")
    draws = 1 if surrogates or entry.access == "black-box" else samples_for(guard.cushion, samples)
    (way,) = ways_through(parse_cushion("none") if surrogates else guard.cushion, [gradient.value], [attack])
    planned = Planned(
        attack,
        radius,
        eps,
        steps=steps,
        restarts=None if restarts == 1 else restarts,
        gradient=way,
        transferred=bool(surrogates),
        samples=draws,
    )
    planned.value  # noqa: B018  # refuses what the attack cannot take, before any image is read
    site = datasets.site_for(guard, spec, images=images)
    with console.progress("Attacking") as progress:
        told = attack_guard(
            guard,
            site,
            planned,
            out_dir=out,
            surrogates=[load_classifier(path, options.factory(network)) for path in surrogates],
            targeted=targeted,
            limit=limit,
            seed=seed,
            progress=progress,
        )
    if as_json:
        console.write_json({"out": str(out), **told})
        return

    def share(name: str) -> str:
        return f"{told[name]} ({console.percent(told[name] / told['images'])})"

    lines = {
        "Images": f"{told['images']} test images that the guard diagnoses rightly",
        "Wrong diagnosis behind the Cushion": share("fooled"),
        "Wrong and accepted by the Shield": share("undetected"),
        "Passes": f"{told['forwards']} forward, {told['backwards']} backward, over single images",
        "Time": f"{told['seconds']:.1f} s",
    }
    if told["stood_still"]:
        lines["Stood still"] = (
            f"{told['stood_still']} images, which neither a gradient nor an answer led away from the start"
        )
    if guard.cushion.random:
        lines["Judged"] = f"once each, by a draw of {guard.cushion.spec} that no gradient was taken at"
    console.write(console.facts(lines, title=f"{entry.title}, eps {eps}, {told['steps']} steps"))
    console.say(f"Written to {out}. {options.next_step('screen', guard_dir, out, backbone=guard.classifier.backbone)}")
