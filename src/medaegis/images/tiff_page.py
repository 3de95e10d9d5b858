"""The directory of a TIFF page: every entry checked against the others, and what kind of picture it is.

Source: TIFF 6.0 with its supplements; tag numbers are those of the standard.
"""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from medaegis.images.limits import Limits, UnreadableError, check_size, cmyk

NONE, JPEG, DEFLATE = 1, 7, (8, 32946)
FAX = (2, 3, 4)
BYTES = {5: "LZW", 32773: "PackBits", 34925: "LZMA", 50000: "Zstandard"}  # unpacked to bytes by libtiff
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, CMYK, YCBCR = 0, 1, 2, 3, 5, 6
COLOURS = {WHITE_IS_ZERO: 1, BLACK_IS_ZERO: 1, RGB: 3, PALETTE: 1, YCBCR: 3}
ASSOCIATED, UNASSOCIATED = 1, 2

SPACES = {4: "a mask", YCBCR: "YCbCr without JPEG", 8: "CIE Lab", 9: "ICC Lab", 10: "ITU Lab"}
MAX_ENTRIES = 4096
MAX_CHUNK_BYTES = 1 << 27  # of a strip or tile that libtiff unpacks, so that memory stays bounded
PADDING = 8  # bytes that a writer may add to a strip

# Tag -> name and default of what is read from a directory; None: it must be there.
TAGS: dict[int, tuple[str, tuple[int, ...] | None]] = {
    256: ("width", None),
    257: ("height", None),
    258: ("bits", (1,)),
    259: ("compression", (1,)),
    262: ("photometric", None),
    266: ("fill_order", (1,)),
    273: ("strip_offsets", ()),
    274: ("orientation", (1,)),
    277: ("samples", (1,)),
    278: ("rows_per_strip", (1 << 32,)),
    279: ("strip_bytes", ()),
    284: ("planar", (1,)),
    292: ("t4_options", (0,)),
    293: ("t6_options", (0,)),
    317: ("predictor", (1,)),
    320: ("colour_map", ()),
    322: ("tile_width", ()),
    323: ("tile_height", ()),
    324: ("tile_offsets", ()),
    325: ("tile_bytes", ()),
    338: ("extra", ()),
    339: ("sample_format", (1,)),
    347: ("jpeg_tables", ()),
}
TYPES = {1: "B", 3: "H", 4: "L", 7: "B", 13: "L", 16: "Q", 18: "Q"}
MAX_VALUES = 1 << 22
MAX_CHUNKS = 100_000


