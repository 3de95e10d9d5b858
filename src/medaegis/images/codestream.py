"""What a JPEG, JPEG-LS or JPEG 2000 codestream says of itself, read from its markers before anything is unpacked.

Source: ITU-T T.81 B.2 (JPEG), T.871 (JFIF), T.872 6.5.3 (Adobe's APP14), T.87 C.2.2 (JPEG-LS), T.800 A.5 and A.6
(JPEG 2000).
"""

import re
from dataclasses import dataclass
from typing import Literal

JPEG_START, JPEG_2000_START = b"\xff\xd8\xff", b"\xff\x4f\xff\x51"
JP2_START = b"\0\0\0\x0cjP  \r\n\x87\n"
PROGRESSIVE, LOSSLESS, JPEG_LS = 0xC2, 0xC3, 0xF7
JFIF, HP, ADOBE = 0xE0, 0xE8, 0xEE
SCAN, END = 0xDA, 0xD9
RGB_IDS = tuple(b"RGB")


@dataclass(frozen=True)
class StreamHeader:
    """The header of one compressed picture.

    Attributes:
        coding: of the pixels.
        process: start-of-frame marker of a JPEG (0xC0 baseline, ..., 0xF7 JPEG-LS); 0 for JPEG 2000.
        bits: per sample.
        signed: whether samples are; JPEG 2000 only.
        ids: of the components, JPEG only.
        subsampled: some component has fewer samples than another.
        jfif: it is a JFIF file, whose colours are YCbCr.
        adobe: colour transform that Adobe's marker names: 0 none, 1 YCbCr, 2 YCCK; None without the marker.
        transformed: the decoder undoes a colour transform by itself: JPEG 2000's multiple component
            transformation, or the one that HP added to JPEG-LS.
    """

    coding: Literal["JPEG", "JPEG-LS", "JPEG 2000"]
    process: int
    rows: int
    columns: int
    samples: int
    bits: int
    signed: bool = False
    ids: tuple[int, ...] = ()
    subsampled: bool = False
    jfif: bool = False
    adobe: int | None = None
    transformed: bool = False


def read_stream_header(frame: bytes) -> StreamHeader | None:
    """The header of a codestream; None where it has none that can be followed."""
    try:
        if frame.startswith(JPEG_START):
            return _jpeg(frame)
        start = frame.find(JPEG_2000_START, 0, 4096)
        return None if start < 0 else _jpeg_2000(frame[start : start + (1 << 16)])
    except (IndexError, ValueError):
        return None


def segments(frame: bytes) -> list[tuple[int, int, int]]:
    """Marker, place and length (both with the marker's two bytes) of each JPEG segment before the first scan's data."""
    found, at = [], 2
    while at + 4 <= len(frame) and frame[at] == 0xFF:
        marker = frame[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
            continue
        length = 2 if marker == 1 or 0xD0 <= marker <= END else 2 + _word(frame, at + 2)
        found.append((marker, at, length))
        if marker in (SCAN, END):
            break
        at += length
    return found


def _word(data: bytes, at: int) -> int:
    return data[at] << 8 | data[at + 1]


def _jpeg(frame: bytes) -> StreamHeader | None:
    jfif, adobe, transformed, head = False, None, False, None
    for marker, at, length in segments(frame):
        body = frame[at + 4 : at + length]
        if marker == JFIF and body.startswith(b"JFIF\0"):
            jfif = True
        elif marker == ADOBE and body.startswith(b"Adobe") and len(body) >= 12:
            adobe = body[11]
        elif marker == HP and body.startswith(b"mrfx") and len(body) >= 5:
            transformed = body[4] != 0
        # Start of frame: C0-CF without DHT (C4), JPG (C8), DAC (CC); F7 is JPEG-LS.
        elif (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)) or marker == JPEG_LS:
            head = marker, body
    if head is None:
        return None
    process, body = head
    parts = [body[6 + 3 * k : 9 + 3 * k] for k in range(body[5])]
    return StreamHeader(
        "JPEG-LS" if process == JPEG_LS else "JPEG",
        process,
        rows=_word(body, 1),
        columns=_word(body, 3),
        samples=body[5],
        bits=body[0],
        ids=tuple(part[0] for part in parts),
        subsampled=len({part[1] for part in parts}) > 1,
        jfif=jfif,
        adobe=adobe,
        transformed=transformed,
    )


def _jpeg_2000(frame: bytes) -> StreamHeader:
    """SIZ comes first; COD, which names the component transformation, before the first tile."""
    right, bottom, left, top = (int.from_bytes(frame[at : at + 4], "big") for at in (8, 12, 16, 20))
    samples = _word(frame, 40)
    parts = [frame[42 + 3 * k : 45 + 3 * k] for k in range(samples)]
    transformed, at = False, 4 + _word(frame, 4)
    while frame[at] == 0xFF and frame[at + 1] not in (0x90, END):
        if frame[at + 1] == 0x52:
            transformed = frame[at + 8] == 1
        at += 2 + _word(frame, at + 2)
    return StreamHeader(
        "JPEG 2000",
        0,
        bottom - top,
        right - left,
        samples,
        bits=max((part[0] & 0x7F) + 1 for part in parts),
        signed=bool(parts[0][0] & 0x80),
        subsampled=len({bytes(part) for part in parts}) > 1 or any(part[1:] != b"\1\1" for part in parts),
        transformed=transformed,
    )


def glued(frame: bytes) -> bool:
    """Whether another picture begins right after the end of one."""
    return bool(re.search(rb"\xff\xd9\0{0,15}(\xff\xd8\xff|\xff\x4f\xff\x51)", frame))
