"""Tasks in several processes of this machine, all of which read the store; what they give, one process writes."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import threading
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from medaegis.errors import ConfigError
from medaegis.experiments.schedule import RETRIES, Report, do, packed, scheduled, sources_of, unpacked
from medaegis.experiments.store import Pieces
from medaegis.experiments.tasks import Source, Task
from medaegis.experiments.work import Made, Workshop
from medaegis.progress import Progress

WAIT_SECONDS = 0.5


class Processes:
    """Executor on so many processes; each holds the images in its own memory.

    A process that dies is replaced, and its task goes on where it was.

    Args:
        workers: processes, one task each at a time.
        retries: deaths during one task after which it is given up.
    """

    def __init__(self, workers: int, *, retries: int = RETRIES) -> None:
        self.workers, self.retries = workers, retries

    def __call__(
        self, tasks: Sequence[Task], workshop: Workshop, told: Callable[[Task], Progress]
    ) -> Generator[tuple[Task, Made], None, None]:
        """See `medaegis.experiments.run.Executor`."""
        if not tasks:
            return
        setting = sources_of(tasks), workshop.pieces.root, str(workshop.device)
        pool = _Workers(min(self.workers, len(tasks)), setting, self.retries)
        try:
            yield from scheduled(tasks, pool, told)
        finally:
            pool.stop()


class _Workers:
    def __init__(self, workers: int, setting: tuple[Mapping[str, Source], Path, str], retries: int) -> None:
        self.setting, self.retries = pickle.dumps(setting), retries
        self.workers = [_Worker(self.setting) for _ in range(workers)]
        self.deaths: dict[str, int] = {}
        self.said: list[Report] = []

    @property
    def room(self) -> int:
        return sum(worker.task is None for worker in self.workers)

    def start(self, task: Task) -> None:
        next(worker for worker in self.workers if worker.task is None).give(task)

    def finished(self) -> Sequence[tuple[Task, Made]]:
        done = []
        ready = wait([worker.pipe for worker in self.workers], WAIT_SECONDS)
        for place, worker in enumerate(self.workers):
            if worker.pipe not in ready:
                continue
            try:
                answer = pickle.loads(worker.pipe.recv_bytes())  # of a process that this one began
            except (EOFError, OSError):
                self.workers[place] = self._replaced(worker)
                continue
            if isinstance(answer, Exception):
                raise answer
            if isinstance(answer, Made):
                assert worker.task is not None, "only a task is answered"
                done.append((worker.task, answer))
                worker.task = None
            else:
                self.said.append(answer)
        return done

    def reports(self) -> Sequence[Report]:
        said, self.said = self.said, []
        return said

    def stop(self) -> None:
        for worker in self.workers:
            worker.stop()

    def _replaced(self, worker: _Worker) -> _Worker:
        """Another one in place of one that died, with the same task.

        Raises:
            ConfigError: too many have died of that task.
        """
        worker.stop()
        code, fresh = worker.process.exitcode, _Worker(self.setting)
        title = "worker" if worker.task is None else worker.task.title
        key = "" if worker.task is None else worker.task.key
        self.deaths[key] = self.deaths.get(key, 0) + 1
        if self.deaths[key] > self.retries:
            fresh.stop()
            remedy = "look at the memory: fewer --workers need less; what is finished is kept"
            raise ConfigError(title, f"its process died {self.deaths[key]} times (exit code {code})", remedy)
        if worker.task is not None:
            fresh.give(worker.task)
        return fresh


class _Worker:
    """A process and our end of the pipe to it; it ends with this process, however this one ends."""

    def __init__(self, setting: bytes) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs,), daemon=True)
        self.process.start()
        theirs.close()
        self.task: Task | None = None
        self._send(setting)

    def give(self, task: Task) -> None:
        self.task = task
        self._send(packed(task))

    def stop(self) -> None:
        self.process.kill()
        self.process.join()
        self.pipe.close()

    def _send(self, data: bytes) -> None:
        with suppress(OSError):  # it is dead: the next look at its pipe says so
            self.pipe.send_bytes(data)


def _serve(pipe: Connection[Any, Any]) -> None:
    """What a worker process does: tasks, until its owner is gone."""
    threading.Thread(target=_end_with_owner, daemon=True).start()
    with suppress(EOFError, OSError, KeyboardInterrupt):
        sources, root, device = pickle.loads(pipe.recv_bytes())
        workshop = Workshop(Pieces(root), device)

        def send(answer: Made | Exception | Report) -> None:
            pipe.send_bytes(pickle.dumps(answer))

        while True:
            send(do(workshop, unpacked(pipe.recv_bytes(), sources), send))


def _end_with_owner() -> None:
    owner = multiprocessing.parent_process()
    assert owner is not None, "a worker has an owner"
    owner.join()
    os._exit(1)
