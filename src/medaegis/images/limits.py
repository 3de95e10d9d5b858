"""What a picture may cost before it is decoded, and the small tools that every reader shares.

Sizes are checked on what a file declares, so that a bomb (a small file that unpacks to gigabytes) is refused unopened.
"""

import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from medaegis.images.kinds import Kind


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


@dataclass(frozen=True, eq=False)
class Decoded:
    """One frame as its reader hands it on.

    Attributes:
        values: `(1 or 3, H, W)`, uint8, uint16 or float32, high = light.
        white: the value that is white; 0 is black.
        bits: bits per sample that the values carry.
        frames: how many the file has.
        steps: what was done to the pixels, in words.
        kind: what a DICOM file says that it shows.
    """

    values: npt.NDArray[Any]
    white: int
    bits: int
    frames: int
    steps: list[str]
    kind: Kind | None = None


def check_size(columns: int, rows: int, limits: Limits, *, copies: int = 1) -> None:
    """Refuse a frame that declares too many or too few pixels; inside `taking_turns`, wait until there is room for it.

    Args:
        copies: how many times the picture's memory its decoder takes, compared with the others.
    """
    size = f"{columns} x {rows} pixels"
    if columns * rows > limits.max_pixels // copies:
        problem = f"it declares {size}, more than the limit of {limits.max_pixels // copies:,}"
        raise UnreadableError(problem, "scale it down, or raise Limits.max_pixels if you trust the file")
    if min(columns, rows) < limits.min_side:
        problem = f"it is {size}, and each side must have at least {limits.min_side}"
        raise UnreadableError(problem, "give the full picture, not a thumbnail or a placeholder")
    _claim(columns * rows * copies)


_room = threading.Condition()
_claims: dict[int, int] = {}  # by thread: the pixels of the picture that it decodes


@contextmanager
def taking_turns() -> Iterator[None]:
    """Within it, threads decode side by side only what has as many pixels together as one file may have alone."""
    with _room:
        _claims[threading.get_ident()] = 0
    try:
        yield
    finally:
        with _room:
            del _claims[threading.get_ident()]
            _room.notify_all()


def _claim(pixels: int) -> None:
    me = threading.get_ident()
    with _room:
        if me in _claims and _claims[me] < pixels:
            _claims[me] = 0
            _room.notify_all()
            _room.wait_for(
                lambda: pixels + sum(_claims.values()) <= DEFAULT_LIMITS.max_pixels or not any(_claims.values())
            )
            _claims[me] = pixels


def check_frame(frame: int, frames: int, limits: Limits) -> None:
    """Refuse a frame number that the file does not have, and a file with too many frames."""
    if frames > limits.max_frames:
        remedy = "export the frames that you need, or raise Limits.max_frames if you trust the file"
        raise UnreadableError(f"it has more than {limits.max_frames:,} frames", remedy)
    if not 0 <= frame < frames:
        problem = f"frame {frame} was asked for, but it has {frames} {'frame' if frames == 1 else 'frames'}"
        raise UnreadableError(problem, "use frame 0" if frames == 1 else f"choose a frame from 0 to {frames - 1}")


def cmyk() -> UnreadableError:
    """For a picture that is made for printing."""
    return UnreadableError(
        "it is CMYK, made for printing: its colours on a screen depend on a printing profile",
        "save it as RGB or grey with the program it comes from",
    )


_quiet_lock, _quiet_depth, _quieted = threading.Lock(), 0, ExitStack()


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
            _quieted.enter_context(warnings.catch_warnings(action="ignore"))
    try:
        yield
    finally:
        with _quiet_lock:
            _quiet_depth -= 1
            if _quiet_depth == 0:
                _quieted.close()
