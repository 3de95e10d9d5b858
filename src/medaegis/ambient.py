"""PyTorch's modes that a caller may have switched on: what we compute must not depend on them.

In inference mode nothing can be differentiated, and its tensors can never be; under autocast a verdict would not be
float32. Both belong to the thread, so they can be left for the length of a call. The default dtype belongs to the whole
process and is left alone: every tensor of ours names its own. TF32, 10 bits of a float32, belongs to the process too:
where figures must be exact it is off for as long as anybody computes them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from threading import Lock
from typing import Any, cast

import torch

DEVICES = ("cpu", "cuda")


@contextmanager
def own_modes() -> Iterator[None]:
    """Outside the caller's inference mode and autocast; gradients are on or off as they were (off in inference mode).

    Decorates whatever a user calls. Code inside that wants gradients switches them on, as it must under `no_grad` too.
    """
    with ExitStack() as left:
        if torch.is_inference_mode_enabled():
            left.enter_context(torch.inference_mode(False))
            left.enter_context(torch.no_grad())  # leaving inference mode switches gradients on
        for device in DEVICES:
            if torch.is_autocast_enabled(device):
                left.enter_context(torch.autocast(device, enabled=False))
        yield


_lock, _users, _kept = Lock(), 0, list[tuple[Any, str]]()


def _switches() -> list[Any]:
    """Where TF32 is switched for matrix products, convolutions and recurrent layers; none before PyTorch 2.9."""
    matmul, cudnn = torch.backends.cuda.matmul, cast(Any, torch.backends.cudnn)
    return [matmul, cudnn.conv, cudnn.rnn] if hasattr(matmul, "fp32_precision") else []


@contextmanager
def exact_float32() -> Iterator[None]:
    """Products of float32 numbers are those of float32 on every device; decorates what gives verdicts.

    PyTorch lets convolutions on a GPU round their inputs to 10 bits unless told otherwise. The switch is one for the
    process, so whoever computes meanwhile in another thread does so in float32 too. Each call switches TF32 off,
    whatever was set since the one before; what was set is put back when all are done, so not while a pass hangs.
    """
    global _users
    with _lock:
        _users += 1
        for switch in _switches():
            if switch.fp32_precision != "ieee":
                _kept.append((switch, switch.fp32_precision))
                switch.fp32_precision = "ieee"
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if _users == 0:
                for switch, was in _kept:
                    switch.fp32_precision = was
                _kept.clear()
