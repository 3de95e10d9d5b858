"""What a data-set spec says and what a source knows before any picture is read; the schemes are in `schemes`.

A source only lists; pictures are read later, one by one, so listing a large archive stays quick.
"""

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from urllib.parse import unquote

import numpy as np
from numpy.typing import NDArray

from medaegis.errors import DataError
from medaegis.images import spelling
from medaegis.images.readers import Picture, read_image
from medaegis.sizes import Size

Grouping = Literal["patient", "patient where known", "lesion", "image"]


@dataclass(frozen=True)
class Listing:
    """All sequences have one entry per image; `grouping` is what its entries of `patients` name.

    `codes` are other names of the classes, one each, by which the option `classes` may call them; `remarks` are what a
    person should know of how the source was read.

    Where images have several findings each, `findings` says of each image which are there, one 0 or 1 for each of
    `classes`; where they have masks, `mask(i, size)` gives that of image i, a class number for each pixel. Then
    `labels` are groups that a draw keeps in proportion.

    `read(i, side)` gives picture i (only the phantoms are drawn with so many pixels a side) or raises `ImageError`;
    a stamp changes whenever the picture behind its entry changes, which is what the cache goes by.
    """

    classes: tuple[str, ...]
    names: Sequence[str]
    labels: Sequence[int]
    patients: Sequence[str]
    stamps: Sequence[str]
    read: Callable[[int, int], Picture]
    grouping: Grouping = "patient"
    codes: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
    findings: Sequence[Sequence[int]] | None = None
    mask: Callable[[int, Size], NDArray[np.uint8]] | None = None


