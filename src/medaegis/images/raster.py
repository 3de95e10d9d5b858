"""PNG, JPEG, TIFF, BMP and WebP through Pillow: what the file declares is checked first, then one frame is decoded.

Pillow keeps 16 bits for grey only; where it drops bits, or anything else is done to the pixels, the steps say so.
"""

import logging
from io import BytesIO
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from medaegis.images.isolated import ask
from medaegis.images.limits import Limits, UnreadableError, check_frame, check_size, quiet

# Pillow logs about odd files; without any handler Python would print that to the user.
logging.getLogger("PIL").addHandler(logging.NullHandler())

Pixels = npt.NDArray[np.float32]
ORIENTATION = 0x0112
BITS_PER_SAMPLE = 0x0102
TIFF_COMPRESSION = 0x0103
TIFF_PHOTOMETRIC = 0x0106
# A progressive JPEG has some ten scans; each further one costs a pass over the whole picture.
MAX_JPEG_SCANS = 100


def read_raster(data: bytes, kind: str, *, frame: int, limits: Limits) -> tuple[Pixels, int, int, list[str]]:
    """Decode one frame of an image file.

    Args:
        data: the file.
        kind: "PNG", "JPEG", "TIFF", "BMP" or "WebP", as found from its first bytes.
        frame: page of a TIFF; 0 for all others.
        limits: bounds on what the file declares.

    Returns:
        Pixels float32 `(1 or 3, H, W)` in [0, 1], bits per sample, number of frames, steps in words.

    Raises:
        UnreadableError: a stated reason; other exceptions of Pillow mean that the file is damaged.
    """
    if kind == "JPEG" and data.count(b"\xff\xda") > MAX_JPEG_SCANS:
        raise UnreadableError(f"it has more than {MAX_JPEG_SCANS} scans", "save it again as an ordinary JPEG")
    with quiet():
        if kind == "PNG":
            _open(data, kind, limits).verify()  # every chunk's checksum; Pillow does not look at them otherwise
        image = _open(data, kind, limits)
        frames = _select(image, kind, frame, limits)
        check_size(*image.size, limits)
        bits, steps = _depth(image, kind, data)
        turned = image.getexif().get(ORIENTATION, 1) in range(2, 9)
        # Pillow inverts WhiteIsZero for 8 bits, not for 16.
        white_is_zero = getattr(image, "tag_v2", {}).get(TIFF_PHOTOMETRIC) == 0
        if kind == "TIFF" and getattr(image, "tag_v2", {}).get(TIFF_COMPRESSION, 1) != 1:
            image = _load_tiff(data, frame, steps)
        image.load()
        if turned:
            image = ImageOps.exif_transpose(image)
            steps.append("turned upright as its orientation tag says")
        if image.mode.startswith("I;16"):
            pixels = _sixteen(image, bits, white_is_zero, steps)
        else:
            pixels, bits = _eight(image, bits, steps)
    return pixels, bits, frames, steps


def _open(data: bytes, kind: str, limits: Limits) -> Image.Image:
    try:
        return Image.open(BytesIO(data), formats=[kind.upper()])
    except Image.DecompressionBombError:
        raise UnreadableError(
            f"it declares more pixels than the limit of {min(limits.max_pixels, 2 * (Image.MAX_IMAGE_PIXELS or 0)):,}",
            "scale it down",
        ) from None


def _select(image: Image.Image, kind: str, frame: int, limits: Limits) -> int:
    """Go to the frame asked for; the number of frames. Pages are counted no further than the limit."""
    if kind != "TIFF":
        moving = int(getattr(image, "n_frames", 1)) if kind in ("PNG", "WebP") else 1
        if moving > 1:
            raise UnreadableError(f"it is an animation of {moving} frames", "save the frame that is meant as a still")
        check_frame(frame, 1, limits)
        return 1
    frames = 1
    while frames <= limits.max_frames:
        try:
            image.seek(frames)
        except EOFError:
            break
        frames += 1
    check_frame(frame, frames, limits)
    image.seek(frame)
    return frames


