"""The leaderboard: guards by what gets past them, classifiers by what stays right, each in the worst case: robust
accuracy, of findings the mean AUROC, of masks the mean Dice.

Only entries on the same images stand in one table, and only at an eps that they were all measured at; those whose
controls failed stand below, without a rank.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from medaegis.bench.records.assessment import Assessment, Standing
from medaegis.bench.records.evaluation import Bounds, Control, DataFacts, Evaluation
from medaegis.bench.report.quality import leading
from medaegis.bench.report.summary import summarise
from medaegis.experiments.site.submissions import Submission
from medaegis.sizes import told_size
from medaegis.task import TaskName

WANTED = 8 / 256


@dataclass(frozen=True)
class Rated:
    """A share or mean in the worst case at one eps: what gets past a guard, or what a classifier tells rightly; before:
    the same without the guard, or of the classifier before any attack."""

    eps: float
    eps_text: str
    share: float
    interval: Bounds | None
    n: int
    before: float | None


@dataclass(frozen=True)
class BoardLine:
    """One entry of a table.

    Attributes:
        rank: from 1, the same for the same share; None where it has none, and why.
        pages: as in `Submission`; what: network, size and Cushion.
        rated: None where it was not measured at the eps of the table.
        accepted: of a guard, the share of clean images that it accepts.
        controls: what came of controls and alarms, in words; attacks: that were run.
    """

    rank: int | None
    why: str
    name: str
    pages: tuple[str, ...]
    what: str
    rated: Rated | None
    accepted: float | None
    accepted_interval: Bounds | None
    controls: str
    attacks: str


@dataclass(frozen=True)
class Board:
    """One table: guards or classifiers on one data set, ranked ones first; task: what its images are labelled with."""

    kind: str
    data: str
    task: TaskName
    eps_text: str | None
    all_have_it: bool
    lines: tuple[BoardLine, ...]

    @property
    def ranked(self) -> tuple[BoardLine, ...]:
        """Those with a rank, in its order."""
        return tuple(line for line in self.lines if line.rank is not None)

    @property
    def below(self) -> tuple[BoardLine, ...]:
        """Those without."""
        return tuple(line for line in self.lines if line.rank is None)


def boards(submissions: Sequence[Submission]) -> list[Board]:
    """A table for guards and one for classifiers for each data set, in the order of their first entries."""
    groups: dict[tuple[str, str, TaskName], list[Submission]] = {}
    for one in submissions:
        if isinstance(one.record, Evaluation | Assessment):
            kind = "guards" if isinstance(one.record, Evaluation) else "classifiers"
            task: TaskName = "single" if isinstance(one.record, Evaluation) else one.record.task
            groups.setdefault((kind, data_in_words(one.record.data), task), []).append(one)
    return [
        _board(kind, data, task, some)
        for (kind, data, task), some in sorted(groups.items(), key=lambda item: item[0][0] != "guards")
    ]


def data_in_words(data: DataFacts) -> str:
    """What tells data sets apart: a record says how many images of each class there were, and not which."""
    counts = ", ".join(f"{count} {name}" for name, count in data.counts.items())
    return f"{data.spec}, {data.n} images of {data.split} split by {data.split_by} ({counts})"


def _board(kind: str, data: str, task: TaskName, submissions: Sequence[Submission]) -> Board:
    doubts = {one.pages: _doubt(one) for one in submissions}
    rated = {one.pages: _rated(one) for one in submissions}
    sound = [one for one in submissions if not doubts[one.pages]]
    eps = _common_eps([rated[one.pages] for one in sound or submissions])  # no rank: what can be shown side by side
    at = {pages: next((r for r in found if r.eps == eps), None) for pages, found in rated.items()}
    best_first = 1 if kind == "guards" else -1
    shares = sorted(best_first * there.share for one in sound if (there := at[one.pages]) is not None)
    lines = []
    for one in submissions:
        mine, why = at[one.pages], doubts[one.pages]
        if not why and mine is None:
            why = "Not measured at this eps."
        rank = None if why or mine is None else 1 + shares.index(best_first * mine.share)
        lines.append(_line(one, rank, why, mine))
    lines.sort(key=lambda line: (line.rank is None, line.rank or 0, line.name))
    texts = [there.eps_text for there in at.values() if there is not None]
    all_have_it = all(at[one.pages] for one in sound or submissions)
    return Board(kind, data, task, texts[0] if texts else None, all_have_it, tuple(lines))


def _common_eps(found: Sequence[Sequence[Rated]]) -> float | None:
    """The eps that most entries have; of several the one nearest to 8/256, of two as near the larger."""
    times = Counter(eps for rated in found for eps in {one.eps for one in rated})
    return max(times, key=lambda eps: (times[eps], -abs(eps - WANTED), eps), default=None)


def _rated(one: Submission) -> list[Rated]:
    """Its worst cases in L-infinity, by eps."""
    record = one.record
    if isinstance(record, Evaluation):
        return [
            Rated(row.eps, row.eps_text, row.undetected, row.undetected_interval, row.n, row.unguarded)
            for row in record.worst_case
            if row.norm == "Linf" and row.undetected is not None and row.n
        ]
    if isinstance(record, Assessment):
        before, found = _told(record.clean), [(row, _told(row)) for row in record.worst_case if row.norm == "Linf"]
        clean = before[0] if before else None
        return [Rated(row.eps, row.eps_text, *told, clean) for row, told in found if told]
    return []


def _told(standing: Standing) -> tuple[float, Bounds | None, int] | None:
    """What a classifier stands by, its interval, and of how many images."""
    if standing.quality is None:
        right = standing.accuracy
        return None if right.share is None else (right.share, right.interval, right.n)
    found = leading(standing.quality)
    return None if found is None else (found.value, found.interval, found.n)


def _doubt(one: Submission) -> str:
    """Why its figures cannot be ranked: for a guard what its report says; empty where they can."""
    record = one.record
    if isinstance(record, Evaluation):
        summary = summarise(record)
        if summary.tone == "doubt":
            return summary.headline
    if isinstance(record, Evaluation | Assessment):
        failed = [control.name for control in record.controls if control.passed is False]
        if failed:
            return f"Failed: {'; '.join(failed)}."
        if not any(control.passed for control in record.controls):
            return "No control or alarm shows that the attacks were working."
    return ""


def _line(one: Submission, rank: int | None, why: str, rated: Rated | None) -> BoardLine:
    record = one.record
    if isinstance(record, Evaluation):
        guard, clean = record.guard, record.clean
        what = f"{guard.backbone}, {told_size(guard.size)}, Cushion {guard.cushion}"
        accepted, bounds = clean.tnr_reached, clean.intervals.get("tnr_reached")
        attacks = [cell.attack for cell in record.cells]
    else:
        assert isinstance(record, Assessment), "nothing else stands on a board"
        what = f"{record.backbone}, {told_size(record.size)}, Cushion {record.cushion}"
        accepted, bounds = None, None
        attacks = [tried.attack for tried in record.attacks]
    controls, told = _controls(record.controls), ", ".join(dict.fromkeys(attacks))
    return BoardLine(rank, why, one.name, one.pages, what, rated, accepted, bounds, controls, told)


def _controls(controls: Sequence[Control]) -> str:
    counts = Counter(control.passed for control in controls)
    words = ((True, "passed"), (False, "failed"), (None, "not judged"))
    return ", ".join(f"{counts[passed]} {word}" for passed, word in words if counts[passed]) or "none was run"
