"""The benchmarks' own logic: turns, budgets, ratios, goals, records; and that every benchmark still runs."""

import itertools
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from benchmarks.record import Record, reached, write_page
from benchmarks.subjects import Normalised, near_pictures, pictures, splitting_network
from benchmarks.timing import Case, Ratio, interleave, ratio

from benchmarks import cushion, detectors, engine, gpu, guard, memory, reading, shield

ROOT = Path(__file__).parents[2]


class Clock:
    """Time that passes only while something runs."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now

    def taking(self, seconds):
        def run():
            self.now += seconds

        return run


def test_every_case_runs_once_a_round_each_time_from_another_start():
    order = []
    cases = [Case(name, lambda name=name: order.append(name)) for name in "abc"]
    interleave(cases, rounds=3, budget=60)
    assert order == [*"abc", *"abc", *"bca", *"cab"]  # a warm-up, then three rounds


def test_warm_up_is_not_timed():
    clock = Clock()
    case = Case("slow start", clock.taking(1), warm=clock.taking(100))
    assert interleave([case], rounds=2, budget=10, clock=clock) == {"slow start": [1, 1]}


@pytest.mark.parametrize(("budget", "rounds"), [(0, 1), (5.9, 1), (6, 2), (10, 3), (1000, 7)])
def test_no_round_begins_that_would_not_fit(budget, rounds):
    clock = Clock()
    cases = [Case("a", clock.taking(1)), Case("b", clock.taking(2))]
    seconds = interleave(cases, rounds=7, budget=budget, clock=clock)
    assert [len(each) for each in seconds.values()] == [rounds, rounds]


def test_same_name_twice_is_refused():
    with pytest.raises(ValueError, match="same name"):
        interleave([Case("a", int), Case("a", int)], rounds=1, budget=1)


def test_ratio_is_taken_within_rounds():
    """The machine is ten times slower in the second round: no ratio sees it."""
    assert ratio({"slow": [4, 40, 5], "fast": [2, 20, 1]}, "slow", "fast") == Ratio(2, 2, 5)


@pytest.mark.parametrize(
    ("value", "goal", "met"),
    [(4, ">= 4", True), (3.99, ">= 4", False), (1.05, "<= 1.05", True), (1.2, "<= 1.05", False)],
)
def test_goals(value, goal, met):
    assert reached(value, goal) is met


def test_goal_without_sign_is_refused():
    with pytest.raises(ValueError, match="write"):
        reached(1, "4")


def test_record_keeps_every_round_and_is_on_disk_before_the_end(tmp_path):
    record = Record("engine", "About.", command="c", out=tmp_path, seed=3, quick=False, tell=lambda line: None)
    ticks = itertools.count()
    seen = []

    def look():
        if next(ticks) == 2:  # warm-up and one round are over
            seen.append(json.loads((tmp_path / "engine.json").read_text()))

    seconds = record.measure("group", [Case("work", look, work=5)], unit="image", rounds=2, budget=60)
    assert not seen[0]["complete"]
    assert len(seen[0]["measurements"][0]["seconds"]) == 1
    record.ratio("itself", seconds, "work", "work", goal="<= 1")
    record.save(complete=True)
    kept = json.loads((tmp_path / "engine.json").read_text())
    assert kept["complete"]
    assert {"command", "date", "commit", "machine", "versions", "seed"} <= set(kept)
    assert len(kept["measurements"][0]["seconds"]) == 2
    assert kept["ratios"] == [{"what": "itself", "value": 1, "low": 1, "high": 1, "goal": "<= 1", "met": True}]
    page = write_page(tmp_path, ["absent", "engine"]).read_text()
    assert "## engine" in page
    assert "| itself | 1 | 1 to 1 | <= 1 | yes |" in page


def test_network_splits_its_images_in_halves():
    images = near_pictures(6, 32, seed=1)
    model = splitting_network("resnet18", images, seed=1)
    with torch.no_grad():
        assert model(images).argmax(1).sum() == 3


def test_pictures_repeat_with_the_seed_and_leave_the_global_state():
    before = torch.random.get_rng_state()
    assert torch.equal(pictures(2, 1, 24, seed=5), pictures(2, 1, 24, seed=5))
    assert not torch.equal(pictures(2, 1, 24, seed=5), pictures(2, 1, 24, seed=6))
    assert torch.equal(before, torch.random.get_rng_state())


def test_result_outside_the_ball_is_an_error():
    x = torch.zeros(1, 3, 8, 8)
    with pytest.raises(RuntimeError, match=r"9\.000/255 away"):
        engine._success(Normalised(torch.nn.Flatten()), x + 9 / 255, x, torch.zeros(1, dtype=torch.int64))


@pytest.mark.skipif(not torch.sys.platform.startswith("linux"), reason="set back on Linux only")
def test_peak_memory_sees_what_is_freed_again():
    """In a new process, as it is measured: one that ran other tests holds freed memory that is taken again."""
    program = (
        "import torch; from benchmarks.memory import peak; "
        "print(*peak(lambda: torch.ones(64 * 2**20 // 4).sum(), repeats=1).values())"
    )
    told = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    mark = dict(zip(("before", "peak"), map(float, told.split()), strict=True))
    assert 60 * 2**20 < mark["peak"] - mark["before"] < 100 * 2**20


@pytest.mark.parametrize(
    "module", [cushion, detectors, engine, gpu, guard, reading, shield], ids=lambda module: module.__name__
)
def test_every_benchmark_runs(module, tmp_path, monkeypatch):
    """With one round each; guards against interfaces that move away."""
    measure = Record.measure

    def once(self, group, cases, *, unit, rounds, budget):
        return measure(self, group, cases, unit=unit, rounds=1, budget=0)

    monkeypatch.setattr(Record, "measure", once)
    monkeypatch.setattr(memory, "measure", lambda *arguments: {"before": 1.0, "peak": 2.0})
    monkeypatch.setattr(engine, "peers", lambda *arguments, **options: {})
    name = module.__name__.rpartition(".")[2]
    record = Record(name, module.ABOUT, command="c", out=tmp_path, seed=0, quick=True, tell=lambda line: None)
    module.run(record)
    record.save(complete=True)
    kept = json.loads((tmp_path / f"{name}.json").read_text())
    assert kept["measurements"]
    assert all(row["rate"] > 0 for row in kept["measurements"])
    for row in kept["measurements"]:
        assert row.get("extra", {}).get("success", 1) == 1, "an attack that does not succeed is no fair comparison"
