"""From a file of any supported kind to pixels in [0, 1], and from those to what a network takes.

The kind is found from the content; limits hold before anything is unpacked; every failure is one `ImageError`.
"""

import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
import numpy.typing as npt

from medaegis.errors import ConfigError, ImageError
from medaegis.images.dicom_header import is_bare
from medaegis.images.limits import DEFAULT_LIMITS, Limits, UnreadableError

__all__ = ["Limits", "Picture", "find_images", "model_input", "read_image"]

SUFFIXES = frozenset(
    (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".tif", ".tiff", ".bmp", ".dib", ".webp", ".dcm", ".dicom", ".ima")
)
HEAD_BYTES = 132
# ITU-R BT.601 luma.
LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)


@dataclass(frozen=True, eq=False)
class Picture:
    """One decoded frame.

    Args:
        pixels: float32 `(C, H, W)` in [0, 1], C = 1 (high = light) or 3 (RGB).
        bits: bits per sample that the pixels really carry.
        source: the file, as given.
        frame: which frame of the file, counted from 0.
        frames: how many the file has.
        format: "PNG", "JPEG", "TIFF", "BMP", "WebP" or "DICOM".
        steps: what was done to get from the file to the pixels, in words, in order.
    """

    pixels: npt.NDArray[np.float32]
    bits: int
    source: str
    frame: int
    frames: int
    format: str
    steps: tuple[str, ...]


def read_image(path: str | os.PathLike[str], *, frame: int = 0, limits: Limits = DEFAULT_LIMITS) -> Picture:
    """Read one frame of a PNG, JPEG, TIFF, BMP, WebP or DICOM file, whatever its name.

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
    try:
        return _read(Path(source), source, frame, limits)
    except UnreadableError as error:
        raise ImageError(source, error.problem, error.remedy) from None
    except OSError as error:
        # The operating system's own word on a path; decoders' errors are turned into UnreadableError in _decode.
        problem = (error.strerror or "it cannot be opened").lower()
        raise ImageError(source, problem, "check the path and your right to read it") from None
    except ValueError:
        raise ImageError(repr(source), "is not a path", "give the path of a file") from None


def _read(path: Path, source: str, frame: int, limits: Limits) -> Picture:
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        what = "a folder" if stat.S_ISDIR(status.st_mode) else "not a regular file"
        raise UnreadableError(f"it is {what}", "give the path of an image file")
    if status.st_size == 0:
        raise UnreadableError("the file is empty", "copy or export it again")
    if status.st_size > limits.max_file_bytes:
        raise UnreadableError(
            f"it has {status.st_size:,} bytes, more than the limit of {limits.max_file_bytes:,}",
            "raise Limits.max_file_bytes if you trust the file",
        )
    with path.open("rb") as file:
        kind = detect(file.read(HEAD_BYTES))
        if kind is None:
            raise UnreadableError(
                "its content is none of PNG, JPEG, TIFF, BMP, WebP and DICOM, whatever its name says",
                "convert it to one of these",
            )
        file.seek(0)
        try:
            pixels, bits, frames, steps = _decode(file, kind, frame, limits)
        except UnreadableError:
            raise
        except MemoryError:
            raise UnreadableError("there is not enough memory for it", "free some, or scale it down") from None
        except Exception:
            # Decoders meet damage with any exception there is; its text may quote the file and is left out.
            raise UnreadableError(
                f"it is damaged, cut short, or a {kind} variant that the decoder does not know",
                "copy or export it again",
            ) from None
    return Picture(pixels, bits, source, frame, frames, kind, tuple(steps))


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


def _decode(
    file: BinaryIO, kind: str, frame: int, limits: Limits
) -> tuple[npt.NDArray[np.float32], int, int, list[str]]:
    if kind == "DICOM":
        from medaegis.images.dicom import read_dicom

        return read_dicom(file, frame=frame, limits=limits)
    from medaegis.images.raster import read_raster

    return read_raster(file.read(), kind, frame=frame, limits=limits)


def model_input(picture: Picture, *, size: int, channels: Literal["gray", "rgb"]) -> npt.NDArray[np.uint8]:
    """Resize to a square and round to 8 bits once.

    The picture is stretched to the square, not cropped or padded, as in the papers: no finding is cut off. Resizing is
    Pillow's bilinear filter in float (mode F), which averages over the area when it makes smaller (antialiasing).

    Args:
        picture: as read.
        size: side of the square in pixels.
        channels: "gray" (RGB becomes BT.601 luma) or "rgb" (grey is repeated).

    Returns:
        uint8 `(1 or 3, size, size)`.

    Raises:
        ConfigError: unknown channels or a size below 1.
    """
    from PIL import Image

    if channels not in ("gray", "rgb"):
        raise ConfigError("channels", f'got {channels!r}, expected "gray" or "rgb"', "use one of these")
    if size < 1:
        raise ConfigError("size", f"got {size}, expected at least 1 pixel", "use for instance 224")
    pixels = picture.pixels
    if channels == "gray" and len(pixels) == 3:
        pixels = np.tensordot(LUMA, pixels, axes=1)[np.newaxis]
    resized = [
        np.asarray(Image.fromarray(np.ascontiguousarray(plane)).resize((size, size), Image.Resampling.BILINEAR))
        for plane in pixels
    ]
    square = np.rint(np.clip(np.stack(resized), 0.0, 1.0) * 255.0).astype(np.uint8)
    return np.repeat(square, 3, axis=0) if channels == "rgb" and len(square) == 1 else square


def find_images(paths: Iterable[str | os.PathLike[str]]) -> list[Path]:
    """All image files of the given files and folders, sorted, each once.

    A file given by name is always listed, even if it is missing: reading it then says what is wrong. A folder is
    searched to any depth for files that have the content or the name of an image; hidden ones and DICOMDIR are left
    out. Links to files are followed, links to folders are not, so that there are no loops.
    """
    found: dict[str, Path] = {}
    for given in map(Path, paths):
        for path in _walk(given) if given.is_dir() else (given,):
            found.setdefault(os.path.realpath(path), path)
    return sorted(found.values())


def _walk(folder: Path) -> Iterable[Path]:
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            path = Path(parent, name)
            if not name.startswith(".") and name != "DICOMDIR" and _looks_like_image(path):
                yield path


def _looks_like_image(path: Path) -> bool:
    if path.suffix.lower() in SUFFIXES:
        return True
    try:
        if not path.is_file():
            return False
        with path.open("rb") as file:
            return detect(file.read(HEAD_BYTES)) not in (None, "BMP")  # two letters are too few for a nameless file
    except OSError:
        return False
