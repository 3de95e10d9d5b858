"""Labelled images in memory: a data set is named by one spec string, decoded once, and kept as uint8 tensors.

Pixels are handed out as float32 in [0, 1]; every image carries its patient, for splits that do not leak.
"""

import hashlib
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from medaegis.errors import ConfigError, DataError, ImageError
from medaegis.images.cache import DecodedDataset, cache_folder, cache_key, read_cache, write_cache
from medaegis.images.given import regroup
from medaegis.images.kinds import Kind
from medaegis.images.readers import model_input
from medaegis.images.schemes import SCHEMES
from medaegis.images.sources import Grouping, Listing, Spec
from medaegis.progress import Progress, silent
from medaegis.provenance import cores
from medaegis.sizes import Size, as_size, sides
from medaegis.task import SINGLE, PredictionTask, TaskName, task_named

Channels = Literal["gray", "rgb"]


@dataclass(frozen=True, eq=False)
class Dataset:
    """N labelled images of one size.

    >>> import medaegis as ma
    >>> data = ma.load_dataset("phantom-xray?n=12", size=32, channels="gray")
    >>> len(data), data.classes, data.images.dtype
    (12, ('clear', 'opacity'), torch.uint8)
    >>> data.subset(data.labels == 1).pixels().amax() <= 1
    tensor(True)

    Attributes:
        spec: the spec it was loaded from.
        images: uint8 (N, C, H, W), C = 1 ("gray") or 3 ("rgb").
        labels: int64 (N,), indices into `classes`; or as `task` has them: findings (N, L) of 0 and 1, or masks uint8
            (N, H, W) of class numbers.
        patients: one per image; images of a patient belong together in a split. An image of which no patient is known
            has a name of its own here.
        names: one per image, unique.
        ids: int64 (N,), the image's place in the full data set, which seeds all randomness about it.
        failures: the images that could not be read, or their masks, left out of everything above.
        kinds: what its DICOM files say that they show, each kind once; also those of a subset's other images.
        remarks: what a person should know of how the source was read, such as spellings taken for one.
        grouping: what `patients` really names: patients, lesions, patients for some images only, or each image itself.
        task: what its labels are.
    """

    spec: str
    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    patients: tuple[str, ...]
    names: tuple[str, ...]
    ids: Tensor
    failures: tuple[ImageError, ...] = ()
    kinds: tuple[Kind, ...] = ()
    grouping: Grouping = "patient"
    remarks: tuple[str, ...] = ()
    task: PredictionTask = SINGLE

    def __post_init__(self) -> None:
        n = len(self.images)
        for what in ("labels", "patients", "names", "ids"):
            if (found := len(getattr(self, what))) != n:
                raise DataError(self.spec, f"{n} images but {found} {what}", "give one for every image")
        if self.images.dtype != torch.uint8 or self.images.ndim != 4 or self.images.shape[1] not in (1, 3):
            shape = tuple(self.images.shape)
            problem = f"images are {self.images.dtype} {shape}"
            raise DataError(self.spec, problem, "give uint8 (N, C, H, W) with C = 1 or 3")

    def __len__(self) -> int:
        return len(self.images)

    @property
    def channels(self) -> Channels:
        return "gray" if self.images.shape[1] == 1 else "rgb"

    @property
    def size(self) -> Size:
        """Side of square images in pixels, or (height, width)."""
        return as_size(self.images.shape[-2:])

    @property
    def fingerprint(self) -> str:
        """SHA-256 over names, labels and patients: two data sets with the same one hold the same cases in one order."""
        if self.task.name == "single":
            labels = [self.classes[i] for i in self.labels.tolist()]
        else:
            labels = [*self.classes, hashlib.sha256(self.labels.contiguous().numpy().tobytes()).hexdigest()]
        return hashlib.sha256(json.dumps([self.names, labels, self.patients]).encode()).hexdigest()

    @property
    def pixel_fingerprint(self) -> str:
        """SHA-256 over the pixels, which the same cases may have others of: read or made anew, or by another codec."""
        return hashlib.sha256(self.images.contiguous().numpy().tobytes()).hexdigest()

    @property
    def strata(self) -> tuple[Tensor, tuple[str, ...]]:
        """Groups of images, int64 (N,), that splits and draws keep in proportion, and what they are called.

        The classes; of several findings the rarest that an image has; of masks all images alike.
        """
        if self.task.name == "single":
            return self.labels, self.classes
        if self.task.name == "dense":
            return torch.zeros(len(self), dtype=torch.int64), ("image",)
        rarest = self.labels.sum(0).argsort(stable=True)
        there = self.labels[:, rarest] > 0
        first = rarest[there.to(torch.uint8).argmax(1)]
        return torch.where(there.any(1), first, len(self.classes)), (*self.classes, "none of them")

    def subset(self, indices: Sequence[int] | Tensor) -> "Dataset":
        """The images at these places (or where this mask is true), in this order."""
        index = _places(indices)
        places = index.tolist()
        return replace(
            self,
            images=self.images[index],
            labels=self.labels[index],
            patients=tuple(self.patients[i] for i in places),
            names=tuple(self.names[i] for i in places),
            ids=self.ids[index],
            failures=(),
            remarks=(),
        )

    def pixels(
        self, indices: Sequence[int] | Tensor | None = None, *, device: torch.device | str | None = None
    ) -> Tensor:
        """float32 (n, C, H, W) in [0, 1], of all images or of those at `indices`.

        Args:
            device: where they are wanted; they go there as bytes, a quarter of what they are there. None: here.
        """
        chosen = self.images if indices is None else self.images[_places(indices)]
        return chosen.to(device).to(torch.float32).div_(255)


