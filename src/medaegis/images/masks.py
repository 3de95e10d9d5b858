"""Which mask belongs to which picture, and a mask's grey levels as classes.

A mask has the size of its picture and a grey level for each class: 0 and white, or the numbers of the classes. What it
holds besides is refused, not rounded: a mask that was saved as JPEG, or resized with smoothing, is none.
"""

import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image

from medaegis.errors import ConfigError, DataError, ImageError
from medaegis.images import spelling
from medaegis.images.lookup import without_suffix
from medaegis.images.readers import Picture, model_input, read_image
from medaegis.images.search import find_images
from medaegis.images.sources import Spec
from medaegis.images.tables import PATIENT, headed, rows
from medaegis.sizes import Size, as_size, sides
from medaegis.task import IGNORE

SHOWN_LEVELS = 6
SIDEWAYS = 5  # from where on the orientation of EXIF swaps the sides
LAID_OVER_BLACK = 255 * 255  # white of a picture whose grey levels were multiplied with their opacity

ClassMap = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Pair:
    """A picture, its mask, and whose they are (None: not known)."""

    image: Path
    mask: Path
    patient: str | None = None


@dataclass(frozen=True)
class Pairing:
    """Pictures with their masks.

    Attributes:
        pairs: in the order of the pictures' paths, or of their table.
        without_mask: pictures that have none, left out of `pairs`.
        without_image: masks that belong to no picture.
        scaled: whether masks may have another size than their pictures, of the same proportions.
        ignore: the grey level of pixels that count neither way; None: there is none.
    """

    pairs: tuple[Pair, ...]
    without_mask: tuple[Path, ...] = ()
    without_image: tuple[Path, ...] = ()
    scaled: bool = False
    ignore: int | None = None

    @property
    def remarks(self) -> tuple[str, ...]:
        """A sentence each on pictures and on masks that are left over."""
        told = []
        if self.without_mask:
            told.append(f"{len(self.without_mask)} images have no mask, as {self.without_mask[0]}: left out")
        if self.without_image:
            told.append(f"{len(self.without_image)} masks belong to no image, as {self.without_image[0]}: not used")
        return tuple(told)


def pair_masks(
    images: Path | str,
    masks: Path | str,
    *,
    mark: str = "",
    leave_out: str = "",
    patient: Callable[[Path], str | None] = lambda image: None,
    scaled: bool = False,
    ignore: int | None = None,
) -> Pairing:
    """Pair the pictures below one folder with the masks below another, by their paths in it.

    `a/1.jpg` has the mask `a/1.png`, or with the mark `_mask` the mask `a/1_mask.png`; case and suffix do not count.

    >>> import tempfile
    >>> from PIL import Image
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name in ("images/7.png", "images/8.png", "masks/7_mask.png"):
    ...         (Path(folder) / name).parent.mkdir(exist_ok=True)
    ...         Image.new("L", (16, 16)).save(Path(folder) / name)
    ...     found = pair_masks(f"{folder}/images", f"{folder}/masks", mark="_mask")
    >>> [(pair.image.name, pair.mask.name) for pair in found.pairs], [path.name for path in found.without_mask]
    ([('7.png', '7_mask.png')], ['8.png'])

    Args:
        images, masks: folders; one folder for both if there is a mark.
        mark: what the masks' names have at their end, before the suffix, and the pictures' have not.
        leave_out: files beside the pictures whose names have this at their end are none.
        patient: of a picture, whose it is.
        scaled, ignore: of all these masks, see `Pairing`.

    Raises:
        DataError: no such folder, two pictures or two masks of one name, or not one pair.
        ImageError: a place below the folders that cannot be looked at.
    """
    end, others = spelling.folded(mark), tuple(spelling.folded(text) for text in (mark, leave_out) if text)
    pictures = _by_name(Path(images), lambda name: None if name.endswith(others) else name)
    partners = _by_name(Path(masks), lambda name: name.removesuffix(end) if name.endswith(end) else None)
    pairs = tuple(Pair(path, partners[name], patient(path)) for name, path in pictures.items() if name in partners)
    if not pairs or pairs[0].image == pairs[0].mask:
        told = f"{len(partners)} masks for the {len(pictures)} images in {images}, none of which has its image's name"
        remedy = "name each mask as its image, or say what masks have at the end of the name (mark)"
        raise DataError(masks, told, remedy)
    return Pairing(
        pairs,
        tuple(path for name, path in pictures.items() if name not in partners),
        tuple(path for name, path in partners.items() if name not in pictures),
        scaled,
        ignore,
    )


