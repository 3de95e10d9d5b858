"""`medaegis screen`: images through a guard; a diagnosis or mask for those it accepts, a reason for the others."""

from __future__ import annotations

import csv
import json
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medaegis.cli import console
from medaegis.cli.check import MinVersion, PublicKey
from medaegis.cli.command import FAILED
from medaegis.cli.options import Device, Factory, GuardDir, check_out, device_of, factory
from medaegis.errors import ArtefactError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from medaegis.guard.guard import Guard
    from medaegis.guard.screening import Screened


LOADING = 60.0  # seconds that a guard may take to load where there is a time limit and it is shorter


class Format(StrEnum):
    """How findings are written."""

    table = "table"
    csv = "csv"
    jsonl = "jsonl"


def screen(
    guard_dir: GuardDir,
    paths: Annotated[
        list[Path], typer.Argument(metavar="PATH...", help="Image files, DICOM files, folders (searched to any depth).")
    ],
    form: Annotated[
        Format, typer.Option("--format", help="table for people, csv and jsonl (a JSON object a line) for programs.")
    ] = Format.table,
    quarantine: Annotated[
        Path | None,
        typer.Option("--quarantine", metavar="DIR", help="Copy rejected files there.", show_default="no copies"),
    ] = None,
    masks: Annotated[
        Path | None,
        typer.Option(
            "--masks",
            metavar="DIR",
            help="Of a guard for masks: write those of accepted images there, as PNG.",
            show_default="none written",
        ),
    ] = None,
    summary: Annotated[
        Path | None,
        typer.Option(
            "--summary",
            metavar="FILE",
            help="Also write counts, remarks and the test of the share accepted there, as JSON.",
            show_default="not written",
        ),
    ] = None,
    frame: Annotated[
        int | None,
        typer.Option("--frame", min=0, help="Judge this frame of every file, from 0.", show_default="all frames"),
    ] = None,
    draw: Annotated[
        str | None,
        typer.Option(
            "--draw",
            metavar="CUSHION",
            help="To repeat a verdict: what its record says was drawn of a random Cushion, for every image.",
            show_default="drawn anew for each image",
        ),
    ] = None,
    any_kind: Annotated[
        bool, typer.Option("--any-kind", help="Judge DICOM pictures of kinds that the guard is not for, too.")
    ] = False,
    timeout: Annotated[
        float | None,
        typer.Option(
            "--timeout",
            metavar="SECONDS",
            help="A batch of images without an answer by then is withheld; so is the rest if the network hangs.",
            show_default="none",
        ),
    ] = None,
    public_key: PublicKey = None,
    min_version: MinVersion = None,
    network: Factory = None,
    device: Device = "auto",
) -> None:
    """Judge images. A diagnosis, or a mask, is given only for accepted ones; what cannot be read is listed at the end.

    There it is also said if the share accepted is not what the guard was calibrated for (exact binomial test).
    Results come as they are ready. Exit code 0 if every image was accepted, 1 if one was rejected or could not be read.
    """
    from medaegis.bench.records.archive import replace_file
    from medaegis.cli import remarks
    from medaegis.safefiles import check_place

    if quarantine is not None:
        check_out(quarantine, option="--quarantine")
    if masks is not None:
        check_out(masks, option="--masks")
    if summary is not None:
        check_out(summary, check_place, option="--summary", folder=False)
    place = device_of(device)
    guard = _loaded(guard_dir, public_key, min_version, network, timeout).to(place)
    with console.progress("Screening") as progress:
        screened = guard.screen(
            paths,
            frame=frame,
            quarantine=quarantine,
            masks=masks,
            draw=draw,
            any_kind=any_kind,
            timeout=timeout,
            progress=progress,
        )
        found = list(_told(screened, form))
    if form is Format.table and any(one.finding is not None for one in found):
        console.write(findings_table(found))
    for line in [*closing_lines(found), *map(console.shown, remarks.remarks(guard, found))]:
        console.say(line)
    if summary is not None:
        replace_file(summary, json.dumps(remarks.summary(guard, found), indent=1).encode())
    if any(one.status != "accepted" or one.unwritten for one in found):
        raise typer.Exit(FAILED)


