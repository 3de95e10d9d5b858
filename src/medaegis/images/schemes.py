"""The data sets that a spec can name: each function lists one public layout; `SCHEMES` is the registry.

Where a set names no patients, an image stands for itself (splits still keep identical pictures together).
"""

import re
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medaegis.images import spelling
from medaegis.images.given import list_csv
from medaegis.images.lookup import Lookup, refuse_copies, without_suffix
from medaegis.images.phantoms import MODALITIES
from medaegis.images.readers import Picture
from medaegis.images.search import SUFFIXES, find_images
from medaegis.images.sources import Files, Listing, Spec, stamp
from medaegis.images.tables import Heading, headed, rows

GRADES = ("No DR", "Mild", "Moderate", "Severe", "Proliferative DR")

# Files of MedMNIST hold class numbers only; names of the sets that fit a guard best, from medmnist.com.
_MEDMNIST_CLASSES = {
    "breastmnist": ("malignant", "normal or benign"),
    "pneumoniamnist": ("normal", "pneumonia"),
    "dermamnist": (
        "actinic keratoses and intraepithelial carcinoma",
        "basal cell carcinoma",
        "benign keratosis-like lesions",
        "dermatofibroma",
        "melanoma",
        "melanocytic nevi",
        "vascular lesions",
    ),
}

_PARTS = {"train", "training", "val", "valid", "validation", "test", "testing"}

# Numbers restart between bacteria and virus and between IM and NORMAL2-IM, and nobody outside the hospital knows
# whether one number is one child. Taking it for one, across Kaggle's train, val and test, can never leak a patient.
_CHEST_PATIENT = re.compile(r"^(?:(person\d+)_|(?:NORMAL2-)?(IM-\d+)-)")


def _chest_xray(spec: Spec) -> Listing:
    root, classes = spec.folder(), ("NORMAL", "PNEUMONIA")
    files = Files(spec, root, classes)
    parts = [folder for part in ("train", "val", "test") if (folder := spec.inside_or_none(root, part))]
    folders = [(spec.inside_or_none(part, name), label) for part in parts for label, name in enumerate(classes)]
    if not any(folder for folder, _ in folders):
        raise spec.error(
            f"{root} has no train, val or test with NORMAL and PNEUMONIA in it", "name the folder above them"
        )
    for folder, label in folders:
        for path in find_images([folder]) if folder else ():
            match = _CHEST_PATIENT.match(path.name)
            if match is None:
                raise spec.error(
                    f"no patient in the name {path.name}; expected person123_…, IM-0115-… or NORMAL2-IM-0381-…",
                    "move the file away, or describe the images in a table and use csv:FILE",
                )
            files.add(path, label, match[1] or match[2])
    refuse_copies(spec, files.paths, lambda path: None)
    return files.listing()


def _retina(spec: Spec, root: Path) -> Files:
    if spec.flag("binary"):
        return Files(spec, root, ("No DR", "DR"))
    return Files(spec, root, GRADES, codes=tuple(str(grade) for grade in range(len(GRADES))))


def _number(spec: Spec, text: str, largest: int, what: str) -> int:
    """A class number, however a program wrote it (2, 2.0, 02)."""
    if (plain := spelling.key(text)) not in {str(number) for number in range(largest + 1)}:
        raise spec.error(f"{text!r} is no {what}", f"expected 0 to {largest}")
    return int(plain)


def _grade(spec: Spec, text: str) -> int:
    grade = _number(spec, text, len(GRADES) - 1, "grade of retinopathy")
    return min(grade, 1) if spec.flag("binary") else grade


def _aptos2019(spec: Spec) -> Listing:
    root = spec.folder()
    table, find = spec.inside(root, "train.csv"), Lookup(spec, spec.inside(root, "train_images"))
    files = _retina(spec, root)
    for row in rows(spec, table, headed("id_code", "diagnosis")):
        files.add(find(row["id_code"]), _grade(spec, row["diagnosis"]), None, alone=row["id_code"])
    files.remarks += find.remarks()
    return files.listing()


def _idrid(spec: Spec) -> Listing:
    """IDRiD, part B; its two sets number their images alike, so each table goes with its own folder."""
    root = spec.folder()
    part = spec.inside_or_none(root, "B. Disease Grading") or root
    images, truths = spec.inside(part, "1. Original Images"), spec.inside(part, "2. Groundtruths")
    files = _retina(spec, root)
    for letter, name in (("a", "Training"), ("b", "Testing")):
        folder = spec.inside_or_none(images, f"{letter}. {name} Set")
        table = spec.inside_or_none(truths, f"{letter}. IDRiD_Disease Grading_{name} Labels.csv")
        if folder is None and table is None:
            continue
        if folder is None or table is None:
            absent = "images" if folder is None else "table of grades"
            raise spec.error(f"{part} lacks the {absent} of the {name} set", "add it, or take away the other")
        find = Lookup(spec, folder)
        for row in rows(spec, table, headed("Image name", "Retinopathy grade")):
            files.add(find(row["Image name"]), _grade(spec, row["Retinopathy grade"]), None)
        files.remarks += find.remarks()
    return files.listing()


