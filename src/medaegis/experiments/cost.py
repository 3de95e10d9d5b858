"""What an attack took beside its bare passes: the network's own over as many images, timed when the attack is over."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from medaegis.attacks.victim import Victim
from medaegis.bench.store import BATCH, Piece
from medaegis.experiments.figures import Figure

TIMES = 3  # each bare pass is timed, after one that prepares; the median counts
LEAST = 30  # bare passes are timed where the attack took so many times theirs, so that this costs 4 % at most
SECONDS, BARE = "seconds", "bare_seconds"


def account(victim: Victim, images: Tensor, piece: Piece) -> tuple[Figure, ...]:
    """Seconds that an attack took, and those of its bare passes; nothing of a short attack.

    Args:
        victim: what was attacked; with Shields they are part of a pass, its Cushion is not.
        images: some that were attacked, `(N, C, H, W)`.
        piece: of the attack, with its "cost": rows of seconds, forwards and backwards over single images.
    """
    seconds, forwards, backwards = (float(total) for total in piece["cost"].sum(0))
    x = images[:BATCH].to(victim.device)
    if forwards + backwards < LEAST * 3 * (TIMES + 1) * len(x):
        return ()
    forward, both = timed(victim, x)
    bare = forwards * forward + backwards * (both - forward)
    return Figure(SECONDS, seconds, n=len(images)), Figure(BARE, bare, n=len(images))


def timed(victim: Victim, x: Tensor) -> tuple[float, float]:
    """Seconds for one image of a forward pass, and of a forward and a backward, of `x` `(N, C, H, W)` together."""
    taps = victim.shields.taps if victim.shields is not None else ()
    classes = torch.zeros(len(x), dtype=torch.int64, device=x.device)

    def answer(z: Tensor) -> Tensor:
        seen = victim.fast.activations(z, taps=taps)
        assert seen.logits is not None, "asked for"
        found = seen.logits.float().sum()
        return found if victim.shields is None else found + victim.fast_shields(seen.features, classes).sum()

    def forward() -> None:
        with torch.no_grad():
            answer(x)

    def both() -> None:
        with torch.enable_grad():
            z = x.detach().clone().requires_grad_()
            torch.autograd.grad(answer(z), z)

    return _median(forward, x) / len(x), _median(both, x) / len(x)


def _median(work: Callable[[], None], x: Tensor) -> float:
    found = []
    for _ in range(TIMES + 1):
        began = time.perf_counter()
        work()
        if x.is_cuda:
            torch.cuda.synchronize(x.device)
        found.append(time.perf_counter() - began)
    return statistics.median(found[1:])


def overhead(accounts: Iterable[dict[str, float]]) -> float | None:
    """Seconds that attacks took in units of their bare passes; None where none was timed."""
    told = [one for one in accounts if BARE in one]
    return sum(one[SECONDS] for one in told) / sum(one[BARE] for one in told) if told else None
