"""Running a plan: what is not finished is done, each task once, and kept the moment it is.

An executor says where tasks are done and yields each as it is; the one who owns the store keeps what it gave. So the
same plan can run in this process or on others, with the same figures.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

import torch

from medaegis.bench.records.archive import provenance
from medaegis.experiments.store import ExperimentStore
from medaegis.experiments.tasks import TableCell, Task, in_order
from medaegis.experiments.work import Made, Workshop
from medaegis.progress import Meter, Progress, silent

Make = Callable[[Task, Progress], Made]
Told = Callable[[Task], Progress]


class Executor(Protocol):
    """Where tasks are done."""

    def __call__(
        self, tasks: Sequence[Task], make: Make, told: Callable[[Task], Progress]
    ) -> Iterator[tuple[Task, Made]]:
        """Do the tasks and yield each with what it gave, none before those that it needs are yielded and kept.

        Args:
            tasks: none before those that it needs.
            told: the listener to a task's progress.
        """
        ...


def in_this_process(tasks: Sequence[Task], make: Make, told: Callable[[Task], Progress]) -> Iterator[tuple[Task, Made]]:
    """One after the other, here."""
    for task in tasks:
        yield task, make(task, told(task))


@dataclass(frozen=True)
class Ran:
    """How far a run came: tasks done in it, and tasks and cells that are left."""

    done: int
    tasks_left: int
    cells_left: int


def run_plan(
    name: str,
    scale: str,
    cells: Sequence[TableCell],
    store: ExperimentStore,
    *,
    device: str = "cpu",
    command: str = "",
    passes: Mapping[str, int] | None = None,
    minutes: float | None = None,
    executor: Executor = in_this_process,
    progress: Progress = silent,
    clock: Callable[[], float] = time.monotonic,
) -> Ran:
    """Do what is left of a plan and say which figures stand in which cell.

    Called again after a kill it goes on where it was: what is finished is never done again, and a training or an attack
    goes on within itself.

    Args:
        store: opened for writing.
        passes: key of a task -> what it takes, for the progress; None: all alike.
        minutes: stop after the task during which they are over.

    Raises:
        MedaegisError: of whatever a task ran into; all that was finished is kept.
    """
    began, figures = clock(), [cell.task for cell in cells if cell.task is not None]
    about = _json(provenance(0, command, torch.device(device)))
    tasks = in_order(figures, store.has)
    meter = _Meter(progress, tasks, passes or {})
    store.tell(name, scale, {cell.name: (cell.task.key, cell.settings) for cell in cells if cell.task}, about)
    done, since = 0, clock()
    for task, made in executor(tasks, Workshop(store, device).make, meter.part):
        now = datetime.now(UTC).replace(microsecond=0).isoformat()
        store.put(task, made.tensors, made.figures, seconds=clock() - since, at=now)
        shutil.rmtree(store.folder_of(task).with_suffix(".chunks"), ignore_errors=True)
        done, since = done + 1, clock()
        if minutes is not None and since - began >= 60 * minutes:
            break
    left = in_order(figures, store.has)
    return Ran(done, len(left), sum(not store.has(task) for task in figures))


class _Meter:
    """Progress of all tasks together, in passes over single images."""

    def __init__(self, progress: Progress, tasks: Iterable[Task], passes: Mapping[str, int]) -> None:
        self._passes = passes
        self._meter = Meter(progress, sum(map(self._of, tasks)))

    def part(self, task: Task) -> Progress:
        return self._meter.part(self._of(task), task.title)

    def _of(self, task: Task) -> int:
        return max(1, self._passes.get(task.key, 1))


def _json(about: Mapping[str, Any]) -> dict[str, Any]:
    """Without the seed, which is a cell's own, and with the time as text."""
    return {**{k: v for k, v in about.items() if k != "seed"}, "created": about["created"].isoformat()}
