"""Copies of rejected files, and masks that are given out, named by their content.

Each is written whole or not at all, once, whoever else screens.
"""

from __future__ import annotations

import hashlib
import io
import os
import secrets
import stat
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from PIL import Image
from torch import Tensor

from medaegis.errors import ArtefactError
from medaegis.safefiles import sync

BLOCK = 1 << 20


def set_aside(path: Path, folder: Path) -> Path:
    """Copy a file into a folder, under the SHA-256 of its content and its own suffix.

    A copy that is there already stays. Anything else of that name, such as a copy cut short, is replaced; a link is
    replaced, not followed.

    Raises:
        ArtefactError: it cannot be written; nothing but whole copies is left.
    """
    return _put(lambda: path.open("rb"), folder, path.suffix.lower(), what=f"{path.name} cannot be copied there")


def keep_mask(mask: Tensor, folder: Path, *, classes: int) -> Path:
    """Write a mask uint8 `(H, W)` of class numbers as a PNG in grey levels, under the SHA-256 of the file.

    Of two classes the second is white, of more the levels are their numbers, as `read_mask` reads them.

    Raises:
        ArtefactError: as `set_aside`.
    """
    image, encoded = Image.fromarray((mask * 255 if classes == 2 else mask).numpy()), io.BytesIO()
    image.save(encoded, format="PNG")
    encoded.seek(0)
    return _put(lambda: encoded, folder, ".png", what="the mask cannot be written there")


def _put(source: Callable[[], BinaryIO], folder: Path, suffix: str, *, what: str) -> Path:
    part = folder / f".{secrets.token_hex(8)}.part"  # hidden, so that nobody takes it for a picture
    try:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            copy = folder / f"{_write(source, part)}{suffix}"
            if not _is_whole(copy):
                part.replace(copy)
                sync(folder)
        finally:
            part.unlink(missing_ok=True)
        return copy
    except OSError as error:
        problem = f"{what} ({error.strerror})"
        raise ArtefactError(folder, problem, "name a folder with room that you may write to") from error


def _write(source: Callable[[], BinaryIO], target: Path) -> str:
    """Copy to a new file that is on the disk afterwards; the SHA-256 of what was written."""
    digest = hashlib.sha256()
    with source() as file, target.open("xb") as copy:
        while block := file.read(BLOCK):
            digest.update(block)
            copy.write(block)
        copy.flush()
        os.fsync(copy.fileno())
    return digest.hexdigest()


def _is_whole(copy: Path) -> bool:
    """Whether a regular file is there whose content is what its name says."""
    try:
        if not stat.S_ISREG(copy.lstat().st_mode):
            return False
        with copy.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == copy.name.split(".")[0]
    except FileNotFoundError:
        return False
