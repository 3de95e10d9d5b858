"""Figures of the report: success and detection over eps, ROC curves, score histograms.

Every figure is an SVG data URI with nothing outside it. Colours are Okabe and Ito's, told apart by line and marker too.
Names come from outside, so matplotlib's own formulas in dollar signs are off.
"""

from __future__ import annotations

import base64
import io
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator, PercentFormatter

from medaegis.bench.metrics import roc_curve
from medaegis.bench.records.evaluation import Cell, WorstCase
from medaegis.bench.report.words import eps_name, gradient_name, shortened

Array = npt.NDArray[Any]
Look = tuple[str, str, str]
"""Colour, line and marker."""

LOOKS = (
    ("#0072B2", "-", "o"),
    ("#D55E00", "-", "s"),
    ("#009E73", "-", "^"),
    ("#CC79A7", "-", "D"),
    ("#56B4E9", "--", "v"),
    ("#E69F00", "--", "P"),
    ("#7A4B2A", "--", "X"),
    ("#0072B2", ":", "<"),
    ("#D55E00", ":", ">"),
    ("#009E73", ":", "p"),
)
PLAIN = ("#9AA5B1", "-", ".")
INK, MUTED, LINE = "#1B2530", "#5B6874", "#D9DFE5"
WORST, THICK = (INK, "-", "o"), {"markersize": 4.5, "linewidth": 2.2}  # of the worst case
CLEAN, ATTACKED = "#0072B2", "#D55E00"
WIDTH = 9.2
STYLE: Any = {
    "text.parse_math": False,
    "font.family": ["DejaVu Sans"],
    "font.size": 8,
    "axes.titlesize": 8.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 8,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": LINE,
    "grid.linewidth": 0.5,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "legend.frameon": False,
    "legend.fontsize": 7.5,
    "svg.fonttype": "path",
    "svg.hashsalt": "medaegis",
}


@dataclass(frozen=True)
class Series:
    """The cells of one attack with one way through the Cushion, under one name and look."""

    name: str
    look: Look
    cells: tuple[Cell, ...]

    def strongest(self) -> list[Cell]:
        """At each eps the cell that gets most through (over steps and restarts), by growing eps."""
        best: dict[float, Cell] = {}
        for cell in self.cells:
            if cell.eps not in best or harm(cell) > harm(best[cell.eps]):
                best[cell.eps] = cell
        return [best[eps] for eps in sorted(best)]


def harm(cell: Cell) -> tuple[float, float]:
    """How strong a cell's attack is: undetected success first, then how little the Shield tells apart."""
    return (-1.0 if cell.undetected is None else cell.undetected, 0.0 if cell.auroc is None else -cell.auroc)


def series_of(cells: Sequence[Cell]) -> list[Series]:
    """Groups cells by attack, norm and gradient, in the order they came."""
    groups: dict[tuple[str, str, str | None], list[Cell]] = {}
    for cell in cells:
        groups.setdefault((cell.attack, cell.norm, cell.gradient), []).append(cell)
    gradients: dict[str, set[str | None]] = {}
    for attack, _, gradient in groups:
        gradients.setdefault(attack, set()).update({gradient} - {None})
    made = []
    for k, ((attack, norm, gradient), members) in enumerate(groups.items()):
        name = members[0].title
        if len(gradients[attack]) > 1 and gradient:
            name = f"{name}, {gradient_name(gradient)}"
        if norm == "L2" and "L2" not in name:
            name = f"{name}, L2"
        made.append(Series(name, look_of(k), tuple(members)))
    return made


def look_of(k: int) -> Look:
    """The look of line k of a figure; beyond `LOOKS` all are plain."""
    return LOOKS[k] if k < len(LOOKS) else PLAIN


