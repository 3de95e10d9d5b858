"""Chest X-rays as published: Kaggle's pneumonia set, ChestX-ray14, and the COVID-19 Radiography Database."""

import re
from dataclasses import dataclass, replace
from pathlib import Path

from medaegis.images import spelling
from medaegis.images.lookup import Lookup, refuse_copies
from medaegis.images.masks import Pairing, joined, pair_masks
from medaegis.images.search import find_images
from medaegis.images.sources import Files, Listing, Spec
from medaegis.images.tables import headed, rows

# Numbers restart between bacteria and virus and between IM and NORMAL2-IM, and nobody outside the hospital knows
# whether one number is one child. Taking it for one, across Kaggle's train, val and test, can never leak a patient.
_CHEST_PATIENT = re.compile(r"^(?:(person\d+)_|(?:NORMAL2-)?(IM-\d+)-)")

FINDINGS = (
    *("Atelectasis", "Cardiomegaly", "Effusion", "Infiltration", "Mass", "Nodule", "Pneumonia", "Pneumothorax"),
    *("Consolidation", "Edema", "Emphysema", "Fibrosis", "Pleural_Thickening", "Hernia"),
)
"""The fourteen of ChestX-ray14, in the order of its paper (Wang et al. 2017)."""
NO_FINDING = "No Finding"
# The official lists by the words of the option `part`.
NIH14_PARTS = {"train_val": "train_val_list.txt", "test": "test_list.txt"}
COVID19_CLASSES = ("Normal", "Lung_Opacity", "COVID", "Viral Pneumonia")


def list_chest_xray(spec: Spec) -> Listing:
    root, classes = spec.folder(), ("NORMAL", "PNEUMONIA")
    files = Files(spec, root, classes)
    parts = [folder for part in ("train", "val", "test") if (folder := spec.inside_or_none(root, part))]
    folders = [(spec.inside_or_none(part, name), label) for part in parts for label, name in enumerate(classes)]
    if not any(folder for folder, _ in folders):
        problem = f"{root} has no train, val or test with NORMAL and PNEUMONIA in it"
        raise spec.error(problem, "name the folder above them")
    for folder, label in folders:
        for path in find_images([folder]) if folder else ():
            match = _CHEST_PATIENT.match(path.name)
            if match is None:
                problem = f"no patient in the name {path.name}; expected person123_…, IM-0115-… or NORMAL2-IM-0381-…"
                raise spec.error(problem, "move the file away, or describe the images in a table and use csv:FILE")
            files.add(path, label, match[1] or match[2])
    refuse_copies(spec, files.paths, lambda path: None)
    return files.listing()


@dataclass(frozen=True)
class Film:
    """An image of ChestX-ray14 as its tables tell of it.

    Attributes:
        path: its file, which may be missing.
        findings: some of `FINDINGS`, in their order; none where the table says No Finding.
        patient: whose it is.
        part: "train_val" or "test" of the official split, which keeps a patient's images together; None where the
            lists are not beside the table.
    """

    path: Path
    findings: tuple[str, ...]
    patient: str
    part: str | None


def nih14_films(spec: Spec) -> tuple[list[Film], list[str]]:
    """All images in the table of ChestX-ray14, and remarks on how its files were found.

    Raises `DataError` if the table names what is no finding, or the lists do not fit it or split a patient.
    """
    root = spec.folder()
    tables = [path for path in spec.listed(root) if re.fullmatch(r"data_entry.*\.csv", path.name.lower())]
    if len(tables) != 1:
        held = ", ".join(table.name for table in tables) or "no Data_Entry….csv"
        raise spec.error(f"{root} has {held}", "name the folder that holds the set's table, and no other of them")
    parts, find = _nih14_parts(spec, root), Lookup(spec, root)
    films: list[Film] = []
    part_of: dict[str, str | None] = {}
    named: set[str] = set()
    for row in rows(spec, tables[0], headed("Image Index", "Finding Labels", "Patient ID")):
        name, patient = row["Image Index"], row["Patient ID"]
        told = {text.strip() for text in row["Finding Labels"].split("|")}
        if spelling.folded(name) in named:
            raise spec.error(f"{row.where}: {name} is in the table twice", "leave the row that is true")
        named.add(spelling.folded(name))
        if unknown := sorted(told - {NO_FINDING, *FINDINGS}):
            remedy = f"expected {NO_FINDING}, or some of {', '.join(FINDINGS)}, with | between them"
            raise spec.error(f"{row.where}: {unknown[0]!r} is no finding of ChestX-ray14", remedy)
        if NO_FINDING in told and len(told) > 1:
            more = " and ".join(sorted(told - {NO_FINDING}))
            raise spec.error(f"{row.where}: {name} has No Finding and {more}", "correct the table")
        part = parts.get(name)
        if parts and part is None:
            lists = " nor ".join(NIH14_PARTS.values())
            remedy = "give the set's own lists, or take both away"
            raise spec.error(f"{row.where}: {name} is in neither {lists}", remedy)
        if part_of.setdefault(spelling.key(patient), part) != part:
            problem = f"{row.where}: images of patient {patient} are in both official parts"
            raise spec.error(problem, "give the set's own lists, or take both away")
        films.append(Film(find(name), tuple(text for text in FINDINGS if text in told), patient, part))
    return films, list(find.remarks())


