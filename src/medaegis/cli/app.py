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
    listings,
    report,
    screen,
    train,
    wrap,
)
from medaegis.cli.command import add_commands
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


add_commands(app, (demo.demo, "demo --out runs/demo"), (listings.doctor, "doctor"), panel="Start here")
add_commands(
    app,
    (train.train, "train chest-xray:/data/chest_xray --backbone resnet18 --size 112 --out runs/classifier"),
    (
        wrap.wrap,
        "wrap clinic.nets:build --weights net.pth --classes clear,ill --size 224 --normalise imagenet "
        "--out runs/classifier",
    ),
    (fit.fit, "fit runs/classifier chest-xray:/data/chest_xray --cushion jpeg:80 --out runs/guard"),
    (calibrate.calibrate, "calibrate runs/guard folder:/data/other-hospital --out runs/guard-there"),
    (listings.backbones, "backbones"),
    (listings.cushions, "cushions"),
    panel="Build",
)
add_commands(
    app,
    (screen.screen, "screen runs/guard incoming/ scan.dcm --format csv --quarantine quarantine/ > findings.csv"),
    (check.verify, "verify runs/guard --public-key public-key.pem"),
    (check.keys, "keys ~/medaegis-keys"),
    panel="Use",
)
add_commands(
    app,
    (attack.attack, "attack runs/guard phantom-xray --attack wb --eps 16/256 --steps 100 --out runs/attacked"),
    (evaluate.evaluate, "evaluate runs/guard phantom-xray --attacks pgd,wb --eps 4/256,8/256 --out runs/evaluation"),
    (
        certify.certify,
        "certify runs/guard phantom-xray --sigma 0.25 --radii 0.25,0.5 --limit 20 --out runs/certificate",
    ),
    (assess.assess, "assess runs/classifier phantom-xray --eps 1/256,4/256 --limit 100 --out runs/assessment"),
    (compare.compare, "compare runs/classifier phantom-xray --attacks bim,hfc --eps 1/256 --out runs/comparison"),
    (analyse.analyse, "analyse runs/guard phantom-xray --attack wb --eps 8/256 --out runs/analysis"),
    (report.report, "report runs/evaluation"),
    (listings.attacks, "attacks"),
    (listings.detectors, "detectors"),
    (listings.suites, "suites"),
    (listings.corruptions, "corruptions"),
    panel="Measure",
)
add_commands(
    data_app, (data.inspect, "data inspect chest-xray:/data/chest_xray --size 112"), (data.schemes, "data schemes")
)
add_commands(
    bench_app,
    (bench.plan, "bench plan aegis-table3 --scale cpu --data chest=chest-xray:PATH --data fundus=aptos2019:PATH"),
    (bench.run, "bench run aegis-table3 --scale smoke --store runs/experiments"),
    (bench.status, "bench status aegis-table3 --store runs/experiments"),
    (bench.table, "bench table aegis-table3 --form html --out table3.html"),
    (bench.diff, "bench diff aegis-table3 --store runs/experiments --other runs/elsewhere"),
    (bench.export, "bench export aegis-table3 --out table3.csv"),
    (bench.site, "bench site --store runs/experiments --entries runs/entries --out site"),
)
app.add_typer(data_app, name="data", rich_help_panel="Build")
app.add_typer(bench_app, name="bench", rich_help_panel="Measure")
