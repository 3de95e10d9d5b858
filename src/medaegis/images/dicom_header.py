"""The header of a DICOM file, every value checked, down to the first byte of its pixels.

Only the elements below are read from the file, none of them about a patient, so none can reach a message or a log.
Source: DICOM PS3.3 C.7.6.3 (image pixel), PS3.5 annex A (transfer syntaxes), PS3.10 7.1 (file meta group).
"""

import re
import struct
from typing import TYPE_CHECKING, Any, BinaryIO

from medaegis.images.codec import COMPRESSED, CONVERT, DAMAGED, GREY, PALETTE
from medaegis.images.limits import Limits, UnreadableError, check_frame, check_size
from medaegis.images.voi import BAD_TAG, number

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

NATIVE = {
    "1.2.840.10008.1.2": "Implicit VR Little Endian",
    "1.2.840.10008.1.2.1": "Explicit VR Little Endian",
    "1.2.840.10008.1.2.2": "Explicit VR Big Endian",
}
BIG_ENDIAN = "1.2.840.10008.1.2.2"
DEFLATED = "1.2.840.10008.1.2.1.99"
COLOUR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
PALETTE_TABLES = [
    (f"{colour}PaletteColorLookupTableDescriptor", f"{colour}PaletteColorLookupTableData")
    for colour in ("Red", "Green", "Blue")
]
HEADER = [
    *("SOPClassUID", "Modality", "BodyPartExamined", "PresentationIntentType", "PixelPresentation"),
    *("SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration", "NumberOfFrames"),
    *("Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation"),
    *("PixelPaddingValue", "PixelPaddingRangeLimit", "RescaleSlope", "RescaleIntercept", "ModalityLUTSequence"),
    *("WindowCenter", "WindowWidth", "VOILUTFunction", "VOILUTSequence", "LossyImageCompression"),
    *("PresentationLUTShape", "PresentationLUTSequence", "RecommendedViewingMode"),
    *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"),
    *("ExtendedOffsetTable", "ExtendedOffsetTableLengths"),
    *(keyword for pair in PALETTE_TABLES for keyword in pair),
]
PIXEL_DATA, UNDEFINED = 0x7FE00010, 0xFFFFFFFF
MARKED = 132  # bytes of preamble and "DICM"
# The first element of a data set without preamble, explicit or implicit VR: group 2, or one of those that open group 8.
_VR = rb"(?:AE|CS|DA|DT|IS|LO|OB|SH|TM|UI|UL)"
_BARE = re.compile(
    rb"\x02\0[\0-\x03]\0(?:UL\x04\0|OB\0\0|UI)"
    rb"|\x08\0[\0-\x70]\0" + _VR + rb"|\0\x08\0[\0-\x70]" + _VR + rb"|\x08\0[\0\x01]\0\x04\0\0\0"
    rb"|\x08\0\x05\0[\0-\x40]\0\0\0(?:ISO|GB|\\)|\x08\0\x08\0[\0-\x40]\0\0\0[A-Z]+\\"
    rb"|\x08\0[\x16\x18]\0[\0-\x40]\0\0\0[0-9.]{8}",
    re.DOTALL,
)


def is_bare(head: bytes) -> bool:
    """Whether a file starts as a DICOM data set does, without the preamble and "DICM" that mark a DICOM file."""
    return _BARE.match(head) is not None


def transfer_syntax(file: BinaryIO) -> str:
    """From the file meta group alone: pydicom would go on to unpack a deflated file without bound."""
    from pydicom.filereader import read_dataset
    from pydicom.uid import UID

    bare = is_bare(file.read(MARKED))
    file.seek(0 if bare else MARKED)
    meta = read_dataset(file, False, True, stop_when=lambda tag, vr, length: tag >> 16 != 2)
    syntax = str(meta.get("TransferSyntaxUID") or "").strip()
    if syntax in NATIVE or syntax in COMPRESSED:
        return syntax
    if bare and not meta:
        problem = "it is a DICOM data set without the file meta group, so that nothing says how it is encoded"
        raise UnreadableError(problem, "export it as a DICOM file")
    if not syntax:
        raise UnreadableError("its file meta group names no transfer syntax", DAMAGED)
    if syntax == DEFLATED:
        raise UnreadableError("it is deflated as a whole, which can hide a bomb", CONVERT)
    uid = UID(syntax)
    if uid.type != "Transfer Syntax":  # anything may stand there, so it is not repeated
        raise UnreadableError("its transfer syntax is not one that is registered", CONVERT)
    raise UnreadableError(f"its transfer syntax ({uid.name}) is not supported", CONVERT)


def read_header(file: BinaryIO, syntax: str) -> "Dataset":
    """The elements of `HEADER`; leaves the file at the pixel data element, or at its end."""
    from pydicom.datadict import tag_for_keyword
    from pydicom.filereader import read_dataset

    return read_dataset(
        file,
        NATIVE.get(syntax, "").startswith("Implicit"),
        syntax != BIG_ENDIAN,
        stop_when=lambda tag, vr, length: tag >> 16 == PIXEL_DATA >> 16 and tag & 0xFFFF in (8, 9, 0x10),
        specific_tags=[tag for tag in map(tag_for_keyword, HEADER) if tag is not None],
    )


