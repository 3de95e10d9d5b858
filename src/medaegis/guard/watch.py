"""A time limit for what cannot be interrupted, such as a forward pass that hangs."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

from medaegis.errors import ConfigError

T = TypeVar("T")
NAME = "medaegis-watched"  # of the threads


class Watch:
    """Calls with a time limit, each in a thread of its own.

    PyTorch cannot be stopped in the middle of a pass. So after the limit the caller goes on without an answer and the
    thread is left behind; it ends with the process. Until it ends every further call is refused at once, so there is
    never more than one call left behind for each limit that ran out, and none waits for a network that hangs.

    A call that never lets go of Python's global lock stops the clock too; no layer of PyTorch does that, code of one's
    own in another language could.
    """

    def __init__(self) -> None:
        self._left_behind: threading.Thread | None = None

    def run(self, work: Callable[[], T], seconds: float) -> T:
        """What `work` returns or raises; TimeoutError after `seconds`, or at once while an earlier call hangs."""
        if self._left_behind is not None and self._left_behind.is_alive():
            raise TimeoutError("an earlier pass of the network has not ended")
        answer: list[T] = []
        failure: list[BaseException] = []

        def call() -> None:
            try:
                answer.append(work())
            except BaseException as error:  # handed on to the caller
                failure.append(error)

        thread = threading.Thread(target=call, name=NAME, daemon=True)
        thread.start()
        thread.join(seconds)
        if failure:
            raise failure[0]
        if not answer:
            self._left_behind = thread
            raise TimeoutError(f"no answer within {seconds:g} s")
        return answer[0]


def check_timeout(timeout: object) -> None:
    """Raises ConfigError unless it is None or a number of seconds above 0."""
    number = isinstance(timeout, int | float) and not isinstance(timeout, bool)
    if timeout is not None and not (number and 0 < float(timeout) <= threading.TIMEOUT_MAX):  # type: ignore[arg-type]
        raise ConfigError("timeout", f"got {timeout!r:.40}", "give seconds above 0, or leave it out for no limit")
