"""PyTorch's modes that a caller may have switched on: what we compute must not depend on them.

In inference mode nothing can be differentiated, and its tensors can never be; under autocast a verdict would not be
float32. Both belong to the thread, so they can be left for the length of a call. The default dtype belongs to the whole
process and is left alone: every tensor of ours names its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

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
