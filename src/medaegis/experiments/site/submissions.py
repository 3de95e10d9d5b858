"""Entries of the site: folders that `medaegis evaluate`, `assess` or `analyse` wrote, handed in by whomever.

Nothing in them is trusted: records are checked, pages are made anew from them, and what does not fit is told.
"""

from __future__ import annotations

import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path

from medaegis.bench.analyse.page import rewrite_page
from medaegis.bench.analyse.record import Analysis
from medaegis.bench.records.archive import UNFINISHED, read_evaluation
from medaegis.bench.records.assessment import Assessment, read_assessment
from medaegis.bench.records.evaluation import Evaluation
from medaegis.bench.report.report import write_report
from medaegis.bench.report.robustness import robustness_figure
from medaegis.bench.report.verdict import write_verdict
from medaegis.errors import ArtefactError, ConfigError, DataError, MedaegisError
from medaegis.experiments.site.files import site_environment, slug

RECORDS = {"evaluation.json": "guard", "assessment.json": "classifier", "analysis.json": "analysis"}
MOST_BYTES = 2**30  # of a file in an entry


@dataclass(frozen=True)
class Submission:
    """One folder that fits.

    Attributes:
        name: of the folder; pages: in the site, that of the report first, of a guard the verdict second.
    """

    name: str
    pages: tuple[str, ...]
    record: Evaluation | Assessment | Analysis


@dataclass(frozen=True)
class Refused:
    """One folder that does not, and why."""

    name: str
    problem: str


def read_submissions(folder: Path) -> tuple[list[Submission], list[Refused], dict[str, bytes]]:
    """Every folder in a folder, in the order of their names, and the pages of those that fit, by their paths.

    Files beside them, and what begins with a dot, are passed over.

    Raises:
        ConfigError: the folder cannot be listed.
    """
    try:
        children = sorted(child for child in folder.iterdir() if child.is_dir() and not child.name.startswith("."))
    except OSError as error:
        raise ConfigError(f"--entries {folder}", f"cannot be listed ({error.strerror})", "name a folder") from None
    found: list[Submission] = []
    refused: list[Refused] = []
    pages: dict[str, bytes] = {}
    for child in children:
        name = child.name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
        try:
            record, made = _read(child, name)
        except MedaegisError as error:
            file = "" if Path(error.source) == child else f"{Path(error.source).name}: "
            refused.append(Refused(name, (file + error.problem).replace(f"{child}/", "")))
        except Exception as error:  # a record may fit field by field and still be none that pages can be made of
            refused.append(Refused(name, f"no page can be made of it ({type(error).__name__})"))
        else:
            mine = {f"entries/{slug(child.name)}/{file}": data for file, data in made.items()}
            pages |= mine
            found.append(Submission(name, tuple(page for page in mine if page.endswith(".html")), record))
    return found, refused, pages


def _read(folder: Path, name: str) -> tuple[Evaluation | Assessment | Analysis, dict[str, bytes]]:
    """The record of an entry, and its pages, that of the report first."""
    kinds = [kind for file, kind in RECORDS.items() if (folder / file).exists()]
    if (folder / UNFINISHED).exists():
        kinds = ["guard"]
    if len(kinds) != 1:
        problem = f"holds {len(kinds) or 'none'} of {', '.join(RECORDS)}"
        raise DataError(folder, problem, "hand in a folder that `medaegis evaluate`, `assess` or `analyse` wrote")
    for file in folder.iterdir():
        about = file.lstat()
        if not stat.S_ISDIR(about.st_mode) and (not stat.S_ISREG(about.st_mode) or about.st_size > MOST_BYTES):
            raise ArtefactError(file, "is a link, no regular file, or too large", "hand in plain files")
    with tempfile.TemporaryDirectory() as scratch:
        there = Path(scratch)
        if kinds == ["guard"]:
            evaluation = read_evaluation(folder).evaluation
            made = [write_report(folder, there / "report.html"), write_verdict(folder, there / "verdict.html")]
            return evaluation, {page.name: page.read_bytes() for page in made}
        if kinds == ["analysis"]:
            page = there / "analysis.html"
            return rewrite_page(folder, page), {page.name: page.read_bytes()}
    assessment = read_assessment(folder)
    figure = robustness_figure(assessment).svg
    text = site_environment().get_template("assessment.html.j2").render(name=name, found=assessment, root="../../")
    return assessment, {"assessment.html": text.encode(), "robust-accuracy.svg": figure}
