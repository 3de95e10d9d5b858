"""How long work tells how far it is, without knowing who listens (a bar, a log, nobody)."""

from collections.abc import Callable

Progress = Callable[[int, int, str], None]
"""Called with (steps done, steps in all, what is being done)."""


def silent(done: int, total: int, message: str) -> None:
    """A listener that ignores every report."""
