"""Whether a certificate holds under attack: PGD in L2 on the smoothed guard, inside the radius that was certified.

No attack may ever succeed there. With a multiple of the radius, for which nothing is promised, it shows whether it was
strong enough to say anything.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch
from scipy.special import ndtr, ndtri
from torch import Tensor

from medaegis.ambient import own_modes
from medaegis.attacks.balls import L2, LEVELS
from medaegis.attacks.engine import Attack
from medaegis.attacks.losses.shield import GettingThrough
from medaegis.attacks.objective import Goal
from medaegis.bench.radius import Bounds, lower
from medaegis.bench.records.certificate import AttackedImage
from medaegis.bench.store import Piece
from medaegis.draws import Draws
from medaegis.guard.smoothing import SmoothedGuard

ASKED = 1000  # noisy copies that judge an attacked image
FARTHER = 4  # times the radius
AT_ONCE = 8  # images that are attacked between two savings
STRETCH = 16  # how far a change is drawn out at most before it is rounded
BALL = L2(rms=False)
WALK = Attack(objective=GettingThrough(), ball=BALL, steps=20, samples=8)
HOW: dict[str, Any] = {"steps": WALK.steps, "draws": WALK.samples, "asked": ASKED, "farther": FARTHER}


@own_modes()
def attack_smoothed(smoothed: SmoothedGuard, images: Tensor, numbers: Tensor, seen: Sequence[Bounds]) -> Piece:
    """Attack images, each within its certified radius and within `FARTHER` times it, and ask about what comes out.

    Gradients are averaged over noise of the attacker's own (EOT); that which judges is other.

    Args:
        images: uint8 `(N, C, H, W)`.
        numbers: of the images, int64 `(N,)`.
        seen: bounds of each clean image.

    Returns:
        "images" uint8 `(N, 2, C, H, W)`; "counts" `(N, 2, 2, K)`, of each as of `SmoothedGuard.counts`; "cost".
    """
    started = time.perf_counter()
    device = smoothed.guard.classifier.device
    x = images.to(device).float() / LEVELS
    wanted = torch.tensor([wanted_class(one) for one in seen], device=device)
    goal = Goal(torch.tensor([one.label for one in seen], device=device), wanted)
    radii = torch.tensor([one.radii[0, 0] for one in seen], dtype=torch.float64, device=device)
    found, counts = [], []
    for turn, factor in enumerate((1, FARTHER)):
        purpose = f"attack-check/{turn}"
        victim = smoothed.victim().drawn(numbers, seed=smoothed.seed, stream=purpose)
        eps = (factor * radii).clamp_max(BALL.largest(x[0].numel())).view(-1, 1, 1, 1)
        point, _ = WALK.descend(victim, x, goal, eps.float(), x, Draws(smoothed.seed, numbers, purpose).to(device))
        # A change that is spread thin would be rounded away; drawn out, as much of it stays as fits.
        z = BALL.to_8bit(x + STRETCH * (point - x), x, eps)
        found.append((z * LEVELS).round().to(torch.uint8).cpu())
        asked = zip(found[-1], numbers.tolist(), strict=True)
        judged = [smoothed.counts(image, number, 0, ASKED, purpose=f"{purpose}/judged") for image, number in asked]
        counts.append(torch.stack(judged))
    cost = torch.tensor([[time.perf_counter() - started]], dtype=torch.float64)
    return {"images": torch.stack(found, 1), "counts": torch.stack(counts, 1), "cost": cost}


def wanted_class(seen: Bounds) -> int:
    """The wrong class whose chance has the highest bound."""
    chances = seen.chances[0].copy()
    chances[seen.label] = -1.0
    return int(chances.argmax())


def attacked_image(
    clean: Tensor, attacked: Tensor, counts: Tensor, seen: Bounds, *, before: float, name: str, classes: Sequence[str]
) -> AttackedImage:
    """What came of one attack.

    Args:
        clean, attacked: uint8 `(C, H, W)`, and its row of "images" of `attack_smoothed`.
        counts: its row there.
        before: share of the noisy copies of the clean image that is accepted as the wanted class.
    """
    wanted, wrong = wanted_class(seen), [k for k in range(len(classes)) if k != seen.label]
    distance = float((attacked[0].long() - clean.long()).square().sum()) ** 0.5 / LEVELS
    allowed = float(ndtr(ndtri(seen.chances[0, wanted]) + distance / seen.terms.sigma))
    level = seen.terms.alpha / len(wrong)
    within, farther = (lower(part[0].numpy(), ASKED, level) - seen.drift for part in counts)
    after, after_farther = (counts[:, 0, wanted] / ASKED).tolist()
    return AttackedImage(
        name=name,
        label=classes[seen.label],
        wanted=classes[wanted],
        radius=float(seen.radii[0, 0]),
        distance=distance,
        before=before,
        after=after,
        allowed=allowed,
        broken=bool((within[wrong] > 0.5).any()),
        exceeded=bool(within[wanted] > allowed),
        after_farther=after_farther,
        broken_farther=bool((farther[wrong] > 0.5).any()),
    )