def _by_name(folder: Path, key: Callable[[str], str | None]) -> dict[str, Path]:
    """The pictures below a folder by what `key` makes of their paths in it; None leaves one out."""
    if not folder.is_dir():
        raise DataError(folder, "is no folder", "give the folder of the images, and that of their masks")
    found: dict[str, Path] = {}
    for path in find_images([folder]):
        name = key(spelling.folded(without_suffix(path.relative_to(folder).as_posix())))
        if name is not None and found.setdefault(name, path) != path:
            raise DataError(folder, f"{found[name]} and {path} have one name", "leave one of them, or rename one")
    return found


def joined(pairings: Iterable[Pairing]) -> Pairing:
    """Several of one set as one; `scaled` and `ignore` are those of the first."""
    parts = list(pairings)
    return Pairing(
        tuple(pair for part in parts for pair in part.pairs),
        tuple(path for part in parts for path in part.without_mask),
        tuple(path for part in parts for path in part.without_image),
        parts[0].scaled,
        parts[0].ignore,
    )


def list_masks(spec: Spec) -> Pairing:
    """The pairs of `masks:IMAGES,MASKS`, two folders, or of `masks:TABLE` with columns image, mask, maybe patient.

    Paths in a table are relative to it. Options: `mark=_mask`, what masks in a folder have at the end of their names;
    `patient=REGEX`, which finds the patient in an image's name (its first group that took part, else all that it
    matched); `ignore=127`, the grey level of pixels that count neither way.

    Raises:
        DataError: neither folders nor a table, a wrong option, or a name without a patient.
    """
    level = spec.value("ignore")
    if level is not None and not (level.isascii() and level.isdigit()):
        raise spec.error(f"ignore={level} is no grey level", "write ?ignore=127, say")
    ignore = None if level is None else int(level)
    if Path(spec.path).expanduser().is_file():
        return Pairing(_table(spec), ignore=ignore)
    folders = [Path(part.strip()).expanduser() for part in spec.path.split(",")]
    if len(folders) != 2:
        raise spec.error("names neither two folders nor a table", "write masks:IMAGES,MASKS or masks:TABLE")
    return pair_masks(*folders, mark=spec.value("mark") or "", patient=_patient(spec), ignore=ignore)


def _table(spec: Spec) -> tuple[Pair, ...]:
    table, pairs = spec.file(), dict[Path, Pair]()
    for row in rows(spec, table, {**headed("image", "mask"), "patient": PATIENT}):
        image, mask = (table.parent / row[key] for key in ("image", "mask"))
        for path in (image, mask):
            if not path.is_file():
                raise spec.error(f"{row.where}: there is no file {path}", "correct the table; paths are relative to it")
        if image in pairs:
            raise spec.error(f"{row.where}: {row['image']} is listed again", "list every image once")
        pairs[image] = Pair(image, mask, row.get("patient") or None)
    if not pairs:
        raise spec.error(f"{table} lists no image", "give it a row for each image and its mask")
    return tuple(pairs.values())


def _patient(spec: Spec) -> Callable[[Path], str | None]:
    pattern = spec.value("patient")
    if pattern is None:
        return lambda image: None
    try:
        looks = re.compile(pattern)
    except re.error as error:
        problem = f"patient={pattern} is no regular expression ({error})"
        raise spec.error(problem, "write ?patient=^p\\d+, say") from None

    def patient(image: Path) -> str:
        match = looks.search(image.name)
        name = match and (next(filter(None, match.groups()), None) or match[0])
        if not name:
            raise spec.error(f"no patient in the name {image.name}", f"correct the option patient={pattern}")
        return name

    return patient


