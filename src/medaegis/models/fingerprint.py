"""One number for the weights of a network, so that what was measured with some weights is never taken for others."""

import hashlib

import torch
from torch import nn


def weights_fingerprint(module: nn.Module) -> str:
    """SHA-256 (hex) over the names and bytes of a module's parameters and persistent buffers."""
    told = hashlib.sha256()
    for name, value in module.state_dict().items():
        told.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        told.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return told.hexdigest()
