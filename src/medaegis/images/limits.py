"""What a picture may cost before it is decoded, and the two small tools that every reader shares.

Sizes are checked on what a file declares, so that a bomb (a small file that unpacks to gigabytes) is refused unopened.
"""

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Bounds that a file must keep; the defaults hold every radiograph, mammogram, fundus and skin photograph.

    Args:
        max_file_bytes: size of the file.
        max_pixels: rows x columns of one frame.
        max_frames: frames (pages) of one file.
        min_side: rows and columns each; anything smaller is no diagnostic picture.
    """

    max_file_bytes: int = 1 << 29
    max_pixels: int = 50_000_000
    max_frames: int = 20_000
    min_side: int = 16


DEFAULT_LIMITS = Limits()


class UnreadableError(Exception):
    """Why a file cannot be read, without the file's name: `read_image` adds it and raises `ImageError`."""

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(problem, remedy)
        self.problem = problem
        self.remedy = remedy


def check_size(columns: int, rows: int, limits: Limits) -> None:
    """Refuse a frame that declares too many or too few pixels."""
    size = f"{columns} x {rows} pixels"
    if columns * rows > limits.max_pixels:
        raise UnreadableError(
            f"it declares {size}, more than the limit of {limits.max_pixels:,}",
            "scale it down, or raise Limits.max_pixels if you trust the file",
        )
    if min(columns, rows) < limits.min_side:
        raise UnreadableError(
            f"it is {size}, and each side must have at least {limits.min_side}",
            "give the full picture, not a thumbnail or a placeholder",
        )


def check_frame(frame: int, frames: int, limits: Limits) -> None:
    """Refuse a frame number that the file does not have, and a file with too many frames."""
    if frames > limits.max_frames:
        raise UnreadableError(
            f"it has more than {limits.max_frames:,} frames",
            "export the frames that you need, or raise Limits.max_frames if you trust the file",
        )
    if not 0 <= frame < frames:
        raise UnreadableError(
            f"frame {frame} was asked for, but it has {frames} {'frame' if frames == 1 else 'frames'}",
            "use frame 0" if frames == 1 else f"choose a frame from 0 to {frames - 1}",
        )


_quiet_lock = threading.Lock()
_quiet_depth = 0
_quiet_saved: list["warnings.catch_warnings[None]"] = []


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the decoders' warnings from the user (they can quote the file); safe when threads read side by side.

    `warnings.catch_warnings` alone is not: two threads that leave in the order they came would restore each other's
    filters. Here the first one in saves the filters and the last one out restores them.
    """
    global _quiet_depth
    with _quiet_lock:
        _quiet_depth += 1
        if _quiet_depth == 1:
            saved = warnings.catch_warnings()
            saved.__enter__()
            _quiet_saved.append(saved)
            warnings.simplefilter("ignore")
    try:
        yield
    finally:
        with _quiet_lock:
            _quiet_depth -= 1
            if _quiet_depth == 0:
                _quiet_saved.pop().__exit__(None, None, None)
