"""Figures of a study, each as SVG and as PNG at 300 dpi: charts in colours of Okabe and Ito, and perceptual maps.

Names come from outside, so they are shortened and matplotlib's formulas are off (`plots.STYLE`).
"""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter, NullLocator, PercentFormatter
from torch import Tensor

from medaegis.bench.analyse.maps import enlarged
from medaegis.bench.analyse.shifts import STEPS
from medaegis.bench.analyse.study import STRESS_LEVELS, STRESSED, Study
from medaegis.bench.report.pictures import magnification
from medaegis.bench.report.plots import ATTACKED, CLEAN, INK, LINE, LOOKS, MUTED, WIDTH, styled_figure
from medaegis.bench.report.words import shortened

DPI = 300
MARKERS = "o^sDvPX<>p"
POWERS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclass(frozen=True)
class Drawn:
    """A figure as the bytes of two files."""

    svg: bytes
    png: bytes


def attack_line(study: Study) -> str:
    """The attack as the figures and the page name it."""
    return f"{study.plan.attack}, ε = {study.plan.eps_text}, {study.plan.value.steps} steps"


def saved(figure: Figure, footer: str) -> Drawn:
    """Both files of a figure, with a line at its foot; within `styled_figure`."""
    figure.supxlabel(footer, fontsize=6.5, color=MUTED, x=0.005, ha="left")
    svg, png = io.BytesIO(), io.BytesIO()
    figure.savefig(svg, format="svg", dpi=DPI, metadata={"Date": None, "Creator": None})
    figure.set_layout_engine("none")  # it stays where it is; laying it out takes longer than drawing it
    figure.savefig(png, format="png", dpi=DPI, metadata={"Software": None})
    return Drawn(svg.getvalue(), png.getvalue())


