"""Sites side by side: what one guard does to clean and to attacked images here and there, on one HTML page.

Each site is an evaluation folder; the first is what the others are compared with.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from medaegis.bench.metrics import auroc
from medaegis.bench.records.archive import Array, EvaluationFolder, read_evaluation
from medaegis.bench.records.evaluation import Bounds, Evaluation, WorstCase
from medaegis.bench.report import plots
from medaegis.bench.report.pages import write_page
from medaegis.bench.report.words import eps_in_words, eps_name, percent, percent_range
from medaegis.errors import DataError

QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)


@dataclass(frozen=True)
class Place:
    """One site.

    Attributes:
        scores: suspicion of its clean images, rightly and wrongly diagnosed.
        quantiles: of those, as `QUANTILES`.
        more_suspicious: in what share of pairs its clean image is more suspicious than one of the first site.
    """

    name: str
    evaluation: Evaluation
    scores: Array
    quantiles: tuple[float, ...]
    more_suspicious: float | None


def write_sites(folders: Sequence[Path | str], out_html: Path) -> Path:
    """Writes the page of two or more evaluation folders, and returns its path.

    Raises:
        DataError: a folder does not fit, or the guards have other classes, another Cushion, size or colour.
    """
    found = [read_evaluation(folder) for folder in folders]
    _check([Path(folder) for folder in folders], found)
    places = _places(_names([Path(folder) for folder in folders]), found)
    tone, headline, points = verdict(places)
    return write_page(
        out_html,
        "sites.html.j2",
        places=places,
        guard=places[0].evaluation.guard,
        tone=tone,
        headline=headline,
        points=points,
        quantiles=QUANTILES,
        shift_figure=shift_figure(places),
        worst_figure=worst_figure(places),
        rungs=_rungs(places),
    )


def verdict(places: Sequence[Place]) -> tuple[Literal["good", "bad", "doubt"], str, list[str]]:
    """Tone, headline and points, a function of the figures alone."""
    first, points = places[0], []
    failed = [place.name for place in places if any(c.passed is False for c in place.evaluation.controls)]
    off = [place for place in places if _misses(place.evaluation)]
    worse = [place for place in places[1:] if _is_lower(place.evaluation, first.evaluation)]
    for place in places:
        clean, chosen = place.evaluation.clean, place.evaluation.guard.tnr_target
        accepted = _share(clean.tnr_reached, clean.intervals.get("tnr_reached"))
        right = _share(clean.accuracy_accepted, clean.intervals.get("accuracy_accepted"))
        points.append(
            f"{place.name}: accepts {accepted} of {clean.n} clean images, {percent(chosen)} chosen; {right} of the "
            "accepted diagnoses are right."
        )
    points += [
        f"{place.name}: set thresholds there with “medaegis calibrate”, and evaluate the guard that it makes."
        for place in off
        if place.evaluation.data.site == "another" and not place.evaluation.guard.calibrated_from
    ]
    points += [
        f"{place.name}: accepted diagnoses are wrong more often than at {first.name}. Thresholds do not mend that: "
        "the classifier does not fit these images. Train or adapt it there."
        for place in worse
    ]
    if failed:
        points.append(f"Controls or alarms failed at {', '.join(failed)}: attacks there say less than they seem to.")
    points += [f"{place.name}: {place.evaluation.data.note}." for place in places if place.evaluation.data.note]
    if worse:
        return "bad", f"At {_list(worse)} the diagnoses that the guard accepts are wrong more often.", points
    if off:
        return "doubt", f"At {_list(off)} the guard does not accept the share of clean images that was chosen.", points
    good = "The guard accepts the chosen share of clean images at every site, as far as so many images tell."
    return "good", good, points


def shift_figure(places: Sequence[Place]) -> str:
    """Suspicion of clean images, a row per site on one scale; threshold dashed, median as a line."""
    finite = [place.scores[np.isfinite(place.scores)] for place in places]
    ends = [np.quantile(scores, [0.005, 0.995]) for scores in finite if scores.size]
    low, high = min([-1.0, *(end[0] for end in ends)]), max([2.0, *(end[1] for end in ends)])
    edges = np.linspace(low, high, 49)
    with plots.styled_figure(plots.WIDTH, 1.15 * len(places) + 0.5) as figure:
        panels = figure.subplots(len(places), 1, sharex=True, sharey=True, squeeze=False).ravel()
        for k, (axes, place) in enumerate(zip(panels, places, strict=True)):
            heights, _ = np.histogram(np.clip(place.scores, low, high), edges)
            colour = plots.LOOKS[k % len(plots.LOOKS)][0]
            axes.stairs(heights / max(1, len(place.scores)), edges, color=colour, fill=True, alpha=0.45)
            axes.axvline(1.0, color=plots.INK, linestyle=(0, (3, 2)), linewidth=1.0)
            axes.axvline(float(np.median(place.scores)), color=colour, linewidth=1.8)
            axes.set_title(place.name)
            axes.set_yticks([])
            axes.spines["left"].set_visible(False)
            axes.set_xlim(low, high)
        words = "suspicion of clean images: 0 typical where thresholds were set, above 1 (dashed) withheld"
        panels[-1].set_xlabel(words)
        return plots.svg(figure)


def worst_figure(places: Sequence[Place]) -> str | None:
    """Undetected success of the worst case over eps in L-infinity, a line and its interval per site."""
    with plots.styled_figure(plots.WIDTH, 2.6) as figure:
        axes = figure.subplots()
        named = []
        for k, place in enumerate(places):
            worst, look = place.evaluation.worst_case, plots.LOOKS[k % len(plots.LOOKS)]
            named += plots.undetected_curve(axes, worst, look, place.name, alpha=0.12, markersize=4, linewidth=1.5)
        if not named:
            return None
        plots.eps_axis(axes, named)
        axes.set(ylim=(-0.02, 1.02), ylabel="got through undetected")
        plots.percent_axis(axes)
        plots.legend(figure, axes)
        return plots.svg(figure)


def _check(folders: Sequence[Path], found: Sequence[EvaluationFolder]) -> None:
    if len(found) < 2:
        raise DataError(folders[0] if folders else "sites", "one site has nothing to stand beside", "name two or more")

    def network(one: EvaluationFolder) -> tuple[object, ...]:
        guard = one.evaluation.guard
        return guard.classes, guard.backbone, guard.size, guard.channels, guard.cushion

    for folder, one in zip(folders, found, strict=True):
        if network(one) != network(found[0]):
            problem = f"of another guard than {folders[0].name}: other classes, network, size, colour or Cushion"
            raise DataError(folder, problem, "name evaluations of one guard, or of one that was calibrated from it")
        if not one.scores.get("clean", np.zeros(0)).size:
            raise DataError(folder, "holds no scores of clean images", "evaluate again, with at least one attack")


def _names(folders: Sequence[Path]) -> list[str]:
    """Names of the folders, with the one above where two are alike."""
    short = [folder.resolve().name for folder in folders]
    return [
        name if short.count(name) == 1 else f"{folder.resolve().parent.name}/{name}"
        for name, folder in zip(short, folders, strict=True)
    ]


def _places(names: Sequence[str], found: Sequence[EvaluationFolder]) -> list[Place]:
    scores = [
        np.concatenate([one.scores["clean"], one.scores.get("clean/wrong", np.zeros(0, np.float32))]) for one in found
    ]
    return [
        Place(
            name,
            one.evaluation,
            mine,
            tuple(float(value) for value in np.quantile(mine, QUANTILES)),
            auroc(scores[0], mine) if k else None,
        )
        for k, (name, one, mine) in enumerate(zip(names, found, scores, strict=True))
    ]


def _rungs(places: Sequence[Place]) -> list[tuple[str, str, list[WorstCase | None]]]:
    """Each eps, what it means, and the worst case by site."""
    rows: dict[tuple[bool, float, str, str], dict[str, WorstCase]] = {}
    for place in places:
        for row in place.evaluation.worst_case:
            names = eps_name(row.eps_text, row.norm), eps_in_words(row.eps_text, row.norm)
            rows.setdefault((row.norm != "Linf", row.eps, *names), {})[place.name] = row
    return [(*key[2:], [rows[key].get(place.name) for place in places]) for key in sorted(rows)]


def _misses(evaluation: Evaluation) -> bool:
    """Whether the share accepted lies apart from the chosen one, by its interval."""
    bounds = evaluation.clean.intervals.get("tnr_reached")
    return bounds is not None and not bounds[0] <= evaluation.guard.tnr_target <= bounds[1]


def _is_lower(there: Evaluation, here: Evaluation) -> bool:
    """Whether accepted diagnoses are right less often: the 95 % interval of the difference of the two shares leaves 0
    out (Newcombe 1998, method 10, from their Wilson intervals).
    """
    shares = [(one.clean.accuracy_accepted, one.clean.intervals.get("accuracy_accepted")) for one in (here, there)]
    (home, home_bounds), (site, site_bounds) = shares
    if home is None or site is None or home_bounds is None or site_bounds is None:
        return False
    return home - site > math.hypot(home - home_bounds[0], site_bounds[1] - site)


def _share(value: float | None, bounds: Bounds | None) -> str:
    return percent(value) + (f" ({percent_range(bounds)})" if bounds else "")


def _list(places: Sequence[Place]) -> str:
    return ", ".join(place.name for place in places)
