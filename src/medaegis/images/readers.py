"""From a file of any supported kind to pixels in [0, 1], and from those to what a network takes.

The kind is found from the content; limits hold before anything is unpacked; every failure is one `ImageError`.
"""

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import numpy.typing as npt

from medaegis.errors import ConfigError, ImageError
from medaegis.images.dicom_header import is_bare
from medaegis.images.kinds import Kind
from medaegis.images.limits import DEFAULT_LIMITS, Decoded, Limits, UnreadableError
from medaegis.sizes import Size, as_size, sides

__all__ = ["Limits", "Picture", "model_input", "read_frames", "read_image"]

HEAD_BYTES = 132
# ITU-R BT.601 luma.
LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)
BAND_PIXELS = 1 << 20  # converted to float at once


@dataclass(frozen=True, eq=False)
class Picture:
    """One decoded frame.

    >>> import numpy as np, medaegis as ma
    >>> picture = ma.Picture(np.full((1, 40, 30), 51, np.uint8), 8, "drawn", 0, 1, "PNG", (), white=255)
    >>> picture.pixels.shape, float(picture.pixels.max())
    ((1, 40, 30), 0.20000000298023224)

    Args:
        values: `(C, H, W)`, C = 1 (high = light) or 3 (RGB), uint8, uint16 or float32.
        bits: bits per sample that the values really carry.
        source: the file, as given.
        frame: which frame of the file, counted from 0.
        frames: how many the file has.
        format: "PNG", "JPEG", "TIFF", "BMP", "WebP" or "DICOM".
        steps: what was done to get from the file to the pixels, in words, in order.
        white: the value that is white; 0 is black.
        kind: what a DICOM file says that it shows; None for other files, which say nothing.
    """

    values: npt.NDArray[Any]
    bits: int
    source: str
    frame: int
    frames: int
    format: str
    steps: tuple[str, ...]
    white: int = field(default=1, kw_only=True)
    kind: Kind | None = field(default=None, kw_only=True)

    @property
    def pixels(self) -> npt.NDArray[np.float32]:
        """Float32 `(C, H, W)` in [0, 1]: four bytes a value, made anew at every call."""
        return self.values.astype(np.float32, order="C") / np.float32(self.white)


def read_image(path: str | os.PathLike[str], *, frame: int = 0, limits: Limits = DEFAULT_LIMITS) -> Picture:
    """Read one frame of a PNG, JPEG, TIFF, BMP, WebP or DICOM file, whatever its name.

    >>> import tempfile, medaegis as ma
    >>> from PIL import Image
    >>> with tempfile.NamedTemporaryFile(suffix=".png") as file:
    ...     Image.new("L", (30, 40), 51).save(file.name)
    ...     picture = ma.read_image(file.name)
    >>> picture.format, picture.values.shape, picture.bits
    ('PNG', (1, 40, 30), 8)

    DICOM grey is shown as its file asks: modality LUT or rescale, VOI LUT or else the first window, padding black,
    MONOCHROME1 inverted. Without VOI LUT and window, 8-bit values keep their range and deeper ones are stretched from
    the frame's smallest to its largest. `Picture.steps` says which of these was done.

    Args:
        path: the file.
        frame: page of a TIFF or frame of a DICOM file, counted from 0; no other frame is decoded.
        limits: bounds that are checked before decoding.

    Raises:
        ImageError: for every file that cannot or must not be read, with the reason. Its text holds nothing from the
            file's text fields (DICOM elements about a patient are never read).
    """
    source = os.fspath(path)
    with _told(source), _opened(source, limits) as (kind, read), _decoding(kind):
        return _picture(source, kind, frame, read(frame))


def read_frames(path: str | os.PathLike[str], *, limits: Limits = DEFAULT_LIMITS) -> Iterator[Picture | ImageError]:
    """All frames of a file in their order, as `read_image` reads one; the file is opened and listed once.

    A frame that cannot be read is the error that `read_image` would raise, and the next one follows.
    """
    source = os.fspath(path)
    frame, frames = 0, 1
    try:
        with _told(source), _opened(source, limits) as (kind, read):
            while frame < frames:
                try:
                    with _told(source), _decoding(kind):
                        picture = _picture(source, kind, frame, read(frame))
                    frames, held = picture.frames, [picture]
                    del picture
                    yield held.pop()  # nothing of it is kept here while the next one is read
                except ImageError as error:
                    yield error
                frame += 1
    except ImageError as error:
        yield error


def _picture(source: str, kind: str, frame: int, found: Decoded) -> Picture:
    told = found.frames, kind, tuple(found.steps)
    return Picture(found.values, found.bits, source, frame, *told, white=found.white, kind=found.kind)


@contextmanager
def _told(source: str) -> Iterator[None]:
    """Whatever keeps a file from being read, as one ImageError."""
    try:
        yield
    except UnreadableError as error:
        raise ImageError(source, error.problem, error.remedy) from None
    except OSError as error:
        # The operating system's own word on a path; decoders' errors are turned into UnreadableError in _decoding.
        problem = (error.strerror or "it cannot be opened").lower()
        raise ImageError(source, problem, "check the path and your right to read it") from None
    except ValueError:
        raise ImageError(repr(source), "is not a path", "give the path of a file") from None


