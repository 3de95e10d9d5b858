"""Running a plan: what is not finished is done, each task once, and kept the moment it is.

An executor says where tasks are done and yields each as it is; the one who owns the store keeps what it gave. So the
same plan can run in this process or on others, with the same figures.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

import torch

from medaegis.bench.records.archive import provenance
from medaegis.experiments.cost import overhead
from medaegis.experiments.store import ExperimentStore
from medaegis.experiments.tasks import TableCell, Task, everything, in_order
from medaegis.experiments.work import Made, Workshop
from medaegis.progress import Progress, silent

Results = Generator[tuple[Task, Made], None, None]


class Executor(Protocol):
    """Where tasks are done."""

    def __call__(self, tasks: Sequence[Task], workshop: Workshop, told: Callable[[Task], Progress]) -> Results:
        """Do the tasks and yield each with what it gave, none before those that it needs are yielded and kept.

        Args:
            tasks: none before those that it needs.
            workshop: what does them, on what lies in the store.
            told: the listener to a task's progress.
        """
        ...


def in_this_process(tasks: Sequence[Task], workshop: Workshop, told: Callable[[Task], Progress]) -> Results:
    """One after the other, here."""
    for task in tasks:
        yield task, workshop.make(task, told(task))


@dataclass(frozen=True)
class Ran:
    """How far a run came: tasks done in it, tasks and cells that are left, and what all attacks of the plan took.

    Attributes:
        overhead: their time in units of that of their bare passes (`cost.account`), whichever run made them; None where
            nothing was timed.
    """

    done: int
    tasks_left: int
    cells_left: int
    overhead: float | None


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
        minutes: stop after the task during which they are over; what others were doing then goes on where it was.

    Raises:
        MedaegisError: of whatever a task ran into; all that was finished is kept.
    """
    began, figures = clock(), [cell.task for cell in cells if cell.task is not None]
    about = _json(provenance(0, command, torch.device(device)))
    tasks = in_order(figures, store.has)
    meter = _Meter(progress, tasks, passes or {})
    uses = [(task.key, used.key, used.title) for task in figures for used in in_order([task])]
    store.tell(name, scale, {cell.name: (cell.task.key, cell.settings) for cell in cells if cell.task}, about, uses)
    done = 0
    with closing(executor(tasks, Workshop(store, device), meter.part)) as results:
        for task, made in results:
            now = datetime.now(UTC).replace(microsecond=0).isoformat()
            store.put(task, made.tensors, made.figures, made.checks, seconds=made.seconds, at=now)
            shutil.rmtree(store.folder_of(task).with_suffix(".chunks"), ignore_errors=True)
            meter.part(task)(1, 1, "")
            done += 1
            if minutes is not None and clock() - began >= 60 * minutes:
                break
    left = in_order(figures, store.has)
    attacks = (task for task in everything(cells) if task.kind == "attacked")
    took = overhead(store.figures_of(attacks).values())
    return Ran(done, len(left), sum(not store.has(task) for task in figures), took)


class _Meter:
    """Progress of all tasks together, in passes over single images, however many are done at a time."""

    def __init__(self, progress: Progress, tasks: Iterable[Task], passes: Mapping[str, int]) -> None:
        self._progress = progress
        self._passes = {task.key: max(1, passes.get(task.key, 1)) for task in tasks}
        self._done = dict.fromkeys(self._passes, 0)

    def part(self, task: Task) -> Progress:
        """The listener of one task."""

        def listen(done: int, total: int, _: str) -> None:
            self._done[task.key] = self._passes[task.key] * done // max(1, total)
            self._progress(sum(self._done.values()), sum(self._passes.values()), task.title)

        return listen


def _json(about: Mapping[str, Any]) -> dict[str, Any]:
    """Without the seed, which is a cell's own, and with the time as text."""
    return {**{k: v for k, v in about.items() if k != "seed"}, "created": about["created"].isoformat()}
