"""The JPEG cushion against Pillow alone, one image at a time: the pixels a reader of the file would see."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from medaegis.cushions import parse_cushion

SHAPES = [(5, 1, 40, 48), (3, 3, 40, 48), (2, 1, 1, 9), (3, 3, 1, 1), (3, 3, 13, 21), (4, 1, 17, 7), (1, 3, 8, 300)]


def drawn(shape: tuple[int, ...], seed: int = 0) -> Tensor:
    """Smooth shapes with noise on top, as 8-bit values over 255."""
    random = np.random.default_rng(seed)
    n, c, h, w = shape
    y, x = np.mgrid[:h, :w] / 20
    phase = random.uniform(0, 6, (n, c, 1, 1))
    image = 128 + 90 * np.sin(x + phase) * np.cos(y - phase) + random.normal(0, 12, shape)
    return torch.from_numpy(np.clip(image, 0, 255).astype(np.uint8)).float() / 255


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
