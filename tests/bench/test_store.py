"""The store of finished pieces: what is there is not computed again, what is damaged is."""

import subprocess
import sys

import pytest
import torch

from medaegis.bench.store import Store

KEY = {"guard": "ab", "eps": 8 / 256, "ids": [1, 2, 3]}
PIECE = {"score": torch.tensor([0.5, torch.inf]), "fooled": torch.tensor([True, False]), "n": torch.tensor(3)}


def never():
    raise AssertionError("computed again")


def same(piece):
    return piece.keys() == PIECE.keys() and all(
        torch.equal(piece[name], PIECE[name]) and piece[name].dtype == PIECE[name].dtype for name in PIECE
    )


def test_a_piece_is_computed_once(tmp_path):
    assert same(Store(tmp_path / "deep" / "folder").get(KEY, lambda: PIECE))
    assert same(Store(tmp_path / "deep" / "folder").get(dict(reversed(KEY.items())), never))
    assert [file.suffix for file in (tmp_path / "deep" / "folder").iterdir()] == [".safetensors"]


def test_time_spent_before_counts_each_found_piece_once(tmp_path):
    costly = {"cost": torch.tensor([[7.0, 1.0, 1.0]], dtype=torch.float64)}
    first = Store(tmp_path)
    for _ in range(3):
        first.get(KEY, lambda: costly)
    assert first.spent_before == 0, "it was spent now"
    later = Store(tmp_path)
    for _ in range(3):
        later.get(KEY, never)
    later.get({**KEY, "eps": 1 / 256}, lambda: costly)
    assert later.spent_before == 7


@pytest.mark.parametrize("change", [{"guard": "ac"}, {"eps": 8 / 255}, {"ids": [1, 2]}, {"more": None}])
def test_another_key_is_another_piece(tmp_path, change):
    store = Store(tmp_path)
    store.get(KEY, lambda: PIECE)
    other = {"score": torch.zeros(1)}
    assert store.get({**KEY, **change}, lambda: other)["score"].tolist() == [0.0]
    assert same(store.get(KEY, never))


@pytest.mark.parametrize("damage", [b"", b"\x00" * 40, b"not tensors at all", None])
def test_a_damaged_piece_is_computed_again(tmp_path, damage):
    store = Store(tmp_path)
    store.get(KEY, lambda: PIECE)
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:-1] if damage is None else damage)
    assert same(store.get(KEY, lambda: PIECE))
    assert same(store.get(KEY, never))


def test_a_failed_or_killed_computation_leaves_nothing_behind_that_counts(tmp_path):
    store = Store(tmp_path)
    with pytest.raises(AssertionError):
        store.get(KEY, never)
    assert same(store.get(KEY, lambda: PIECE))


def test_a_kill_while_writing_leaves_no_half_piece(tmp_path):
    """The process dies in the very moment in which the finished file would take its name."""
    code = f"""
import os, signal, torch
from pathlib import Path
from medaegis.bench.store import Store
os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
Store(Path({str(tmp_path)!r})).get({KEY!r}, lambda: {{"score": torch.zeros(9)}})
"""
    assert subprocess.run([sys.executable, "-c", code]).returncode == -9
    assert same(Store(tmp_path).get(KEY, lambda: PIECE))


def test_views_are_stored_whole(tmp_path):
    wide = torch.arange(12).view(3, 4)
    piece = {"turned": wide.t(), "spread": torch.tensor([1.0]).expand(5), "cut": wide[:, 1:3]}
    store = Store(tmp_path)
    store.get(KEY, lambda: piece)
    again = store.get(KEY, never)
    assert all(torch.equal(again[name], piece[name]) for name in piece)


@pytest.mark.skipif(sys.platform == "win32", reason="no such limits")
def test_a_full_disk_leaves_nothing_half_written(tmp_path):
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (40, hard))  # the system refuses what a full disk would
    try:
        with pytest.raises(OSError, match="large"):
            Store(tmp_path).get(KEY, lambda: PIECE)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []
    assert same(Store(tmp_path).get(KEY, lambda: PIECE))
