"""`medaegis report`: one HTML page from an evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(
    evaluation_dir: Annotated[Path, typer.Argument(metavar="DIR", help="Folder that `medaegis evaluate` wrote.")],
    out: Annotated[Path | None, typer.Option("--out", help="The page.", show_default="report.html in DIR")] = None,
) -> None:
    """Write the report: one self-contained HTML page that opens offline and prints. Prints its path."""
    from medaegis.bench.report import write_report

    typer.echo(write_report(evaluation_dir, out))
