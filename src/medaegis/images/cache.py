"""Decoded data sets on disk: one safetensors file per (image list, size, channels), so no epoch decodes anything.

The key covers every file's size, inode and times; a changed, replaced, added or removed image is a new cache entry.
"""

import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from medaegis.errors import DataError, ImageError
from medaegis.images.kinds import Kind
from medaegis.sizes import Size

# Raise when the same file gives other pixels than before (readers, resize, phantoms).
PIXEL_VERSION = 6


@dataclass(frozen=True, eq=False)
class DecodedDataset:
    """What decoding a listing gave.

    Attributes:
        images: pictures uint8 (K, C, H, W).
        kept: their places in the listing (K,).
        failures: of the others.
        kinds: what their DICOM files say that they are, each kind once, sorted.
        masks: class numbers of their pixels uint8 (K, H, W), where the listing has masks.
    """

    images: Tensor
    kept: Tensor
    failures: tuple[ImageError, ...]
    kinds: tuple[Kind, ...] = ()
    masks: Tensor | None = None


def cache_folder(given: Path | str | None) -> Path:
    """The folder for decoded data: as given, else `$MEDAEGIS_CACHE`, else the user's cache folder; made if absent.

    Raises `DataError` if it cannot be written to: better now than after an hour of decoding.
    """
    chosen = given or os.environ.get("MEDAEGIS_CACHE") or _user_cache() / "medaegis"
    folder = Path(chosen).expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        problem = f"cannot keep decoded images here ({error.strerror})"
        raise DataError(folder, problem, "set MEDAEGIS_CACHE to a writable folder") from error
    return folder


def _user_cache() -> Path:
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")


def cache_key(names: Sequence[str], stamps: Sequence[str], *, root: str, size: Size, channels: str) -> str:
    """A hash of all that decides the pixels: which files in which state, size, channels, decoders."""
    told = {
        "root": root,
        "size": size,
        "channels": channels,
        "version": PIXEL_VERSION,
        "codecs": [version("pillow"), version("pydicom")],
        "files": [list(names), list(stamps)],
    }
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:32]


def read_cache(file: Path, *, masks: bool) -> DecodedDataset | None:
    """The decoded images in `file`, and their masks if asked; None where nothing whole is there, which is made anew."""
    try:
        with safe_open(file, framework="pt") as store:
            failures, kinds = (json.loads(store.metadata()[name]) for name in ("failures", "kinds"))
            return DecodedDataset(
                store.get_tensor("images"),
                store.get_tensor("kept"),
                tuple(ImageError(*entry) for entry in failures),
                tuple(Kind(**entry) for entry in kinds),
                store.get_tensor("masks") if masks else None,
            )
    except (OSError, SafetensorError, KeyError, ValueError, TypeError):
        return None


def write_cache(file: Path, decoded: DecodedDataset) -> None:
    """Write atomically: another process sees the whole file or none.

    Raises `DataError` if the disk does not take it.
    """
    told = {
        "failures": json.dumps([[e.source, e.problem, e.remedy] for e in decoded.failures]),
        "kinds": json.dumps([asdict(kind) for kind in decoded.kinds]),
    }
    handle, name = tempfile.mkstemp(dir=file.parent, prefix=file.stem, suffix=".part")
    os.close(handle)
    part = Path(name)
    try:
        tensors = {"images": decoded.images, "kept": decoded.kept.to(torch.int64), "masks": decoded.masks}
        save_file({name: values for name, values in tensors.items() if values is not None}, part, told)
        part.replace(file)
    except (OSError, SafetensorError) as error:
        problem = f"cannot write decoded images ({error})"
        raise DataError(file, problem, "free some space or set MEDAEGIS_CACHE") from error
    finally:
        part.unlink(missing_ok=True)
