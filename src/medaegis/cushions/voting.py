"""A vote over many draws of a random Cushion: what most of them say is the diagnosis (MedRDF, Xu 2022; Cohen 2019)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from medaegis.cushions.base import Cushion
from medaegis.cushions.random import Drawable, Numbered


class Voting(Numbered):
    """A random Cushion of which so many draws are judged, and the majority counts (`Victim.vote`).

    A look is at one draw, as before any random Cushion, so that attacks average over them as they do there.

    Args:
        votes: draws for each verdict.
        inner: the random Cushion.
    """

    def __init__(self, votes: int, inner: Drawable) -> None:
        super().__init__(f"vote:{votes}:{inner.spec}")
        self.votes, self.inner = votes, inner

    def draw(self, seed: int, stream: str, ids: Sequence[int]) -> Cushion:
        return _Ballots(self.spec, self.votes, lambda vote: self.inner.draw(seed, f"{stream}/vote/{vote}", ids))

    def _probe(self) -> str:
        return self.inner._probe()


class _Ballots(Cushion):
    """The draws for one batch, made as they are asked for; a look is at the first."""

    def __init__(self, spec: str, votes: int, cast: Callable[[int], Cushion]) -> None:
        super().__init__(spec)
        self.votes, self._cast = votes, cast

    def ballots(self) -> Iterator[Cushion]:
        return map(self._cast, range(self.votes))

    def _cushion(self, pixels: Tensor) -> Tensor:
        return self._cast(0)._cushion(pixels)

    def _twin(self, x: Tensor) -> Tensor:
        return self._cast(0).twin(x)


def vote_shares(logits: Tensor) -> Tensor:
    """What share of the votes each class has, `(N, K)`, of logits `(V, N, K)`.

    One vote more is cast by the mean probability of all, so that it decides where two classes have as many, and no
    share is 0.

    >>> logits = torch.tensor([[[2.0, 0.0]], [[2.0, 0.0]], [[0.0, 1.0]]])
    >>> vote_shares(logits).round(decimals=3)
    tensor([[0.6690, 0.3310]])
    """
    counts = F.one_hot(logits.argmax(2), logits.shape[2]).sum(0)
    shares: Tensor = (counts + logits.softmax(2).mean(0)) / (len(logits) + 1)
    return shares.clamp_min(torch.finfo(shares.dtype).tiny)  # a probability may have come to 0
