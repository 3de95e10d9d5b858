"""What a store holds of one experiment at one scale, and where its cells stand in the site."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from medaegis.bench.records.evaluation import Control
from medaegis.experiments.cells import cells_of
from medaegis.experiments.paper import PaperTable
from medaegis.experiments.schema import Experiment
from medaegis.experiments.site.files import short_hash, slug
from medaegis.experiments.store import Found, Use
from medaegis.experiments.tables import Entry, TablePage, entries, page_of
from medaegis.experiments.tasks import TableCell


@dataclass(frozen=True)
class Chapter:
    """One experiment at one scale.

    Attributes:
        found: its finished cells, by place.
        uses: key of a cell's figures -> the tasks that they came from.
        checks: places of cells, and the controls and alarms beside them.
    """

    name: str
    scale: str
    experiment: Experiment
    paper: PaperTable
    found: Mapping[str, Found]
    uses: Mapping[str, Sequence[Use]]
    checks: Sequence[tuple[Sequence[str], Sequence[Control]]] = ()

    @property
    def folder(self) -> str:
        """Of its pages in the site."""
        return slug(f"{self.name}-{self.scale}")

    @cached_property
    def settings(self) -> Mapping[str, Mapping[str, object]]:
        """Those of every cell as the file says now, by place."""
        return {cell.name: cell.settings for cell in cells_of(self.experiment)}

    @cached_property
    def made(self) -> list[Entry]:
        """The figures of its table."""
        return entries(self.experiment, self.paper, self.found)

    @cached_property
    def table(self) -> TablePage:
        """The paper's table with ours."""
        about = [there.about for there in self.found.values()]
        return page_of(self.experiment, self.name, self.scale, self.made, about, self.checks)

    @property
    def measured(self) -> int:
        """Cells that are measured under the settings of the file."""
        return sum(map(self.is_current, self.found))

    @property
    def last(self) -> str:
        """The day of the newest cell."""
        return max((there.about["created"][:10] for there in self.found.values()), default="")

    @property
    def varying(self) -> set[str]:
        """Axes on which its cells, finished or not, have more than one name."""
        names: dict[str, set[str]] = {}
        for place in {**self.settings, **self.found}:
            for axis, name in json.loads(place).items():
                names.setdefault(axis, set()).add(name)
        return {axis for axis, some in names.items() if len(some) > 1}

    def is_current(self, place: str) -> bool:
        """Whether a finished cell was measured under the settings of the file."""
        return self.settings.get(place) == self.found[place].settings

    def links(self, entry: Entry) -> list[tuple[str, str]]:
        """Seed and page of every cell that a figure of the table comes from."""
        found = []
        for seed in map(str, self.experiment.seeds):
            place = TableCell({**entry.place, "seed": seed}, {}).name
            there = self.found.get(place)
            if there and self.is_current(place) and any(one.metric == entry.metric for one in there.figures):
                found.append((seed, page_name(place)))
        return found

    @cached_property
    def tasks(self) -> list[Use]:
        """Every task that its cells came from, each once."""
        keys = {there.key for there in self.found.values()}
        return list({use.key: use for key, uses in self.uses.items() if key in keys for use in uses}.values())


def page_name(place: str) -> str:
    """The page of a cell, in the folder of its chapter."""
    return f"cell-{short_hash(place, 12)}.html"


def share_of_time(uses: Sequence[Use]) -> float | None:
    """Seconds of a cell's tasks, each divided by how many figures in the store came from it; None if unknown."""
    if not uses or any(use.seconds is None for use in uses):
        return None
    return sum(use.known_seconds / use.users for use in uses)
