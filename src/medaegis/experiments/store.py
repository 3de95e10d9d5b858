"""What is finished: a checked folder for every task, named by its key, and an SQLite index of cells and figures.

A folder is written beside its place, put on the disk and renamed, so it is there whole or not at all; each vouches for
its own bytes. The index (WAL: one writer, many readers) is what tables are made of; it can be made again from the
folders by running again, which computes nothing but the figures.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from pydantic import ValidationError

from medaegis.artefact import check_target, read_folder, write_folder
from medaegis.artefact_files import MANIFEST
from medaegis.bench.records.evaluation import Control
from medaegis.bench.store import Piece
from medaegis.errors import ArtefactError, ConfigError
from medaegis.experiments.figures import Figure
from medaegis.experiments.tasks import Task

INDEX = "index.sqlite"
KIND = "piece"
VERSION = 1
_MAGIC = 0x6D656461  # "meda": says in the file whose it is
_TABLES = """
CREATE TABLE made (key TEXT PRIMARY KEY, kind TEXT NOT NULL, seconds REAL NOT NULL, at TEXT NOT NULL);
CREATE TABLE figures (
    key TEXT NOT NULL, metric TEXT NOT NULL, value REAL NOT NULL, low REAL, high REAL, n INTEGER NOT NULL,
    PRIMARY KEY (key, metric)
);
CREATE TABLE cells (
    experiment TEXT NOT NULL, scale TEXT NOT NULL, place TEXT NOT NULL, key TEXT NOT NULL, settings TEXT NOT NULL,
    about TEXT NOT NULL, PRIMARY KEY (experiment, scale, place)
);
"""
# Which tasks the figures under a key came from; of stores made before this was noted, once they are run again.
_USES = "CREATE TABLE IF NOT EXISTS uses (key TEXT, task TEXT, title TEXT NOT NULL, PRIMARY KEY (key, task))"


@dataclass(frozen=True)
class Found:
    """A finished cell: the settings it was measured under, how it came about (see `provenance`), its figures, and the
    key of the task that counted them."""

    settings: Mapping[str, Any]
    about: Mapping[str, Any]
    figures: tuple[Figure, ...]
    key: str


@dataclass(frozen=True)
class Use:
    """A task that figures came from.

    Attributes:
        seconds: it took; at: when it was done. None where it was not done into this store.
        users: how many keys of finished figures, that stand in a cell of this store, came from it.
    """

    key: str
    title: str
    seconds: float | None
    at: str | None
    users: int

    @property
    def kind(self) -> str:
        """Of the task."""
        return self.title.partition(" ")[0]

    @property
    def known_seconds(self) -> float:
        """For sums: 0 where nothing is known."""
        return self.seconds or 0.0


class Pieces:
    """Folders of what tasks gave, named by their keys.

    Args:
        root: the folder that holds them.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def folder_of(self, task: Task) -> Path:
        """Where what it gave lies, or is to be written by what makes it."""
        return self.root / task.key

    def tensors(self, task: Task) -> Piece:
        """What a finished task gave, every byte checked.

        Raises:
            ArtefactError: it is damaged; nothing else is, and it is made anew once its folder is gone.
        """
        try:
            return read_folder(self.folder_of(task), kind=KIND).tensors(KIND)
        except ArtefactError as error:
            remedy = f"delete {self.folder_of(task)} and run again: only that is made anew, and what it is needed for"
            raise ArtefactError(error.source, error.problem, remedy) from None

    def keep(self, task: Task, tensors: Piece, checks: Sequence[Control] = ()) -> None:
        """Write what a task gave.

        Raises:
            ArtefactError: the disk refuses.
        """
        told: dict[str, Any] = {"task": {"kind": task.kind, "told": dict(task.told)}}
        if checks:
            told["checks"] = [check.model_dump(mode="json") for check in checks]
        write_folder(self.folder_of(task), kind=KIND, manifest=told, tensors={KIND: tensors})


