"""How long work tells how far it is, without knowing who listens (a bar, a log, nobody)."""

import time
from collections.abc import Callable

Progress = Callable[[int, int, str], None]
"""Called with (steps done, steps in all, what is being done)."""

GOES_ON = "goes on where it was"  # the message of the first report of work that an earlier call began


def silent(done: int, total: int, message: str) -> None:
    """A listener that ignores every report."""


class Meter:
    """One progress bar over stages of unlike length, in gradient passes over single images."""

    def __init__(self, progress: Progress, total: int) -> None:
        self.progress, self.total, self.begun = progress, total, 0

    def part(self, passes: int, message: str) -> Progress:
        """The listener of the next stage, which takes so many passes."""
        begun = self.begun
        self.begun += passes
        return lambda done, total, _: self.progress(begun + passes * done // total, self.total, message)


class Stages:
    """One progress bar over so many stages, taken as of equal length, each of which reports to its own end."""

    def __init__(self, progress: Progress, count: int) -> None:
        self.progress, self.count, self.stage, self.over = progress, max(1, count), 0, False

    def __call__(self, done: int, total: int, message: str) -> None:
        self.stage, self.over = min(self.stage + self.over, self.count - 1), done == total
        self.progress(1000 * self.stage + 1000 * done // max(1, total), 1000 * self.count, message)


class Resumed:
    """A listener that keeps still while what an earlier call did is found again, and then says where it goes on."""

    def __init__(self, progress: Progress) -> None:
        self.progress, self.works, self.at = progress, False, (0, 0)

    def __call__(self, done: int, total: int, message: str) -> None:
        self.at = (done, total)
        if self.works:
            self.progress(done, total, message)

    def begin(self) -> None:
        """From now on there is work to do."""
        if not self.works and self.at[0]:
            self.progress(*self.at, GOES_ON)
        self.works = True


class Pace:
    """How long the rest of the work takes, at the pace since it began, or went on, in this call."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock, self.began = clock, clock()
        self.done = self.first = self.total = 0
        self.since = self.began

    def report(self, done: int, total: int, message: str = "") -> None:
        """Take note; work with another total, or that goes on somewhere, has a pace of its own."""
        if total != self.total or message == GOES_ON or done < self.done:
            self.first, self.since = done if message == GOES_ON else 0, self.clock() if self.total else self.began
        self.done, self.total = done, total

    @property
    def seconds(self) -> float:
        """Since the beginning."""
        return self.clock() - self.began

    @property
    def left(self) -> float | None:
        """Seconds; None while there is nothing to reckon by."""
        made = self.done - self.first
        return (self.clock() - self.since) / made * (self.total - self.done) if made > 0 else None
