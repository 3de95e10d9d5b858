"""Options that several commands share."""

from pathlib import Path

import pytest

from medaegis.cli.options import gradient_list, recorded_command
from medaegis.cushions import parse_cushion
from medaegis.errors import ConfigError


def test_a_way_that_nothing_would_go_is_refused():
    jpeg, none = parse_cushion("jpeg:80"), parse_cushion("none")
    assert gradient_list("bpda,twin", jpeg, ["square", "pgd"]) == ["bpda", "twin"]
    assert gradient_list("bpda", none, ["square"]) == ["bpda"]
    for text, cushion, attacks, told in (
        ("sideways", jpeg, ["pgd"], "is no way through a Cushion"),
        ("twin", none, ["pgd"], "without a Cushion every way is the same"),
        ("bpda,skip", none, ["pgd"], "without a Cushion"),
        ("twin", jpeg, ["square", "hopskipjump"], "square, hopskipjump: by answers alone"),
        ("bpda,twin", jpeg, ["square"], "without gradients; leave it out"),
    ):
        with pytest.raises(ConfigError, match=told):
            gradient_list(text, cushion, attacks)


def test_a_recorded_command_can_be_typed_again_and_names_no_folder_of_this_machine():
    options = {
        "--eps": "8/256",
        "--limit": None,
        "--seed": 0,
        "--no-planted": True,
        "--signed": False,
        "--guard": Path("/home/me/runs/guard"),
        "--surrogate": [Path("/home/me/a"), Path("/home/me/b")],
    }
    told = recorded_command("evaluate", Path("/home/me/runs/mine"), "folder:/home/me/scans?size=3", options)
    assert told == (
        "medaegis evaluate mine folder:PATH?size=3 --eps 8/256 --seed 0 --no-planted --guard guard"
        " --surrogate a --surrogate b"
    )
    assert recorded_command("assess", Path("c"), "phantom-xray?n=60", {}) == "medaegis assess c phantom-xray?n=60"
