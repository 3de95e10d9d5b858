"""TIFF: files written by hand with known values, every way in which the standard lets them lie in a file."""

import resource
import time
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.images.tiffs import write_tiff

from medaegis.errors import ImageError
from medaegis.images.readers import Picture, read_frames, read_image

RNG = np.random.default_rng(3)
WIDTH, HEIGHT = 21, 34  # odd, so that rows of less than 8 bits end within a byte


def drawn(bits: int, samples: int = 1) -> np.ndarray:
    return RNG.integers(0, 1 << bits, (HEIGHT, WIDTH, samples), dtype=np.uint32).astype(np.uint16)


def read(tmp_path: Path, data: bytes, frame: int = 0) -> Picture:
    (tmp_path / "a.tif").write_bytes(data)
    return read_image(tmp_path / "a.tif", frame=frame)


def refusal(tmp_path: Path, data: bytes) -> str:
    with pytest.raises(ImageError) as caught:
        read(tmp_path, data)
    return caught.value.problem


@pytest.mark.parametrize(("bits", "order"), list(product([1, 2, 4, 8, 10, 12, 14, 16], "<>")))
def test_grey_of_every_depth_order_and_polarity(tmp_path: Path, bits: int, order: str):
    for big, photometric, rows in product([False, True], [0, 1], [None, 5]):
        values = drawn(bits)
        picture = read(tmp_path, write_tiff(values, bits, order=order, big=big, photometric=photometric, rows=rows))
        right = values[:, :, 0] / ((1 << bits) - 1)
        np.testing.assert_allclose(picture.pixels[0], 1 - right if photometric == 0 else right, atol=1e-6)
        assert picture.bits == bits
        assert any("WhiteIsZero: inverted" in step for step in picture.steps) == (photometric == 0)


@pytest.mark.parametrize("bits", [8, 12, 16])
@pytest.mark.parametrize("order", ["<", ">"])
def test_colour_in_pixels_planes_strips_and_tiles(tmp_path: Path, bits: int, order: str):
    for planar, layout in product([False, True], [{}, {"rows": 7}, {"tile": 16}]):
        values = drawn(bits, 3)
        picture = read(tmp_path, write_tiff(values, bits, order=order, photometric=2, planar=planar, **layout))
        np.testing.assert_allclose(picture.pixels, values.transpose(2, 0, 1) / ((1 << bits) - 1), atol=1e-6)
        assert picture.bits == bits


@pytest.mark.parametrize("bits", [8, 16])
def test_deflate_with_and_without_predictor(tmp_path: Path, bits: int):
    for predictor, order, planar in product([False, True], "<>", [False, True]):
        values = drawn(bits, 3).astype(np.uint8 if bits == 8 else np.uint16)  # differences wrap round in its bits
        data = write_tiff(
            values, bits, order=order, photometric=2, planar=planar, rows=9, deflate=True, predictor=predictor
        )
        picture = read(tmp_path, data)
        np.testing.assert_allclose(picture.pixels, values.transpose(2, 0, 1) / ((1 << bits) - 1), atol=1e-6)


