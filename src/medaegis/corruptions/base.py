"""What every corruption is: a change of one image at five severities, drawn by seed and number of the image.

After Hendrycks and Dietterich 2019 ("Benchmarking neural network robustness to common corruptions") and MedMNIST-C
(Di Salvo et al. 2024), whose kinds these are; the severities are ours (docs/corruptions.md): 1 is hardly seen.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from medaegis.draws import Draws
from medaegis.errors import ConfigError, ImageError

SEVERITIES = (1, 2, 3, 4, 5)
REFERENCE_SIDE = 224  # lengths in pixels are those of a picture whose shorter side has so many

Group = Literal["noise", "blur", "tone", "resolution", "position", "artefact"]
Kind = Literal["any", "x-ray", "fundus", "skin"]  # of pictures
Change = Callable[[Tensor, float, Draws], Tensor]
"""Of one image `(C, H, W)`, float64 k / 255 in [0, 1], by an amount; the draws are of that image alone. What comes out
may leave [0, 1] and the 8-bit grid."""


@dataclass(frozen=True)
class Corruption:
    """One kind of harmless change.

    The same draws serve all severities, so that only the amount grows. Every image is changed by itself and on the
    processor: the pixels do not depend on the batch or the device.

    >>> from medaegis.corruptions import find_corruption
    >>> darker = find_corruption("brightness-down")
    >>> darker(torch.full((1, 1, 2, 2), 0.6), 5).mul(255).round().unique()
    tensor([77.])

    Attributes:
        name: in the registry.
        kind: of pictures that have it.
        parameter: what the amounts are, with their unit.
        amounts: for severity 1 to 5; towards larger or smaller numbers, but always further from the clean image.
    """

    name: str
    title: str
    group: Group
    kind: Kind
    parameter: str
    amounts: tuple[float, float, float, float, float]
    change: Change

    @torch.no_grad()
    def __call__(self, images: Tensor, severity: int, *, ids: Tensor | None = None, seed: int = 0) -> Tensor:
        """The images so changed, 8-bit values k / 255, of the same shape, type and device.

        Args:
            images: float32 or float64 `(N, 1 or 3, H, W)` in [0, 1]; rounded to 8 bits first.
            severity: 1 to 5.
            ids: numbers of the images, int64 `(N,)`; None: their places.
            seed: of the draws.

        Raises:
            ConfigError: no such severity; shape, type or `ids` do not fit.
            ImageError: a value is NaN or outside [0, 1].
        """
        if severity not in SEVERITIES:
            raise ConfigError(f"severity {severity!r}", "there is no such severity", "take 1, 2, 3, 4 or 5")
        ids = torch.arange(len(images)) if ids is None else ids.cpu()
        _check(self.name, images, ids)
        levels = images.detach().cpu().double().mul(255).round()
        amount, changed = self.amounts[severity - 1], torch.empty_like(levels)
        for i, image in enumerate(levels):
            draws = Draws(seed, ids[i : i + 1], f"corruption/{self.name}")
            changed[i] = self.change(image / 255, amount, draws)
        return changed.mul_(255).round_().clamp_(0, 255).to(images.dtype).div_(255).to(images.device)


def scaled(image: Tensor, pixels: float) -> float:
    """A length of so many pixels at `REFERENCE_SIDE`, in pixels of this image `(C, H, W)`."""
    return pixels * min(image.shape[1:]) / REFERENCE_SIDE


def _check(name: str, images: Tensor, ids: Tensor) -> None:
    source = f"corruption {name}"
    if images.ndim != 4 or images.shape[1] not in (1, 3) or 0 in images.shape[2:] or not images.is_floating_point():
        problem = f"got {images.dtype} {tuple(images.shape)}"
        raise ConfigError(source, problem, "give float images (N, 1 or 3, H, W) in [0, 1]")
    if ids.shape != (len(images),):
        raise ConfigError(source, f"{len(images)} images, ids of shape {tuple(ids.shape)}", "give one for each image")
    if images.numel() and not bool(((images >= 0) & (images <= 1)).all()):
        raise ImageError(source, "a value is NaN or outside [0, 1]", "give pixels in [0, 1]")