def without_path(spec: str) -> str:
    """A spec for a record: its path, which says something about this machine only, is left out."""
    return re.sub(r"([?&]path=)(?:[/~%\\]|[A-Za-z]:)[^&]*", r"\1PATH", re.sub(r"^([a-z0-9-]+):[^?]*", r"\1:PATH", spec))


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
        options: dict[str, str] = {}
        for item in filter(None, query.split("&")):
            key, _, value = item.partition("=")
            if key in options:
                raise DataError(text, f"{key} is given twice", "give it once")
            options[key] = value
        return cls(text, scheme, path, options)

    def error(self, problem: str, remedy: str) -> DataError:
        return DataError(self.text, problem, remedy)

    def allow(self, known: Sequence[str]) -> None:
        """Raises `DataError` if an option is given that is none of these."""
        for name in sorted(set(self.options) - set(known)):
            remedy = f"its options are: {', '.join(known)}" if known else "write it without"
            raise self.error(f"{self.scheme} has no option {name!r}", remedy)

    def folder(self) -> Path:
        """The folder it names, or `DataError`."""
        root = self._path("a folder")
        if not root.is_dir():
            raise self.error(f"there is no folder {root}", "check the path after the colon")
        return root

    def file(self) -> Path:
        """The file it names, or `DataError`."""
        return self._file(self._path("a file"))

    def files(self) -> list[Path]:
        """The file it names, or the several with commas between them, or `DataError`."""
        whole = self._path("a file")
        if whole.exists() or "," not in self.path:
            return [self._file(whole)]
        return [self._file(Path(part.strip()).expanduser()) for part in self.path.split(",")]

    def inside(self, folder: Path, name: str) -> Path:
        """The file or folder of this name in `folder`, in whatever case.

        Raises `DataError` if there is none, or several.
        """
        found = self.inside_or_none(folder, name)
        if found is None:
            raise self.error(f"there is no {name} in {folder}", "check the path after the colon, and the set's layout")
        return found

    def inside_or_none(self, folder: Path, name: str) -> Path | None:
        """As `inside`, but None if there is none."""
        found = [path for path in self.listed(folder) if spelling.folded(path.name) == spelling.folded(name)]
        if len(found) > 1:
            raise self.error(f"{folder} holds {' and '.join(path.name for path in found)}", f"leave one, called {name}")
        return found[0] if found else None

    def listed(self, folder: Path) -> list[Path]:
        """What lies in `folder`, sorted.

        Raises `DataError` if it cannot be listed.
        """
        try:
            return [folder / name for name in sorted(os.listdir(folder))]
        except OSError as error:
            raise self.error(f"{folder} cannot be listed ({error.strerror})", "check the path and the rights") from None

    def value(self, name: str) -> str | None:
        """The option `name`, %-escapes resolved; None if it is not given."""
        if name not in self.options:
            return None
        text = unquote(self.options[name]).strip()
        if not text:
            raise self.error(f"{name} is empty", f"write ?{name}=VALUE, or leave it out")
        return text

    def choice(self, name: str, known: Sequence[str]) -> str | None:
        """The option `name`, which is one of `known`; None if it is not given."""
        text = self.value(name)
        if text is not None and text not in known:
            raise self.error(f"there is no {name}={text}", f"take one of {', '.join(known)}")
        return text

    def _file(self, file: Path) -> Path:
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
    codes: tuple[str, ...] = ()
    remarks: list[str] = field(default_factory=list)
    paths: list[Path] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    patients: list[str | None] = field(default_factory=list)
    alone: list[str | None] = field(default_factory=list)

    def add(self, path: Path, label: int, patient: str | None, *, alone: str | None = None) -> None:
        """One more image; where no patient is known, it stands for itself, as `alone` or by its own name."""
        self.paths.append(path)
        self.labels.append(label)
        self.patients.append(patient or None)
        self.alone.append(alone)

    def listing(self) -> Listing:
        if not self.paths:
            where = f"no images found in {self.root}"
            raise self.spec.error(where, "check the path, and the layout that this scheme expects")
        paths, root = self.paths, self.root
        names = [p.relative_to(root).as_posix() if p.is_relative_to(root) else p.as_posix() for p in paths]
        states = [file_state(path) for path in paths]
        self._once(names, [identity for identity, _ in states])
        patients = self._one_spelling()
        unknown = sum(patient is None for patient in patients)
        grouping: Grouping = "image" if unknown == len(paths) else "patient where known" if unknown else self.group
        return Listing(
            self.classes,
            names,
            self.labels,
            [known or alone or name for known, alone, name in zip(patients, self.alone, names, strict=True)],
            [stamp for _, stamp in states],
            lambda i, _: read_image(paths[i]),
            grouping,
            self.codes,
            tuple(self.remarks),
        )

    def _once(self, names: list[str], identities: list[str]) -> None:
        """Refuse a file that is listed again, under the same path or another (a link, a detour, a hard link)."""
        first: dict[str, int] = {}
        for place, identity in enumerate(identities):
            before = first.setdefault(identity, place)
            if before != place:
                also = "" if names[before] == names[place] else f", also as {names[place]}"
                labels = "" if self.labels[before] == self.labels[place] else ", with different labels"
                times = identities.count(identity)
                raise self.spec.error(f"{names[before]} is listed {times} times{also}{labels}", "list every image once")

    def _one_spelling(self) -> list[str | None]:
        """The patients, one who is written in several ways (1 and 1.0, p1 and P1) always in the same."""
        groups = spelling.several(patient for patient in self.patients if patient)
        if groups:
            self.remarks.append(
                f"{len(groups)} {self.group}s are written in several ways (as 7, 7.0 and 07, or p1 and P1 would be); "
                "each is taken for one"
            )
        one = {text: group[0] for group in groups for text in group}
        return [patient and one.get(patient, patient) for patient in self.patients]


def file_state(path: Path) -> tuple[str, str]:
    """Which file this is, whatever its path; and a stamp that is another after any change to it.

    Another file of the same size and time differs in its inode or the time of its change.
    """
    try:
        status = path.stat()
    except OSError:
        return os.path.realpath(path), "missing"  # and reading it will say so
    identity = f"{status.st_dev}:{status.st_ino}" if status.st_ino else os.path.realpath(path)
    return identity, f"{status.st_size}:{status.st_mtime_ns}:{status.st_ino}:{status.st_ctime_ns}"