def tsne_figure(study: Study, origin: str) -> Drawn:
    """A panel per tap: clean images and their attacked twins, a marker per class."""
    n = len(study.rows)
    across = min(5, len(study.embedding))
    down = -(-len(study.embedding) // across)
    with styled_figure(WIDTH, 2.15 * down + 0.45) as figure:
        grid = figure.subplots(down, across, squeeze=False).ravel()
        for axes, (tap, points) in zip(grid, study.embedding.items(), strict=False):
            for k in study.labels.unique().tolist():
                rows = (study.labels == k).nonzero().squeeze(1)
                for start, colour in ((0, CLEAN), (n, ATTACKED)):
                    x, y = points[rows + start].T.numpy()
                    marker = MARKERS[k % len(MARKERS)]
                    axes.scatter(
                        x, y, s=13, marker=marker, color=colour, alpha=0.75, edgecolors="white", linewidths=0.3
                    )
            axes.set_title(f"{shortened(tap, 22)}")
            axes.set_xlabel(f"{100 * study.apart[tap]:.0f} % told apart")
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set(visible=True, color=LINE)
        for axes in grid[len(study.embedding) :]:
            axes.set_axis_off()
        grid[0].set_ylabel("t-SNE")
        handles = [
            Line2D([], [], linestyle="", marker=MARKERS[k % len(MARKERS)], color=colour, label=label)
            for k in study.labels.unique().tolist()
            for colour, label in (
                (CLEAN, f"{class_name(study, k)}, clean"),
                (ATTACKED, f"{class_name(study, k)}, attacked"),
            )
        ]
        figure.legend(handles=handles, loc="outside upper left", ncols=min(4, len(handles)))
        return saved(figure, f"{attack_line(study)} · n = {len(study.rows)} · {origin}")


def attention_figure(study: Study, origin: str) -> Drawn:
    """A row per example: picture, Grad-CAM and saliency before and after, and what the attack changed."""
    rows = study.examples.tolist()
    titles = ("Clean", "Grad-CAM", "Saliency", "Attacked", "Grad-CAM", "Saliency", "Change")
    with styled_figure(WIDTH, 1.36 * len(rows) + 0.55) as figure:
        grid = figure.subplots(len(rows), len(titles), squeeze=False)
        sides = (study.images.shape[2], study.images.shape[3])
        cams = [enlarged(looks.cam[study.examples], sides) for looks in study.attention]
        for line, row in enumerate(rows):
            for half, (images, verdict) in enumerate(((study.images, study.before), (study.attacked, study.after))):
                left = 3 * half
                said = shortened(study.classes[int(verdict.predicted[row])], 16)
                _picture(grid[line, left], images[row])
                right = verdict.predicted[row] == study.labels[row]
                grid[line, left].set_xlabel(f"→ {said}", labelpad=2, color=INK if right else ATTACKED)
                _picture(grid[line, left + 1], images[row])
                _heat(grid[line, left + 1], cams[half][line], alpha=0.55)
                _heat(grid[line, left + 2], study.attention[half].saliency[row])
            _change(grid[line, 6], study.attacked[row] - study.images[row], study.plan.eps)
            grid[line, 0].set_ylabel(shortened(study.classes[int(study.labels[row])], 18))
        for axes, title in zip(grid[0], titles, strict=True):
            axes.set_title(title, loc="center")
        return saved(figure, f"{attack_line(study)} · {origin} · Grad-CAM at {study.layer}, each map on its own scale")


def activation_figure(study: Study, origin: str) -> Drawn:
    """Two examples: per tap the mean over the channels, clean, attacked, and the difference."""
    shown = list(range(min(2, len(study.examples))))
    taps = list(study.activations)
    with styled_figure(min(WIDTH, 1.85 * (1 + len(taps))), 4.35 * len(shown) + 0.3) as figure:
        grid = figure.subplots(3 * len(shown), 1 + len(taps), squeeze=False)
        for one in shown:
            row, top = int(study.examples[one]), 3 * one
            _picture(grid[top, 0], study.images[row])
            _picture(grid[top + 1, 0], study.attacked[row])
            _change(grid[top + 2, 0], study.attacked[row] - study.images[row], study.plan.eps)
            for name, place in (("clean", top), ("attacked", top + 1), ("difference", top + 2)):
                verdict = {"clean": study.before, "attacked": study.after}.get(name)
                said = f"\n→ {shortened(study.classes[int(verdict.predicted[row])], 16)}" if verdict else ""
                grid[place, 0].set_ylabel(f"{name}{said}")
            for column, tap in enumerate(taps, start=1):
                before, after = (part[one].numpy() for part in study.activations[tap])
                low, high = min(before.min(), after.min()), max(before.max(), after.max())
                for place, values in ((top, before), (top + 1, after)):
                    shown_map = grid[place, column].imshow(values, cmap="viridis", vmin=low, vmax=high)
                figure.colorbar(shown_map, ax=grid[top : top + 2, column], shrink=0.6, aspect=22, pad=0.02)
                most = float(np.abs(after - before).max()) or 1.0
                shown_map = grid[top + 2, column].imshow(after - before, cmap="PuOr_r", vmin=-most, vmax=most)
                figure.colorbar(shown_map, ax=grid[top + 2, column], shrink=0.7, aspect=12, pad=0.02)
                grid[top, column].set_title(shortened(tap, 20), loc="center")
        for axes in grid.ravel():
            bare(axes)
        return saved(figure, f"{attack_line(study)} · {origin}")


def landscape_figure(study: Study, origin: str) -> Drawn:
    """A column per example: the loss around it and, behind Shields, the suspicion; white where the verdict turns."""
    found = study.landscape
    surfaces = [("Loss of the true class, nats", found.loss, found.margin, 0.0)]
    if found.suspicion is not None:
        surfaces.append(("Suspicion, wanted class", found.suspicion, found.suspicion, 1.0))
    n = len(found.loss)
    with styled_figure(WIDTH, 2.7 * len(surfaces) + 0.3) as figure:
        grid = figure.subplots(len(surfaces), n, squeeze=False, sharex=True, sharey=True)
        levels = found.levels.numpy()
        for line, (name, surface, edge, turn) in enumerate(surfaces):
            steps = np.linspace(float(surface.min()), float(surface.max()) + 1e-6, 25)
            for column in range(n):
                axes, row = grid[line, column], int(study.examples[column])
                drawn = axes.contourf(levels, levels, surface[column].numpy(), steps, cmap="viridis")
                if bool((edge[column] > turn).any()) and bool((edge[column] < turn).any()):
                    for ink, thick in (("black", 2.6), ("white", 1.2)):  # seen on dark and on bright ground
                        axes.contour(levels, levels, edge[column].numpy(), [turn], colors=ink, linewidths=thick)
                axes.plot(0, 0, marker="+", color="white", markersize=8, markeredgewidth=1.5)
                axes.set(aspect="equal")
                axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
                axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
                axes.grid(False)
                if line == 0:
                    true, wanted = (class_name(study, int(part[row])) for part in (study.labels, study.targets))
                    axes.set_title(f"{true} (wanted: {wanted})")
                if line == len(surfaces) - 1:
                    axes.set_xlabel("adversarial direction, grey levels")
            grid[line, 0].set_ylabel("orthogonal direction, grey levels")
            figure.colorbar(drawn, ax=grid[line].tolist(), label=name, shrink=0.85, ticks=MaxNLocator(6))
        return saved(figure, f"grey level = 1/255 of full brightness · {origin}")


def direction_figure(study: Study, origin: str) -> Drawn | None:
    """Cosine with the last weights over the steps, shift against weights per channel, and attacks among themselves."""
    found = study.direction
    if found is None:
        return None
    with styled_figure(WIDTH, 3.1) as figure:
        walk, scatter, matrix = figure.subplots(1, 3, width_ratios=(1.15, 1, 1.1))
        low, middle, high = np.quantile(found.cosine.numpy(), (0.1, 0.5, 0.9), axis=1)
        walk.fill_between(
            found.steps, low, high, color=ATTACKED, alpha=0.18, linewidth=0, label="10th to 90th percentile"
        )
        walk.plot(found.steps, middle, color=ATTACKED, marker="o", markersize=3.5, label="median image")
        walk.axhline(float(found.noise.median()), color=MUTED, linestyle=(0, (3, 2)), label="random noise, same size")
        walk.set_xscale("log")
        walk.set_xticks(found.steps, [str(k) for k in found.steps])
        walk.xaxis.set_minor_locator(NullLocator())
        walk.set(ylim=(min(-0.1, float(low.min()) - 0.05), 1.02), xlabel="attack steps", ylabel="cosine")
        walk.set_title("Shift against weights")
        scatter.axhline(0, color=LINE, linewidth=0.8)
        scatter.axvline(0, color=LINE, linewidth=0.8)
        scatter.scatter(found.weight.numpy(), found.shift.numpy(), s=8, color=CLEAN, alpha=0.6, linewidths=0)
        scatter.xaxis.set_major_locator(MaxNLocator(4))
        first, second = (class_name(study, k) for k in found.pair)
        scatter.set_xlabel(f"weight: {second} minus {first}")
        scatter.set_ylabel("mean shift of the feature")
        scatter.set_title(f"Channels of {shortened(found.tap, 16)}")
        values = found.mutual.numpy()
        shown = matrix.imshow(values, cmap="viridis", vmin=min(0.0, float(values.min())), vmax=1)
        for i, j in np.ndindex(values.shape):
            ink = "black" if values[i, j] > 0.6 else "white"
            matrix.text(j, i, f"{values[i, j]:.2f}", ha="center", va="center", fontsize=6.5, color=ink)
        matrix.set_xticks(range(len(found.names)), found.names, rotation=40, ha="right")
        matrix.set_yticks(range(len(found.names)), found.names)
        matrix.grid(False)
        matrix.set_title("Cosine between attacks")
        figure.colorbar(shown, ax=matrix, shrink=0.8, label="mean cosine of shifts")
        figure.legend(*walk.get_legend_handles_labels(), loc="outside upper left", ncols=3)
        return saved(figure, f"{attack_line(study)} · n = {len(study.rows)} · {origin}")


def stress_figure(study: Study, origin: str) -> Drawn:
    """A panel per Cushion: how far each tap's mean activation is driven up and down, a colour per eps."""
    with styled_figure(WIDTH, 3.1) as figure:
        panels = figure.subplots(1, len(study.stress), squeeze=False, sharey=True)[0]
        for axes, (cushion, stress) in zip(panels, study.stress.items(), strict=True):
            places = np.arange(len(stress.taps))
            axes.axhline(0, color=MUTED, linewidth=0.8)
            for i in range(len(STRESS_LEVELS)):
                colour, _, marker = LOOKS[i]
                for kind, line in (("up", "-"), ("down", "--"), ("noise", ":")):
                    values = [100 * stress.relative(kind, tap)[i] for tap in stress.taps]
                    mark = "" if kind == "noise" else marker
                    axes.plot(places, values, color=colour, linestyle=line, marker=mark, markersize=4, linewidth=1.2)
            axes.set_yscale("symlog", linthresh=10)
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:+.0f} %" if value else "0 %"))
            axes.yaxis.set_minor_locator(NullLocator())
            axes.set_xticks(places, [shortened(tap, 14) for tap in stress.taps])
            axes.set_xlabel("layer, shallow to deep")
            axes.set_title("Without a Cushion" if cushion == "none" else f"Behind the Cushion {shortened(cushion, 20)}")
        panels[0].set_ylabel("change of the mean activation")
        handles = [
            Line2D([], [], color=LOOKS[i][0], marker=LOOKS[i][2], markersize=4, label=f"ε = {level}/256")
            for i, level in enumerate(STRESS_LEVELS)
        ]
        handles += [
            Line2D([], [], color=INK, linestyle="-", label="driven up"),
            Line2D([], [], color=INK, linestyle="--", label="driven down"),
            Line2D([], [], color=INK, linestyle=":", label="random noise"),
        ]
        figure.legend(handles=handles, loc="outside upper left", ncols=6)
        return saved(
            figure, f"BIM on the mean of one layer, {STEPS} steps · n = {min(STRESSED, len(study.rows))} · {origin}"
        )


