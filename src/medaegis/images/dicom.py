"""One frame of a DICOM file to pixels in [0, 1]: header, limits, frame, decoder, then display values (`voi.py`).

Only the elements below are read from the file, none of them about a patient, so none can reach a message or a log.
Source: DICOM PS3.3 C.7.6.3 (image pixel), PS3.5 annex A (transfer syntaxes).
"""

import struct
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import numpy.typing as npt

from medaegis.images.codec import COMPRESSED, DAMAGED, decode_frame
from medaegis.images.limits import Limits, UnreadableError, check_frame, check_size, quiet
from medaegis.images.voi import BAD_TAG, Stored, grey, number, read_table

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

NATIVE = {
    "1.2.840.10008.1.2": "Implicit VR Little Endian",
    "1.2.840.10008.1.2.1": "Explicit VR Little Endian",
    "1.2.840.10008.1.2.2": "Explicit VR Big Endian",
}
BIG_ENDIAN = "1.2.840.10008.1.2.2"
DEFLATED = "1.2.840.10008.1.2.1.99"
JPEG_EXTENDED = "1.2.840.10008.1.2.4.51"
CONVERT = "convert it to Explicit VR Little Endian or JPEG 2000"
GREY = ("MONOCHROME1", "MONOCHROME2")
COLOUR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
PALETTE = "PALETTE COLOR"
PALETTE_TABLES = [
    (f"{colour}PaletteColorLookupTableDescriptor", f"{colour}PaletteColorLookupTableData")
    for colour in ("Red", "Green", "Blue")
]
HEADER = [
    *("SOPClassUID", "SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration", "NumberOfFrames"),
    *("Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation"),
    *("PixelPaddingValue", "PixelPaddingRangeLimit", "RescaleSlope", "RescaleIntercept", "ModalityLUTSequence"),
    *("WindowCenter", "WindowWidth", "VOILUTFunction", "VOILUTSequence", "LossyImageCompression"),
    *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"),
    *("ExtendedOffsetTable", "ExtendedOffsetTableLengths"),
    *(keyword for pair in PALETTE_TABLES for keyword in pair),
]
PIXEL_DATA, UNDEFINED = 0x7FE00010, 0xFFFFFFFF

Pixels = npt.NDArray[np.float32]


def read_dicom(file: BinaryIO, *, frame: int, limits: Limits) -> tuple[Pixels, int, int, list[str]]:
    """Decode one frame of a DICOM file.

    Args:
        file: open at its start, its "DICM" mark already seen.
        frame: counted from 0.
        limits: bounds on what the header declares; nothing is unpacked before they are checked.

    Returns:
        Pixels float32 `(1 or 3, H, W)` in [0, 1], bits stored, number of frames, steps in words.

    Raises:
        UnreadableError: a stated reason; any other exception means that the file is damaged.
    """
    with quiet():
        syntax = _transfer_syntax(file)
        dataset = _header(file, syntax)
        vr, length = _pixel_element(file, dataset, syntax)
        options = _options(dataset, frame, limits)
        frames = int(options["number_of_frames"])
        if syntax in COMPRESSED:
            values, photometric = _compressed(file, dataset, syntax, length, options, frame)
        else:
            values, photometric = _native(file, syntax, vr, length, options, frame)
        name = NATIVE.get(syntax) or COMPRESSED[syntax][0]
        declared = options["photometric_interpretation"]
        bits = int(options["bits_stored"])
        steps = [f"DICOM, {name}, {declared}, {bits} bits stored"]
        if frames > 1:
            steps.append(f"frame {frame} of {frames}, counted from 0")
        if str(dataset.get("LossyImageCompression", "")) == "01":
            steps.append("the file says that it was compressed with loss before")
        if declared in GREY:
            pixels = _grey(values, dataset, options, frame, syntax, steps)[np.newaxis]
        elif declared == PALETTE:
            pixels = _palette(values, dataset, syntax, steps)
        else:
            if photometric != "RGB":
                raise UnreadableError("its colours could not be brought to RGB", "export it as RGB")
            if declared != "RGB":
                steps.append(f"{declared} to RGB")
            pixels = _colour(values, bits)
    return np.ascontiguousarray(pixels, dtype=np.float32), bits, frames, steps


