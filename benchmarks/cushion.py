"""Every Cushion per image, JPEG as tensor code against the codec, and against plain calls of it."""

from __future__ import annotations

import io
from functools import partial

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.record import Record
from benchmarks.subjects import pictures
from benchmarks.timing import Case
from medaegis.cushions import parse_cushion
from medaegis.cushions.jpeg_codec import jpeg_codec
from medaegis.cushions.jpeg_integer import jpeg_integer

ABOUT = (
    "Every Cushion on a batch of float32 images, rounding and checks included. JPEG alone from 8-bit to 8-bit tensors, "
    "by tensor code and by the codec, of which the Cushion takes the codec here. And the plain codec: Pillow encodes "
    "and decodes, image after image, from and to 8-bit arrays."
)
SPECS = ("jpeg:80", "jpeg:80:444", "bits:3", "median:3", "gaussian:1.0", "tvm")
PLAIN = "Pillow alone"
JPEGS = {"tensor code": jpeg_integer, "codec": jpeg_codec}


def run(record: Record) -> None:
    sizes, batch = ((32,), 4) if record.quick else ((112, 224), 16)
    record.settings(batch=batch, quality=80)
    for size in sizes:
        for channels, colour in ((1, "grey"), (3, "rgb")):
            _one(record, size, channels, f"{size} px {colour}", batch)


def _one(record: Record, size: int, channels: int, group: str, batch: int) -> None:
    pixels = pictures(batch, channels, size, seed=record.seed)
    images = pixels.float() / 255
    arrays = [image.permute(1, 2, 0).squeeze(2).numpy().copy() for image in pixels]
    cases = [Case(spec, partial(parse_cushion(spec), images), batch) for spec in SPECS]
    for subsampling, halve in (("420", True), ("444", False)):
        for name, jpeg in JPEGS.items():
            cases.append(Case(f"{name}, {subsampling}", partial(jpeg, pixels, 80, halve_chroma=halve), batch))
    cases.append(Case(PLAIN, lambda: [_plain(array) for array in arrays], batch))
    seconds = record.measure(group, cases, unit="image", rounds=7, budget=1 if record.quick else 6)
    record.ratio(f"{PLAIN} / jpeg:80, {group}", seconds, PLAIN, "jpeg:80")
    for subsampling in ("420", "444"):
        over, under = (f"{name}, {subsampling}" for name in JPEGS)
        record.ratio(f"tensor code / codec, {subsampling}, {group}", seconds, over, under)


def _plain(array: NDArray[np.uint8]) -> NDArray[np.uint8]:
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, "JPEG", quality=80, subsampling=2)
    return np.asarray(Image.open(stream))
