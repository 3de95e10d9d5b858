"""What the verbs of `medaegis bench` share: reading a file, planning its cells, who does the tasks."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from medaegis.cli.options import recorded_command
from medaegis.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

    from medaegis.experiments.run import Executor
    from medaegis.experiments.schema import Experiment
    from medaegis.experiments.tables import Entry, TablePage
    from medaegis.experiments.tasks import TableCell
    from medaegis.progress import Progress


class Scale(StrEnum):
    """How large an experiment is run."""

    smoke = "smoke"
    cpu = "cpu"
    full = "full"


class Where(StrEnum):
    """Who does the tasks."""

    here = "here"
    ray = "ray"


def read(file: str, scale: Scale) -> tuple[str, Experiment]:
    from medaegis.experiments.paper import find_file
    from medaegis.experiments.schema import read_experiment

    name, path = find_file(file)
    return name, read_experiment(path, scale.value)


def entries_of(file: str, scale: Scale, store: Path) -> list[Entry]:
    from medaegis.experiments.paper import find_file, paper_of
    from medaegis.experiments.store import ExperimentStore
    from medaegis.experiments.tables import entries

    name, experiment = read(file, scale)
    with ExperimentStore(store) as kept:
        return entries(experiment, paper_of(find_file(file)[1], experiment), kept.cells(name, scale.value))


def page_at(file: str, scale: Scale, store: Path) -> TablePage:
    """The table of an experiment, with what its controls and alarms came to."""
    from medaegis.experiments.store import ExperimentStore
    from medaegis.experiments.tables import current, page_of

    made = entries_of(file, scale, store)
    name, experiment = read(file, scale)
    with ExperimentStore(store) as kept:
        found = kept.cells(name, scale.value)
        checks = kept.checks(name, scale.value, current(experiment, found))
    return page_of(experiment, name, scale.value, made, [there.about for there in found.values()], checks)


def told_command(context: typer.Context, data: Sequence[str] | None) -> str:
    """The call, for the record: without the folders of the store and the images."""
    from medaegis.images import without_path

    command = recorded_command(context)
    for text in data or []:
        key, _, spec = text.partition("=")
        command = command.replace(text, f"{key}={without_path(spec)}")
    return command


def planned_cells(
    experiment: Experiment,
    data: Sequence[str] | None,
    only: Sequence[str] | None,
    device: torch.device,
    threads: int,
    progress: Progress,
) -> list[TableCell]:
    """Its cells with their tasks, or those of the names that are asked for."""
    from medaegis.experiments.cells import cells_of, chosen
    from medaegis.experiments.plan import load_sources, plan_cells

    cells = chosen(cells_of(experiment), _pairs(only, "--only", "AXIS=NAME, as method=PGD-AT"))
    given = dict(_pairs(data, "--data", "KEY=SPEC, as chest=chest-xray:PATH"))
    return plan_cells(experiment, cells, load_sources(experiment, cells, given, progress), device.type, threads)


def _pairs(texts: Sequence[str] | None, option: str, form: str) -> list[tuple[str, str]]:
    found = []
    for text in texts or []:
        key, equals, value = text.partition("=")
        if not equals or not value:
            raise ConfigError(f"{option} {text}", "names nothing after =", f"write {form}")
        found.append((key, value))
    return found


def executor_for(on: Where, workers: int | None, threads: int, gpu_share: float, device: torch.device) -> Executor:
    from medaegis.experiments.run import in_this_process
    from medaegis.provenance import cores

    if on is Where.ray:
        if workers is not None:
            raise ConfigError("--workers", "are those of the cluster with --on ray", "leave it out")
        from medaegis.experiments.cluster import OnRay

        return OnRay(gpu_share)
    count = workers or (max(1, cores() // threads) if device.type == "cpu" else 1)
    if count == 1:
        return in_this_process
    from medaegis.experiments.processes import Processes

    return Processes(count)


def finished_tasks(folder: Path, cells: Sequence[TableCell]) -> set[str]:
    """Keys of tasks that need not be done; none where there is no store yet."""
    from medaegis.experiments.store import INDEX, ExperimentStore
    from medaegis.experiments.tasks import everything, in_order

    if not (folder / INDEX).is_file():
        return set()
    with ExperimentStore(folder) as store:
        left = {task.key for task in in_order((cell.task for cell in cells if cell.task), store.has)}
    return {task.key for task in everything(cells)} - left


def gib(amount: float) -> str:
    return f"{amount / 2**30:.1f} GiB" if amount >= 2**28 else f"{amount / 2**20:.0f} MiB"