def pixel_element(file: BinaryIO, dataset: "Dataset", syntax: str) -> tuple[str, int]:
    """VR and length of the pixel data element; leaves the file at the first byte of its value."""
    implicit = bool(dataset.original_encoding[0])
    order = ">" if syntax == BIG_ENDIAN else "<"
    head = file.read(8 if implicit else 12)
    if len(head) < (8 if implicit else 12):
        if "Rows" in dataset:
            raise UnreadableError("it has an image header but no pixel data: cut short, or header only", DAMAGED)
        uid = dataset.get("SOPClassUID")
        kind = uid.name if uid and uid.type == "SOP Class" else "of an unknown class"
        problem = f"it holds no pixel data (its object is {kind}; an image may have been cut short)"
        raise UnreadableError(problem, "give an image object of the same study")
    group, element = struct.unpack(f"{order}HH", head[:4])
    if group << 16 | element != PIXEL_DATA:
        problem = "its pixels are floating-point measurements, of which no value is known to be white"
        raise UnreadableError(problem, "give the picture that they were computed from")
    (length,) = struct.unpack(f"{order}L", head[-4:])
    return "OW" if implicit else head[4:6].decode("ascii", "replace"), int(length)


def _whole(dataset: "Dataset", keyword: str, *, default: int | None = None) -> int:
    value = number(dataset, keyword)
    given = dataset.get(keyword)
    if not isinstance(given, str) and hasattr(given, "__len__") and len(given) > 1:
        raise UnreadableError(f"its header gives {len(given)} values of {keyword}", BAD_TAG)
    if value is None:
        if default is None:
            raise UnreadableError(f"its header lacks {keyword}", BAD_TAG)
        return default
    if value != int(value):
        raise UnreadableError(f"its {keyword} is not a whole number", BAD_TAG)
    return int(value)


def pixel_options(dataset: "Dataset", limits: Limits) -> dict[str, Any]:
    """The image pixel module as pydicom's decoding options, every value checked (PS3.3 C.7.6.3)."""
    photometric = str(dataset.get("PhotometricInterpretation") or "").strip()
    if photometric not in (*GREY, *COLOUR, PALETTE):
        known = photometric if photometric in ("ARGB", "CMYK", "HSV", "YBR_PARTIAL_420", "YBR_PARTIAL_422") else ""
        problem = f"its photometric interpretation ({known or 'missing or unknown'}) is not supported"
        raise UnreadableError(problem, "export it as MONOCHROME2 or RGB")
    samples = _whole(dataset, "SamplesPerPixel")
    options: dict[str, Any] = {
        "rows": _whole(dataset, "Rows"),
        "columns": _whole(dataset, "Columns"),
        "samples_per_pixel": samples,
        "bits_allocated": _whole(dataset, "BitsAllocated"),
        "bits_stored": _whole(dataset, "BitsStored"),
        "pixel_representation": _whole(dataset, "PixelRepresentation"),
        "number_of_frames": _whole(dataset, "NumberOfFrames", default=1) or 1,  # 0 is written for 1
        "photometric_interpretation": photometric,
        "pixel_keyword": "PixelData",
    }
    if samples != (3 if photometric in COLOUR else 1):
        raise UnreadableError(f"it declares {samples} samples per pixel for {photometric}", BAD_TAG)
    if samples > 1:
        options["planar_configuration"] = _whole(dataset, "PlanarConfiguration", default=0)
    allocated, stored = options["bits_allocated"], options["bits_stored"]
    if allocated not in (1, 8, 16) or not 1 <= stored <= allocated:
        problem = f"it stores {stored} of {allocated} bits per value; 1, 8 and 16 allocated bits are read"
        raise UnreadableError(problem, "give the picture itself, not a dose or measurement map")
    if photometric in ("YBR_FULL", "YBR_FULL_422") and (allocated, stored) != (8, 8):
        raise UnreadableError(f"it is {photometric} with {stored} of {allocated} bits; 8 are read", "export it as RGB")
    if samples > 1 and allocated == 1:
        raise UnreadableError("it is colour of 1 bit", BAD_TAG)
    high = _whole(dataset, "HighBit", default=stored - 1)
    if high != stored - 1:
        raise UnreadableError(f"its HighBit is {high}, where {stored - 1} was expected", BAD_TAG)
    if options["pixel_representation"] not in (0, 1) or (samples > 1 and options["pixel_representation"]):
        raise UnreadableError("its PixelRepresentation does not fit the picture", BAD_TAG)
    if options["number_of_frames"] < 0:
        raise UnreadableError(f"its NumberOfFrames is {options['number_of_frames']}", BAD_TAG)
    check_size(options["columns"], options["rows"], limits)
    check_frame(0, options["number_of_frames"], limits)
    return options
