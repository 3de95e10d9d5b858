"""Weights beside those that are trained: their mean over the steps, and the worst ones near them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

State = dict[str, Tensor]


def copied_state(network: nn.Module) -> State:
    """A copy of weights and buffers."""
    return {name: value.detach().clone() for name, value in network.state_dict().items()}


class Averaged:
    """Exponential moving average of weights and batch norm statistics (Izmailov 2018; Rebuffi 2021, section 3.1).

    >>> network = nn.Linear(1, 1)
    >>> mean = Averaged(network, keep=0.5)
    >>> with torch.no_grad():
    ...     _ = network.weight.fill_(1.0)
    >>> mean.state["weight"].fill_(0.0).item()
    0.0
    >>> mean.take(network, step=100)
    >>> mean.state["weight"].item()
    0.5

    Args:
        keep: how much of the mean each step keeps; less in the first steps, (1 + step) / (10 + step), so that the
            random weights it began with are forgotten.
    """

    def __init__(self, network: nn.Module, *, keep: float) -> None:
        self.keep, self.state = keep, copied_state(network)

    @torch.no_grad()
    def take(self, network: nn.Module, *, step: int) -> None:
        """Take in the weights after this step, counted from 0."""
        keep = min(self.keep, (1 + step) / (10 + step))
        for name, value in network.state_dict().items():
            mine = self.state[name]
            if mine.is_floating_point():
                mine.mul_(keep).add_(value.to(mine), alpha=1 - keep)
            else:
                mine.copy_(value)


@contextmanager
def weights_of(network: nn.Module, state: State | None) -> Iterator[None]:
    """The network with these weights inside, and its own again afterwards; None leaves it as it is."""
    if state is None:
        yield
        return
    own = copied_state(network)
    network.load_state_dict(state)
    try:
        yield
    finally:
        network.load_state_dict(own)


@contextmanager
def worst_weights(network: nn.Module, loss: Callable[[], Tensor], *, length: float) -> Iterator[None]:
    """The network with weights moved to where `loss` is larger, and its own again afterwards.

    One step along the gradient, as long in each layer as `length` times the layer's weights (adversarial weight
    perturbation, Wu 2020, eq. 8 to 10). Biases and batch norm stay, running statistics too.

    Args:
        length: relative; 0 moves nothing and asks nothing.
    """
    if not length:
        yield
        return
    weights = {name: weight for name, weight in network.named_parameters() if weight.requires_grad and weight.ndim > 1}
    own = copied_state(network)
    gradients = torch.autograd.grad(loss(), list(weights.values()), allow_unused=True)
    with torch.no_grad():
        network.load_state_dict(own)  # that pass has moved running statistics
        for weight, gradient in zip(weights.values(), gradients, strict=True):
            if gradient is not None:
                weight.add_(gradient * (length * weight.norm() / gradient.norm().clamp_min(1e-12)))
    try:
        yield
    finally:
        with torch.no_grad():
            for name, weight in weights.items():
                weight.copy_(own[name])
