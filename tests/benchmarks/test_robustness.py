"""The trials of robustness: seeded, resumable, unable to pass over what is wrong; and a few of each kind."""

import json
import random
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from benchmarks.robustness import page, summary
from benchmarks.robustness_files import CASES, run_kind
from benchmarks.robustness_runs import contents, differences, steady
from benchmarks.robustness_stock import PNG, pictures, spoilt

ROOT = Path(__file__).parents[2]
COUNT = 24


def test_the_full_run_is_as_large_as_asked():
    assert sum(CASES.values()) >= 30_000


def test_damage_is_a_function_of_the_seed():
    sound = pictures("png")
    made = [spoilt(sound[0], random.Random(seed), sound) for seed in (1, 1, 2)]
    assert made[0] == made[1] != made[2]
    assert sum(spoilt(data, random.Random(7), sound) != data for data in sound) == len(sound)
    assert all(data.startswith(PNG) for data in sound)


@pytest.mark.parametrize("kind", ["dicom", "guard", "table"])
def test_damaged_files_are_read_or_refused(kind, tmp_path):
    told = run_kind(kind, COUNT, 5, tmp_path)
    assert told["wrong"] == []
    assert set(told["outcomes"]) <= {"read", "refused"}
    assert sum(told["outcomes"].values()) == COUNT
    assert told["outcomes"]["refused"] > 0
    # Called again it has nothing left to do.
    stored = (tmp_path / f"{kind}.json").stat().st_mtime_ns
    assert run_kind(kind, COUNT, 5, tmp_path) == told
    assert (tmp_path / f"{kind}.json").stat().st_mtime_ns == stored


BROKEN = """
import os, sys, time
import medaegis.images as images
from pathlib import Path
from benchmarks import robustness_files as files
turn, sound = [0], images.read_image
def read_image(path, frame=0):
    turn[0] += 1
    if turn[0] <= 3:
        return sound(path, frame=frame)
    if turn[0] == 5:  # after three files to warm up: the second case
        exec(sys.argv[1])
    raise images.readers.ImageError(str(path), "", "")
images.read_image = read_image
files.main("png", 0, 4, 0, Path(sys.argv[2]))
"""


@pytest.mark.parametrize(
    ("fault", "outcome"),
    [("raise KeyError('x')", "other exception"), ("time.sleep(1)", "over the time")],
)
def test_what_is_wrong_is_told(fault, outcome, tmp_path):
    code = BROKEN.replace("exec(sys.argv[1])", fault).replace("files.main(", "files.SECONDS = 0.5; files.main(")
    done = subprocess.run(
        [sys.executable, "-c", code, fault, str(tmp_path / "w")], capture_output=True, text=True, cwd=ROOT, check=True
    )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    wrong = [line for line in lines if "outcome" in line]
    assert [(line["case"], line["outcome"]) for line in wrong] == [(1, outcome)]
    assert lines[-1]["outcomes"] == {"refused": 3, outcome: 1}


def test_times_do_not_count_as_differences_and_figures_do():
    one = {"auroc": 0.9, "seconds": 3.0, "cells": [{"n": 4, "date": "today"}]}
    assert steady(one) == steady({**one, "seconds": 4.0, "cells": [{"n": 4, "date": "tomorrow"}]})
    assert steady(one) != steady({**one, "auroc": 0.8})
    assert steady(one) != steady({**one, "cells": [{"n": 5}]})
    assert differences({"a": "1", "b": "2"}, {"a": "1", "b": "3", "c": "4"}) == ["b", "c"]


def _store(folder, *, value=0.9, at="today"):
    folder.mkdir()
    with closing(sqlite3.connect(folder / "index.sqlite")) as index, index:
        index.execute("CREATE TABLE figures (key, metric, value)")
        index.execute("CREATE TABLE cells (experiment, scale, place, key, settings, about)")
        index.execute("INSERT INTO figures VALUES ('k', 'auc', ?)", (value,))
        index.execute("INSERT INTO cells VALUES ('e', 'smoke', 'p', 'k', '{}', ?)", (at,))
    return contents(folder)


def test_stores_of_experiments_are_compared_by_their_figures_not_by_when_they_were_made(tmp_path):
    one = _store(tmp_path / "one")
    assert one == _store(tmp_path / "later", at="tomorrow")
    assert differences(_store(tmp_path / "other", value=0.8), one) == ["index.sqlite"]


RUNS = """
import json, sys
from pathlib import Path
from benchmarks.robustness_places import full_disk, no_room
from benchmarks.robustness_runs import COMMANDS, Runner, contents, differences, kill_often, reference, words_of
COMMANDS["train"] = COMMANDS["train"].replace("resnet18", "mobilenet_v2").replace("--batch-size 8", "--batch-size 32")
home = Path(sys.argv[1])
runner = Runner(home)
first = reference(runner, "train", home)
other = runner.run(words_of("train", home, home / "other", seed=1))
told = {
    "first": first,
    "other": [other.code, differences(contents(home / "other"), first["contents"])],
    "kills": [kill_often(runner, "train", 0, 3, 0, home)],
    "room": [no_room(runner, "train", 0.3, home), full_disk(runner, "train", 0.3, home)],
}
print(json.dumps(told))
"""


def test_a_killed_command_and_one_without_room_go_on(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", RUNS, str(tmp_path)], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["first"]["unsteady"] == []
    assert "network.safetensors" in told["first"]["contents"]
    code, changed = told["other"]
    assert (code, "network.safetensors" in changed) == (0, True), "another seed gives another network"
    assert told["kills"][0]["met"] > 0
    for kill in told["kills"]:
        assert (kill["sound"], kill["lost"]) == (True, [])
    for trial in told["room"]:
        if trial is not None:
            assert trial["sound"], trial["said"]
            assert (trial["code"], trial["sound_after"], trial["lost"]) == (1, True, [])


def test_the_page_tells_all():
    found = {
        "files": {
            "png": {"outcomes": {"read": 3, "refused": 5, "over the time": 1}, "slowest": 91.0, "most_mebibytes": 70}
            | {"wrong": [{"kind": "png", "case": 4, "outcome": "over the time", "detail": "91 s"}]}
        },
        "kills": {
            "train": {"unsteady": [], "seconds": 3.0}
            | {"turns": [{"kills": 3, "met": 2, "sound": True, "lost": lost} for lost in ([], ["x.npz"])]}
        },
        "room": {
            "train": [
                {"trouble": "disk", "bytes": 8, "code": 1, "sound": True, "said": "", "sound_after": True, "lost": []},
                None,
            ]
        },
        "rights": [{"trouble": "screen", "code": 0, "sound": False, "said": "", "named": False}],
    }
    told = " ".join(summary(found))
    words = ("9 damaged", "1 not read", "4 kills", "1 runs with another", "1 runs without room: 0 wrong", "1 skipped")
    assert all(word in told for word in words), told
    assert "1 trials without rights: 1 wrong" in told
    machine = {"cpu": "c", "cores": 2}
    content = {"trials": found, "command": "x", "date": "d", "commit": "abc", "seed": 3, "machine": machine}
    text = page(content | {"load_before": 0.1, "seconds": 60})
    assert "| png | 9 | 3 | 5 | 1 | 91.0 s | 70 MiB |" in text
    assert "png 4: over the time" in text
    assert "| train | 3.0 s | 2 | 6 | 4 | 1 of 2 |" in text
    assert "**not named**" in text
