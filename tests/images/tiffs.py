"""TIFF files written by hand from TIFF 6.0, of every kind that no library here writes."""

import struct
import zlib

import numpy as np

CODES = {1: "B", 3: "H", 4: "L", 16: "Q"}


def bits_of(rows: np.ndarray, bits: int, order: str) -> bytes:
    """Rows of values as packed bytes, each row from a byte of its own."""
    flat = rows.reshape(len(rows), -1)
    if bits == 16:
        return flat.astype(f"{order}u2").tobytes()
    singles = (flat[:, :, None].astype(np.uint32) >> np.arange(bits - 1, -1, -1)) & 1
    return np.packbits(singles.reshape(len(rows), -1).astype(np.uint8), axis=1).tobytes()


def difference(block: np.ndarray) -> np.ndarray:
    """Predictor 2: each value less its left neighbour of the same sample."""
    return np.concatenate([block[:, :1], np.diff(block, axis=1)], axis=1)


def write_tiff(
    values: np.ndarray,
    bits: int,
    *,
    order: str = "<",
    big: bool = False,
    photometric: int = 1,
    planar: bool = False,
    rows: int | None = None,
    tile: int | None = None,
    deflate: bool = False,
    predictor: bool = False,
    more: dict[int, tuple[int, ...]] | None = None,
    pages: int = 1,
) -> bytes:
    """The file of `values` (H, W) or (H, W, samples), `pages` times over."""
    values = values.reshape(*values.shape[:2], -1)
    height, width, samples = values.shape
    down = tile or rows or height
    blocks = []
    for plane in np.split(values, samples, axis=2) if planar else [values]:
        for top in range(0, height, down):
            for left in range(0, width, tile or width):
                block = plane[top : top + down, left : left + (tile or width)]
                if tile:
                    block = np.pad(block, [(0, tile - block.shape[0]), (0, tile - block.shape[1]), (0, 0)], "edge")
                packed = bits_of(difference(block) if predictor else block, bits, order)
                blocks.append(zlib.compress(packed) if deflate else packed)
    pointer, count, size = ("Q", "Q", 20) if big else ("L", "H", 12)
    head = 16 if big else 8
    starts = np.cumsum([head, *map(len, blocks)]).tolist()
    tags = {256: (width,), 257: (height,), 258: (bits,) * samples, 259: (8 if deflate else 1,), 262: (photometric,)}
    tags |= {277: (samples,), 284: (2 if planar else 1,), 317: (2 if predictor else 1,)}
    place, sizes = (324, 325) if tile else (273, 279)
    tags |= {322: (tile,), 323: (tile,)} if tile else {278: (down,)}
    tags |= {place: tuple(starts[:-1]), sizes: tuple(map(len, blocks))} | (more or {})
    data = b"".join(blocks)
    first, chain = head + len(data), b""
    for page in range(pages):
        entries, extra = b"", b""
        at = first + len(chain)
        after = at + struct.calcsize("=" + count) + size * len(tags) + struct.calcsize("=" + pointer)
        for tag, given in sorted(tags.items()):
            code = 4 if max(given) > 65535 or tag in (273, 279, 324, 325) else 3
            value = struct.pack(f"{order}{len(given)}{CODES[code]}", *given)
            room = size - (12 if big else 8)
            if len(value) > room:
                value, extra = struct.pack(order + pointer, after + len(extra)), extra + value
            entries += struct.pack(f"{order}HH{pointer}", tag, code, len(given)) + value.ljust(room, b"\0")
        following = after + len(extra) if page + 1 < pages else 0
        chain += struct.pack(order + count, len(tags)) + entries + struct.pack(order + pointer, following) + extra
    mark = b"MM" if order == ">" else b"II"
    if big:
        return mark + struct.pack(f"{order}HHHQ", 43, 8, 0, first) + data + chain
    return mark + struct.pack(f"{order}HL", 42, first) + data + chain
