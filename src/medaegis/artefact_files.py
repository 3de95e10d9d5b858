"""The files in an artefact folder: JSON and safetensors, encoded and parsed within limits."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from medaegis.errors import ArtefactError, ConfigError
from medaegis.plainjson import decode_json, encode_json
from medaegis.safefiles import AGAIN, guise

MANIFEST = "manifest.json"
# Far above anything this package writes, far below what would hurt the machine that reads it.
MAX_MANIFEST_BYTES = 1 << 20
MAX_BYTES = {".json": 16 << 20, ".safetensors": 4 << 30}
MAX_TOTAL_BYTES = 8 << 30
MAX_HEADER_BYTES = 16 << 20
MAX_FILES = 256
STEM = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def encode_files(
    tensors: Mapping[str, Mapping[str, Tensor]], documents: Mapping[str, Mapping[str, Any]]
) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    for stem, content in tensors.items():
        try:
            # Copies: safetensors refuses tensors that share memory or are strided, such as channels-last weights.
            plain = {
                name: tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
                for name, tensor in content.items()
            }
            files[f"{stem}.safetensors"] = safetensors.torch.save(plain)
        except (SafetensorError, ValueError, RuntimeError, KeyError, AttributeError) as error:
            problem = f"cannot be encoded ({error})"
            raise ConfigError(f"{stem}.safetensors", problem, "give dense, plain tensors") from None
    for stem, document in documents.items():
        files[f"{stem}.json"] = encode(f"{stem}.json", dict(document))
    for name, data in files.items():
        stem, suffix = os.path.splitext(name)
        if not STEM.fullmatch(stem) or name.lower() == MANIFEST:
            raise ConfigError(name, "is no name for a file here", "use up to 100 letters, digits, dots, dashes")
        if len(data) > MAX_BYTES[suffix]:
            raise ConfigError(name, f"{len(data)} bytes, more than the {MAX_BYTES[suffix]} allowed", "split it")
    if len({name.lower() for name in files}) != len(files):
        raise ConfigError(f"{sorted(files)}", "two names differ in case only", "rename one; some disks ignore case")
    if len(files) > MAX_FILES:
        raise ConfigError(f"{len(files)} files", f"a folder holds {MAX_FILES} at most", "put several into one file")
    return files


def encode(name: str, value: dict[str, Any]) -> bytes:
    try:
        return encode_json(value)
    except ValueError as error:
        raise ConfigError(name, f"cannot be encoded ({error})", "give plain JSON values") from None


def parse_object(file: Path, data: bytes) -> dict[str, Any]:
    try:
        value = decode_json(data)
    except ValueError as error:
        raise ArtefactError(file, f"is not valid JSON ({error}){guise(data)}", AGAIN) from None
    if not isinstance(value, dict):
        raise ArtefactError(file, "holds no JSON object", AGAIN)
    return value


def parse_tensors(file: Path, data: bytes) -> dict[str, Tensor]:
    header = int.from_bytes(data[:8], "little")
    if len(data) < 8 or header > min(MAX_HEADER_BYTES, len(data) - 8):
        raise ArtefactError(file, f"is not a safetensors file{guise(data)}", AGAIN)
    try:
        # Python's reader of the same header refuses what the library leaves open (duplicate names, numbers).
        decode_json(data[8 : 8 + header])
        return safetensors.torch.load(data)
    except (SafetensorError, ValueError, KeyError, RuntimeError, TypeError) as error:
        problem = f"is not a sound safetensors file ({str(error)!a:.200}){guise(data)}"
        raise ArtefactError(file, problem, AGAIN) from None
