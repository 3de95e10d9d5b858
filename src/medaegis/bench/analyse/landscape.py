"""Loss landscapes: the loss around an image in the adversarial direction and one at right angles (Ma 2021, fig. 7).

Both directions change every pixel by one unit, so that both axes count grey levels and every point is an 8-bit image.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from medaegis.attacks.losses.answer import CrossEntropy
from medaegis.attacks.objective import Goal
from medaegis.attacks.victim import Victim
from medaegis.draws import Draws
from medaegis.task import without

RINGS = 8  # grid points from the image to the edge of the ball
BATCH = 64


@dataclass(frozen=True)
class Landscape:
    """Surfaces of one image each, `(N, G, G)`: rows go along the orthogonal direction, columns along the adversarial.

    Attributes:
        levels: grey levels along either axis, `(G,)`, the image itself in the middle.
        loss: cross-entropy of the true class, in nats.
        margin: logit of the true class minus the best other one; negative is a wrong diagnosis.
        suspicion: by the Shield of the wanted class (above 1 rejected); None without Shields.
    """

    levels: Tensor
    loss: Tensor
    margin: Tensor
    suspicion: Tensor | None


def directions(victim: Victim, images: Tensor, labels: Tensor, ids: Tensor, *, seed: int) -> tuple[Tensor, Tensor]:
    """The sign of the loss's gradient, and random signs at right angles to it, both `(N, C, H, W)`.

    Half of the pixels, drawn for each image, take the other sign; an odd one out stays 0.
    """
    z = images.detach().clone().requires_grad_()
    goal, objective = Goal(labels), CrossEntropy()
    _, grad = objective.pull(victim.look(z, goal, objective), z)
    adversarial = -grad.nan_to_num().sign()
    flat = adversarial.flatten(1)
    keys = Draws(seed, ids, "orthogonal").to(flat.device).keys(flat.shape[1])
    place = keys.masked_fill(flat == 0, torch.iinfo(torch.int64).max).argsort(1).argsort(1)  # in a random order
    half = (flat != 0).sum(1, keepdim=True) // 2
    orthogonal = torch.where(place < half, flat, -flat) * (place < 2 * half)
    return adversarial, orthogonal.view_as(adversarial)


@torch.no_grad()
def landscape(
    victim: Victim, images: Tensor, labels: Tensor, targets: Tensor, ids: Tensor, *, levels: int, seed: int
) -> Landscape:
    """Surfaces around each image up to `levels` grey levels both ways, through the whole victim in float32.

    Args:
        images: `(N, C, H, W)` on the 8-bit grid, on the victim's device, as are labels and targets `(N,)`.
    """
    with torch.enable_grad():
        adversarial, orthogonal = directions(victim, images, labels, ids, seed=seed)
    stride = -(-levels // RINGS)
    axis = torch.arange(-(levels // stride) * stride, levels + 1, stride)
    down, across = (part.flatten().to(images) for part in torch.meshgrid(axis, axis, indexing="ij"))
    surfaces: list[list[Tensor]] = []
    for row in range(len(images)):
        parts = []
        for a, b in zip(across.split(BATCH), down.split(BATCH), strict=True):
            steps = a.view(-1, 1, 1, 1) * adversarial[row] + b.view(-1, 1, 1, 1) * orthogonal[row]
            points = ((images[row] * 255).round() + steps).clamp(0, 255) / 255
            parts.append(_measure(victim, points, labels[row], targets[row]))
        surfaces.append([torch.cat(part).view(len(axis), len(axis)) for part in zip(*parts, strict=True)])
    stacked = [torch.stack(one).cpu() for one in zip(*surfaces, strict=True)]
    return Landscape(axis, stacked[0], stacked[1], stacked[2] if len(stacked) == 3 else None)


def _measure(victim: Victim, points: Tensor, label: Tensor, target: Tensor) -> list[Tensor]:
    """Loss, margin and, with Shields, suspicion of points `(P, C, H, W)` around one image, from one pass."""
    taps = victim.shields.taps if victim.shields is not None else ()
    seen = victim.exact.activations(victim.cushion(points), taps=taps)
    assert seen.logits is not None
    true = label.expand(len(points))
    margin = seen.logits[:, int(label)] - without(seen.logits, true).amax(1)
    found = [F.cross_entropy(seen.logits, true, reduction="none"), margin]
    if victim.shields is not None:
        wanted = target.expand(len(points))
        found.append(victim.shields.suspicion(victim.shields(seen.features, wanted), wanted))
    return found
