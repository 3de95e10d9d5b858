"""How long work tells how far it is, without knowing who listens (a bar, a log, nobody)."""

from collections.abc import Callable

Progress = Callable[[int, int, str], None]
"""Called with (steps done, steps in all, what is being done)."""


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
