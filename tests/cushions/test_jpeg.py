"""The JPEG cushion against Pillow alone, one image at a time: the pixels a reader of the file would see."""

import io
import os
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from PIL import Image
from tests.cushions.drawings import drawn
from torch import Tensor

from medaegis.cushions import parse_cushion

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


def test_manifest_names_codec_and_version() -> None:
    manifest = parse_cushion("jpeg:80").manifest()
    assert "libjpeg" in manifest["encoder"]
    assert "simplejpeg" in manifest["decoder"]
    assert (manifest["quality"], manifest["subsampling"]) == (80, "420")


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