def _messidor(spec: Spec) -> Listing:
    """Messidor-2, adjudicated grades, ungradable images left out; the set's own table pairs the eyes of a patient."""
    root = spec.folder()
    files, find = _retina(spec, root), Lookup(spec, root)
    examination: dict[str, str] = {}
    pairs = spec.inside_or_none(root, "messidor-2.csv")
    if pairs is not None:
        for row in rows(spec, pairs, headed("left", "right")):
            examination |= {without_suffix(row[eye]).lower(): row["left"] for eye in ("left", "right")}
    columns = headed("image_id", "adjudicated_gradable") | {
        "adjudicated_dr_grade": Heading(("adjudicated_dr_grade",), may_be_empty=True)
    }
    for row in rows(spec, spec.inside(root, "messidor_data.csv"), columns):
        if _number(spec, row["adjudicated_gradable"], 1, "mark of a gradable image"):
            name = row["image_id"]
            patient = examination.get(without_suffix(name).lower())
            files.add(find(name), _grade(spec, row["adjudicated_dr_grade"]), patient, alone=name)
    files.remarks += find.remarks()
    return files.listing()


def _isic(spec: Spec) -> Listing:
    root = spec.folder()
    table, find = spec.inside(root, "metadata.csv"), Lookup(spec, spec.inside(root, "images"))
    files = Files(spec, root, ("not melanoma", "melanoma"), "lesion", codes=("0", "1"))
    for row in rows(spec, table, headed("isic_id", "lesion_id", "target")):
        files.add(find(row["isic_id"]), _number(spec, row["target"], 1, "target"), row["lesion_id"])
    files.remarks += find.remarks()
    return files.listing()


def _nih14(spec: Spec) -> Listing:
    """An image may have several findings: one class has none of them, the other any, or the one asked for."""
    root = spec.folder()
    tables = sorted(path for path in root.iterdir() if re.fullmatch(r"data_entry.*\.csv", path.name.lower()))
    if len(tables) != 1:
        held = ", ".join(table.name for table in tables) or "no Data_Entry….csv"
        raise spec.error(f"{root} has {held}", "name the folder that holds the set's table, and no other of them")
    finding = spec.value("finding") or ""
    files, find, seen = Files(spec, root, ("No Finding", finding or "Finding")), Lookup(spec, root), set()
    for row in rows(spec, tables[0], headed("Image Index", "Finding Labels", "Patient ID")):
        findings = {name.strip() for name in row["Finding Labels"].split("|")}
        if "No Finding" in findings and len(findings) > 1:
            raise spec.error(
                f"{row['Image Index']} has No Finding and {' and '.join(sorted(findings - {'No Finding'}))}",
                "correct the table",
            )
        seen |= findings
        if "No Finding" in findings or not finding or finding in findings:
            files.add(find(row["Image Index"]), int("No Finding" not in findings), row["Patient ID"])
    if finding and finding not in seen - {"No Finding"}:
        raise spec.error(
            f"no image with finding={finding!r}", f"take one of {', '.join(sorted(seen - {'No Finding'}))}"
        )
    files.remarks += find.remarks()
    return files.listing()


def _folder(spec: Spec) -> Listing:
    """A folder per class; a folder inside it, where there is one, is a patient."""
    root = spec.folder()
    inside = sorted(path.name for path in root.iterdir() if path.is_dir())
    classes = tuple(name for name in inside if not name.startswith((".", "__MACOSX")))
    if len(classes) < 2:
        raise spec.error(
            f"{root} holds {len(classes)} folders, expected one for each of 2 or more classes", "sort them so"
        )
    if set(map(str.lower, classes)) <= _PARTS:
        raise spec.error(
            f"{root} holds {' and '.join(classes)}, which are parts of a set and no classes",
            "name one of them, or list all images in tables and use csv:FILE,FILE",
        )
    for group in spelling.several(classes):
        raise spec.error(f"{root} holds {' and '.join(group)}: one class in two spellings?", "put them together")
    files = Files(spec, root, classes)
    loose = find_images(path for path in root.iterdir() if path.is_file() and path.suffix.lower() in SUFFIXES)
    if loose:
        files.remarks.append(f"{len(loose)} images lie beside the folders of the classes, as {loose[0].name}: not used")
    for label, name in enumerate(classes):
        paths = find_images([root / name])
        refuse_copies(spec, paths, lambda path: path.parent)
        direct = {without_suffix(path.name): path for path in paths if path.parent == root / name}
        for path in paths:
            inner = path.relative_to(root / name).parts
            files.add(path, label, inner[0] if len(inner) > 1 else None)
            if len(inner) > 1 and (twin := direct.get(without_suffix(path.name))):
                refuse_copies(spec, (twin, path), lambda path: None)
    return files.listing()


