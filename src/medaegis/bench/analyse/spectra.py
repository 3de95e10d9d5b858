"""Radial power spectra of images and perturbations: which frequencies an attack uses and which the Cushion removes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Spectrum:
    """Mean power of each ring of the frequency plane.

    Attributes:
        frequency: of the ring, cycles per pixel, `(R,)` float64.
        power: mean over the ring, the channels and the images, in squared full brightness, `(R,)`.
        count: frequencies in the ring; `(power * count).sum()` is the mean square of the pixels (Parseval).
    """

    frequency: Tensor
    power: Tensor
    count: Tensor

    def energy(self, above: float = -1.0) -> float:
        """Mean square of the pixels from frequencies above this one, in cycles per pixel."""
        return float((self.power * self.count)[self.frequency > above].sum())


def radial_spectrum(images: Tensor) -> Spectrum:
    """Spectrum of `(N, C, H, W)`, in rings one cycle per longer side wide."""
    height, width = images.shape[-2:]
    planes = torch.fft.fft2(images.double()).abs().square().mean((0, 1)) / (height * width) ** 2
    power, count = _rings(planes)
    frequency = torch.arange(len(count), dtype=torch.float64) / max(height, width)
    return Spectrum(frequency, (power / count).cpu(), count.cpu())


def passed(before: Tensor, after: Tensor) -> Tensor:
    """What of `before` is found again in `after`, both `(N, C, H, W)`, ring by ring, `(R,)`: 1 all, 0 nothing.

    The transfer function as a least-squares fit, Re(B* A) / |B|^2. A codec also adds differences of its own, by
    rounding; they make `after` larger but not more like `before`.
    """
    b, a = (torch.fft.fft2(x.double()) for x in (before, after))
    shared, _ = _rings((b.conj() * a).real.mean((0, 1)))
    own, _ = _rings(b.abs().square().mean((0, 1)))
    return (shared / own.clamp_min(1e-300)).cpu()


def _rings(planes: Tensor) -> tuple[Tensor, Tensor]:
    """Sum of `(H, W)` over each ring of the frequency plane, and how many frequencies are in it."""
    longer = max(planes.shape)
    down, across = (torch.fft.fftfreq(n, dtype=torch.float64, device=planes.device) * longer for n in planes.shape)
    ring = (down[:, None].square() + across[None, :].square()).sqrt().round().long().flatten()
    count = ring.bincount()
    return torch.zeros(len(count), dtype=torch.float64, device=planes.device).index_add_(
        0, ring, planes.flatten()
    ), count
