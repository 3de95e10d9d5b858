"""A PNG's chunks, checked before Pillow decodes it: checksums, order, and that its data hold the whole picture.

Source: PNG (third edition), W3C 2025, sections 5, 7 and 11.
"""

import struct
import zlib
from dataclasses import dataclass
from typing import BinaryIO

from medaegis.images.limits import Limits, UnreadableError, check_size

SIGNATURE = 8
BLOCK = 1 << 20
MAX_ANCILLARY = 1 << 24  # Pillow holds such a chunk whole
MAX_CHUNKS = 1_000_000
SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
# Start and step of the seven passes of an interlaced picture: x, y, step in x, step in y.
PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))


@dataclass(frozen=True)
class Header:
    """What its header and its transparency chunk say.

    Attributes:
        depth: bits per sample, or per palette index.
        colour: colour type: 0 grey, 2 RGB, 3 palette, 4 grey with alpha, 6 RGB with alpha.
        key: the one grey level or colour that is transparent, in `depth` bits; None: none is.
    """

    depth: int
    colour: int
    key: tuple[int, ...] | None


def check_png(file: BinaryIO, limits: Limits) -> Header:
    """Go through all chunks.

    Raises:
        UnreadableError: damage, also such that decoders pass over: a checksum, data for less or more than the picture.
    """
    file.seek(SIGNATURE)
    header, key, packed = b"", None, None
    for _ in range(MAX_CHUNKS):
        head = file.read(8)
        if len(head) < 8:
            raise damaged()
        length, name = struct.unpack(">L4s", head)
        if not header and (name != b"IHDR" or length != 13):
            raise damaged()
        check, kept = zlib.crc32(name), b""
        while length:
            if name != b"IDAT" and length > MAX_ANCILLARY:
                raise UnreadableError(f"it has a chunk of {length:,} bytes that is no picture", "save it again")
            part = file.read(min(length, BLOCK))
            if not part:
                raise damaged()
            length -= len(part)
            check = zlib.crc32(part, check)
            if name == b"IDAT":
                packed = packed or _Data(_bytes_of(header))
                packed.add(part)
            elif name in (b"IHDR", b"tRNS", b"acTL"):
                kept += part
        if file.read(4) != check.to_bytes(4, "big"):
            raise damaged()
        if name == b"IHDR":
            header = kept
            width, height = struct.unpack(">LL", header[:8])
            check_size(width, height, limits)
            if header[9] not in SAMPLES:
                raise damaged()
        elif name == b"tRNS" and header[9] in (0, 2):
            if len(kept) != 2 * SAMPLES[header[9]]:
                raise damaged()
            key = struct.unpack(f">{len(kept) // 2}H", kept)
        elif name == b"acTL":
            (frames,) = struct.unpack(">L", kept[:4]) if len(kept) >= 4 else (0,)
            if frames > 1:
                problem = f"it is an animation of {frames} frames"
                raise UnreadableError(problem, "save the frame that is meant as a still")
        elif name == b"IEND":
            break
    if packed is None or not packed.whole():
        raise damaged()
    return Header(header[8], header[9], key)


class _Data:
    """The compressed picture, unpacked block by block and thrown away, for its length and its checksum."""

    def __init__(self, expected: int) -> None:
        self.left, self.stream = expected, zlib.decompressobj()

    def add(self, part: bytes) -> None:
        while part and not self.stream.eof:
            try:
                self.left -= len(self.stream.decompress(part, BLOCK))
            except zlib.error:
                raise damaged() from None
            part = self.stream.unconsumed_tail
            if self.left < 0:
                problem = "it holds more pixels than its header declares, so one of the two is wrong"
                raise UnreadableError(problem, "export it again")

    def whole(self) -> bool:
        return self.left == 0 and self.stream.eof


def _bytes_of(header: bytes) -> int:
    """Bytes of the unpacked picture, a filter byte before every row (PNG 7.2, 8)."""
    width, height, depth, colour, _, _, interlace = struct.unpack(">LLBBBBB", header)
    passes = PASSES if interlace else ((0, 0, 1, 1),)
    total = 0
    for x, y, step_x, step_y in passes:
        columns, rows = (width - x + step_x - 1) // step_x, (height - y + step_y - 1) // step_y
        if columns > 0 and rows > 0:
            total += rows * (1 + (columns * SAMPLES[colour] * depth + 7) // 8)
    return total


def damaged() -> UnreadableError:
    return UnreadableError("its PNG data are damaged or cut short", "copy or export it again")