def _medmnist(spec: Spec) -> Listing:
    file = spec.file()
    try:
        if not zipfile.is_zipfile(file):
            raise ValueError("no zip archive")
        with np.load(file, allow_pickle=False) as store:
            parts = [part for part in ("train", "val", "test") if f"{part}_images" in store]
            images = [store[f"{part}_images"] for part in parts]
            labels = [store[f"{part}_labels"] for part in parts]
    except (OSError, ValueError, KeyError, MemoryError, zipfile.BadZipFile) as error:
        raise spec.error(f"not a readable .npz ({error})", "give a file of MedMNIST as published") from error
    if not parts:
        raise spec.error("holds no train_images, val_images or test_images", "give a file of MedMNIST as published")
    for of_part, given in zip(images, labels, strict=True):
        flat = of_part.ndim == 3 or (of_part.ndim == 4 and of_part.shape[3] == 3)
        if of_part.dtype != np.uint8 or not flat or given.size != len(of_part) or len(of_part) != len(given):
            raise spec.error(
                f"images {of_part.dtype} {of_part.shape} with labels {given.shape}, expected uint8 (N, S, S) or "
                "(N, S, S, 3) with one label each",
                "take a 2D set with one label an image",
            )
    numbers = np.concatenate([part.ravel() for part in labels]).astype(np.int64)
    known = _MEDMNIST_CLASSES.get(file.stem.split("_")[0])
    classes = known or tuple(str(number) for number in range(int(numbers.max()) + 1))
    if numbers.min() < 0 or numbers.max() >= len(classes):
        raise spec.error(f"labels go from {numbers.min()} to {numbers.max()}", f"expected 0 to {len(classes) - 1}")
    names = [f"{part}/{i:06d}" for part, of_part in zip(parts, images, strict=True) for i in range(len(of_part))]
    pictures = [picture for part in images for picture in part]
    stamps = [stamp(file.stat())] * len(names)

    def read(index: int, size: int) -> Picture:
        pixels = np.atleast_3d(pictures[index]).transpose(2, 0, 1).astype(np.float32) / np.float32(255)
        return Picture(pixels, 8, f"{file}[{names[index]}]", 0, 1, "npz", ())

    return Listing(classes, names, numbers.tolist(), names, stamps, read, "image")


def _phantom(spec: Spec) -> Listing:
    if spec.path:
        raise spec.error(f"{spec.scheme} is drawn and takes no path", f"write {spec.scheme}?n=600")
    modality = MODALITIES[spec.scheme.removeprefix("phantom-")]
    cases = [modality.case(index) for index in range(spec.number("n", 600))]

    def read(index: int, size: int) -> Picture:
        return Picture(modality.draw(index, size), 8, cases[index].name, 0, 1, spec.scheme, ("drawn",))

    return Listing(
        modality.classes,
        [case.name for case in cases],
        [case.label for case in cases],
        [case.patient for case in cases],
        ["drawn"] * len(cases),
        read,
    )


@dataclass(frozen=True)
class Scheme:
    """How one kind of spec is listed, the options it knows, and what it reads, in a line."""

    list: Callable[[Spec], Listing]
    options: tuple[str, ...]
    help: str


SCHEMES: dict[str, Scheme] = {
    "phantom-xray": Scheme(_phantom, ("n",), "drawn chest X-rays, clear or with opacities; ?n=600 images"),
    "phantom-fundus": Scheme(_phantom, ("n",), "drawn fundus photographs, healthy or with retinopathy; ?n=600 images"),
    "phantom-skin": Scheme(_phantom, ("n",), "drawn dermoscopy, nevus or melanoma; ?n=600 images"),
    "folder": Scheme(_folder, (), "PATH/CLASS/image or PATH/CLASS/PATIENT/image"),
    "csv": Scheme(
        list_csv,
        ("image", "path", "label", "patient"),
        "tables FILE[,FILE…] with columns image (relative to the table), label and, if known, patient; "
        "?image=, ?label=, ?patient= name other columns, ?path=images/{id}.jpg makes the path of them",
    ),
    "chest-xray": Scheme(
        _chest_xray, (), "Kaggle Chest X-Ray: PATH/train|val|test/NORMAL|PNEUMONIA, patient from the name"
    ),
    "nih14": Scheme(
        _nih14, ("finding",), "ChestX-ray14: PATH/Data_Entry….csv, No Finding against any or ?finding=Pneumonia"
    ),
    "aptos2019": Scheme(
        _aptos2019, ("binary",), "APTOS 2019: PATH/train.csv, train_images; 5 grades, or No DR / DR by ?binary"
    ),
    "messidor": Scheme(
        _messidor,
        ("binary",),
        "Messidor-2: PATH/messidor_data.csv (grades), messidor-2.csv (eyes of a patient); ?binary",
    ),
    "idrid": Scheme(
        _idrid, ("binary",), "IDRiD: PATH with B. Disease Grading (1. Original Images, 2. Groundtruths) in it; ?binary"
    ),
    "isic": Scheme(
        _isic, (), "ISIC dermoscopy: PATH/metadata.csv (isic_id, lesion_id, target), images; grouped by lesion"
    ),
    "medmnist": Scheme(_medmnist, (), "a MedMNIST file, FILE.npz, its three parts pooled"),
}
