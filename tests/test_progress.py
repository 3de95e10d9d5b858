"""What is left and where killed work goes on, by a clock in the test's hand, and what a terminal or a log is told."""

import re
import time

import pytest
import torch

from medaegis.bench.store import Store
from medaegis.cli import console
from medaegis.progress import GOES_ON, Pace, Resumed, Stages


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


def test_what_is_left_is_reckoned_by_the_work_of_this_call():
    clock = Clock()
    pace = Pace(clock)
    assert pace.left is None
    pace.report(0, 45)
    assert pace.left is None, "nothing to reckon by"
    clock.now += 30
    pace.report(3, 45)
    assert pace.left == pytest.approx(10 * 42)
    clock.now += 6
    assert pace.left == pytest.approx(12 * 42), "a step that takes long makes the rest longer"


def test_what_an_earlier_call_did_took_this_one_no_time():
    clock = Clock()
    pace = Pace(clock)
    clock.now += 5
    pace.report(15, 45, GOES_ON)
    assert pace.left is None
    clock.now += 20
    pace.report(17, 45)
    assert pace.left == pytest.approx(25 / 2 * 28)


def test_a_second_stage_has_a_pace_of_its_own():
    clock = Clock()
    pace = Pace(clock)
    clock.now += 1000
    pace.report(10, 10)
    pace.report(0, 4)
    clock.now += 8
    pace.report(1, 4)
    assert pace.left == pytest.approx(24)
    assert pace.seconds == pytest.approx(1008)


def test_stages_of_unknown_length_make_one_whole():
    """Each begins where the one before ended, whatever it counts; one that nobody expected is taken for the last."""
    told = []
    progress = Stages(lambda *what: told.append(what), 3)
    for done, total in ((8, 16), (16, 16), (16, 16), (0, 150), (150, 150), (5, 10)):
        progress(done, total, "work")
    assert [done for done, *_ in told] == [500, 1000, 2000, 2000, 3000, 2500]
    assert {total for _, total, _ in told} == {3000}


def test_a_killed_run_says_where_it_goes_on_and_what_is_found_again_is_not_told(tmp_path):
    def run(pieces):
        told = []
        progress = Resumed(lambda *what: told.append(what))
        store = Store(tmp_path, progress.begin)
        for i in range(pieces):
            store.get({"piece": i}, lambda: {"x": torch.zeros(1)})
            progress(i + 1, 45, "work")
        return told

    assert run(15) == [(i, 45, "work") for i in range(1, 16)]
    assert run(17) == [(15, 45, GOES_ON), (16, 45, "work"), (17, 45, "work")]
    assert run(17) == [], "nothing is left to do"


def test_a_log_is_told_what_is_left_and_where_work_goes_on(monkeypatch, capsys):
    """Also while nothing is reported at all."""
    monkeypatch.setattr(console, "PLAIN_SECONDS", 0.05)
    with console.progress("Evaluating") as progress:
        time.sleep(0.3)
        progress(15, 45, GOES_ON)
        progress(17, 45, "pgd\x1b[31m")
        time.sleep(0.3)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "Evaluating: 0 s so far, not known yet how long"
    assert "Evaluating goes on at 15 of 45" in lines
    assert any(re.fullmatch(r"Evaluating: 17/45, pgd\\x1b\[31m; \d s so far, about \d+ s left", line) for line in lines)
    assert capsys.readouterr().err == "", "it goes on after the work is over"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(4.2, "4 s"), (59.4, "59 s"), (100, "1 min 40 s"), (1500, "25 min"), (7500, "2 h 5 min")],
)
def test_times_in_words(seconds, words):
    assert console.time_in_words(seconds) == words
