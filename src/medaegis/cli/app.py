"""The program: global options and the list of commands. Nothing heavy is imported before a command runs."""

from __future__ import annotations

from typing import Annotated

import typer

from medaegis.cli import (
    analyse,
    assess,
    attack,
    bench,
    calibrate,
    certify,
    check,
    compare,
    console,
    data,
    demo,
    evaluate,
    fit,
    keys,
    listings,
    report,
    screen,
    train,
    wrap,
)
from medaegis.cli.command import add_command
from medaegis.version import __version__

app = typer.Typer(
    help="Guard a medical image classifier against adversarial images: Cushion, classifier, Shield.",
    epilog="First steps: medaegis demo --out runs/demo. Results, speed and limits: README.md and docs/.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
)
data_app = typer.Typer(help="Look at data sets.", no_args_is_help=True)
bench_app = typer.Typer(
    help="Run experiments from files, and set their figures beside the papers'.", no_args_is_help=True
)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"medaegis {__version__}")
        raise typer.Exit


@app.callback()
def settings(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an unexpected error.")] = False,
) -> None:
    console.state.debug = debug


add_command(
    app,
    demo.demo,
    example="medaegis demo --out runs/demo",
    panel="Start here",
)
add_command(app, listings.doctor, example="medaegis doctor", panel="Start here")
add_command(data_app, data.inspect, example="medaegis data inspect chest-xray:/data/chest_xray --size 112")
add_command(data_app, data.schemes, example="medaegis data schemes")
app.add_typer(data_app, name="data", rich_help_panel="Build")
add_command(
    app,
    train.train,
    example="medaegis train chest-xray:/data/chest_xray --backbone resnet18 --size 112 --out runs/classifier",
    panel="Build",
)
add_command(
    app,
    wrap.wrap,
    example="medaegis wrap clinic.nets:build --weights net.pth --classes clear,ill --size 224 --normalise imagenet "
    "--out runs/classifier",
    panel="Build",
)
add_command(
    app,
    fit.fit,
    example="medaegis fit runs/classifier chest-xray:/data/chest_xray --cushion jpeg:80 --out runs/guard",
    panel="Build",
)
add_command(
    app,
    calibrate.calibrate,
    example="medaegis calibrate runs/guard folder:/data/other-hospital --out runs/guard-there",
    panel="Build",
)
add_command(
    app,
    screen.screen,
    example="medaegis screen runs/guard incoming/ scan.dcm --format csv --quarantine quarantine/ > findings.csv",
    panel="Use",
)
add_command(app, check.verify, example="medaegis verify runs/guard --public-key public-key.pem", panel="Use")
add_command(app, keys.keys, example="medaegis keys ~/medaegis-keys", panel="Use")
add_command(
    app,
    attack.attack,
    example="medaegis attack runs/guard phantom-xray --attack wb --eps 16/256 --steps 100 --out runs/attacked",
    panel="Measure",
)
add_command(
    app,
    evaluate.evaluate,
    example="medaegis evaluate runs/guard phantom-xray --attacks pgd,wb --eps 4/256,8/256 --out runs/evaluation",
    panel="Measure",
)
add_command(
    app,
    certify.certify,
    example="medaegis certify runs/guard phantom-xray --sigma 0.25 --radii 0.25,0.5 --limit 20 --out runs/certificate",
    panel="Measure",
)
add_command(
    app,
    assess.assess,
    example="medaegis assess runs/classifier phantom-xray --eps 1/256,4/256 --limit 100 --out runs/assessment",
    panel="Measure",
)
add_command(
    app,
    compare.compare,
    example="medaegis compare runs/classifier phantom-xray --attacks bim,hfc --eps 1/256 --out runs/comparison",
    panel="Measure",
)
add_command(
    app,
    analyse.analyse,
    example="medaegis analyse runs/guard phantom-xray --attack wb --eps 8/256 --out runs/analysis",
    panel="Measure",
)
for verb, example in (
    (bench.plan, "medaegis bench plan aegis-table3 --scale cpu --data chest=chest-xray:PATH --data fundus=aptos:PATH"),
    (bench.run, "medaegis bench run aegis-table3 --scale smoke --store runs/experiments"),
    (bench.status, "medaegis bench status aegis-table3 --store runs/experiments"),
    (bench.table, "medaegis bench table aegis-table3 --form html --out table3.html"),
    (bench.diff, "medaegis bench diff aegis-table3 --store runs/experiments --other runs/elsewhere"),
    (bench.export, "medaegis bench export aegis-table3 --out table3.csv"),
    (bench.site, "medaegis bench site --store runs/experiments --entries runs/entries --out site"),
):
    add_command(bench_app, verb, example=example)
app.add_typer(bench_app, name="bench", rich_help_panel="Measure")
add_command(app, report.report, example="medaegis report runs/evaluation", panel="Measure")
add_command(app, listings.attacks, example="medaegis attacks", panel="Measure")
add_command(app, listings.detectors, example="medaegis detectors", panel="Measure")
add_command(app, listings.suites, example="medaegis suites", panel="Measure")
add_command(app, listings.corruptions, example="medaegis corruptions", panel="Measure")
add_command(app, listings.backbones, example="medaegis backbones", panel="Build")
add_command(app, listings.cushions, example="medaegis cushions", panel="Build")