class ExperimentStore(Pieces):
    """A folder of finished work.

    Args:
        folder: made if it is not there and is to be written.
        write: whether to write; only one process may at a time.

    Raises:
        ConfigError: there is no store to read, or another process writes to it.
        ArtefactError: the index is damaged or foreign, or nothing can be written there.
    """

    def __init__(self, folder: Path, *, write: bool = False) -> None:
        super().__init__(folder / "pieces")
        file = folder / INDEX
        if not write and not file.is_file():
            raise ConfigError(folder, "holds no experiments", "name the folder that `bench run --store` wrote")
        self.folder, self._lock = folder, _locked(folder) if write else None
        try:
            if write:
                for begun in self.root.glob(".*.new-*"):  # of a write that a kill cut off
                    shutil.rmtree(begun)
                for unfinished in self.root.glob("*.*"):  # chunks and checkpoints of what was done when a kill came
                    if (unfinished.with_suffix("") / MANIFEST).is_file():
                        shutil.rmtree(unfinished)
            with self._told():
                where = f"{file.absolute().as_uri()}?mode={'rwc' if write else 'ro'}"
                self._index = sqlite3.connect(where, uri=True, timeout=30)
                self._check(write)
        except BaseException:
            if self._lock is not None:
                self._lock.close()
            raise

    def close(self) -> None:
        """Let go of the index, and of the right to write."""
        self._index.close()
        if self._lock is not None:
            self._lock.close()

    def __enter__(self) -> ExperimentStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ---- tasks

    def has(self, task: Task) -> bool:
        """Whether it is finished."""
        if task.kind == "figures":
            return bool(self._rows("SELECT 1 FROM figures WHERE key = ? LIMIT 1", task.key))
        return (self.folder_of(task) / MANIFEST).is_file()

    def put(
        self,
        task: Task,
        tensors: Piece | None,
        figures: Sequence[Figure],
        checks: Sequence[Control] = (),
        *,
        seconds: float,
        at: str,
    ) -> None:
        """Keep what a task gave, and note that it is done.

        Args:
            tensors: None where it wrote its folder itself.
            seconds: it took; at: when it was done.

        Raises:
            ArtefactError: the disk refuses; what was finished before is untouched.
        """
        if tensors is not None:
            self.keep(task, tensors, checks)
        with self._told(), self._index:
            self._index.executemany(
                "INSERT OR REPLACE INTO figures VALUES (?, ?, ?, ?, ?, ?)", [(task.key, *one) for one in figures]
            )
            self._index.execute("INSERT OR REPLACE INTO made VALUES (?, ?, ?, ?)", (task.key, task.kind, seconds, at))

    def spent(self) -> dict[str, tuple[int, float]]:
        """Of everything in the store, by kind: how many tasks were done, and seconds that they took."""
        rows = self._rows("SELECT kind, COUNT(*), SUM(seconds) FROM made GROUP BY kind ORDER BY MIN(rowid)")
        return {kind: (count, seconds) for kind, count, seconds in rows}

    def figures_of(self, tasks: Iterable[Task]) -> dict[str, dict[str, float]]:
        """Figures of tasks that are noted as done, by key and metric."""
        found: dict[str, dict[str, float]] = {}
        for task in tasks:
            rows = self._rows("SELECT metric, value FROM figures WHERE key = ?", task.key)
            found[task.key] = {str(metric): float(value) for metric, value in rows}
        return found

    # ---- cells

    def tell(
        self,
        experiment: str,
        scale: str,
        places: Mapping[str, tuple[str, Mapping[str, Any]]],
        about: Mapping[str, Any],
        uses: Iterable[tuple[str, str, str]] = (),
    ) -> None:
        """Say which figures stand where: place -> key of the task, and settings. Those that stand stay as they are.

        Args:
            uses: key of figures, key and title of a task that they come from.
        """
        rows = [
            (experiment, scale, place, key, json.dumps(settings, sort_keys=True), json.dumps(about))
            for place, (key, settings) in places.items()
        ]
        keep = "ON CONFLICT DO UPDATE SET key = excluded.key, settings = excluded.settings, about = excluded.about"
        with self._told(), self._index:
            self._index.executemany(
                f"INSERT INTO cells VALUES (?, ?, ?, ?, ?, ?) {keep} WHERE cells.key <> excluded.key", rows
            )
            self._index.executemany("INSERT OR IGNORE INTO uses VALUES (?, ?, ?)", uses)

    def cells(self, experiment: str, scale: str) -> dict[str, Found]:
        """Finished cells of an experiment at a scale, by place."""
        figures: dict[str, list[Figure]] = {}
        asked = "SELECT key FROM cells WHERE experiment = ? AND scale = ?"
        order = "ORDER BY key, figures.rowid"
        for key, *told in self._rows(f"SELECT * FROM figures WHERE key IN ({asked}) {order}", experiment, scale):
            figures.setdefault(key, []).append(Figure(*told))
        query = "SELECT place, key, settings, about FROM cells WHERE experiment = ? AND scale = ? ORDER BY rowid"
        return {
            place: Found(json.loads(settings), json.loads(about), tuple(figures[key]), key)
            for place, key, settings, about in self._rows(query, experiment, scale)
            if key in figures
        }

    def checks(self, experiment: str, scale: str, cells: Mapping[str, Found]) -> list[tuple[list[str], list[Control]]]:
        """Of these finished cells the places, and the controls and alarms beside them.

        Raises:
            ArtefactError: their record is damaged.
        """
        uses = self.uses(experiment, scale)
        places: dict[str, list[str]] = {}
        for place, there in cells.items():
            for use in uses.get(there.key, ()):
                if use.kind == "checks" and (self.root / use.key / MANIFEST).is_file():
                    places.setdefault(use.key, []).append(place)
        return [(some, _controls(self.root / key)) for key, some in places.items()]

    def experiments(self) -> list[tuple[str, str]]:
        """Name and scale of every experiment that has a finished cell, in the order they were begun."""
        query = (
            "SELECT experiment, scale FROM cells WHERE key IN (SELECT key FROM figures) "
            "GROUP BY experiment, scale ORDER BY MIN(rowid)"
        )
        return [(name, scale) for name, scale in self._rows(query)]

    def uses(self, experiment: str, scale: str) -> dict[str, list[Use]]:
        """Key of a cell's figures -> the tasks that they came from, none before those that it needs."""
        if not self._rows("SELECT 1 FROM sqlite_master WHERE name = 'uses'"):
            return {}
        finished = "key IN (SELECT key FROM cells) AND key IN (SELECT key FROM figures)"
        users = dict(self._rows(f"SELECT task, COUNT(*) FROM uses WHERE {finished} GROUP BY task"))
        query = (
            "SELECT uses.key, task, title, seconds, at FROM uses LEFT JOIN made ON made.key = task WHERE uses.key IN "
            "(SELECT key FROM cells WHERE experiment = ? AND scale = ?) ORDER BY uses.rowid"
        )
        found: dict[str, list[Use]] = {}
        for key, task, title, seconds, at in self._rows(query, experiment, scale):
            found.setdefault(key, []).append(Use(task, title, seconds, at, users.get(task, 0)))
        return found

    # ---- the index

    def _rows(self, query: str, *given: object) -> list[tuple[Any, ...]]:
        with self._told():
            return list(self._index.execute(query, given))

    def _check(self, write: bool) -> None:
        """Make the tables of a new index; refuse one that is damaged, foreign or of another version."""
        (magic,) = self._index.execute("PRAGMA application_id").fetchone()
        (version,) = self._index.execute("PRAGMA user_version").fetchone()
        if write and not self._index.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone():
            self._index.execute("PRAGMA journal_mode = WAL")
            self._index.executescript(
                f"BEGIN; PRAGMA application_id = {_MAGIC}; PRAGMA user_version = {VERSION}; {_TABLES} COMMIT;"
            )
        elif magic != _MAGIC or version != VERSION:
            remedy = "name another folder for --store"
            raise ArtefactError(self.folder / INDEX, "is the index of something else, or of another version", remedy)
        (found,) = self._index.execute("PRAGMA quick_check(1)").fetchone()
        if found != "ok":
            raise sqlite3.DatabaseError(found)
        if write:
            self._index.execute("PRAGMA synchronous = FULL")
            self._index.execute(_USES)

    @contextmanager
    def _told(self) -> Iterator[None]:
        """What goes wrong with the index, as what a person can act on."""
        try:
            yield
        except sqlite3.OperationalError as error:
            remedy = "check the disk's space and who uses it"
            raise ArtefactError(self.folder / INDEX, f"cannot be used ({error})", remedy) from error
        except sqlite3.DatabaseError as error:
            remedy = (
                f"move it and its -wal and -shm away and run again: the figures are counted anew from {self.folder}"
            )
            raise ArtefactError(self.folder / INDEX, f"is damaged ({error})", remedy) from error


def _controls(folder: Path) -> list[Control]:
    told = read_folder(folder, kind=KIND).manifest.get("checks", [])
    try:
        return [Control.model_validate(one) for one in told]
    except (ValidationError, TypeError):
        raise ArtefactError(folder, "its record of checks is none", "delete it and run again") from None


def _locked(folder: Path) -> IO[str]:
    """The right to write, held until it is closed or its process ends."""
    check_target(folder / "pieces" / "any", kind=KIND)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = open(folder / "lock", "a+", encoding="utf-8")  # noqa: SIM115 -- held as long as the store is
    except OSError as error:
        problem = f"nothing can be written there ({error.strerror})"
        raise ArtefactError(folder, problem, "name another --store") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.seek(0)
        who = lock.read().strip() or "unknown"
        lock.close()
        raise ConfigError(folder, f"process {who} writes to it", "wait for it, or name another --store") from None
    lock.truncate(0)
    lock.write(str(os.getpid()))
    lock.flush()
    return lock
