"""The folder of a site: what may be replaced, names for its files, and what all its pages share."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from importlib import resources
from pathlib import Path

import matplotlib as mpl
from jinja2 import Environment
from markupsafe import Markup, escape

from medaegis.bench.report.pages import page_environment
from medaegis.bench.report.quality import ABOUT, HEADS, LEADING, quality_cells
from medaegis.bench.report.words import capital
from medaegis.errors import ArtefactError
from medaegis.plainjson import decode_json, encode_json
from medaegis.safefiles import check_place, listed, put_in_place, read_file

LIST = "site.json"  # names every other file of the site
STYLE = "style.css"
FORMAT = "medaegis-site"
LEVELS = 11  # colours of a heat map
_MOST_BYTES = 64 * 2**20  # of the list
_ANOTHER = "name another folder, or an empty one"


def slug(text: str) -> str:
    """A name that is safe in a path, a link and an anchor; two texts never share one.

    >>> slug("aegis-table3-smoke")
    'aegis-table3-smoke'
    >>> slug("../<b>")
    'b-9f46aef2'
    """
    if re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", text) and len(text) <= 60 and not re.search(r"-[0-9a-f]{8}$", text):
        return text
    words = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:40].strip("-")
    return f"{words or 'x'}-{short_hash(text, 8)}"


def short_hash(text: str, digits: int) -> str:
    """So many hex digits of its SHA-256; a file's name that is no Unicode has one too."""
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:digits]


def style() -> bytes:
    """The style sheet, with the colours of heat maps: ink on each is black or white, whichever reads better."""
    rules = [resources.files(__package__).joinpath("templates", STYLE).read_text(encoding="utf-8")]
    for level in range(LEVELS):
        red, green, blue = (round(255 * part) for part in mpl.colormaps["cividis"](level / (LEVELS - 1))[:3])
        ink = "#000" if luminance(red, green, blue) > 0.179 else "#fff"  # where both contrast alike (WCAG 2.2)
        rules.append(f".h{level} {{ background: #{red:02x}{green:02x}{blue:02x}; color: {ink}; }}\n")
    return "".join(rules).encode()


def site_environment() -> Environment:
    """Templates of the site, with what they say of code, of findings and of masks."""
    environment = page_environment(__package__ or "")
    environment.filters |= {"in_code": in_code, "capital": capital}
    words = {"heads_of": HEADS, "leading_of": LEADING, "about_task": ABOUT}
    environment.globals |= {**words, "quality_cells": quality_cells}
    return environment


def in_code(text: str) -> Markup:
    """What stands between backticks as code, all else as text.

    >>> in_code("by `bench <run>`")
    Markup('by <code>bench &lt;run&gt;</code>')
    """
    parts = text.split("`")
    paired = len(parts) % 2 == 1
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if k % 2 and paired else escape(part) for k, part in enumerate(parts)
    )


def luminance(red: int, green: int, blue: int) -> float:
    """Relative luminance of an sRGB colour (WCAG 2.2)."""
    parts = [part / 255 for part in (red, green, blue)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def check_site(out: Path | str) -> None:
    """Whether a site can be written here, asked before the work; nothing is made.

    Raises:
        ArtefactError: a folder that holds anything but an earlier site, or nothing can be written there.
    """
    check_place(out)
    root = Path(os.path.realpath(out))
    present = _present(root) if root.exists() else set()
    if not present:
        return
    if LIST not in present:
        raise ArtefactError(out, f"holds {listed(present)}, and no site", _ANOTHER)
    try:
        told = decode_json(read_file(root / LIST, limit=_MOST_BYTES))
        if told["format"] != FORMAT:
            raise ValueError(told["format"])
        others = present - {LIST, *map(str, told["files"])}
    except (ArtefactError, KeyError, TypeError, ValueError):
        raise ArtefactError(out, f"holds a {LIST} that no site has", _ANOTHER) from None
    if others:
        raise ArtefactError(out, f"holds {listed(others)} beside an earlier site", "move that away, or " + _ANOTHER)


def replace_site(out: Path, files: Mapping[str, bytes]) -> None:
    """Write a site, or put it in the place of an earlier one: whoever looks finds one or the other.

    Raises:
        ArtefactError: as `check_site`, or the disk refuses.
    """
    check_site(out)
    told = {"format": FORMAT, "version": 1, "files": sorted(files)}
    try:
        put_in_place(Path(os.path.realpath(out)), {**files, LIST: encode_json(told)})
    except OSError as error:
        raise ArtefactError(out, f"cannot be written ({error.strerror})", "check the disk's space and rights") from None


def _present(root: Path) -> set[str]:
    """Files, links and empty folders in a folder, by their paths from it."""
    found = set()
    for place, folders, names in os.walk(root):
        here = Path(place)
        links = [name for name in folders if (here / name).is_symlink()]
        empty = [] if folders or names or here == root else [here]
        found |= {path.relative_to(root).as_posix() for path in (*(here / name for name in (*names, *links)), *empty)}
    return found
