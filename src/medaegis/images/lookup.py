"""Finds the picture that a table names: exact names first, then other spellings, and never one of several."""

import os
from collections.abc import Callable, Iterable
from pathlib import Path

from medaegis.images import spelling
from medaegis.images.search import SUFFIXES, find_images
from medaegis.images.sources import Spec


def without_suffix(name: str) -> str:
    """A file's name without the suffix of an image; any other dot belongs to the name (1.2.840.1 has no suffix)."""
    stem, dot, suffix = name.rpartition(".")
    return stem if dot and f".{suffix.lower()}" in SUFFIXES else name


class Lookup:
    """The image files below `folder`, found by the names in a table.

    In this order, and only where one file fits: the very path; the name; the name in another case; the name but for the
    suffix of an image (tables may leave it out); the same in another case.
    """

    def __init__(self, spec: Spec, folder: Path) -> None:
        self.spec, self.folder = spec, folder
        self._by: tuple[dict[str, dict[Path, None]], ...] = ({}, {}, {}, {})
        for path in find_images([folder]):
            # A link hides the name of its target, or the other way round: both names lead to the one file.
            for name in {path.name, os.path.basename(os.path.realpath(path))}:
                for found, key in zip(self._by, _keys(name), strict=True):
                    found.setdefault(key, {})[path] = None
        self._renamed: list[tuple[str, Path]] = []

    def __call__(self, name: str) -> Path:
        """The file of this name; where there is none, `folder/name`, so that reading it says that it is missing.

        Raises `DataError` if several files could be meant, or one outside of the folder.
        """
        direct = self.folder / name
        if not Path(os.path.normpath(direct)).is_relative_to(os.path.normpath(self.folder)):
            raise self.spec.error(f"{name} lies outside of {self.folder}", "correct the table")
        if "/" in name or direct.is_file():
            return direct
        for step, (found, key) in enumerate(zip(self._by, _keys(name), strict=True)):
            paths = list(found.get(key, ()))
            if len(paths) > 1:
                told = " and ".join(path.relative_to(self.folder).as_posix() for path in paths[:2])
                problem = f"{name} could be {told}" + (f" or {len(paths) - 2} more" if len(paths) > 2 else "")
                raise self.spec.error(problem, f"leave one of them in {self.folder}")
            if paths:
                if step >= 2 and without_suffix(name) != name:
                    self._renamed.append((name, paths[0]))
                return paths[0]
        return direct

    def remarks(self) -> Iterable[str]:
        """What was found under another suffix than the table names."""
        if self._renamed:
            name, path = self._renamed[0]
            yield (
                f"{len(self._renamed)} images have another suffix than in the table, as "
                f"{path.relative_to(self.folder).as_posix()} for {name}: copies of the originals?"
            )


def _keys(name: str) -> tuple[str, str, str, str]:
    """What a name is looked up by, the strictest first."""
    stem = without_suffix(name)
    return name, spelling.folded(name), stem, spelling.folded(stem)


def refuse_copies(spec: Spec, paths: Iterable[Path], place: Callable[[Path], object]) -> None:
    """Raises `DataError` if two files of one place have one name but for their suffix or case."""
    first: dict[tuple[object, str], Path] = {}
    for path in paths:
        before = first.setdefault((place(path), spelling.folded(without_suffix(path.name))), path)
        if before is not path:
            problem = f"{before} and {path} have one name: one may be a copy of the other, and would count twice"
            raise spec.error(problem, "leave one of them there, or rename one")
