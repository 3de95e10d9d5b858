"""Numbers as a reader wants them: shares, intervals, times and eps in words, never rounded up to a promise."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime

from medaegis.bench.records.evaluation import Cascaded, Further, Judged, Norm

NOT_MEASURED = "–"
PLANTED = "Planted weakness: a Shield trained at 1/256 only"  # a control
# Not from the locale: the page is in English wherever it is made.
MONTHS = (
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
)


def cascade_words(cascade: Sequence[Cascaded]) -> str:
    """How a cascade went over the images, and what its figures tell."""
    order = "small changes come first"
    if checked := max((row.checked for row in cascade), default=0):
        order = (
            "large changes come first, and an image that no attack breaks at one is not attacked at smaller ones (of "
            f"the {checked} images that every attack was run on, none was broken at a smaller change only)"
        )
    return (
        f"Over more images, by a cascade: {order}; cheap attacks come before others, and an image is left alone once "
        "one breaks it. So this tells how many any of the attacks breaks, and nothing of the attacks one by one."
    )


def percent(share: float | None) -> str:
    """A share as `97.3 %`; what is not quite none or all is never shown as 0.0 or 100.0 %."""
    if share is None:
        return NOT_MEASURED
    if 0 < share < 0.0005:
        return "< 0.1 %"
    if 0.9995 <= share < 1:
        return "> 99.9 %"
    return f"{100 * share:.1f} %"


def decimal(value: float | None) -> str:
    """An area under the curve as `0.973`; below one it is never shown as 1.000."""
    if value is None:
        return NOT_MEASURED
    return "> 0.999" if 0.9995 <= value < 1 else f"{value:.3f}"


def of(share: float | None, n: int) -> str:
    """A share of n with its count, as `3 of 38 (7.9 %)`."""
    return NOT_MEASURED if share is None else f"{round(share * n)} of {n} ({percent(share)})"


def percent_range(bounds: tuple[float, float] | None) -> str:
    """An interval of shares as `95.1–98.0`, without the sign, or nothing."""
    return "" if bounds is None else f"{100 * bounds[0]:.1f}–{100 * bounds[1]:.1f}"


def decimal_range(bounds: tuple[float, float] | None) -> str:
    """An interval of areas as `0.961–0.984`, or nothing."""
    return "" if bounds is None else f"{bounds[0]:.3f}–{bounds[1]:.3f}"


def duration(seconds: float | None) -> str:
    """A time as `0.4 s`, `12 s`, `4 min 10 s` or `2 h 05 min`."""
    if seconds is None:
        return NOT_MEASURED
    if 0 < seconds < 0.05:
        return "< 0.1 s"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def count(value: int | None) -> str:
    """A whole number with thin spaces between thousands."""
    return NOT_MEASURED if value is None else f"{value:,}".replace(",", "\u2009")


def score(value: float | None) -> str:
    """A Shield score with its sign, as it is compared with the threshold."""
    return "none" if value is None else f"{value:+.2f}".replace("-", "−")


def moment(when: datetime) -> str:
    """A date and time as `14 March 2026, 09:26 UTC`."""
    month = MONTHS[when.month - 1]
    return f"{when.day} {month} {when.year}, {when:%H:%M}{f' {when.tzname()}' if when.tzinfo else ''}"


def gradient_name(gradient: str | None) -> str:
    """How the way through the Cushion is written."""
    if gradient is None:
        return NOT_MEASURED
    return {"bpda": "BPDA", "skip": "without it"}.get(gradient, gradient)


def shortened(text: str, length: int) -> str:
    """At most `length` characters, cut with an ellipsis."""
    return text if len(text) <= length else text[: length - 1] + "…"


def capital(text: str) -> str:
    """With a capital letter to begin with; the others stay."""
    return text[:1].upper() + text[1:]


def eps_name(eps_text: str, norm: Norm) -> str:
    """How a figure names the size of a change."""
    return eps_text if norm == "Linf" else f"L2 {eps_text}"


def eps_in_words(eps_text: str, norm: Norm) -> str:
    """What an eps means for the picture, for a reader who has never met one."""
    if levels := re.fullmatch(r"(\d+(?:\.\d+)?)\s*/\s*(\d+)", eps_text):
        size = f"{levels[1]} of {levels[2]} brightness levels"
    else:
        size = f"{eps_text} of the full brightness range"
    return f"every pixel moved by at most {size}" if norm == "Linf" else f"pixels moved by {size} in root mean square"


def beyond(further: Sequence[Further]) -> str:
    """What checks tried beyond the plan, and found, or nothing."""
    return "; ".join(f"{one.check}: {one.n} images tried, {one.more} more" for one in further)


def judged(how: Judged | None) -> str:
    """Test, n, p and level of a check that compares shares, or nothing."""
    if how is None:
        return ""
    times = f", weakest of {how.comparisons} comparisons, p times {how.comparisons}" if how.comparisons > 1 else ""
    p = "p < 0.001" if how.p < 0.001 else f"p = {how.p:.3f}"
    return f"{how.test}{times}; n = {how.n}, {p}, fails at {how.level:g} or below"


def setting(value: object) -> str:
    """A recipe's value as one reads it."""
    if value is None:
        return NOT_MEASURED
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(setting(item) for item in value)
    return f"{value:.6g}" if isinstance(value, float) else str(value)
