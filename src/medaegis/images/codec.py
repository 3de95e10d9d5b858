"""Compressed DICOM frames to arrays, each by one named decoder, in a child process with a time and a memory limit.

Which decoder, is fixed per transfer syntax: the pixels must not depend on what else is installed.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from medaegis.images.isolated import ask
from medaegis.images.limits import UnreadableError

# Transfer syntax UID (PS3.5 annex A) -> (name, pydicom decoding plugin).
COMPRESSED = {
    "1.2.840.10008.1.2.4.50": ("JPEG Baseline", "pillow"),
    "1.2.840.10008.1.2.4.51": ("JPEG Extended", "pillow"),
    "1.2.840.10008.1.2.4.57": ("JPEG Lossless", "gdcm"),
    "1.2.840.10008.1.2.4.70": ("JPEG Lossless SV1", "gdcm"),
    "1.2.840.10008.1.2.4.80": ("JPEG-LS Lossless", "gdcm"),
    "1.2.840.10008.1.2.4.81": ("JPEG-LS Near-lossless", "gdcm"),
    "1.2.840.10008.1.2.4.90": ("JPEG 2000 Lossless", "pylibjpeg"),
    "1.2.840.10008.1.2.4.91": ("JPEG 2000", "pylibjpeg"),
    "1.2.840.10008.1.2.4.201": ("HTJ2K Lossless", "pylibjpeg"),
    "1.2.840.10008.1.2.4.202": ("HTJ2K Lossless RPCL", "pylibjpeg"),
    "1.2.840.10008.1.2.4.203": ("HTJ2K", "pylibjpeg"),
    "1.2.840.10008.1.2.5": ("RLE Lossless", "pydicom"),
}
DAMAGED = "export the picture again from the archive; this copy is damaged"


def decode_frame(frame: bytes, *, transfer_syntax: str, options: dict[str, Any]) -> tuple[npt.NDArray[Any], str]:
    """Decode one compressed frame.

    Args:
        frame: the codestream, all fragments joined.
        transfer_syntax: a key of `COMPRESSED`.
        options: pydicom's decoding options (`rows`, `columns`, `bits_stored`, ...) of this one frame.

    Returns:
        Stored values `(rows, columns)` or `(rows, columns, 3)`, YBR already RGB, and their photometric interpretation.

    Raises:
        UnreadableError: the decoder refused, died, or took more than a minute.
    """
    name, plugin = COMPRESSED[transfer_syntax]
    _check_header(frame, options)
    answer = ask({"task": "dicom", "transfer_syntax": transfer_syntax, "plugin": plugin, "options": options}, frame)
    if answer is None:
        raise UnreadableError(f"its {name} data cannot be decoded: damaged, or not of the kind it declares", DAMAGED)
    head, binary = answer
    return np.frombuffer(binary, dtype=head["dtype"]).reshape(head["shape"]), str(head["photometric"])


def _check_header(frame: bytes, options: dict[str, Any]) -> None:
    """Compare what the codestream declares with what the DICOM header declares, before anything is unpacked."""
    declared = codestream_size(frame)
    if declared is None:
        return
    expected = (options["rows"], options["columns"], options["samples_per_pixel"])
    if declared != expected:
        raise UnreadableError(
            "its compressed frame is {} rows x {} columns x {} samples, its header says {} x {} x {}".format(
                *declared, *expected
            ),
            DAMAGED,
        )


def codestream_size(frame: bytes) -> tuple[int, int, int] | None:
    """(rows, columns, samples) that a JPEG, JPEG-LS or JPEG 2000 codestream declares; None where there is no header.

    Source: ITU-T T.81 B.2.2 (start of frame), T.87 C.2.2, T.800 A.5.1 (SIZ).
    """
    siz = frame.find(b"\xff\x4f\xff\x51", 0, 4096)
    if siz >= 0 and len(frame) >= siz + 42:
        right, bottom, left, top = (int.from_bytes(frame[siz + at : siz + at + 4], "big") for at in (8, 12, 16, 20))
        return bottom - top, right - left, int.from_bytes(frame[siz + 40 : siz + 42], "big")
    if frame[:2] != b"\xff\xd8":
        return None
    at = 2
    while at + 10 <= len(frame) and frame[at] == 0xFF:
        marker = frame[at + 1]
        if marker == 0xFF:
            at += 1
            continue
        # Start of frame: C0-CF without DHT (C4), JPG (C8), DAC (CC); F7 is JPEG-LS.
        if (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)) or marker == 0xF7:
            rows, columns = (int.from_bytes(frame[at + skip : at + skip + 2], "big") for skip in (5, 7))
            return rows, columns, frame[at + 9]
        at += 2 + int.from_bytes(frame[at + 2 : at + 4], "big")
    return None
