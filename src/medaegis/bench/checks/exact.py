"""Exact tests for checks that compare shares: what the images show, and whether they are enough to show anything.

A check claims something, such as "noise costs at most 5 points of acceptance". The null hypothesis is that the claim
holds. The check fails where that is rejected at `LEVEL`; it passes where it is not, and a miss by `MISS` would have
been found with a chance of at least `POWER` at the n there is; else it is not judged. Images are taken as independent.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.stats import beta, binom
from torch import Tensor

from medaegis.bench.records.evaluation import Control, Judged
from medaegis.bench.records.quality import SLIGHT

LEVEL = 0.05  # chance to fail a check whose claim only just holds; of several comparisons together (Bonferroni)
MISS = 0.30  # by so much must a claim be missed ...
POWER = 0.80  # ... to be found with this chance; where it is not, there are too few images
DOUBT = 0.001  # chance left to the discordance of pairs to lie outside its interval (Berger and Boos, 1994)
GRID = 33  # discordances looked at inside it

Counts = npt.NDArray[np.int64]


@dataclass(frozen=True)
class AtMost:
    """The claim that a share is at most `share`, with `hits` of n seen; exact binomial test."""

    hits: int
    n: int
    share: float
    name = "exact binomial test"

    @cached_property
    def p(self) -> float:
        return _tail(self.n, self.share, self.hits)

    def power(self, level: float) -> float:
        """Chance to be rejected at this level where the share is `MISS` above."""
        rejected = binom.sf(np.arange(-1, self.n + 1), self.n, self.share) <= level  # ends in "more than n", never seen
        return _tail(self.n, self.share + MISS, int(rejected.argmax()))


def at_least(hits: int, n: int, share: float) -> AtMost:
    """The claim that a share is at least `share`."""
    return AtMost(n - hits, n, 1 - share)


@dataclass(frozen=True)
class Gain:
    """The claim that of the same n images at most a share `margin` more are hit the one way than the other.

    With a margin of 0 the exact McNemar test: of the images hit only one way, half may be either. With a margin images
    are ordered by the score statistic (Tango, 1998), whose distribution depends on how many pairs differ: p is the
    largest over the upper 99.9 % interval of that share, plus 0.001, which keeps the level (Berger and Boos, 1994).

    Args:
        more, fewer: images hit only the one way, and only the other way.
    """

    more: int
    fewer: int
    n: int
    margin: float

    @property
    def name(self) -> str:
        return "exact McNemar test" if self.margin == 0 else f"exact paired test, margin {100 * self.margin:g} points"

    @cached_property
    def p(self) -> float:
        differing = self.more + self.fewer
        if self.margin == 0:
            return _tail(differing, 0.5, self.more)
        fewer = np.arange(self.n + 1)
        least = self._as_extreme(fewer)
        upper = beta.ppf(1 - DOUBT, differing + 1, self.n - differing) if differing < self.n else 1.0
        rates = np.linspace(self.margin, max(self.margin, upper), GRID)
        chances = []
        for more_rate, fewer_rate in zip((rates + self.margin) / 2, (rates - self.margin) / 2, strict=True):
            rest = min(1.0, more_rate / (1 - fewer_rate))
            chances.append(binom.pmf(fewer, self.n, fewer_rate) @ binom.sf(least - 1, self.n - fewer, rest))
        return min(1.0, DOUBT + float(max(chances)))

    def power(self, level: float) -> float:
        """Chance to be rejected at this level where one way hits `MISS` more than the margin, the other no others."""
        hits = range(self.n + 1)  # p falls as more are hit
        least = bisect_left(hits, True, key=lambda more: Gain(more, 0, self.n, self.margin).p <= level)
        return _tail(self.n, self.margin + MISS, least)

    def _as_extreme(self, fewer: Counts) -> Counts:
        """For each number of images hit only the other way, the least hit only this way that speaks as much against
        the claim; one too many where none does.
        """
        seen = self._score(np.array(self.more), np.array(self.fewer)) - 1e-9
        low, high = np.zeros_like(fewer), self.n - fewer + 1
        while (low < high).any():
            middle = (low + high) // 2
            enough = self._score(middle, fewer) >= seen
            low, high = np.where(enough | (low >= high), low, middle + 1), np.where(enough & (low < high), middle, high)
        return low

    def _score(self, more: Counts, fewer: Counts) -> npt.NDArray[np.float64]:
        """Difference beyond the margin in its deviations, by the likeliest rates with which the claim just holds."""
        m, n = self.margin, self.n
        half = more * (1 + m) + fewer * (1 - m) - 2 * n * m
        rate = (half + np.sqrt(half * half + 8 * n * fewer * m * (1 - m))) / (4 * n)
        deviation = np.sqrt(n * (2 * np.maximum(rate, 0) + m - m * m))
        return np.asarray((more - fewer - n * m) / deviation)


Claim = AtMost | Gain


def gain(one: Tensor, other: Tensor, margin: float) -> Gain:
    """Of hits `one` over hits `other` of the same images, both bool `(N,)`.

    Or of how far each image is harmed, from 0 to 1, where a difference of no more than `SLIGHT` is none.
    """
    ahead = one.float() - other.float()
    return Gain(int((ahead > SLIGHT).sum()), int((ahead < -SLIGHT).sum()), len(one), margin)


def judge(claims: Sequence[Claim]) -> tuple[bool | None, Judged]:
    """Whether all claims stand (None: too few images to tell), and by which test.

    Several are tested together at `LEVEL`: the smallest p, times their number (Bonferroni).
    """
    weakest = min(claims, key=lambda claim: claim.p)
    p = min(1.0, len(claims) * weakest.p)
    told = Judged(test=weakest.name, n=min(claim.n for claim in claims), p=p, level=LEVEL, comparisons=len(claims))
    if p <= LEVEL:
        return False, told
    enough = all(claim.power(LEVEL / len(claims)) >= POWER for claim in claims)
    return (True if enough else None), told


def check(claims: Sequence[Claim], *, kind: Literal["control", "alarm"] = "control", **told: str) -> Control:
    """What comes of these claims (`judge`) as a row; `told`: its words, as the fields of `Control` have them."""
    passed, judged = judge(claims)
    return Control(kind=kind, **told, passed=passed, judged=judged)


def shown(hits: Tensor) -> str:
    """A share of images, or the mean of how far each is harmed."""
    return f"{float(hits.float().mean()):.1%}"


def _tail(n: int, share: float, least: int) -> float:
    """Chance of `least` or more of n."""
    return float(binom.sf(least - 1, n, min(1.0, share)))
