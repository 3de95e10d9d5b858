"""`medaegis data`: what a spec holds, before anything is trained on it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import typer

from medaegis.cli import console, datasets
from medaegis.cli.command import FAILED
from medaegis.cli.options import AsJson, Channels, Colours, Images, PictureSize, Seed, Spec, picture_size
from medaegis.errors import DataError
from medaegis.sizes import told_size

if TYPE_CHECKING:
    from medaegis.images import Dataset


def schemes(as_json: AsJson = False) -> None:
    """List what a data-set SPEC can be."""
    from medaegis.images import dataset_schemes

    found = dataset_schemes()
    if as_json:
        console.write_json(found)
    else:
        console.write(console.table("Scheme", "What it reads", rows=list(found.items())))
        console.say("Each takes ?classes=No DR=0,DR=1|2|3|4 too: the classes, their order, and which labels they hold.")


def inspect(
    spec: Spec,
    size: PictureSize = "112",
    channels: Colours = Channels.auto,
    images: Images = None,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Decode a data set; show classes, patients, the four-part split and every file that cannot be read.

    Tells which classes are too small for a split, or for a threshold of their own, and
    which pictures are in the set more than once. Exit code 1 if a file could not be
    read, or no split can be made.
    """
    from medaegis.detectors.thresholds import enough_images
    from medaegis.images import kept_together, small_classes, split_dataset
    from medaegis.images.copies import copies

    sides, colours = picture_size(size), datasets.channels_of(spec, channels)
    dataset = datasets.load(spec, size=sides, channels=colours, images=images, seed=seed)
    try:
        split = split_dataset(dataset, seed=seed)
    except DataError:
        sizes = (f"{name} {n}" for name, n in _counted(dataset, range(len(dataset))).items())
        console.say(f"Images: {console.shown(', '.join(sizes))}")
        raise
    group, remarks = kept_together(dataset, split), copies(dataset)
    if dataset.task.name == "single":
        remarks = small_classes(dataset, split, fewest=enough_images(datasets.TNR)) + remarks
    counts = {part: _counted(dataset, rows) for part, rows in split.parts.items()}
    groups = {part: len({dataset.patients[i] for i in rows}) for part, rows in split.parts.items()}
    everyone = len(set(dataset.patients))
    if as_json:
        console.write_json(
            {
                "spec": spec,
                "images": len(dataset),
                "split_by": group,
                "groups": everyone,
                "classes": list(dataset.classes),
                "size": dataset.size,
                "channels": dataset.channels,
                "fingerprint": dataset.fingerprint,
                "split": {part: {"groups": groups[part], "images": counts[part]} for part in counts},
                "remarks": [*dataset.remarks, *remarks],
                "unreadable": [
                    {"file": failure.source, "problem": failure.problem, "remedy": failure.remedy}
                    for failure in dataset.failures
                ],
            }
        )
    else:
        # Where every image stands for itself, a column of patients would count the images again.
        heading = [] if group == "image" else ["Lesions" if group == "lesion" else "Patients"]
        parts = split.parts
        rows = [[part, *[groups[part]] * len(heading), *of.values(), len(parts[part])] for part, of in counts.items()]
        whole = _counted(dataset, range(len(dataset))).values()
        rows.append(["all", *[everyone] * len(heading), *whole, len(dataset)])
        by = "image, for no patients are known" if group == "image" else group
        title = f"{console.shown(spec)}: {told_size(dataset.size)} {dataset.channels}, split by {by}, seed {seed}"
        names = counts["train"]  # of masks the share of the pixels that are marked
        console.write(console.table("Part", *heading, *names, "Images", rows=rows, title=title))
        for remark in remarks:
            console.say(console.shown(remark))
        if dataset.failures:
            lines = [[failure.source, failure.problem, failure.remedy] for failure in dataset.failures]
            console.write(console.table("Unreadable", "Why", "What to do", rows=lines))
    if dataset.failures:
        raise typer.Exit(FAILED)


def _counted(dataset: Dataset, rows: Sequence[int]) -> dict[str, int | str]:
    """Images of each class, or with each finding; of masks the share of the pixels of each class."""
    labels = dataset.labels[list(rows)]
    if dataset.task.name == "multi":
        told = {name: int(labels[:, k].sum()) for k, name in enumerate(dataset.classes)}
        return {**told, "none of them": int((labels.sum(1) == 0).sum())}
    if dataset.task.name == "single":
        return {name: int((labels == k).sum()) for k, name in enumerate(dataset.classes)}
    shares = [float((labels == k).double().mean()) if len(labels) else 0.0 for k in range(len(dataset.classes))]
    return {name: f"{share:.1%} of pixels" for name, share in zip(dataset.classes, shares, strict=True)}
