"""Curves of an experiment over the size of the change, with intervals, and the paper's figures as crosses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes

from medaegis.attacks.balls import parse_eps
from medaegis.bench.report import plots
from medaegis.bench.report.words import shortened
from medaegis.experiments.schema import AXES
from medaegis.experiments.site.chapter import Chapter
from medaegis.experiments.tables import Entry

DRAWN = {
    "detection": "auc",
    "classification": "accuracy",
    "findings": "auc",
    "segmentation": "dice",
    "features": "change_pct",
    "shift": "cosine_reference",
}
IN_WORDS = {
    "auc": "AUROC",
    "accuracy": "accuracy",
    "dice": "Dice",
    "change_pct": "change of the mean",
    "cosine_weights": "cosine with the weights",
    "cosine_reference": "cosine with the shift of the reference attack",
}
LIMITS = {"auc": (0.0, 102.0), "accuracy": (-2.0, 102.0), "dice": (-2.0, 102.0), "cosine_reference": (-102.0, 102.0)}
PANELS, ACROSS = 6, 3  # of one figure


@dataclass(frozen=True)
class Curves:
    """A figure: its file in the folder of the chapter, an SVG, and what it shows in words."""

    file: str
    svg: bytes
    words: str


def curves(chapter: Chapter) -> list[Curves]:
    """Figures of up to six panels, a line for each value of the axis that has most; none if eps has one value, or times
    are measured."""
    metric = DRAWN.get(chapter.experiment.measures)
    if metric is None:
        return []
    sizes = {name: parse_eps(text, rounds=False) for name, text in chapter.experiment.eps.items()}
    mine = [entry for entry in chapter.made if entry.metric == metric and entry.place.get("eps") in sizes]
    points = [entry for entry in mine if entry.value is not None or entry.printed is not None]
    axes = {axis: tuple(dict.fromkeys(entry.place[axis] for entry in points if entry.place.get(axis))) for axis in AXES}
    if len(axes.pop("eps")) < 2:
        return []
    varying = [axis for axis in axes if len(axes[axis]) > 1]
    line = max(reversed(varying), key=lambda axis: len(axes[axis]), default="attack")
    panels: dict[str, list[Entry]] = {}
    for entry in points:
        title = ", ".join(filter(None, (entry.place.get(axis) for axis in varying if axis != line)))
        panels.setdefault(title, []).append(entry)
    titles, made = list(panels), []
    for k in range(0, len(titles), PANELS):
        some = {title: panels[title] for title in titles[k : k + PANELS]}
        crosses = " Crosses: the paper's." if any(e.printed for part in some.values() for e in part) else ""
        words = (
            f"{IN_WORDS[metric]} in % over eps, a line per {line}: {', '.join(axes[line])}. Shaded: 95 % intervals."
            f"{crosses} The numbers are in the table."
        )
        svg = _drawn(some, line, axes[line], metric, sizes)
        made.append(Curves(f"curves-{k // PANELS + 1}.svg", svg, words))
    return made


def _drawn(
    panels: dict[str, list[Entry]], line: str, names: Sequence[str], metric: str, sizes: dict[str, float]
) -> bytes:
    across = min(ACROSS, len(panels))
    down = -(-len(panels) // across)
    rows_of_legend = (len(names) + 2) // 3
    width, height = max(5.0, plots.WIDTH * across / ACROSS), 2.6 * down + 0.2 + 0.18 * rows_of_legend
    with plots.styled_figure(width, height) as drawn:
        grid = drawn.subplots(down, across, squeeze=False, sharey=True).ravel()
        for axes, (title, entries) in zip(grid, panels.items(), strict=False):
            placed = sorted([(sizes[entry.place["eps"]], entry) for entry in entries], key=lambda pair: pair[0])
            for k, name in enumerate(names):
                mine = [(eps, entry) for eps, entry in placed if entry.place.get(line, name) == name]
                _line(axes, mine, shortened(name, 44), plots.look_of(k))
            plots.eps_axis(axes, sorted({(eps, entry.place["eps"]) for eps, entry in placed}))
            axes.set_title(shortened(title, 40))
            axes.set_ylabel(f"{shortened(IN_WORDS[metric], 24)}, %")
            axes.label_outer()
            if metric in LIMITS:
                axes.set_ylim(*LIMITS[metric])
        for axes in grid[len(panels) :]:
            axes.set_axis_off()
        plots.legend(drawn, *grid[: len(panels)])
        return plots.svg_bytes(drawn)


def _line(axes: Axes, entries: Sequence[tuple[float, Entry]], label: str, look: plots.Look) -> None:
    """Ours with intervals, and the paper's; each entry with its eps."""
    plots.curve(axes, [(eps, one.value) for eps, one in entries if one.value is not None], look, label)
    bounds = [(eps, one.low, one.high) for eps, one in entries if one.low is not None and one.high is not None]
    plots.band(axes, bounds, look[0], alpha=0.12)
    theirs = [(eps, one.printed.value) for eps, one in entries if one.printed is not None]
    if theirs:
        axes.plot(*plots.columns(theirs), color=look[0], linestyle="", marker="x", markersize=6, markeredgewidth=1.4)
