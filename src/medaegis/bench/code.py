"""One number for the code that results come from, so that what other code measured is never taken for its own."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

# Whose sources decide what is stored, with FILES.
ROOMS = ("attacks", "corruptions", "cushions", "detectors", "guard", "models", "robust")
FILES = ("draws.py", "task.py", "bench/quality.py")


@cache
def code_fingerprint(root: Path = Path(__file__).parents[1], more: tuple[str, ...] = ()) -> str:
    """SHA-256 (hex) over these sources, names and bytes: the same on every machine that has this code.

    Args:
        more: further files, by their paths from the root.
    """
    told = hashlib.sha256()
    files = [root / name for name in (*FILES, *more)] + [file for room in ROOMS for file in (root / room).rglob("*.py")]
    sources = {file.relative_to(root).as_posix(): file for file in files}
    for name in sorted(sources):
        told.update(f"{name} {hashlib.sha256(sources[name].read_bytes()).hexdigest()}\n".encode())
    return told.hexdigest()
