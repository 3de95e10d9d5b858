"""Image strips of the report: small PNG data URIs of images and of what an attack changed in them."""

from __future__ import annotations

import base64
import io

import numpy as np
import numpy.typing as npt
from PIL import Image


def magnification(eps: float) -> int:
    """By how much a change of at most eps is magnified about mid grey so that it just fits into the picture."""
    return max(1, int(0.5 / eps + 1e-6)) if eps > 0 else 1


def picture(pixels: npt.NDArray[np.uint8], side: int) -> str:
    """A PNG data URI of uint8 (1 or 3, H, W), its longer side brought down to `side`, never up."""
    image = _image(pixels)
    image.thumbnail((side, side), Image.Resampling.BOX, reducing_gap=None)
    return _png(image)


def change_picture(clean: npt.NDArray[np.uint8], attacked: npt.NDArray[np.uint8], *, factor: int, side: int) -> str:
    """The difference of two images magnified about mid grey, as a PNG data URI; both uint8 (1 or 3, H, W)."""
    change = attacked.astype(np.int32) - clean.astype(np.int32)
    image = _image(np.clip(128 + factor * change, 0, 255).astype(np.uint8))
    # Averaging would cancel neighbouring pixels and make the change look smaller than it is.
    image.thumbnail((side, side), Image.Resampling.NEAREST, reducing_gap=None)
    return _png(image)


def _image(pixels: npt.NDArray[np.uint8]) -> Image.Image:
    return Image.fromarray(pixels[0] if pixels.shape[0] == 1 else np.ascontiguousarray(pixels.transpose(1, 2, 0)))


def _png(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