def eps_figure(series: Sequence[Series], worst: Sequence[WorstCase]) -> str:
    """Success, AUROC by the wanted class's Shield, undetected success over eps, a line per attack."""
    with styled_figure(WIDTH, 3.15 + 0.17 * ((len(series) + 3) // 3)) as figure:
        panels = figure.subplots(1, 3)
        fields = ("success", "auroc_wanted", "undetected")
        titles = ("Fools the classifier", "AUROC, wanted class", "Undetected success")
        for axes, field, title, hint in zip(
            panels, fields, titles, ("behind the Cushion", "1 = tells all apart", "what gets through"), strict=True
        ):
            for one in series:
                points = [(cell.eps, value) for cell in one.strongest() if (value := getattr(cell, field)) is not None]
                curve(axes, points, one.look, shortened(one.name, 44))
            if field == "undetected":
                undetected_curve(axes, worst, WORST, "Worst case over all attacks", alpha=0.10, **THICK)
            eps_axis(axes, [(c.eps, eps_name(c.eps_text, "Linf")) for s in series for c in s.cells])
            axes.set(title=title, ylabel=hint, ylim=(-0.02, 1.02))
            if field != "auroc_wanted":
                percent_axis(axes)
        legend(figure, panels[2])
        return svg(figure)


def roc_figure(series: Sequence[Series], scores: Mapping[str, Array], tnr: float) -> str:
    """ROC curves, a panel per eps: clean against attacked images withheld; dashed = the TNR asked for."""
    panels: dict[tuple[str, float], list[tuple[Series, Cell]]] = {}
    for one in series:
        for cell in one.strongest():
            if cell.n and len(scores["clean"]):
                panels.setdefault((cell.norm, cell.eps), []).append((one, cell))
    across = min(4, max(2, len(panels)))
    down = -(-len(panels) // across)
    with styled_figure(WIDTH, 2.5 * down + 0.3 + 0.17 * ((len(series) + 2) // 3)) as figure:
        grid = figure.subplots(down, across, squeeze=False, sharex=True, sharey=True).ravel()
        for axes, key in zip(grid, sorted(panels), strict=False):
            for one, cell in panels[key]:
                curve = roc_curve(scores["clean"], scores[cell.id])
                colour, line, _ = one.look
                axes.plot(
                    curve.fpr, curve.tpr, color=colour, linestyle=line, linewidth=1.2, label=shortened(one.name, 44)
                )
            axes.axvline(1 - tnr, color=INK, linestyle=(0, (3, 2)), linewidth=0.8)
            axes.plot([0, 1], [0, 1], color=LINE, linewidth=0.8, zorder=0)
            axes.set_title(f"ε = {eps_name(cell.eps_text, cell.norm)}")
            axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
            axes.xaxis.set_major_formatter(PercentFormatter(1.0))
            percent_axis(axes)
            axes.set(xlabel="clean images withheld", ylabel="attacked images withheld")
            axes.label_outer()
        for axes in grid[len(panels) :]:
            axes.set_axis_off()
        legend(figure, *grid[: len(panels)])
        return svg(figure)


def histogram_figures(
    series: Sequence[Series], scores: Mapping[str, Array], thresholds: Mapping[str, float]
) -> list[tuple[str, str]]:
    """(attack, figure) pairs: per eps the scores of clean and attacked images, thresholds dashed, one scale for all."""
    rows = [(one.name, cells) for one in series if (cells := [cell for cell in one.strongest() if cell.n])]
    used = [scores["clean"], *(scores[cell.id] for _, cells in rows for cell in cells)]
    # Quantiles of each array by itself: many attacked images must not push the clean ones off the scale.
    ends = [np.quantile(finite, [0.01, 0.99]) for array in used if (finite := array[np.isfinite(array)]).size]
    low, high = (pick([*(end[k] for end in ends), *thresholds.values()]) for k, pick in enumerate((min, max)))
    margin = 0.04 * (high - low) or 1.0
    edges = np.linspace(low - margin, high + margin, 41)
    across = max([4, *(len(cells) for _, cells in rows)])
    figures = []
    for name, cells in rows:
        with styled_figure(WIDTH, 1.35) as figure:
            grid = figure.subplots(1, across, sharex=True, sharey=True)
            for axes, cell in zip(grid, cells, strict=False):
                _histogram(axes, scores["clean"], edges, CLEAN, filled=True)
                _histogram(axes, scores[cell.id], edges, ATTACKED, filled=False)
                for threshold in thresholds.values():
                    axes.axvline(threshold, color=INK, linestyle=(0, (3, 2)), linewidth=0.8)
                axes.set_title(f"ε = {eps_name(cell.eps_text, cell.norm)}")
                axes.set_xlim(edges[0], edges[-1])
                axes.yaxis.set_major_locator(NullLocator())
                axes.spines["left"].set_visible(False)
            for axes in grid[len(cells) :]:
                axes.set_axis_off()
            figures.append((name, svg(figure)))
    return figures


@contextmanager
def styled_figure(width: float, height: float) -> Iterator[Figure]:
    """A figure in the house style, to be drawn and saved inside the block."""
    with mpl.rc_context(STYLE), warnings.catch_warnings():
        # A name in a script the font lacks is drawn as boxes; the page beside it spells it out.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield Figure(figsize=(width, height), layout="constrained")


def curve(axes: Axes, points: Sequence[tuple[float, ...]], look: Look, label: str, **more: Any) -> None:
    """A line through points, thin unless told otherwise; more: what else matplotlib takes."""
    colour, line, marker = look
    more = {"markersize": 3.5, "linewidth": 1.3, **more}
    axes.plot(*columns(points), color=colour, linestyle=line, marker=marker, label=label, **more)


def band(axes: Axes, bounds: Sequence[tuple[float, ...]], colour: str, *, alpha: float) -> None:
    """A shade between bounds: place, lower and upper one."""
    if bounds:
        where, low, high = columns(bounds)
        axes.fill_between(where, low, high, color=colour, alpha=alpha, linewidth=0)


def undetected_curve(
    axes: Axes, worst: Sequence[WorstCase], look: Look, label: str, *, alpha: float, **more: Any
) -> list[tuple[float, str]]:
    """Undetected success of the worst case over eps in L-infinity, with its intervals; each eps and its name."""
    rows = sorted((row for row in worst if row.norm == "Linf" and row.undetected is not None), key=lambda row: row.eps)
    curve(axes, [(row.eps, row.undetected) for row in rows if row.undetected is not None], look, label, **more)
    band(axes, [(row.eps, *row.undetected_interval) for row in rows if row.undetected_interval], look[0], alpha=alpha)
    return [(row.eps, eps_name(row.eps_text, row.norm)) for row in rows]


def columns(points: Sequence[tuple[float, ...]]) -> list[Sequence[float]]:
    """Rows of numbers as columns, for matplotlib."""
    return [list(column) for column in zip(*points, strict=True)] if points else [[], []]


def eps_axis(axes: Axes, named: Sequence[tuple[float, str]]) -> None:
    """A logarithmic axis with the sizes of change that were measured, as they were written."""
    ticks = {eps: name for eps, name in named if eps > 0}
    if not ticks:
        return
    axes.set_xscale("log", base=2)
    axes.set_xticks(list(ticks), list(ticks.values()))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("size of the change, ε")


def _histogram(axes: Axes, values: Array, edges: npt.NDArray[np.float64], colour: str, *, filled: bool) -> None:
    # What lies outside, infinities included, is counted in the first and last bin.
    heights, _ = np.histogram(np.clip(values, edges[0], edges[-1]), edges)
    axes.stairs(
        heights / max(1, len(values)), edges, color=colour, fill=filled, alpha=0.45 if filled else 1.0, linewidth=1.2
    )


def legend(figure: Figure, *panels: Axes, above: bool = False) -> None:
    """One legend for all panels, below or above them."""
    entries: dict[str, Artist] = {}
    for axes in panels:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            entries.setdefault(str(label), handle)
    place: Literal["outside upper center", "outside lower center"]
    place = "outside upper center" if above else "outside lower center"
    figure.legend(list(entries.values()), list(entries), loc=place, ncols=3)


def percent_axis(axes: Axes) -> None:
    """Shares on the vertical axis in per cent."""
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))


def svg(figure: Figure) -> str:
    """The figure as a data URI."""
    return "data:image/svg+xml;base64," + base64.b64encode(svg_bytes(figure)).decode()


def svg_bytes(figure: Figure) -> bytes:
    """The figure as the bytes of a file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()
