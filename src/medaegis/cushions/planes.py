"""Small steps on image planes that several cushions share."""

import torch
from torch import Tensor


def pad_edges(x: Tensor, dim: int, before: int, after: int) -> Tensor:
    """Repeats the first and last slice along `dim`; any type, differentiable, and repeatable on every device."""
    if before == after == 0:
        return x
    size = list(x.shape)
    size[dim] = before
    first = x.narrow(dim, 0, 1).expand(size)
    size[dim] = after
    last = x.narrow(dim, x.shape[dim] - 1, 1).expand(size)
    return torch.cat([first, x, last], dim)
