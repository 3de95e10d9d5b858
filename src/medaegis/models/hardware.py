"""Which device to compute on, and where bfloat16 is fast."""

from __future__ import annotations

import functools
from contextlib import ExitStack

import torch
from torch import Tensor, nn

from medaegis.errors import ConfigError
from medaegis.models.taps import evaluating


def pick_device(name: str = "auto", *, here: bool = True) -> torch.device:
    """The device of that name; "auto" takes a CUDA device if there is one, else the CPU.

    Args:
        here: whether this machine must have it.

    Raises:
        ConfigError: not a device, or not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        if here:
            torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        message = str(error).splitlines()[0]
        remedy = "give auto, cpu, or cuda (cuda:1 for the second) where there is one"
        raise ConfigError(f"device {name!r}", message, remedy) from error
    return device


@functools.cache
def has_fast_bfloat16(device: torch.device) -> bool:
    """Whether the device multiplies in bfloat16 itself (AVX512-BF16, AMX, recent GPUs) instead of emulating it."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu":
        return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return False


def learns_in_bfloat16(network: nn.Module, x: Tensor) -> bool:
    """Whether a network that reads images like `x` `(1, C, H, W)` is to be trained in bfloat16, on their device.

    Where that is fast, except for networks with a strided convolution of a map one pixel wide: on processors PyTorch
    leaves some of the gradients of its kernel unset in bfloat16. Those of pixels are right.
    """
    narrow = []

    def look(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        narrow.append(inputs[0].shape[-1] == 1)

    if not has_fast_bfloat16(x.device):
        return False
    if x.device.type != "cpu":
        return True
    strided = [m for m in network.modules() if isinstance(m, nn.Conv2d) and m.stride[1] > 1 and m.kernel_size[1] > 1]
    with ExitStack() as hooks, evaluating(network), torch.no_grad():
        for module in strided:
            hooks.enter_context(module.register_forward_pre_hook(look))
        network(x)
    return not any(narrow)
