"""What the HTML pages share: templates that escape every name from outside, and the words for numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from medaegis.bench.records.archive import replace_file
from medaegis.bench.report import words
from medaegis.sizes import told_size

_FILTERS = (
    *("percent", "percent_range", "decimal", "decimal_range"),
    *("duration", "count", "score", "shortened", "moment", "setting", "beyond", "judged"),
)


def page_environment(package: str = "medaegis.bench.report") -> Environment:
    """Templates of a package: strict about what is undefined, escaping, with the filters of `words`."""
    environment = Environment(
        loader=PackageLoader(package, "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {name: getattr(words, name) for name in _FILTERS}
    environment.filters |= {"gradient": words.gradient_name, "told_size": told_size}
    environment.globals |= {"eps_name": words.eps_name, "of": words.of, "cascade_words": words.cascade_words}
    return environment


def write_page(out: Path, template: str, **told: Any) -> Path:
    """Writes a page by one of the templates here, whole or not at all, and returns its path."""
    replace_file(out, page_environment().get_template(template).render(**told).encode())
    return out
