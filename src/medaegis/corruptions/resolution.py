"""Resolution: JPEG, a smaller picture made large again, coarse pixels."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import interpolate

from medaegis.cushions.jpeg import JpegCushion
from medaegis.draws import Draws


def jpeg(image: Tensor, quality: float, draws: Draws) -> Tensor:
    """Compressed and read again; chroma is halved, as usual."""
    out: Tensor = JpegCushion(int(quality))(image[None])[0]
    return out


def resampled(image: Tensor, share: float, draws: Draws) -> Tensor:
    """Brought down to a share of its sides and up again, by straight lines between pixels both ways."""
    few = interpolate(image[None], _fewer(image, share), mode="bilinear", antialias=True)
    return interpolate(few, list(image.shape[1:]), mode="bilinear")[0]


def pixelated(image: Tensor, share: float, draws: Draws) -> Tensor:
    """Brought down to a share of its sides by means of areas, each of which is then one flat block."""
    few = interpolate(image[None], _fewer(image, share), mode="area")
    return interpolate(few, list(image.shape[1:]), mode="nearest-exact")[0]


def _fewer(image: Tensor, share: float) -> list[int]:
    return [max(1, round(share * side)) for side in image.shape[1:]]
