"""The store: one writer, what is damaged is told and loses nothing else, a full disk too."""

import os
import re
import resource
import shutil
import signal
import sqlite3

import pytest
from tests.experiments.small import figures, run

from medaegis.errors import ArtefactError, ConfigError
from medaegis.experiments.store import INDEX, ExperimentStore
from medaegis.experiments.tables import differences
from medaegis.experiments.tasks import everything


@pytest.fixture
def copied(whole, tmp_path):
    planned, store = whole
    return planned, shutil.copytree(store, tmp_path / "store")


def test_one_writes_and_many_read(copied):
    _, folder = copied
    with ExperimentStore(folder, write=True):
        with pytest.raises(ConfigError, match=f"process {os.getpid()} writes to it"):
            ExperimentStore(folder, write=True)
        assert len(figures(folder)) == 6
    ExperimentStore(folder, write=True).close()


def test_where_there_is_none_nothing_is_made(tmp_path):
    with pytest.raises(ConfigError, match="holds no experiments"):
        ExperimentStore(tmp_path / "none")
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("place", [0.0, 0.5])
def test_a_damaged_index_is_told_and_the_figures_are_counted_anew_from_what_is_finished(copied, whole, place):
    planned, folder = copied
    with sqlite3.connect(folder / INDEX) as index:
        index.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    data = bytearray((folder / INDEX).read_bytes())
    start = int(place * len(data))
    data[start : start + 3000] = bytes(255 - value for value in data[start : start + 3000])
    (folder / INDEX).write_bytes(bytes(data))
    with pytest.raises(ArtefactError, match=f"{INDEX}.*(damaged|something else).*"):
        run(planned, folder)
    (folder / INDEX).unlink()
    assert run(planned, folder, folder / "log").tasks_left == 0
    done = (folder / "log").read_text(encoding="utf-8").split()
    assert sorted(done) == sorted(cell.task.key for cell in planned)  # the figures alone
    assert differences(figures(folder), figures(whole[1])) == []


def test_a_foreign_index_is_left_alone(copied):
    planned, folder = copied
    (folder / INDEX).unlink()
    with sqlite3.connect(folder / INDEX) as index:
        index.execute("CREATE TABLE mine (x)")
    with pytest.raises(ArtefactError, match="something else"):
        run(planned, folder)


def test_a_damaged_file_is_told_and_alone_made_anew(copied, whole):
    planned, folder = copied
    task = planned[0].task.needs["hostile"]
    file = folder / "pieces" / task.key / "piece.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\x7f")
    (folder / INDEX).unlink()  # so that the scores are asked for again
    with pytest.raises(ArtefactError, match=f"SHA-256.*delete .*{task.key} and run again"):
        run(planned, folder)
    shutil.rmtree(file.parent)
    assert run(planned, folder, folder / "log").tasks_left == 0
    done = set((folder / "log").read_text(encoding="utf-8").split())
    assert done <= {cell.task.key for cell in planned} | {task.key}
    assert task.key in done
    assert differences(figures(folder), figures(whole[1])) == []


def test_a_full_disk_is_told_and_loses_nothing_that_is_finished(whole, tmp_path):
    """Files may be so large and no larger: at first not even the index fits, then the guard does not."""
    planned, store = whole
    log, found = tmp_path / "log", set()
    limits, heard = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    for kib in (4, 40, 200):
        resource.setrlimit(resource.RLIMIT_FSIZE, (kib * 1024, limits[1]))
        try:
            run(planned, tmp_path / "store", log)
        except (ArtefactError, OSError) as error:
            found.add(str(error))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    signal.signal(signal.SIGXFSZ, heard)
    assert found
    assert all(re.search(r"full|too large|I/O error", text) for text in found), found
    before = log.read_text(encoding="utf-8").split() if log.exists() else []
    assert run(planned, tmp_path / "store", log).tasks_left == 0
    done = log.read_text(encoding="utf-8").split()
    # Where its folder was written but could not be noted any more, a task is finished all the same.
    assert len(list(everything(planned))) - 3 <= len(done) == len(set(done))
    assert 0 < len(before) < len(done)
    assert not list((tmp_path / "store" / "pieces").glob("*.chunks"))
    assert differences(figures(tmp_path / "store"), figures(store)) == []
