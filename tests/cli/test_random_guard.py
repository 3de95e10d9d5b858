"""Screening and attacking behind a random Cushion: the record of an image names its draw, and repeats by it exactly."""

import csv
import json

import pytest
import torch
from tests.attacks.toys import toy_bank
from tests.cli.shop import call
from tests.guard.fitted import learned_classifier
from tests.models.drawn import squares
from tests.models.tiny_networks import tiny

from medaegis.bench.attack import attack_guard, png
from medaegis.bench.plan import SAMPLES, Planned, samples_for
from medaegis.cushions import parse_cushion
from medaegis.errors import ConfigError
from medaegis.guard.guard import Guard
from medaegis.guard.site import Site

RANDOM = "random:jpeg:20-60+bits:4-5"
OWN = ("--factory", "tests.models.tiny_networks:tiny", "--format", "jsonl")


def made(cushion):
    return Guard(learned_classifier(), parse_cushion(cushion), toy_bank(learned_classifier()), tnr=0.9)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Guards and pictures, one file that is none."""
    folder = tmp_path_factory.mktemp("place")
    made(RANDOM).save(folder / "random")
    made("jpeg:80").save(folder / "fixed")
    (folder / "images").mkdir()
    dataset, split = squares(240)
    for i, image in enumerate(dataset.pixels(torch.tensor(split.adv_test[:6]))):
        (folder / "images" / f"{i}.png").write_bytes(png(image))
    (folder / "images" / "none.png").write_text("no picture")
    return folder


def screened(*arguments):
    result = call("screen", *arguments, *OWN)
    assert result.exit_code in (0, 1), result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_a_record_names_its_draw_and_repeats_by_it(place):
    found = sorted(screened(place / "random", place / "images"), key=lambda one: one["file"])  # as they were read
    choices = {choice.spec for choice in parse_cushion(RANDOM).choices}
    assert [one["cushion"] in choices for one in found] == [True] * 6 + [False]
    assert (found[-1]["status"], found[-1]["cushion"]) == ("unreadable", None)
    assert {one["draw"] for one in found} == {"fresh"}
    for one in found[:-1]:
        (again,) = screened(place / "random", one["file"], "--draw", one["cushion"])
        assert again["draw"] == "given", "a chosen draw passes for a fresh one"
        exact = {
            name: value for name, value in one.items() if name not in ("draw", "suspicion", "probability", "reason")
        }
        assert exact.items() <= again.items()
        assert again["suspicion"] == pytest.approx(one["suspicion"], rel=1e-4, abs=1e-4)
    table = call("screen", place / "random", place / "images", *OWN[:2], "--format", "csv").stdout
    rows = sorted(csv.DictReader(table.splitlines()), key=lambda row: row["file"])
    assert all(row["cushion"] in choices for row in rows[:6])


def test_records_of_deterministic_guards_stay_as_they_are(place):
    for one in screened(place / "fixed", place / "images"):
        assert "cushion" not in one
        assert "draw" not in one
    result = call("screen", place / "fixed", place / "images", *OWN, "--draw", "jpeg:80")
    assert result.exit_code == 2
    assert "is not random" in result.stderr
    wrong = call("screen", place / "random", place / "images", *OWN, "--draw", "jpeg:61")
    assert wrong.exit_code == 2
    assert "never draws it" in wrong.stderr


def test_the_table_of_an_attack_names_the_draws_that_judged(place):
    guard = Guard.load(place / "random", factory=tiny)
    dataset, split = squares(240)
    out = place / "attacked"
    planned = Planned("bim", 8 / 256, "8/256", steps=2, samples=2)
    told = attack_guard(guard, Site(dataset, split), planned, out_dir=out, limit=5, seed=7)
    assert told["forwards"] == 2 * 2 * told["images"]
    with (out / "attack.csv").open(encoding="utf-8") as stream:
        for row in csv.DictReader(stream):
            (one,) = screened(place / "random", out / row["file"], "--draw", row["cushion"])
            assert one["suspicion"] == pytest.approx(float(row["suspicion"]), rel=1e-4, abs=1e-4)
            assert (one["status"] == "accepted") == (row["accepted"] == "True")


def test_samples_are_several_by_default_where_they_differ_and_refused_where_not():
    drawn, fixed = parse_cushion(RANDOM), parse_cushion("jpeg:80")
    assert [samples_for(drawn, asked) for asked in (None, 1, 9)] == [SAMPLES, 1, 9]
    assert samples_for(fixed, None) == samples_for(fixed, 1) == 1
    with pytest.raises(ConfigError, match="jpeg:80 is not random, so every draw is the same"):
        samples_for(fixed, 4)
