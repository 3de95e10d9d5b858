"""JPEG as a cushion: the real codec, libjpeg(-turbo) with its accurate integer DCT, on 8-bit pixels.

Pillow encodes; simplejpeg decodes, which gives Pillow's pixels at a third of the time. simplejpeg's own encoder is not
used: up to version 1.9 it takes the fast, less accurate DCT below quality 96 whatever it is asked for.
"""

import errno
import io
import os
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from typing import IO, Any, Literal

import numpy as np
import simplejpeg
import torch
from numpy.typing import NDArray
from PIL import Image, features
from torch import Tensor

from medaegis.cushions.base import Cushion
from medaegis.cushions.jpeg_twin import jpeg_twin

Subsampling = Literal["420", "444"]
Bytes = NDArray[np.uint8]
_TALLEST = 65500  # libjpeg's JPEG_MAX_DIMENSION
_STACK_PIXELS = 1 << 18  # taller stacks leave the processor's cache and gain nothing
_TASK_PIXELS = 1 << 17  # about half a millisecond of coding: less is not worth a thread


class JpegCushion(Cushion):
    """JPEG compression and decompression.

    Batches are spread over `torch.get_num_threads()` threads; the codecs run without Python's lock.

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
        count, _, height, width = pixels.shape
        images = pixels.cpu().numpy()
        tasks = max(1, min(torch.get_num_threads(), count * height * width // _TASK_PIXELS, count))
        if tasks == 1:
            parts = [self._code(images)]
        else:
            with ThreadPoolExecutor(tasks) as pool:
                parts = list(pool.map(self._code, np.array_split(images, tasks)))
        return torch.cat([torch.from_numpy(part).permute(0, 3, 1, 2) for part in parts]).contiguous().to(pixels.device)

    def _code(self, images: Bytes) -> Bytes:
        """`(N, C, H, W)` -> `(N, H, W, C)`, several images at a time as one tall JPEG where that changes nothing.

        It spares opening a codec for each image, and is exact for grey and 4:4:4: blocks of 8 x 8 are independent of
        each other up to the lossless entropy code, and an image is padded to whole blocks by repeating its last row,
        which is what libjpeg does itself. Upsampling 4:2:0 looks across blocks, so there each image goes alone.
        """
        count, channels, height, width = images.shape
        if channels == 3 and self.subsampling == "420":
            stack, padding = 1, 0
        else:
            padding = -height % 8
            stack = max(1, min(_TALLEST, _STACK_PIXELS // width) // (height + padding))
        out = np.empty((count, height + padding, width, channels), np.uint8)
        # Pillow lets other threads run only while it writes to a real file, so that it gets one that lies in memory.
        with os.fdopen(os.memfd_create("jpeg"), "w+b", 0) if hasattr(os, "memfd_create") else io.BytesIO() as file:
            for start in range(0, count, stack):
                data = self._encode(file, images[start : start + stack], padding)
                simplejpeg.decode_jpeg(
                    data,
                    colorspace="GRAY" if channels == 1 else "RGB",
                    fastdct=False,
                    fastupsample=False,
                    buffer=out[start : start + stack].reshape(-1, width, channels),
                )
        return out[:, :height]

    def _encode(self, file: IO[bytes], images: Bytes, padding: int) -> bytes:
        count, channels, height, width = images.shape
        if channels == 1:
            tall, mode = images[:, 0], "L"
            if padding:
                tall = np.concatenate([tall, tall[:, -1:].repeat(padding, 1)], 1)
        else:  # Pillow keeps RGB with a spare fourth byte; given that, it makes no copy
            tall, mode = np.empty((count, height + padding, width, 4), np.uint8), "RGBX"
            for channel in range(channels):
                tall[:, :height, :, channel] = images[:, channel]
            tall[:, height:] = tall[:, height - 1 : height]
        size = (width, count * (height + padding))
        file.seek(0)
        file.truncate()
        Image.frombuffer(mode, size, np.ascontiguousarray(tall), "raw", mode, 0, 1).save(
            file, "JPEG", quality=self.quality, subsampling=2 if self.subsampling == "420" else 0
        )
        file.seek(0)
        data = file.read()
        if not data.endswith(b"\xff\xd9"):  # Pillow does not notice that a write was cut short
            problem = "the JPEG codec could not write to memory: a limit on the size of files, or too little memory"
            raise OSError(errno.ENOSPC, problem)
        return data

    def _twin(self, x: Tensor) -> Tensor:
        """Coefficients softly rounded; `jpeg_twin` says how far that is from the codec."""
        return jpeg_twin(x, self.quality, halve_chroma=self.subsampling == "420")

    def manifest(self) -> dict[str, Any]:
        """As for every cushion, and the codecs with their versions."""
        turbo = features.version("libjpeg_turbo")
        return super().manifest() | {
            "quality": self.quality,
            "subsampling": self.subsampling,
            "encoder": f"Pillow {version('pillow')}, libjpeg{'-turbo ' + turbo if turbo else ''}",
            "decoder": f"simplejpeg {version('simplejpeg')}",
        }
