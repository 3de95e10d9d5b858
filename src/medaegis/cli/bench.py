"""`medaegis bench`: experiments as files, planned, run, killed, run on, and set beside the papers' tables."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from medaegis.cli import console
from medaegis.cli.experiments import (
    Scale,
    Where,
    entries_of,
    executor_for,
    finished_tasks,
    gib,
    page_at,
    planned_cells,
    read,
    told_command,
)
from medaegis.cli.options import AsJson, Device, check_out, device_of


class Form(StrEnum):
    """How a table is written."""

    markdown = "markdown"
    html = "html"


File = Annotated[
    str, typer.Argument(metavar="FILE", help="A preset such as aegis-table3 (an unknown name lists them), or a .toml.")
]
AtScale = Annotated[
    Scale, typer.Option("--scale", help="smoke: drawn images, seconds; cpu: hours; full: as in the paper.")
]
StoreDir = Annotated[
    Path, typer.Option("--store", metavar="DIR", help="Where finished work is kept, of any number of experiments.")
]
Data = Annotated[
    list[str] | None,
    typer.Option(
        "--data",
        metavar="KEY=SPEC",
        help="Where a data set lies, as chest=chest-xray:PATH; several times for several.",
        show_default="what FILE says",
    ),
]
Only = Annotated[
    list[str] | None,
    typer.Option(
        "--only",
        metavar="AXIS=NAME",
        help="Only these cells, as method=PGD-AT; names of one axis add up.",
        show_default="all",
    ),
]
Threads = Annotated[
    int,
    typer.Option("--threads", min=1, help="Of each task. Two give other last bits than one, so they are kept apart."),
]
STORE = Path("runs/experiments")


def plan(
    file: File,
    scale: AtScale = Scale.smoke,
    store: StoreDir = STORE,
    data: Data = None,
    only: Only = None,
    device: Device = "auto",
    threads: Threads = 1,
    as_json: AsJson = False,
) -> None:
    """Show what would be done: cells, what they share, and time and memory from a short calibration on this machine.

    The time does not count what detectors take to fit, nor what a Cushion adds to a pass.
    """
    from medaegis.experiments.estimate import estimate, total
    from medaegis.experiments.plan import shared
    from medaegis.experiments.tasks import everything

    (name, experiment), place = read(file, scale), device_of(device)
    with console.progress("Planning") as progress:
        cells = planned_cells(experiment, data, only, place, threads, progress)
        estimates = estimate(everything(cells), place)
    finished = finished_tasks(store, cells)
    kinds: dict[str, list[tuple[str, int]]] = {}
    for task, users in shared(cells):
        kinds.setdefault(task.kind, []).append((task.key, users))
    rows, sums = [], []
    for kind, tasks in kinds.items():
        left = [key for key, _ in tasks if key not in finished]
        sums.append(total(estimates[key] for key in left))
        rows.append([kind, len(tasks), len(left), max(users for _, users in tasks)])
    whole = total(sums)
    if as_json:
        told = [dict(zip(("kind", "tasks", "left", "most_users"), row, strict=True)) for row in rows]
        needed = {"seconds": whole.seconds, "memory_bytes": whole.memory, "disk_bytes": whole.disk}
        console.write_json({"experiment": name, "cells": len(cells), "tasks": told, "left": needed})
        return
    costs = [[console.time_in_words(one.seconds), gib(one.memory), gib(one.disk)] for one in sums]
    shown = [[*row, *cost] for row, cost in zip(rows, costs, strict=True)]
    heads = ("Task", "In all", "Left", "Cells that share one, at most", "About", "Memory", "Disk")
    console.write(console.table(*heads, rows=shown, title=f"{name} at {scale.value}: {len(cells)} cells"))
    console.say(
        f"What is left takes about {console.time_in_words(whole.seconds)}, {gib(whole.memory)} of memory and "
        f"{gib(whole.disk)} of disk, and the fitting of detectors beside it."
    )


def run(
    context: typer.Context,
    file: File,
    scale: AtScale = Scale.smoke,
    store: StoreDir = STORE,
    data: Data = None,
    only: Only = None,
    limit_minutes: Annotated[
        float | None,
        typer.Option("--limit-minutes", min=0, help="Stop after the task during which they end.", show_default="none"),
    ] = None,
    device: Device = "auto",
    on: Annotated[
        Where, typer.Option("--on", help="here: processes of this machine; ray: a cluster (RAY_ADDRESS names it).")
    ] = Where.here,
    workers: Annotated[
        int | None,
        typer.Option("--workers", min=1, help="Tasks at a time, here.", show_default="cores / threads; on a GPU 1"),
    ] = None,
    threads: Threads = 1,
    gpu_share: Annotated[
        float, typer.Option("--gpu-share", min=0.01, max=1, help="Of one GPU for each task, with --on ray.")
    ] = 1.0,
    as_json: AsJson = False,
) -> None:
    """Do what is not done yet; called again after a kill it goes on where it was, and nothing is done twice.

    Figures are the same to the last bit however many tasks are done at a time, here or on Ray. Exit code 0 also where
    --limit-minutes left something to do; how much is said.
    """
    from medaegis.experiments.estimate import passes_of
    from medaegis.experiments.run import run_plan
    from medaegis.experiments.store import ExperimentStore
    from medaegis.experiments.tasks import everything

    (name, experiment), place = read(file, scale), device_of(device, here=on is Where.here)
    executor = executor_for(on, workers, threads, gpu_share, place)
    with ExperimentStore(store, write=True) as kept, console.progress("Running") as progress:
        cells = planned_cells(experiment, data, only, place, threads, progress)
        done = run_plan(
            name,
            scale.value,
            cells,
            kept,
            device=str(place),
            command=told_command(context, data),
            passes={task.key: passes_of(task) for task in everything(cells)},
            minutes=limit_minutes,
            executor=executor,
            progress=progress,
        )
    if as_json:
        told = {"done": done.done, "tasks_left": done.tasks_left, "cells": len(cells), "overhead": done.overhead}
        console.write_json({"experiment": name, **told})
        return
    console.say(f"{done.done} tasks done, {done.tasks_left} left; {done.cells_left} of {len(cells)} cells to go.")
    if done.overhead is not None:
        console.say(f"Its attacks took {done.overhead:.2f} times as long as their bare forward and backward passes.")
    console.say(f"Next: medaegis bench table {file} --scale {scale.value} --store {console.shown(store)}")


def status(file: File, scale: AtScale = Scale.smoke, store: StoreDir = STORE, as_json: AsJson = False) -> None:
    """Show which cells are measured under the settings of FILE; needs no images, and may be asked during a run."""
    from medaegis.experiments.cells import cells_of
    from medaegis.experiments.store import ExperimentStore

    name, experiment = read(file, scale)
    with ExperimentStore(store) as kept:
        found, spent = kept.cells(name, scale.value), kept.spent()
    cells = cells_of(experiment)
    ready = [cell for cell in cells if cell.name in found and found[cell.name].settings == cell.settings]
    other = sum(cell.name in found for cell in cells) - len(ready)
    if as_json:
        told = {"cells": len(cells), "measured": len(ready), "of_other_settings": other, "spent": spent}
        console.write_json({"experiment": name, "scale": scale.value, **told})
        return
    console.write(console.facts({"measured": f"{len(ready)} of {len(cells)} cells", "under other settings": other}))
    rows = [[kind, count, console.time_in_words(seconds)] for kind, (count, seconds) in spent.items()]
    console.write(console.table("Done in this store", "Tasks", "In", rows=rows))


def table(
    file: File,
    scale: AtScale = Scale.smoke,
    store: StoreDir = STORE,
    form: Annotated[Form, typer.Option("--form", help="markdown or html.")] = Form.markdown,
    out: Annotated[
        Path | None, typer.Option("--out", help="File to write it to.", show_default="the standard output")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """The paper's table with our figures, theirs and the difference; figures of theirs that are doubtful are marked."""
    from medaegis.bench.records.archive import replace_file
    from medaegis.experiments.tables import records

    if as_json:
        console.write_json(records(entries_of(file, scale, store)))
        return
    page = page_at(file, scale, store)
    text = page.markdown() if form is Form.markdown else page.html()
    if out is None:
        typer.echo(text, nl=False)
        return
    replace_file(out, text.encode())
    console.say(f"Written to {console.shown(out)}.")


