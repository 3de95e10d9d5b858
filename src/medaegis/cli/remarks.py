"""What is odd about a whole screening: a share of rejected files far from the calibrated one, one diagnosis for all."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from medaegis.guard.looks import unfinished

if TYPE_CHECKING:
    from pathlib import Path

    from medaegis.guard.finding import Finding
    from medaegis.guard.guard import Guard
    from medaegis.guard.screening import Screened

LEVEL = 0.01  # chance of a remark about files like those of the calibration, of each kind
MANY = 10  # files with one diagnosis that are remarked where no share of it is known


@dataclass(frozen=True)
class Acceptance:
    """How many files the Shields judged and accepted, beside the share that the calibration promises.

    One frame counts for each file, the first that was judged: frames of a file are not independent. Blank and failed
    pictures do not count, nor do those of a kind that the guard is not for.
    """

    judged: int
    accepted: int
    expected: float

    @cached_property
    def p(self) -> float:
        """Of the exact binomial test, two-sided: twice the smaller tail."""
        from medaegis.bench.checks.exact import AtMost, at_least  # its library is slow to import

        seen = self.accepted, self.judged, self.expected
        return min(1.0, 2 * min(AtMost(*seen).p, at_least(*seen).p))

    @property
    def odd(self) -> bool:
        """Whether it is not as calibrated, at `LEVEL`."""
        possible = min(self.expected, 1 - self.expected) ** self.judged <= LEVEL / 2
        return possible and self.p <= LEVEL


def acceptance(guard: Guard, found: list[Screened]) -> Acceptance:
    """What a whole screening is tested by."""
    accepted = [one.accepted for one in _first(found).values()]
    return Acceptance(len(accepted), sum(accepted), guard.tnr)


def remarks(guard: Guard, found: list[Screened]) -> list[str]:
    """Sentences for the end of a screening; none where it looks like the calibration and the guard is finished."""
    labels = [one.label for one in _first(found).values() if one.accepted and one.label is not None]
    doubts = unfinished(guard.training)
    told = [f"This guard is not finished: {'; '.join(doubts)}. Expect attacks to get past it."] if doubts else []
    return [*told, *_rate(acceptance(guard, found)), *_diagnosis(guard, labels)]


def summary(guard: Guard, found: list[Screened]) -> dict[str, Any]:
    """The whole screening for programs: how many of each status, the test of acceptance, and every remark."""
    tested = acceptance(guard, found)
    return {
        "guard": guard.digest,
        "images": len(found),
        "files": len({one.path for one in found}),
        "status": dict(Counter(one.status for one in found)),
        "acceptance": {
            "judged": tested.judged,
            "accepted": tested.accepted,
            "expected": tested.expected,
            "test": "exact binomial test, two-sided",
            "p": tested.p if tested.judged else None,
            "level": LEVEL,
            "odd": tested.odd,
        },
        "remarks": remarks(guard, found),
    }


def _first(found: list[Screened]) -> dict[Path, Finding]:
    """Of each file the finding that counts."""
    first: dict[Path, Finding] = {}
    for one in found:
        if one.finding is not None and one.finding.reason in ("accepted", "suspicious") and one.other_kind is None:
            first.setdefault(one.path, one.finding)
    return first


def _rate(found: Acceptance) -> list[str]:
    if not found.odd:
        return []
    rejected, expected = found.judged - found.accepted, 1 - found.expected
    told = f"{rejected} of {found.judged} files rejected, where {expected:.1%} were to be by the calibration"
    test = f"(exact binomial test, p = {found.p:.1g}, odd at {LEVEL:g} or below)"
    if rejected > expected * found.judged:
        why = "they may come from another site or device, have been exported in another way, or been tampered with"
    else:
        why = "they may be images that the guard was fitted on, or not like those that it was calibrated with"
    return [f"Odd: {told} {test}: {why}."]


def _diagnosis(guard: Guard, accepted: list[str]) -> list[str]:
    if len(accepted) < 2 or len(set(accepted)) > 1:
        return []
    label, n = accepted[0], len(accepted)
    thresholds = guard.calibration.get("thresholds", {})
    counts = Counter({name: int(told["images"]) for name, told in thresholds.items()})
    share = counts[label] / counts.total() if counts.total() else None
    if n < MANY if share is None else share**n > LEVEL:
        return []
    known = "" if share is None else f", which {share:.1%} had at the calibration (p = {share**n:.1g})"
    return [f"Odd: all {n} accepted files got the diagnosis {label}{known}."]
