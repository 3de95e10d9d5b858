"""What the trials of robustness start from: sound files of every format, and how files and tables are spoilt.

All is drawn or comes with pydicom; nothing is of a patient. Everything is a function of a seed.
"""

from __future__ import annotations

import contextlib
import io
import os
import random
import warnings
import zlib
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

SIDE = 32
PNG = b"\x89PNG\r\n\x1a\n"
SYNTAXES = {
    "implicit": "1.2.840.10008.1.2",
    "explicit": "1.2.840.10008.1.2.1",
    "big-endian": "1.2.840.10008.1.2.2",
    "rle": "1.2.840.10008.1.2.5",
    "jpeg": "1.2.840.10008.1.2.4.50",
    "jpeg-2000": "1.2.840.10008.1.2.4.90",
}


# ---- pictures


def drawing(channels: int = 1, *, seed: int = 0, side: int = SIDE) -> np.ndarray:
    """A soft picture with grain, uint8 `(side, side)` or `(side, side, 3)`."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:side, :side]
    planes = [
        100 + 60 * np.sin(rows / 5 + k) + 40 * np.cos(columns / 7 - k) + rng.normal(0, 6, (side, side))
        for k in range(channels)
    ]
    pixels = np.stack(planes, 2).clip(0, 255).astype(np.uint8)
    return pixels if channels > 1 else pixels[:, :, 0]


def _saved(image: Image.Image, form: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, form, **options)  # type: ignore[arg-type]
    return stream.getvalue()


def _pictures() -> dict[str, list[bytes]]:
    grey, colour = Image.fromarray(drawing()), Image.fromarray(drawing(3))
    deep = Image.fromarray(drawing().astype(np.uint16) * 257)
    clear = colour.convert("RGBA")
    modes = [grey, colour, clear, deep, grey.convert("1"), colour.convert("P"), grey.convert("LA")]
    pages = [Image.fromarray(drawing(seed=k)) for k in range(3)]
    tiff: list[bytes] = []
    for image in (grey, colour, deep, grey.convert("1"), clear, colour.convert("P")):
        for compression in ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg", "group4"):
            with contextlib.suppress(OSError, ValueError, KeyError, SystemError):
                tiff.append(_saved(image, "TIFF", compression=compression))
    tiff.append(_saved(pages[0], "TIFF", save_all=True, append_images=pages[1:]))
    return {
        "png": [_saved(image, "PNG") for image in modes] + [_saved(grey, "PNG", bits=4)],
        "jpeg": [
            *(_saved(image, "JPEG", quality=q) for image in (grey, colour) for q in (30, 95)),
            *(_saved(colour, "JPEG", subsampling=s) for s in (0, 1, 2)),
            *(_saved(image, "JPEG", progressive=True) for image in (grey, colour)),
            _saved(colour, "JPEG", restart_marker_blocks=2),
            _saved(colour.convert("CMYK"), "JPEG"),
        ],
        "tiff": tiff,
        "bmp": [_saved(image, "BMP") for image in (grey, colour, clear, grey.convert("1"), colour.convert("P"))],
        "webp": [
            *(_saved(image, "WEBP", lossless=way) for image in (grey, colour, clear) for way in (True, False)),
            _saved(colour, "WEBP", save_all=True, append_images=[clear.convert("RGB")]),
        ],
    }


def _dicoms() -> list[bytes]:
    made = [
        dicom(syntax, bits=bits, colour=colour, frames=frames)
        for syntax in SYNTAXES
        for bits, colour, frames in ((8, False, 1), (16, False, 1), (8, True, 1), (8, False, 3))
        if not (syntax == "jpeg" and bits == 16)
    ]
    return made + _bundled()


def dicom(syntax: str, *, bits: int, colour: bool, frames: int) -> bytes:
    """An object of drawn pixels in one transfer syntax."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.encaps import encapsulate
    from pydicom.pixels import get_encoder

    pictures = [
        drawing(3 if colour else 1, seed=k).astype(f"uint{bits}") * (257 if bits == 16 else 1) for k in range(frames)
    ]
    told = Dataset()
    told.file_meta = FileMetaDataset()
    told.file_meta.TransferSyntaxUID = SYNTAXES[syntax]
    told.file_meta.MediaStorageSOPClassUID = told.SOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    told.file_meta.MediaStorageSOPInstanceUID = told.SOPInstanceUID = "1.2.3.4"
    told.Modality, told.PatientName = "OT", "Nobody"
    told.Rows = told.Columns = SIDE
    told.SamplesPerPixel, told.PhotometricInterpretation = (3, "RGB") if colour else (1, "MONOCHROME2")
    if colour:
        told.PlanarConfiguration = 0
    told.BitsAllocated = told.BitsStored = bits
    told.HighBit, told.PixelRepresentation = bits - 1, 0
    if frames > 1:
        told.NumberOfFrames = frames
    plain = [picture.tobytes() for picture in pictures]
    if syntax == "rle":
        encoder = get_encoder(SYNTAXES["rle"])
        kinds = {"rows": SIDE, "columns": SIDE, "samples_per_pixel": told.SamplesPerPixel, "number_of_frames": 1}
        kinds |= {"bits_allocated": bits, "bits_stored": bits, "pixel_representation": 0}
        kinds |= {"photometric_interpretation": told.PhotometricInterpretation, "planar_configuration": 0}
        told.PixelData = encapsulate([encoder.encode(frame, **kinds) for frame in plain])
    elif syntax in ("jpeg", "jpeg-2000"):
        form = "JPEG" if syntax == "jpeg" else "JPEG2000"
        options = {"no_jp2": True} if form == "JPEG2000" else {}
        told.PixelData = encapsulate([_saved(Image.fromarray(picture), form, **options) for picture in pictures])
        if colour and syntax == "jpeg":
            told.PhotometricInterpretation = "YBR_FULL_422"
    else:
        order = ">" if syntax == "big-endian" else "<"
        told.PixelData = b"".join(picture.astype(f"{order}u{bits // 8}").tobytes() for picture in pictures)
    told["PixelData"].VR = "OB" if bits == 8 or syntax in ("rle", "jpeg", "jpeg-2000") else "OW"
    stream = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        told.save_as(
            stream,
            enforce_file_format=True,
            little_endian=syntax != "big-endian",
            implicit_vr=syntax == "implicit",
        )
    return stream.getvalue()


