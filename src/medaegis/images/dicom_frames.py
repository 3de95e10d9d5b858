"""The stored values of one frame of a DICOM file, with as many pixels in the file as its header promises, and no more.

Source: DICOM PS3.5 A.4 (encapsulated pixel data), PS3.3 C.7.6.3.1.2 (photometric interpretation).
"""

import struct
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import numpy.typing as npt

from medaegis.images.codec import CONTRADICTION, DAMAGED, ybr_to_rgb
from medaegis.images.codestream import JP2_START, JPEG_2000_START, JPEG_START
from medaegis.images.dicom_header import UNDEFINED
from medaegis.images.limits import UnreadableError

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

Values = npt.NDArray[np.integer[Any]]
ITEM = b"\xfe\xff\x00\xe0"
RLE = "1.2.840.10008.1.2.5"
FRAGMENTS = 1_000_000  # more are no picture: the longest film has far fewer


class Fragments:
    """Compressed pixel data: which fragments each frame has, found once for a file.

    Args:
        file: at the first item, the offset table.
        length: of the pixel data element.
        frames: as the header declares.
        rle: a frame of RLE is one fragment; of other codings, a fragment that starts a codestream starts a frame.

    Raises:
        UnreadableError: they hold another number of frames.
    """

    def __init__(self, file: BinaryIO, length: int, dataset: "Dataset", frames: int, *, rle: bool) -> None:
        self._file, self._start, self._frames = file, file.tell(), frames
        if length != UNDEFINED:
            raise UnreadableError("its transfer syntax is a compressed one, its pixels are not in fragments", DAMAGED)
        offsets = dataset.get("ExtendedOffsetTable"), dataset.get("ExtendedOffsetTableLengths")
        self._extended = offsets if all(offsets) else None
        # Places and lengths of each frame's fragments; None where an offset table tells the frames apart.
        self._parts: list[list[tuple[int, int]]] | None = None
        mark, table = struct.unpack("<4sL", file.read(8))
        if mark != ITEM:
            raise UnreadableError("its compressed pixels do not begin with an offset table", DAMAGED)
        found = len(offsets[0] or b"") // 8 or table // 4
        if found == 0 or (found == 1 and frames == 1):  # one entry may stand before the fragments of several frames
            file.seek(table, 1)
            self._parts = self._listed(rle=rle)
            found = len(self._parts)
        if found != frames:
            raise UnreadableError(f"its header declares {frames} frames, its compressed pixels hold {found}", DAMAGED)

    def _listed(self, *, rle: bool) -> list[list[tuple[int, int]]]:
        fragments, starts = [], []
        for _ in range(FRAGMENTS):
            head = self._file.read(20)
            if head[:4] != ITEM or len(head) < 8:
                break
            length, place = int.from_bytes(head[4:8], "little"), self._file.tell() - len(head) + 8
            fragments.append((place, length))
            starts.append(head[8:].startswith((JPEG_START, JPEG_2000_START, JP2_START)))
            self._file.seek(place + length)
        else:
            raise UnreadableError(f"its compressed pixels are in more than {FRAGMENTS:,} fragments", DAMAGED)
        if rle or len(fragments) == self._frames:
            return [[fragment] for fragment in fragments]
        parts: list[list[tuple[int, int]]] = []
        for fragment, first in zip(fragments, starts, strict=True):
            if first or not parts:
                parts.append([])
            parts[-1].append(fragment)
        return parts

    def frame(self, number: int) -> bytes:
        """The codestream of a frame; only its own fragments are read."""
        from pydicom.encaps import get_frame

        if self._parts is None:
            self._file.seek(self._start)
            extended = self._extended
            return get_frame(self._file, number, number_of_frames=self._frames, extended_offsets=extended)
        found = []
        for place, length in self._parts[number]:
            self._file.seek(place)
            found.append(self._file.read(length))
        return b"".join(found)


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
    values, _ = get_decoder(syntax).as_array(file, index=frame, raw=True, **{**options, "pixel_vr": vr})
    if declared.startswith("YBR"):
        values = ybr_to_rgb(values)
        steps.append(f"{declared} to RGB")
    return values.astype(values.dtype.newbyteorder("="), copy=False)