def _transfer_syntax(file: BinaryIO) -> str:
    """From the file meta group alone: pydicom would go on to unpack a deflated file without bound."""
    from pydicom.filereader import read_dataset

    file.seek(132)  # preamble and "DICM"
    meta = read_dataset(file, False, True, stop_when=lambda tag, vr, length: tag >> 16 != 2)
    syntax = str(meta.get("TransferSyntaxUID") or "").strip()
    if syntax in NATIVE or syntax in COMPRESSED:
        return syntax
    if not syntax:
        raise UnreadableError("its file meta group names no transfer syntax", DAMAGED)
    if syntax == DEFLATED:
        raise UnreadableError("it is deflated as a whole, which can hide a bomb", CONVERT)
    shown = syntax if len(syntax) <= 64 and set(syntax) <= set("0123456789.") else "not a UID"
    raise UnreadableError(f"its transfer syntax ({shown}) is unknown or not supported", CONVERT)


def _header(file: BinaryIO, syntax: str) -> "Dataset":
    """The elements of `HEADER`; leaves the file at the pixel data element, or at its end."""
    from pydicom.datadict import tag_for_keyword
    from pydicom.filereader import read_dataset

    wanted = [tag for tag in map(tag_for_keyword, HEADER) if tag is not None]
    return read_dataset(
        file,
        NATIVE.get(syntax, "").startswith("Implicit"),
        syntax != BIG_ENDIAN,
        stop_when=lambda tag, vr, length: tag >> 16 == PIXEL_DATA >> 16 and tag & 0xFFFF in (8, 9, 0x10),
        specific_tags=list(wanted),
    )


def _pixel_element(file: BinaryIO, dataset: "Dataset", syntax: str) -> tuple[str, int]:
    """VR and length of the pixel data element; leaves the file at the first byte of its value."""
    implicit = bool(dataset.original_encoding[0])
    order = ">" if syntax == BIG_ENDIAN else "<"
    head = file.read(8 if implicit else 12)
    if len(head) < (8 if implicit else 12):
        if "Rows" in dataset:
            raise UnreadableError("it has an image header but no pixel data: cut short, or header only", DAMAGED)
        uid = dataset.get("SOPClassUID")
        kind = uid.name if uid and uid.type == "SOP Class" else "of an unknown class"
        raise UnreadableError(
            f"it holds no pixel data (its object is {kind}; an image may have been cut short)",
            "give an image object of the same study",
        )
    group, element = struct.unpack(f"{order}HH", head[:4])
    if group << 16 | element != PIXEL_DATA:
        raise UnreadableError(
            "its pixels are floating-point measurements, of which no value is known to be white",
            "give the picture that they were computed from",
        )
    (length,) = struct.unpack(f"{order}L", head[-4:])
    return "OW" if implicit else head[4:6].decode("ascii", "replace"), int(length)


def _whole(dataset: "Dataset", keyword: str, *, default: int | None = None) -> int:
    value = number(dataset, keyword)
    if value is None:
        if default is None:
            raise UnreadableError(f"its header lacks {keyword}", BAD_TAG)
        return default
    if value != int(value):
        raise UnreadableError(f"its {keyword} is not a whole number", BAD_TAG)
    return int(value)


def _options(dataset: "Dataset", frame: int, limits: Limits) -> dict[str, Any]:
    """The image pixel module as pydicom's decoding options, every value checked (PS3.3 C.7.6.3)."""
    photometric = str(dataset.get("PhotometricInterpretation") or "").strip()
    if photometric not in (*GREY, *COLOUR, PALETTE):
        known = photometric if photometric in ("ARGB", "CMYK", "HSV", "YBR_PARTIAL_420", "YBR_PARTIAL_422") else ""
        raise UnreadableError(
            f"its photometric interpretation ({known or 'missing or unknown'}) is not supported",
            "export it as MONOCHROME2 or RGB",
        )
    samples = _whole(dataset, "SamplesPerPixel")
    options: dict[str, Any] = {
        "rows": _whole(dataset, "Rows"),
        "columns": _whole(dataset, "Columns"),
        "samples_per_pixel": samples,
        "bits_allocated": _whole(dataset, "BitsAllocated"),
        "bits_stored": _whole(dataset, "BitsStored"),
        "pixel_representation": _whole(dataset, "PixelRepresentation"),
        "number_of_frames": _whole(dataset, "NumberOfFrames", default=1),
        "photometric_interpretation": photometric,
        "pixel_keyword": "PixelData",
    }
    if samples != (3 if photometric in COLOUR else 1):
        raise UnreadableError(f"it declares {samples} samples per pixel for {photometric}", BAD_TAG)
    if samples > 1:
        options["planar_configuration"] = _whole(dataset, "PlanarConfiguration", default=0)
    allocated, stored = options["bits_allocated"], options["bits_stored"]
    if allocated not in (1, 8, 16) or not 1 <= stored <= allocated:
        raise UnreadableError(
            f"it stores {stored} of {allocated} bits per value; 1, 8 and 16 allocated bits are read",
            "give the picture itself, not a dose or measurement map",
        )
    high = _whole(dataset, "HighBit", default=stored - 1)
    if high != stored - 1:
        raise UnreadableError(f"its HighBit is {high}, where {stored - 1} was expected", BAD_TAG)
    if options["pixel_representation"] not in (0, 1) or (samples > 1 and options["pixel_representation"]):
        raise UnreadableError("its PixelRepresentation does not fit the picture", BAD_TAG)
    check_size(options["columns"], options["rows"], limits)
    check_frame(frame, options["number_of_frames"], limits)
    return options