def _places(indices: Sequence[int] | Tensor) -> Tensor:
    index = torch.as_tensor(indices)
    return index.nonzero().flatten() if index.dtype == torch.bool else index.to(torch.int64)


def dataset_schemes() -> dict[str, str]:
    """Every scheme a spec can start with, and what it reads, in a line."""
    return {name: scheme.help for name, scheme in SCHEMES.items()}


def load_dataset(
    spec: str,
    *,
    size: Size,
    channels: Channels,
    limit: int | None = None,
    seed: int = 0,
    cache_dir: Path | str | None = None,
    progress: Progress | None = None,
) -> Dataset:
    """Load the data set that `spec` names, `scheme:PATH?option=value&flag` (see `dataset_schemes`).

    With `?classes=No DR=0,DR=1|2|3|4` the classes are those, in that order, of any set.

    >>> import medaegis as ma
    >>> ma.load_dataset("phantom-xray?n=12", size=32, channels="gray").images.shape
    torch.Size([12, 1, 32, 32])

    Args:
        size: side of square images in pixels, or (height, width).
        channels: "gray" or "rgb".
        limit: take only so many images, drawn with `seed`, the classes in proportion.
        cache_dir: where decoded images are kept (default: `$MEDAEGIS_CACHE`, else the user's cache folder).
        progress: told of each decoded image.

    Images that cannot be read, or whose mask cannot, are listed in `failures` and left out.

    Raises:
        DataError: the spec, its folder or its table does not fit, or not one image could be read.
        ConfigError: a size, a limit or channels out of range.
    """
    size = as_size(size, least=8)
    if channels not in ("gray", "rgb"):
        raise ConfigError(f"channels {channels!r}", "not known", "take gray or rgb")
    if limit is not None and limit < 1:
        raise ConfigError(f"limit {limit}", "leaves no image", "take 1 or more, or no limit")
    parsed = Spec.parse(spec)
    listing = _list(parsed)
    chosen = np.arange(len(listing.names)) if limit is None else _draw(np.asarray(listing.labels), limit, seed)

    names = [listing.names[i] for i in chosen.tolist()]
    root = f"{parsed.scheme}:{Path(parsed.path).expanduser().resolve()}" if parsed.path else parsed.text
    key = cache_key(names, [listing.stamps[i] for i in chosen.tolist()], root=root, size=size, channels=channels)
    file = cache_folder(cache_dir) / f"{parsed.scheme}-{key}.safetensors"
    decoded = read_cache(file, masks=listing.mask is not None)
    if decoded is None:
        decoded = _decode(listing, chosen, size, channels, progress or silent)
        if len(decoded.kept) == 0:
            first = decoded.failures[0]
            remedy = "check the files" + (", and their paths: ?path=images/{id}.jpg" if parsed.scheme == "csv" else "")
            raise DataError(spec, f"none of {len(chosen)} images could be read, the first: {first}", remedy)
        write_cache(file, decoded)

    task: TaskName = "dense" if listing.mask is not None else "single" if listing.findings is None else "multi"
    ids = torch.from_numpy(chosen)[decoded.kept]
    places = ids.tolist()
    return Dataset(
        spec=spec,
        images=decoded.images,
        labels=_labels(listing, places) if decoded.masks is None else decoded.masks,
        classes=listing.classes,
        patients=tuple(listing.patients[i] for i in places),
        names=tuple(listing.names[i] for i in places),
        ids=ids,
        failures=decoded.failures,
        kinds=decoded.kinds,
        grouping=listing.grouping,
        remarks=listing.remarks,
        task=task_named(task, len(listing.classes)),
    )


