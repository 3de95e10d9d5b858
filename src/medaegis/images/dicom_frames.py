"""The stored values of one frame of a DICOM file, with as many pixels in the file as its header promises, and no more.

Source: DICOM PS3.5 A.4 (encapsulated pixel data), PS3.3 C.7.6.3.1.2 (photometric interpretation).
"""

import struct
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import numpy.typing as npt

from medaegis.images.codec import CONTRADICTION, DAMAGED, decode_frame
from medaegis.images.codestream import JP2_START, JPEG_2000_START, JPEG_START
from medaegis.images.dicom_header import UNDEFINED
from medaegis.images.limits import UnreadableError

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

Values = npt.NDArray[np.integer[Any]]
ITEM = b"\xfe\xff\x00\xe0"
RLE = "1.2.840.10008.1.2.5"
FRAGMENTS = 1_000_000  # more are no picture: the longest film has far fewer


def compressed(
    file: BinaryIO, dataset: "Dataset", syntax: str, length: int, options: dict[str, Any], frame: int, steps: list[str]
) -> Values:
    """A frame of compressed pixel data, in RGB if in colour; only its own fragments are unpacked."""
    from pydicom.encaps import get_frame

    if length != UNDEFINED:
        raise UnreadableError("its transfer syntax is a compressed one, its pixels are not in fragments", DAMAGED)
    offsets = (dataset.get("ExtendedOffsetTable"), dataset.get("ExtendedOffsetTableLengths"))
    frames = options["number_of_frames"]
    pictures = _pictures(file, frames, rle=syntax == RLE, extended=offsets[0] or b"")
    if pictures != frames:
        raise UnreadableError(f"its header declares {frames} frames, its compressed pixels hold {pictures}", DAMAGED)
    codestream = get_frame(file, frame, number_of_frames=frames, extended_offsets=offsets if all(offsets) else None)
    return decode_frame(codestream, transfer_syntax=syntax, options={**options, "number_of_frames": 1}, steps=steps)


def _pictures(file: BinaryIO, frames: int, *, rle: bool, extended: bytes) -> int:
    """How many pictures the fragments hold: by the offset table, or else counted; leaves the file where it was.

    An empty table is allowed, and one entry for one frame may stand before the fragments of several. Where fragments
    are fewer than frames, or split in a way that only a decoder can tell, pydicom decides.
    """
    start = file.tell()
    mark, length = struct.unpack("<4sL", file.read(8))
    if mark != ITEM:
        raise UnreadableError("its compressed pixels do not begin with an offset table", DAMAGED)
    entries = len(extended) // 8 or length // 4
    if entries and (entries != frames or frames > 1):
        file.seek(start)
        return entries
    file.seek(start + 8 + length)
    found = 0
    for _ in range(FRAGMENTS):
        head = file.read(20)
        if head[:4] != ITEM or len(head) < 8:
            break
        found += rle or head[8:].startswith((JPEG_START, JPEG_2000_START, JP2_START))
        file.seek(struct.unpack("<L", head[4:8])[0] - (len(head) - 8), 1)
    else:
        raise UnreadableError(f"its compressed pixels are in more than {FRAGMENTS:,} fragments", DAMAGED)
    file.seek(start)
    return found if found > frames or (rle and found) else frames


def native(
    file: BinaryIO, syntax: str, vr: str, length: int, options: dict[str, Any], frame: int, steps: list[str]
) -> Values:
    """A frame of native pixel data, in RGB if in colour; only its own bytes are read."""
    from pydicom.pixels.decoders.base import get_decoder

    declared = options["photometric_interpretation"]
    if declared in ("YBR_ICT", "YBR_RCT"):
        raise UnreadableError(f"its pixels are not compressed and yet {declared}", CONTRADICTION)
    if length == UNDEFINED:
        raise UnreadableError("its transfer syntax is a native one, its pixels are in fragments", DAMAGED)
    if declared == "YBR_FULL_422" and (options["columns"] % 2 or options["planar_configuration"]):
        raise UnreadableError("YBR_FULL_422 needs an even number of columns and colours by pixel", CONTRADICTION)
    # PS3.3 C.7.6.3.1.2: YBR_FULL_422 stores two samples per pixel, not three.
    samples = 2 if declared == "YBR_FULL_422" else options["samples_per_pixel"]
    bits = options["rows"] * options["columns"] * samples * options["bits_allocated"] * options["number_of_frames"]
    promised = (bits + 7) // 8
    start = file.tell()
    present = min(length, file.seek(0, 2) - start)
    file.seek(start)
    if not promised <= present <= promised + promised % 2:
        raise UnreadableError(
            f"its header promises {promised:,} bytes of pixels (rows x columns x samples x bytes x frames), "
            f"it holds {present:,}",
            DAMAGED if present < promised else "have the header corrected: what it says may hold for part of them only",
        )
    values, _ = get_decoder(syntax).as_array(file, index=frame, **{**options, "pixel_vr": vr})
    if declared.startswith("YBR"):
        steps.append(f"{declared} to RGB")
    return values.astype(values.dtype.newbyteorder("="), copy=False)
