"""Gaussian noise on the 8-bit grid, drawn exactly: what randomised smoothing (Cohen et al. 2019) adds to an image.

For whole grey levels x the rounded noisy image round(x + s Z) is x + round(s Z), so all that is ever drawn are whole
levels. Each is a comparison of 64 random bits with a table worked out to more digits than those bits have; no normal
number in floating point, whose error nobody could bound, is made on the way.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Context, Decimal, localcontext
from functools import cache

import torch
from torch import Tensor

from medaegis.cushions.base import Cushion
from medaegis.cushions.random import Drawable, Numbered
from medaegis.draws import Draws
from medaegis.errors import ConfigError

LEVELS = 255
BITS = 64  # of `Draws.keys`
DIGITS = 60  # of the table's arithmetic; its 64 bits are 20
TINY = Decimal(10) ** -(DIGITS - 10)  # share of the sum that its last term has
BEYOND = 12  # deviations, beyond which less than 2e-33 lies: none of 2^64
PI = Decimal("3.14159265358979323846264338327950288419716939937510582097494459230781640628620899")
LARGEST = 10.0  # sigma, in units of full brightness


class GridNoise:
    """round(255 sigma Z) for every value of an image, Z standard normal, from -255 to 255.

    What lies beyond 255 either way is told as 255: clipped to 8 bits, the noisy image is the same.

    >>> draws = Draws(0, torch.tensor([7, 7]), "example", step=torch.tensor([0, 1]))  # an image, its first two copies
    >>> GridNoise(0.25).levels(draws, 1, 8, 8).shape
    torch.Size([2, 1, 8, 8])

    Args:
        sigma: standard deviation in units of full brightness.

    Raises:
        ConfigError: as `check_sigma`.
    """

    def __init__(self, sigma: float) -> None:
        check_sigma(sigma)
        self.sigma = float(sigma)
        self._least, steps = _table(self.sigma)
        self._steps = torch.tensor(steps, dtype=torch.int64)

    def levels(self, draws: Draws, *shape: int) -> Tensor:
        """int32 `(N, *shape)`, a function of the draws alone, the same on every device."""
        keys = draws.keys(*shape).contiguous()
        return torch.bucketize(keys, self._steps.to(keys.device), right=True, out_int32=True) + self._least

    def added(self, images: Tensor, draws: Draws) -> Tensor:
        """Noisy copies, uint8 `(N, C, H, W)`, of an image for each draw, or one for all: uint8 `(N | 1, C, H, W)`."""
        noise = self.levels(draws, *images.shape[1:])
        return noise.add_(images).clamp_(0, LEVELS).to(torch.uint8)

    @staticmethod
    def drift(values: int) -> float:
        """How far the chance of any event may be from what exact normal noise on so many values gives it.

        A bound on the total variation distance: each of the 510 steps of the distribution function is rounded to 64
        bits, so a value's chances are off by at most 510 * 2^-64 in all, and those of independent values add.
        """
        return values * 2 * LEVELS * 2.0**-BITS


def check_sigma(sigma: float) -> None:
    """Raises ConfigError unless it is above 0 and at most 10."""
    if not 0 < sigma <= LARGEST:
        problem = f"expected a number above 0 and at most {LARGEST:g}"
        raise ConfigError(f"sigma {sigma!r:.40}", problem, "give it in units of full brightness, as 0.25")


@cache
def _table(sigma: float) -> tuple[int, tuple[int, ...]]:
    """The least level, and the signed 64-bit numbers from which on a random one means the next level each.

    Of u, uniform on 0 to 2^64 - 1, a level of at least k is drawn if u >= 2^64 Phi((k - 1/2) / s), rounded.
    """
    with localcontext(Context(prec=DIGITS)):
        s = LEVELS * Decimal(sigma)
        above = [_above_half((k - Decimal("0.5")) / s) for k in range(1, LEVELS + 1)]
        half = 1 << (BITS - 1)
        upper = [int((share * 2**BITS).to_integral_value()) for share in above]  # signed: u - 2^63
    steps = [-step for step in reversed(upper)] + upper
    least = -LEVELS + sum(step <= -half for step in steps)
    return least, tuple(step for step in steps if -half < step < half)


def _above_half(z: Decimal) -> Decimal:
    """Phi(z) - 1/2 for z > 0: phi(z) (z + z^3/3 + z^5/(3 5) + ...), all terms positive (Marsaglia 2004, JSS 11(4))."""
    if z > BEYOND:
        return Decimal("0.5")
    term = total = z
    odd = 1
    while term > total * TINY:
        odd += 2
        term *= z * z / odd
        total += term
    return total * (-z * z / 2).exp() / (2 * PI).sqrt()


class NoisyCushion(Numbered):
    """Noise before another Cushion, drawn anew for each look. Attacks average over it as over any random Cushion."""

    def __init__(self, noise: GridNoise, inner: Cushion) -> None:
        super().__init__(f"noise:{noise.sigma!r}" + ("" if inner.spec == "none" else f"+{inner.spec}"))
        self.noise, self.inner = noise, inner

    def draw(self, seed: int, stream: str, ids: Sequence[int]) -> Cushion:
        inner = self.inner.draw(seed, f"{stream}/inner", ids) if isinstance(self.inner, Drawable) else self.inner
        return _Noised(self.spec, self.noise, inner, Draws(seed, torch.tensor(list(ids), dtype=torch.int64), stream))

    def _probe(self) -> str:
        """Of draws for the two images that are fixed."""
        return self.draw(0, "probe", [0, 1])._probe()


class _Noised(Cushion):
    """The noise of one batch before a Cushion without chance."""

    def __init__(self, spec: str, noise: GridNoise, inner: Cushion, draws: Draws) -> None:
        super().__init__(spec)
        self._noise, self._inner, self._draws = noise, inner, draws

    def _cushion(self, pixels: Tensor) -> Tensor:
        return self._inner._cushion(self._noise.added(pixels, self._draws.to(pixels.device)))

    def _twin(self, x: Tensor) -> Tensor:
        noise = self._noise.levels(self._draws.to(x.device), *x.shape[1:])
        return self._inner.twin((x + noise.to(x) / LEVELS).clamp(0, 1))