@pytest.mark.parametrize("compression", ["tiff_lzw", "packbits", "zstd", "lzma", "tiff_deflate"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_what_libtiff_packs_comes_back(tmp_path: Path, compression: str, dtype: type):
    smooth = np.add.outer(np.arange(400), np.arange(300)).astype(dtype)
    Image.fromarray(smooth).save(tmp_path / "a.tif", compression=compression, tiffinfo={278: 11})
    picture = read_image(tmp_path / "a.tif")
    np.testing.assert_allclose(picture.pixels[0], smooth / np.iinfo(dtype).max, atol=1e-6)
    data = (tmp_path / "a.tif").read_bytes()
    if compression in ("packbits", "zstd"):
        return  # other bytes are other values to them
    (tmp_path / "b.tif").write_bytes(data[:60] + b"\xff" * 400 + data[460:])
    with pytest.raises(ImageError, match="damaged"):
        read_image(tmp_path / "b.tif")


def test_palette_and_extra_samples(tmp_path: Path):
    colours = RNG.integers(0, 256, (16, 3))
    index = drawn(4)
    more = {320: tuple((colours.T * 257).ravel().tolist())}
    picture = read(tmp_path, write_tiff(index, 4, photometric=3, more=more))
    np.testing.assert_allclose(picture.pixels, colours[index[:, :, 0]].transpose(2, 0, 1) / 255, atol=1e-6)
    values = drawn(8, 4)
    grey, alpha = values[:, :, :3].transpose(2, 0, 1) / 255, values[:, :, 3] / 255
    for meaning, right, word in [(0, grey, "left out"), (1, grey, "already"), (2, grey * alpha, "over black")]:
        picture = read(tmp_path, write_tiff(values, 8, photometric=2, more={338: (meaning,)}))
        np.testing.assert_allclose(picture.pixels, right, atol=1e-6)
        assert word in picture.steps[-1]
    values = drawn(16, 2)
    picture = read(tmp_path, write_tiff(values, 16, more={338: (2,)}))
    right = values[:, :, 0] / 65535 * (values[:, :, 1] / 65535)
    np.testing.assert_allclose(picture.pixels[0], right, atol=1 / 65535)
    values[:, :, 1] = 0
    assert "all of it is transparent" in refusal(tmp_path, write_tiff(values, 16, more={338: (2,)}))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_as_pillow_turns_it(tmp_path: Path, orientation: int):
    values = drawn(8)
    picture = read(tmp_path, write_tiff(values, 8, more={274: (orientation,)}))
    turn = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}  # PIL.Image.Transpose
    peer = Image.fromarray(values[:, :, 0].astype(np.uint8))
    peer = peer.transpose(turn[orientation]) if orientation > 1 else peer
    np.testing.assert_array_equal(np.rint(picture.pixels[0] * 255), np.asarray(peer))


def test_kinds_that_have_no_known_white_or_colour_are_refused_by_name(tmp_path: Path):
    grey, rgb = drawn(8), drawn(8, 3)
    for form in (2, 3, 5, 6):
        for bits in (8, 16):
            assert "signed or floating" in refusal(tmp_path, write_tiff(grey, bits, more={339: (form,)}))
    assert "signed or floating" in refusal(tmp_path, write_tiff(grey, 32, more={339: (3,)}))
    assert "CMYK" in refusal(tmp_path, write_tiff(drawn(8, 4), 8, photometric=5))
    assert "CIE Lab" in refusal(tmp_path, write_tiff(rgb, 8, photometric=8))
    assert "YCbCr without JPEG" in refusal(tmp_path, write_tiff(rgb, 8, photometric=6))
    assert "compression (number 6)" in refusal(tmp_path, write_tiff(grey, 8, more={259: (6,)}))
    assert "32 bits" in refusal(tmp_path, write_tiff(grey, 32))
    assert "3 samples per pixel" in refusal(tmp_path, write_tiff(rgb, 8))


def test_a_directory_that_contradicts_its_data_is_refused(tmp_path: Path):
    grey = drawn(8)
    assert "one of the two is wrong" in refusal(tmp_path, write_tiff(grey, 16, more={258: (8,)}))  # 16 bits, not 8
    assert "one of the two is wrong" in refusal(tmp_path, write_tiff(grey, 8, more={257: (HEIGHT // 2,)}))
    assert "strips or tiles" in refusal(tmp_path, write_tiff(grey, 8, rows=4, more={257: (HEIGHT * 2,)}))
    assert "damaged" in refusal(tmp_path, write_tiff(grey, 8)[:-4])
    assert "damaged" in refusal(tmp_path, write_tiff(grey, 8, more={279: (HEIGHT * WIDTH - 50,)}))


def test_directories_that_lead_in_a_circle_are_refused(tmp_path: Path):
    data = bytearray(write_tiff(drawn(8), 8))
    data[-4:] = data[4:8]
    assert "damaged" in refusal(tmp_path, bytes(data))


def test_thousands_of_pages_take_time_in_proportion(tmp_path: Path):
    values = np.arange(256, dtype=np.uint16).reshape(16, 16)
    seconds = {}
    for pages in (1000, 4000):
        (tmp_path / "pages.tif").write_bytes(write_tiff(values, 8, pages=pages))
        start = time.process_time()
        found = list(read_frames(tmp_path / "pages.tif"))
        seconds[pages] = time.process_time() - start
        assert [one.frame for one in found if isinstance(one, Picture)] == list(range(pages))
        assert all(isinstance(one, Picture) and one.frames == pages for one in found)
    assert seconds[4000] < 8 * seconds[1000]  # 4 where it is linear, 16 where it is quadratic
    assert seconds[4000] < 8


def test_a_page_that_cannot_be_read_does_not_keep_the_others_back(tmp_path: Path):
    data = bytearray(write_tiff(drawn(8), 8, pages=3))
    entry = data.index(b"\x06\x01\x03\0", data.index(b"\x06\x01\x03\0") + 1)  # the second directory's photometric
    data[entry + 8] = 5
    (tmp_path / "a.tif").write_bytes(data)
    found = list(read_frames(tmp_path / "a.tif"))
    assert [isinstance(one, Picture) for one in found] == [True, False, True]


def test_a_sparse_file_costs_what_its_page_needs(tmp_path: Path):
    data = write_tiff(drawn(8), 8)
    with (tmp_path / "sparse.tif").open("wb") as file:
        file.write(data)
        file.truncate(500_000_000)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert read_image(tmp_path / "sparse.tif").pixels.shape == (1, HEIGHT, WIDTH)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # kB