def _bundled(most: int = 100_000) -> list[bytes]:
    """Small objects with pixels that pydicom brings along: JPEG-LS, lossless JPEG, palettes, odd headers."""
    from pydicom.data import get_testdata_files

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        paths = sorted(path for path in get_testdata_files("*.dcm") if os.path.getsize(path) <= most)
    content = [Path(path).read_bytes() for path in paths]
    return [data for data in content if data[128:132] == b"DICM"]


@cache
def pictures(kind: str) -> list[bytes]:
    """Sound files of a format."""
    return _dicoms() if kind == "dicom" else _pictures()[kind]


# ---- damage

EDGES = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


def spoilt(data: bytes, draw: random.Random, others: list[bytes]) -> bytes:
    """One to four damages: bits, bytes, numbers at their limits, pieces cut out, doubled, exchanged."""
    if data.startswith(PNG) and draw.random() < 0.5:
        return _odd_chunks(data, draw)
    content = bytearray(data)
    for _ in range(draw.choice((1, 1, 1, 2, 2, 4))):
        if not content:
            break
        # Half of them in the head, where the fields are.
        at = draw.randrange(len(content) if draw.random() < 0.5 else min(len(content), 600))
        length = draw.choice((1, 2, 4, 8, 32, 200))
        match draw.randrange(9):
            case 0:
                content[at] ^= 1 << draw.randrange(8)
            case 1:
                content[at : at + length] = draw.randbytes(length)
            case 2:
                size, order = draw.choice((1, 2, 4)), draw.choice(("little", "big"))
                value = draw.choice(EDGES) % (1 << 8 * size)
                content[at : at + size] = value.to_bytes(size, "little" if order == "little" else "big")
            case 3:
                del content[at:]
            case 4:
                del content[at : at + length]
            case 5:
                content[at:at] = content[at : at + length] * draw.choice((1, 3, 20))
            case 6:
                content[at : at + length] = bytes(length)
            case 7:
                other = draw.choice(others)
                start = draw.randrange(len(other) + 1)
                content[at:at] = other[start : start + length]
            case _:
                content[at:] = draw.choice(others)[at:]
    return _with_checksums(bytes(content)) if data.startswith(PNG) and draw.random() < 0.7 else bytes(content)


