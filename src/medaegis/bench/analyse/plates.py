"""Plates of a study: pictures with the maps over them, activation maps, and landscapes."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from medaegis.bench.analyse.figures import Drawn, attack_line, bare, class_name, saved
from medaegis.bench.analyse.maps import enlarged
from medaegis.bench.analyse.study import Study
from medaegis.bench.report.pictures import magnification
from medaegis.bench.report.plots import ATTACKED, INK, WIDTH, styled_figure
from medaegis.bench.report.words import shortened


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