@contextmanager
def _decoding(kind: str) -> Iterator[None]:
    """Around everything that looks into a file's content."""
    try:
        yield
    except UnreadableError:
        raise
    except MemoryError:
        raise UnreadableError("there is not enough memory for it", "free some, or scale it down") from None
    except Exception:
        # Decoders meet damage with any exception there is; its text may quote the file and is left out.
        problem = f"it is damaged, cut short, or a {kind} variant that the decoder does not know"
        raise UnreadableError(problem, "copy or export it again") from None


@contextmanager
def _opened(source: str, limits: Limits) -> Iterator[tuple[str, Callable[[int], Decoded]]]:
    """The kind of a file, and the function that decodes a frame of it."""
    status = Path(source).stat()
    if not stat.S_ISREG(status.st_mode):
        what = "a folder" if stat.S_ISDIR(status.st_mode) else "not a regular file"
        raise UnreadableError(f"it is {what}", "give the path of an image file")
    if status.st_size == 0:
        raise UnreadableError("the file is empty", "copy or export it again")
    if status.st_size > limits.max_file_bytes:
        problem = f"it has {status.st_size:,} bytes, more than the limit of {limits.max_file_bytes:,}"
        raise UnreadableError(problem, "raise Limits.max_file_bytes if you trust the file")
    with open(source, "rb") as file:
        kind = detect(file.read(HEAD_BYTES))
        if kind is None:
            problem = "its content is none of PNG, JPEG, TIFF, BMP, WebP and DICOM, whatever its name says"
            raise UnreadableError(problem, "convert it to one of these")
        file.seek(0)
        with _decoding(kind):
            read = _reader(file, kind, limits)
        yield kind, read


def detect(head: bytes) -> str | None:
    """The kind of a file from its first 132 bytes; a DICOM preamble may hold anything, so DICOM comes first."""
    if head[128:132] == b"DICM":
        return "DICOM"
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if head.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return "TIFF"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WebP"
    if is_bare(head):
        return "DICOM"
    return "BMP" if head.startswith(b"BM") else None


def _reader(file: BinaryIO, kind: str, limits: Limits) -> Callable[[int], Decoded]:
    if kind != "DICOM":
        from medaegis.images.raster import raster_reader

        return raster_reader(file, kind, limits)
    from medaegis.images.dicom import dicom_reader

    return dicom_reader(file, limits)


def model_input(picture: Picture, *, size: Size, channels: Literal["gray", "rgb"]) -> npt.NDArray[np.uint8]:
    """Resize to what a network takes and round to 8 bits once.

    >>> import numpy as np, medaegis as ma
    >>> picture = ma.Picture(np.full((1, 40, 30), 51, np.uint8), 8, "drawn", 0, 1, "PNG", (), white=255)
    >>> pixels = ma.model_input(picture, size=16, channels="rgb")
    >>> pixels.shape, pixels.dtype, int(pixels.max())
    ((3, 16, 16), dtype('uint8'), 51)

    The picture is stretched to that size, not cropped or padded, as in the papers: no finding is cut off. Resizing is
    Pillow's bilinear filter in float (mode F), which averages over the area when it makes smaller (antialiasing).

    Args:
        picture: as read.
        size: side of a square in pixels, or (height, width).
        channels: "gray" (RGB becomes BT.601 luma) or "rgb" (grey is repeated).

    Returns:
        uint8 `(1 or 3, H, W)`.

    Raises:
        ConfigError: unknown channels or a size below 1.
    """
    if channels not in ("gray", "rgb"):
        raise ConfigError("channels", f'got {channels!r}, expected "gray" or "rgb"', "use one of these")
    down, across = sides(as_size(size))
    values = picture.values
    _, height, width = values.shape
    rows = max(1, BAND_PIXELS // width)
    # First each row, then each column, as Pillow does itself: so a big picture is never whole in float.
    narrow = np.empty((1 if channels == "gray" else len(values), height, across), np.float32)
    for top in range(0, height, rows):
        band = values[:, top : top + rows].astype(np.float32) / np.float32(picture.white)
        if channels == "gray" and len(band) == 3:
            band = np.tensordot(LUMA, band, axes=1)[np.newaxis]
        for plane, part in zip(narrow, band, strict=True):
            plane[top : top + rows] = _resized(part, across, len(part))
    stretched = np.stack([_resized(plane, across, down) for plane in narrow])
    stretched = np.rint(np.clip(stretched, 0.0, 1.0) * 255.0).astype(np.uint8)
    return np.repeat(stretched, 3, axis=0) if channels == "rgb" and len(stretched) == 1 else stretched


def _resized(plane: npt.NDArray[np.float32], columns: int, rows: int) -> npt.NDArray[np.float32]:
    from PIL import Image

    image = Image.fromarray(np.ascontiguousarray(plane))
    return np.asarray(image.resize((columns, rows), Image.Resampling.BILINEAR))
