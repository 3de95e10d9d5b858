"""A comparison of detectors on disk: the definition of comparison.json, and the same figures as Markdown tables."""

from __future__ import annotations

from typing import Literal

from medaegis.bench.markdown import table
from medaegis.bench.schema import Amount, Bounds, Count, Measured, Model, Share
from medaegis.bench.words import decimal, decimal_range, duration, percent


class Attacked(Model):
    """One attack behind one Cushion: share of the n test images whose diagnosis it turns, and what it cost."""

    cushion: str
    attack: str
    title: str
    n: Count
    success: Share
    seconds: Amount


class Row(Model):
    """One detector against one attack. tpr90: share of attacked images scored above 90 % of the clean test images.

    seconds: to fit, and to score the clean and attacked test images.
    """

    cushion: str
    detector: str
    title: str
    attack: str
    auroc: Share
    auroc_interval: Bounds
    tpr90: Share
    fit_seconds: Amount
    score_seconds: Amount


class Comparison(Measured):
    """The whole of comparison.json."""

    format: Literal["medaegis-comparison"] = "medaegis-comparison"
    version: Literal[1] = 1
    data: str
    backbone: str
    size: Count
    eps: str
    steps: Count | None
    taps: list[str]
    learned_from: str
    learned: Count
    tested: Count
    attacks: list[Attacked]
    rows: list[Row]


def markdown(found: Comparison) -> str:
    """What was measured, how, and the tables, one per Cushion."""
    steps = "their own steps" if found.steps is None else f"{found.steps} steps"
    parts = [
        f"Measured on {found.created:%Y-%m-%d} by `{found.command}`, commit {found.commit or 'unknown'}, seed "
        f"{found.seed}, on {found.machine.get('cpu')} ({found.machine.get('cores')} cores). Data: {found.data}, "
        f"{found.tested} images of adv_test attacked within {found.eps}, {steps}; detectors learned from "
        f"{found.learned} images of adv_train and {found.learned_from}. Classifier: {found.backbone}, {found.size} px, "
        f"features of {', '.join(found.taps)}. Only images that "
        "are diagnosed rightly. AUROC with its 95 % interval / TPR at 90 % TNR."
    ]
    for spec in dict.fromkeys(row.cushion for row in found.rows):
        attacked = [attack for attack in found.attacks if attack.cushion == spec]
        heads = ["detector", *(f"{a.attack} (fools {percent(a.success)})" for a in attacked), "fit", "score"]
        lines = []
        for name in dict.fromkeys(row.detector for row in found.rows):
            mine = {row.attack: row for row in found.rows if (row.cushion, row.detector) == (spec, name)}
            first = next(iter(mine.values()))
            shown = [
                f"{decimal(row.auroc)} ({decimal_range(row.auroc_interval)}) / {percent(row.tpr90)}"
                for row in (mine[a.attack] for a in attacked)
            ]
            lines.append([name, *shown, duration(first.fit_seconds), duration(first.score_seconds)])
        parts.append(f"Cushion: {spec}\n\n{table(heads, lines)}")
    return "\n\n".join(parts) + "\n"
