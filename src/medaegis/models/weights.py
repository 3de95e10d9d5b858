"""Load published weights from a local file into a network, naming whatever does not fit.

safetensors is preferred. A ``.pth`` file goes through ``torch.load(weights_only=True)``, which builds tensors and
nothing else: the one place in the package that reads that format, because torchvision publishes its weights in it.
"""

from __future__ import annotations

import pickle
import re
import warnings
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from medaegis.errors import ConfigError

# torchvision's published DenseNets still carry the names of its first version: denselayer1.norm.1.weight.
_OLD_DENSENET = re.compile(r"(denselayer\d+\.(?:norm|conv))\.(\d)\.")


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise ConfigError(path, "no such file", "give a local .safetensors or .pth file of weights")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise ConfigError(
            path, f"not readable as weights: {error}", "give a .safetensors or .pth state dict"
        ) from error
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ConfigError(path, "holds no state dict (name -> tensor)", "save network.state_dict() as safetensors")
    return state


def load_weights(network: nn.Module, path: Path, *, head: str | None = None) -> None:
    """Load the state dict in ``path`` into ``network``.

    Args:
        head: name of the module whose size depends on the number of classes. Where its shapes differ it keeps its
            random weights, and a warning says so. All other keys and shapes must match.

    Raises:
        ConfigError: unreadable file, or keys or shapes that do not match (the first few are named).
    """
    state = {_OLD_DENSENET.sub(r"\1\2.", key): value for key, value in _read(Path(path)).items()}
    own = network.state_dict()
    # Checkpoints from before PyTorch 0.4.1 have no counters of batches; nothing in eval mode depends on them.
    counters = {key: value for key, value in own.items() if key.endswith("num_batches_tracked")}
    state = {**counters, **state}

    differing = [key for key in own if key in state and state[key].shape != own[key].shape]
    if head is not None and differing and all(key.startswith(f"{head}.") for key in differing):
        classes = state[differing[0]].shape[0]
        warnings.warn(
            f"{path}: its head {head!r} has {classes} outputs, the network {own[differing[0]].shape[0]}: "
            "all weights but the head's are loaded, the head starts at random",
            stacklevel=2,
        )
        state |= {key: own[key] for key in own if key.startswith(f"{head}.")}
        differing = []
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
            "give weights of the same architecture with torchvision's names",
        )
    network.load_state_dict(state)
