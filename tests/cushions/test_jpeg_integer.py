"""The integer JPEG against the codec: Pillow encodes, Pillow and simplejpeg decode, one image at a time."""

import doctest
import io

import numpy as np
import pytest
import simplejpeg
import torch
import torch.nn.functional as F
from PIL import Image
from tests.cushions.drawings import drawn
from torch import Tensor

from medaegis.cushions import jpeg_integer as module
from medaegis.cushions.jpeg_integer import jpeg_integer, quantisation_table

KINDS = [(1, "420"), (3, "444"), (3, "420")]
kinds = pytest.mark.parametrize(("channels", "subsampling"), KINDS, ids=["grey", "444", "420"])


def different(pixels: Tensor, quality: int, subsampling: str) -> int:
    """How many values are not the codec's, by either decoder."""
    ours = jpeg_integer(pixels, quality, halve_chroma=subsampling == "420").permute(0, 2, 3, 1).numpy()
    assert ours.dtype == np.uint8
    wrong = 0
    for image, got in zip(pixels.permute(0, 2, 3, 1).numpy(), ours, strict=True):
        file = io.BytesIO()
        grey = image.shape[-1] == 1
        Image.fromarray(image[..., 0] if grey else image).save(
            file, "JPEG", quality=quality, subsampling=2 if subsampling == "420" else 0
        )
        pillow = np.asarray(Image.open(file)).reshape(image.shape)
        simple = simplejpeg.decode_jpeg(
            file.getvalue(), colorspace="GRAY" if grey else "RGB", fastdct=False, fastupsample=False
        )
        wrong += int((got != pillow).sum()) + int((got != simple).sum())
    return wrong


def noise(shape: tuple[int, ...], random: torch.Generator) -> Tensor:
    return torch.randint(0, 256, shape, generator=random, dtype=torch.uint8)


def smooth(shape: tuple[int, ...], random: torch.Generator) -> Tensor:
    coarse = torch.rand((*shape[:2], 5, 5), generator=random)
    return F.interpolate(coarse, size=shape[2:], mode="bicubic").clamp(0, 1).mul(255).round().byte()


def motley(shape: tuple[int, ...], random: torch.Generator) -> Tensor:
    """Noise, black and white noise, soft shapes, and drawn ones with noise: `shape[0]` of each."""
    seed = int(torch.randint(1 << 30, (), generator=random))
    drawing = drawn(shape, seed=seed).mul(255).round().byte()
    return torch.cat([noise(shape, random), noise(shape, random) // 128 * 255, smooth(shape, random), drawing])


@kinds
def test_ten_million_pixels_at_all_qualities(channels: int, subsampling: str) -> None:
    random = torch.Generator().manual_seed(0)
    seen = 0
    for quality in range(1, 101):
        height, width = (int(side) for side in torch.randint(144, 177, (2,), generator=random))
        pixels = motley((1, channels, height, width), random)
        assert different(pixels, quality, subsampling) == 0, (quality, height, width)
        seen += pixels[:, 0].numel()
    assert seen > 10**7


@kinds
@pytest.mark.parametrize("height", range(1, 18))
def test_small_and_odd_sizes(channels: int, subsampling: str, height: int) -> None:
    random = torch.Generator().manual_seed(height)
    for width in range(1, 18):
        quality = int(torch.randint(1, 101, (), generator=random))
        assert different(motley((1, channels, height, width), random), quality, subsampling) == 0, (width, quality)


@kinds
def test_long_strips(channels: int, subsampling: str) -> None:
    random = torch.Generator().manual_seed(0)
    for size in ((1, 4099), (3, 2051), (4099, 1), (2051, 3)):
        assert different(noise((1, channels, *size), random), 90, subsampling) == 0


# Found by search. At quality 1 its first pixel comes back 561 above the middle of the range. From 512 on, the table in
# libjpeg's C code would wrap around to 0; the vector code that processors run cuts off at 255, as below 512.
FAR_OUT = "11110110 10010100 01000001 10101011 00111110 11010000 01010010 00110000"


@kinds
def test_values_far_outside_are_cut_off(channels: int, subsampling: str) -> None:
    block = torch.tensor([int(bit) * 255 for bit in FAR_OUT.replace(" ", "")], dtype=torch.uint8).view(1, 1, 8, 8)
    for pixels in (block, 255 - block):
        assert different(pixels.repeat(1, channels, 3, 3), 1, subsampling) == 0


@kinds
def test_nothing_is_read_back_from_the_device(channels: int, subsampling: str) -> None:
    """The meta device holds no values: reading one, or mixing in a tensor left on the processor, raises."""
    for shape in ((3, channels, 19, 26), (2, channels, 1, 1)):
        out = jpeg_integer(torch.empty(shape, dtype=torch.uint8, device="meta"), 80, halve_chroma=subsampling == "420")
        assert (out.device.type, out.shape, out.dtype) == ("meta", shape, torch.uint8)


@kinds
def test_a_batch_is_its_images_whatever_its_size_and_layout(channels: int, subsampling: str) -> None:
    pixels = motley((3, channels, 173, 131), torch.Generator().manual_seed(0))
    halve = subsampling == "420"
    before = pixels.clone()
    whole = jpeg_integer(pixels, 75, halve_chroma=halve)
    assert torch.equal(pixels, before)
    assert whole.is_contiguous()
    assert torch.equal(whole, torch.cat([jpeg_integer(one, 75, halve_chroma=halve) for one in pixels.split(1)]))
    last = pixels.contiguous(memory_format=torch.channels_last)
    assert torch.equal(whole, jpeg_integer(last, 75, halve_chroma=halve))
    assert jpeg_integer(pixels[:0], 75, halve_chroma=halve).shape == (0, *pixels.shape[1:])


def test_modes_of_the_caller_change_nothing() -> None:
    pixels = motley((2, 3, 40, 33), torch.Generator().manual_seed(0))
    expected = jpeg_integer(pixels, 75, halve_chroma=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(jpeg_integer(pixels, 75, halve_chroma=True), expected)
    with torch.inference_mode():
        module._matrices.cache_clear()
        jpeg_integer(pixels, 75, halve_chroma=True)
    assert torch.equal(jpeg_integer(pixels, 75, halve_chroma=True), expected)
    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.float16)
        module._matrices.cache_clear()
        assert torch.equal(jpeg_integer(pixels, 75, halve_chroma=True), expected)
    finally:
        torch.set_default_dtype(before)


@pytest.mark.parametrize("quality", [1, 25, 49, 50, 80, 95, 100])
def test_quantisation_tables_are_those_of_libjpeg(quality: int) -> None:
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "JPEG", quality=quality)
    tables = Image.open(file).quantization
    assert list(tables[0]) == quantisation_table(quality)
    assert list(tables[1]) == quantisation_table(quality, chroma=True)


def test_the_example_is_true() -> None:
    assert doctest.testmod(module) == doctest.TestResults(failed=0, attempted=2)
