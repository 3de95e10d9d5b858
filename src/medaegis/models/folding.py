"""Fold batch normalisation into the convolution before it: the same function in eval mode, one pass over memory less.

In eval mode batch norm is affine per channel (Ioffe & Szegedy 2015, algorithm 2), so BN(W * x + b) is one convolution.
Which convolution belongs to which batch norm is found by data flow on one example, not by guessing from names.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from medaegis.models.denoising import denoising_of
from medaegis.models.taps import GIVEN

# Largest deviation allowed, as a share of the largest absolute value of the reference.
PAIR_TOLERANCE_FLOAT64 = 1e-10
PAIR_TOLERANCE_FLOAT32 = 1e-4
NETWORK_TOLERANCE_FLOAT32 = 1e-3


class Uses(TorchFunctionMode):
    """Counts how often each tensor is read by a function, those called outside any module included."""

    def __init__(self) -> None:
        super().__init__()
        self.count: Counter[int] = Counter()
        self.alive: list[Tensor] = []  # an id is only unique among living objects

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if any(isinstance(leaf, Tensor) for leaf in tree_leaves(result)):  # asking for a shape reads no values
            read = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
            self.count.update(map(id, read))
            self.alive += read
        return result


def deviation(value: Tensor, reference: Tensor) -> float:
    """Largest absolute difference as a share of the reference's largest absolute value (nan if either holds one)."""
    scale = float(reference.abs().max().clamp_min(1e-30))
    return float((value - reference).abs().max()) / scale


def _folded(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> nn.Conv2d:
    """The one float64 convolution that equals ``norm(conv(x))`` in eval mode."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight.double()
    shift = -norm.running_mean.double() * scale
    if norm.bias is not None:
        shift = shift + norm.bias.double()
    if conv.bias is not None:
        shift = shift + conv.bias.double() * scale
    folded = copy.deepcopy(conv).double()
    folded.weight = nn.Parameter(folded.weight * scale[:, None, None, None], requires_grad=False)
    folded.bias = nn.Parameter(shift, requires_grad=False)
    return folded


def _verified(conv: nn.Conv2d, norm: nn.BatchNorm2d, x: Tensor) -> nn.Conv2d | None:
    """The folded convolution in conv's type; None if it is not ``norm(conv(x))`` within the stated tolerances."""
    reference = copy.deepcopy(norm).double()(copy.deepcopy(conv).double()(x.double()))
    folded = _folded(conv, norm)
    if not deviation(folded(x.double()), reference) <= PAIR_TOLERANCE_FLOAT64:  # not <=: nan fails as well
        return None
    folded = folded.to(conv.weight.dtype)
    return folded if deviation(folded(x).double(), reference) <= PAIR_TOLERANCE_FLOAT32 else None


@torch.no_grad()
def fixed_copy(network: nn.Module) -> nn.Module:
    """A copy in eval mode without gradients of the weights; of compiled networks (TorchScript) too."""
    network = copy.deepcopy(network).eval()
    for weight in network.parameters():
        weight.requires_grad_(False)
    return network


def foldable_pairs(network: nn.Module, example: Tensor, keep: Iterable[str] = ()) -> list[tuple[str, str]]:
    """Names of (convolution, batch norm) where the convolution's output is read by that batch norm and nothing else.

    Args:
        network: any module, in eval mode; it is run once on ``example``.
        example: ``(N, C, H, W)`` input.
        keep: taps, which must stay what they are: convolutions whose outputs are tapped are left out.
    """
    names = {module: name for name, module in network.named_modules()}
    weights = Counter(id(p) for _, p in network.named_parameters(remove_duplicate=False))
    calls: Counter[nn.Module] = Counter()
    outputs: dict[int, nn.Conv2d] = {}
    reads: list[tuple[nn.BatchNorm2d, Tensor]] = []

    def after_conv(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        assert isinstance(module, nn.Conv2d)
        calls[module] += 1
        outputs[id(output)] = module

    def before_norm(module: nn.Module, args: tuple[Any, ...]) -> None:
        assert isinstance(module, nn.BatchNorm2d)
        calls[module] += 1
        reads.append((module, args[0]))

    uses = Uses()
    with ExitStack() as hooks:
        for module in names:
            if type(module) is nn.Conv2d:
                hooks.enter_context(module.register_forward_hook(after_conv))
            elif type(module) is nn.BatchNorm2d and module.running_mean is not None and denoising_of(module) is None:
                hooks.enter_context(module.register_forward_pre_hook(before_norm))
        with torch.no_grad(), uses:
            network(example)

    kept = set(keep)
    pairs = []
    for norm, tensor in reads:
        conv = outputs.get(id(tensor))
        if conv is None or calls[conv] != 1 or calls[norm] != 1 or uses.count[id(tensor)] != 1:
            continue
        tapped = kept & {names[conv], f"{names[norm]}{GIVEN}"}
        if not tapped and all(weights[id(p)] == 1 for p in (*conv.parameters(), *norm.parameters())):
            pairs.append((names[conv], names[norm]))
    return pairs


def fold_batchnorm(
    network: nn.Module,
    example: Tensor,
    keep: Iterable[str] = (),
    *,
    answer: Callable[[Any], Tensor] = lambda returned: returned,
) -> nn.Module:
    """A copy of ``network`` in eval mode with every foldable batch norm folded into its convolution.

    Folded batch norms become ``nn.Identity``, so every module name stays and every output but that of the folded
    convolutions is unchanged. A pair is folded only if it verifies on (a corner of) the tensor it really sees: within
    1e-10 of the reference's largest value in float64 and 1e-4 in float32. The whole network must then agree within
    1e-3 in float32; one that does not is not folded at all. So it is where a rounding decides what comes next, as which
    pixel a max-pooling took and a SegNet puts its value back to.

    Args:
        network: float32 module; not changed.
        example: float32 ``(N, C, H, W)`` input as the network gets it.
        keep: taps, which must stay what they are.
        answer: the tensor to compare, of what the network returns.
    """
    whole, network = network, fixed_copy(network)
    pairs = foldable_pairs(network, example, keep)
    inputs: dict[str, Tensor] = {}

    def remember(name: str) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...]) -> None:
            # One corner of one image: folding acts alike at every position. A copy: in-place operations may follow.
            assert isinstance(module, nn.Conv2d)
            sides = [max(8, 2 * d * (k - 1) + 1) for d, k in zip(module.dilation, module.kernel_size, strict=True)]
            inputs[name] = args[0][:1, :, : sides[0], : sides[1]].clone()

        return hook

    with ExitStack() as hooks, torch.no_grad():
        for conv_name, _ in pairs:
            hooks.enter_context(network.get_submodule(conv_name).register_forward_pre_hook(remember(conv_name)))
        reference = answer(network(example))

    with torch.no_grad():
        for conv_name, norm_name in pairs:
            conv, norm = network.get_submodule(conv_name), network.get_submodule(norm_name)
            assert isinstance(conv, nn.Conv2d)
            assert isinstance(norm, nn.BatchNorm2d)
            folded = _verified(conv, norm, inputs.pop(conv_name))
            if folded is not None:
                network.set_submodule(conv_name, folded)
                network.set_submodule(norm_name, nn.Identity())
        close = deviation(answer(network(example)), reference) <= NETWORK_TOLERANCE_FLOAT32  # False for nan as well
    return network if close else fixed_copy(whole)
