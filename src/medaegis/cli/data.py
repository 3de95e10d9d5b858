"""`medaegis data`: what a spec holds, before anything is trained on it."""

from __future__ import annotations

from typing import Annotated

import typer

from medaegis.cli import console, datasets
from medaegis.cli.command import FAILED
from medaegis.cli.options import AsJson, Channels, Images, Seed, Spec


def schemes(as_json: AsJson = False) -> None:
    """List what a data-set SPEC can be."""
    from medaegis.images import dataset_schemes

    found = dataset_schemes()
    if as_json:
        console.write_json(found)
    else:
        console.write(console.table("Scheme", "What it reads", rows=list(found.items())))


def inspect(
    spec: Spec,
    size: Annotated[int, typer.Option("--size", min=8, help="Side of the images in pixels.")] = 112,
    channels: Annotated[
        Channels, typer.Option("--channels", help="auto: gray for radiographs, else rgb.")
    ] = Channels.auto,
    images: Images = None,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Decode a data set; show classes, patients, the four-part split and every file that cannot be read.

    Exit code 1 if a file could not be read.
    """
    from medaegis.images import split_dataset

    dataset = datasets.load(spec, size=size, channels=datasets.channels_of(spec, channels), images=images, seed=seed)
    split = split_dataset(dataset, seed=seed)
    counts = {
        part: {name: int((dataset.labels[list(rows)] == k).sum()) for k, name in enumerate(dataset.classes)}
        for part, rows in split.parts.items()
    }
    patients = {part: len({dataset.patients[i] for i in rows}) for part, rows in split.parts.items()}
    if as_json:
        console.write_json(
            {
                "spec": spec,
                "images": len(dataset),
                "patients": len(set(dataset.patients)),
                "classes": list(dataset.classes),
                "size": dataset.size,
                "channels": dataset.channels,
                "fingerprint": dataset.fingerprint,
                "split": {part: {"patients": patients[part], "images": counts[part]} for part in counts},
                "unreadable": [
                    {"file": failure.source, "problem": failure.problem, "remedy": failure.remedy}
                    for failure in dataset.failures
                ],
            }
        )
    else:
        rows = [[part, patients[part], *counts[part].values(), sum(counts[part].values())] for part in counts]
        rows.append(
            [
                "all",
                len(set(dataset.patients)),
                *(sum(of[name] for of in counts.values()) for name in dataset.classes),
                len(dataset),
            ]
        )
        title = f"{console.shown(spec)}: {dataset.size} px {dataset.channels}, split by patient, seed {seed}"
        console.write(console.table("Part", "Patients", *dataset.classes, "Images", rows=rows, title=title))
        if dataset.failures:
            lines = [[failure.source, failure.problem, failure.remedy] for failure in dataset.failures]
            console.write(console.table("Unreadable", "Why", "What to do", rows=lines))
    if dataset.failures:
        raise typer.Exit(FAILED)
