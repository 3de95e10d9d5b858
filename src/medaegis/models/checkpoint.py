"""Checkpoints that a SIGKILL at any moment cannot spoil: tensors in safetensors, everything else in JSON.

The JSON names its tensor file and is replaced in one step, so it always points at a complete one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from medaegis.errors import ArtefactError
from medaegis.safefiles import sync

_POINTER = "checkpoint.json"


def save_checkpoint(folder: Path, tensors: Mapping[str, Tensor], document: Mapping[str, Any], *, serial: int) -> None:
    """Replace the checkpoint in ``folder`` by a new one.

    Args:
        folder: made where needed; holds nothing else.
        tensors: name -> tensor.
        document: what JSON can hold.
        serial: differs from that of every other checkpoint of the run, such as the step.
    """
    folder.mkdir(parents=True, exist_ok=True)
    name = f"tensors-{serial}.safetensors"
    part = folder / f"{name}.part"
    part.write_bytes(save({key: value.detach().cpu().contiguous() for key, value in tensors.items()}))
    sync(part)
    part.replace(folder / name)
    pointer = folder / f"{_POINTER}.part"
    pointer.write_text(json.dumps({"tensors": name, "document": document}), encoding="utf-8")
    sync(pointer)
    sync(folder)
    pointer.replace(folder / _POINTER)
    sync(folder)
    for old in folder.glob("tensors-*"):
        if old.name != name:
            old.unlink()


def load_checkpoint(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Tensors (on the CPU) and document of the checkpoint in ``folder``; None where there is none yet.

    Raises:
        ArtefactError: it was damaged after it was written.
    """
    pointer = folder / _POINTER
    if not pointer.is_file():
        return None
    try:
        content = json.loads(pointer.read_text(encoding="utf-8"))
        name, document = content["tensors"], content["document"]
        if Path(name).name != name:
            raise ValueError(f"{name!r} is no file name")
        return load_file(folder / name), document
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise ArtefactError(pointer, f"damaged checkpoint: {error}", "delete this folder to start again") from error
