"""How alike two images look: SSIM (Wang et al. 2004, "Image quality assessment: from error visibility to structural
similarity") and PSNR."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from medaegis.errors import ConfigError

WINDOW, SIGMA = 11, 1.5  # of the Gaussian in which means, variances and covariance are taken (Wang 2004, section III-C)
K1, K2 = 0.01, 0.03
AT_ONCE = 32  # images


def ssim(first: Tensor, second: Tensor) -> Tensor:
    """Mean structural similarity of images `(N, C, H, W)` in [0, 1], `(N,)`: 1 where they are equal.

    Over all windows of 11 x 11 that lie in the image and all channels, each by itself. Of an image narrower than a
    window it is NaN.

    Raises:
        ConfigError: shapes that are not the same, or no images.

    >>> x = torch.rand((2, 1, 16, 16), generator=torch.Generator().manual_seed(0))
    >>> ssim(x, x).tolist(), bool((ssim(x, 1 - x) < 0.1).all())
    ([1.0, 1.0], True)
    """
    _check(first, second)
    if min(first.shape[2:]) < WINDOW:
        return torch.full((len(first),), torch.nan, dtype=torch.float64)
    parts = [_ssim(a, b) for a, b in zip(first.split(AT_ONCE), second.split(AT_ONCE), strict=True)]
    return torch.cat(parts)


def psnr(first: Tensor, second: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of images `(N, C, H, W)` in [0, 1] in decibels, `(N,)`; infinite where they are equal.

    Raises:
        ConfigError: shapes that are not the same, or no images.

    >>> psnr(torch.zeros(1, 1, 4, 4), torch.full((1, 1, 4, 4), 0.1)).round(decimals=3).tolist()
    [20.0]
    """
    _check(first, second)
    return -10 * (first.double() - second.double()).square().mean((1, 2, 3)).log10()


def _ssim(first: Tensor, second: Tensor) -> Tensor:
    a, b = (images.double().flatten(0, 1).unsqueeze(1) for images in (first, second))
    mean_a, mean_b = _blurred(a), _blurred(b)
    spread_a, spread_b = _blurred(a * a) - mean_a**2, _blurred(b * b) - mean_b**2
    shared = _blurred(a * b) - mean_a * mean_b
    c1, c2 = K1**2, K2**2
    light = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
    structure = (2 * shared + c2) / (spread_a + spread_b + c2)
    return (light * structure).view(len(first), -1).mean(1)


def _blurred(images: Tensor) -> Tensor:
    """Weighted means `(M, 1, H - 10, W - 10)` of all windows of `(M, 1, H, W)`."""
    places = torch.arange(WINDOW, dtype=images.dtype, device=images.device) - WINDOW // 2
    weight = torch.exp(-(places**2) / (2 * SIGMA**2))
    weight = weight / weight.sum()
    return F.conv2d(F.conv2d(images, weight.view(1, 1, -1, 1)), weight.view(1, 1, 1, -1))


def _check(first: Tensor, second: Tensor) -> None:
    if first.shape != second.shape or first.ndim != 4 or not len(first):
        given = f"got {tuple(first.shape)} and {tuple(second.shape)}"
        raise ConfigError("image similarity", given, "give two batches (N, C, H, W) of the same shape, N at least 1")
