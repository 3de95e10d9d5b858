"""TIFF: the pages of a file, listed once, and one page to sample values. Only that page's bytes are read.

What stands between the bytes and the values (byte order, packed bits, planes, predictor, tiles) is done here; a
compressed strip or tile is unpacked by zlib, by libtiff or by libjpeg, the last two in a child process.
Source: TIFF 6.0; BigTIFF (libtiff's design, 2007); Adobe's TIFF technical notes.
"""

import io
import struct
import zlib
from collections.abc import Iterable, Iterator
from itertools import product
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from medaegis.images.isolated import ask
from medaegis.images.jpeg import Codestream, decode_jpeg
from medaegis.images.limits import Limits, UnreadableError, check_frame
from medaegis.images.tiff_page import (
    BLACK_IS_ZERO,
    BYTES,
    DEFLATE,
    FAX,
    JPEG,
    MAX_ENTRIES,
    MAX_VALUES,
    NONE,
    RGB,
    TAGS,
    TYPES,
    YCBCR,
    Page,
    check_page,
    damaged,
)

Values = npt.NDArray[Any]
BAND_BYTES = 4 << 20  # unpacked at once


class Tiff:
    """An open TIFF or BigTIFF file.

    Raises:
        UnreadableError: no chain of directories leads through it, or it has more pages than the limit.
    """

    def __init__(self, file: BinaryIO, limits: Limits) -> None:
        self.file, self.limits = file, limits
        self.end = file.seek(0, 2)
        head = self._bytes(0, 8)
        self.order = ">" if head[:2] == b"MM" else "<"
        self.big = head[2:4] in (b"+\0", b"\0+")
        self.pointer, self.count = ("Q", "Q") if self.big else ("L", "H")  # struct codes: a place, a number
        if self.big and head[4:8] not in (b"\x08\0\0\0", b"\0\x08\0\0"):
            raise damaged()
        self.pages = list(self._chain())

    def _bytes(self, offset: int, count: int) -> bytes:
        if offset + count > self.end:
            raise damaged()
        self.file.seek(offset)
        return self.file.read(count)

    def _numbers(self, code: str, data: bytes) -> tuple[int, ...]:
        return struct.unpack(f"{self.order}{len(data) // struct.calcsize('=' + code)}{code}", data)

    def _number(self, code: str, offset: int) -> int:
        return self._numbers(code, self._bytes(offset, struct.calcsize("=" + code)))[0]

    def _chain(self) -> Iterator[int]:
        """Where each directory lies; each is gone to once."""
        entry = 20 if self.big else 12
        seen: set[int] = set()
        at = self._number(self.pointer, 8 if self.big else 4)
        while at:
            if at in seen:
                raise damaged()
            seen.add(at)
            check_frame(0, len(seen), self.limits)
            yield at
            entries = self._number(self.count, at)
            at = self._number(self.pointer, at + struct.calcsize("=" + self.count) + entries * entry)
        if not seen:
            raise damaged()

    def page(self, frame: int) -> Page:
        """What the directory of a page says, if its picture is of a kind that is read here."""
        check_frame(frame, len(self.pages), self.limits)
        return check_page(self._entries(self.pages[frame]), self.limits)

    def _entries(self, at: int) -> dict[str, tuple[int, ...]]:
        """The entries of a directory by name; of two with the same tag the first."""
        size, inline = (20, 8) if self.big else (12, 4)
        count = self._number(self.count, at)
        if count > MAX_ENTRIES:
            raise damaged()
        table = self._bytes(at + (8 if self.big else 2), count * size)
        found: dict[str, tuple[int, ...]] = {}
        for i in range(count):
            tag, kind = self._numbers("H", table[i * size : i * size + 4])
            if tag not in TAGS or kind not in TYPES or TAGS[tag][0] in found:
                continue
            (number,) = self._numbers(self.pointer, table[i * size + 4 : i * size + 4 + inline])
            length = number * struct.calcsize("=" + TYPES[kind])
            value = table[(i + 1) * size - inline : (i + 1) * size]
            if number > MAX_VALUES:
                raise damaged()
            if length > inline:
                value = self._bytes(self._numbers(self.pointer, value)[0], length)
            found[TAGS[tag][0]] = self._numbers(TYPES[kind], value[:length])
        return found

    def values(self, page: Page) -> Values:
        """Sample values (height, width, samples): uint8 up to 8 bits, else uint16; JPEG's YCbCr is RGB."""
        out = np.empty((page.height, page.width, page.samples), np.uint8 if page.bits <= 8 else np.uint16)
        across, down = page.sides
        samples = 1 if page.planar else page.samples
        places = product(range(page.samples // samples), range(down), range(across))
        for (plane, row, column), rows in zip(places, self._chunks(page, samples), strict=True):
            left, y = column * page.chunk[0], row * page.chunk[1]
            for part in rows:
                shown = part[: max(0, page.height - y), : page.width - left]
                out[y : y + len(shown), left : left + shown.shape[1], plane : plane + samples] = shown
                y += len(part)
        return out

    def _chunks(self, page: Page, samples: int) -> Iterator[Iterable[Values]]:
        """Each chunk as parts (rows, chunk width, samples)."""
        row_bytes = -(-page.chunk[0] * samples * page.bits // 8)
        across, down = page.sides
        heights = [
            page.chunk[1] if page.tiled else min(page.chunk[1], page.height - row * page.chunk[1])
            for _ in range(page.samples // samples)
            for row in range(down)
            for _ in range(across)
        ]
        if any(offset + count > self.end for offset, count in page.chunks):
            raise damaged()
        at = 0
        while at < len(heights):
            group = 1
            if page.compression in BYTES or page.compression in FAX:  # a question to libtiff for several small ones
                group = max(1, min(len(heights) - at, BAND_BYTES // (row_bytes * page.chunk[1])))
            part, tall = page.chunks[at : at + group], heights[at : at + group]
            at += group
            if page.compression == JPEG:
                yield [_jpeg(page, self._bytes(*part[0]), tall[0], samples)]
                continue
            if page.compression == NONE:
                if part[0][1] < row_bytes * tall[0]:
                    raise damaged()
                self.file.seek(part[0][0])
                source: Any = self.file
            elif page.compression in DEFLATE:
                source = _Inflated(self.file, *part[0])
            else:
                packed = [self._bytes(*one) for one in part]
                source = io.BytesIO(_by_libtiff(page, packed, tall, row_bytes))
            for height in tall:
                yield self._rows(page, source, height, row_bytes, samples)

    def _rows(self, page: Page, source: Any, height: int, row_bytes: int, samples: int) -> Iterator[Values]:
        band = max(1, BAND_BYTES // row_bytes)
        for start in range(0, height, band):
            rows = min(band, height - start)
            data = source.read(rows * row_bytes)
            if len(data) != rows * row_bytes:
                raise damaged()
            packed = np.frombuffer(data, np.uint8).reshape(rows, row_bytes)
            if page.fill_order == 2 and page.compression not in FAX:
                packed = np.packbits(np.unpackbits(packed, axis=1, bitorder="little"), axis=1)
            values = _unpacked(packed, page.bits, page.chunk[0] * samples, self.order)
            values = values.reshape(rows, page.chunk[0], samples)
            yield np.cumsum(values, axis=1, dtype=values.dtype) if page.predictor else values


class _Inflated:
    """A zlib stream in a file, read and unpacked no further than it is asked for."""

    def __init__(self, file: BinaryIO, offset: int, count: int) -> None:
        self.file, self.at, self.end = file, offset, offset + count
        self.stream = zlib.decompressobj()

    def read(self, count: int) -> bytes:
        parts: list[bytes] = []
        while count and not self.stream.eof:
            packed = self.stream.unconsumed_tail
            if not packed:
                self.file.seek(self.at)
                packed = self.file.read(min(BAND_BYTES, self.end - self.at))
                self.at += len(packed)
            parts.append(self.stream.decompress(packed, count))
            count -= len(parts[-1])
            if not packed and not parts[-1]:
                break
        return b"".join(parts)


def _unpacked(packed: npt.NDArray[np.uint8], bits: int, count: int, order: str) -> Values:
    """Rows of packed bytes to (rows, count) values; the first value is in the highest bits."""
    if bits == 8:
        return packed
    if bits == 16:
        return packed.view(f"{order}u2").astype(np.uint16)
    singles = np.unpackbits(packed, axis=1)[:, : count * bits].reshape(len(packed), count, bits)
    values = np.zeros((len(packed), count), np.uint8 if bits < 8 else np.uint16)
    for i in range(bits):
        values = values << 1 | singles[:, :, i]
    return values


def _by_libtiff(page: Page, packed: list[bytes], heights: list[int], row_bytes: int) -> bytes:
    """Chunks unpacked by libtiff, in a child process, as the strips of a file of plain bytes or fax lines."""
    fax = page.compression in FAX
    width, bits = (page.chunk[0], 1) if fax else (row_bytes, 8)
    tags = {256: width, 257: sum(heights), 258: bits, 259: page.compression, 262: BLACK_IS_ZERO, 277: 1}
    tags |= {266: page.fill_order if fax else 1, 278: page.chunk[1]}
    if fax:
        tags |= {292: page.fax_options[0], 293: page.fax_options[1]}
    total = sum(map(len, packed))
    lists = {273: np.cumsum([8, *map(len, packed[:-1])]).tolist(), 279: [len(one) for one in packed]}
    tail, entries = b"", {tag: struct.pack("<HHLL", tag, 4, 1, value) for tag, value in tags.items()}
    for tag, values in lists.items():
        place = values[0] if len(values) == 1 else 8 + total + len(tail)
        tail += b"" if len(values) == 1 else struct.pack(f"<{len(values)}L", *values)
        entries[tag] = struct.pack("<HHLL", tag, 4, len(values), place)
    head = b"II*\0" + struct.pack("<L", 8 + total + len(tail))
    tail += struct.pack("<H", len(entries)) + b"".join(entries[tag] for tag in sorted(entries)) + bytes(4)
    answer = ask({"task": "raster", "format": "TIFF"}, head, *packed, tail)
    if answer is None:
        raise UnreadableError("its compressed TIFF data cannot be decoded: damaged or cut short", "export it again")
    return answer[1]


def _jpeg(page: Page, data: bytes, height: int, samples: int) -> Values:
    """A chunk that is a JPEG of its own, but for the tables that all chunks share (Adobe TIFF technical note 2)."""
    tables = page.tables[2:-2] if page.tables[:2] == b"\xff\xd8" and page.tables[-2:] == b"\xff\xd9" else b""
    code = Codestream(io.BytesIO(b"\xff\xd8" + tables + data[2:]))
    code.check_kind()
    if (code.columns, code.samples) != (page.chunk[0], samples) or not height <= code.rows <= page.chunk[1]:
        problem = "the JPEG in it has another size or another number of samples than its page"
        raise UnreadableError(problem, "export it again")
    # The colours are as the directory says, so no marker that says otherwise may be left.
    return decode_jpeg(code, {RGB: "RGB", YCBCR: "YBR_FULL"}.get(page.photometric, "grey"))[:height]
