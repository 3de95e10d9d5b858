"""JPEG by the codec, libjpeg-turbo: on a processor the pixels of `jpeg_integer` in half the time or less.

Pillow encodes; simplejpeg decodes, which gives Pillow's pixels at a third of the time. simplejpeg's own encoder is not
used: up to version 1.9 it takes the fast, less accurate DCT below quality 96 whatever it is asked for.
"""

import errno
import io
import os
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import IO

import numpy as np
import simplejpeg
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

Bytes = NDArray[np.uint8]
_TALLEST = 65500  # libjpeg's JPEG_MAX_DIMENSION
_STACK_PIXELS = 1 << 18  # taller stacks leave the processor's cache and gain nothing
_TASK_PIXELS = 1 << 17  # about half a millisecond of coding: less is not worth a thread


def jpeg_codec(pixels: Tensor, quality: int, *, halve_chroma: bool) -> Tensor:
    """As `jpeg_integer`, of pixels in the processor's memory.

    Batches are spread over `torch.get_num_threads()` threads; the codecs run without Python's lock.

    Raises:
        OSError: the codec could not write.
    """
    count, _, height, width = pixels.shape
    images = pixels.numpy()
    code = partial(_code, quality=quality, halve_chroma=halve_chroma)
    tasks = max(1, min(torch.get_num_threads(), count * height * width // _TASK_PIXELS, count))
    if tasks == 1:
        parts = [code(images)]
    else:
        with ThreadPoolExecutor(tasks) as pool:
            parts = list(pool.map(code, np.array_split(images, tasks)))
    return torch.cat([torch.from_numpy(part).permute(0, 3, 1, 2) for part in parts]).contiguous()


def _code(images: Bytes, quality: int, halve_chroma: bool) -> Bytes:
    """`(N, C, H, W)` -> `(N, H, W, C)`, several images at a time as one tall JPEG where that changes nothing.

    It spares opening a codec for each image, and is exact for grey and 4:4:4: blocks of 8 x 8 are independent of
    each other up to the lossless entropy code, and an image is padded to whole blocks by repeating its last row,
    which is what libjpeg does itself. Upsampling 4:2:0 looks across blocks, so there each image goes alone.
    """
    count, channels, height, width = images.shape
    if channels == 3 and halve_chroma:
        stack, padding = 1, 0
    else:
        padding = -height % 8
        stack = max(1, min(_TALLEST, _STACK_PIXELS // width) // (height + padding))
    out = np.empty((count, height + padding, width, channels), np.uint8)
    # Pillow lets other threads run only while it writes to a real file, so that it gets one that lies in memory.
    with os.fdopen(os.memfd_create("jpeg"), "w+b", 0) if hasattr(os, "memfd_create") else io.BytesIO() as file:
        for start in range(0, count, stack):
            data = _encode(file, images[start : start + stack], padding, quality, halve_chroma)
            simplejpeg.decode_jpeg(
                data,
                colorspace="GRAY" if channels == 1 else "RGB",
                fastdct=False,
                fastupsample=False,
                buffer=out[start : start + stack].reshape(-1, width, channels),
            )
    return out[:, :height]


def _encode(file: IO[bytes], images: Bytes, padding: int, quality: int, halve_chroma: bool) -> bytes:
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
        file, "JPEG", quality=quality, subsampling=2 if halve_chroma else 0
    )
    file.seek(0)
    data = file.read()
    if not data.endswith(b"\xff\xd9"):  # Pillow does not notice that a write was cut short
        problem = "the JPEG codec could not write to memory: a limit on the size of files, or too little memory"
        raise OSError(errno.ENOSPC, problem)
    return data
