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
    """Spectrum of `(N, C, S, S)`, in rings one cycle per picture wide."""
    size = images.shape[-1]
    planes = torch.fft.fft2(images.double()).abs().square().mean((0, 1)) / size**4
    line = torch.fft.fftfreq(size, dtype=torch.float64, device=images.device) * size
    ring = (line[:, None].square() + line[None, :].square()).sqrt().round().long().flatten()
    count = ring.bincount()
    power = torch.zeros(len(count), dtype=torch.float64, device=images.device).index_add_(0, ring, planes.flatten())
    frequency = torch.arange(len(count), dtype=torch.float64) / size
    return Spectrum(frequency, (power / count).cpu(), count.cpu())