def _odd_chunks(png: bytes, draw: random.Random) -> bytes:
    """A PNG with sound pixels: a field of its header at a limit, or a chunk that is odd, doubled or too much."""
    if draw.random() < 0.3:
        at = draw.randrange(16, 29)
        png = png[:at] + bytes([draw.choice(EDGES) % 256]) + png[at + 1 :]
    for _ in range(draw.randint(1, 2)):
        kind = draw.choice((b"tRNS", b"PLTE", b"gAMA", b"iCCP", b"sBIT", b"eXIf", b"tEXt", b"zTXt", b"fcTL", b"IDAT"))
        body = draw.randbytes(draw.choice((0, 1, 2, 3, 6, 26, 300)))
        chunk = len(body).to_bytes(4, "big") + kind + body + bytes(4)
        at = 33 if draw.random() < 0.7 else len(png) - 12  # behind the header, or before the end
        png = png[:at] + chunk + png[at:]
    return _with_checksums(png)


def _with_checksums(png: bytes) -> bytes:
    """A PNG whose checksums fit again: its decoder would look no further otherwise."""
    out, at = bytearray(png[:8]), 8
    while at + 12 <= len(png):
        end = at + 8 + int.from_bytes(png[at : at + 4], "big")
        if end + 4 > len(png):
            break
        out += png[at:end] + zlib.crc32(png[at + 4 : end]).to_bytes(4, "big")
        at = end + 4
    return bytes(out + png[at:])


def text_spoilt(text: str, draw: random.Random) -> bytes:
    """A table with cells exchanged, emptied, repeated or made strange; then perhaps a damaged byte."""
    lines = text.splitlines()
    odd = (
        "",
        '"',
        "nan",
        "-1",
        "../../etc/passwd",
        "/",
        "\x00",
        "é",
        "ﬀ",
        "1e999",
        "a" * 5000,
        ";",
        "\t",
        "NULL",
        "..",
    )
    for _ in range(draw.randint(1, 4)):
        row = draw.randrange(len(lines))
        cells = lines[row].split(",")
        match draw.randrange(7):
            case 0:
                cells[draw.randrange(len(cells))] = draw.choice(odd)
            case 1:
                cells.append(draw.choice(odd))
            case 2:
                cells.pop()
            case 3:
                lines.insert(row, lines[draw.randrange(len(lines))])
            case 4:
                cells = lines[draw.randrange(len(lines))].split(",")
            case 5:
                cells = [cell.upper() for cell in cells]
            case _:
                draw.shuffle(cells)
        lines[row] = ",".join(cells)
    data = draw.choice(("\n", "\r\n", "\r")).join(lines).encode(draw.choice(("utf-8", "utf-8-sig", "utf-16", "utf-8")))
    return spoilt(data, draw, [data]) if draw.random() < 0.3 else data


def make_table(folder: Path) -> str:
    """A folder of images and the text of a table that names them."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = ["image,label,patient"]
    for k in range(12):
        Image.fromarray(drawing(seed=k)).save(folder / f"{k}.png")
        lines.append(f"{k}.png,{'ab'[k % 2]},p{k // 2}")
    return "\n".join(lines)
