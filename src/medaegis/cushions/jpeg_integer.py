"""JPEG in whole numbers: the pixels of libjpeg-turbo, to the bit, on every device.

Step by step what it does unless told otherwise (accurate integer DCT, "fancy" upsampling): jccolor.c, jcsample.c,
jfdctint.c, jcdctmgr.c, jidctint.c, jdsample.c and jdcolor.c of libjpeg-turbo 3. Entropy coding loses nothing and is
left out. Nothing is read back from the device on the way.
"""

from collections.abc import Sequence
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from medaegis.cushions.base import pad_edges

# ITU-T T.81, tables K.1 and K.2, in reading order.
_LUMA = """
16 11 10 16 24 40 51 61  12 12 14 19 26 58 60 55  14 13 16 24 40 57 69 56  14 17 22 29 51 87 80 62
18 22 37 56 68 109 103 77  24 35 55 64 81 104 113 92  49 64 78 87 103 121 120 101  72 92 95 98 112 100 103 99
"""
_CHROMA = """
17 18 24 47 99 99 99 99  18 21 26 66 99 99 99 99  24 26 56 99 99 99 99 99  47 66 99 99 99 99 99 99
99 99 99 99 99 99 99 99  99 99 99 99 99 99 99 99  99 99 99 99 99 99 99 99  99 99 99 99 99 99 99 99
"""
# Three weights with 16 bits behind the point, and what is added before these are cut off: one half, the centre 128 of
# the chroma planes, and for these 2^-16 less than one half (jccolor.c, jdcolor.c).
_Rows = tuple[tuple[int, int, int, int], ...]
_TO_YCC: _Rows = (
    (19595, 38470, 7471, 1 << 15),
    (-11059, -21709, 32768, (128 << 16) + (1 << 15) - 1),
    (32768, -27439, -5329, (128 << 16) + (1 << 15) - 1),
)
_TO_RGB: _Rows = (
    (65536, 0, 91881, (1 << 15) - 128 * 91881),
    (65536, -22554, -46802, (1 << 15) + 128 * (22554 + 46802)),
    (65536, 116130, 0, (1 << 15) - 128 * 116130),
)
# The one-dimensional DCT with 13 bits behind the point, a row per frequency: sums of the constants in jfdctint.c, which
# jidctint.c multiplies by too. Of eight positions the first four; the others mirror them, in odd rows with a minus.
_DCT = (
    (8192, 8192, 8192, 8192),
    (11363, 9633, 6437, 2260),
    (10703, 4433, -4433, -10703),
    (9633, -2259, -11362, -6436),
    (8192, -8192, -8192, 8192),
    (6437, -11362, 2261, 9633),
    (4433, -10704, 10704, -4433),
    (2260, -6436, 9633, -11363),
)
_CACHED = 1 << 17  # pixels at a time on a processor: with many more, what is worked out of them leaves its cache


