"""Findings and masks in tables: how their figures are called, told and explained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from medaegis.bench.records.quality import LOST, SLIGHT, Mean, Quality
from medaegis.bench.report.markdown import table
from medaegis.bench.report.words import NOT_MEASURED, decimal, decimal_range
from medaegis.task import RIGHT_DICE, TaskName

LEADING: dict[TaskName, str] = {"single": "robust accuracy", "multi": "mean AUROC", "dense": "mean Dice"}
HEADS: dict[TaskName, list[str]] = {
    "single": [],
    "multi": ["mean AUROC", "findings right"],
    "dense": ["mean Dice", "mean IoU"],
}
_ALL = (
    "All chosen images are attacked, whatever of them is right; success, robust accuracy and medians are of those that "
    "were right from the start. In the worst case each figure takes of each image what the attack leaves that leaves "
    "least, or the image as it is"
)
_JUDGED = f"; a difference up to {SLIGHT:g} is none, and an image is lost above {LOST:g}."
HARM: dict[TaskName, str] = {
    "single": "",
    "multi": "In checks success on an image is 1 less the geometric mean of the chances that are given to what is true "
    f"of each finding{_JUDGED}",
    "dense": f"In checks success on an image is 1 - Dice{_JUDGED}",
}
ABOUT: dict[TaskName, str] = {
    "single": "",
    "multi": f"An image is right where every finding is. {_ALL}; the AUROC of a finding takes the logit that is "
    "farthest from right. Mean AUROC: over the findings that some images have and some have not. Findings right: the "
    f"mean share of an image's. Their intervals: 95 %, bootstrap by patient. {HARM['multi']}",
    "dense": f"A mask is right from a Dice of {RIGHT_DICE} on. {_ALL}. Dice is over the classes but the background, "
    "IoU over all; both are means over the images, with intervals of 95 %, bootstrap by patient. "
    f"{HARM['dense']}",
}


def leading(quality: Quality) -> Mean | None:
    """What is told first: the mean AUROC of findings, the mean Dice of masks."""
    return quality.auroc if quality.dice is None else quality.dice


def quality_cells(quality: Quality | None, *, bounds: bool = True) -> list[str]:
    """Its figures, with their intervals or without, as under `HEADS`; none where an image has one class."""
    if quality is None:
        return []
    pair = (quality.auroc, quality.right) if quality.dice is None else (quality.dice, quality.miou)
    return [told_mean(one, bounds=bounds) for one in pair]


def told_mean(found: Mean | None, *, bounds: bool = True) -> str:
    """As `0.812 (0.790–0.834)`, or without its interval."""
    if found is None:
        return NOT_MEASURED
    return decimal(found.value) + (f" ({decimal_range(found.interval)})" if bounds else "")


def findings_tables(columns: Mapping[str, Quality | None]) -> list[str]:
    """The AUROC of each finding, a column for each of these; nothing where there are no findings."""
    told = {name: quality.aurocs for name, quality in columns.items() if quality is not None and quality.aurocs}
    if not told:
        return []
    findings: Sequence[str] = list(next(iter(told.values())))
    rows = [[finding, *(decimal(areas[finding]) for areas in told.values())] for finding in findings]
    return ["AUROC of each finding, in the worst case.", table(["finding", *told], rows)]