def diff(
    file: File,
    store: StoreDir,
    other: Annotated[Path, typer.Option("--other", metavar="DIR", help="The other store.", show_default=False)],
    scale: AtScale = Scale.smoke,
    as_json: AsJson = False,
) -> None:
    """Compare two stores, figure by figure, to the last bit. Exit code 1 where they differ."""
    from medaegis.cli.command import FAILED
    from medaegis.experiments.store import ExperimentStore
    from medaegis.experiments.tables import differences

    name, _ = read(file, scale)
    with ExperimentStore(store) as one, ExperimentStore(other) as two:
        told = differences(one.cells(name, scale.value), two.cells(name, scale.value))
    if as_json:
        console.write_json([dict(zip(("place", "metric", "store", "other"), row, strict=True)) for row in told])
    elif told:
        rows = [[place, metric, *("–" if v is None else repr(v) for v in pair)] for place, metric, *pair in told]
        console.write(console.table("Cell", "Figure", str(store), str(other), rows=rows))
    else:
        console.say("Every figure is the same to the last bit.")
    if told:
        raise typer.Exit(FAILED)


def export(
    file: File,
    out: Annotated[Path, typer.Option("--out", help="A .csv, or a .parquet (needs pyarrow).", show_default=False)],
    scale: AtScale = Scale.smoke,
    store: StoreDir = STORE,
) -> None:
    """Write every figure, ours and the paper's, as a line of its own."""
    from medaegis.experiments.tables import records, write_records

    made = entries_of(file, scale, store)
    write_records(records(made), out)
    console.say(f"{len(made)} figures written to {console.shown(out)}.")


