"""Total-variation minimisation as a cushion: keep random pixels, rebuild the rest as smoothly as possible.

Guo et al. 2018, "Countering adversarial images using input transformations", section 3.3, with the isotropic total
variation of their code; solved by the primal-dual method of Chambolle & Pock 2011, algorithm 1, instead of split
Bregman, because its steps are the same for every pixel and so work on a whole batch.
"""

import hashlib
import math

import numpy as np
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from medaegis.cushions.base import Cushion, in_bytes, pad_edges

# Of dual steps from 0.01 to 1, this one came nearest to the minimum in 50 iterations (radiographs and drawings at 112
# pixels: 0.1 grey levels from it on average); the primal step is the largest with which the method converges.
_DUAL_STEP = 0.2
_PRIMAL_STEP = 1 / (8 * _DUAL_STEP)

_State = tuple[Tensor, Tensor, Tensor, Tensor]  # z, z looked ahead, dual across, dual down


class TotalVariation(Cushion):
    """Minimises sum of kept (z - x)² + weight · TV(z) over images z, each colour for itself.

    Which values are kept is drawn from the bytes of the image itself: the same image always gives the same result,
    whatever the batch, the machine or the order.

    Args:
        keep: share of values kept, above 0 and up to 1 (Guo et al.: 0.5).
        weight: weight of the total variation, for pixels in [0, 1] (Guo et al.: 0.03).
        iterations: primal-dual steps.
    """

    def __init__(self, keep: float = 0.5, weight: float = 0.03, iterations: int = 50) -> None:
        super().__init__(f"tvm:{keep}:{weight}:{iterations}")
        self.keep = keep
        self.weight = weight
        self.iterations = iterations

    def _cushion(self, pixels: Tensor) -> Tensor:
        z = self._minimise(pixels.to(torch.float32) / 255, self._mask(pixels).to(torch.float32))
        return z.mul(255).round_().clamp_(0, 255).to(torch.uint8)

    def _twin(self, x: Tensor) -> Tensor:
        """The same iterations, unrolled; the choice of kept values counts as constant."""
        return self._minimise(x, self._mask(in_bytes(x.detach())).to(x.dtype))

    def _mask(self, pixels: Tensor) -> Tensor:
        masks = []
        for image in pixels.cpu().numpy():
            key = int.from_bytes(hashlib.sha256(image.tobytes()).digest()[:16], "little")
            words = np.random.Philox(key=key).random_raw((image.size + 1) // 2).astype("<u8").view("<u4")
            masks.append((words[: image.size] < self.keep * 2**32).reshape(image.shape))
        return torch.from_numpy(np.stack(masks) if masks else np.empty(pixels.shape, bool)).to(pixels.device)

    def _minimise(self, x: Tensor, mask: Tensor) -> Tensor:
        z = _fill(x, mask)
        state = (z, z, torch.zeros_like(z), torch.zeros_like(z))
        stretch = math.isqrt(self.iterations - 1) + 1
        for done in range(0, self.iterations, stretch):
            count = min(stretch, self.iterations - done)
            if torch.is_grad_enabled() and x.requires_grad:
                # Keeping only every stretch's ends and computing the rest again takes a seventh of the memory.
                state = checkpoint(self._iterate, x, mask, state, count, use_reentrant=False, preserve_rng_state=False)
            else:
                state = self._iterate(x, mask, state, count)
        return state[0]

    def _iterate(self, x: Tensor, mask: Tensor, state: _State, count: int) -> _State:
        z, ahead, across, down = state
        pull = 2 * _PRIMAL_STEP * mask
        target, scale = pull * x, 1 / (1 + pull)
        for _ in range(count):
            across = across + _DUAL_STEP * _difference(ahead, 3)
            down = down + _DUAL_STEP * _difference(ahead, 2)
            # The tiny addend keeps the slope of the root finite at flat places.
            shrink = (torch.sqrt(across * across + down * down + 1e-20) / self.weight).clamp(min=1)
            across, down = across / shrink, down / shrink
            previous = z
            z = (z + _PRIMAL_STEP * (_divergence(across, 3) + _divergence(down, 2)) + target) * scale
            ahead = 2 * z - previous
        return z, ahead, across, down


def _difference(z: Tensor, dim: int) -> Tensor:
    """Next minus this along dim, zero at the end."""
    size = z.shape[dim]
    return pad_edges(z, dim, 0, 1).narrow(dim, 1, size) - z


def _divergence(p: Tensor, dim: int) -> Tensor:
    """Minus the transpose of `_difference`, for p that is zero at the end."""
    return p.diff(dim=dim, prepend=torch.zeros_like(p.narrow(dim, 0, 1)))


def _fill(x: Tensor, mask: Tensor) -> Tensor:
    """A start that knows only the kept values: dropped ones are the mean of kept neighbours, or 1/2 without any."""
    total, count = x * mask, mask
    for dim in (2, 3):
        total, count = _with_neighbours(total, dim), _with_neighbours(count, dim)
    around = torch.where(count > 0, total / count.clamp(min=1), 0.5)
    return torch.where(mask > 0, x, around)


def _with_neighbours(x: Tensor, dim: int) -> Tensor:
    """Sums of each value and the two beside it."""
    zero = torch.zeros_like(x.narrow(dim, 0, 1))
    padded = torch.cat([zero, x, zero], dim)
    return sum((padded.narrow(dim, i, x.shape[dim]) for i in range(3)), torch.zeros_like(x))
