"""Plain filters as cushions: identity, bit depth, median, Gaussian; all in whole numbers, the same on every device.

Bit depth and median: Xu et al. 2018, "Feature squeezing", sections 3.1 and 3.2; Medical Aegis, table 5 (Bit-3, Bit-4).
"""

import math

import torch
from torch import Tensor

from medaegis.cushions.base import Cushion, pad_edges


class Identity(Cushion):
    """No cushion but the rounding to 8 bits, which every stored image has gone through."""

    def __init__(self, spec: str = "none") -> None:
        super().__init__(spec)

    def _cushion(self, pixels: Tensor) -> Tensor:
        return pixels.clone()

    def _twin(self, x: Tensor) -> Tensor:
        return x.clone()


class Unrounded(Identity):
    """No cushion and no rounding either: float pixels, as in papers that say nothing of files.

    No file can carry such an image, so no guard takes it and no spec names it: it is for comparisons with such papers.
    """

    rounds = False

    def __init__(self) -> None:
        super().__init__("float")

    @torch.no_grad()
    def within_range(self, x: Tensor) -> Tensor:
        return x.clone()


class BitDepth(Cushion):
    """Clips the last bits of every value.

    Args:
        dropped: how many low bits are lost, 1 to 7.
        middle: set values to the middle of their bin (rounded up) instead of its lower end.
    """

    def __init__(self, dropped: int, *, middle: bool = False) -> None:
        super().__init__(f"bits:{dropped}" + (":mid" if middle else ""))
        self.step = 1 << dropped
        self.offset = self.step // 2 if middle else 0

    def _cushion(self, pixels: Tensor) -> Tensor:
        return (pixels & (256 - self.step)) + self.offset

    def _twin(self, x: Tensor) -> Tensor:
        """The first two terms of the staircase's Fourier series: monotone, steepest (slope 2) at the steps."""
        t = (x * 255 + 0.5) / self.step
        stairs = t - 0.5 + torch.sin(2 * torch.pi * t) / (2 * torch.pi)
        return (stairs * self.step + self.offset) / 255


def median_network(count: int) -> list[tuple[int, int]]:
    """Exchanges (lower place, higher place) that bring the median of `count` values to place count // 2.

    Batcher's merge exchange (Knuth, The Art of Computer Programming 3, algorithm 5.2.2 M), without the exchanges that
    the middle place does not depend on.
    """
    exchanges = []
    top = 1 << (count - 1).bit_length() - 1
    p = top
    while p:
        q, r, d = top, 0, p
        while True:
            exchanges += [(i, i + d) for i in range(count - d) if i & p == r]
            if q == p:
                break
            d, q, r = q - p, q // 2, p
        p //= 2
    needed, kept = {count // 2}, []
    for low, high in reversed(exchanges):
        if low in needed or high in needed:
            needed |= {low, high}
            kept.append((low, high))
    return kept[::-1]


class Median(Cushion):
    """Median of a square window, edges repeated.

    Args:
        window: side of the window, odd, 3 to 9.
    """

    def __init__(self, window: int) -> None:
        super().__init__(f"median:{window}")
        self.window = window
        self._exchanges = median_network(window * window)

    def _cushion(self, pixels: Tensor) -> Tensor:
        # Sorting the shifted images against each other handles a whole batch per exchange: some fifty times faster
        # than sorting a window per pixel.
        values = self._shifted(pixels)
        for low, high in self._exchanges:
            smaller = torch.minimum(values[low], values[high])
            values[high] = torch.maximum(values[low], values[high])
            values[low] = smaller
        return values[len(values) // 2].contiguous()

    def _twin(self, x: Tensor) -> Tensor:
        """The median itself, whose slope is that of the (first) pixel it is taken from."""
        median = self._cushion(x.detach())
        out, open_ = torch.zeros_like(x), torch.ones_like(x, dtype=torch.bool)
        for value in self._shifted(x):
            hit = open_ & (value.detach() == median)
            out = out + value * hit
            open_ = open_ & ~hit
        return out

    def _shifted(self, x: Tensor) -> list[Tensor]:
        (height, width), radius = x.shape[2:], self.window // 2
        padded = pad_edges(pad_edges(x, 2, radius, radius), 3, radius, radius)
        steps = range(self.window)
        return [padded[:, :, down : down + height, right : right + width] for down in steps for right in steps]


_ONE = 1 << 11  # fixed-point one of the Gaussian's weights: twice 11 bits on 8-bit pixels stay within int32


class Gaussian(Cushion):
    """Gaussian blur, edges repeated, cut off at three standard deviations.

    Args:
        sigma: standard deviation in pixels, 0.3 to 10.
    """

    def __init__(self, sigma: float) -> None:
        super().__init__(f"gaussian:{sigma}")
        radius = math.ceil(3 * sigma)
        bell = [math.exp(-0.5 * (offset / sigma) ** 2) for offset in range(-radius, radius + 1)]
        self.weights = [round(_ONE * value / sum(bell)) for value in bell]
        self.weights[radius] += _ONE - sum(self.weights)  # a flat image stays as it is

    def _cushion(self, pixels: Tensor) -> Tensor:
        return (self._blur(pixels.to(torch.int32)) + _ONE * _ONE // 2).div_(_ONE * _ONE, rounding_mode="floor").byte()

    def _twin(self, x: Tensor) -> Tensor:
        """The blur itself, unrounded."""
        return self._blur(x) / (_ONE * _ONE)

    def _blur(self, x: Tensor) -> Tensor:
        radius = len(self.weights) // 2
        for dim in (2, 3):
            size = x.shape[dim]
            padded = pad_edges(x, dim, radius, radius)
            x = sum((padded.narrow(dim, i, size) * w for i, w in enumerate(self.weights) if w), torch.zeros_like(x))
        return x
