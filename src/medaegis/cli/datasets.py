"""Data sets as commands need them: loaded with progress, and split just as the classifier or the guard was made."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from medaegis.cli import console
from medaegis.errors import ArtefactError, DataError

if TYPE_CHECKING:
    from medaegis.guard.guard import Guard
    from medaegis.guard.site import Site
    from medaegis.images import Dataset, Split
    from medaegis.images.splits import Fractions
    from medaegis.models import Classifier
    from medaegis.sizes import Size

GRAY_SCHEMES = ("phantom-xray", "chest-xray", "nih14")
SHOWN_FAILURES = 3
UNKNOWN = (
    "This network was trained elsewhere, and nothing says which images it learned from. Those of them that are among "
    "these make every figure too good. Give images that it never saw; `medaegis wrap --data` notes that they are such."
)
TNR = 0.9  # what `fit` sets thresholds for, if not told otherwise


def channels_of(spec: str, asked: str) -> Literal["gray", "rgb"]:
    """The channels asked for; "auto" takes grey for radiographs and colour for all else."""
    if asked != "auto":
        return "gray" if asked == "gray" else "rgb"
    return "gray" if spec.partition(":")[0].partition("?")[0] in GRAY_SCHEMES else "rgb"


def load(spec: str, *, size: Size, channels: Literal["gray", "rgb"], images: int | None, seed: int) -> Dataset:
    """The data set, with a bar while it is decoded; remarks are told, and images that cannot be read, then left out."""
    from medaegis.images import load_dataset

    with console.progress("Decoding") as progress:
        dataset = load_dataset(spec, size=size, channels=channels, limit=images, seed=seed, progress=progress)
    for remark in dataset.remarks:
        console.say(console.shown(remark))
    if dataset.failures:
        console.say(f"{len(dataset.failures)} images could not be read and are left out:")
        for failure in dataset.failures[:SHOWN_FAILURES]:
            console.say(f"  {console.shown(failure)}")
        if len(dataset.failures) > SHOWN_FAILURES:
            console.say("  … (medaegis data inspect lists all)")
    return dataset


def data_of_classifier(folder: Path, classifier: Classifier, spec: str, *, images: int | None) -> tuple[Dataset, Split]:
    """The data set of a classifier and its split: the one it was trained or wrapped with, or, of a network that was
    wrapped without data, one drawn by the seed it was wrapped with, the same in every command.

    Raises:
        DataError: other images, or of other classes.
        ArtefactError: the classifier was made neither by `medaegis train` nor by `wrap`.
    """
    from medaegis.artefact import read_folder
    from medaegis.images import Split, split_dataset
    from medaegis.models.store import WRAPPED, read_wrapped
    from medaegis.models.wrapping import check_classes

    stored = read_folder(folder, kind="classifier")
    kept = "split" in stored.document_names
    if not kept and WRAPPED not in stored.document_names:
        problem = "says nothing about the images it learned from"
        raise ArtefactError(folder, problem, "make it with `medaegis train`, or with `medaegis wrap`")
    seed = int(stored.document("split")["seed"]) if kept else read_wrapped(folder).seed
    dataset = load(spec, size=classifier.size, channels=classifier.channels, images=images, seed=seed)
    check_classes(dataset, classifier)
    if kept:
        return dataset, Split.load(folder / "split.json", dataset)
    console.say(UNKNOWN)
    return dataset, split_dataset(dataset, seed=seed)


def site_for(guard: Guard, spec: str, *, images: int | None, seed: int = 0, recalibrate: bool = False) -> Site:
    """Images to measure a guard on: those of its fit, by the split of the fit, or another site's without what it knows.

    What is left out or cannot be told is said.

    Args:
        seed: of another site's `images` and split.
        recalibrate: they are to set new thresholds, so those of the fit are another site's too.

    Raises:
        DataError: classes that the guard does not know; nothing it does not know; or the images of the fit fall into
            other parts than then.
    """
    from medaegis.guard.site import Site, knows_some, other_site
    from medaegis.images import split_dataset

    told = guard.training.get("split")
    if not isinstance(told, dict):
        raise ArtefactError("guard", "does not say how its images were split", "fit it with `medaegis fit`")
    of_fit = images in (None, guard.training.get("images"))
    limit = guard.training.get("images") if images is None else images
    classifier = guard.classifier
    dataset = load(
        spec, size=classifier.size, channels=classifier.channels, images=limit, seed=told["seed"] if of_fit else seed
    )
    if dataset.fingerprint == told.get("fingerprint") and knows_some(guard, dataset) and not recalibrate:
        split = split_dataset(dataset, by=told["by"], seed=told["seed"], fractions=_fractions(told))
        parts = guard.training.get("split_parts")
        if parts is not None and split.parts_fingerprint != parts:
            remedy = "give the data set, and --images, that `medaegis train` and `medaegis fit` had"
            raise DataError(spec, "its images fall into other parts than when the guard was fitted", remedy)
        if guard.training.get("network_learned") == "unknown":
            console.say(UNKNOWN)
        return Site(dataset, split, home=True)
    if images is None and limit is not None and dataset.fingerprint != told.get("fingerprint"):
        dataset = load(spec, size=classifier.size, channels=classifier.channels, images=None, seed=seed)
    found = other_site(guard, dataset, seed=seed, recalibrate=recalibrate)
    n = len(found.dataset)
    console.say(
        f"Not the images of the fit: taken as another site, {n} images, {len(found.split.adv_test)} to measure."
    )
    if found.left_out:
        console.say(f"{found.left_out} images are left out: the guard, or its thresholds, know them or their patients.")
    if found.note:
        console.say(f"Warning: {found.note}.")
    return found


def data_of_guard(guard: Guard, spec: str, *, images: int | None) -> tuple[Dataset, Split]:
    """The data set and split of `site_for`."""
    found = site_for(guard, spec, images=images)
    return found.dataset, found.split


def origin_of(classifier_dir: Path) -> dict[str, bool | str]:
    """For a guard's record: whether it is known which images its classifier learned from; of a wrapped one, what."""
    from medaegis.artefact import read_folder
    from medaegis.models.store import WRAPPED, read_wrapped

    stored = read_folder(classifier_dir, kind="classifier")
    known = "training" in stored.document_names or "learned" in stored.tensor_names
    wrapped = {"network_learned": read_wrapped(classifier_dir).learned} if WRAPPED in stored.document_names else {}
    return {"classifier_learned_known": known, **wrapped}


def _fractions(told: dict[str, object]) -> Fractions:
    """Shares of the parts, as a guard remembers them; those of older guards were always the same."""
    from medaegis.images.splits import FRACTIONS, as_fractions

    try:
        return as_fractions(told.get("fractions", FRACTIONS))
    except (TypeError, ValueError):
        raise ArtefactError("guard", "tells no four shares of its split", "fit it with `medaegis fit`") from None


def tell_small_classes(dataset: Dataset, split: Split, tnr: float) -> None:
    """Say by name, before anything is trained, which classes are too small for a threshold of their own."""
    from medaegis.detectors.thresholds import enough_images
    from medaegis.images import small_classes

    for remark in small_classes(dataset, split, fewest=enough_images(tnr)):
        console.say(console.shown(remark))
