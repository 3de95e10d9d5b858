"""A first convolution of 7 x 7 with stride 2, as ResNets have it, as one of 4 x 4 on blocks of 2 x 2 pixels.

With a row and a column of zeros before its kernel it is one of 8 x 8, of which each 2 x 2 weights meet a block of
pixels: the values of a block become channels (space to depth). The function is the same up to rounding; few channels at
full resolution are what convolutions are slow at.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medaegis.models.folding import (
    NETWORK_TOLERANCE_FLOAT32,
    PAIR_TOLERANCE_FLOAT32,
    PAIR_TOLERANCE_FLOAT64,
    Uses,
    deviation,
)


class BlockConv(nn.Module):
    """The convolution of ``gain * pixels + shift``, by channel, on the pixels themselves.

    Outside the image the convolution sees 0, and not ``shift``; so a shift becomes a further channel, of ones that end
    where the image does.

    Args:
        conv: of 7 x 7, stride 2, padding 3 (`stem_on_blocks` looks for it).
        gain, shift: ``(1, C, 1, 1)``, one each for the C channels of the convolution.
        channels: of the pixels ``(N, channels, H, W)``, H and W even: C, or 1 that all C are made of.
    """

    def __init__(self, conv: nn.Conv2d, gain: Tensor, shift: Tensor, channels: int) -> None:
        super().__init__()
        weight, kind = conv.weight.detach().double(), conv.weight.dtype
        scaled, level = weight * gain.double(), (weight * shift.double()).sum(1, keepdim=True)
        blocks = _blocks(scaled if channels == conv.in_channels else scaled.sum(1, keepdim=True))
        self.shifted = bool(level.any())
        if self.shifted:
            blocks = torch.cat([blocks, _blocks(level).sum(1, keepdim=True)], 1)
        self.weight = nn.Parameter(blocks.to(kind), requires_grad=False)
        bias = None if conv.bias is None else nn.Parameter(conv.bias.detach().clone(), requires_grad=False)
        self.bias = bias

    def forward(self, pixels: Tensor) -> Tensor:
        blocks = F.pixel_unshuffle(pixels, 2)
        if self.shifted:
            blocks = torch.cat([blocks, torch.ones_like(blocks[:, :1])], 1)
        blocks = blocks.contiguous(memory_format=torch.channels_last)
        return F.conv2d(F.pad(blocks, (2, 1, 2, 1)), self.weight, self.bias)


def _blocks(weight: Tensor) -> Tensor:
    """Weights `(O, C, 7, 7)` by blocks, `(O, 4 C, 4, 4)`, the order of channels that of `pixel_unshuffle`."""
    return F.pixel_unshuffle(F.pad(weight, (1, 0, 1, 0)), 2)


def stem_on_blocks(
    network: nn.Module,
    pixels: Tensor,
    gain: Tensor,
    shift: Tensor,
    *,
    keep: Iterable[str] = (),
    answer: Callable[[Any], Tensor],
) -> nn.Module | None:
    """A copy of the network whose first convolution is a `BlockConv`, so that it takes pixels.

    None where no such convolution is all that reads the network's input, or where either of them, on ``pixels``, is
    farther from what it was than `fold_batchnorm` allows.

    Args:
        network: float32, in eval mode; not changed. It takes ``gain * pixels + shift``.
        pixels: float32 ``(N, C, H, W)``, or of one channel, to verify on; whole images, for borders count.
        gain, shift: ``(1, C, 1, 1)``.
        keep: names of modules to leave alone (taps).
        answer: the tensor to compare, of what the network returns.
    """
    shown = gain * pixels + shift
    name = _reader(network, shown, keep)
    if name is None or any(side % 2 for side in pixels.shape[2:]):
        return None
    with torch.no_grad():
        conv = network.get_submodule(name)
        assert isinstance(conv, nn.Conv2d)
        exact = gain.double() * pixels.double() + shift.double()
        reference = copy.deepcopy(conv).double()(exact)
        made = BlockConv(conv, gain, shift, pixels.shape[1])
        doubled = BlockConv(copy.deepcopy(conv).double(), gain, shift, pixels.shape[1])
        result = copy.deepcopy(network)
        result.set_submodule(name, made)
        close = (
            deviation(doubled(pixels.double()), reference) <= PAIR_TOLERANCE_FLOAT64
            and deviation(made(pixels).double(), reference) <= PAIR_TOLERANCE_FLOAT32
            and deviation(answer(result(pixels)), answer(network(shown))) <= NETWORK_TOLERANCE_FLOAT32
        )
    return result if close else None


def _reader(network: nn.Module, shown: Tensor, keep: Iterable[str]) -> str | None:
    """Name of the convolution of that kind that alone reads the network's input, and once."""
    names = {module: name for name, module in network.named_modules()}
    weights = Counter(id(p) for _, p in network.named_parameters(remove_duplicate=False))
    read: list[nn.Module] = []
    calls: Counter[nn.Module] = Counter()

    def before(module: nn.Module, args: tuple[Any, ...]) -> None:
        calls[module] += 1
        if args[0] is shown:
            read.append(module)

    uses = Uses()
    with ExitStack() as hooks:
        for module in names:
            if type(module) is nn.Conv2d and _fits(module):
                hooks.enter_context(module.register_forward_pre_hook(before))
        with torch.no_grad(), uses:
            network(shown)
    if len(read) != 1 or uses.count[id(shown)] != 1 or calls[read[0]] != 1:
        return None
    alone = all(weights[id(p)] == 1 for p in read[0].parameters())
    return names[read[0]] if alone and names[read[0]] not in set(keep) else None


def _fits(conv: nn.Conv2d) -> bool:
    shape = (conv.kernel_size, conv.stride, conv.padding, conv.dilation, conv.groups, conv.padding_mode)
    return shape == ((7, 7), (2, 2), (3, 3), (1, 1), 1, "zeros")
