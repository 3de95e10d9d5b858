"""What every cushion is: an exact map on 8-bit pixels, and beside it a differentiable twin an attacker may use.

The exact side is the code that runs in deployment (Medical Aegis, section 3.2); how its gradient is taken is the
attacker's choice: identity (BPDA, Athalye et al. 2018, section 4.1) or the derivative of the twin.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor

from medaegis.errors import ConfigError, ImageError

Gradient = Literal["bpda", "twin", "skip"]


class Cushion(ABC):
    """A preprocessing that takes fine detail out of an image before the classifier sees it.

    Subclasses say what happens to 8-bit pixels (`_cushion`) and what a differentiable stand-in is (`_twin`). Every
    image of a batch is treated by itself: the result does not depend on its neighbours.

    Attributes:
        spec: canonical text that `parse_cushion` turns into this cushion again.
        random: whether a draw must be made before it can be called (see `Drawable`).
        rounds: whether what it gives are 8-bit images, as everything that a file carried.
        votes: draws of it that a verdict is by (see `Voting`).
        channels: the channel counts it takes.
    """

    random: ClassVar[bool] = False
    rounds: ClassVar[bool] = True
    votes: int = 1
    channels: ClassVar[tuple[int, ...]] = (1, 3)

    def __init__(self, spec: str) -> None:
        self.spec = spec

    def __repr__(self) -> str:
        return f"parse_cushion({self.spec!r})"

    @torch.no_grad()
    def __call__(self, x: Tensor) -> Tensor:
        """The cushioned images, as the deployed system would compute them; no gradient.

        Args:
            x: float32 or float64 `(N, C, H, W)` in [0, 1]; rounded to 8 bits first (halves to even).

        Returns:
            Images of the same shape, type and device whose values are k / 255 with whole k.

        Raises:
            ConfigError: shape, number of channels or type do not fit.
            ImageError: a value is NaN or rounds to something outside 0..255. Nothing is clamped.
        """
        self._check(x)
        self._check_range(x)
        return self.within_range(x)

    @torch.no_grad()
    def within_range(self, x: Tensor) -> Tensor:
        """As the call itself, of images that are known to lie in [0, 1]: nothing is read back from the device."""
        self._check(x)
        return self._cushion(in_bytes(x)).to(x.dtype).div_(255)

    @abstractmethod
    def _cushion(self, pixels: Tensor) -> Tensor:
        """uint8 `(N, C, H, W)` -> new uint8 tensor of that shape, on the same device."""

    def twin(self, x: Tensor) -> Tensor:
        """A differentiable stand-in for the exact cushion, without the roundings to 8 bits (slope 1 instead).

        Args:
            x: float32 or float64 `(N, C, H, W)` in [0, 1].

        Returns:
            Tensor like x.

        Raises:
            ConfigError: shape, number of channels or type do not fit.
        """
        self._check(x)
        return self._twin(x)

    @abstractmethod
    def _twin(self, x: Tensor) -> Tensor:
        """As `twin`, for x that fits."""

    def ballots(self) -> Iterator["Cushion"]:
        """What each vote is cast behind; of a cushion without votes itself."""
        yield self

    def manifest(self) -> dict[str, Any]:
        """What a guard writes down to get the same pixels again: the spec and a fingerprint of its output.

        `probe` is the SHA-256 of the cushioned bytes of fixed synthetic images, so code or a library that computes
        other pixels is noticed whatever its version number says.
        """
        return {"spec": self.spec, "probe": self._probe()}

    def _probe(self) -> str:
        pixels = (self._cushion(probe_images(channels)).numpy().tobytes() for channels in self.channels)
        return hashlib.sha256(b"".join(pixels)).hexdigest()

    def _check(self, x: Tensor) -> None:
        if x.ndim != 4 or x.shape[1] not in self.channels or 0 in x.shape[2:]:
            wanted = " or ".join(map(str, self.channels))
            problem = f"got a tensor of shape {tuple(x.shape)}, expected (N, {wanted}, H, W)"
            raise ConfigError(f"cushion {self.spec}", problem, "pass a batch of images, channels first")
        if x.dtype not in (torch.float32, torch.float64):
            problem = f"got {x.dtype}, expected float32 or float64 in [0, 1]"
            remedy = "divide uint8 images by 255; do not feed half precision, which cannot hold 8-bit pixels"
            raise ConfigError(f"cushion {self.spec}", problem, remedy)

    def _check_range(self, x: Tensor) -> None:
        if not x.numel():
            return
        low, high = x.mul(255).round_().aminmax()
        if not bool((low >= 0) & (high <= 255)):  # NaN compares false: refused as well
            raise ImageError(
                f"cushion {self.spec}",
                "an image holds NaN or values outside [0, 1]"
                f" (smallest {low.item() / 255:.4g}, largest {high.item() / 255:.4g})",
                "find out where these pixels come from; they are not clamped, and no diagnosis may rest on them",
            )


def in_bytes(x: Tensor) -> Tensor:
    """Images in [0, 1] as uint8, halves to even."""
    return x.mul(255).round_().to(torch.uint8)


def probe_images(channels: int) -> Tensor:
    """Fixed images on which rounding differences show: uint8 `(2, C, 37, 45)`."""
    # A multiplicative hash gives noise without a random generator.
    count = 2 * channels * 37 * 45
    noise = (torch.arange(count, dtype=torch.int64) * 2654435761 % 2**32 >> 24).view(2, channels, 37, 45)
    ramp = (torch.arange(37).view(37, 1) * 3 + torch.arange(45) * 2).expand(2, channels, 37, 45)
    return ((ramp * 7 + noise) // 8).to(torch.uint8)


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


class _Substitute(torch.autograd.Function):
    """Value of the second argument, gradient to the first."""

    @staticmethod
    def forward(ctx: Any, surrogate: Tensor, exact: Tensor) -> Tensor:
        return exact.view_as(exact)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None


_substitute: Callable[[Tensor, Tensor], Tensor] = _Substitute.apply


def cushion_with_gradient(cushion: Cushion, x: Tensor, gradient: Gradient) -> Tensor:
    """The exact cushion of x, with a gradient of the attacker's choice.

    Args:
        cushion: any cushion.
        x: float32 or float64 `(N, C, H, W)` in [0, 1], which is not looked at again here.
        gradient: "bpda" passes the gradient through unchanged (straight-through identity; Athalye et al. 2018);
            "twin" takes the derivative of `cushion.twin` at x; "skip" leaves the cushion out, value and all: what is
            found that way meets the cushion only when it is judged, and shows defences that hide behind its rounding.

    Returns:
        Bit for bit `cushion(x)`, whatever the gradient; x itself for "skip".

    Raises:
        ConfigError: the gradient is unknown.
    """
    if gradient not in get_args(Gradient):
        raise ConfigError("gradient", f"got {gradient!r}", f"choose from {', '.join(get_args(Gradient))}")
    if gradient == "skip":
        return x
    exact = cushion.within_range(x.detach())
    if not (torch.is_grad_enabled() and x.requires_grad):
        return exact
    return _substitute(x if gradient == "bpda" else cushion.twin(x), exact)
