"""From Shield logits of clean images to a threshold for each class, with what so many images can promise.

Split conformal prediction (Vovk et al. 2005, Papadopoulos et al. 2002): of n images from one source the m-th highest
logit, m = ceil((n + 1) tnr), accepts a further one from there with a chance of at least tnr, if those images had no
part in the detector. A Shield was chosen among a few by looks at the same images (`medaegis.guard.fitting`), so for a
guard this holds nearly; what it accepts of test images is measured (`tnr_reached`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from medaegis.errors import ConfigError, DataError

FEWEST = 10  # clean images that set a threshold
PRIOR = 5  # images that the median of all counts for in the centre of a class with fewer than enough


@dataclass(frozen=True)
class Threshold:
    """Where a class's scale of suspicion lies: (centre - logit) / scale is 0 for a typical image, 1 at the threshold.

    Attributes:
        images: clean ones that are predicted as this class.
        own: whether they set it alone; otherwise the scale is pooled over the classes.
    """

    centre: float
    scale: float
    images: int
    own: bool


def set_thresholds(logits: Tensor, classes: Tensor, count: int, tnr: float, *, draws: int = 1) -> tuple[Threshold, ...]:
    """A threshold for each of `count` classes that accepts a share `tnr` of clean images, seen ones and others.

    A class with `enough_images` has its own. The others share one scale: how far below their centre the logits of all
    classes with enough lie. Their centre is between their own median, which counts as many as there are images, and
    that of all images, which counts `PRIOR`. Where no class has enough, all share one threshold.

    Args:
        logits: of the Shield of each image's predicted class, `(N,)`.
        classes: predicted classes `(N,)`.
        draws: rows that each image has, behind a random Cushion; images are counted, not rows.

    Raises:
        ConfigError: tnr is not above 0.5 and below 1.
        DataError: fewer than 10 images in all, or a logit is not finite.
    """
    if not 0.5 < tnr < 1:
        raise ConfigError(f"tnr {tnr}", "expected a share above 0.5 and below 1", "write 0.9 for 90 %")
    if not bool(logits.isfinite().all()):
        raise DataError("calibration", "a Shield's logit is not finite", "train the Shields anew")
    if len(logits) < FEWEST * draws:
        problem = f"{len(logits) // draws} clean images in all to set thresholds on"
        raise DataError("calibration", problem, f"give {FEWEST} or more, better {enough_images(tnr)} of each class")
    logits, classes = logits.double().cpu(), classes.cpu()
    counts = [n // draws for n in classes.bincount(minlength=count).tolist()]
    own = torch.tensor([n >= enough_images(tnr) for n in counts])
    middle = float(logits.median())
    centres = [_centre(logits[classes == k], n, middle, own=bool(own[k])) for k, n in enumerate(counts)]
    below = torch.tensor(centres, dtype=torch.float64)[classes] - logits
    pooled = _offset(below[own[classes]] if bool(own.any()) else middle - logits, tnr, draws)
    if not bool(own.any()):
        centres = [middle] * count
    scales = [_offset(below[classes == k], tnr, draws) if own[k] else pooled for k in range(count)]
    return tuple(
        Threshold(centre, max(scale, 1e-6) * (1 + 1e-6), n, bool(alone))
        for centre, scale, n, alone in zip(centres, scales, counts, own, strict=True)
    )


def enough_images(tnr: float) -> int:
    """Clean images with which a class sets its own threshold: the fewest with (n + 1) tnr <= n, but `FEWEST`."""
    return max(FEWEST, math.ceil(tnr / (1 - tnr) - 1e-9))


def accepted_range(n: int, tnr: float) -> tuple[float, float]:
    """What share of further clean images a threshold from n of them accepts: 95 % of such thresholds lie within.

    Beta(m, n + 1 - m) of the m-th highest of n (Vovk 2012), if logits do not tie.
    """
    from scipy.stats import beta

    m = _rank(n, tnr)
    low, high = beta.ppf([0.025, 0.975], m, n + 1 - m).tolist()
    return low, high


def images_for(tnr: float, far: float) -> int:
    """About how many images it takes for `accepted_range` to end at most `far` below and above tnr."""
    low, high = enough_images(tnr), 10_000_000
    while low < high:
        n = (low + high) // 2
        bounds = accepted_range(n, tnr)
        low, high = (low, n) if tnr - far <= bounds[0] and bounds[1] <= tnr + far else (n + 1, high)
    return low


def _centre(logits: Tensor, n: int, middle: float, *, own: bool) -> float:
    median = float(logits.median()) if len(logits) else middle
    return median if own else (n * median + PRIOR * middle) / (n + PRIOR)


def _rank(n: int, tnr: float) -> int:
    """Which highest of n logits is the last accepted; the lowest where n is too small for m."""
    # A product such as 0.7 * 10 = 7.000000000000001 must not ask for one image more than the share names.
    return min(n, math.ceil((n + 1) * tnr - 1e-9))


def _offset(below: Tensor, tnr: float, draws: int) -> float:
    """How far below its centre the last accepted logit lies; each image has `draws` rows."""
    n = max(1, len(below) // draws)
    last = math.ceil(_rank(n, tnr) / n * len(below) - 1e-9)
    return float(below.sort().values[last - 1])
