"""Load published weights from a local file into a network, naming whatever does not fit.

safetensors is preferred. A ``.pth`` file goes through ``torch.load(weights_only=True)``, which builds tensors and
nothing else: the one place in the package that reads that format, because torchvision publishes its weights in it.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from medaegis.errors import ConfigError

# torchvision's published DenseNets still carry the names of its first version: denselayer1.norm.1.weight.
_OLD_DENSENET = re.compile(r"(denselayer\d+\.(?:norm|conv))\.(\d)\.")
_OBJECT = re.compile(r"GLOBAL ([\w.]{1,80})")
_REMEDY = "where you trust it, save the weights alone: safetensors.torch.save_file(network.state_dict(), FILE)"
_NESTED = ("state_dict", "model_state_dict", "model")  # where training code puts the weights among other things


def read_weights(path: Path) -> dict[str, Tensor]:
    """The state dict in a local file, of tensors alone.

    Raises:
        ConfigError: no such file, or it holds something else.
    """
    if not path.is_file():
        raise ConfigError(path, "no such file", "give a local .safetensors or .pth file of weights")
    state = _safetensors(path) if path.suffix == ".safetensors" else _pickled(path)
    if isinstance(state, dict):
        state = next((state[name] for name in _NESTED if isinstance(state.get(name), dict)), state)
    if not isinstance(state, dict) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise ConfigError(path, "holds no state dict (name -> tensor)", _REMEDY)
    if not all(isinstance(name, str) for name in state):
        raise ConfigError(path, "names its weights by something else than text", _REMEDY)
    for name, value in state.items():
        if value.layout != torch.strided or value.is_quantized or value.is_meta:
            raise ConfigError(path, f"{name!s:.80} is sparse, quantised or empty", "save plain, dense weights")
    if all(name.startswith("module.") for name in state):  # so saved from torch.nn.DataParallel
        state = {name.removeprefix("module."): value for name, value in state.items()}
    return state


def _safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise ConfigError(path, f"not readable as safetensors: {error}", _REMEDY) from error


def _pickled(path: Path) -> Any:
    """What a .pth file holds of tensors and plain values; whatever would have code run is refused unread."""
    try:
        with warnings.catch_warnings(action="ignore"):  # guesses at the version of what is no pickle
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the reader is given any bytes, and fails on them in any way
        if isinstance(error, OSError) and error.filename is not None:  # else the reader's, about what is in the file
            problem = f"cannot be read: {error.strerror}"
            raise ConfigError(path, problem, "check the path and the rights on it") from error
        # Its own messages advise to switch the protection off, so only what it found is told.
        named = _OBJECT.search(str(error))
        if named is not None:
            problem = f"holds an object of {named[1]}, not tensors alone; building it would have the file run code"
            raise ConfigError(path, problem, _REMEDY) from error
        raise ConfigError(path, "is no file of weights, cut short, or damaged", _REMEDY) from error


def load_weights(
    network: nn.Module,
    path: Path,
    *,
    head: str | None = None,
    read: Callable[[Path], dict[str, Tensor]] = read_weights,
) -> None:
    """Load the state dict that ``read`` finds in ``path`` into ``network``; see `load_state`.

    Raises:
        ConfigError: unreadable file, or keys or shapes that do not match (the first few are named).
    """
    state = {_OLD_DENSENET.sub(r"\1\2.", key): value for key, value in read(Path(path)).items()}
    load_state(network, state, path, head=head)


def load_state(network: nn.Module, state: dict[str, Tensor], path: Path, *, head: str | None = None) -> None:
    """Load a state dict into ``network``.

    Args:
        path: where it is from, for errors.
        head: name of the module whose size depends on the number of classes. Where its shapes differ, or the state
            has none of it, it keeps its random weights, and a warning says so. All other keys and shapes must match.

    Raises:
        ConfigError: keys or shapes that do not match (the first few are named).
    """
    own = network.state_dict()
    # Checkpoints from before PyTorch 0.4.1 have no counters of batches; nothing in eval mode depends on them.
    counters = {key: value for key, value in own.items() if key.endswith("num_batches_tracked")}
    state = {**counters, **state}

    differing = [key for key in own if key in state and state[key].shape != own[key].shape]
    of_head = [key for key in own if key.startswith(f"{head}.")]
    unlike = ""
    if not any(key in state for key in of_head):
        unlike = "is missing"
    elif differing and all(key in of_head and state[key].ndim == own[key].ndim for key in differing):
        unlike = f"has {len(state[differing[0]])} outputs, the network {len(own[differing[0]])}"
    if of_head and unlike:
        warnings.warn(
            f"{path}: its head {head!r} {unlike}: all weights but the head's are loaded, the head starts at random",
            stacklevel=2,
        )
        state |= {key: own[key] for key in of_head}
        differing = [key for key in differing if key not in of_head]
    problems = [
        *(f"{key} is missing" for key in own if key not in state),
        *(f"{key} is not in the network" for key in state if key not in own),
        *(f"{key} is {tuple(state[key].shape)}, expected {tuple(own[key].shape)}" for key in differing),
    ]
    if problems:
        more = f" and {len(problems) - 4} more" if len(problems) > 4 else ""
        raise ConfigError(
            path,
            f"does not fit the network: {', '.join(problems[:4])}{more}",
            "give weights of this very architecture, under its names; where only shapes of the last layer differ, the "
            "number of classes is another",
        )
    network.load_state_dict(state)
