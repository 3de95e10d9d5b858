"""Heat maps of an experiment: a table of numbers for each pair of axes, coloured by what stands in its cells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from medaegis.experiments.schema import AXES
from medaegis.experiments.site.chapter import Chapter
from medaegis.experiments.site.files import LEVELS
from medaegis.experiments.tables import Entry

# Figures that are coloured, with the ends of their scale in per cent.
COLOURED = {
    "auc": (0.0, 100.0),
    "accuracy": (0.0, 100.0),
    "cosine_weights": (-100.0, 100.0),
    "cosine_reference": (-100.0, 100.0),
}
_FIRST = (("defence", "attack"), ("learned_from", "attack"), ("attack", "reference"), ("attack", "eps"))


@dataclass(frozen=True)
class HeatCell:
    """One number: as text, its colour from 0 to `LEVELS` - 1, and the page of its cell, that of the first seed."""

    text: str
    level: int
    href: str


@dataclass(frozen=True)
class HeatGroup:
    """The rows at one combination of all other axes, as `(name, cells)`; None where there is no figure."""

    name: str
    rows: tuple[tuple[str, tuple[HeatCell | None, ...]], ...]


@dataclass(frozen=True)
class HeatMap:
    """One metric over two axes.

    Attributes:
        low, high: ends of the scale, in per cent.
    """

    metric: str
    down: str
    across: str
    columns: tuple[str, ...]
    groups: tuple[HeatGroup, ...]
    low: float
    high: float


def heat_maps(chapter: Chapter) -> list[HeatMap]:
    """One for each metric with a scale and each pair of axes that vary independently, none with the same rows twice.

    Axes that follow from the pair, as the eps that an attack has of its own, are told nowhere; all others make groups.
    """
    found: list[HeatMap] = []
    for metric, (low, high) in COLOURED.items():
        entries = [one for one in chapter.made if one.metric == metric and one.value is not None]
        axes = [axis for axis in AXES if len(_names(entries, axis)) > 1]
        pairs = sorted(combinations(axes, 2), key=lambda pair: _FIRST.index(pair) if pair in _FIRST else len(_FIRST))
        for down, across in pairs:
            rest = [axis for axis in axes if _is_free(entries, axis, (down, across))]
            columns = _names(entries, across)
            grouped: dict[tuple[str, ...], list[Entry]] = {}
            for entry in entries:
                grouped.setdefault(tuple(entry.place.get(axis, "") for axis in rest), []).append(entry)
            if any(_has_square(some, down, across) for some in grouped.values()):
                groups = tuple(_group(chapter, place, some, down, across, columns) for place, some in grouped.items())
                if not any(other.metric == metric and _same_cells(groups, other.groups) for other in found):
                    found.append(HeatMap(metric, down, across, columns, groups, low, high))
    return found


def _names(entries: Sequence[Entry], axis: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for entry in entries if (name := entry.place.get(axis))))


def _is_free(entries: Sequence[Entry], axis: str, pair: tuple[str, str]) -> bool:
    """Whether an axis has several values at one place of a pair of others."""
    values: dict[tuple[str | None, ...], set[str | None]] = {}
    for entry in entries:
        values.setdefault(tuple(map(entry.place.get, pair)), set()).add(entry.place.get(axis))
    return axis not in pair and any(len(some) > 1 for some in values.values())


def _has_square(entries: Sequence[Entry], down: str, across: str) -> bool:
    """Whether two values of one axis have two values of the other in common."""
    rows: dict[str | None, set[str | None]] = {}
    for entry in entries:
        rows.setdefault(entry.place.get(down), set()).add(entry.place.get(across))
    return any(len(one & other) > 1 for one, other in combinations(rows.values(), 2))


def _same_cells(one: Sequence[HeatGroup], other: Sequence[HeatGroup]) -> bool:
    mine, theirs = ([[cells for _, cells in group.rows] for group in some] for some in (one, other))
    return mine == theirs


def _group(
    chapter: Chapter, place: Sequence[str], entries: Sequence[Entry], down: str, across: str, columns: Sequence[str]
) -> HeatGroup:
    places = {(entry.place.get(down), entry.place.get(across)): entry for entry in entries}
    rows = tuple(
        (row, tuple(_cell(chapter, places.get((row, column))) for column in columns)) for row in _names(entries, down)
    )
    return HeatGroup(", ".join(filter(None, place)), rows)


def _cell(chapter: Chapter, entry: Entry | None) -> HeatCell | None:
    if entry is None or entry.value is None:
        return None
    text = f"{entry.value:.1f}".replace("-", "−")
    return HeatCell(text, level_of(entry.metric, entry.value), chapter.links(entry)[0][1])


def level_of(metric: str, value: float) -> int:
    """Which of the colours a value in per cent has.

    >>> [level_of("cosine_weights", value) for value in (-100, 0, 50, 100)]
    [0, 5, 8, 10]
    """
    low, high = COLOURED[metric]
    return round((LEVELS - 1) * (value - low) / (high - low))
