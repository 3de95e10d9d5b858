"""Fundus photographs graded for diabetic retinopathy, as published: APTOS 2019, IDRiD, Messidor and Messidor-2."""

import re
from pathlib import Path

from medaegis.images.lookup import Lookup, without_suffix
from medaegis.images.sources import Files, Listing, Spec
from medaegis.images.tables import Heading, Row, headed, rows, whole_number

GRADES = ("No DR", "Mild", "Moderate", "Severe", "Proliferative DR")
# Messidor's grades are of a scale of its own, which counts microaneurysms, haemorrhages and new vessels.
MESSIDOR_GRADES = ("No DR", "Grade 1", "Grade 2", "Grade 3")
MESSIDOR_BASES = ("11", "12", "13", "14", "21", "22", "23", "24", "31", "32", "33", "34")
# Grades that ADCIS, who publish the set, corrected on 31 August and 24 October 2016: as they were, and as they are.
MESSIDOR_ERRATA = {
    "20051020_63045_0100_PP": (3, 0),
    "20051020_64007_0100_PP": (1, 3),
    "20051020_63936_0100_PP": (3, 1),
    "20060523_48477_0100_PP": (2, 3),
}
_ANNOTATION = re.compile(r"annotation[ _]base(\d\d)(?!\d).*\.(csv|xlsx?)", re.IGNORECASE)


def _retina(spec: Spec, root: Path, grades: tuple[str, ...] = GRADES) -> Files:
    if spec.flag("binary"):
        return Files(spec, root, ("No DR", "DR"))
    return Files(spec, root, grades, codes=tuple(str(grade) for grade in range(len(grades))))


def _grade(spec: Spec, row: Row, key: str) -> int:
    grade = whole_number(spec, row, key, len(GRADES) - 1, "grade of retinopathy")
    return min(grade, 1) if spec.flag("binary") else grade


def list_aptos2019(spec: Spec) -> Listing:
    root = spec.folder()
    table, find = spec.inside(root, "train.csv"), Lookup(spec, spec.inside(root, "train_images"))
    files = _retina(spec, root)
    for row in rows(spec, table, headed("id_code", "diagnosis")):
        files.add(find(row["id_code"]), _grade(spec, row, "diagnosis"), None, alone=row["id_code"])
    files.remarks += find.remarks()
    return files.listing()


def list_idrid(spec: Spec) -> Listing:
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
            files.add(find(row["Image name"]), _grade(spec, row, "Retinopathy grade"), None)
        files.remarks += find.remarks()
    return files.listing()


def list_messidor(spec: Spec) -> Listing:
    """Messidor: a table of a hundred images for each of its twelve parts, which are called bases; no patients."""
    root = spec.folder()
    for other in ("messidor_data.csv", "messidor-2.csv"):
        if spec.inside_or_none(root, other):
            raise spec.error(f"{root} holds {other}, a table of another set, Messidor-2", "write messidor2:PATH")
    tables = _annotations(spec, root)
    files = _retina(spec, root, MESSIDOR_GRADES)
    corrected: list[str] = []
    lookups: dict[Path, Lookup] = {}
    for base, table in tables.items():
        folder = spec.inside_or_none(root, f"Base{base}") or table.parent
        if folder not in lookups:
            lookups[folder] = Lookup(spec, folder)
        for row in rows(spec, table, headed("Image name", "Retinopathy grade")):
            name = row["Image name"]
            grade = whole_number(spec, row, "Retinopathy grade", len(MESSIDOR_GRADES) - 1, "grade of Messidor")
            was, now = MESSIDOR_ERRATA.get(without_suffix(name), (grade, grade))
            if grade == was != now:
                grade = now
                corrected.append(name)
            files.add(lookups[folder](name), min(grade, len(files.classes) - 1), None)
    if corrected:
        told = f"{len(corrected)} grades are corrected by the errata of 2016, as that of {corrected[0]}"
        files.remarks.append(f"{told}: the tables are from before")
    if len(tables) < len(MESSIDOR_BASES):
        files.remarks.append(f"{len(tables)} of Messidor's 12 parts are here: Base{', Base'.join(tables)}")
    for find in lookups.values():
        files.remarks += find.remarks()
    return files.listing()


def _annotations(spec: Spec, root: Path) -> dict[str, Path]:
    """The table of each base, in the folder itself or in a folder in it, as CSV."""
    held: dict[str, list[Path]] = {}
    for folder in (root, *(path for path in spec.listed(root) if path.is_dir() and not path.name.startswith("."))):
        for path in spec.listed(folder):
            if match := _ANNOTATION.fullmatch(path.name):
                held.setdefault(match[1], []).append(path)
    tables = {}
    for base, paths in sorted(held.items()):
        readable = [path for path in paths if path.suffix.lower() == ".csv"]
        if base not in MESSIDOR_BASES:
            raise spec.error(f"{paths[0]}: Messidor has no Base{base}", f"its bases are {', '.join(MESSIDOR_BASES)}")
        if not readable:
            remedy = "save each as CSV beside it, as by: soffice --headless --convert-to csv Annotation*Base*.xls"
            raise spec.error(f"{paths[0]} is an Excel file, which is not read here", remedy)
        if len(readable) > 1:
            raise spec.error(f"Base{base} has the tables {' and '.join(map(str, readable))}", "leave the newer one")
        tables[base] = readable[0]
    if not tables:
        problem = f"{root} and the folders in it hold no Annotation_Base11.csv to Annotation_Base34.csv"
        raise spec.error(problem, "name the folder that holds Base11 to Base34, the tables saved as CSV")
    return tables


def list_messidor2(spec: Spec) -> Listing:
    """Messidor-2, adjudicated grades, ungradable images left out; the set's own table pairs the eyes of a patient."""
    root = spec.folder()
    files, find = _retina(spec, root), Lookup(spec, root)
    examination: dict[str, str] = {}
    pairs = spec.inside_or_none(root, "messidor-2.csv")
    if pairs is not None:
        for row in rows(spec, pairs, headed("left", "right")):
            for eye in ("left", "right"):
                name = without_suffix(row[eye]).lower()
                if examination.setdefault(name, row["left"]) != row["left"]:
                    raise spec.error(f"{row.where}: {row[eye]} is paired twice", "leave the pair that is true")
    columns = headed("image_id", "adjudicated_gradable") | {
        "adjudicated_dr_grade": Heading(("adjudicated_dr_grade",), may_be_empty=True)
    }
    for row in rows(spec, spec.inside(root, "messidor_data.csv"), columns):
        if whole_number(spec, row, "adjudicated_gradable", 1, "mark of a gradable image"):
            name = row["image_id"]
            patient = examination.get(without_suffix(name).lower())
            files.add(find(name), _grade(spec, row, "adjudicated_dr_grade"), patient, alone=name)
    files.remarks += find.remarks()
    return files.listing()