@dataclass(frozen=True)
class Page:
    """What a directory says of its picture; every entry is checked.

    Attributes:
        bits, samples, planar, predictor, fill_order, photometric, compression: as in TIFF 6.0.
        extra: meaning of each sample beyond the colours.
        chunk: (width, height) of a tile, or of a strip.
        chunks: (offset, bytes) of each.
        tables: JPEG tables that the chunks share.
        colour_map: uint8 (2 ** bits, 3).
    """

    width: int
    height: int
    bits: int
    samples: int
    compression: int
    photometric: int
    planar: bool
    predictor: bool
    fill_order: int
    orientation: int
    extra: tuple[int, ...]
    fax_options: tuple[int, int]
    chunk: tuple[int, int]
    tiled: bool
    chunks: tuple[tuple[int, int], ...]
    tables: bytes
    colour_map: npt.NDArray[np.uint8] | None

    @property
    def sides(self) -> tuple[int, int]:
        """Chunks across and down."""
        return -(-self.width // self.chunk[0]), -(-self.height // self.chunk[1])


def damaged() -> UnreadableError:
    return UnreadableError("its TIFF data are damaged or cut short", "export it again")


def _refused(what: str, remedy: str = "save it as 8- or 16-bit grey or RGB without compression") -> UnreadableError:
    return UnreadableError(what, remedy)


def _check_bytes(counts: tuple[int, ...], needed: int, compression: int) -> None:
    """Neither more than the picture needs, nor more at once than memory should hold."""
    if compression in (*BYTES, *FAX) and needed > MAX_CHUNK_BYTES:
        raise _refused(f"a strip or tile of {needed:,} bytes is compressed in one piece", "save it without compression")
    most = needed + PADDING if compression == NONE else 2 * needed + (1 << 16)
    if max(counts, default=0) > most:
        problem = f"it holds {max(counts):,} bytes for a strip or tile of {needed:,}, so one of the two is wrong"
        raise UnreadableError(problem, "export it again")


def check_page(found: dict[str, tuple[int, ...]], limits: Limits) -> Page:
    """Checks every entry against the others, and what is read here."""
    for name, default in TAGS.values():
        value = found.setdefault(name, default or ())
        if default is None and len(value) != 1:
            raise UnreadableError(f"its TIFF directory lacks {name}, or has it more than once", "export it again")
    one = {name: value[0] for name, value in found.items() if value}
    width, height, samples, photometric = one["width"], one["height"], one["samples"], one["photometric"]
    check_size(width, height, limits)
    if photometric == CMYK:
        raise cmyk()
    if set(found["sample_format"]) - {1, 4}:
        problem = "it has signed or floating-point samples, of which no value is known to be white"
        raise UnreadableError(problem, "save it as 8- or 16-bit unsigned")
    compression = one["compression"]
    colours = COLOURS.get(photometric)
    if colours is None or (photometric == YCBCR and compression != JPEG):
        raise _refused(f"its colour space ({SPACES.get(photometric, photometric)}) is not supported")
    if compression not in (NONE, JPEG, *DEFLATE, *FAX, *BYTES):
        raise _refused(f"its TIFF compression (number {compression}) is not supported")
    bits = set(found["bits"]) or {1}
    extra = found["extra"] or (0,) * max(0, samples - colours)
    if len(bits) > 1 or len(found["bits"]) not in (1, samples):
        raise _refused("its samples differ in their number of bits")
    if samples != colours + len(extra) or len(extra) > 1:
        raise _refused(f"it has {samples} samples per pixel, where {colours} or {colours + 1} were expected")
    (depth,) = bits
    predictor, planar, fill = one["predictor"], one["planar"], one["fill_order"]
    deepest = 8 if photometric == PALETTE or compression == JPEG else 16
    if not (depth in (1, 2, 4, 8) or 8 < depth <= deepest):
        raise _refused(f"it has {depth} bits per sample, which is not supported for this kind of TIFF")
    if (compression in FAX and (depth, samples) != (1, 1)) or (compression == JPEG and depth != 8):
        raise _refused(f"it has {depth} bits per sample, which do not go with its compression")
    if predictor not in (1, 2) or (predictor == 2 and depth not in (8, 16)):
        raise _refused(f"its predictor (number {predictor}) with {depth} bits is not supported")
    if planar not in (1, 2) or fill not in (1, 2):
        raise damaged()
    colour_map = None
    if photometric == PALETTE:
        if len(found["colour_map"]) != 3 << depth:
            raise UnreadableError("its colour map does not fit its bits per sample", "export it again")
        # 16-bit entries, of which programs write v * 256 or v * 257; the upper byte is v.
        colour_map = (np.array(found["colour_map"], np.uint16).reshape(3, -1).T >> 8).astype(np.uint8)
    tiled = bool(found["tile_offsets"])
    tile = one.get("tile_width", 0), one.get("tile_height", 0)
    chunk = tile if tiled else (width, min(one["rows_per_strip"], height))
    offsets, counts = (found[f"{'tile' if tiled else 'strip'}_{what}"] for what in ("offsets", "bytes"))
    if min(chunk) < 1:
        raise damaged()
    if tiled:
        check_size(*chunk, limits)
    chunks = tuple(zip(offsets, counts, strict=False))
    row_bytes = -(-chunk[0] * (1 if planar == 2 else samples) * depth // 8)
    _check_bytes(counts, row_bytes * chunk[1], compression)
    page = Page(
        width=width,
        height=height,
        bits=depth,
        samples=samples,
        compression=compression,
        photometric=photometric,
        planar=planar == 2 and samples > 1,
        predictor=predictor == 2 and compression in (*DEFLATE, *BYTES),
        fill_order=fill,
        orientation=one["orientation"],
        extra=extra,
        fax_options=(one["t4_options"], one["t6_options"]),
        chunk=chunk,
        tiled=tiled,
        chunks=chunks,
        tables=bytes(found["jpeg_tables"]) if max(found["jpeg_tables"], default=0) < 256 else b"",
        colour_map=colour_map,
    )
    expected = page.sides[0] * page.sides[1] * (samples if page.planar else 1)
    if len(offsets) != expected or len(counts) != expected:
        problem = f"it names {len(offsets)} strips or tiles with {len(counts)} sizes, its picture has {expected}"
        raise UnreadableError(problem, "export it again")
    return _joined(page)


def _joined(page: Page) -> Page:
    """Strips that follow one another without compression are one; others may not be too many."""
    ends = [offset + count for offset, count in page.chunks]
    follow = all(end == offset for end, (offset, _) in zip(ends, page.chunks[1:], strict=False))
    if page.compression == NONE and not page.tiled and not page.planar and follow:
        whole = ((page.chunks[0][0], ends[-1] - page.chunks[0][0]),)
        return replace(page, chunk=(page.width, page.height), chunks=whole)
    if len(ends) > MAX_CHUNKS:
        raise UnreadableError(f"it has more than {MAX_CHUNKS:,} strips or tiles", "save it with fewer")
    return page
