"""Whether a network judges each image by itself: its answer may not depend on what else is in the batch.

A batch norm without running statistics, attention across the batch, or dropout that eval mode does not stop would give
the same picture another diagnosis each time, and no threshold would hold.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from medaegis.errors import ConfigError

# Of the largest logit (less the mean of its image): what other batch sizes may cost in rounding, and no more.
TOLERANCE = 1e-2
FLOOR = 1e-5


@torch.no_grad()
def check_alone(answers: Callable[[Tensor], Tensor], images: Tensor, *, source: str) -> None:
    """Compare a batch with its images one by one, each of which so has other companions, or none.

    Args:
        answers: images `(N, C, H, W)` to logits `(N, K)`, in eval mode and float32.
        images: two or more, unlike each other in brightness and contrast.
        source: named in errors.

    Raises:
        ConfigError: an image gets another answer alone, or none; or the answers are not finite, or random.
    """
    together = answers(images)
    if not bool(together.isfinite().all()):
        raise ConfigError(source, "gives values that are not finite for ordinary images", "check its weights")
    try:
        alone = torch.cat([answers(image[None]) for image in images])
    except Exception as error:  # whatever somebody's network raises
        problem = f"does not run on one image alone, only on several: {error}"
        raise ConfigError(source, problem, "look for squeeze() and batch norms in its forward") from error
    if alone.shape == together.shape and _same(alone, together):
        return
    if not _same(answers(images), together):
        problem = "answers the same images differently from pass to pass: something in it stays random in eval mode"
        raise ConfigError(source, problem, "make it deterministic, as F.dropout(..., training=self.training) is")
    raise ConfigError(
        source,
        "its answer for an image depends on the other images of the batch, so the same picture would get another "
        "diagnosis in other company",
        "give its batch norms running statistics (track_running_stats=True) and attend within an image "
        "(batch_first=True), or take another network",
    )


def _same(one: Tensor, other: Tensor) -> bool:
    one, other = one.double(), other.double()
    if one.shape[1] > 1:  # what is common to all logits of an image says nothing
        one, other = (values - values.mean(1, keepdim=True) for values in (one, other))
    return bool((one - other).abs().max() <= FLOOR + TOLERANCE * other.abs().max())
