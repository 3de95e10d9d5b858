"""`medaegis report`: report and verdict as HTML pages from an evaluation, or its tables as Markdown."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medaegis.cli.options import check_out
from medaegis.errors import ConfigError


def report(
    evaluation_dirs: Annotated[
        list[Path],
        typer.Argument(metavar="DIR…", help="Folder that `medaegis evaluate` wrote; several: sites side by side."),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            help="The page; of one evaluation, a name that ends in .md gets the tables as Markdown.",
            show_default="report.html in DIR",
        ),
    ] = None,
) -> None:
    """Write the report and, beside it, the verdict: one page for an assessor.

    Of several evaluations of one guard, at its own and at other sites, one page sets them side by side (--out). All are
    self-contained HTML that opens offline and prints. Prints their paths.
    """
    from medaegis.bench.report.markdown import write_markdown
    from medaegis.bench.report.report import write_report
    from medaegis.bench.report.sites import write_sites
    from medaegis.bench.report.verdict import write_verdict
    from medaegis.safefiles import check_place

    if out is not None:
        check_out(out, check_place, folder=False)
    evaluation_dir = evaluation_dirs[0]
    if len(evaluation_dirs) > 1:
        if out is None or out.suffix == ".md":
            raise ConfigError("--out", "sites side by side are an HTML page of its own", "name it: --out sites.html")
        typer.echo(write_sites(evaluation_dirs, out))
    elif out is not None and out.suffix == ".md":
        typer.echo(write_markdown(evaluation_dir, out))
    else:
        page = write_report(evaluation_dir, out)
        typer.echo(page)
        typer.echo(write_verdict(evaluation_dir, page.with_suffix(".verdict.html")))
