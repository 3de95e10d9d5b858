"""Image files below folders: found by content or name, and every place that cannot be looked at is told."""

import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from medaegis.errors import ImageError
from medaegis.images.readers import HEAD_BYTES, detect

SUFFIXES = frozenset(
    (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".tif", ".tiff", ".bmp", ".dib", ".webp", ".dcm", ".dicom", ".ima")
)


def find_images(paths: Iterable[str | os.PathLike[str]]) -> list[Path]:
    """All image files of the given files and folders, sorted, each once (see `search_images`).

    Raises:
        ImageError: of a place that cannot be looked at, so that images may be missing.
    """
    found, missed = search_images(paths)
    if missed:
        raise missed[0]
    return found


def search_images(paths: Iterable[str | os.PathLike[str]]) -> tuple[list[Path], list[ImageError]]:
    """All image files of the given files and folders, sorted, each once; and what could not be looked at.

    A file given by name is always listed, even if it is missing: reading it then says what is wrong. A folder is
    searched to any depth for files that have the content or the name of an image; hidden ones and DICOMDIR are left
    out. Links to files are followed. Links to folders are not, so that there are no loops: they are told as missed, as
    are folders that cannot be listed and files that cannot be opened.
    """
    found: dict[str, Path] = {}
    missed: list[ImageError] = []
    for given in map(Path, paths):
        if "\0" in str(given):
            missed.append(ImageError(repr(str(given)), "is not a path", "give the path of a file or folder"))
            continue
        for path in _walk(given, missed) if os.path.isdir(given) else (given,):
            found.setdefault(os.path.realpath(path), path)
    return sorted(found.values()), missed


def _walk(folder: Path, missed: list[ImageError]) -> Iterator[Path]:
    for parent, folders, files in os.walk(folder, onerror=lambda error: missed.append(_unseen(error))):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for path in (Path(parent, name) for name in folders):
            if os.path.islink(path):
                remedy = "name the folder itself if it is meant"
                missed.append(ImageError(str(path), "is a link to a folder, which is not followed", remedy))
        for name in sorted(files):
            path = Path(parent, name)
            if name.startswith(".") or name == "DICOMDIR":
                continue
            try:
                if _looks_like_image(path):
                    yield path
            except OSError as error:
                missed.append(_unseen(error))


def _unseen(error: OSError) -> ImageError:
    problem = f"cannot be looked at: {(error.strerror or 'unknown error').lower()}"
    return ImageError(error.filename, problem, "check your right to read it and the length of its path")


def _looks_like_image(path: Path) -> bool:
    if path.suffix.lower() in SUFFIXES:
        return True
    if not stat.S_ISREG(os.stat(path).st_mode):
        return False
    with open(path, "rb") as file:
        return detect(file.read(HEAD_BYTES)) not in (None, "BMP")  # two letters are too few for a nameless file
