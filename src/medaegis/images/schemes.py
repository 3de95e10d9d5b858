"""The data sets that a spec can name; `SCHEMES` is the registry.

Published sets are listed in a file for each kind of picture (`chest`, `fundus`, `skin`), here those of any kind. Where
a set names no patients, an image stands for itself (splits still keep identical pictures together).
"""

import os
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medaegis.images import spelling
from medaegis.images.chest import covid19_masks, list_chest_xray, list_covid19, list_nih14
from medaegis.images.fundus import list_aptos2019, list_idrid, list_messidor, list_messidor2
from medaegis.images.given import list_csv
from medaegis.images.lookup import refuse_copies, without_suffix
from medaegis.images.masks import Pairing, list_masks, read_mask, upright_size
from medaegis.images.phantoms import FINDINGS, MODALITIES, Chest
from medaegis.images.readers import Picture
from medaegis.images.search import SUFFIXES, find_images
from medaegis.images.skin import HAM10000, isic2017_masks, list_ham10000, list_isic, list_isic2017, list_pad_ufes_20
from medaegis.images.sources import Files, Listing, Spec, file_state
from medaegis.sizes import Size, sides

# Files of MedMNIST hold class numbers only; names of the sets that fit a guard best, from medmnist.com.
_MEDMNIST_CLASSES = {
    "breastmnist": ("malignant", "normal or benign"),
    "pneumoniamnist": ("normal", "pneumonia"),
    "dermamnist": tuple(HAM10000[code] for code in sorted(HAM10000)),  # made of it, numbered by its codes
}

_PARTS = {"train", "training", "val", "valid", "validation", "test", "testing"}


def _folder(spec: Spec) -> Listing:
    """A folder per class; a folder inside it, where there is one, is a patient."""
    root = spec.folder()
    inside = sorted(path.name for path in root.iterdir() if path.is_dir())
    classes = tuple(name for name in inside if not name.startswith((".", "__MACOSX")))
    if len(classes) < 2:
        problem = f"{root} holds {len(classes)} folders, expected one for each of 2 or more classes"
        raise spec.error(problem, "sort them so")
    if set(map(str.lower, classes)) <= _PARTS:
        problem = f"{root} holds {' and '.join(classes)}, which are parts of a set and no classes"
        raise spec.error(problem, "name one of them, or list all images in tables and use csv:FILE,FILE")
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


# What NumPy and zipfile raise for files that are damaged, encrypted, of objects or larger than the memory.
_NO_ARCHIVE = (OSError, ValueError, KeyError, EOFError, MemoryError, RuntimeError, zipfile.BadZipFile, zlib.error)


_MEDMNIST_BYTES = 1 << 34  # the largest published file, PathMNIST at 224 px, unpacks to 15 GiB


def _refuse_bomb(file: Path) -> None:
    """Raises ValueError for an archive that unpacks to more than any published one, by the sizes that it declares."""
    with zipfile.ZipFile(file) as archive:
        size = sum(member.file_size for member in archive.infolist())
    if size > _MEDMNIST_BYTES:
        raise ValueError(f"its arrays take {size / 2**30:.0f} GiB")


def _medmnist(spec: Spec) -> Listing:
    file = spec.file()
    try:
        if not zipfile.is_zipfile(file):
            raise ValueError("no zip archive")
        _refuse_bomb(file)
        with np.load(file, allow_pickle=False) as store:
            parts = [part for part in ("train", "val", "test") if f"{part}_images" in store]
            images = [store[f"{part}_images"] for part in parts]
            labels = [store[f"{part}_labels"] for part in parts]
    except _NO_ARCHIVE as error:
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
    if not len(numbers):
        raise spec.error("holds no image", "give a file of MedMNIST as published")
    known = _MEDMNIST_CLASSES.get(file.stem.split("_")[0])
    classes = known or tuple(str(number) for number in range(int(numbers.max()) + 1))
    if numbers.min() < 0 or numbers.max() >= len(classes):
        raise spec.error(f"labels go from {numbers.min()} to {numbers.max()}", f"expected 0 to {len(classes) - 1}")
    names = [f"{part}/{i:06d}" for part, of_part in zip(parts, images, strict=True) for i in range(len(of_part))]
    pictures = [picture for part in images for picture in part]
    stamps = [file_state(file)[1]] * len(names)

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