def _loaded(
    guard_dir: Path, public_key: Path | None, min_version: int | None, network: str | None, timeout: float | None
) -> Guard:
    """The guard. Loading it runs its network once, which can hang as well."""
    from medaegis.guard.guard import Guard
    from medaegis.guard.watch import Watch, check_timeout

    def load() -> Guard:
        return Guard.load(guard_dir, public_key=public_key, min_version=min_version, factory=factory(network))

    if timeout is None:
        return load()
    check_timeout(timeout)
    try:
        return Watch().run(load, max(timeout, LOADING))
    except TimeoutError as error:
        remedy = "give a longer --timeout, or a network that answers"
        raise ArtefactError(guard_dir, f"cannot be loaded: {error}", remedy) from None


def _told(screened: Iterable[Screened], form: Format) -> Iterator[Screened]:
    """Hands findings on; those for programs are written as they come."""
    writer = None
    for one in screened:
        record = one.record()
        if form is Format.jsonl:
            console.write_json(record, lines=True)
        elif form is Format.csv:
            if writer is None:
                writer = csv.DictWriter(sys.stdout, list(record), lineterminator="\n")
                writer.writeheader()
            writer.writerow({name: console.shown(v) if isinstance(v, str) else v for name, v in record.items()})
            sys.stdout.flush()
        yield one


_STYLE = {
    "accepted": "green",
    "rejected": "bold red",
    "failed": "bold red",
    "unsupported": "yellow",
    "unreadable": "yellow",
}


def findings_table(found: list[Screened]) -> RenderableType:
    """A line per judged frame, in the order of the files; unsupported and unreadable ones are left to the end."""
    from rich.text import Text

    rows = []
    for one in sorted(found, key=lambda one: (one.path, one.frame)):
        if one.finding is None:
            continue
        record = one.record()
        name = f"{one.path} [{one.frame + 1}/{one.frames}]" if one.frames > 1 else str(one.path)
        score = one.finding.score
        rows.append(
            [
                name,
                Text(one.status, style=_STYLE[one.status]),
                *_shown(one, record),
                "" if score is None else f"{score:.2f}",
                one.reason if one.other_kind is None else f"{one.reason}; by --any-kind, {one.other_kind}",
            ]
        )
    told = ("Mask",) if any(one.classes for one in found) else ("Diagnosis", "Probability")
    return console.table("Image", "Verdict", *told, "Suspicion", "Reason", rows=rows)


def _shown(one: Screened, record: Mapping[str, Any]) -> list[str]:
    """What is given out of an image, a cell for each column."""
    if one.classes is None:
        probability = record["probability"]
        return [record["diagnosis"] or "withheld", "" if probability is None else console.percent(probability)]
    areas = one.finding.areas if one.finding else {}
    told = (f"{console.shown(name)} {console.percent(areas[name])}" for name in one.classes[1:] if areas)
    return [", ".join(told) or "withheld"]


def closing_lines(found: list[Screened]) -> list[str]:
    """How many of each, and every file that cannot be read, with what to do."""
    counted: Counter[str] = Counter(one.status for one in found)
    shares = ", ".join(f"{counted[status]} {status}" for status in _STYLE if counted[status])
    files = len({one.path for one in found})
    lines = [f"{len(found)} images of {files} files: {shares}. Suspicion above 1.00 is rejected."]
    if copies := {one.copy for one in found if one.copy is not None}:
        lines.append(f"{len(copies)} files are in quarantine in {console.shown(next(iter(copies)).parent)}.")
    if uncopied := {one.path: one.uncopied for one in found if one.uncopied is not None}:
        lines += ["Not in quarantine:", *(f"  {console.shown(problem)}" for problem in uncopied.values())]
    if written := {one.mask_file for one in found if one.mask_file is not None}:
        lines.append(f"{len(written)} masks are in {console.shown(next(iter(written)).parent)}.")
    if unwritten := [one.unwritten for one in found if one.unwritten is not None]:
        lines += ["Masks not written:", *(f"  {console.shown(problem)}" for problem in unwritten)]
    if others := sum(one.other_kind is not None for one in found):
        lines.append(f"{others} images of kinds that the guard is not for were judged, as --any-kind asks.")
    for status, title in (("unsupported", "Of a kind that the guard is not for:"), ("unreadable", "Unreadable:")):
        if errors := [one.error for one in found if one.status == status]:
            lines += [title, *(f"  {console.shown(error)}" for error in errors)]
    return lines