def spectra_figure(study: Study, origin: str) -> Drawn:
    """Power over frequency of images, perturbation and noise, and the share that the Cushion leaves of either."""
    looks = {"clean": (INK, "-"), "attack": (ATTACKED, "-"), "noise": (CLEAN, "-")}
    cushion = study.plan.cushion.spec
    names = {"clean": "clean images", "attack": "perturbation", "noise": "random noise, same size"}
    cushioned = bool(study.passed)
    with styled_figure(WIDTH if cushioned else WIDTH / 2, 3.0) as figure:
        panels = figure.subplots(1, 2 if cushioned else 1, squeeze=False)[0]
        for name, spectrum in study.spectra.items():
            base, _, filtered = name.partition(", ")
            colour, line = looks[base]
            label = names[base] + (f", after {cushion}" if filtered else "")
            frequency, power = spectrum.frequency[1:].numpy(), spectrum.power[1:].numpy()
            panels[0].plot(
                frequency, power, color=colour, linestyle="--" if filtered else line, linewidth=1.3, label=label
            )
        _powers_of_ten(panels[0])
        panels[0].set_ylabel("power per frequency, (full brightness)²")
        panels[0].set_title("Radial power spectra")
        panels[0].legend()
        if cushioned:
            for base, share in study.passed.items():
                frequency = study.spectra[base].frequency[1:].numpy()
                panels[1].plot(frequency, share[1:].numpy(), color=looks[base][0], linewidth=1.3, label=names[base])
            for level in (0, 1):
                panels[1].axhline(level, color=MUTED, linestyle=(0, (3, 2)), linewidth=0.8)
            panels[1].set_ylabel("share found again behind the Cushion")
            panels[1].yaxis.set_major_formatter(PercentFormatter(1.0))
            panels[1].set_title(f"What passes the Cushion {shortened(cushion, 20)}")
            panels[1].legend()
        for axes in panels:
            axes.set_xlabel("spatial frequency, cycles per pixel")
        return saved(figure, f"{attack_line(study)} · n = {len(study.rows)} · {origin}")


