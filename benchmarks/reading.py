"""Reading a file: DICOM against pydicom's pixel_array, PNG and JPEG against Pillow."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom import dcmread
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import ExplicitVRLittleEndian, JPEG2000Lossless, JPEGBaseline8Bit, RLELossless

from benchmarks.record import Record
from benchmarks.subjects import pictures
from benchmarks.timing import Case
from medaegis.images.readers import read_image

ABOUT = (
    "`read_image` (limits, decoding of compressed DICOM in a child process, display values, float32) against the "
    "stored values alone: `dcmread(...).pixel_array` and `numpy.asarray(Image.open(...))`."
)
REPEATS = 4  # files of a kind read in one run


def run(record: Record) -> None:
    side = 64 if record.quick else 1024
    record.settings(side=side)
    with tempfile.TemporaryDirectory() as folder:
        files = {**_dicom(Path(folder), side, record.seed), **_raster(Path(folder), side, record.seed)}
        for kind, path in files.items():
            plain = _pydicom if path.suffix == ".dcm" else _pillow
            name = "pydicom" if plain is _pydicom else "Pillow"
            cases = [
                Case("medaegis", partial(_repeat, read_image, path), REPEATS),
                Case(name, partial(_repeat, plain, path), REPEATS),
            ]
            seconds = record.measure(kind, cases, unit="file", rounds=7, budget=0.5 if record.quick else 3)
            record.ratio(f"medaegis / {name}, {kind}", seconds, "medaegis", name)


def _repeat(read: Callable[[Path], object], path: Path) -> None:
    for _ in range(REPEATS):
        read(path)


def _pydicom(path: Path) -> NDArray[np.generic]:
    return dcmread(path).pixel_array


def _pillow(path: Path) -> NDArray[np.uint8]:
    with Image.open(path) as image:
        return np.asarray(image)


def _dicom(folder: Path, side: int, seed: int) -> dict[str, Path]:
    """12 bits of grey in 16: uncompressed, JPEG 2000 and RLE; 8 bits of grey as JPEG."""
    grey = pictures(1, 1, side, seed=seed)[0, 0].numpy()
    deep = grey.astype(np.uint16) * 16 + (grey % 16)
    files = {}
    for kind, syntax in (
        ("DICOM uncompressed, 12 bit", ExplicitVRLittleEndian),
        ("DICOM JPEG 2000 lossless, 12 bit", JPEG2000Lossless),
        ("DICOM RLE, 12 bit", RLELossless),
    ):
        made = _secondary_capture(deep, 12)
        if syntax != ExplicitVRLittleEndian:
            made.compress(syntax)
        files[kind] = folder / f"{len(files)}.dcm"
        made.save_as(files[kind], enforce_file_format=True)
    made = _secondary_capture(grey, 8)
    stream = io.BytesIO()
    Image.fromarray(grey).save(stream, "JPEG", quality=90)
    made.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    made.PixelData = encapsulate([stream.getvalue()])
    made["PixelData"].is_undefined_length = True
    made.LossyImageCompression = "01"
    files["DICOM JPEG, 8 bit"] = folder / "jpeg.dcm"
    made.save_as(folder / "jpeg.dcm", enforce_file_format=True)
    return files


def _secondary_capture(values: NDArray[np.generic], bits: int) -> FileDataset:
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    meta.MediaStorageSOPInstanceUID = "1.2.3.4"
    made = FileDataset("", {}, file_meta=meta, preamble=bytes(128))
    made.SOPClassUID, made.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    made.SamplesPerPixel, made.PhotometricInterpretation = 1, "MONOCHROME2"
    made.Rows, made.Columns = values.shape
    made.BitsAllocated, made.BitsStored, made.HighBit = 8 * values.dtype.itemsize, bits, bits - 1
    made.PixelRepresentation = 0
    made.WindowCenter, made.WindowWidth = 2 ** (bits - 1), 2**bits
    made.PixelData = values.tobytes()
    made["PixelData"].VR = "OW" if made.BitsAllocated > 8 else "OB"
    return made


def _raster(folder: Path, side: int, seed: int) -> dict[str, Path]:
    grey = pictures(1, 1, side, seed=seed)[0, 0].numpy()
    colour = pictures(1, 3, side, seed=seed)[0].permute(1, 2, 0).contiguous().numpy()
    pictured = {
        "PNG, 8 bit grey": ("grey.png", grey),
        "PNG, 16 bit grey": ("deep.png", grey.astype(np.uint16) * 257),
        "JPEG, grey": ("grey.jpg", grey),
        "JPEG, colour": ("colour.jpg", colour),
    }
    for name, values in pictured.values():
        Image.fromarray(values).save(folder / name)
    return {kind: folder / name for kind, (name, _) in pictured.items()}
