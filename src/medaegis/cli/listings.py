"""Lists: a check-up of the installation, and the attacks, detectors, networks, cushions and corruptions there are."""

from __future__ import annotations

from dataclasses import asdict

import typer

from medaegis.cli import console
from medaegis.cli.command import FAILED
from medaegis.cli.options import AsJson


def doctor(as_json: AsJson = False) -> None:
    """Check that this installation and machine can do the work. Exit code 1 if something will not work."""
    from medaegis.cli.doctor import doctor as check_up
    from medaegis.provenance import environment

    checks = check_up()
    if as_json:
        console.write_json({"checks": [asdict(check) for check in checks], **environment()})
    else:
        rows = [[check.name, check.status, check.detail, check.remedy] for check in checks]
        console.write(console.table("Check", "State", "Found", "What to do", rows=rows))
    if any(check.status == "fail" for check in checks):
        raise typer.Exit(FAILED)


def attacks(as_json: AsJson = False) -> None:
    """List the named attacks and their default settings, and what can be joined to them."""
    from medaegis.attacks.addons import ADD_ONS, obstacle
    from medaegis.attacks.catalogue import CATALOGUE, DENSE

    found = [
        {
            "name": name,
            "title": entry.title,
            "paper": entry.paper,
            "steps": entry.attack.steps,
            "norm": entry.attack.ball.name,
            "access": entry.access,
            "aims_at": "classifier and Shield" if entry.adaptive else "masks" if name in DENSE else "classifier",
            "add_ons": [added for added in ADD_ONS if obstacle(entry, added) is None],
        }
        for name, entry in {**CATALOGUE, **DENSE}.items()
    ]
    if as_json:
        console.write_json(found)
    else:
        columns = ("Name", "Attack", "Paper", "Steps", "Norm", "Access", "Aims at")
        console.write(console.table(*columns, rows=[list(entry.values())[:-1] for entry in found], whole=True))
        rows = [[f"+{name}", added.title, added.paper] for name, added in ADD_ONS.items()]
        title = "Joined to the name of most attacks by gradients, as pgd+dim+hfc (or hfc:64, with mixtures of 64):"
        console.write(console.table("Add-on", "The attack", "Paper", rows=rows, title=title))


def detectors(as_json: AsJson = False) -> None:
    """List the detectors, what they learn from and what they look at."""
    from medaegis.detectors.registry import DETECTORS

    found = [
        {
            "name": name,
            "title": entry.title,
            "paper": entry.paper,
            "learns_from": "clean and attacked images" if detector.needs_attacked else "clean images",
            "looks_at": "the images again" if detector.needs_images else "pooled features",
            "options": {option: value for option, value in detector.options().items() if option != "members"},
        }
        for name, entry in DETECTORS.items()
        for detector in (entry.make(),)
    ]
    if as_json:
        console.write_json(found)
    else:
        columns = ("Name", "Detector", "Paper", "Learns from", "Looks at")
        console.write(console.table(*columns, rows=[list(entry.values())[:5] for entry in found], whole=True))


def backbones(as_json: AsJson = False) -> None:
    """List the networks that `train --backbone` knows by name."""
    from medaegis.models.backbones import backbone, backbones

    found = [
        {"name": name, "paper": entry.paper, "taps": entry.taps, "remark": entry.remark}
        for name in backbones()
        for entry in (backbone(name),)
    ]
    if as_json:
        console.write_json(found)
    else:
        rows = [[entry["name"], entry["paper"], entry["remark"]] for entry in found]
        console.write(console.table("Name", "Paper", "Remark", rows=rows, whole=True))


def suites(as_json: AsJson = False) -> None:
    """List the suites: what an evaluation can run."""
    from medaegis.bench.suites import SUITES

    if as_json:
        console.write_json({name: asdict(suite) for name, suite in SUITES.items()})
        return
    rows = [
        [
            name,
            suite.about,
            ", ".join([*suite.eps, *(f"L2 {eps}" for eps in suite.l2_eps)]),
            f"{len(suite.attacks)}",
            suite.steps or "own",
            suite.limit or "all",
        ]
        for name, suite in SUITES.items()
    ]
    console.write(console.table("Suite", "What it is", "eps", "Attacks", "Steps", "Images", rows=rows, whole=True))


def cushions(as_json: AsJson = False) -> None:
    """List the cushions: filters in front of the classifier."""
    from medaegis.cushions import cushions as known

    if as_json:
        console.write_json(known())
    else:
        console.write(console.table("Name", "Write", rows=list(known().items()), whole=True))


def corruptions(as_json: AsJson = False) -> None:
    """List the harmless changes that `evaluate --corruptions` makes, with their amounts at severity 1 to 5."""
    from medaegis.corruptions import CORRUPTIONS

    if as_json:
        parts = ("name", "title", "group", "kind", "parameter", "amounts")
        console.write_json([{part: getattr(one, part) for part in parts} for one in CORRUPTIONS.values()])
    else:
        rows = [
            [one.name, one.title, one.kind, one.parameter, " ".join(f"{amount:g}" for amount in one.amounts)]
            for one in CORRUPTIONS.values()
        ]
        columns = ("Name", "Change", "Pictures", "Parameter", "Severity 1 to 5")
        console.write(console.table(*columns, rows=rows, whole=True))
