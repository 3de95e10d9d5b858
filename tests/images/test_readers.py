"""Raster files: real codecs write them, NumPy says what must come out; damage of every kind ends in one ImageError."""

import io
import os
import random
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from medaegis.errors import ConfigError, ImageError
from medaegis.images.readers import Limits, Picture, model_input, read_image
from medaegis.images.search import find_images, search_images

RNG = np.random.default_rng(7)
GREY = RNG.integers(0, 256, (24, 20), dtype=np.uint8)
RGB = RNG.integers(0, 256, (24, 20, 3), dtype=np.uint8)
DEEP = RNG.integers(0, 65536, (24, 20), dtype=np.uint16)


def save(path: Path, array: np.ndarray, kind: str = "PNG", **options: object) -> Path:
    Image.fromarray(array).save(path, kind, **options)
    return path


def tiff(values: bytes, *, bits: int, photometric: int = 1, width: int = 20, height: int = 24) -> bytes:
    """A plain one-strip TIFF 6.0 file, for the kinds that Pillow reads but cannot write."""
    tags = {256: width, 257: height, 258: bits, 259: 1, 262: photometric, 273: 8, 277: 1, 278: height, 279: len(values)}
    entries = b"".join(struct.pack("<HHLL", tag, 4, 1, value) for tag, value in tags.items())
    return b"II*\0" + struct.pack("<L", 8 + len(values)) + values + struct.pack("<H", len(tags)) + entries + bytes(4)


