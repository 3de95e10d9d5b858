"""What users say of their own data: the columns of a table (`csv:`), and which labels make a class (`?classes=`)."""

import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote

from medaegis.images import spelling
from medaegis.images.sources import Files, Listing, Spec
from medaegis.images.tables import PATIENT, Heading, rows

_COLUMN = re.compile(r"\{([^{}]*)\}")


def list_csv(spec: Spec) -> Listing:
    """Columns image (relative to the table), label and, where known, patient; or those that the options name."""
    tables = spec.files()
    template = spec.value("path")
    wanted = _columns(spec, template)
    # Of several tables the paths are made absolute first, so that they have a folder in common.
    folders = [(file if len(tables) == 1 else file.absolute()).parent for file in tables]
    found = [(folder, row) for file, folder in zip(tables, folders, strict=True) for row in rows(spec, file, wanted)]
    names, remarks = _one_spelling(spec, {row["label"] for _, row in found})
    classes = tuple(sorted(set(names.values()), key=lambda name: (int(name) if name.isdecimal() else math.inf, name)))
    if len(classes) < 2 and "classes" not in spec.options:
        told = " and ".join(file.name for file in tables)
        raise spec.error(f"{told}: {len(classes)} different labels", "give images of 2 or more classes")
    files = Files(spec, Path(os.path.commonpath(folders)), classes, remarks=remarks)
    for folder, row in found:
        place = row["image"] if template is None else _filled(template, row)
        alone = place if len(tables) == 1 else None
        files.add(folder / place, classes.index(names[row["label"]]), row.get("patient"), alone=alone)
    if any("patient" not in row for _, row in found):
        files.remarks.append(
            "no column is taken for the patient, so images of one patient may fall into different parts of a split; "
            "if there is one, name it: ?patient=HEADING"
        )
    return files.listing()


def _filled(template: str, row: Mapping[str, str]) -> str:
    """The template with the row's cells in place of the headings in braces, which are the keys of those cells."""
    return _COLUMN.sub(lambda column: row[column[0]], template)


def _columns(spec: Spec, template: str | None) -> dict[str, Heading]:
    def column(name: str) -> Heading:
        given = spec.value(name)
        return Heading((name,)) if given is None else Heading((given,), chosen=True)

    wanted = {"label": column("label"), "patient": PATIENT}
    if "patient" in spec.options:
        wanted["patient"] = replace(column("patient"), may_be_empty=True)
    if template is None:
        return {"image": column("image"), **wanted}
    if "image" in spec.options:
        raise spec.error("image and path both say where the pictures are", "give one; ?path=images/{id}.jpg, say")
    names = _COLUMN.findall(template)
    if not names:
        raise spec.error(f"path={template} names no column", "write its heading in braces, as ?path=images/{id}.jpg")
    return {**{f"{{{name}}}": Heading((name,), chosen=True) for name in names}, **wanted}


def _one_spelling(spec: Spec, labels: set[str]) -> tuple[dict[str, str], list[str]]:
    """Each label's class: numbers of one value are one class, and told; words that differ in spelling are refused."""
    names, remarks = {label: label for label in labels}, []
    for group in spelling.several(labels):
        told = " and ".join(map(repr, group))
        if spelling.is_number(group[0]):
            names |= dict.fromkeys(group, group[0])
            remarks.append(f"the labels {told} are taken for one class")
        elif "classes" not in spec.options:
            remedy = f"correct the table, or say which classes there are: ?classes={group[0]}={'|'.join(group)},OTHER=…"
            raise spec.error(f"the labels {told} differ in spelling only", remedy)
    return names, remarks


def regroup(spec: Spec, listing: Listing) -> Listing:
    """The classes that `?classes=` names, in its order, each of one label or, as DR=1|2|3|4, of several.

    A label is named by itself or, in the sets with a code for it (grades of retinopathy), by that. Raises `DataError`
    if the text is no such list, a label is named twice, or images have a label that is not named.
    """
    if "classes" not in spec.options:
        return listing
    if listing.findings is not None or listing.mask is not None:
        raise spec.error("classes are for one label an image, and here are several", "leave ?classes= out")
    classes = _classes(spec, spec.options["classes"])
    to: dict[int, int] = {}
    remarks = list(listing.remarks)
    for number, values in enumerate(classes.values()):
        for value in values:
            labels = spelling.match(value, listing.classes) or spelling.match(value, listing.codes)
            known = listing.classes if labels and labels[0] in listing.classes else listing.codes
            if len(labels) > 1:
                raise spec.error(f"{value!r} could be {' or '.join(map(repr, labels))}", "write it as in the table")
            if not labels:
                remarks.append(f"no image has the label {value!r}")
            elif to.setdefault(known.index(labels[0]), number) != number:
                raise spec.error(f"classes: the label {value!r} is in two of them", "name every label once")
    left = sorted({listing.classes[label] for label in set(listing.labels) - set(to)})
    if left:
        problem = f"classes: no class has the label {' and '.join(map(repr, left))}"
        raise spec.error(problem, "add each to the class that it belongs to, as NAME=LABEL|LABEL; every label once")
    labels_now = [to[label] for label in listing.labels]
    return replace(listing, classes=tuple(classes), labels=labels_now, codes=(), remarks=tuple(remarks))


def _classes(spec: Spec, text: str) -> dict[str, Sequence[str]]:
    """`No DR=0,DR=1|2` as classes with their labels; a class without "=" has the label of its own name."""
    classes: dict[str, Sequence[str]] = {}
    for item in text.split(","):
        name, equals, values = item.partition("=")
        name = unquote(name).strip()
        labels = [unquote(value).strip() for value in values.split("|")] if equals else [name]
        if not name or not all(labels) or spelling.match(name, classes):
            raise spec.error(f"classes={text}: an empty name or one twice", "write ?classes=No DR=0,DR=1|2|3|4, say")
        classes[name] = labels
    if len(classes) < 2:
        raise spec.error(f"classes={text} is one class", "name 2 or more, with commas between them")
    return classes
