"""A few child processes that run the decoders which damage can crash, hang or make print.

Of DICOM frames with a few changed bytes, about one in a hundred makes GDCM abort the whole process; libtiff writes to
the terminal. In a child either is one refused picture, and the next one gets a new child. One child per thread that
reads at the same time, kept for later files; each ends with its parent.
"""

import atexit
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from medaegis.images.decode_worker import Buffer, receive, send
from medaegis.images.limits import UnreadableError

SECONDS = 60.0


class _Child:
    def __init__(self) -> None:
        script = Path(__file__).with_name("decode_worker.py")
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-W", "ignore", str(script)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            # One thread each: a read-ahead of many threads' stacks would count against the memory limit.
            env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        )

    def ask(self, request: dict[str, Any], data: tuple[Buffer, ...]) -> tuple[dict[str, Any], bytes] | None:
        """The child's answer; None when it died or was stopped for taking too long."""
        pipes = self.process.stdin, self.process.stdout
        alarm = threading.Timer(SECONDS, self.process.kill)
        alarm.start()
        try:
            send(pipes[0], request, *data)  # type: ignore[arg-type]
            return receive(pipes[1])  # type: ignore[arg-type]
        except BrokenPipeError:
            return None
        finally:
            alarm.cancel()

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


_lock = threading.Lock()
_idle: list[_Child] = []


def _forget_in_fork() -> None:
    """A forked process must not speak on its parent's pipes: it starts children of its own."""
    global _lock
    _lock = threading.Lock()
    for child in _idle:
        child.process.returncode = 0  # not ours to wait for
    _idle.clear()


def _close_all() -> None:
    with _lock:
        while _idle:
            _idle.pop().close()


os.register_at_fork(after_in_child=_forget_in_fork)
atexit.register(_close_all)


def ask(request: dict[str, Any], *data: Buffer) -> tuple[dict[str, Any], bytes] | None:
    """What `decode_worker.py` makes of a request; None when it refused, died, or took more than a minute.

    Raises:
        UnreadableError: no child could be started.
    """
    with _lock:
        child = _idle.pop() if _idle else None
    if child is not None and child.process.poll() is not None:  # ended while idle, so through no fault of this file
        child.close()
        child = None
    try:
        child = child or _Child()
    except OSError:
        raise UnreadableError("no process could be started to decode it", "end other processes and try again") from None
    answer = None
    try:
        answer = child.ask(request, data)
    finally:
        if answer is None:
            child.close()
        else:
            with _lock:
                _idle.append(child)
    return None if answer is None or "error" in answer[0] else answer