def _nih14_parts(spec: Spec, root: Path) -> dict[str, str]:
    """The part of each image in the official lists; empty where both lists are absent."""
    lists = {part: spec.inside_or_none(root, name) for part, name in NIH14_PARTS.items()}
    absent = [NIH14_PARTS[part] for part, file in lists.items() if file is None]
    if len(absent) == 1:
        raise spec.error(f"{root} lacks {absent[0]}", "add it, or take away the other list")
    found: dict[str, str] = {}
    for part, file in lists.items():
        try:
            lines = file.read_text(encoding="utf-8").splitlines() if file else []
        except (OSError, UnicodeError) as error:
            raise spec.error(f"{file} cannot be read ({error})", "give the set's own list, a name in a line") from None
        for number, line in enumerate(lines, start=1):
            if line.strip() and found.setdefault(line.strip(), part) != part:
                problem = f"{file}, line {number}: {line.strip()} is in the other list too"
                raise spec.error(problem, "give the set's own lists")
    return found


def list_nih14(spec: Spec) -> Listing:
    """An image may have several findings: one class has none of them, the other any, or the one asked for.

    With the option `findings` all of them are its labels, each there or not.

    Images with other findings than the one asked for are left out, or with the option `others` count as not having it.
    """
    films, remarks = nih14_films(spec)
    several = spec.flag("findings")
    asked, part, others = spec.value("finding"), spec.choice("part", tuple(NIH14_PARTS)), spec.flag("others")
    if several and (asked or others):
        raise spec.error("findings are all 14, and finding is one of them", "give one of the two")
    if others and asked is None:
        raise spec.error("others needs a finding", "write ?finding=Effusion&others, say")
    if part is not None:
        if films and films[0].part is None:
            remedy = "put the lists beside the table"
            raise spec.error(f"part={part} needs {' and '.join(NIH14_PARTS.values())}", remedy)
        films = [film for film in films if film.part == part]
    if several:
        files = Files(spec, spec.folder(), FINDINGS, remarks=remarks)
        for film in films:
            files.add(film.path, len(film.findings), film.patient)
        there = [[int(text in film.findings) for text in FINDINGS] for film in films]
        return replace(files.listing(), findings=there)
    finding = None
    if asked is not None:
        seen = sorted({text for film in films for text in film.findings})
        finding = next(iter(spelling.match(asked, seen)), None)
        if finding is None:
            raise spec.error(f"no image with finding={asked!r}", f"take one of {', '.join(seen)}")
    classes = (f"no {finding}" if others else NO_FINDING, finding or "Finding")
    files = Files(spec, spec.folder(), classes, remarks=remarks)
    for film in films:
        has = bool(film.findings) if finding is None else finding in film.findings
        if has or others or not film.findings:
            files.add(film.path, int(has), film.patient)
    return files.listing()


def list_covid19(spec: Spec) -> Listing:
    """COVID-19 Radiography Database: a folder for each class, with images and masks in it; no patients are named."""
    root = _covid19_root(spec)
    files = Files(spec, root, COVID19_CLASSES)
    for label, name in enumerate(COVID19_CLASSES):
        for path in find_images([spec.inside(spec.inside(root, name), "images")]):
            if not spelling.folded(path.name).startswith(spelling.folded(f"{name}-")):
                remedy = f"expected {name}-1.png and the like: move the file away, or into the folder of its class"
                raise spec.error(f"{path} has not the name of an image of {name}", remedy)
            files.add(path, label, None)
    refuse_copies(spec, files.paths, lambda path: None)
    return files.listing()


def covid19_masks(spec: Spec) -> Pairing:
    """The lungs of the COVID-19 Radiography Database; its masks are smaller than its images."""
    folders = [spec.inside(_covid19_root(spec), name) for name in COVID19_CLASSES]
    return joined(
        pair_masks(spec.inside(folder, "images"), spec.inside(folder, "masks"), scaled=True) for folder in folders
    )


def _covid19_root(spec: Spec) -> Path:
    root = spec.folder()
    return spec.inside_or_none(root, "COVID-19_Radiography_Dataset") or root
