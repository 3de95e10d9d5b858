"""DICOM files made for tests: any header around any pixels, native or compressed."""

import io
from pathlib import Path
from typing import Any

import gdcm
import numpy as np
from PIL import Image
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import (
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    RLELossless,
)

RAMP = np.arange(32 * 20, dtype=np.uint16).reshape(20, 32)
SECRET = "ZZSECRETZZ"


def dataset(values: np.ndarray, *, syntax: str = ExplicitVRLittleEndian, bits: int = 0, **elements: Any) -> FileDataset:
    """A Secondary Capture with these stored values: (rows, columns), (rows, columns, 3), or frames of these."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = syntax
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    meta.MediaStorageSOPInstanceUID = "1.2.3.4"
    made = FileDataset(
        "",
        {},
        file_meta=meta,
        preamble=bytes(128),
        is_implicit_VR=syntax == ImplicitVRLittleEndian,
        is_little_endian=syntax != ExplicitVRBigEndian,
    )
    made.SOPClassUID, made.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    made.PatientName, made.PatientID, made.PatientComments = f"{SECRET}^NAME", SECRET, SECRET * 20
    colour = values.shape[-1] == 3
    made.SamplesPerPixel = 3 if colour else 1
    made.PhotometricInterpretation = "RGB" if colour else "MONOCHROME2"
    if colour:
        made.PlanarConfiguration = 0
    shape = values.shape[:-1] if colour else values.shape
    if len(shape) == 3:
        made.NumberOfFrames = shape[0]
    made.Rows, made.Columns = shape[-2:]
    made.BitsAllocated = 8 * values.dtype.itemsize
    made.BitsStored = bits or made.BitsAllocated
    made.HighBit = made.BitsStored - 1
    made.PixelRepresentation = int(values.dtype.kind == "i")
    order = ">" if syntax == ExplicitVRBigEndian else "<"
    data = values.astype(values.dtype.newbyteorder(order)).tobytes()
    made.PixelData = data + bytes(len(data) % 2)
    made["PixelData"].VR = "OW" if made.BitsAllocated > 8 else "OB"
    for keyword, value in elements.items():
        if value is None:
            del made[keyword]
        else:
            setattr(made, keyword, value)
    return made


def write(path: Path, made: Dataset) -> Path:
    made.save_as(path, enforce_file_format=True)
    return path


def table(entries: np.ndarray, first: int, bits: int) -> Sequence:
    item = Dataset()
    item.add_new("LUTDescriptor", "US" if first >= 0 else "SS", [len(entries), first, bits])
    item.add_new("LUTData", "US", [int(entry) for entry in entries])
    return Sequence([item])


def by_gdcm(path: Path, made: Dataset, kind: int) -> Path:
    write(path, made)
    reader, change, writer = gdcm.ImageReader(), gdcm.ImageChangeTransferSyntax(), gdcm.ImageWriter()
    reader.SetFileName(str(path))
    assert reader.Read()
    change.SetTransferSyntax(gdcm.TransferSyntax(kind))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer.SetFileName(str(path))
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    assert writer.Write()
    return path


def compressed(path: Path, made: Dataset, name: str) -> Path:
    if name in ("jpeg-lossless", "jpeg-ls"):
        kinds = {"jpeg-lossless": "JPEGLosslessProcess14_1", "jpeg-ls": "JPEGLSLossless"}
        return by_gdcm(path, made, getattr(gdcm.TransferSyntax, kinds[name]))
    made.compress({"rle": RLELossless, "jpeg2000": JPEG2000Lossless}[name], generate_instance_uid=False)
    return write(path, made)


def jpeg(array: np.ndarray, **options: Any) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, "JPEG", quality=95, **options)
    return stream.getvalue()


def encapsulated(frames: list[bytes], values: np.ndarray, *, syntax: str, bot: bool = True, **elements: Any) -> Dataset:
    made = dataset(values, syntax=syntax, **elements)
    made.PixelData = encapsulate(frames, has_bot=bot)
    made["PixelData"].is_undefined_length = True
    return made
