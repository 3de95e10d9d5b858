"""What an experiment comes down to: tasks, each named by the hash of all that its result depends on.

A task says what it is of (`told`, plain JSON values) and which others it needs; a change in the data, the code, the
settings or a task it needs gives it another name, so what is found under a name is never out of date.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, Literal

from medaegis.bench.plan import Planned
from medaegis.bench.store import code_fingerprint
from medaegis.images.datasets import Dataset
from medaegis.images.splits import Split

Kind = Literal["classifier", "guard", "attacked", "reading", "detector", "scores", "pushed", "checks", "figures"]

# Beside the rooms that every stored result depends on: what chooses images and calls them, and what makes figures.
_MAKES = ("bench/campaign.py", "bench/sample.py", "bench/scene.py", "experiments/work.py")
_COUNTS = ("bench/metrics.py", "bench/analyse/shifts.py", "experiments/figures.py")
_CHECKS = ("alarms.py", "classifier.py", "controls.py", "exact.py")  # of bench/checks


@dataclass(frozen=True, eq=False)
class Source:
    """Images and their split, of one data set and seed."""

    dataset: Dataset
    split: Split

    @cached_property
    def key(self) -> dict[str, Any]:
        """What names them, pixels included."""
        return {
            "cases": self.dataset.fingerprint,
            "pixels": self.dataset.pixel_fingerprint,
            "shape": list(self.dataset.images.shape),
            "parts": self.split.parts_fingerprint,
            "by": self.split.by,
        }

    @cached_property
    def name(self) -> str:
        """64 hex digits."""
        return hashlib.sha256(json.dumps(self.key, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, eq=False)
class Task:
    """One piece of work, done once for all that need it.

    Attributes:
        kind: what it makes.
        told: all that it depends on beside code and needs, plain JSON values.
        needs: what it is made from, by role.
        source: the images.
        device: kind of device it is made on.
        threads: of the processor; sums of gradients differ in their last bits between one and two.
    """

    kind: Kind
    told: Mapping[str, Any]
    needs: Mapping[str, Task]
    source: Source = field(repr=False)
    device: str = "cpu"
    threads: int = 1

    @cached_property
    def key(self) -> str:
        """32 hex digits."""
        more: tuple[str, ...] = (*_MAKES, *_COUNTS) if self.kind in ("figures", "pushed") else _MAKES
        more += tuple(f"bench/checks/{file}" for file in _CHECKS) if self.kind == "checks" else ()
        content = {
            "kind": self.kind,
            "told": self.told,
            "needs": {role: task.key for role, task in self.needs.items()},
            "data": self.source.key,
            "device": self.device,
            "threads": self.threads,
            "code": code_fingerprint(more=more),
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]

    @property
    def title(self) -> str:
        """What it is, in a few words: `classifier resnet18, pgd-at`, `attacked pgd, 8/255, behind jpeg:80`."""
        told = self.told
        words = [told.get("backbone"), told.get("robust", {}).get("robust"), told.get("detector")]
        words += [told.get("attack"), told.get("eps_text"), "to learn from" if told.get("part") == "learn" else None]
        words.append(f"behind {told['cushion']}" if told.get("cushion", "none") != "none" else None)
        return f"{self.kind} {', '.join(word for word in words if word)}".rstrip()


@dataclass(frozen=True)
class TableCell:
    """One cell of the table: its place, as names on axes, the settings it stands for, and the task of its figures."""

    place: Mapping[str, str]
    settings: Mapping[str, Any]
    task: Task | None = None

    @property
    def name(self) -> str:
        """Its place as text, the same for the same place."""
        return json.dumps(dict(sorted(self.place.items())), ensure_ascii=False)


def in_order(tasks: Iterable[Task], is_done: Any = lambda task: False) -> list[Task]:
    """These tasks and all that they need, each once, none before what it needs; what is done needs nothing."""
    found: dict[str, Task] = {}

    def visit(task: Task) -> None:
        if task.key in found or is_done(task):
            return
        for other in task.needs.values():
            visit(other)
        found[task.key] = task

    for task in tasks:
        visit(task)
    return list(found.values())


def everything(cells: Iterable[TableCell]) -> Iterator[Task]:
    """Every task of these cells, each once."""
    yield from in_order(cell.task for cell in cells if cell.task is not None)


def attack_of(task: Task) -> Planned:
    """Of the task of attacked images."""
    return Planned(**{name: task.told[name] for name in Planned.__dataclass_fields__})


def settings_of(task: Task) -> dict[str, Any]:
    """Of `TrainConfig`, in what a classifier's task is told."""
    return {name: value for name, value in task.told.items() if name not in ("given", "robust", "text")}


def as_told(value: Any) -> dict[str, Any]:
    """A dataclass as plain JSON values."""
    return dict(json.loads(json.dumps(asdict(value))))