def _depth(image: Image.Image, kind: str, data: bytes) -> tuple[int, list[str]]:
    """Bits per sample as the file declares them, and the first step."""
    bits = 1 if image.mode == "1" else 8
    if kind == "PNG":
        bits = data[24]  # IHDR: 8 bytes signature, 8 chunk head, 4 width, 4 height
    elif kind == "TIFF":
        bits = int(getattr(image, "tag_v2", {}).get(BITS_PER_SAMPLE, (bits,))[0])
    return bits, [f"{kind}, {image.mode}, {bits} bits per sample"]


def _load_tiff(data: bytes, page: int, steps: list[str]) -> Image.Image:
    """A compressed page, by libtiff in a child process: it prints what it finds wrong, and has crashed before."""
    answer = ask({"task": "tiff", "page": page}, data)
    if answer is None:
        raise UnreadableError("its compressed TIFF data cannot be decoded: damaged or cut short", "export it again")
    if answer[0]["mode"] in ("RGB", "RGBA") and steps[0].startswith("TIFF, P"):
        steps.append("palette looked up")
    return Image.frombytes(answer[0]["mode"], tuple(answer[0]["size"]), answer[1])


def _eight(image: Image.Image, bits: int, steps: list[str]) -> tuple[Pixels, int]:
    """Grey or RGB of up to 8 bits per sample, and the bits that are left."""
    if image.mode == "CMYK":
        raise UnreadableError(
            "it is CMYK, made for printing: its colours on a screen depend on a printing profile",
            "save it as RGB or grey with the program it comes from",
        )
    if image.mode in ("I", "F"):
        raise UnreadableError(
            "it has 32-bit or signed samples, of which no value is known to be white",
            "save it as 8- or 16-bit unsigned",
        )
    if image.mode in ("La", "RGBa"):
        image = image.convert("LA" if image.mode == "La" else "RGBA")
    if image.mode in ("P", "PA"):
        steps.append("palette looked up")
        see_through = image.mode == "PA" or "transparency" in image.info
        image = image.convert("RGBA" if see_through else "RGB")
        bits = 8
    if image.mode in ("1", "L", "RGB") and "transparency" in image.info:
        image = image.convert("RGBA" if image.mode == "RGB" else "LA")
    if image.mode == "YCbCr":
        steps.append("YCbCr to RGB")
        image = image.convert("RGB")
    if image.mode not in ("1", "L", "LA", "RGB", "RGBA", "RGBX"):
        raise UnreadableError(f"its colour space ({image.mode}) is not supported", "save it as RGB or grey")
    if bits > 8:
        steps.append("16-bit colour or transparency: the upper 8 bits are kept")
        bits = 8

    array = np.asarray(image.convert("L") if image.mode == "1" else image)
    array = array[:, :, np.newaxis] if array.ndim == 2 else array
    colours = 1 if image.mode in ("1", "L", "LA") else 3
    pixels = array[:, :, :colours].astype(np.float32) / np.float32(255)
    if image.mode in ("LA", "RGBA"):
        alpha = array[:, :, -1:]
        if alpha.min() == 255:
            steps.append("opaque alpha channel left out")
        else:
            pixels *= alpha.astype(np.float32) / np.float32(255)
            steps.append("transparent parts laid over black")
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)), bits


def _sixteen(image: Image.Image, bits: int, white_is_zero: bool, steps: list[str]) -> Pixels:
    """Unsigned grey of 9 to 16 bits, white = 2^bits - 1."""
    values: npt.NDArray[Any] = np.asarray(image)
    white = (1 << bits) - 1
    if int(values.max()) > white:
        raise UnreadableError(f"it declares {bits} bits per sample and holds larger values", "save it again")
    pixels = values.astype(np.float32) / np.float32(white)
    if white_is_zero:
        pixels = np.float32(1) - pixels
        steps.append("WhiteIsZero: inverted, so that high values are light")
    return pixels[np.newaxis]
