"""Damage that a decoder reports or passes over, and transparency at every depth: hand-made bytes with known values."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medaegis.errors import ImageError
from medaegis.images.readers import Picture, model_input, read_image

RNG = np.random.default_rng(5)
SOFT = RNG.integers(0, 256, (25, 30, 3), dtype=np.uint8)


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">L", len(body)) + name + body + struct.pack(">L", zlib.crc32(name + body))


def png(values: np.ndarray, depth: int, colour: int, *, more: bytes = b"", surplus: bytes = b"") -> bytes:
    """A PNG of (rows, columns * samples) values in so many bits each."""
    singles = (values[:, :, None].astype(np.uint32) >> np.arange(depth - 1, -1, -1)) & 1
    packed = np.packbits(singles.reshape(len(values), -1).astype(np.uint8), axis=1)
    samples = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    header = struct.pack(">LLBBBBB", values.shape[1] // samples, len(values), depth, colour, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row.tobytes() for row in packed) + surplus)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + more + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def read(tmp_path: Path, data: bytes) -> Picture:
    (tmp_path / "picture").write_bytes(data)
    return read_image(tmp_path / "picture")


def refusal(tmp_path: Path, data: bytes) -> str:
    with pytest.raises(ImageError) as caught:
        read(tmp_path, data)
    return caught.value.problem


def jpeg(mode: str, **options: object) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(SOFT).resize((300, 200)).convert(mode).save(stream, "JPEG", quality=90, **options)
    return stream.getvalue()


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
def test_the_transparent_grey_level_of_a_png_is_black(tmp_path: Path, depth: int):
    values = RNG.integers(0, 1 << depth, (17, 19))
    for key in {1, (1 << depth) - 1, int(values[3, 4])}:
        picture = read(tmp_path, png(values, depth, 0, more=chunk(b"tRNS", struct.pack(">H", key))))
        right = np.where(values == key, 0, values) / ((1 << depth) - 1)
        np.testing.assert_allclose(picture.pixels[0], right, atol=1e-6)
        assert "transparent" in picture.steps[-1]


def test_the_transparent_colour_of_a_png_is_black(tmp_path: Path):
    values = RNG.integers(0, 2, (17, 19, 3)) * 77
    key = values[2, 2]
    picture = read(tmp_path, png(values.reshape(17, -1), 8, 2, more=chunk(b"tRNS", struct.pack(">3H", *key))))
    right = np.where((values == key).all(axis=2, keepdims=True), 0, values) / 255
    np.testing.assert_allclose(picture.pixels, right.transpose(2, 0, 1), atol=1e-6)
    deep = png(values.reshape(17, -1), 16, 2, more=chunk(b"tRNS", struct.pack(">3H", *key)))
    assert "one colour of 16 bits" in refusal(tmp_path, deep)  # 8 bits cannot tell it from its neighbours


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_transparent_entries_of_a_palette_are_black(tmp_path: Path, depth: int):
    index = RNG.integers(0, 1 << depth, (17, 19))
    colours, alpha = RNG.integers(0, 256, (1 << depth, 3)), RNG.integers(0, 256, 1 << depth)
    more = chunk(b"PLTE", colours.astype(np.uint8).tobytes()) + chunk(b"tRNS", alpha.astype(np.uint8).tobytes())
    picture = read(tmp_path, png(index, depth, 3, more=more))
    right = (colours * alpha[:, None] / 255 / 255)[index]
    np.testing.assert_allclose(picture.pixels, right.transpose(2, 0, 1), atol=1e-6)


def bmp(alpha: np.ndarray) -> bytes:
    """A top-down 32-bit BMP with masks (BITMAPV4HEADER), (90, 40, 200) in B, G, R."""
    pixels = np.dstack([np.full(alpha.shape, level, np.uint8) for level in (90, 40, 200)] + [alpha])
    height, width = alpha.shape
    head = struct.pack("<IiiHHIIiiII", 108, width, -height, 1, 32, 3, pixels.size, 0, 0, 0, 0)
    head += struct.pack("<IIII", 0xFF0000, 0xFF00, 0xFF, 0xFF000000) + b"BGRs" + bytes(48)
    return b"BM" + struct.pack("<IHHI", 14 + len(head) + pixels.size, 0, 0, 14 + len(head)) + head + pixels.tobytes()


def test_alpha_of_nothing_but_zero(tmp_path: Path):
    colour = np.array([200, 40, 90])[:, None, None] / 255
    zero, half = np.zeros((20, 18), np.uint8), np.full((20, 18), 128, np.uint8)
    np.testing.assert_allclose(read(tmp_path, bmp(zero)).pixels, np.broadcast_to(colour, (3, 20, 18)), atol=1e-6)
    shown = read(tmp_path, bmp(half)).pixels
    np.testing.assert_allclose(shown, np.broadcast_to(colour * 128 / 255, (3, 20, 18)), atol=1e-6)
    for depth in (8, 16):
        assert "transparent" in refusal(tmp_path, png(np.tile([7, 7, 7, 0], (20, 18)), depth, 6))
        assert "transparent" in refusal(tmp_path, png(np.tile([7, 0], (20, 18)), depth, 4))
    stream = io.BytesIO()
    Image.fromarray(np.dstack([SOFT, SOFT[:, :, 0] * 0])).save(stream, "WebP", lossless=True, exact=True)
    assert "transparent" in refusal(tmp_path, stream.getvalue())


def test_a_png_with_too_much_or_too_little(tmp_path: Path):
    values = RNG.integers(0, 256, (20, 18))
    assert read(tmp_path, png(values, 8, 0)).bits == 8
    assert "more pixels than its header" in refusal(tmp_path, png(values, 8, 0, surplus=bytes(19)))
    whole = png(values, 8, 0)
    assert "cut short" in refusal(tmp_path, whole[:-12])  # no end chunk
    at = whole.index(b"IDAT")
    short = whole[:33] + chunk(b"IDAT", whole[at + 4 : -16 - 4]) + chunk(b"IEND", b"")
    assert "cut short" in refusal(tmp_path, short)  # without the checksum of the data
    stream = io.BytesIO()
    Image.fromarray(values.astype(np.uint8)).save(stream, "PNG")
    assert read(tmp_path, stream.getvalue()).pixels.shape == (1, 20, 18)


@pytest.mark.parametrize("size", [(16, 16), (17, 33), (40, 19)])
@pytest.mark.parametrize(("depth", "colour"), [(1, 0), (4, 0), (8, 2), (16, 6)])
def test_interlaced_png(tmp_path: Path, size: tuple[int, int], depth: int, colour: int):
    """Adam7 (PNG 8.1): seven passes over the 8 x 8 squares, in the order that the standard draws."""
    order = np.array(
        [
            [1, 6, 4, 6, 2, 6, 4, 6],
            [7, 7, 7, 7, 7, 7, 7, 7],
            [5, 6, 5, 6, 5, 6, 5, 6],
            [7, 7, 7, 7, 7, 7, 7, 7],
            [3, 6, 4, 6, 3, 6, 4, 6],
            [7, 7, 7, 7, 7, 7, 7, 7],
            [5, 6, 5, 6, 5, 6, 5, 6],
            [7, 7, 7, 7, 7, 7, 7, 7],
        ]
    )
    height, width = size
    samples = {0: 1, 2: 3, 6: 4}[colour]
    values = RNG.integers(0, 1 << depth, (height, width, samples))
    values[:, :, 3:] = (1 << depth) - 1
    number = np.tile(order, (5, 5))[:height, :width]
    data = b""
    for turn in range(1, 8):
        rows = [values[y][number[y] == turn] for y in range(height) if (number[y] == turn).any()]
        for row in rows:
            singles = (row.reshape(-1, 1).astype(np.uint32) >> np.arange(depth - 1, -1, -1)) & 1
            data += b"\0" + np.packbits(singles.ravel().astype(np.uint8)).tobytes()
    header = struct.pack(">LLBBBBB", width, height, depth, colour, 0, 0, 1)
    parts = [(b"IHDR", header), (b"IDAT", zlib.compress(data)), (b"IEND", b"")]
    picture = read(tmp_path, b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts))
    right = values[:, :, :3] / ((1 << depth) - 1) if depth < 16 else (values[:, :, :3] >> 8) / 255
    np.testing.assert_allclose(picture.pixels, right.transpose(2, 0, 1), atol=1e-6)


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_rows": 2}, {"subsampling": 0}])
def test_a_jpeg_cut_short_and_ended_is_refused(tmp_path: Path, mode: str, options: dict):
    whole = jpeg(mode, **options)
    peer = np.asarray(Image.open(io.BytesIO(whole)))
    np.testing.assert_array_equal(np.rint(read(tmp_path, whole).pixels * 255), np.moveaxis(np.atleast_3d(peer), 2, 0))
    start = whole.rindex(b"\xff\xda")
    for share in (0.05, 0.5, 0.9, 0.99):
        cut = whole[: start + int((len(whole) - start) * share)].rstrip(b"\xff") + b"\xff\xd9"
        np.asarray(Image.open(io.BytesIO(cut)))  # Pillow says nothing
        assert "damaged or cut short" in refusal(tmp_path, cut)


def test_a_jpeg_with_changed_data_is_mostly_refused(tmp_path: Path):
    whole = jpeg("RGB")
    start, refused = whole.rindex(b"\xff\xda") + 14, 0
    for at in RNG.integers(start, len(whole) - 2, 20):
        changed = whole[:at] + b"\xff\x00\xff\x00" + whole[at + 4 :]
        try:
            read(tmp_path, changed)
        except ImageError:
            refused += 1
    assert refused >= 10  # one that leaves neither a wrong code nor data over is a picture of its own


def test_kinds_of_jpeg_that_are_not_read_are_not_called_damaged(tmp_path: Path):
    whole = jpeg("L")
    frame = whole.index(b"\xff\xc0")
    deep = whole[:frame] + b"\xff\xc1" + whole[frame + 2 : frame + 4] + b"\x0c" + whole[frame + 5 :]
    assert "12-bit JPEG, which is not read here" in refusal(tmp_path, deep)
    for marker, name in ((0xC3, "lossless"), (0xC9, "arithmetic")):
        other = whole[:frame] + bytes([0xFF, marker]) + whole[frame + 2 :]
        assert name in refusal(tmp_path, other)


def test_a_jpeg_in_a_tiff(tmp_path: Path):
    for mode in ("L", "RGB"):
        image = Image.fromarray(SOFT).resize((300, 200)).convert(mode)
        image.save(tmp_path / "a.tif", compression="jpeg", quality=90)
        peer = np.moveaxis(np.atleast_3d(np.asarray(Image.open(tmp_path / "a.tif"))), 2, 0)
        picture = read_image(tmp_path / "a.tif")
        assert np.abs(picture.pixels * 255 - peer).max() <= 1
        data = (tmp_path / "a.tif").read_bytes()
        at = data.index(b"\xff\xda") + 500
        assert "damaged" in refusal(tmp_path, data[:at] + b"\xff\xd9" + bytes(400) + data[at + 402 :])


def test_a_webp_cut_short_with_a_fitting_head_is_refused(tmp_path: Path):
    for options in ({"lossless": True}, {"quality": 80}):
        stream = io.BytesIO()
        Image.fromarray(SOFT).resize((300, 200)).save(stream, "WebP", **options)
        whole = stream.getvalue()
        assert read(tmp_path, whole).pixels.shape == (3, 200, 300)
        for share in (0.3, 0.6, 0.95):
            body = whole[20 : 20 + int((len(whole) - 20) * share) // 2 * 2]
            cut = b"RIFF" + struct.pack("<L", 12 + len(body)) + b"WEBP" + whole[12:16] + struct.pack("<L", len(body))
            assert "damaged" in refusal(tmp_path, cut + body)


def test_damaged_exif_is_said(tmp_path: Path):
    exif = Image.Exif()
    exif[0x0112] = 6
    whole = jpeg("L", exif=exif)
    assert any("turned upright" in step for step in read(tmp_path, whole).steps)
    at = whole.index(b"Exif\0\0")
    picture = read(tmp_path, whole[: at + 6] + b"XX" + whole[at + 8 :])
    assert any("EXIF block is damaged" in step for step in picture.steps)


@pytest.mark.parametrize(("dtype", "channels"), [(np.uint8, 1), (np.uint8, 3), (np.uint16, 1), (np.float32, 3)])
def test_big_pictures_are_resized_in_bands_and_come_out_as_in_one(dtype: type, channels: int):
    white = 1 if dtype is np.float32 else np.iinfo(dtype).max
    values = (RNG.random((channels, 1500, 1100)) * white).astype(dtype)
    picture = Picture(values, 8, "made here", 0, 1, "PNG", (), white=int(white))
    found = model_input(picture, size=97, channels="gray" if channels == 1 else "rgb")
    for plane, got in zip(values.astype(np.float32) / np.float32(white), found, strict=True):
        whole = np.asarray(Image.fromarray(plane).resize((97, 97), Image.Resampling.BILINEAR))
        np.testing.assert_array_equal(got, np.rint(whole.clip(0, 1) * 255))
