"""Fair timing on a machine that is not quiet: all cases in turn, many rounds, medians, and ratios within a round.

Whatever slows the machine down for a while then slows every case alike, and a ratio of two cases of the same round
does not see it.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

Seconds = dict[str, list[float]]


@dataclass(frozen=True)
class Case:
    """One thing to time.

    Attributes:
        name: what the tables call it.
        run: the work.
        work: how many units (images, image-steps, files) one run does.
        warm: run once before any clock starts; None: `run` itself.
    """

    name: str
    run: Callable[[], object]
    work: float = 1.0
    warm: Callable[[], object] | None = None


@dataclass(frozen=True)
class Ratio:
    """Median over the rounds, and the smallest and largest."""

    median: float
    low: float
    high: float


def interleave(
    cases: Sequence[Case],
    *,
    rounds: int,
    budget: float,
    clock: Callable[[], float] = time.perf_counter,
    after_round: Callable[[Seconds], None] | None = None,
) -> Seconds:
    """Seconds of every case in every round.

    Each round runs every case once and starts one case further on than the round before, so that none always follows
    the same neighbour.

    Args:
        cases: with different names.
        rounds: at most so many.
        budget: seconds; no round is begun that would not fit if it took as long as the longest so far. The first
            round always runs.
        clock: to read the time.
        after_round: told all seconds so far.
    """
    if len({case.name for case in cases}) != len(cases):
        raise ValueError("two cases have the same name")
    for case in cases:
        (case.warm or case.run)()
    seconds: Seconds = {case.name: [] for case in cases}
    begun, longest = clock(), 0.0
    for turn in range(rounds):
        if turn and clock() - begun + longest > budget:
            break
        round_begun = clock()
        shift = turn % len(cases)
        for case in (*cases[shift:], *cases[:shift]):
            started = clock()
            case.run()
            seconds[case.name].append(clock() - started)
        longest = max(longest, clock() - round_begun)
        if after_round is not None:
            after_round(seconds)
    return seconds


def ratio(seconds: Mapping[str, Sequence[float]], over: str, under: str, *, scale: float = 1.0) -> Ratio:
    """`scale` times the seconds of case `over` by those of case `under`, round by round."""
    each = [scale * a / b for a, b in zip(seconds[over], seconds[under], strict=True)]
    return Ratio(statistics.median(each), min(each), max(each))
