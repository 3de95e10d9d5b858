"""Feature denoising by frequency: behind named modules the maps of features keep their low cosine waves alone.

Denoising inside a network is that of Xie et al. 2019, whose blocks are trained; here it is a low-pass filter (DCT-II),
linear and without weights, so that gradients pass it as they are. A module is hooked, not replaced: its name, its
weights and every other module stay what they are, and a tap on it hears what the filter gives.
"""

from __future__ import annotations

import copy
import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from medaegis.errors import ConfigError
from medaegis.validation import Names
from medaegis.waves import cosines, low_count


class Denoising(BaseModel):
    """Where filters stand in a network, and what they let through.

    Attributes:
        layers: names of modules that give maps `(N, C, H, W)`.
        keep: share of the frequencies of either side that are kept, the lowest ones; at least the mean.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    layers: Names = Field(min_length=1, max_length=1000)
    keep: float = Field(gt=0, lt=1)


def parse_denoising(text: str) -> Denoising:
    """`MODULE[,MODULE…]:KEEP`, as it is written on a command line.

    >>> parse_denoising("layer1,layer2:0.5")
    Denoising(layers=('layer1', 'layer2'), keep=0.5)

    Raises:
        ConfigError: it is not of this form, a module is named twice, or the share is not between 0 and 1.
    """
    names, _, share = text.rpartition(":")
    try:
        return Denoising(layers=tuple(name.strip() for name in names.split(",")), keep=float(share))
    except ValueError:  # pydantic's own is one
        remedy = "write MODULE[,MODULE]:KEEP with KEEP between 0 and 1, as layer1,layer2:0.5"
        raise ConfigError(f"denoising {text!r:.80}", "does not fit", remedy) from None


def denoised(network: nn.Module, *, layers: Sequence[str], keep: float) -> nn.Module:
    """A copy of a network with a low-pass filter behind each of these modules.

    >>> import torch
    >>> network = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16 * 16, 2))
    >>> filtered = denoised(network, layers=["0"], keep=0.25)
    >>> list(filtered.state_dict()) == list(network.state_dict())
    True
    >>> x = torch.rand(5, 3, 16, 16)
    >>> torch.equal(filtered(x), network[1:](low_pass(network[0](x), 0.25)))
    True

    Args:
        layers, keep: see `Denoising`.

    Raises:
        ConfigError: no such module, or a compiled one; a share outside (0, 1); filters in it already. In a pass: a
            module that gives no maps.
    """
    if denoising_of(network) is not None:
        raise ConfigError("denoising", "the network has such filters already", "take the network without them")
    try:
        wanted = Denoising(layers=tuple(layers), keep=keep)
    except ValueError:
        raise ConfigError("denoising", f"{list(layers)} at {keep}", "name modules, and a share in (0, 1)") from None
    result = copy.deepcopy(network)
    modules = dict(result.named_modules())
    for name in wanted.layers:
        if name not in modules:
            near = difflib.get_close_matches(name, modules, n=5, cutoff=0.4) or list(modules)[1:9]
            problem = f"the network has no module {name!r}"
            raise ConfigError("denoising", problem, f"name one of its own: {', '.join(near)}")
        if isinstance(modules[name], torch.jit.ScriptModule):
            raise ConfigError("denoising", f"{name} is compiled, so that nothing hears it", "take it uncompiled")
        # First of its hooks, so that taps hear what the network goes on with.
        modules[name].register_forward_hook(_Filter(name, wanted.keep), prepend=True)
    return result


def denoising_of(network: nn.Module) -> Denoising | None:
    """What `denoised` put into a network or one made of it; None: nothing."""
    hooks = (hook for module in network.modules() for hook in module._forward_hooks.values())
    found = [hook for hook in hooks if isinstance(hook, _Filter)]
    return Denoising(layers=tuple(hook.name for hook in found), keep=found[0].keep) if found else None


def low_pass(maps: Tensor, keep: float) -> Tensor:
    """`(..., H, W)` with a share `keep` of the cosine waves along either side alone, the lowest; at least the mean."""
    down, across = (_projection(side, keep, maps.dtype, maps.device) for side in maps.shape[-2:])
    return down @ maps @ across


@lru_cache(maxsize=64)
def _projection(side: int, keep: float, kind: torch.dtype, device: torch.device) -> Tensor:
    """`(side, side)`, symmetric: what it leaves of a line is its part in the low waves."""
    with torch.inference_mode(False), torch.no_grad():
        waves = cosines(side, low_count(keep, side))
        return (waves @ waves.T).to(device, kind)


@dataclass(frozen=True)
class _Filter:
    """The hook: what a module gives goes on filtered."""

    name: str
    keep: float

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Tensor:
        if not isinstance(output, Tensor) or output.ndim != 4 or not output.is_floating_point():
            given = f"shape {tuple(output.shape)}" if isinstance(output, Tensor) else type(output).__name__
            raise ConfigError("denoising", f"{self.name} gives {given}", "name modules that give maps (N, C, H, W)")
        return low_pass(output, self.keep)
