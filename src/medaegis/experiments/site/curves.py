"""Curves of an experiment over the size of the change, with intervals, and the paper's figures as crosses."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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
    points = [
        entry
        for entry in chapter.made
        if entry.metric == metric
        and (entry.value is not None or entry.printed is not None)
        and entry.place.get("eps") in sizes
    ]
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
    looks = dict(zip(names, (*plots.LOOKS, *[plots.PLAIN] * len(names)), strict=False))
    across = min(ACROSS, len(panels))
    down = -(-len(panels) // across)
    rows_of_legend = (len(names) + 2) // 3
    with plots.styled_figure(
        max(5.0, plots.WIDTH * across / ACROSS), 2.6 * down + 0.2 + 0.18 * rows_of_legend
    ) as drawn:
        grid = drawn.subplots(down, across, squeeze=False, sharey=True).ravel()
        for axes, (title, entries) in zip(grid, panels.items(), strict=False):
            for name in names:
                mine = sorted(
                    (entry for entry in entries if entry.place.get(line, name) == name),
                    key=lambda entry: sizes[entry.place["eps"]],
                )
                _line(axes, mine, name, looks[name], sizes)
            plots.eps_axis(axes, _ticks(entries, sizes))
            axes.set_title(shortened(title, 40))
            axes.set_ylabel(f"{shortened(IN_WORDS[metric], 24)}, %")
            axes.label_outer()
            if metric in LIMITS:
                axes.set_ylim(*LIMITS[metric])
        for axes in grid[len(panels) :]:
            axes.set_axis_off()
        plots.legend(drawn, *grid[: len(panels)])
        return plots.svg_bytes(drawn)


def _line(axes: Axes, entries: Sequence[Entry], name: str, look: tuple[str, str, str], sizes: dict[str, float]) -> None:
    colour, style, marker = look
    ours = list(_points(entries, sizes))
    axes.plot(
        *plots.columns([(eps, value) for eps, value, _, _ in ours]),
        color=colour,
        linestyle=style,
        marker=marker,
        markersize=3.5,
        linewidth=1.3,
        label=shortened(name, 44),
    )
    band = [(eps, low, high) for eps, _, low, high in ours if low is not None and high is not None]
    if band:
        where, lows, highs = plots.columns(band)
        axes.fill_between(where, lows, highs, color=colour, alpha=0.12, linewidth=0)
    theirs = [(sizes[entry.place["eps"]], entry.printed.value) for entry in entries if entry.printed is not None]
    if theirs:
        axes.plot(*plots.columns(theirs), color=colour, linestyle="", marker="x", markersize=6, markeredgewidth=1.4)


def _ticks(entries: Sequence[Entry], sizes: dict[str, float]) -> list[tuple[float, str]]:
    return sorted({(sizes[name], name) for name in (entry.place["eps"] for entry in entries)})


def _points(
    entries: Sequence[Entry], sizes: dict[str, float]
) -> Iterator[tuple[float, float, float | None, float | None]]:
    for entry in entries:
        if entry.value is not None:
            yield sizes[entry.place["eps"]], entry.value, entry.low, entry.high
