"""The figure of an assessment: robust accuracy over eps, a panel per norm, a line per attack and the worst case.

Of findings it is their mean AUROC, of masks their mean Dice.
"""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes

from medaegis.bench.analyse.figures import Drawn, saved
from medaegis.bench.records.assessment import Assessment, Proportion, Tried, attack_name
from medaegis.bench.records.evaluation import Norm
from medaegis.bench.records.quality import Quality
from medaegis.bench.report import plots
from medaegis.bench.report.quality import LEADING, leading
from medaegis.bench.report.words import gradient_name, shortened
from medaegis.sizes import told_size


def robustness_figure(found: Assessment) -> Drawn:
    """Attacks that look for the smallest change have no eps; they count in the worst case alone."""
    norms: list[Norm] = list(dict.fromkeys(worst.norm for worst in found.worst_case))
    names = list(dict.fromkeys(_name(found, tried) for tried in found.attacks if tried.eps is not None))
    looks = {name: plots.look_of(k) for k, name in enumerate(names)}
    width = plots.WIDTH if len(norms) > 1 else 0.62 * plots.WIDTH
    with plots.styled_figure(width, 3.2 + 0.19 * ((len(names) + 4) // 3)) as figure:
        panels = figure.subplots(1, len(norms), squeeze=False, sharey=True)[0]
        for axes, norm in zip(panels, norms, strict=True):
            _panel(axes, found, norm, looks)
        panels[0].set_ylabel(LEADING[found.task])
        plots.legend(figure, *panels, above=True)
        victim = f"{shortened(found.backbone, 24)}, {told_size(found.size)}, Cushion {found.cushion}"
        return saved(figure, f"{victim} · {found.data.spec}, {found.chosen} images · seed {found.seed}")


def _panel(axes: Axes, found: Assessment, norm: Norm, looks: dict[str, plots.Look]) -> None:
    worst = [(row.eps, *_left(row.accuracy, row.quality)) for row in found.worst_case if row.norm == norm]
    points = [(eps, value) for eps, value, _ in worst if value is not None]
    plots.curve(axes, points, plots.WORST, "worst case", zorder=2.5, **plots.THICK)
    plots.band(axes, [(eps, *bounds) for eps, _, bounds in worst if bounds is not None], plots.INK, alpha=0.10)
    clean, _ = _left(found.clean.accuracy, found.clean.quality)
    if clean is not None:
        axes.axhline(clean, color=plots.MUTED, linestyle=(0, (3, 2)), linewidth=1.0, label="clean images")
    for name, look in looks.items():
        mine = [t for t in found.attacks if (_name(found, t), t.norm) == (name, norm) and t.eps is not None]
        if mine:
            plots.curve(axes, _points(mine), look, name, zorder=2 if look == plots.PLAIN else 3)
    plots.eps_axis(axes, [(row.eps, row.eps_text) for row in found.worst_case])
    axes.set(title="L∞" if norm == "Linf" else "L2, root mean square", ylim=(-0.02, 1.02))
    if found.task == "single":
        plots.percent_axis(axes)


def _name(found: Assessment, tried: Tried) -> str:
    """With the way through the Cushion, where the attack was tried by several."""
    if tried.access == "no-box":
        return attack_name(tried)
    alike = [other for other in found.attacks if (other.attack, other.access) == (tried.attack, tried.access)]
    several = len({other.gradient for other in alike}) > 1
    return f"{tried.attack}, {gradient_name(tried.gradient)}" if several else tried.attack


def _points(rows: Sequence[Tried]) -> list[tuple[float, float]]:
    found = [(t.eps, _left(t.robust_accuracy, t.quality)[0]) for t in rows]
    return sorted((eps, value) for eps, value in found if eps is not None and value is not None)


def _left(accuracy: Proportion, quality: Quality | None) -> tuple[float | None, tuple[float, float] | None]:
    """What is left, and its interval."""
    if quality is None:
        return accuracy.share, accuracy.interval
    found = leading(quality)
    return (None, None) if found is None else (found.value, found.interval)
