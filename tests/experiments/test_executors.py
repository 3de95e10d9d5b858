"""Several processes, and a Ray cluster: the same bits, whoever dies."""

import contextlib
import multiprocessing
import os
import random
import signal
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from tests.cli.shop import call
from tests.experiments.small import cells, figures, run, written

from medaegis.bench.store import code_fingerprint
from medaegis.errors import ArtefactError, ConfigError
from medaegis.experiments.cluster import OnRay, _unpack, _work
from medaegis.experiments.processes import Processes
from medaegis.experiments.store import Pieces
from medaegis.experiments.tables import differences
from medaegis.experiments.tasks import everything
from medaegis.experiments.work import Workshop
from medaegis.progress import silent


def workers(of=None):
    """Processes that do tasks for this one."""
    return [child for child in psutil.Process(of).children() if "spawn_main" in " ".join(child.cmdline())]


def test_two_processes_give_the_same_bits_and_do_nothing_twice(whole, tmp_path):
    planned, store = whole
    ran = run(planned, tmp_path / "store", tmp_path / "log", executor=Processes(2))
    done = (tmp_path / "log").read_text(encoding="utf-8").split()
    assert (ran.tasks_left, ran.done) == (0, len(done))
    assert sorted(done) == sorted(task.key for task in everything(planned))
    assert differences(figures(tmp_path / "store"), figures(store)) == []
    assert not workers()
    assert run(planned, tmp_path / "store", executor=Processes(2)).done == 0


def test_a_worker_that_is_killed_is_replaced_and_its_task_goes_on(whole, tmp_path):
    planned, store = whole
    killed = []

    def listen(done, total, message):
        if not killed:
            killed.append(workers()[0])
            killed[0].kill()

    ran = run(planned, tmp_path / "store", executor=Processes(2), progress=listen)
    assert killed
    assert ran.tasks_left == 0
    assert differences(figures(tmp_path / "store"), figures(store)) == []


def _own(planned, folder, log):
    os.setsid()
    run(planned, folder, log, executor=Processes(2))


def test_an_owner_that_is_killed_takes_its_workers_along_and_the_next_goes_on(whole, tmp_path):
    planned, store = whole
    folder, log, moments = tmp_path / "store", tmp_path / "log", random.Random(5)
    fork = multiprocessing.get_context("fork")
    for _ in range(3):
        owner = fork.Process(target=_own, args=(planned, folder, log))
        owner.start()
        while not (theirs := workers(owner.pid)) and owner.is_alive():
            time.sleep(0.05)
        owner.join(moments.uniform(0, 2))
        assert owner.is_alive(), "it ended before it was killed"
        os.kill(owner.pid, signal.SIGKILL)
        owner.join()
        assert not psutil.wait_procs(theirs, timeout=30)[1]
    run(planned, folder, log, executor=Processes(2))
    done = log.read_text(encoding="utf-8").split()
    assert len(done) == len(set(done))
    assert differences(figures(folder), figures(store)) == []


@pytest.mark.parametrize(
    ("network", "said"), [("kills", "died 2 times .exit code 7"), ("refuses", "will not be built")]
)
def test_a_task_that_cannot_be_done_is_told_and_ends_the_workers(network, said, cache, tmp_path):
    planned = cells(written(tmp_path, ("medaegis.experiments.tiny:network", f"tests.experiments.deadly:{network}")))
    with pytest.raises(ConfigError, match=said):
        run(planned, tmp_path / "store", executor=Processes(2, retries=1))
    assert not workers()


@pytest.fixture
def short(monkeypatch):
    """A folder for temporary files whose name is short enough for the sockets of Ray."""
    with tempfile.TemporaryDirectory(prefix="r", dir="/tmp") as folder:
        monkeypatch.setenv("TMPDIR", folder)
        yield Path(folder)


def test_a_defect_in_a_worker_is_raised_with_where_it_happened(whole, tmp_path):
    planned, _ = whole
    unknown = replace(next(everything(planned)), kind="unknown")
    with pytest.raises(KeyError) as found:
        list(Processes(2)([unknown], Workshop(Pieces(tmp_path)), lambda task: silent))
    assert "work.py" in found.value.__notes__[0]
    assert not workers()


def test_a_machine_of_the_cluster_that_cannot_do_the_work_says_so():
    answer, _ = _work(b"", {}, {}, "none", "cpu", "another", None)
    assert "another medaegis" in str(answer)
    answer, _ = _work(b"", {}, {}, "none", "cuda:77", code_fingerprint(), None)
    assert "device 'cuda:77'" in str(answer)


def test_a_ray_cluster_gives_the_same_bits_though_a_worker_is_killed(whole, tmp_path, short, monkeypatch):
    ray = pytest.importorskip("ray")
    planned, store = whole
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setenv("RAY_worker_niceness", "0")  # else its workers starve beside other tests
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    killed, over = [], threading.Event()

    def kill_one():
        while not (killed or over.wait(0.01)):
            with contextlib.suppress(psutil.Error):  # of a process that ended meanwhile
                busy = [p for p in psutil.Process().children(recursive=True) if p.name().startswith("ray::classifier")]
                if busy:
                    busy[0].kill()
                    killed.append(busy[0])

    killer = threading.Thread(target=kill_one)
    killer.start()
    try:
        ran = run(planned, tmp_path / "store", tmp_path / "log", executor=OnRay())
    finally:
        over.set()
        killer.join()
        ray.shutdown()
    assert killed
    assert ran.tasks_left == 0
    done = (tmp_path / "log").read_text(encoding="utf-8").split()
    assert sorted(done) == sorted(task.key for task in everything(planned))
    assert differences(figures(tmp_path / "store"), figures(store)) == []
    (mine,) = short.glob("medaegis-cluster-*")
    assert list(mine.iterdir()) == []


def test_a_folder_that_came_and_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").write_text("no folder", encoding="utf-8")
    with pytest.raises(ArtefactError, match="could not be written"):
        _unpack(tmp_path / "file" / "key", {"manifest.json": b"{}"})


def test_options_of_the_command_line(tmp_path):
    found = call("bench", "run", "aegis-table2", "--on", "ray", "--workers", "2", "--store", tmp_path / "s")
    assert found.exit_code == 2
    assert "--workers" in found.stderr
    found = call("bench", "run", "aegis-table2", "--workers", "0", "--store", tmp_path / "s")
    assert found.exit_code == 2
    assert not (tmp_path / "s").exists()
