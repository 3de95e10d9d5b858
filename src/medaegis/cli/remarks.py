"""What is odd about a whole screening: a share of rejected files far from the calibrated one, one diagnosis for all."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from medaegis.guard.looks import unfinished

if TYPE_CHECKING:
    from medaegis.guard.guard import Guard
    from medaegis.guard.screening import Screened

LEVEL = 0.01  # chance of a remark about files like those of the calibration, of each kind
MANY = 10  # files with one diagnosis that are remarked where no share of it is known


def remarks(guard: Guard, found: list[Screened]) -> list[str]:
    """Sentences for the end of a screening; none where it looks like the calibration and the guard is finished.

    One frame counts for each file, the first that the Shields judged: frames of a file are not independent.
    """
    first: dict[object, Screened] = {}
    for one in found:
        if one.finding is not None and one.finding.reason in ("accepted", "suspicious"):
            first.setdefault(one.path, one)
    accepted = [one.finding.label for one in first.values() if one.finding is not None and one.finding.accepted]
    doubts = unfinished(guard.training)
    told = [f"This guard is not finished: {'; '.join(doubts)}. Expect attacks to get past it."] if doubts else []
    return [*told, *_rate(guard.tnr, len(first) - len(accepted), len(first)), *_diagnosis(guard, accepted)]


def _rate(tnr: float, rejected: int, n: int) -> list[str]:
    expected = 1 - tnr
    if min(expected, tnr) ** n > LEVEL / 2:
        return []  # nothing would be odd yet
    from medaegis.bench.checks.exact import AtMost, at_least  # its library is slow to import

    more, fewer = AtMost(rejected, n, expected).p, at_least(rejected, n, expected).p
    p = min(1.0, 2 * min(more, fewer))
    if p > LEVEL:
        return []
    told = f"{rejected} of {n} files rejected, where {expected:.1%} were to be by the calibration"
    test = f"(exact binomial test, p = {p:.1g})"
    if more < fewer:
        why = "they may come from another site or device, have been exported in another way, or been tampered with"
    else:
        why = "they may be images that the guard was fitted on, or not like those that it was calibrated with"
    return [f"Odd: {told} {test}: {why}."]


def _diagnosis(guard: Guard, accepted: list[str | None]) -> list[str]:
    if len(accepted) < 2 or len(set(accepted)) > 1:
        return []
    label, n = accepted[0], len(accepted)
    counts: Counter[str] = Counter()
    for name, told in dict(guard.calibration.get("thresholds", {})).items():
        counts[name] = int(told["images"])
    share = counts[str(label)] / counts.total() if counts.total() else None
    if n < MANY if share is None else share**n > LEVEL:
        return []
    known = "" if share is None else f", which {share:.1%} had at the calibration (p = {share**n:.1g})"
    return [f"Odd: all {n} accepted files got the diagnosis {label}{known}."]
