"""A comparison of detectors on disk: the definition of comparison.json, and the same figures as Markdown tables."""

from __future__ import annotations

from typing import Literal

from medaegis.bench.records.evaluation import Amount, Bounds, Count, Measured, Model, Share
from medaegis.bench.report.markdown import table
from medaegis.bench.report.words import NOT_MEASURED, decimal, decimal_range, duration, percent
from medaegis.sizes import told_size
from medaegis.validation import PictureSize


class Attacked(Model):
    """One attack behind one Cushion: share of the n test images whose diagnosis it turns, and what it cost."""

    cushion: str
    attack: str
    title: str
    n: Count
    success: Share
    seconds: Amount


class Separation(Model):
    """Clean test images beside n attacked ones. tpr90: share of the attacked scored above 90 % of the clean images."""

    n: Count
    auroc: Share
    auroc_interval: Bounds
    tpr90: Share


class DetectorResult(Separation):
    """One detector against one attack: over all attacked images, and over those whose diagnosis it turned, if any.

    seconds: to fit, and to score the clean and attacked test images.
    """

    cushion: str
    detector: str
    title: str
    attack: str
    fooling: Separation | None
    fit_seconds: Amount
    score_seconds: Amount


class Comparison(Measured):
    """The whole of comparison.json."""

    format: Literal["medaegis-comparison"] = "medaegis-comparison"
    version: Literal[2] = 2
    data: str
    backbone: str
    size: PictureSize
    eps: str
    steps: Count | None
    taps: list[str]
    learned_from: str
    learned: Count
    tested: Count
    attacks: list[Attacked]
    rows: list[DetectorResult]


def markdown(found: Comparison) -> str:
    """What was measured, how, and the tables, one per Cushion."""
    steps = "their own steps" if found.steps is None else f"{found.steps} steps"
    parts = [
        f"Measured on {found.created:%Y-%m-%d} by `{found.command}`, commit {found.commit or 'unknown'}, seed "
        f"{found.seed}, on {found.machine.get('cpu')} ({found.machine.get('cores')} cores). Data: {found.data}, "
        f"{found.tested} images of adv_test attacked within {found.eps}, {steps}; detectors learned from "
        f"{found.learned} images of adv_train and {found.learned_from}. Classifier: {found.backbone}, "
        f"{told_size(found.size)}, features of {', '.join(found.taps)}. Only images that are diagnosed rightly. AUROC "
        "with its 95 % interval / TPR at 90 % TNR, over all attacked images and over those that fool the classifier."
    ]
    for spec in dict.fromkeys(row.cushion for row in found.rows):
        attacked = [attack for attack in found.attacks if attack.cushion == spec]
        pairs = [(f"{a.attack} (fools {percent(a.success)})", f"{a.attack}, those that fool") for a in attacked]
        heads = ["detector", *(head for pair in pairs for head in pair), "fit", "score"]
        lines = []
        for name in dict.fromkeys(row.detector for row in found.rows):
            mine = {row.attack: row for row in found.rows if (row.cushion, row.detector) == (spec, name)}
            first = next(iter(mine.values()))
            shown = [_words(part) for a in attacked for part in (mine[a.attack], mine[a.attack].fooling)]
            lines.append([name, *shown, duration(first.fit_seconds), duration(first.score_seconds)])
        parts.append(f"Cushion: {spec}\n\n{table(heads, lines)}")
    return "\n\n".join(parts) + "\n"


def _words(part: Separation | None) -> str:
    if part is None:
        return NOT_MEASURED
    return f"{decimal(part.auroc)} ({decimal_range(part.auroc_interval)}) / {percent(part.tpr90)}"