def site(
    out: Annotated[Path, typer.Option("--out", metavar="SITE", help="Folder of the site.", show_default=False)],
    files: Annotated[
        list[str] | None,
        typer.Argument(metavar="[FILE]…", help="Presets or .toml files.", show_default="presets that the store holds"),
    ] = None,
    store: StoreDir = STORE,
    entries: Annotated[
        Path | None,
        typer.Option(
            "--entries",
            metavar="DIR",
            help="Holds a folder for each entry of the leaderboard: what evaluate, assess or analyse wrote.",
            show_default="none",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write everything in a store as one static web site, with a leaderboard; an earlier site in SITE is replaced.

    Needs no server of its own and no network: open SITE/index.html, or put the folder on any web server. Exit code 1
    where an entry does not fit; it is named, and left out.
    """
    from medaegis.cli.command import FAILED
    from medaegis.experiments.paper import find_file
    from medaegis.experiments.site.files import check_site
    from medaegis.experiments.site.site import write_site
    from medaegis.experiments.store import ExperimentStore

    check_out(out, check_site)
    with ExperimentStore(store) as kept:
        made = write_site(kept, out, files=[find_file(file) for file in files or []], entries=entries)
    if as_json:
        refused = [{"entry": one.name, "problem": one.problem} for one in made.refused]
        console.write_json({"pages": made.pages, "cells": made.cells, "refused": refused, "unnamed": made.unnamed})
    else:
        for one in made.refused:
            console.say(f"Left out: {console.shown(one.name)}: {console.shown(one.problem)}")
        for name, scale in made.unnamed:
            console.say(f"Left out, its file was not named: {console.shown(name)} at scale {scale}")
        console.say(
            f"{made.pages} pages, {made.cells} of them of cells. Next: open {console.shown(out / 'index.html')}"
        )
    if made.refused:
        raise typer.Exit(FAILED)
