"""What a data-set spec says and what a source knows before any picture is read; the schemes are in `schemes`.

A source only lists; pictures are read later, one by one, so listing a large archive stays quick.
"""

import csv
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from medaegis.errors import DataError
from medaegis.images.readers import Picture, find_images, read_image

Grouping = Literal["patient", "patient where known", "lesion", "image"]


@dataclass(frozen=True)
class Listing:
    """All sequences have one entry per image; `grouping` is what its entries of `patients` name.

    `read(i, size)` gives picture i (only the phantoms care about `size`) or raises `ImageError`;
    a stamp changes whenever the picture behind its entry changes, which is what the cache goes by.
    """

    classes: tuple[str, ...]
    names: Sequence[str]
    labels: Sequence[int]
    patients: Sequence[str]
    stamps: Sequence[str]
    read: Callable[[int, int], Picture]
    grouping: Grouping = "patient"


def without_path(spec: str) -> str:
    """A spec for a record: its path, which says something about this machine only, is left out."""
    return re.sub(r"^([a-z0-9-]+):[^?]*", r"\1:PATH", spec)


@dataclass(frozen=True)
class Spec:
    """A parsed data-set spec, `scheme:PATH?option=value&flag`."""

    text: str
    scheme: str
    path: str
    options: dict[str, str]

    @classmethod
    def parse(cls, text: str) -> "Spec":
        head, _, query = text.partition("?")
        scheme, _, path = head.partition(":")
        items = (item.partition("=") for item in query.split("&") if item)
        return cls(text, scheme, path, {key: value for key, _, value in items})

    def error(self, problem: str, remedy: str) -> DataError:
        return DataError(self.text, problem, remedy)

    def folder(self) -> Path:
        """The folder it names, or `DataError`."""
        root = self._path("a folder")
        if not root.is_dir():
            raise self.error(f"there is no folder {root}", "check the path after the colon")
        return root

    def file(self) -> Path:
        """The file it names, or `DataError`."""
        file = self._path("a file")
        if not file.is_file():
            raise self.error(f"there is no file {file}", "check the path after the colon")
        return file

    def flag(self, name: str) -> bool:
        """Whether the option `name` is given; it takes no value."""
        if self.options.get(name):
            raise self.error(f"{name} takes no value", f"write ?{name}")
        return name in self.options

    def number(self, name: str, default: int) -> int:
        """The option `name` as a number of 1 or more."""
        text = self.options.get(name, str(default))
        if not text.isascii() or not text.isdigit() or int(text) < 1:
            raise self.error(f"{name}={text} is not a whole number of 1 or more", f"write ?{name}={default}, say")
        return int(text)

    def _path(self, kind: str) -> Path:
        if not self.path:
            raise self.error(f"{self.scheme} needs {kind}", f"write {self.scheme}:PATH")
        return Path(self.path).expanduser()


@dataclass
class Files:
    """Collects image files into a listing; names are paths relative to the data set's root.

    `group` is what the set names for images that belong together.
    """

    spec: Spec
    root: Path
    classes: tuple[str, ...]
    group: Literal["patient", "lesion"] = "patient"
    paths: list[Path] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    patients: list[str] = field(default_factory=list)
    alone: int = 0

    def add(self, path: Path, label: int, patient: str, *, alone: bool = False) -> None:
        """One more image; `alone`: no patient is known, and `patient` is a name that no other image has."""
        self.paths.append(path)
        self.labels.append(label)
        self.patients.append(patient)
        self.alone += alone

    def listing(self) -> Listing:
        if not self.paths:
            raise self.spec.error("no images found", "check the path, and the layout that this scheme expects")
        paths, root = self.paths, self.root
        names = [p.relative_to(root).as_posix() if p.is_relative_to(root) else p.as_posix() for p in paths]
        name, times = Counter(names).most_common(1)[0]
        if times > 1:
            raise self.spec.error(f"{name} is listed {times} times", "list every image once")
        stamps = [_stamp(path) for path in paths]
        grouping: Grouping = self.group
        if self.alone:
            grouping = "image" if self.alone == len(paths) else "patient where known"
        return Listing(
            self.classes, names, self.labels, self.patients, stamps, lambda i, _: read_image(paths[i]), grouping
        )


def _stamp(path: Path) -> str:
    try:
        stat = path.stat()
    except OSError:
        return "missing"  # and reading it will say so
    return f"{stat.st_size}:{stat.st_mtime_ns}"


def locate(folder: Path) -> Callable[[str], Path]:
    """A look-up of the image files below `folder` by name, whatever the suffix and its case.

    What is not there is looked up as `folder/name`, so that reading it says that it is missing.
    """
    known = {path.stem.lower(): path for path in reversed(find_images([folder]))}
    return lambda name: known.get(name.lower()) or known.get(Path(name).stem.lower()) or folder / name


def rows(
    spec: Spec, file: Path, columns: Sequence[str], *, may_be_empty: Sequence[str] = (), delimiter: str = ","
) -> Iterator[dict[str, str]]:
    """The rows of a table that must have these columns, cells stripped.

    Raises `DataError` if it is no such table, or a cell of these columns is empty though it may not be.
    """
    try:
        with file.open(encoding="utf-8-sig", newline="") as handle:
            table = csv.DictReader(handle, delimiter=delimiter)
            header = [name.strip() for name in table.fieldnames or ()]
            table.fieldnames = header
            absent = [column for column in columns if column not in header]
            if absent:
                raise spec.error(
                    f"{file.name} has no column {absent[0]!r}, only: {', '.join(header)}",
                    f"give it the columns {', '.join(columns)}",
                )
            for row in table:
                cells = {key: (value or "").strip() for key, value in row.items() if key is not None}
                empty = [column for column in columns if not cells[column] and column not in may_be_empty]
                if empty:
                    raise spec.error(
                        f"{file.name}, line {table.line_num}: {empty[0]} is empty", "fill it in or remove the line"
                    )
                yield cells
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise spec.error(f"{file.name} cannot be read as a table ({error})", "save it as CSV in UTF-8") from error
