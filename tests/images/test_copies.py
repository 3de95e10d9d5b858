"""Copies in a data set: equal pixels, equal with different labels, and the same picture in another size or format."""

import io
from dataclasses import replace

import numpy as np
import torch
from PIL import Image

from medaegis.images import Dataset
from medaegis.images.copies import copies

SIDE = 64


def scenes(count: int, *, patients: list[str] | None = None) -> Dataset:
    """Smooth pictures that have nothing to do with each other."""
    random = np.random.default_rng(0)
    pictures = [
        np.asarray(
            Image.fromarray(random.integers(0, 256, (6, 6), np.uint8)).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        )
        for _ in range(count)
    ]
    names = tuple(f"i{number}" for number in range(count))
    labels = torch.arange(count) % 2
    images = torch.from_numpy(np.stack(pictures))[:, None].clone()
    return Dataset("made", images, labels, ("a", "b"), tuple(patients or names), names, torch.arange(count))


def in_jpeg(image: torch.Tensor, side: int, quality: int) -> torch.Tensor:
    """The picture as it comes back from a smaller JPEG, by Pillow alone."""
    file = io.BytesIO()
    Image.fromarray(image[0].numpy()).resize((side, side), Image.Resampling.LANCZOS).save(file, "JPEG", quality=quality)
    again = Image.open(file).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.asarray(again).copy())[None]


def test_nothing_is_said_of_different_pictures() -> None:
    assert copies(scenes(300)) == ()


def test_equal_pictures_and_those_with_another_label() -> None:
    dataset = scenes(40)
    dataset.images[12] = dataset.images[4]  # both even: one label
    dataset.images[31] = dataset.images[4]  # the other label
    dataset.images[20:22] = 7  # plain pictures say nothing
    torn, equal = copies(dataset)
    assert torn.startswith("1 pictures are in the set again with another label, as i4 and i31")
    assert equal.startswith("2 pictures are in the set again, as i4 and i12")


def test_copies_in_another_size_or_format() -> None:
    dataset = scenes(1200)
    for place, (side, quality) in enumerate(((96, 90), (48, 75), (40, 60))):
        dataset.images[700 + place] = in_jpeg(dataset.images[place], side, quality)
    (near,) = copies(dataset)
    assert near.startswith("3 pairs of pictures are all but equal though not of one patient, as i0 and i700")
    of_one = list(dataset.patients)
    of_one[700:703] = of_one[:3]
    assert copies(replace(dataset, patients=tuple(of_one))) == ()
