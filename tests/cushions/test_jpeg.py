"""The JPEG cushion against Pillow alone, one image at a time: the pixels a reader of the file would see."""

import io
import itertools
import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
import torch
from PIL import Image
from tests.cushions.drawings import drawn
from torch import Tensor

from medaegis.cushions import RandomCushion, jpeg, parse_cushion
from medaegis.cushions.jpeg_codec import jpeg_codec

MANIFEST = Path(__file__).parents[1] / "golden" / "guard" / "manifest.json"

SHAPES = [(5, 1, 40, 48), (3, 3, 40, 48), (2, 1, 1, 9), (3, 3, 1, 1), (3, 3, 13, 21), (4, 1, 17, 7), (2, 1, 3, 40000)]


def through_pillow(x: Tensor, quality: int, subsampling: int) -> Tensor:
    out = []
    for image in (x * 255).round().byte().permute(0, 2, 3, 1).numpy():
        file = io.BytesIO()
        mode = image[..., 0] if image.shape[-1] == 1 else image
        Image.fromarray(mode).save(file, "JPEG", quality=quality, subsampling=subsampling)
        out.append(np.asarray(Image.open(file)).reshape(image.shape))
    return torch.from_numpy(np.stack(out)).permute(0, 3, 1, 2).float() / 255


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    ("spec", "quality", "subsampling"), [("jpeg:80", 80, 2), ("jpeg:35:444", 35, 0), ("jpeg:97", 97, 2)]
)
def test_pixels_are_those_of_the_codec(spec: str, quality: int, subsampling: int, shape: tuple[int, ...]) -> None:
    x = drawn(shape)
    assert torch.equal(parse_cushion(spec)(x), through_pillow(x, quality, subsampling))


@pytest.fixture
def four_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("four_threads")
@pytest.mark.parametrize("channels", [1, 3])
def test_threads_change_nothing(channels: int) -> None:
    x = drawn((21, channels, 203, 160))
    assert torch.equal(parse_cushion("jpeg:80")(x), through_pillow(x, 80, 2))


def test_a_tall_stack_is_cut_where_the_codec_ends() -> None:
    x = drawn((70, 1, 1001, 2), noise=40)  # 70,000 rows and more: past the 65,500 that a JPEG can have
    assert torch.equal(parse_cushion("jpeg:80")(x), through_pillow(x, 80, 2))


def test_subsampling_matters_for_colour_only() -> None:
    half, full = parse_cushion("jpeg:80"), parse_cushion("jpeg:80:444")
    colour = drawn((1, 3, 32, 32))
    assert not torch.equal(half(colour), full(colour))
    assert torch.equal(half(colour[:, :1]), full(colour[:, :1]))


def test_the_manifest_names_no_codec() -> None:
    manifest = parse_cushion("jpeg:80").manifest()
    assert manifest.keys() == {"spec", "probe", "quality", "subsampling"}
    assert (manifest["quality"], manifest["subsampling"]) == (80, "420")


@pytest.fixture
def other_codec(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine whose codec takes the fast, inexact DCT."""
    decode = simplejpeg.decode_jpeg
    monkeypatch.setattr(simplejpeg, "decode_jpeg", lambda *data, **how: decode(*data, **how | {"fastdct": True}))
    jpeg.codec_is_exact.cache_clear()
    yield
    jpeg.codec_is_exact.cache_clear()


@pytest.mark.usefixtures("other_codec")
@pytest.mark.parametrize(
    ("spec", "quality", "subsampling"), [("jpeg:80", 80, 2), ("jpeg:35:444", 35, 0), ("jpeg:97", 97, 2)]
)
@pytest.mark.parametrize("channels", [1, 3])
def test_a_codec_with_other_pixels_is_not_used(spec: str, quality: int, subsampling: int, channels: int) -> None:
    x = drawn((3, channels, 40, 48))
    bytes_ = (x * 255).round().byte()
    halve = subsampling == 2
    expected = through_pillow(x, quality, subsampling)
    assert not torch.equal(jpeg_codec(bytes_, quality, halve_chroma=halve).float() / 255, expected)
    assert not jpeg.codec_is_exact(quality, halve, channels)
    assert torch.equal(parse_cushion(spec)(x), expected)


def test_the_codec_here_is_used() -> None:
    assert all(jpeg.codec_is_exact(*case) for case in itertools.product((1, 50, 80, 100), (False, True), (1, 3)))


@pytest.mark.parametrize("codec", ["this codec", "other codec"])
def test_fingerprints_are_those_of_guards_made_with_the_codec(codec: str, request: pytest.FixtureRequest) -> None:
    """That guard was saved when every pixel came from the codec, and its manifest names it."""
    if codec == "other codec":
        request.getfixturevalue("other_codec")
    saved = json.loads(MANIFEST.read_text())["guard"]["cushion"]
    assert "libjpeg-turbo" in saved["encoder"]
    assert parse_cushion(saved["spec"]).manifest()["probe"] == saved["probe"]


@pytest.mark.parametrize("spec", ["jpeg:80", "jpeg:80:444", "random:jpeg:60-95"])
def test_on_another_device_no_pixel_leaves_it(spec: str) -> None:
    """The meta device holds none that could: reading one raises."""
    cushion = parse_cushion(spec)
    if isinstance(cushion, RandomCushion):
        cushion = cushion.draw(0, "verdict", range(5))
    for channels in (1, 3):
        out = cushion._cushion(torch.empty((5, channels, 19, 26), dtype=torch.uint8, device="meta"))
        assert (out.device.type, out.shape) == ("meta", (5, channels, 19, 26))


@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="it lies in no file there")
def test_a_limit_on_the_size_of_files_is_told_and_nothing_is_taken_from_half_a_picture():
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 1, 64, 64), dtype=np.uint8)) / 255
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (900, hard))
    try:
        with pytest.raises(OSError, match="limit on the size of files"):
            parse_cushion("jpeg:80")(images)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert parse_cushion("jpeg:80")(images).shape == images.shape
