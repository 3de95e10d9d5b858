"""The site: its pages from a store and from entries, put in the place of an earlier one."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment

from medaegis.bench.analyse.record import Analysis
from medaegis.errors import ConfigError
from medaegis.experiments.paper import paper_of, presets
from medaegis.experiments.schema import AXES, read_experiment
from medaegis.experiments.site.board import boards
from medaegis.experiments.site.chapter import Chapter, page_name, share_of_time
from medaegis.experiments.site.curves import IN_WORDS, curves
from medaegis.experiments.site.files import STYLE, replace_site, site_environment, style
from medaegis.experiments.site.heat import heat_maps
from medaegis.experiments.site.submissions import Refused, Submission, read_submissions
from medaegis.experiments.store import ExperimentStore, Found, Use
from medaegis.experiments.tables import RAW, current


@dataclass(frozen=True)
class Written:
    """What came of a site.

    Attributes:
        pages: how many were written; cells: how many of them are of a cell.
        refused: entries that are left out.
        unnamed: experiments and scales in the store whose files nobody named.
    """

    pages: int
    cells: int
    refused: tuple[Refused, ...]
    unnamed: tuple[tuple[str, str], ...]


def write_site(
    store: ExperimentStore, out: Path, *, files: Sequence[tuple[str, Path]] = (), entries: Path | None = None
) -> Written:
    """Write every page, or none.

    Args:
        out: a folder that is empty, holds an earlier site, or is not there.
        files: names and files of experiments; none: every preset of which the store holds a cell.
        entries: a folder of entries.

    Raises:
        ConfigError: an experiment of which the store holds nothing, or entries that cannot be listed.
        ArtefactError: `out` holds something else, or the disk refuses.
    """
    chapters, unnamed = _chapters(store, files)
    submissions, refused, pages = ([], [], {}) if entries is None else read_submissions(entries)
    environment = site_environment()
    made: dict[str, bytes] = {STYLE: style(), **pages}
    for chapter in chapters:
        made |= _chapter_pages(environment, chapter)
    made |= _front(environment, chapters, submissions, refused, unnamed)
    replace_site(out, made)
    count = sum(name.endswith(".html") for name in made)
    return Written(count, sum(len(chapter.found) for chapter in chapters), tuple(refused), tuple(unnamed))


def _chapters(store: ExperimentStore, files: Sequence[tuple[str, Path]]) -> tuple[list[Chapter], list[tuple[str, str]]]:
    """Every named experiment at every scale that the store holds, and what it holds beside them."""
    held = store.experiments()
    for name, file in files:
        if name not in {there for there, _ in held}:
            raise ConfigError(store.folder, f"holds no cell of {name} ({file})", "run it first, or leave it out")
    known, made = dict(files) or presets(), []
    for name in (name for name in known if name in {there for there, _ in held}):
        for scale in (scale for there, scale in held if there == name):
            experiment = read_experiment(known[name], scale)
            paper, found = paper_of(known[name], experiment), store.cells(name, scale)
            checks = store.checks(name, scale, current(experiment, found))
            made.append(Chapter(name, scale, experiment, paper, found, store.uses(name, scale), checks))
    return made, [(name, scale) for name, scale in held if name not in known]


def _front(
    environment: Environment,
    chapters: Sequence[Chapter],
    submissions: Sequence[Submission],
    refused: Sequence[Refused],
    unnamed: Sequence[tuple[str, str]],
) -> dict[str, bytes]:
    """The first page and the leaderboard."""
    told = {
        "chapters": chapters,
        "boards": boards(submissions),
        "analyses": [one for one in submissions if isinstance(one.record, Analysis)],
        "refused": refused,
        "unnamed": unnamed,
        "root": "",
    }
    return {
        f"{name}.html": environment.get_template(f"{name}.html.j2").render(**told).encode()
        for name in ("index", "leaderboard")
    }


def _chapter_pages(environment: Environment, chapter: Chapter) -> dict[str, bytes]:
    """The page of an experiment, its figures, and a page for each cell."""
    drawn = curves(chapter)
    told: dict[str, Any] = {"chapter": chapter, "root": "../"}
    varying = chapter.varying
    cells = [_cell_line(chapter, place, there, varying) for place, there in chapter.found.items()]
    page = environment.get_template("experiment.html.j2").render(
        **told, heat=heat_maps(chapter), in_words=IN_WORDS, curves=drawn, kinds=_kinds(chapter.tasks), cells=cells
    )
    made = {"index.html": page.encode(), **{one.file: one.svg for one in drawn}}
    template = environment.get_template("cell.html.j2")
    for line, there in zip(cells, chapter.found.values(), strict=True):
        settings = {name: _told(value) for name, value in there.settings.items() if value is not None}
        text = template.render(
            **told, line=line, there=there, settings=settings, uses=chapter.uses.get(there.key, []), raw=RAW
        )
        made[line.page] = text.encode()
    return {f"{chapter.folder}/{name}": data for name, data in made.items()}


@dataclass(frozen=True)
class CellLine:
    """A finished cell in a list.

    Attributes:
        title: its names on the axes that vary; place: axes -> names, without empty ones.
        current: whether it was measured under the settings of the file.
        seconds: its share of what its tasks took.
    """

    page: str
    title: str
    place: Mapping[str, str]
    figures: int
    current: bool
    created: str
    seconds: float | None


def _cell_line(chapter: Chapter, place: str, there: Found, varying: set[str]) -> CellLine:
    told = json.loads(place)
    names = {axis: told[axis] for axis in AXES if told.get(axis)}
    title = ", ".join(f"seed {name}" if axis == "seed" else name for axis, name in names.items() if axis in varying)
    return CellLine(
        page=page_name(place),
        title=title or chapter.name,
        place=names,
        figures=len(there.figures),
        current=chapter.is_current(place),
        created=there.about["created"][:10],
        seconds=share_of_time(chapter.uses.get(there.key, ())),
    )


def _kinds(tasks: Sequence[Use]) -> list[tuple[str, int, float]]:
    """Kind of task -> how many there were, and seconds that they took."""
    found: dict[str, list[float]] = {}
    for task in tasks:
        found.setdefault(task.kind, []).append(task.known_seconds)
    return [(kind, len(seconds), sum(seconds)) for kind, seconds in found.items()]


def _told(value: object) -> str:
    """A setting as one reads it, without what is not set."""
    if isinstance(value, dict):
        value = {name: one for name, one in value.items() if one is not None}
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
