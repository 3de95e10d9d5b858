"""Small sets of real files for the tests of loaders; the grey value of a picture says which file was read."""

from pathlib import Path

import numpy as np
from PIL import Image

from medaegis.images import Dataset, load_dataset


def picture(path: Path, grey: int) -> None:
    """A plain picture, whatever format the suffix asks for."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((16, 16), grey, np.uint8)).save(path, "PNG" if path.suffix == "" else None)


def write(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode(encoding))
    return path


def load(spec: str, cache: Path) -> Dataset:
    return load_dataset(spec, size=16, channels="gray", cache_dir=cache)


def greys(dataset: Dataset) -> list[int]:
    return [int(image.median()) for image in dataset.images]


def told(dataset: Dataset) -> list[str]:
    """The class of each image, by name."""
    return [dataset.classes[label] for label in dataset.labels.tolist()]