def read_mask(
    path: str | os.PathLike[str],
    size: Size,
    *,
    classes: int = 2,
    ignore: int | None = None,
    of: tuple[int, int] | None = None,
    scaled: bool = False,
) -> ClassMap:
    """A mask as the class of each pixel, resized by nearest neighbour: uint8 `(H, W)`, below `classes` or `IGNORE`.

    >>> import tempfile
    >>> from PIL import Image
    >>> with tempfile.NamedTemporaryFile(suffix=".png") as file:
    ...     Image.new("L", (30, 40), 255).save(file.name)
    ...     mask = read_mask(file.name, 16)
    >>> mask.shape, mask.min(), mask.max()
    ((16, 16), np.uint8(1), np.uint8(1))

    Args:
        path: a picture in grey levels, or of three equal channels.
        size: as `model_input` takes it, which stretches the picture alike.
        classes: how many there are, the background among them: of two, 0 and white or 0 and 1; of more, their numbers.
        ignore: a grey level that stands for no class.
        of: height and width of the picture that it belongs to.
        scaled: it may have another size than `of`, of the same proportions.

    Raises:
        ImageError: unreadable, in colour, of other levels (they are told) or of another size than its picture.
        ConfigError: fewer than 2 classes or more than 255.
    """
    if not 2 <= classes <= IGNORE:
        raise ConfigError(f"classes {classes}", "out of range", f"a mask has 2 to {IGNORE} classes")
    picture = read_image(path)
    plane = _grey(picture)
    height, width = plane.shape
    if of is not None and (height, width) != of and not (scaled and _in_proportion((height, width), of)):
        problem = f"is {width} x {height} px, its image {of[1]} x {of[0]}"
        raise ImageError(picture.source, problem, "export it in the size of the image, without smoothing")
    levels = _classes(plane, picture, classes, ignore)
    down, across = sides(as_size(size))
    resized: ClassMap = levels[plane[_centres(height, down)][:, _centres(width, across)]]
    return resized


def upright_size(path: Path) -> tuple[int, int] | None:
    """Height and width of a picture as it is shown, from its header alone; None where Pillow does not know it."""
    try:
        with Image.open(path) as picture:
            width, height = picture.size
            turned = picture.getexif().get(ExifTags.Base.Orientation, 1) >= SIDEWAYS
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None  # what is wrong with it is told where it is read
    return (width, height) if turned else (height, width)


def _grey(picture: Picture) -> npt.NDArray[np.unsignedinteger]:
    """The grey levels `(rows, columns)` as they are in the file."""
    values = picture.values
    if picture.format == "DICOM" or values.dtype.kind != "u" or picture.white == LAID_OVER_BLACK:
        remedy = "save the numbers of the classes as an opaque 8-bit PNG"
        raise ImageError(picture.source, "does not show the grey levels that it was given", remedy)
    if not (values == values[:1]).all():
        remedy = "save the numbers of the classes as grey levels"
        raise ImageError(picture.source, "is in colour, so that its classes are not known", remedy)
    plane: npt.NDArray[np.unsignedinteger] = values[0]
    return plane


def _in_proportion(shape: tuple[int, int], of: tuple[int, int]) -> bool:
    """Whether one is the other in another size, but for rounding to whole pixels."""
    return abs(shape[0] * of[1] - shape[1] * of[0]) <= max(*shape, *of)


def _centres(given: int, wanted: int) -> npt.NDArray[np.int64]:
    """Of `given` pixels, that in which the centre of each of `wanted` pixels over the same length lies."""
    return (2 * np.arange(wanted) + 1) * given // (2 * wanted)


def _classes(plane: npt.NDArray[np.unsignedinteger], picture: Picture, classes: int, ignore: int | None) -> ClassMap:
    """The class of each grey level, from 0 to the mask's highest."""
    levels: list[int] = np.flatnonzero(np.bincount(plane.ravel())).tolist()
    named = [level for level in levels if level != ignore]
    table = np.full(levels[-1] + 1, IGNORE, np.uint8)
    if classes == 2 and set(named) <= {0, picture.white}:
        table[named] = [level > 0 for level in named]
    elif max(named, default=0) < classes:
        table[named] = named
    else:
        more = f" and {len(levels) - SHOWN_LEVELS} more" if len(levels) > SHOWN_LEVELS else ""
        expected = f"0 and {picture.white}, or 0 and 1" if classes == 2 else f"0 to {classes - 1}"
        raise ImageError(
            picture.source,
            f"holds the grey levels {', '.join(map(str, levels[:SHOWN_LEVELS]))}{more}, expected {expected}",
            "say which level counts neither way (ignore), or how many classes there are; make a mask anew that was "
            "saved as JPEG or resized with smoothing",
        )
    return table


def read_pair(
    pair: Pair,
    *,
    size: Size,
    channels: Literal["gray", "rgb"],
    classes: int = 2,
    ignore: int | None = None,
    scaled: bool = False,
) -> tuple[npt.NDArray[np.uint8], ClassMap]:
    """A picture as `model_input` gives it, uint8 `(C, H, W)`, and its mask as `read_mask` gives it, uint8 `(H, W)`.

    Raises:
        ImageError: one of them cannot be read, or they are not of one size.
        ConfigError: unknown channels, a size or a number of classes out of range.
    """
    picture = read_image(pair.image)
    _, height, width = picture.values.shape
    mask = read_mask(pair.mask, size, classes=classes, ignore=ignore, of=(height, width), scaled=scaled)
    return model_input(picture, size=size, channels=channels), mask
