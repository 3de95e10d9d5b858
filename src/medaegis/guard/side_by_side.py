"""Several Shields in training at once, each on its share of the processor's cores.

One Shield's batch is too small to keep many cores busy; Shields share nothing, so they can be trained in threads.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from threading import Event, Lock

import torch

from medaegis.detectors.shield import Shield
from medaegis.guard.shield_training import ShieldTraining
from medaegis.progress import Progress, silent


def side_by_side(trainings: Sequence[ShieldTraining], progress: Progress = silent) -> list[Shield]:
    """The Shields of these trainings, in their order; each goes on from its last checkpoint.

    On a processor as many at a time as divide their number, and no more than PyTorch has threads, so that none of these
    is without work at the end; on another device one after the other. An error of one ends the others.

    Args:
        progress: told of all updates together, from one thread at a time.

    Raises:
        ConfigError: a checkpoint of another training; asked of all before any goes on.
    """
    threads = torch.get_num_threads()
    on_cpu = all(training.victim.device.type == "cpu" for training in trainings)
    at_once = _at_once(len(trainings), threads) if on_cpu else 1
    told = _Together(progress, len(trainings))
    for training in trainings:  # none begins where another finds what it cannot go on with
        training.restore()
    torch.set_num_threads(threads // at_once)
    try:
        with ThreadPoolExecutor(at_once) as pool:
            work = [pool.submit(told.train, i, training) for i, training in enumerate(trainings)]
            try:
                wait(work, return_when=FIRST_EXCEPTION)
            finally:  # also where the user interrupts: nobody trains on behind their back
                told.ends.set()
    finally:
        torch.set_num_threads(threads)
    errors = [error for one in work if (error := one.exception()) is not None]
    for error in sorted(errors, key=lambda error: isinstance(error, _Ended)):
        raise error
    return [one.result() for one in work]


def _at_once(trainings: int, threads: int) -> int:
    """The largest divisor of the number of trainings that is at most the number of threads."""
    return max(count for count in range(1, min(trainings, threads) + 1) if trainings % count == 0)


class _Ended(Exception):
    """Another training failed, or the user interrupted."""


class _Together:
    """Several trainings as one progress."""

    def __init__(self, progress: Progress, count: int) -> None:
        self.progress, self.done, self.lock, self.ends = progress, [0] * count, Lock(), Event()

    def train(self, place: int, training: ShieldTraining) -> Shield:
        def report(done: int, total: int, message: str) -> None:
            if self.ends.is_set():
                raise _Ended
            with self.lock:
                self.done[place] = done
                self.progress(sum(self.done), total * len(self.done), message)

        try:
            shield, updates = training.train(report), training.config.updates
            if self.done[place] < updates:  # it ended itself
                report(updates, updates, f"Shield {training.name} is trained")
        except BaseException:
            self.ends.set()
            raise
        return shield
