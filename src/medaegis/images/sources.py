"""From a spec string to a list of labelled, patient-grouped images: one function per data-set scheme.

A source only lists; pictures are read later, one by one, so that listing a large archive stays quick.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from medaegis.errors import DataError
from medaegis.images.readers import Picture, read_image


@dataclass(frozen=True)
class Listing:
    """What a source knows before any picture is read; all sequences have one entry per image.

    `read(i, size)` gives picture i (only the phantoms care about `size`) or raises `ImageError`;
    `stamps` change whenever the picture behind an entry changes, which is what the cache goes by.
    """

    classes: tuple[str, ...]
    names: Sequence[str]
    labels: Sequence[int]
    patients: Sequence[str]
    stamps: Sequence[str]
    read: Callable[[int, int], Picture]


@dataclass(frozen=True)
class Spec:
    """A parsed data-set spec `scheme:PATH?key=value&flag`."""

    text: str
    scheme: str
    path: str
    options: dict[str, str]

    @classmethod
    def parse(cls, text: str) -> "Spec":
        head, _, query = text.partition("?")
        scheme, _, path = head.partition(":")
        options = {}
        for item in filter(None, query.split("&")):
            key, _, value = item.partition("=")
            options[key] = value
        return cls(text, scheme, path, options)

    def error(self, problem: str, remedy: str) -> DataError:
        return DataError(self.text, problem, remedy)

    def folder(self) -> Path:
        root = self._path("a folder")
        if not root.is_dir():
            raise self.error(f"there is no folder {root}", "check the path after the colon")
        return root

    def file(self) -> Path:
        file = self._path("a file")
        if not file.is_file():
            raise self.error(f"there is no file {file}", "check the path after the colon")
        return file

    def _path(self, kind: str) -> Path:
        if not self.path:
            raise self.error(f"{self.scheme} needs {kind}", f"write {self.scheme}:PATH")
        return Path(self.path).expanduser()


@dataclass
class _Files:
    """Collects image files as a listing; names are paths relative to the data set's root."""

    spec: Spec
    root: Path
    classes: tuple[str, ...]
    paths: list[Path] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    patients: list[str] = field(default_factory=list)

    def add(self, path: Path, label: int, patient: str) -> None:
        self.paths.append(path)
        self.labels.append(label)
        self.patients.append(patient)

    def listing(self) -> Listing:
        if not self.paths:
            raise self.spec.error("no images found", "check the path and the layout that this scheme expects")
        paths, root = self.paths, self.root
        names = [p.relative_to(root).as_posix() if p.is_relative_to(root) else p.as_posix() for p in paths]
        twice = len(names) - len(set(names))
        if twice:
            raise self.spec.error(f"{twice} images are listed more than once", "list every image once")
        return Listing(
            self.classes, names, self.labels, self.patients, [_stamp(p) for p in paths], lambda i, _: read_image(paths[i])
        )


def _stamp(path: Path) -> str:
    try:
        stat = path.stat()
    except OSError:
        return "missing"
    return f"{stat.st_size}:{stat.st_mtime_ns}"


def _visible_files(folder: Path) -> list[Path]:
    """All files below `folder`, sorted; hidden ones and what macOS archives add are left out."""
    found = (p for p in folder.rglob("*") if p.is_file())
    hidden = re.compile(r"^(\.|__MACOSX$|Thumbs\.db$|desktop\.ini$)")
    return sorted(p for p in found if not any(hidden.match(part) for part in p.relative_to(folder).parts))


# The numbers restart for bacteria and virus, and for IM and NORMAL2-IM, and the same child may sit behind both;
# one number is therefore one patient everywhere, across Kaggle's train, val and test: never a leak, rarely too careful.
_CHEST_PATIENT = re.compile(r"^(?:(person\d+)_|(?:NORMAL2-)?(IM-\d+)-)")


def _chest_xray(spec: Spec) -> Listing:
    root, classes = spec.folder(), ("NORMAL", "PNEUMONIA")
    folders = [(root / part / name, label) for part in ("train", "val", "test") for label, name in enumerate(classes)]
    files = _Files(spec, root, classes)
    for folder, label in folders:
        for path in _visible_files(folder) if folder.is_dir() else ():
            match = _CHEST_PATIENT.match(path.name)
            if match is None:
                raise spec.error(
                    f"no patient in the name {path.name}; expected person123_… or IM-0115-… or NORMAL2-IM-0381-…",
                    "move it away, or describe the images in a table and use csv:FILE",
                )
            files.add(path, label, match[1] or match[2])
    return files.listing()


@dataclass(frozen=True)
class Scheme:
    """How one kind of spec is listed, the options it knows, and what it reads, in a line."""

    list: Callable[[Spec], Listing]
    options: tuple[str, ...]
    help: str


SCHEMES: dict[str, Scheme] = {
    "chest-xray": Scheme(_chest_xray, (), "Kaggle Chest X-Ray: PATH/train|val|test/NORMAL|PNEUMONIA, patient from the name"),
}
