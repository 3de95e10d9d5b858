"""JPEG as a cushion: the pixels of `jpeg_integer`, by the codec where that is faster and gives the same."""

from functools import cache
from typing import Any, Literal

import torch
from torch import Tensor

from medaegis.cushions.base import Cushion, probe_images
from medaegis.cushions.jpeg_codec import jpeg_codec
from medaegis.cushions.jpeg_integer import jpeg_integer
from medaegis.cushions.jpeg_twin import jpeg_twin

Subsampling = Literal["420", "444"]


class JpegCushion(Cushion):
    """JPEG compression and decompression.

    Args:
        quality: libjpeg's scale, 1 (coarse) to 100.
        subsampling: "420" halves the chroma planes both ways (the usual JPEG), "444" keeps them. Without effect on
            one-channel images, which are coded as one component.
    """

    def __init__(self, quality: int, subsampling: Subsampling = "420") -> None:
        super().__init__(f"jpeg:{quality}" + ("" if subsampling == "420" else f":{subsampling}"))
        self.quality = quality
        self.subsampling = subsampling

    def _cushion(self, pixels: Tensor) -> Tensor:
        halve = self.subsampling == "420"
        if pixels.device.type == "cpu" and codec_is_exact(self.quality, halve, pixels.shape[1]):
            return jpeg_codec(pixels, self.quality, halve_chroma=halve)
        return jpeg_integer(pixels, self.quality, halve_chroma=halve)

    def _twin(self, x: Tensor) -> Tensor:
        """Coefficients softly rounded; `jpeg_twin` says how far that is from the exact pixels."""
        return jpeg_twin(x, self.quality, halve_chroma=self.subsampling == "420")

    def manifest(self) -> dict[str, Any]:
        """As for every cushion, and the parameters."""
        return super().manifest() | {"quality": self.quality, "subsampling": self.subsampling}


@cache
def codec_is_exact(quality: int, halve_chroma: bool, channels: int) -> bool:
    """Whether this machine's codec gives the pixels of `jpeg_integer`; tried once in a process, on fixed images.

    They are soft ones with noise and black and white noise, whole and as strips of three columns, whose chroma is
    upsampled in another way.
    """
    soft = probe_images(channels)
    images = torch.cat([soft, soft % 2 * 255])
    for part in (images, images[..., :3]):
        codec, integer = (code(part, quality, halve_chroma=halve_chroma) for code in (jpeg_codec, jpeg_integer))
        if not torch.equal(codec, integer):
            return False
    return True
