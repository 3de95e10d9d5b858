"""JPEG as a cushion: the real codec, libjpeg(-turbo) with its accurate integer DCT, on 8-bit pixels.

Pillow encodes; simplejpeg decodes, which gives Pillow's pixels at a third of the time. simplejpeg's own encoder is not
used: up to version 1.9 it takes the fast, less accurate DCT below quality 96 whatever it is asked for.
"""

import io
from importlib.metadata import version
from typing import Any, Literal

import numpy as np
import simplejpeg
import torch
from numpy.typing import NDArray
from PIL import Image, features
from torch import Tensor

from medaegis.cushions.base import Cushion

Subsampling = Literal["420", "444"]
_TALLEST = 65500  # libjpeg's JPEG_MAX_DIMENSION
_STACK_PIXELS = 1 << 20  # stacks larger than this only leave the processor's cache


class JpegCushion(Cushion):
    """JPEG compression and decompression.

    Args:
        quality: libjpeg's scale, 1 (coarse) to 100.
        subsampling: "420" halves the chroma planes both ways (the usual JPEG), "444" keeps them. Without effect on
            one-channel images, which are coded as one component.
    """

    has_twin = False

    def __init__(self, quality: int, subsampling: Subsampling = "420") -> None:
        super().__init__(f"jpeg:{quality}" + ("" if subsampling == "420" else f":{subsampling}"))
        self.quality = quality
        self.subsampling = subsampling

    def _cushion(self, pixels: Tensor) -> Tensor:
        count, channels, height, width = pixels.shape
        images = pixels.permute(0, 2, 3, 1).contiguous().cpu().numpy()
        out = np.empty_like(images)
        if channels == 3 and self.subsampling == "420":
            stack = 1  # chroma upsampling looks across blocks, so that neighbours in a stack would be seen
        else:
            padded = -height % 8 + height
            stack = max(1, min(_TALLEST // padded, _STACK_PIXELS // (padded * width)))
        for start in range(0, count, stack):
            self._round_trip(images[start : start + stack], out[start : start + stack])
        return torch.from_numpy(out).permute(0, 3, 1, 2).contiguous().to(pixels.device)

    def _round_trip(self, images: NDArray[np.uint8], out: NDArray[np.uint8]) -> None:
        """Codes several images as one tall JPEG, which spares the cost of opening a codec for each.

        Exact, because 8 x 8 blocks are coded independently of each other up to the lossless entropy code: each image
        is padded to whole blocks by repeating its last row, which is what libjpeg does with a single image.
        """
        count, height, width, channels = images.shape
        if count > 1 and height % 8:
            images = np.pad(images, ((0, 0), (0, -height % 8), (0, 0), (0, 0)), mode="edge")
        tall = images.reshape(-1, width) if channels == 1 else images.reshape(-1, width, channels)
        target = out if out.shape == images.shape else np.empty_like(images)
        file = io.BytesIO()
        Image.fromarray(tall).save(
            file, "JPEG", quality=self.quality, subsampling=2 if self.subsampling == "420" else 0
        )
        simplejpeg.decode_jpeg(
            file.getvalue(),
            colorspace="GRAY" if channels == 1 else "RGB",
            fastdct=False,
            fastupsample=False,
            buffer=target.reshape(-1, width, channels),
        )
        if target is not out:
            out[:] = target[:, :height]

    def twin(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def manifest(self) -> dict[str, Any]:
        turbo = features.version("libjpeg_turbo")
        return super().manifest() | {
            "quality": self.quality,
            "subsampling": self.subsampling,
            "encoder": f"Pillow {version('pillow')}, libjpeg{'-turbo ' + turbo if turbo else ''}",
            "decoder": f"simplejpeg {version('simplejpeg')}",
        }
