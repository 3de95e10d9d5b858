"""Options that several commands share."""

from pathlib import Path

from medaegis.cli.options import recorded_command


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
