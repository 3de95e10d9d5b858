"""Options that several commands share."""

from pathlib import Path
from typing import Annotated

import pytest
import typer
from tests.cli.shop import call
from typer.testing import CliRunner

from medaegis.bench.plan import ways_through
from medaegis.cli.app import app
from medaegis.cli.options import Gradient, recorded_command
from medaegis.cushions import parse_cushion
from medaegis.errors import ConfigError


def test_a_way_that_nothing_would_go_is_refused():
    jpeg, none = parse_cushion("jpeg:80"), parse_cushion("none")
    assert ways_through(jpeg, ["bpda", "twin"], ["square", "pgd"]) == ["bpda", "twin"]
    assert ways_through(none, ["bpda"], ["square"]) == ["bpda"]
    for text, cushion, attacks, told in (
        ("sideways", jpeg, ["pgd"], "is no way through a Cushion"),
        ("twin", none, ["pgd"], "without a Cushion every way is the same"),
        ("bpda,skip", none, ["pgd"], "without a Cushion"),
        ("twin", jpeg, ["square", "hopskipjump"], "square, hopskipjump: by answers alone"),
        ("bpda,twin", jpeg, ["square"], "without gradients; leave it out"),
    ):
        with pytest.raises(ConfigError, match=told):
            ways_through(cushion, text.split(","), attacks)


def test_a_recorded_command_can_be_typed_again_and_names_no_folder_of_this_machine():
    told = []
    app = typer.Typer()

    @app.command()
    def evaluate(
        context: typer.Context,
        guard_dir: Path,
        spec: Annotated[str, typer.Argument()],
        out: Annotated[Path, typer.Option("--out")],
        eps: Annotated[str, typer.Option("--eps")] = "4/256",
        planted: Annotated[bool, typer.Option()] = True,
        guard: Annotated[Path | None, typer.Option("--guard")] = None,
        surrogate: Annotated[list[Path] | None, typer.Option("--surrogate")] = None,
        gradient: Annotated[Gradient, typer.Option("--gradient")] = Gradient.bpda,
        limit: Annotated[int | None, typer.Option("--limit")] = None,
        as_json: Annotated[bool, typer.Option("--json")] = False,
    ) -> None:
        told.append(recorded_command(context))

    words = "/home/me/runs/mine folder:/home/me/scans?size=3 --out /home/me/out --json --no-planted --eps 8/256"
    words += " --guard /home/me/runs/guard --gradient twin --surrogate /home/me/a --surrogate /home/me/b"
    CliRunner().invoke(app, words.split(), prog_name="evaluate", catch_exceptions=False)
    assert told == [
        "medaegis evaluate mine folder:PATH?size=3 --eps 8/256 --no-planted --guard guard --surrogate a --surrogate b"
        " --gradient twin"
    ]


def test_every_command_that_computes_takes_a_device():
    names = [
        "train",
        "wrap",
        "fit",
        "calibrate",
        "screen",
        "attack",
        "evaluate",
        "assess",
        "compare",
        "analyse",
        "demo",
    ]
    for name in names:
        (command,) = [one for one in app.registered_commands if (one.name or one.callback.__name__) == name]
        assert "device" in command.callback.__annotations__, name


def test_a_device_that_is_not_there_is_refused_before_anything_is_read(tmp_path):
    for device, told in (("cuda:99", "device 'cuda:99'"), ("abacus", "device 'abacus'")):
        result = call("evaluate", tmp_path / "none", "phantom-xray", "--out", tmp_path / "out", "--device", device)
        assert result.exit_code == 2
        assert told in result.stderr
