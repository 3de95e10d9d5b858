"""Many tasks at a time: which may begin, and what their workers make of them."""

from __future__ import annotations

import io
import pickle
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from medaegis.errors import MedaegisError
from medaegis.experiments.tasks import Source, Task
from medaegis.experiments.work import Made, Workshop
from medaegis.progress import Progress

RETRIES = 3  # a worker that dies is replaced, and its task goes on where it was
REPORT_SECONDS = 1.0
Report = tuple[str, int, int]
"""Key of a task, steps done, steps in all."""


class Pool(Protocol):
    """Workers that do one task each at a time."""

    @property
    def room(self) -> int:
        """How many more tasks may be given now."""
        ...

    def start(self, task: Task) -> None:
        """Give a task whose needs are all in the store."""
        ...

    def finished(self) -> Sequence[tuple[Task, Made]]:
        """Wait a moment for tasks to end; those that did.

        Raises:
            Exception: what a task ran into.
            ConfigError: its workers keep dying.
        """
        ...

    def reports(self) -> Sequence[Report]:
        """What workers said of their progress since the last call."""
        ...


def scheduled(tasks: Sequence[Task], pool: Pool, told: Callable[[Task], Progress]) -> Iterator[tuple[Task, Made]]:
    """Do the tasks, as many at a time as there is room for, none before what it needs is yielded and kept."""
    waiting = {task.key: task for task in tasks}
    running: dict[str, Progress] = {}
    while waiting or running:
        for task in [task for task in waiting.values() if _is_ready(task, waiting, running)][: max(0, pool.room)]:
            running[task.key] = told(waiting.pop(task.key))
            pool.start(task)
        done = pool.finished()
        for key, steps, total in pool.reports():
            if key in running:
                running[key](steps, total, "")
        for task, made in done:
            del running[task.key]
            yield task, made


def _is_ready(task: Task, *open_ones: Mapping[str, object]) -> bool:
    return not any(other.key in some for other in task.needs.values() for some in open_ones)


def do(workshop: Workshop, task: Task, report: Callable[[Report], None]) -> Made | Exception:
    """What a worker does: the task, with a report once in a while; an error is an answer, for the owner to raise."""
    said = [-REPORT_SECONDS]

    def progress(done: int, total: int, message: str) -> None:
        if time.monotonic() - said[0] >= REPORT_SECONDS:
            said[0] = time.monotonic()
            report((task.key, done, total))

    try:
        return workshop.make(task, progress)
    except MedaegisError as error:
        return error
    except Exception as error:
        error.add_note(traceback.format_exc())  # where it happened stays behind in this process
        return error


class _Packer(pickle.Pickler):
    """Leaves the images out: they are sent to a worker once."""

    def persistent_id(self, value: Any) -> str | None:
        return value.name if isinstance(value, Source) else None


class _Unpacker(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, sources: Mapping[str, Source]) -> None:
        super().__init__(file)
        self.sources = sources

    def persistent_load(self, name: Any) -> Source:
        return self.sources[name]


def packed(task: Task) -> bytes:
    """A task, and all that it needs, for another process of this run; its images by their names."""
    file = io.BytesIO()
    _Packer(file).dump(task)
    return file.getvalue()


def unpacked(data: bytes, sources: Mapping[str, Source]) -> Task:
    """What `packed` gave, from the process that owns this run and nobody else."""
    task: Task = _Unpacker(io.BytesIO(data), sources).load()
    return task


def sources_of(tasks: Sequence[Task]) -> dict[str, Source]:
    """The images of these tasks, by name."""
    return {task.source.name: task.source for task in tasks}
