"""Draw how much gets past a guard over the size of the change, from the tables that `medaegis report` writes.

    python -m benchmarks.curve

Reads docs/results/chest-xray-worst-case.md and draws docs/images/curve.svg. The figures drawn stand in the picture's
description too.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from medaegis.bench.report.plots import ATTACKED, CLEAN, MUTED, columns, eps_axis, percent_axis, styled_figure

DOCS = Path(__file__).parents[1] / "docs"


@dataclass(frozen=True)
class Curve:
    """Shares of images by eps in 1/256, in L-infinity.

    Attributes:
        worst: undetected success, each image as the best of all attacks leaves it, with its 95 % interval.
        far: undetected success of WB alone at larger sizes, by the control, if there is one.
        unaware: undetected success of the strongest attack that does not know the Shield.
        bare: what the strongest of those fools of the classifier without any guard.
        source: the command and commit of the evaluation.
    """

    worst: dict[int, tuple[float, float, float]]
    far: dict[int, float]
    unaware: dict[int, float]
    bare: dict[int, float]
    source: str

    def describe(self) -> str:
        """The figures as words, for who cannot see the picture."""
        lines = [
            ("All attacks, worst case for each image", {eps: value for eps, (value, _, _) in self.worst.items()}),
            ("WB alone", self.far),
            ("Strongest attack that does not know the Shield", self.unaware),
            ("The same attacks on the classifier without a guard", self.bare),
        ]
        told = [
            f"{name}: " + ", ".join(f"{v:.1%} at {eps}/256" for eps, v in row.items()) for name, row in lines if row
        ]
        return "; ".join([*told, self.source])


def read(page: Path) -> Curve:
    """The curve in the tables of an evaluation.

    Raises:
        ValueError: the page has no such tables.
    """
    text = page.read_text(encoding="utf-8")
    worst: dict[int, tuple[float, float, float]] = {}
    unaware: dict[int, float] = {}
    bare: dict[int, float] = {}
    for row in _rows(text, first="attack"):
        if not (size := re.fullmatch(r"(\d+)/256", row["eps"])):
            continue  # a ball in L2
        eps, undetected = int(size[1]), _share(row["undetected success"])
        if row["attack"].startswith("**worst case**"):
            low, high = map(float, row["95 % undetected success"].split("–"))
            worst[eps] = undetected, low / 100, high / 100
        elif row["fools the classifier alone"] != "–":
            unaware[eps] = max(undetected, unaware.get(eps, 0))
            bare[eps] = max(_share(row["fools the classifier alone"]), bare.get(eps, 0))
    control = re.search(r"^\| More eps ends in full success \(WB\) .*$", text, re.MULTILINE)
    made = re.search(r"^Measured on (\S+) by `([^`]*)`, commit (\w{7})\w*, (seed \d+)", text, re.MULTILINE)
    if not worst or made is None:
        raise ValueError(f"{page}: no tables of an evaluation, as `medaegis report --out FILE.md` writes them")
    told = [] if control is None else re.findall(r"(\d+)/256: ([\d.]+)%", control[0])
    far = {int(eps): float(share) / 100 for eps, share in told}
    source = f"{made[2]}, commit {made[3]}, {made[4]}, {made[1]}"
    return Curve(worst, {eps: share for eps, share in far.items() if eps > max(worst)}, unaware, bare, source)


def draw(curve: Curve, out: Path) -> None:
    """The curve as an SVG file."""
    with styled_figure(7.4, 3.3) as figure:
        axes = figure.subplots()
        worst = [(eps, value) for eps, (value, _, _) in curve.worst.items()]
        far = list(curve.far.items())
        band = [(eps, low, high) for eps, (_, low, high) in curve.worst.items()]
        where, low, high = columns(band)
        axes.fill_between(where, low, high, color=ATTACKED, alpha=0.13, linewidth=0)
        lines = [
            (list(curve.bare.items()), MUTED, ":^", -8, "without a guard"),
            (list(curve.unaware.items()), CLEAN, "-s", 7, "attacker does not know the Shield"),
            (worst, ATTACKED, "-o", -14, "attacker knows everything:\nworst case over all attacks"),
        ]
        for points, colour, look, above, name in lines:
            axes.plot(*columns(points), look, color=colour, markersize=5, linewidth=1.8)
            axes.annotate(name, points[-1], (9, above), textcoords="offset points", color=colour, va="center")
        axes.plot(*columns([worst[-1], *far]), "--", color=ATTACKED, linewidth=1.4)
        axes.plot(*columns(far), "o", color=ATTACKED, markersize=5, markerfacecolor="white")
        for point in worst:
            axes.annotate(f"{point[1]:.1%}", point, (-3, 7), textcoords="offset points", color=ATTACKED, ha="right")
        for point in far:
            axes.annotate(f"WB alone\n{point[1]:.1%}", point, (0, -27), textcoords="offset points", color=ATTACKED)
        eps_axis(axes, [(eps, f"{eps}/256") for eps in [*curve.worst, *curve.far]])
        axes.set(xlim=(1.6, 76), ylim=(-0.04, 1.1), ylabel="wrong diagnoses that get through")
        percent_axis(axes)
        out.parent.mkdir(parents=True, exist_ok=True)
        about = {"Title": "What gets past the guard", "Description": curve.describe()}
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None, **about})


def _rows(text: str, *, first: str) -> Iterator[dict[str, str]]:
    """Rows of the table whose first heading is this; an interval is named by the column that it stands behind."""
    lines = iter(text.splitlines())
    heading = next((line for line in lines if line.startswith(f"| {first} |") and "undetected" in line), "")
    names = _cells(heading)
    names = [f"{name} {names[k - 1]}" if name == "95 %" else name for k, name in enumerate(names)]
    for line in lines:
        if not line.startswith("|"):
            return
        if not line.startswith("| ---"):
            yield dict(zip(names, _cells(line), strict=True))


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def _share(cell: str) -> float:
    return float(cell.strip("*").removesuffix(" %")) / 100


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", nargs="?", type=Path, default=DOCS / "results" / "chest-xray-worst-case.md")
    parser.add_argument("--out", type=Path, default=DOCS / "images" / "curve.svg")
    options = parser.parse_args()
    draw(read(options.page), options.out)
    print(options.out)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
