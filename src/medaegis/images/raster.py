"""PNG, JPEG, TIFF, BMP and WebP: what the file declares is checked first, then one frame is decoded.

Whatever is done to the pixels, the steps say so. What a decoder finds wrong and decodes over is damage, and refused.
"""

import logging
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image

from medaegis.images.isolated import ask
from medaegis.images.jpeg import Codestream
from medaegis.images.limits import Decoded, Limits, UnreadableError, check_frame, check_size, cmyk, quiet
from medaegis.images.png import Header, check_png
from medaegis.images.tiff import Tiff
from medaegis.images.tiff_page import ASSOCIATED, FAX, JPEG, PALETTE, RGB, UNASSOCIATED, WHITE_IS_ZERO, YCBCR

# Pillow logs about odd files; without any handler Python would print that to the user.
logging.getLogger("PIL").addHandler(logging.NullHandler())

Values = npt.NDArray[Any]
BAND_PIXELS = 1 << 20  # converted at once
RUN_LENGTH = (1, 2)  # of a BMP; Pillow unpacks it byte by byte in Python
WEBP_COPIES = 2  # Pillow's decoder of WebP holds the picture four times, those of other kinds at most twice
# EXIF 2.32, 4.6.4: what turns the stored picture (height, width, ...) upright.
UPRIGHT: dict[int, Callable[[Values], Values]] = {
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: a[::-1].swapaxes(0, 1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: a.swapaxes(0, 1)[::-1],
}


def raster_reader(file: BinaryIO, kind: str, limits: Limits) -> Callable[[int], Decoded]:
    """A function that decodes one frame of an open image file.

    Args:
        file: the file; read no further than the frame needs.
        kind: "PNG", "JPEG", "TIFF", "BMP" or "WebP", as found from its first bytes.
        limits: bounds on what the file declares.

    Returns:
        From the number of a frame (page of a TIFF, else 0) to the picture. It raises UnreadableError with a stated
        reason; other exceptions of Pillow mean that the file is damaged.
    """
    if kind == "TIFF":
        tiff = Tiff(file, limits)
        return lambda frame: _tiff(tiff, frame)

    def read(frame: int) -> Decoded:
        check_frame(frame, 1, limits)
        with quiet():
            return _picture(file, kind, limits)

    return read


def _picture(file: BinaryIO, kind: str, limits: Limits) -> Decoded:
    """The one frame of a file that Pillow opens."""
    file.seek(0)
    header = check_png(file, limits) if kind == "PNG" else None
    if kind == "JPEG":
        _check_jpeg(file, limits)
    file.seek(0)
    try:
        image: Image.Image = Image.open(file, formats=[kind.upper()])
    except Image.DecompressionBombError:
        problem = f"it declares more pixels than the limit of {limits.max_pixels:,}"
        raise UnreadableError(problem, "scale it down") from None
    if kind == "BMP" and image.info.get("compression") in RUN_LENGTH:
        raise UnreadableError("it is a run-length BMP, which is not read here", "save it as PNG")
    if kind == "WebP":
        moving = int(getattr(image, "n_frames", 1))
        if moving > 1:
            raise UnreadableError(f"it is an animation of {moving} frames", "save the frame that is meant as a still")
    check_size(*image.size, limits, copies=WEBP_COPIES if kind == "WebP" else 1)
    bits = header.depth if header else 1 if image.mode == "1" else 8
    steps = [f"{kind}, {image.mode}, {bits} bits per sample"]
    orientation = _orientation(image, steps)
    if kind == "WebP":
        image = _webp(file, image)
    else:
        image.load()
    if header and header.key is not None:
        image.info.pop("transparency", None)
    values, white, bits = _samples(image, kind, bits, header, steps)
    return _upright(values, white, bits, 1, orientation, steps)


def _check_jpeg(file: BinaryIO, limits: Limits) -> None:
    code = Codestream(file, limits)
    if code.samples == 4:
        raise cmyk()
    code.check_data()


def _orientation(image: Image.Image, steps: list[str]) -> int:
    try:
        found = image.getexif()
        if found or not image.info.get("exif"):
            return int(found.get(ExifTags.Base.Orientation, 1))
    except Exception:  # Pillow meets a damaged EXIF block with any exception there is, or with an empty answer
        pass
    steps.append("its EXIF block is damaged, so its orientation is not known: taken as stored")
    return 1


def _webp(file: BinaryIO, image: Image.Image) -> Image.Image:
    """By a child process, whose memory is its own."""
    file.seek(0)
    answer = ask({"task": "raster", "format": "WEBP"}, file.read())
    if answer is None:
        raise UnreadableError("its WebP data are damaged or cut short", "copy or export it again")
    return Image.frombuffer(answer[0]["mode"], image.size, answer[1], "raw", answer[0]["mode"], 0, 1)


def _bands(image: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    rows = max(1, BAND_PIXELS // image.width)
    for top in range(0, image.height, rows):
        yield top, image.crop((0, top, image.width, min(top + rows, image.height)))


def _samples(
    image: Image.Image, kind: str, bits: int, header: Header | None, steps: list[str]
) -> tuple[Values, int, int]:
    """Values (rows, columns, 1 or 3), what is white among them, and the bits per sample that they carry."""
    mode = image.mode
    if mode == "CMYK":
        raise cmyk()
    if mode not in ("1", "L", "LA", "RGB", "RGBA", "RGBX", "P", "PA") and not mode.startswith("I;16"):
        raise UnreadableError(f"its colour space ({mode}) is not supported", "save it as RGB or grey")
    key = header.key if header else None
    if mode.startswith("I;16"):
        values = np.asarray(image)[:, :, np.newaxis]
        return _keyed(values, key, 65535, steps), 65535, bits
    if mode in ("P", "PA"):
        steps.append("palette looked up")
        bits = 8
    if bits > 8:
        if key is not None:
            problem = "one colour of 16 bits per sample is transparent in it, and its colours are read with 8"
            raise UnreadableError(problem, "save it without transparency")
        steps.append("16-bit colour or transparency: the upper 8 bits are kept")
        bits = 8
    to = {"1": "L", "P": "RGBA" if "transparency" in image.info else "RGB", "PA": "RGBA"}.get(mode, mode)
    colours = 1 if to in ("L", "LA") else 3
    laid = False
    if to in ("LA", "RGBA"):
        alphas = (np.asarray(band.convert(to).getchannel("A")) for _, band in _bands(image))
        ends = np.array([(alpha.min(), alpha.max()) for alpha in alphas])
        laid = _seen_through(int(ends.min()), int(ends.max()), 255, kind, steps)
    values = np.empty((image.height, image.width, colours), np.uint16 if laid else np.uint8)
    for top, band in _bands(image):
        part = np.asarray(band.convert(to) if to != mode else band).reshape(band.height, band.width, -1)
        shown = part[:, :, :colours]
        values[top : top + band.height] = np.multiply(shown, part[:, :, -1:], dtype=np.uint16) if laid else shown
    image.close()  # its copy of the pixels
    if laid:
        return values, 255 * 255, bits
    if key is not None:  # grey of less than 8 bits is spread over 0 to 255 by Pillow
        key = tuple(level * 255 // ((1 << bits) - 1) for level in key)
    return _keyed(values, key, 255, steps), 255, bits


def _keyed(values: Values, key: tuple[int, ...] | None, white: int, steps: list[str]) -> Values:
    """The one level or colour that is transparent is laid over black, as all transparent parts."""
    if key is None:
        return values
    values = values.copy()
    values[(values == np.array(key)).all(axis=2)] = 0
    steps.append("one level or colour is transparent and laid over black")
    return values


def _seen_through(low: int, high: int, white: int, kind: str, steps: list[str]) -> bool:
    """Whether a picture whose alpha goes from low to high is laid over black: multiplied with its alpha."""
    if low == white:
        steps.append("opaque alpha channel left out")
        return False
    if high == 0:
        if kind != "BMP":
            raise UnreadableError("all of it is transparent, so there is no picture", "save it without transparency")
        # Many programs leave the fourth byte 0, and none that shows a BMP looks at it.
        steps.append("alpha channel of nothing but 0 left out, as programs that show a BMP do")
        return False
    steps.append("transparent parts laid over black")
    return True


def _over_black(values: Values, alpha: Values, white: int) -> tuple[Values, int]:
    """Values times opacity, and what is white among them; those of more than 8 bits are overwritten."""
    if white <= 255:
        return np.multiply(values, alpha, dtype=np.uint16), white * white
    rows = max(1, BAND_PIXELS // values.shape[1])
    for top in range(0, len(values), rows):
        band = values[top : top + rows]
        band[...] = (np.multiply(band, alpha[top : top + rows], dtype=np.uint32) + white // 2) // white
    return values, white


def _upright(values: Values, white: int, bits: int, frames: int, orientation: int, steps: list[str]) -> Decoded:
    if orientation in UPRIGHT:
        values = UPRIGHT[orientation](values)
        steps.append("turned upright as its orientation tag says")
    elif orientation != 1:
        steps.append("its orientation tag has no meaning: taken as stored")
    return Decoded(values.transpose(2, 0, 1), white, bits, frames, steps)


def _tiff(tiff: Tiff, frame: int) -> Decoded:
    """One page of a TIFF."""
    page = tiff.page(frame)
    names = {WHITE_IS_ZERO: "WhiteIsZero", RGB: "RGB", PALETTE: "palette", YCBCR: "YCbCr"}
    steps = [f"TIFF, {names.get(page.photometric, 'grey')}, {page.bits} bits per sample"]
    values, bits = tiff.values(page), page.bits
    white = (1 << bits) - 1
    if page.compression == JPEG and page.photometric == YCBCR:
        steps.append("YCbCr to RGB")
    if page.compression in FAX:
        steps.append("fax compression, whose decoder passes over damage")
    colours = values.shape[2] - len(page.extra)
    shown: Values = values[:, :, :colours]
    if page.photometric == WHITE_IS_ZERO:
        shown = np.subtract(white, shown, dtype=values.dtype)
        steps.append("WhiteIsZero: inverted, so that high values are light")
    elif page.colour_map is not None:
        shown, white, bits = page.colour_map[shown[:, :, 0]], 255, 8
        steps.append("palette looked up")
    if page.extra:
        kind = page.extra[0]
        if kind == UNASSOCIATED and page.colour_map is None:
            alpha = values[:, :, colours:]
            if _seen_through(int(alpha.min()), int(alpha.max()), white, "TIFF", steps):
                shown, white = _over_black(shown, alpha, white)
        elif kind == ASSOCIATED:
            steps.append("transparent parts are laid over black in it already")
        else:
            steps.append("an extra sample per pixel left out")
    return _upright(shown, white, bits, len(tiff.pages), page.orientation, steps)
