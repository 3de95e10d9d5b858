"""Data sets as commands need them: loaded with progress, and split just as the classifier or the guard was made."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from medaegis.cli import console
from medaegis.errors import ArtefactError

if TYPE_CHECKING:
    from medaegis.guard.guard import Guard
    from medaegis.guard.site import Site
    from medaegis.images import Dataset, Split
    from medaegis.models import Classifier
    from medaegis.sizes import Size

GRAY_SCHEMES = ("phantom-xray", "phantom-findings", "phantom-lungs", "chest-xray", "nih14", "covid19-radiography")
SHOWN_FAILURES = 3
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
    from medaegis.guard.site import UNKNOWN_TRAINING
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
    console.say(UNKNOWN_TRAINING)
    return dataset, split_dataset(dataset, seed=seed)


def site_for(guard: Guard, spec: str, *, images: int | None, seed: int = 0, recalibrate: bool = False) -> Site:
    """`find_site` of a spec; what is left out or cannot be told is said."""
    from medaegis.guard.site import find_site

    classifier = guard.classifier

    def read(limit: int | None, seed: int) -> Dataset:
        return load(spec, size=classifier.size, channels=classifier.channels, images=limit, seed=seed)

    found = find_site(guard, read, images=images, seed=seed, recalibrate=recalibrate)
    for line in found.told:
        console.say(line)
    return found


def origin_of(classifier_dir: Path) -> dict[str, bool | str]:
    """For a guard's record: whether it is known which images its classifier learned from; of a wrapped one, what."""
    from medaegis.artefact import read_folder
    from medaegis.models.store import WRAPPED, read_wrapped

    stored = read_folder(classifier_dir, kind="classifier")
    known = "training" in stored.document_names or "learned" in stored.tensor_names
    wrapped = {"network_learned": read_wrapped(classifier_dir).learned} if WRAPPED in stored.document_names else {}
    return {"classifier_learned_known": known, **wrapped}


def tell_small_classes(dataset: Dataset, split: Split, tnr: float) -> None:
    """Say by name, before anything is trained, which classes are too small for a threshold of their own.

    Of several findings and of masks nothing: no threshold is set on them.
    """
    if dataset.task.name != "single":
        return
    from medaegis.detectors.thresholds import enough_images
    from medaegis.images import small_classes

    for remark in small_classes(dataset, split, fewest=enough_images(tnr)):
        console.say(console.shown(remark))
