"""One frame of a DICOM file to pixels in [0, 1]: header, limits, frame, decoder, then display values (`voi.py`).

Source: DICOM PS3.3 C.7.6.3 (image pixel), C.7.6.16 (functional groups), C.8.7.1 (X-ray), C.11.6 (presentation LUT).
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import numpy.typing as npt

from medaegis.images.codec import COMPRESSED, GREY, PALETTE, WIDE_COPIES, decode_frame
from medaegis.images.dicom_frames import RLE, Fragments, native
from medaegis.images.dicom_header import (
    BIG_ENDIAN,
    NATIVE,
    PALETTE_TABLES,
    pixel_element,
    pixel_options,
    read_header,
    transfer_syntax,
)
from medaegis.images.kinds import read_kind
from medaegis.images.limits import Decoded, Limits, UnreadableError, check_frame, check_size, quiet
from medaegis.images.voi import BAD_TAG, Stored, grey, number, read_modality, read_table

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

# X-ray angiography, radiofluoroscopy and biplane: a modality LUT leads back to beam intensity (PS3.3 C.8.7.1.1.2).
ANGIOGRAMS = tuple(f"1.2.840.10008.5.1.4.1.1.12.{kind}" for kind in (1, 2, 3))
# Their enhanced forms have no modality LUT at all (PS3.3 A.47, A.48).
ENHANCED_ANGIOGRAMS = tuple(f"1.2.840.10008.5.1.4.1.1.12.{kind}.1" for kind in (1, 2))

Pixels = npt.NDArray[np.float32]


def dicom_reader(file: BinaryIO, limits: Limits) -> Callable[[int], Decoded]:
    """The function that decodes a frame of a DICOM file, counted from 0.

    Args:
        file: open at its start.
        limits: bounds on what the header declares; nothing is unpacked before they are checked.

    Raises:
        UnreadableError: a stated reason, of this function too; any other exception means that the file is damaged.
    """
    with quiet():
        syntax = transfer_syntax(file)
        dataset = read_header(file, syntax)
        vr, length = pixel_element(file, dataset, syntax)
        options = pixel_options(dataset, limits)
        if syntax in COMPRESSED and COMPRESSED[syntax].wide and options["samples_per_pixel"] > 1:
            check_size(options["columns"], options["rows"], limits, copies=WIDE_COPIES)
        kind, frames = read_kind(dataset), int(options["number_of_frames"])
        start = file.tell()
        fragments = Fragments(file, length, dataset, frames, rle=syntax == RLE) if syntax in COMPRESSED else None

    def read(frame: int) -> Decoded:
        check_frame(frame, frames, limits)
        with quiet():
            steps = _remarks(dataset, syntax, options, frame)
            if fragments is not None:
                alone = {**options, "number_of_frames": 1}
                values = decode_frame(fragments.frame(frame), transfer_syntax=syntax, options=alone, steps=steps)
            else:
                file.seek(start)
                values = native(file, syntax, vr, length, options, frame, steps)
            pixels: npt.NDArray[Any]
            if options["photometric_interpretation"] in GREY:
                pixels, white = _grey(values, dataset, options, frame, syntax, steps)[np.newaxis], 1
            elif options["photometric_interpretation"] == PALETTE:
                pixels, white = _palette(values, dataset, options, syntax, steps)
            else:
                white = (1 << options["bits_stored"]) - 1
                pixels = _colour(values, white)
        return Decoded(pixels, white, options["bits_stored"], frames, steps, kind)

    return read


def _remarks(dataset: "Dataset", syntax: str, options: dict[str, Any], frame: int) -> list[str]:
    """What the header says of the picture that no step of decoding brings out."""
    name = NATIVE.get(syntax) or COMPRESSED[syntax].name
    told = [f"DICOM, {name}, {options['photometric_interpretation']}, {options['bits_stored']} bits stored"]
    if options["number_of_frames"] > 1:
        told.append(f"frame {frame} of {options['number_of_frames']}, counted from 0")
    if number(dataset, "NumberOfFrames") == 0:
        told.append("the header says 0 frames: taken as 1")
    if str(dataset.get("LossyImageCompression", "")) == "01":
        told.append("the file says that it was compressed with loss before")
    if str(dataset.get("PresentationIntentType", "")) == "FOR PROCESSING":
        told.append("the file says that it is for processing, not for display")
    if str(dataset.get("RecommendedViewingMode", "")) == "SUB":
        told.append("the file says to subtract a mask from it: shown as stored")
    if str(dataset.get("PixelPresentation", "")) in ("COLOR", "MIXED"):
        told.append("the file colours some of its grey: shown grey")
    return told


def _functional(dataset: "Dataset", frame: int, macro: str) -> "Dataset":
    """The functional group item that holds for this frame (PS3.3 C.7.6.16), else the data set itself."""
    per_frame = dataset.get("PerFrameFunctionalGroupsSequence") or []
    shared = dataset.get("SharedFunctionalGroupsSequence") or []
    for group in (*per_frame[frame : frame + 1], *shared[:1]):
        if group.get(macro):
            item: Dataset = group.get(macro)[0]
            return item
    return dataset


def _grey(
    values: npt.NDArray[Any], dataset: "Dataset", options: dict[str, Any], frame: int, syntax: str, steps: list[str]
) -> Pixels:
    padding = None
    if (first := number(dataset, "PixelPaddingValue")) is not None:
        last = number(dataset, "PixelPaddingRangeLimit")
        # Files write the padding of signed pixels as unsigned, and the other way round: the bits are what counts.
        ends = np.array([first, first if last is None else last]).astype(np.int64).astype(values.dtype)
        padding = (int(ends[0]), int(ends[1]))
    sop_class = str(dataset.get("SOPClassUID", ""))
    transform = _functional(dataset, frame, "PixelValueTransformationSequence")
    stored = Stored(
        bits=options["bits_stored"],
        signed=bool(options["pixel_representation"]),
        inverted=_inverted(dataset, options["photometric_interpretation"], steps),
        padding=padding,
        big_endian=syntax == BIG_ENDIAN,
        modality_shown=sop_class not in ANGIOGRAMS,
    )
    if sop_class in ENHANCED_ANGIOGRAMS and read_modality(transform, stored).changes:
        raise UnreadableError("it has a modality LUT or rescale, which its kind of object has not", BAD_TAG)
    view = _functional(dataset, frame, "FrameVOILUTSequence")
    return grey(np.ascontiguousarray(values), stored, transform=transform, view=view, steps=steps)


def _inverted(dataset: "Dataset", photometric: str, steps: list[str]) -> str:
    """Why low stored values are light, in words; "" where they are dark. A Presentation LUT Shape has the last word."""
    if dataset.get("PresentationLUTSequence"):
        raise UnreadableError("it has a presentation LUT, which belongs to a presentation state", BAD_TAG)
    shape = str(dataset.get("PresentationLUTShape") or "").strip()
    if shape not in ("", "IDENTITY", "INVERSE"):
        raise UnreadableError("its Presentation LUT Shape is neither IDENTITY nor INVERSE", BAD_TAG)
    if not shape or (shape == "INVERSE") == (photometric == "MONOCHROME1"):
        return photometric if photometric == "MONOCHROME1" else ""
    steps.append(f"the header says {photometric} and Presentation LUT Shape {shape}: the shape is followed")
    return f"Presentation LUT Shape {shape}" if shape == "INVERSE" else ""


def _palette(
    values: npt.NDArray[Any], dataset: "Dataset", options: dict[str, Any], syntax: str, steps: list[str]
) -> tuple[npt.NDArray[Any], int]:
    """Palette colours and what is white among them; a segmented palette (few bytes that unpack to many) has no plain
    table and is refused.
    """
    low = -(1 << options["bits_stored"] - 1) if options["pixel_representation"] else 0
    ends = low, low + (1 << options["bits_stored"]) - 1
    tables = [
        read_table(dataset, descriptor, data, big_endian=syntax == BIG_ENDIAN, ends=ends)
        for descriptor, data in PALETTE_TABLES
    ]
    bits, brightest = tables[0].bits, max(int(table.entries.max()) for table in tables)
    if bits > 8 and brightest < 256:
        raise UnreadableError(f"its palette declares {bits} bits and holds none above 8: nearly black", BAD_TAG)
    steps.append(f"palette looked up ({len(tables[0].entries)} colours of {bits} bits)")
    unsigned = np.dtype(f"u{values.dtype.itemsize}")
    levels = np.arange(1 << 8 * values.dtype.itemsize, dtype=unsigned).view(values.dtype).astype(np.float64)
    white = (1 << max(table.bits for table in tables)) - 1
    shades = np.stack([np.minimum(table(levels) / ((1 << table.bits) - 1), 1.0) for table in tables]) * white
    return np.rint(shades).astype(np.uint8 if white < 256 else np.uint16)[:, values.view(unsigned)], white


def _colour(values: npt.NDArray[Any], white: int) -> npt.NDArray[Any]:
    """RGB as stored; any bits above those stored were cleared by the decoder."""
    if white < np.iinfo(values.dtype).max:
        values = np.minimum(values, white)
    return values.transpose(2, 0, 1)
