"""Four parts of a data set, split by patient and kept on disk with the run (HFC's Train / AdvTrain / AdvTest, and val).

The classifier learns on train, the Shield on train and adv_train, thresholds are set on val, which nothing is trained
on, and every reported figure comes from adv_test.
"""

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch

from medaegis.errors import ConfigError, DataError
from medaegis.images.datasets import Dataset
from medaegis.images.hashes import equal_pairs
from medaegis.images.sources import Grouping

PARTS = ("train", "val", "adv_train", "adv_test")
By = Literal["patient", "image"]
Fractions = tuple[float, float, float, float]
FRACTIONS = (0.65, 0.12, 0.08, 0.15)
SITE_FRACTIONS = (0.2, 0.4, 0.0, 0.4)  # of a site where nothing is trained
_FORMAT = "medaegis-split"


@dataclass(frozen=True)
class Split:
    """Places of a data set's images in each of the four parts, sorted; every image is in exactly one.

    `fingerprint` is the data set's; `by` says what was kept together; `fractions` are those that were asked for.
    """

    train: tuple[int, ...]
    val: tuple[int, ...]
    adv_train: tuple[int, ...]
    adv_test: tuple[int, ...]
    seed: int
    by: By
    fingerprint: str
    fractions: Fractions = FRACTIONS

    @property
    def leaks(self) -> bool:
        """Whether images of one patient may sit in two parts, which makes every figure too good."""
        return self.by == "image"

    @property
    def parts(self) -> dict[str, tuple[int, ...]]:
        """The four parts by name."""
        return {part: getattr(self, part) for part in PARTS}

    @property
    def parts_fingerprint(self) -> str:
        """SHA-256 of who is in which part, by which a split that was made again can be compared."""
        return hashlib.sha256(json.dumps(self.parts, sort_keys=True).encode()).hexdigest()

    def document(self) -> dict[str, Any]:
        """What `load` reads, as JSON has it."""
        return {
            "format": _FORMAT,
            "version": 1,
            "by": self.by,
            "leaks_patients": self.leaks,
            "seed": self.seed,
            "fingerprint": self.fingerprint,
            "fractions": self.fractions,
            **self.parts,
        }

    def save(self, path: Path | str) -> None:
        """Write as JSON, atomically."""
        file = Path(path)
        part = file.with_name(f"{file.name}.{os.getpid()}.part")
        part.write_text(json.dumps(self.document()), encoding="utf-8")
        part.replace(file)

    @classmethod
    def load(cls, path: Path | str, dataset: Dataset) -> "Split":
        """Read a split of `dataset`.

        Raises `DataError` if the file is no split, was made for other images, or breaks the rules it claims to keep.
        """
        try:
            told = json.loads(Path(path).read_text(encoding="utf-8"))
            if told["format"] != _FORMAT or told["version"] != 1 or told["by"] not in get_args(By):
                raise ValueError("another format or version")
            places = {part: tuple(int(i) for i in told[part]) for part in PARTS}
            split = cls(
                **places,
                seed=int(told["seed"]),
                by=told["by"],
                fingerprint=told["fingerprint"],
                fractions=as_fractions(told.get("fractions", FRACTIONS)),
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(path, f"not a split of this package ({error})", "make the split anew") from error
        if split.fingerprint != dataset.fingerprint:
            remedy = "give the data set, the limit and the seed it was made with, or make a new split in another folder"
            raise DataError(path, f"was made for other images than {dataset.spec} ({len(dataset)} images)", remedy)
        split._check(path, dataset)
        return split

    def _check(self, path: Path | str, dataset: Dataset) -> None:
        owner: dict[str, str] = {}
        for part, places in self.parts.items():
            for place in places:
                if not 0 <= place < len(dataset):
                    raise DataError(path, f"{part} names image {place} of {len(dataset)}", "make the split anew")
                patient = dataset.patients[place] if self.by == "patient" else dataset.names[place]
                if owner.setdefault(patient, part) != part:
                    which = "whose patient" if self.by == "patient" else "which"
                    problem = f"{part} names image {place}, {which} is in {owner[patient]} too"
                    raise DataError(path, problem, "make the split anew")
        if sorted(place for places in self.parts.values() for place in places) != list(range(len(dataset))):
            raise DataError(path, "does not use every image exactly once", "make the split anew")


def split_dataset(
    dataset: Dataset, *, by: By = "patient", seed: int = 0, fractions: Fractions = FRACTIONS, complete: bool = True
) -> Split:
    """Split into train, val, adv_train, adv_test, stratified by class as well as the patients allow.

    Patients that share an identical picture are taken as one: some archives hold the same film under two numbers.
    `by="image"` ignores patients and leaks; it is there to show by how much. A fraction of 0 leaves its part empty.
    Unless the split must be `complete`, a part may lack a class; where images have several findings, it always may.

    Raises:
        ConfigError: fractions that do not add up to 1, or an unknown `by`.
        DataError: too few patients to give every part every class.
    """
    if len(fractions) != len(PARTS) or min(fractions) < 0 or abs(sum(fractions) - 1) > 1e-6 or fractions[0] == 0:
        problem = "not four shares that add up to 1, the first above 0"
        raise ConfigError(f"fractions {fractions}", problem, "correct them")
    if by not in get_args(By):
        raise ConfigError(f"by {by!r}", "not known", "split by patient, or by image for comparison")
    groups = _patients(dataset) if by == "patient" else [[place] for place in range(len(dataset))]
    strata, classes = dataset.strata
    labels = strata.numpy()
    counts = np.stack([np.bincount(labels[group], minlength=len(classes)) for group in groups])
    part_of = _assign(counts, np.asarray(fractions), np.random.default_rng([seed, 0x5B117]))
    parts: dict[str, tuple[int, ...]] = {}
    for number, part in enumerate(PARTS):
        parts[part] = tuple(sorted(i for g, group in enumerate(groups) if part_of[g] == number for i in group))
        missing = set(np.flatnonzero(counts.sum(0))) - set(labels[list(parts[part])])
        if complete and dataset.task.name == "single" and fractions[number] and missing:
            name = classes[min(missing)]
            group = dataset.grouping if by == "patient" else "image"
            unit = {"image": "images", "lesion": "lesions"}.get(group, "patients")
            held = int((counts[:, min(missing)] > 0).sum())
            problem = f"{part} would hold no image of class {name!r} ({held} {unit} in all)"
            raise DataError(dataset.spec, problem, f"add {unit}, merge classes, or raise that part's fraction")
    return Split(**parts, seed=seed, by=by, fingerprint=dataset.fingerprint, fractions=fractions)


def with_shares(*, val: float | None = None, test: float | None = None) -> Fractions:
    """The usual fractions with other shares for "val" or "adv_test", the rest in proportion to what they are.

    >>> with_shares(test=0.3)[3]
    0.3

    Raises:
        ConfigError: a share that is not above 0 and at most a half, or too little left to learn from.
    """
    for name, share in (("val", val), ("test", test)):
        if share is not None and not 0 < share <= 0.5:
            remedy = "give 0.2 for a fifth of the images"
            raise ConfigError(f"{name} share {share}", "is not above 0 and at most 0.5", remedy)
    asked = (None, val, None, test)
    rest = 1 - sum(share for share in asked if share is not None)
    if rest < 0.25:
        problem = "leave less than a quarter of the images to learn from"
        raise ConfigError(f"val share {val} and test share {test}", problem, "lower one")
    pairs = list(zip(FRACTIONS, asked, strict=True))
    scale = rest / sum(usual for usual, share in pairs if share is None)
    found = [usual * scale if share is None else share for usual, share in pairs]
    return (found[0], found[1], found[2], found[3])


def as_fractions(told: object) -> Fractions:
    """Fractions from a record. Raises ValueError or TypeError if they are none."""
    train, val, adv_train, adv_test = (float(share) for share in told)  # type: ignore[attr-defined]
    return (train, val, adv_train, adv_test)


def kept_together(dataset: Dataset, split: Split) -> Grouping:
    """What the split kept in one part, which is "image" too where it was to be the patient and none is known."""
    return "image" if split.by == "image" else dataset.grouping


def small_classes(dataset: Dataset, split: Split, *, fewest: int) -> tuple[str, ...]:
    """A sentence for each class that has no image, or fewer than `fewest` to set a threshold on (in "val")."""
    everywhere, val = (
        torch.bincount(labels, minlength=len(dataset.classes)).tolist()
        for labels in (dataset.labels, dataset.labels[list(split.val)])
    )
    told = []
    for name, n, held in zip(dataset.classes, everywhere, val, strict=True):
        if n == 0:
            told.append(f"class {name!r} has no image")
        elif held < fewest:
            told.append(
                f"class {name!r} has {n} images, {held} of them for validation: a threshold of its own needs "
                f"{fewest}, and `fit` pools those of smaller classes; add images, merge classes, or raise --val-share"
            )
    return tuple(told)


def _patients(dataset: Dataset) -> list[list[int]]:
    """Places of each patient's images; patients with an identical picture (not a blank one) are merged."""
    parent: dict[str, str] = {patient: patient for patient in dataset.patients}

    def root(patient: str) -> str:
        while parent[patient] != patient:
            patient = parent[patient]
        return patient

    for before, place in equal_pairs(dataset.images):
        parent[root(dataset.patients[place])] = root(dataset.patients[before])
    groups: dict[str, list[int]] = {}
    for place, patient in enumerate(dataset.patients):
        groups.setdefault(root(patient), []).append(place)
    return list(groups.values())


def _assign(counts: np.ndarray, fractions: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """A part for each group with class `counts` (groups, classes): the largest first, each where it fits best.

    "Best" is the part that would be least full afterwards, per class, weighed by the group's images of that class.
    """
    wanted = np.maximum(np.outer(fractions, counts.sum(0)), 1e-9)  # (parts, classes)
    held = np.zeros_like(wanted)
    order = random.permutation(len(counts))
    order = order[np.argsort(-counts[order].sum(1), kind="stable")]
    part_of = np.empty(len(counts), dtype=np.int64)
    for group in order:
        fullness = ((held + counts[group]) / wanted * counts[group]).sum(1)
        part_of[group] = fullness.argmin()
        held[part_of[group]] += counts[group]
    return part_of
