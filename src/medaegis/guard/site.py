"""Images of a guard's own data set, or of another site: which of them may measure it, and how they are split."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import get_args

import torch
from torch import Tensor

from medaegis.errors import ArtefactError, DataError
from medaegis.guard.guard import Guard
from medaegis.images.datasets import Dataset
from medaegis.images.hashes import pixel_hashes
from medaegis.images.splits import FRACTIONS, SITE_FRACTIONS, By, Fractions, Split, as_fractions, split_dataset
from medaegis.sizes import told_size
from medaegis.task import IGNORE

NO_RECORD = (
    "the guard keeps no record of the images it learned from (it was written by an earlier version), so it cannot be "
    "told whether any is among these"
)
UNKNOWN_TRAINING = (
    "This network was trained elsewhere, and nothing says which images it learned from. Those of them that are among "
    "these make every figure too good. Give images that it never saw; `medaegis wrap --data` notes that they are such."
)
NO_CLASSIFIER_RECORD = (
    "what its classifier learned from before is not known, so it cannot be told whether any is among these"
)


@dataclass(frozen=True, eq=False)
class Site:
    """Images to measure a guard on.

    Attributes:
        split: "train": images in an attacker's hands; "val": to set thresholds on; "adv_test": to measure on.
        home: whether they are those of the fit, by the very split of the fit.
        left_out: images that the guard learned from or that set its thresholds, and others of the same patients.
        note: what cannot be told of them, in words; empty if nothing.
        told: all that somebody who measures on them should hear, a sentence each.
    """

    dataset: Dataset
    split: Split
    home: bool = False
    left_out: int = 0
    note: str = ""

    @property
    def told(self) -> list[str]:
        if self.home:
            return [self.note] if self.note else []
        n, measured = len(self.dataset), len(self.split.adv_test)
        lines = [f"Not the images of the fit: taken as another site, {n} images, {measured} to measure."]
        if self.left_out:
            lines += [
                f"{self.left_out} images are left out: the guard, or its thresholds, know them or their patients."
            ]
        return [*lines, f"Warning: {self.note}."] if self.note else lines


def find_site(
    guard: Guard,
    load: Callable[[int | None, int], Dataset],
    *,
    images: int | None = None,
    seed: int = 0,
    recalibrate: bool = False,
) -> Site:
    """Images to measure a guard on: those of its fit, by the split of the fit, or another site's without what it knows.

    Args:
        load: reads the data set: so many images at most (None: all), drawn by a seed.
        images: at most so many; None: as many as the fit had, of another site all.
        seed: of another site's images and split.
        recalibrate: they are to set new thresholds, so those of the fit are another site's too.

    Raises:
        ArtefactError: the guard does not say how its images were split.
        DataError: classes that the guard does not know; nothing it does not know; or the images of the fit fall into
            other parts than then.
    """
    told = guard.training.get("split")
    if not isinstance(told, dict) or type(told.get("seed")) is not int or told.get("by") not in get_args(By):
        raise ArtefactError("guard", "does not say how its images were split", "fit it with `medaegis fit`")
    of_fit = images in (None, guard.training.get("images"))
    limit = guard.training.get("images") if images is None else images
    dataset = load(limit, told["seed"] if of_fit else seed)
    if dataset.fingerprint == told.get("fingerprint") and knows_some(guard, dataset) and not recalibrate:
        split = split_dataset(dataset, by=told["by"], seed=told["seed"], fractions=_fractions(told))
        parts = guard.training.get("split_parts")
        if parts is not None and split.parts_fingerprint != parts:
            remedy = "give the data set, and --images, that `medaegis train` and `medaegis fit` had"
            raise DataError(dataset.spec, "its images fall into other parts than when the guard was fitted", remedy)
        unknown = guard.training.get("network_learned") == "unknown"
        return Site(dataset, split, home=True, note=UNKNOWN_TRAINING if unknown else "")
    if images is None and limit is not None and dataset.fingerprint != told.get("fingerprint"):
        dataset = load(None, seed)
    return other_site(guard, dataset, seed=seed, recalibrate=recalibrate)


def _fractions(told: Mapping[str, object]) -> Fractions:
    """Shares of the parts, as a guard remembers them; those of older guards were always the same."""
    try:
        return as_fractions(told.get("fractions", FRACTIONS))
    except (TypeError, ValueError):
        raise ArtefactError("guard", "tells no four shares of its split", "fit it with `medaegis fit`") from None


def other_site(guard: Guard, dataset: Dataset, *, seed: int = 0, recalibrate: bool = False) -> Site:
    """Images of another site than that of the fit, without those that the guard knows, split by patient.

    A patient of whom the guard knows one image is left out whole. Where the guard's thresholds were set at this very
    site, the split is that of then, and "val" holds the images they were set on.

    Args:
        dataset: loaded in the size and colour of the guard's classifier.
        seed: of the split.
        recalibrate: the images are to set new thresholds, so none may have set the present ones.

    Raises:
        DataError: classes that the guard does not know, another size or colour; half of the images or more are known
            to it, so that they are no other site's.
    """
    dataset = in_classes_of(guard, dataset)
    note = NO_RECORD if guard.seen is None else ""
    if guard.seen is not None and not guard.training.get("classifier_learned_known", True):
        note = NO_CLASSIFIER_RECORD
    before = len(dataset)
    if guard.seen is not None:
        hashes = pixel_hashes(dataset.images)
        learned = torch.isin(hashes, guard.seen.learned)
        known = int((learned | torch.isin(hashes, guard.seen.thresholds)).sum())
        if 2 * known >= before:
            problem = f"the guard learned from {known} of these {before} images, or its thresholds were set on them"
            remedy = "give exactly the data, and --images, of its fit, for the test part; or images it does not know"
            raise DataError(dataset.spec, problem, remedy)
        dataset, kept = _without(dataset, learned)
        match guard.calibration.get("site"):
            case {"fingerprint": dataset.fingerprint, "seed": int(of_thresholds)} if not recalibrate:
                split = split_site(dataset, of_thresholds)
                return Site(dataset, split, left_out=before - len(dataset), note=note)
        dataset, _ = _without(dataset, torch.isin(hashes[kept], guard.seen.thresholds))
    return Site(dataset, split_site(dataset, seed), left_out=before - len(dataset), note=note)


def knows_some(guard: Guard, dataset: Dataset) -> bool:
    """Whether the guard learned from any of these pixels, or keeps no record of it.

    A data set's fingerprint is of names, labels and patients, which the same patients have before another scanner too.
    """
    return guard.seen is None or bool(torch.isin(pixel_hashes(dataset.images), guard.seen.learned).any())


def split_site(dataset: Dataset, seed: int) -> Split:
    """A fifth for an attacker, two fifths to set thresholds on, two to measure on, by patient."""
    return split_dataset(dataset, seed=seed, fractions=SITE_FRACTIONS, complete=False)


def in_classes_of(guard: Guard, dataset: Dataset) -> Dataset:
    """The data set with the guard's classes, matched by name; it may lack some of them.

    Raises:
        DataError: labels of another task, images of a class that the guard does not know, or of another size or colour.
    """
    if dataset.task.name != guard.classifier.task.name:
        problem = f"its labels are {dataset.task.title}; the guard's network gives {guard.classifier.task.title}"
        raise DataError(dataset.spec, problem, "give data such as it was fitted with")
    present = [bool((dataset.labels == k).any()) for k in range(len(dataset.classes))]
    foreign = [name for name, some in zip(dataset.classes, present, strict=True) if some and name not in guard.classes]
    if foreign:
        problem = f"classes {', '.join(foreign)}; the guard knows {', '.join(guard.classes)}"
        groups = ",".join(f"{name}=LABEL|LABEL" for name in guard.classes)
        raise DataError(dataset.spec, problem, f"say which labels each of them has: add ?classes={groups} to the SPEC")
    if (dataset.size, dataset.channels) != (guard.classifier.size, guard.classifier.channels):
        given, wanted = (f"{told_size(one.size)} {one.channels}" for one in (dataset, guard.classifier))
        raise DataError(dataset.spec, given, f"load it with {wanted}")
    place = [guard.classes.index(name) if name in guard.classes else 0 for name in dataset.classes]
    number = torch.tensor([*place, *range(len(place), IGNORE + 1)])  # of masks what counts neither way stays so
    labels = number[dataset.labels.long()].to(dataset.labels.dtype)
    return replace(dataset, classes=guard.classes, labels=labels, task=guard.classifier.task)


def _without(dataset: Dataset, known: Tensor) -> tuple[Dataset, Tensor]:
    """The images of patients of whom none is known, and their rows."""
    patients = {dataset.patients[i] for i in known.nonzero().flatten().tolist()}
    rows = torch.tensor([i for i, patient in enumerate(dataset.patients) if patient not in patients], dtype=torch.int64)
    if not len(rows):
        raise DataError(dataset.spec, "the guard knows an image of every patient", "give images of other patients")
    return (dataset.subset(rows) if len(rows) < len(dataset) else dataset), rows