def _labels(listing: Listing, places: Sequence[int]) -> Tensor:
    """Of the images at these places of the listing: their class, or each finding there or not."""
    told = listing.labels if listing.findings is None else listing.findings
    return torch.tensor([told[i] for i in places], dtype=torch.int64)


def _list(spec: Spec) -> Listing:
    scheme = SCHEMES.get(spec.scheme)
    if scheme is None:
        remedy = f"start the spec with one of: {', '.join(SCHEMES)}"
        if near := get_close_matches(spec.scheme.lower(), SCHEMES, n=1):
            remedy = f"did you mean {near[0]}:? {remedy}"
        elif Path(spec.text).exists():
            remedy = f"for a folder of images in a folder per class, write folder:{spec.text}; else {remedy}"
        raise spec.error(f"there is no scheme {spec.scheme!r}", remedy)
    spec.allow((*scheme.options, "classes"))
    return regroup(spec, scheme.list(spec))


def _draw(labels: np.ndarray, limit: int, seed: int) -> np.ndarray:
    """Places of `limit` images, sorted; each class is ranked at random and the ranks, as shares, are merged."""
    random = np.random.default_rng([seed, 0x11317])
    share = np.empty(len(labels))
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        share[random.permutation(members)] = (np.arange(len(members)) + 0.5) / len(members)
    return np.sort(np.argsort(share, kind="stable")[:limit])


def _decode(listing: Listing, chosen: np.ndarray, size: Size, channels: Channels, progress: Progress) -> DecodedDataset:
    """Read all chosen pictures in parallel, in order, and their masks where they have some."""
    images = np.empty((len(chosen), 1 if channels == "gray" else 3, *sides(size)), dtype=np.uint8)
    masks = None if listing.mask is None else np.empty((len(chosen), *sides(size)), dtype=np.uint8)

    def read(place: int) -> ImageError | Kind | None:
        try:
            picture = listing.read(int(chosen[place]), max(sides(size)))
            images[place] = model_input(picture, size=size, channels=channels)
            if listing.mask is not None and masks is not None:
                masks[place] = listing.mask(int(chosen[place]), size)
        except ImageError as error:
            return error
        return picture.kind

    # Codecs and NumPy let go of the interpreter lock, so threads are enough and start at once.
    failures: list[ImageError] = []
    kept: list[int] = []
    kinds: set[Kind] = set()
    with ThreadPoolExecutor(max_workers=cores()) as pool:
        for place, found in enumerate(pool.map(read, range(len(chosen)))):
            if isinstance(found, ImageError):
                failures.append(found)
            else:
                kept.append(place)
                kinds |= set() if found is None else {found}
            progress(place + 1, len(chosen), "decoding images")
    rows = slice(None) if len(kept) == len(chosen) else kept
    return DecodedDataset(
        torch.from_numpy(images[rows]),
        torch.tensor(kept, dtype=torch.int64),
        tuple(failures),
        tuple(sorted(kinds, key=astuple)),
        None if masks is None else torch.from_numpy(masks[rows]),
    )