def _chests(spec: Spec) -> Listing:
    """Drawn chest X-rays with several findings each, or with their lungs as masks."""
    if spec.path:
        raise spec.error(f"{spec.scheme} is drawn and takes no path", f"write {spec.scheme}?n=600")
    films = [Chest(index) for index in range(spec.number("n", 600))]
    masks = spec.scheme == "phantom-lungs"

    def read(index: int, size: int) -> Picture:
        return Picture(films[index].draw(size)[0], 8, films[index].name, 0, 1, spec.scheme, ("drawn",))

    def mask(index: int, size: Size) -> NDArray[np.uint8]:
        drawn = films[index].draw(max(sides(size)))[1]
        return drawn if drawn.shape == sides(size) else drawn[: sides(size)[0], : sides(size)[1]]

    return Listing(
        ("background", "lungs") if masks else FINDINGS,
        [film.name for film in films],
        [0 if masks else sum(film.findings) for film in films],
        [film.patient for film in films],
        ["drawn"] * len(films),
        read,
        findings=None if masks else [film.findings for film in films],
        mask=mask if masks else None,
    )


def _masked(spec: Spec) -> Listing:
    """The pictures of a set with masks, and these as labels: a class for what is marked, and the background."""
    found = find_pairs(spec.text)
    pairs = found.pairs
    files = Files(spec, Path(os.path.commonpath([pair.image.parent for pair in pairs])), ("background", "marked"))
    files.remarks += found.remarks
    for pair in pairs:
        files.add(pair.image, 0, pair.patient)
    listing = files.listing()
    # The level that stands for no class decides what is read of the same file.
    more = [f"/{file_state(pair.mask)[1]}/{found.ignore}" for pair in pairs]
    stamps = [stamp + of_mask for stamp, of_mask in zip(listing.stamps, more, strict=True)]

    def mask(index: int, size: Size) -> NDArray[np.uint8]:
        of = upright_size(pairs[index].image)
        return read_mask(pairs[index].mask, size, ignore=found.ignore, of=of, scaled=found.scaled)

    return replace(listing, stamps=stamps, mask=mask)


def _with_masks(listed: Callable[[Spec], Listing]) -> Callable[[Spec], Listing]:
    """A set that has masks: with the option `masks` these are its labels."""
    return lambda spec: _masked(spec) if spec.flag("masks") else listed(spec)


@dataclass(frozen=True)
class Scheme:
    """How one kind of spec is listed, the options it knows, what it reads, in a line, and how its masks are paired."""

    list: Callable[[Spec], Listing]
    options: tuple[str, ...]
    help: str
    pair: Callable[[Spec], Pairing] | None = None