def png(width: int, height: int, *, depth: int = 8, colour: int = 0, rows: bytes = b"") -> bytes:
    """A PNG file from its parts, whatever they promise."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">L", len(body)) + name + body + struct.pack(">L", zlib.crc32(name + body))

    header = struct.pack(">LLBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP", "WebP"])
@pytest.mark.parametrize("array", [GREY, RGB], ids=["grey", "rgb"])
def test_lossless_kinds_come_back_exactly(tmp_path: Path, kind: str, array: np.ndarray) -> None:
    options = {"lossless": True} if kind == "WebP" else {}
    picture = read_image(save(tmp_path / "name_says_nothing.txt", array, kind, **options))
    channels = np.moveaxis(np.atleast_3d(array), 2, 0)
    assert picture.format == kind
    assert (picture.bits, picture.frame, picture.frames) == (8, 0, 1)
    assert picture.pixels.dtype == np.float32
    assert picture.pixels.flags.c_contiguous
    if kind == "WebP" and array.ndim == 2:  # WebP knows colour only
        channels = np.repeat(channels, 3, axis=0)
    np.testing.assert_array_equal(picture.pixels, channels.astype(np.float32) / np.float32(255))


def test_jpeg_is_what_the_codec_says_and_progressive_is_read(tmp_path: Path) -> None:
    smooth = np.add.outer(np.arange(48), np.arange(40) * 2).astype(np.uint8)
    path = save(tmp_path / "a.jpg", smooth, "JPEG", quality=95, progressive=True)
    picture = read_image(path)
    assert picture.pixels.shape == (1, 48, 40)
    assert np.abs(picture.pixels[0] * 255 - smooth).max() <= 3
    assert read_image(save(tmp_path / "b.jpg", RGB, "JPEG")).pixels.shape == (3, 24, 20)


def test_sixteen_bit_grey_keeps_all_bits(tmp_path: Path) -> None:
    for kind in ("PNG", "TIFF"):
        picture = read_image(save(tmp_path / f"deep.{kind}", DEEP, kind))
        assert picture.bits == 16
        np.testing.assert_allclose(picture.pixels[0], DEEP / 65535, atol=1e-7)
    (tmp_path / "white.tif").write_bytes(tiff(DEEP.astype("<u2").tobytes(), bits=16, photometric=0))
    picture = read_image(tmp_path / "white.tif")
    np.testing.assert_allclose(picture.pixels[0], 1 - DEEP / 65535, atol=1e-7)
    assert "WhiteIsZero" in " ".join(picture.steps)


def test_twelve_bit_tiff_has_its_white_at_4095(tmp_path: Path) -> None:
    values = (DEEP >> 4).astype(np.uint32)
    left, right = values[:, ::2], values[:, 1::2]
    packed = np.stack([left >> 4, (left & 15) << 4 | right >> 8, right & 255], axis=-1).astype(np.uint8)
    (tmp_path / "a.tif").write_bytes(tiff(packed.tobytes(), bits=12))
    picture = read_image(tmp_path / "a.tif")
    assert picture.bits == 12
    np.testing.assert_allclose(picture.pixels[0], values / 4095, atol=1e-7)


def test_sixteen_bit_colour_is_cut_to_eight_and_says_so(tmp_path: Path) -> None:
    values = RNG.integers(0, 65536, (24, 20, 3), dtype=np.uint16)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    (tmp_path / "a.png").write_bytes(png(20, 24, depth=16, colour=2, rows=rows))
    picture = read_image(tmp_path / "a.png")
    assert picture.bits == 8
    assert "upper 8 bits" in " ".join(picture.steps)
    np.testing.assert_allclose(picture.pixels, np.moveaxis(values >> 8, 2, 0) / 255, atol=1e-6)


def test_palette_and_one_bit(tmp_path: Path) -> None:
    palette = Image.fromarray(GREY % 5, "P")
    colours = RNG.integers(0, 256, (5, 3), dtype=np.uint8)
    palette.putpalette(colours.tobytes())
    palette.save(tmp_path / "p.png")
    picture = read_image(tmp_path / "p.png")
    np.testing.assert_allclose(picture.pixels, np.moveaxis(colours[GREY % 5], 2, 0) / 255, atol=1e-6)
    assert "palette looked up" in picture.steps
    for kind in ("PNG", "TIFF", "BMP"):
        path = save(tmp_path / "bits", GREY > 127, kind)
        np.testing.assert_array_equal(read_image(path).pixels[0], (GREY > 127).astype(np.float32))


def test_alpha_is_left_out_or_laid_over_black(tmp_path: Path) -> None:
    opaque = np.dstack([RGB, np.full_like(GREY, 255)])
    picture = read_image(save(tmp_path / "a.png", opaque))
    np.testing.assert_array_equal(picture.pixels, np.moveaxis(RGB, 2, 0).astype(np.float32) / np.float32(255))
    assert "opaque alpha channel left out" in picture.steps
    picture = read_image(save(tmp_path / "b.png", np.dstack([RGB, GREY])))
    np.testing.assert_allclose(picture.pixels, np.moveaxis(RGB * (GREY[..., None] / 255), 2, 0) / 255, atol=1e-6)
    assert "transparent parts laid over black" in picture.steps
    picture = read_image(save(tmp_path / "c.png", np.dstack([GREY, GREY])))
    np.testing.assert_allclose(picture.pixels[0], (GREY / 255) ** 2, atol=1e-6)


def test_colour_key_of_a_png_counts_as_transparent(tmp_path: Path) -> None:
    path = tmp_path / "key.png"
    Image.fromarray(GREY).save(path, transparency=int(GREY[3, 4]))
    expected = np.where(np.equal(GREY, GREY[3, 4]), 0, GREY) / 255
    np.testing.assert_allclose(read_image(path).pixels[0], expected, atol=1e-6)


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "jpeg", "group4"])
def test_compressed_tiff(tmp_path: Path, compression: str) -> None:
    if compression == "group4":
        picture = read_image(save(tmp_path / "a.tif", GREY > 127, "TIFF", compression=compression))
        np.testing.assert_array_equal(picture.pixels[0], (GREY > 127).astype(np.float32))
        return
    for array in (GREY, RGB):
        path = save(tmp_path / "a.tif", array, "TIFF", compression=compression)
        channels = np.moveaxis(np.atleast_3d(array), 2, 0).astype(np.float32) / np.float32(255)
        if compression == "jpeg":
            assert read_image(path).pixels.shape == channels.shape
        else:
            np.testing.assert_array_equal(read_image(path).pixels, channels)
    if compression == "tiff_lzw":
        np.testing.assert_allclose(
            read_image(save(tmp_path / "d.tif", DEEP, "TIFF", compression=compression)).pixels[0],
            DEEP / 65535,
            atol=1e-7,
        )
        Image.fromarray(RGB).quantize(8).save(tmp_path / "p.tif", compression=compression)
        Image.fromarray(RGB).quantize(8).save(tmp_path / "q.tif")
        compressed, plain = read_image(tmp_path / "p.tif"), read_image(tmp_path / "q.tif")
        np.testing.assert_array_equal(compressed.pixels, plain.pixels)
        assert compressed.steps == plain.steps


def test_pages_of_a_tiff_and_their_number(tmp_path: Path) -> None:
    pages = [Image.fromarray(np.full((20, 18 + k), 10 * k, dtype=np.uint8)) for k in range(4)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    for k in range(4):
        picture = read_image(tmp_path / "a.tif", frame=k)
        assert (picture.frames, picture.pixels.shape) == (4, (1, 20, 18 + k))
        assert picture.pixels[0, 0, 0] == np.float32(10 * k) / np.float32(255)
    for frame in (-1, 4):
        with pytest.raises(ImageError, match="has 4 frames; choose a frame from 0 to 3"):
            read_image(tmp_path / "a.tif", frame=frame)
    with pytest.raises(ImageError, match="more than 3 frames"):
        read_image(tmp_path / "a.tif", limits=Limits(max_frames=3))


def test_exif_orientation_is_followed(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the top row is at the right: turn clockwise
    for kind in ("PNG", "TIFF"):
        Image.fromarray(GREY).save(tmp_path / "a", kind, exif=exif)
        picture = read_image(tmp_path / "a")
        np.testing.assert_array_equal(np.rint(picture.pixels[0] * 255), np.rot90(GREY, -1))
        assert "turned upright" in picture.steps[-1]


REFUSED = {
    "empty": (lambda: b"", "empty"),
    "text": (lambda: b"patient,age\nnobody,0\n" * 20, "none of PNG"),
    "1x1": (lambda: encoded(GREY[:1, :1]), "at least 16"),
    "bomb": (lambda: png(30_000, 30_000, rows=bytes(1000)), "more (pixels )?than the limit"),
    "big": (lambda: png(9_000, 9_000, rows=bytes(1000)), "81000000|9000 x 9000 pixels, more than the limit"),
    "cmyk": (lambda: encoded(np.dstack([RGB, GREY]), "JPEG", mode="CMYK"), "CMYK"),
    "lab": (lambda: encoded(RGB, "TIFF", mode="LAB"), "CIE Lab"),
    "signed": (lambda: encoded(DEEP.astype(np.int32), "TIFF"), "signed or floating"),
    "float": (lambda: encoded(DEEP.astype(np.float32), "TIFF"), "signed or floating"),
    "animation": (lambda: encoded(GREY, "PNG", save_all=True, append=True), "animation"),
    "scans": (lambda: many_scans(encoded(GREY, "JPEG"), 101), "more than 100 scans"),
    "truncated": (lambda: encoded(RGB, "PNG")[:-300], "damaged"),
    "checksum": (lambda: flipped(encoded(RGB, "PNG"), -100), "damaged"),
    "gif": (lambda: encoded(GREY, "GIF"), "none of PNG"),
}


def encoded(array: np.ndarray, kind: str = "PNG", mode: str | None = None, append: bool = False, **options) -> bytes:
    stream = io.BytesIO()
    if append:
        options["append_images"] = [Image.fromarray(255 - array)]
    Image.fromarray(array, mode).save(stream, kind, **options)
    return stream.getvalue()


def many_scans(data: bytes, count: int) -> bytes:
    scan = data[data.index(b"\xff\xda") : -2]
    return data[:-2] + scan * (count - 1) + data[-2:]


def flipped(data: bytes, at: int) -> bytes:
    changed = bytearray(data)
    changed[at] ^= 0xFF
    return bytes(changed)


@pytest.mark.parametrize("name", REFUSED)
def test_bad_files_are_refused_with_their_reason(tmp_path: Path, name: str) -> None:
    make, reason = REFUSED[name]
    path = tmp_path / f"{name}.png"
    path.write_bytes(make())
    with pytest.raises(ImageError, match=reason) as caught:
        read_image(path)
    assert caught.value.source == str(path)
    assert caught.value.remedy
    assert str(caught.value) == f"{path}: {caught.value.problem}; {caught.value.remedy}"


def test_paths_that_are_no_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    cases = {tmp_path: "a folder", tmp_path / "no.png": "no such file", tmp_path / "pipe.png": "not a regular file"}
    for path, reason in cases.items():
        with pytest.raises(ImageError, match=reason):
            read_image(path)
    with pytest.raises(ImageError, match="not a path"):
        read_image("a\0b.png")


def test_file_size_limit_holds_before_reading(tmp_path: Path) -> None:
    path = tmp_path / "sparse.png"
    with path.open("wb") as file:
        file.write(b"\x89PNG\r\n\x1a\n")
        file.truncate(1 << 40)  # a terabyte that takes no disk and could never be read
    with pytest.raises(ImageError, match="bytes, more than the limit"):
        read_image(path)


def test_constant_pictures_are_allowed(tmp_path: Path) -> None:
    picture = read_image(save(tmp_path / "a.png", np.full((16, 16), 77, dtype=np.uint8)))
    assert (picture.pixels == np.float32(77) / np.float32(255)).all()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "BMP", "WebP", "deflate TIFF", "16-bit PNG", "palette PNG"])
def test_damage_anywhere_gives_a_picture_or_an_image_error(
    tmp_path: Path, kind: str, capfd: pytest.CaptureFixture[str]
) -> None:
    options = {"compression": "tiff_adobe_deflate"} if "deflate" in kind else {}
    array = DEEP if "16" in kind else RGB
    image = Image.fromarray(array).quantize(16) if "palette" in kind else Image.fromarray(array)
    stream = io.BytesIO()
    image.save(stream, kind.split()[-1], **options)
    whole, path, rng = stream.getvalue(), tmp_path / "damaged", random.Random(kind)
    refused = 0
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for _ in range(80):
            data = bytearray(whole[: rng.randrange(len(whole))] if rng.random() < 0.3 else whole)
            for _ in range(rng.choice([0, 1, 1, 4, 16])):
                if data:
                    span = min(len(data), 80) if rng.random() < 0.6 else len(data)
                    data[rng.randrange(span)] = rng.randrange(256)
            path.write_bytes(data)
            try:
                pixels = read_image(path).pixels
                assert pixels.ndim == 3
                assert 0 <= pixels.min() <= pixels.max() <= 1
            except ImageError:
                refused += 1
    assert refused > 10
    assert not told
    assert capfd.readouterr() == ("", "")


def picture_of(pixels: np.ndarray) -> Picture:
    return Picture(pixels.astype(np.float32), 8, "made here", 0, 1, "PNG", ())


def test_model_input_changes_nothing_at_the_same_size() -> None:
    square = RNG.integers(0, 256, (3, 32, 32), dtype=np.uint8)
    out = model_input(picture_of(square.astype(np.float32) / np.float32(255)), size=32, channels="rgb")
    assert out.dtype == np.uint8
    np.testing.assert_array_equal(out, square)


@pytest.mark.parametrize("shape", [(1, 61, 47), (3, 40, 90), (3, 17, 19)])
def test_model_input_agrees_with_torch_antialiased_bilinear(shape: tuple[int, int, int]) -> None:
    pixels = RNG.random(shape, dtype=np.float32)
    out = model_input(picture_of(pixels), size=28, channels="rgb" if shape[0] == 3 else "gray")
    peer = torch.nn.functional.interpolate(
        torch.from_numpy(pixels)[None], size=(28, 28), mode="bilinear", antialias=True, align_corners=False
    )[0].numpy()
    assert out.shape == (shape[0], 28, 28)
    assert np.abs(out - peer * 255).max() <= 0.5 + 0.01  # one rounding, no more


def test_fine_checkerboard_becomes_grey_not_moire() -> None:
    board = np.indices((64, 64)).sum(axis=0)[None] % 2
    assert np.abs(model_input(picture_of(board), size=16, channels="gray").astype(int) - 127.5).max() <= 2


def test_grey_and_colour_conversions() -> None:
    pixels = RNG.random((3, 16, 16), dtype=np.float32)
    luma = 0.299 * pixels[0] + 0.587 * pixels[1] + 0.114 * pixels[2]
    out = model_input(picture_of(pixels), size=16, channels="gray")
    assert np.abs(out[0] - luma * 255).max() <= 0.501
    grey = model_input(picture_of(pixels[:1]), size=16, channels="gray")
    rgb = model_input(picture_of(pixels[:1]), size=16, channels="rgb")
    np.testing.assert_array_equal(rgb, np.repeat(grey, 3, axis=0))
    equal = model_input(picture_of(np.repeat(pixels[:1], 3, axis=0)), size=16, channels="gray")
    np.testing.assert_array_equal(equal, grey)


def test_model_input_refuses_what_it_cannot_mean() -> None:
    with pytest.raises(ConfigError, match="channels"):
        model_input(picture_of(np.zeros((1, 16, 16))), size=16, channels="grey")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="size"):
        model_input(picture_of(np.zeros((1, 16, 16))), size=0, channels="gray")


def test_find_images(tmp_path: Path) -> None:
    (tmp_path / "b" / ".hidden").mkdir(parents=True)
    names = ["b/two.png", "a.JPG", "b/nameless", "b/notes.txt", "b/._a.png", "b/.hidden/x.png", "b/DICOMDIR"]
    for name in names:
        (tmp_path / name).write_bytes(encoded(GREY) if name == "b/nameless" else b"text")
    (tmp_path / "loop").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "link.png").symlink_to(tmp_path / "a.JPG")
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe")
    given = [tmp_path, tmp_path / "a.JPG", str(tmp_path / "b" / "notes.txt"), "missing.png"]
    found, missed = search_images(given)
    assert [error.source for error in missed] == [str(tmp_path / "loop")]  # not followed, and said so
    with pytest.raises(ImageError, match="a link to a folder"):
        find_images(given)
    expected = ["a.JPG", "b/nameless", "b/notes.txt", "b/two.png", "gone.png"]
    assert found == sorted([*(tmp_path / name for name in expected), Path("missing.png")])