def _picture(axes: Axes, image: Tensor) -> None:
    pixels = image.permute(1, 2, 0).numpy()
    axes.imshow(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels, cmap="gray", vmin=0, vmax=1)
    bare(axes)


def _heat(axes: Axes, values: Tensor, alpha: float = 1.0) -> None:
    axes.imshow(values.numpy(), cmap="inferno", vmin=0, vmax=float(values.max()) or 1.0, alpha=alpha)
    bare(axes)


def _change(axes: Axes, change: Tensor, eps: float) -> None:
    factor = magnification(eps)
    _picture(axes, (0.5 + factor * change).clamp(0, 1))
    axes.set_xlabel(f"× {factor}", labelpad=2)


def _powers_of_ten(axes: Axes) -> None:
    # matplotlib's own labels are formulas, which are off.
    axes.set_yscale("log")
    power = FuncFormatter(lambda value, _: "10" + f"{np.log10(value):.0f}".translate(POWERS))
    axes.yaxis.set_major_formatter(power)
    axes.yaxis.set_minor_formatter(NullFormatter())


def class_name(study: Study, k: int) -> str:
    """A class as there is room for it."""
    return shortened(study.classes[k], 18)


def bare(axes: Axes) -> None:
    """A panel without ticks, grid and frame."""
    axes.set(xticks=[], yticks=[])
    axes.grid(False)
    axes.spines[:].set(visible=False)