SCHEMES: dict[str, Scheme] = {
    "phantom-xray": Scheme(_phantom, ("n",), "drawn chest X-rays, clear or with opacities; ?n=600 images"),
    "phantom-fundus": Scheme(_phantom, ("n",), "drawn fundus photographs, healthy or with retinopathy; ?n=600 images"),
    "phantom-skin": Scheme(_phantom, ("n",), "drawn dermoscopy, nevus or melanoma; ?n=600 images"),
    "phantom-findings": Scheme(
        _chests, ("n",), "drawn chest X-rays with several findings each (multi-label); ?n=600 images"
    ),
    "phantom-lungs": Scheme(_chests, ("n",), "drawn chest X-rays with masks of their lungs; ?n=600 images"),
    "folder": Scheme(_folder, (), "PATH/CLASS/image or PATH/CLASS/PATIENT/image"),
    "csv": Scheme(
        list_csv,
        ("image", "path", "label", "patient"),
        "tables FILE[,FILE…] with columns image (relative to the table), label and, if known, patient; "
        "?image=, ?label=, ?patient= name other columns, ?path=images/{id}.jpg makes the path of them",
    ),
    "chest-xray": Scheme(
        list_chest_xray, (), "Kaggle Chest X-Ray: PATH/train|val|test/NORMAL|PNEUMONIA, patient from the name"
    ),
    "nih14": Scheme(
        list_nih14,
        ("finding", "others", "part", "findings"),
        "ChestX-ray14: PATH/Data_Entry….csv, No Finding against any or ?finding=Pneumonia (&others: against all other "
        "images), or all 14 at a time (?findings); ?part=train_val or test of the official lists",
    ),
    "covid19-radiography": Scheme(
        _with_masks(list_covid19),
        ("masks",),
        "COVID-19 Radiography Database: PATH/Normal, Lung_Opacity, COVID and Viral Pneumonia, each with images in it; "
        "?masks: their lungs",
        covid19_masks,
    ),
    "aptos2019": Scheme(
        list_aptos2019, ("binary",), "APTOS 2019: PATH/train.csv, train_images; 5 grades, or No DR / DR by ?binary"
    ),
    "messidor": Scheme(
        list_messidor,
        ("binary",),
        "Messidor: PATH/Base11 to Base34 and Annotation_Base11.csv to Base34.csv (saved from .xls); 4 grades; ?binary",
    ),
    "messidor2": Scheme(
        list_messidor2,
        ("binary",),
        "Messidor-2: PATH/messidor_data.csv (grades), messidor-2.csv (eyes of a patient); ?binary",
    ),
    "idrid": Scheme(
        list_idrid,
        ("binary",),
        "IDRiD: PATH with B. Disease Grading (1. Original Images, 2. Groundtruths) in it; ?binary",
    ),
    "isic": Scheme(
        list_isic, (), "ISIC dermoscopy: PATH/metadata.csv (isic_id, lesion_id, target), images; grouped by lesion"
    ),
    "isic2017": Scheme(
        _with_masks(list_isic2017),
        ("part", "masks"),
        "ISIC 2017: PATH/ISIC-2017_Training_Data, ISIC-2017_Training_Part3_GroundTruth.csv and the like; nevus, "
        "seborrheic keratosis, melanoma; ?part=training, validation or test; ?masks: the lesions",
        isic2017_masks,
    ),
    "ham10000": Scheme(
        list_ham10000,
        (),
        "HAM10000: PATH/HAM10000_metadata (lesion_id, image_id, dx), HAM10000_images_part_1 and _2; grouped by lesion",
    ),
    "pad-ufes-20": Scheme(
        list_pad_ufes_20,
        (),
        "PAD-UFES-20: PATH/metadata.csv (patient_id, diagnostic, img_id), imgs_part_1 to _3; grouped by patient",
    ),
    "masks": Scheme(
        _masked,
        ("mark", "patient", "ignore"),
        "pictures and their masks, IMAGES,MASKS (two folders) or TABLE (columns image, mask, patient); ?mark=_mask",
        list_masks,
    ),
    "medmnist": Scheme(_medmnist, (), "a MedMNIST file, FILE.npz, its three parts pooled"),
}


def find_pairs(text: str) -> Pairing:
    """The pictures and masks that a spec names: `masks:IMAGES,MASKS`, `masks:TABLE`, or a set with masks of its own.

    Raises `DataError` if the spec, its folders or its table do not fit.
    """
    spec = Spec.parse(text)
    scheme = SCHEMES.get(spec.scheme)
    if scheme is None or scheme.pair is None:
        known = ", ".join(name for name, entry in SCHEMES.items() if entry.pair)
        raise spec.error(f"{spec.scheme!r} is no set with masks", f"start the spec with one of: {known}")
    spec.allow(scheme.options)
    return scheme.pair(spec)
