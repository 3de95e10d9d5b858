"""The papers' own figures, and the experiments that come with the package, each a file beside its paper's figures."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from medaegis.errors import ConfigError
from medaegis.experiments.schema import AXES, Experiment

PAPERS = Path(__file__).parent / "papers"


@dataclass(frozen=True)
class Printed:
    """A figure as the paper prints it, with a note where it is doubtful, in conflict or inferred."""

    value: float
    note: str


@dataclass(frozen=True)
class PaperTable:
    """A table of a paper: axes -> names, metric -> figure; an axis that is empty in a row stands for all its names."""

    lines: tuple[tuple[Mapping[str, str], Printed], ...]

    @cached_property
    def _by_place(self) -> dict[tuple[tuple[str, str], ...], Printed]:
        return {tuple(sorted(place.items())): printed for place, printed in self.lines}

    @cached_property
    def _shapes(self) -> set[tuple[str, ...]]:
        """Which axes, with the metric, the rows name."""
        return {tuple(sorted(place)) for place, _ in self.lines}

    def of(self, place: Mapping[str, str], metric: str) -> Printed | None:
        """What the paper has at a place."""
        full = {**place, "metric": metric}
        for shape in self._shapes:
            if set(shape) <= set(full):
                printed = self._by_place.get(tuple((axis, full[axis]) for axis in shape))
                if printed is not None:
                    return printed
        return None


def read_paper(file: Path) -> PaperTable:
    """Read a CSV: columns are axes, `metric`, `value` and `note`, in any order.

    Raises:
        ConfigError: not to be read, or a column that is no axis.
    """
    try:
        with file.open(encoding="utf-8", newline="") as stream:
            rows = list(csv.DictReader(stream))
        lines = []
        for row in rows:
            printed = Printed(float(row.pop("value")), row.pop("note"))
            for column in row:
                if column not in (*AXES, "metric"):
                    raise ConfigError(file, f"column {column!r} is no axis", f"name one of {', '.join(AXES)}")
            lines.append(({axis: name for axis, name in row.items() if name}, printed))
    except (OSError, ValueError, KeyError) as error:
        remedy = "give columns of axes, metric, value, note"
        raise ConfigError(file, f"is no table of figures ({error})", remedy) from None
    return PaperTable(tuple(lines))


def presets() -> dict[str, Path]:
    """The experiments that come with the package, by name: `aegis-table3`."""
    return {f"{file.parent.name}-{file.stem}": file for file in sorted(PAPERS.glob("*/*.toml"))}


def find_file(name: str) -> tuple[str, Path]:
    """Name and file of an experiment: a preset's name, or a path.

    Raises:
        ConfigError: there is neither.
    """
    known = presets()
    if name in known:
        return name, known[name]
    file = Path(name)
    if file.suffix == ".toml" and file.is_file():
        return file.stem, file
    raise ConfigError(f"experiment {name!r}", "no such file or preset", f"name a .toml file, or {', '.join(known)}")


def paper_of(file: Path, experiment: Experiment) -> PaperTable:
    """The paper's figures that an experiment names; none where it names none."""
    return PaperTable(()) if experiment.figures is None else read_paper(file.parent / experiment.figures)
