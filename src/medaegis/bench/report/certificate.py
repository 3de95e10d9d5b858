"""The page of a certificate: the curves over the radius, what they promise, and whether attacks could break it.

Everything in it comes from the record; names come from outside and are escaped wherever they appear.
"""

from __future__ import annotations

from pathlib import Path

from matplotlib.axes import Axes

from medaegis.bench.records.certificate import PAGE, Certificate, CertifiedImage, CertifiedShare
from medaegis.bench.report.pages import write_page
from medaegis.bench.report.plots import INK, LOOKS, MUTED, WIDTH, band, curve, legend, percent_axis, styled_figure, svg
from medaegis.bench.report.words import percent

LINES = {  # by field: label, look, width
    "no_harm": ("guard: no wrong diagnosis", LOOKS[0], 2.2),
    "right": ("guard: right and accepted", LOOKS[2], 1.5),
    "plain_no_harm": ("classifier alone: no wrong diagnosis", LOOKS[1], 1.5),
    "plain_right": ("classifier alone: right", (MUTED, "--", "v"), 1.1),
}


def write_certificate_page(found: Certificate, folder: Path) -> Path:
    """Writes the page into the folder, and returns its path; it needs no network and no script."""
    told = {"figure": certificate_figure(found), "points": _points(found), "lines": LINES, "classes": _by_class(found)}
    return write_page(folder / PAGE, "certificate.html.j2", found=found, **told)


def _by_class(found: Certificate) -> dict[str, list[CertifiedImage]]:
    """The images by their true class: what leans to one diagnosis is certified for most images where most have it."""
    labels = sorted({image.label for image in found.images})
    return {label: [image for image in found.images if image.label == label] for label in labels}


def certificate_figure(found: Certificate) -> str:
    """Certified shares over the radius, a line each with its interval, as an SVG data URI."""
    with styled_figure(0.8 * WIDTH, 3.6) as figure:
        axes = figure.subplots()
        for name, (label, look, width) in LINES.items():
            shares = [(row.radius, getattr(row, name)) for row in found.shares if row.within_reach]
            points = [(radius, share.share) for radius, share in shares]
            curve(axes, points, look, label, markersize=4, linewidth=width)
            bounds = [(radius, *share.interval) for radius, share in shares if share.interval is not None]
            band(axes, bounds, look[0], alpha=0.09)
        _reach(axes, found)
        axes.set(xlabel="radius, L2 in units of full brightness", ylabel="share of the images", ylim=(-0.02, 1.02))
        percent_axis(axes)
        legend(figure, axes)
        return svg(figure)


def _reach(axes: Axes, found: Certificate) -> None:
    """Where nothing can be certified any more with so many samples, if that is among what was asked."""
    if found.shares[-1].within_reach:
        return
    axes.axvline(found.reach, color=INK, linestyle=(0, (3, 2)), linewidth=0.8)
    axes.set_xlim(right=1.02 * found.shares[-1].radius)
    axes.text(found.reach, 0.5, f"  farther, {found.samples:,} samples\n  certify nothing", color=MUTED, fontsize=7.5)


def _points(found: Certificate) -> list[str]:
    """What the figures say, a sentence each."""
    largest = [row for row in found.shares if row.within_reach][-1]
    points = [_within(row, found) for row in dict.fromkeys((found.shares[1], largest))]
    clean = found.shares[0]
    points.append(
        f"Without any attack the smoothed guard gives {percent(clean.right.share)} of the images their right diagnosis "
        f"and {percent(found.given_wrong.share)} a wrong one; of the others the diagnosis is withheld, or too near to "
        "tell. A guard that withholds everything does no harm and is of no use: read both figures."
    )
    told = [
        f"{sum(image.no_harm is not None for image in images)} of {len(images)} {label}"
        for label, images in _by_class(found).items()
    ]
    points.append(f"No wrong diagnosis without any attack, by true class: {', '.join(told)}.")
    if found.attacks is not None and found.attacks.images:
        points.append(_attacked(found))
    return points


def _within(row: CertifiedShare, found: Certificate) -> str:
    return (
        f"Whatever is changed by at most {row.radius:g} in L2, {percent(row.no_harm.share)} of {found.n} images are "
        f"given no wrong diagnosis, and {percent(row.right.share)} their right one. Of the classifier alone under the "
        f"same noise: {percent(row.plain_no_harm.share)} and {percent(row.plain_right.share)}."
    )


def _attacked(found: Certificate) -> str:
    assert found.attacks is not None
    n = len(found.attacks.images)
    if found.attacks.broken:
        return f"The certificate is wrong: attacks within it broke {found.attacks.broken} of {n} images."
    return (
        f"Attacks within the certified radius broke none of {n} images; with {found.attacks.farther:g} times the "
        f"radius they broke {found.attacks.broken_farther}."
    )