def _compressed(
    file: BinaryIO, dataset: "Dataset", syntax: str, length: int, options: dict[str, Any], frame: int
) -> tuple[npt.NDArray[Any], str]:
    """The frame's stored values and their photometric interpretation; only its own fragments are read."""
    from pydicom.encaps import get_frame

    if length != UNDEFINED:
        raise UnreadableError("its compressed pixels are not in fragments", DAMAGED)
    offsets = (dataset.get("ExtendedOffsetTable"), dataset.get("ExtendedOffsetTableLengths"))
    codestream = get_frame(
        file,
        frame,
        number_of_frames=options["number_of_frames"],
        extended_offsets=offsets if all(offsets) else None,
    )
    if syntax == JPEG_EXTENDED and options["bits_stored"] > 8:
        raise UnreadableError("it is JPEG Extended with 12 bits, for which there is no decoder", CONVERT)
    return decode_frame(codestream, transfer_syntax=syntax, options={**options, "number_of_frames": 1})


def _native(
    file: BinaryIO, syntax: str, vr: str, length: int, options: dict[str, Any], frame: int
) -> tuple[npt.NDArray[Any], str]:
    """The frame's stored values and their photometric interpretation; only its own bytes are read."""
    from pydicom.pixels.decoders.base import get_decoder

    # PS3.3 C.7.6.3.1.2: YBR_FULL_422 stores two samples per pixel, not three.
    samples = 2 if options["photometric_interpretation"] == "YBR_FULL_422" else options["samples_per_pixel"]
    bits = options["rows"] * options["columns"] * samples * options["bits_allocated"] * options["number_of_frames"]
    start = file.tell()
    present = min(length, file.seek(0, 2) - start)
    file.seek(start)
    if present < (bits + 7) // 8:
        raise UnreadableError(
            f"its header promises {(bits + 7) // 8:,} bytes of pixels (rows x columns x samples x bytes x frames), "
            f"it holds {present:,}",
            DAMAGED,
        )
    values, properties = get_decoder(syntax).as_array(file, index=frame, **{**options, "pixel_vr": vr})
    return values.astype(values.dtype.newbyteorder("="), copy=False), str(properties["photometric_interpretation"])


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
    stored = Stored(
        bits=options["bits_stored"],
        signed=bool(options["pixel_representation"]),
        inverted=options["photometric_interpretation"] == "MONOCHROME1",
        padding=padding,
        big_endian=syntax == BIG_ENDIAN,
    )
    return grey(
        np.ascontiguousarray(values),
        stored,
        transform=_functional(dataset, frame, "PixelValueTransformationSequence"),
        view=_functional(dataset, frame, "FrameVOILUTSequence"),
        steps=steps,
    )


def _palette(values: npt.NDArray[Any], dataset: "Dataset", syntax: str, steps: list[str]) -> Pixels:
    """Palette colours; a segmented palette (few bytes that unpack to many) has no plain table and is refused."""
    channels = []
    for descriptor, data in PALETTE_TABLES:
        table = read_table(dataset, descriptor, data, big_endian=syntax == BIG_ENDIAN)
        channels.append(table(values.astype(np.float64)) / (2**table.bits - 1))
    steps.append(f"palette looked up ({len(table.entries)} colours of {table.bits} bits)")
    pixels: Pixels = np.clip(np.stack(channels), 0.0, 1.0).astype(np.float32)
    return pixels


def _colour(values: npt.NDArray[Any], bits: int) -> Pixels:
    """RGB as stored; any bits above those stored were cleared by the decoder."""
    pixels: Pixels = np.minimum(values.astype(np.float32) / np.float32((1 << bits) - 1), np.float32(1))
    return pixels.transpose(2, 0, 1)