def quantisation_table(quality: int, *, chroma: bool = False) -> list[int]:
    """The 64 divisors of libjpeg's quality scale (jpeg_set_quality, baseline), in reading order."""
    scale = 5000 // quality if quality < 50 else 200 - 2 * quality
    base = map(int, (_CHROMA if chroma else _LUMA).split())
    return [min(max((value * scale + 50) // 100, 1), 255) for value in base]


def whole_blocks(plane: Tensor) -> Tensor:
    """`(N, H, W)` with the last column and row repeated up to multiples of 8."""
    height, width = plane.shape[1:]
    return pad_edges(pad_edges(plane, 2, 0, -width % 8), 1, 0, -height % 8)


def jpeg_integer(pixels: Tensor, quality: int, *, halve_chroma: bool) -> Tensor:
    """JPEG compression and decompression, equal to libjpeg-turbo's on every pixel.

    Args:
        pixels: uint8 `(N, C, H, W)`, C = 1 or 3 (RGB), any H and W.
        quality: libjpeg's 1 to 100.
        halve_chroma: True for 4:2:0, False for 4:4:4; without effect when C = 1.

    Returns:
        New uint8 tensor of that shape, on the same device.

    Example:
        >>> step = torch.tensor([40, 40, 40, 40, 40, 200, 200, 200], dtype=torch.uint8).expand(1, 1, 8, 8)
        >>> jpeg_integer(step, 20, halve_chroma=False)[0, 0, 0].tolist()
        [41, 30, 43, 49, 19, 213, 196, 193]
    """
    if not pixels.numel():
        return pixels.clone()
    at_once = len(pixels)
    if pixels.device.type == "cpu":
        at_once = max(1, _CACHED // pixels[0, 0].numel())
    return torch.cat([_pass(part, quality, halve_chroma) for part in pixels.split(at_once)])


def _pass(pixels: Tensor, quality: int, halve_chroma: bool) -> Tensor:
    count, channels, height, width = pixels.shape
    if channels == 1:
        return _code(pixels[:, 0], quality, chroma=False)[:, None]
    ycc = _mix(pixels.unbind(1), _TO_YCC)
    y, chroma = _code(ycc[0], quality, chroma=False), ycc[1:].flatten(0, 1)
    if halve_chroma:
        small = _code(_halve(chroma), quality, chroma=True)[:, : (height + 1) // 2, : (width + 1) // 2]
        chroma = _double(small)[:, :height, :width]
    else:
        chroma = _code(chroma, quality, chroma=True)
    rgb = _mix([y, *chroma.split(count)], _TO_RGB)
    return rgb.clamp_(0, 255).to(torch.uint8).transpose(0, 1).contiguous()


def _mix(planes: Sequence[Tensor], rows: _Rows) -> Tensor:
    """Sums of three planes by each row of weights, in whole numbers: int32, a new first side for the rows."""
    planes = [plane.to(torch.int32) for plane in planes]
    sums = torch.empty((len(rows), *planes[0].shape), dtype=torch.int32, device=planes[0].device)
    for total, (*weights, addend) in zip(sums, rows, strict=True):
        total.fill_(addend)
        for plane, weight in zip(planes, weights, strict=True):
            total.add_(plane, alpha=weight)
    return sums.bitwise_right_shift_(16)


def _halve(plane: Tensor) -> Tensor:
    """Means of 2 x 2, whose halves are rounded down in even columns and up in odd ones.

    Columns are repeated up to whole blocks before the mean, rows after it.
    """
    even = pad_edges(pad_edges(plane, 2, 0, -plane.shape[2] % 16), 1, 0, plane.shape[1] % 2)
    pairs = even[:, 0::2] + even[:, 1::2]
    sums = pairs[..., 0::2] + pairs[..., 1::2]
    sums += 1 + torch.arange(sums.shape[2], dtype=sums.dtype, device=sums.device) % 2
    return whole_blocks(sums.bitwise_right_shift_(2))


def _double(plane: Tensor) -> Tensor:
    """Twice the size: weights 3/4 and 1/4 both ways, but plain repetition at widths up to 2.

    Those are the weights of bilinear interpolation, and its sums are whole sixteenths, exact in floating point. Halves
    are rounded up in even columns and down in odd ones.
    """
    if plane.shape[2] <= 2:
        return plane.repeat_interleave(2, 1).repeat_interleave(2, 2)
    fine = F.interpolate(plane[:, None].to(torch.float64), scale_factor=2, mode="bilinear")[:, 0]
    fine += (8 - torch.arange(fine.shape[2], dtype=fine.dtype, device=fine.device) % 2) / 16
    return fine.floor_()


@lru_cache(maxsize=256)
def _matrices(quality: int, chroma: bool, device: torch.device) -> tuple[Tensor, ...]:
    """What `_code` adds and multiplies by, in its order; float64."""
    left = torch.tensor(_DCT, dtype=torch.float64)
    sign = torch.tensor([1.0, -1.0] * 4, dtype=torch.float64)
    dct = torch.cat([left, sign[:, None] * left.flip(1)], 1)
    table = torch.tensor(quantisation_table(quality, chroma=chroma), dtype=torch.float64).view(8, 8).T
    half = torch.full((1, 1, 1), 0.5, dtype=torch.float64)
    centre = half[0].repeat(8, 1)
    centre[0] -= 4 * 8 * 128  # from every pixel 128 is taken first
    # Coefficients come out eight times too large. Halves are rounded away from 0: as whole numbers below 2^14 are
    # divided, the little that is added to the factor moves a half and nothing else.
    steps = (1 + 2**-16) / (8 * table[:, :, None])
    both = (centre, dct / 2**11, half, dct.expand(8, 8, 8) / 2**15, steps)
    back = (dct.T * table[:, None] / 2**11, 128 + half[0], dct.T / 2**18)
    return tuple(one.to(device) for one in both + back)


def _code(plane: Tensor, quality: int, *, chroma: bool) -> Tensor:
    """`(N, H, W)` in 0..255 -> uint8, the same after DCT, quantisation and back.

    Each of the codec's four passes is a sum of products of whole numbers and one rounding. The sums stay below 2^30, so
    that float64 holds them, whatever order a device adds in.
    """
    centre, along, half, down, steps, up, middle, across = _matrices(quality, chroma, plane.device)
    height, width = plane.shape[1:]
    plane = whole_blocks(plane)
    count, rows, columns = plane.shape
    # Column and row within a block come first: then every pass is one product for all blocks at once.
    blocks = plane.view(count, rows // 8, 8, columns // 8, 8).permute(4, 2, 0, 1, 3)
    x = blocks.to(torch.float64, memory_format=torch.contiguous_format).view(8, -1)
    x = torch.addmm(centre, along, x).floor_()
    x = torch.baddbmm(half, down, x.view(8, 8, -1)).floor_()
    x.mul_(steps).round_()
    x = torch.baddbmm(half, up, x).floor_()
    x = torch.addmm(middle, across, x.view(8, -1))
    # Rounding down is cutting off, but for values below 0. Those become 0, as all too large become 255.
    x = x.to(torch.int16).clamp_(0, 255).to(torch.uint8)
    return x.view(blocks.shape).permute(2, 3, 1, 4, 0).reshape(plane.shape)[:, :height, :width]
