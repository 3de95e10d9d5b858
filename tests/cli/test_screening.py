"""A whole screening: results as they come, places that cannot be looked at, copies that are whole, and what is odd."""

import hashlib
import json
import os
import resource
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.stats import binomtest
from tests.cli.shop import SIDE, Shop, call
from tests.images.tiffs import write_tiff

from medaegis.cli.remarks import remarks
from medaegis.errors import ArtefactError
from medaegis.guard.finding import Finding
from medaegis.guard.guard import Guard
from medaegis.guard.quarantine import set_aside
from medaegis.guard.screening import Screened
from medaegis.images import load_dataset

RNG = np.random.default_rng(5)


def rows(result) -> list[dict]:
    return [json.loads(line) for line in result.stdout.splitlines()]


def noise(folder: Path, count: int) -> list[Path]:
    files = []
    for i in range(count):
        files.append(folder / f"noise-{i}.png")
        Image.fromarray(RNG.integers(0, 256, (SIDE, SIDE), dtype=np.uint8)).save(files[-1])
    return files


def test_a_file_of_many_frames_does_not_keep_the_others_back(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    page = RNG.integers(0, 256, (16, 16), dtype=np.uint16)
    (tmp_path / "a-long.tif").write_bytes(write_tiff(page, 8, pages=800))
    noise(tmp_path, 2)
    start = time.process_time()
    found = rows(call("screen", shop.guard, tmp_path, "--format", "jsonl"))
    assert time.process_time() - start < 20  # 3 on an idle machine; 38 where all directories are walked for each page
    names = [Path(one["file"]).name for one in found]
    assert names.count("a-long.tif") == 800
    assert [one["frame"] for one in found if one["frames"] == 800] == list(range(800))
    assert max(map(names.index, ("noise-0.png", "noise-1.png"))) < 200
    monkeypatch.chdir(tmp_path)  # a long path is folded in the table
    table = call("screen", shop.guard, ".").stdout
    assert (
        table.index("a-long.tif") < table.index("[800/800]") < table.index("noise-0.png") < table.index("noise-1.png")
    )


def test_what_cannot_be_looked_at_is_named_and_ends_with_1(shop: Shop, tmp_path: Path):
    dataset = load_dataset(shop.spec, size=SIDE, channels="gray", limit=12)
    good = tmp_path / "good"
    good.mkdir()
    for i, image in enumerate(dataset.images[:, 0].numpy()):
        Image.fromarray(image).save(good / f"{i}.png")
    found = rows(call("screen", shop.guard, good, "--format", "jsonl"))
    for one in found:
        if one["status"] != "accepted":
            Path(one["file"]).unlink()
    assert call("screen", shop.guard, good).exit_code == 0
    (good / "elsewhere").symlink_to(shop.root, target_is_directory=True)
    (good / "circle").symlink_to(good / "circle")
    deep, here = good, os.open(good, os.O_RDONLY)
    for _ in range(20):  # longer than any path that can be opened
        os.mkdir("x" * 250, dir_fd=here)
        here, before = os.open("x" * 250, os.O_RDONLY, dir_fd=here), here
        os.close(before)
        deep /= "x" * 250
    os.close(here)
    locked = good / "locked"
    locked.mkdir(mode=0o000)
    try:
        result = call("screen", shop.guard, good, "--format", "jsonl")
        unreadable = [one for one in rows(result) if one["status"] == "unreadable"]
        told = {Path(one["file"]).name: one["reason"] for one in unreadable}
        assert result.exit_code == 1
        assert "a link to a folder" in told["elsewhere"]
        assert "symbolic links" in told["circle"]
        assert "too long" in told["x" * 250]
        if os.geteuid() != 0:  # nothing is closed to root
            assert "permission denied" in told["locked"]
        assert all(name in result.stderr for name in told)
        assert all(one["remedy"] for one in unreadable)
        alone = call("screen", shop.guard, good / ("x" * 250), "--format", "jsonl")
        assert alone.exit_code == 1  # nothing was found, but not everything was looked at
    finally:
        locked.rmdir()
        subprocess.run(["rm", "-rf", str(good / ("x" * 250))], check=True)


def test_a_copy_is_named_by_its_content_and_made_whole(tmp_path: Path):
    source, kept = tmp_path / "a.PNG", tmp_path / "kept"
    source.write_bytes(b"content" * 1000)
    name = hashlib.sha256(b"content" * 1000).hexdigest() + ".png"
    kept.mkdir()
    (kept / name).write_bytes(b"content" * 10)  # cut short by an earlier full disk
    assert set_aside(source, kept) == kept / name
    assert (kept / name).read_bytes() == source.read_bytes()
    changed = (kept / name).stat().st_mtime_ns
    source.rename(tmp_path / "b.png")
    assert set_aside(tmp_path / "b.png", kept) == kept / name
    assert (kept / name).stat().st_mtime_ns == changed
    (kept / name).unlink()
    (kept / name).symlink_to(tmp_path / "outside.png")
    set_aside(tmp_path / "b.png", kept)
    assert not (kept / name).is_symlink()
    assert not (tmp_path / "outside.png").exists()
    assert [path.name for path in kept.iterdir()] == [name]


def test_two_at_once_make_one_copy(tmp_path: Path):
    sources = [tmp_path / f"{i}.png" for i in range(4)]
    for source in sources:
        source.write_bytes(b"the same" * 100_000)
    with ThreadPoolExecutor(4) as pool:
        copies = set(pool.map(lambda source: set_aside(source, tmp_path / "kept"), sources * 5))
    assert list((tmp_path / "kept").iterdir()) == list(copies)
    script = "import sys; from pathlib import Path; from medaegis.guard.quarantine import set_aside\n"
    script += "for _ in range(50): set_aside(Path(sys.argv[1]), Path(sys.argv[2]))"
    command = [sys.executable, "-c", script, str(sources[0]), str(tmp_path / "kept")]
    running = [subprocess.Popen(command) for _ in range(2)]
    assert [process.wait() for process in running] == [0, 0]
    assert list((tmp_path / "kept").iterdir()) == list(copies)


def test_a_full_disk_loses_no_row_and_leaves_no_part(shop: Shop, tmp_path: Path):
    files, kept = noise(tmp_path, 8), tmp_path / "kept"
    for path in files:  # the same picture ten times as large, with fine grain that does not compress
        large = np.kron(np.asarray(Image.open(path)), np.ones((10, 10), np.uint8))
        Image.fromarray(large ^ RNG.integers(0, 16, large.shape, dtype=np.uint8)).save(path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))  # the system refuses what a full disk would
    try:
        result = call("screen", shop.guard, *files, "--quarantine", kept, "--format", "jsonl")
        with pytest.raises(ArtefactError, match="cannot be copied"):
            set_aside(files[0], kept)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    found = rows(result)
    assert sorted(one["file"] for one in found) == sorted(map(str, files))
    rejected = [one for one in found if one["status"] == "rejected"]
    assert rejected
    assert all(one["quarantined_as"] is None and "cannot be copied" in one["not_quarantined"] for one in rejected)
    assert "Not in quarantine:" in result.stderr
    assert list(kept.iterdir()) == []
    again = rows(call("screen", shop.guard, *files, "--quarantine", kept, "--format", "jsonl"))
    assert {Path(one["quarantined_as"]) for one in again if one["status"] == "rejected"} == set(kept.iterdir())


def screened(guard: Guard, accepted: int, rejected: int, labels: list[str]) -> list[Screened]:
    found = []
    for i in range(accepted + rejected):
        label, fine = labels[i % len(labels)], i < accepted
        finding = Finding(fine, "accepted" if fine else "suspicious", "", label, {label: 1.0}, 0.5 if fine else 2.0)
        found.append(Screened(Path(f"{i}.png"), 0, 1, "accepted" if fine else "rejected", finding))
    return found


def test_a_rate_of_rejects_far_from_the_calibrated_one_is_remarked(shop: Shop):
    guard = Guard.load(shop.guard)
    both = list(guard.classes)
    for accepted, rejected in [(0, 3), (27, 3), (20, 10), (15, 15), (44, 0), (60, 0), (1, 1), (8, 3)]:
        n = accepted + rejected
        tails = [binomtest(rejected, n, 1 - guard.tnr, alternative=way).pvalue for way in ("greater", "less")]
        odd = 2 * min(tails) <= 0.01
        told = [line for line in remarks(guard, screened(guard, accepted, rejected, both)) if "rejected" in line]
        assert bool(told) == odd, (accepted, rejected)
        if told:
            assert f"{rejected} of {n} files rejected, where 10.0%" in told[0]
            assert f"p = {2 * min(tails):.1g}, odd at 0.01 or below)" in told[0]
    other = [replace(one, other_kind="it is a slice of a liver") for one in screened(guard, 0, 30, both)]
    assert not any("rejected" in line for line in remarks(guard, other))


def test_the_summary_tells_programs_what_people_are_told(shop: Shop, tmp_path: Path):
    files, file = noise(tmp_path, 12), tmp_path / "day" / "summary.json"
    result = call("screen", shop.guard, *files, "--format", "jsonl", "--summary", file)
    found, told = rows(result), json.loads(file.read_text())
    counted = Counter(one["status"] for one in found)
    assert (told["images"], told["files"], told["status"]) == (12, 12, dict(counted))
    guard = Guard.load(shop.guard)
    tested = told["acceptance"]
    assert (tested["judged"], tested["accepted"], tested["expected"]) == (12, counted["accepted"], guard.tnr)
    tails = [binomtest(tested["accepted"], 12, guard.tnr, alternative=way).pvalue for way in ("greater", "less")]
    assert tested["p"] == pytest.approx(min(1.0, 2 * min(tails)))
    assert tested["odd"] == (tested["p"] <= tested["level"])
    assert all(line in result.stderr for line in told["remarks"])
    assert any("files rejected" in line for line in told["remarks"]) == tested["odd"]
    assert str(tmp_path) not in file.read_text()  # names of files may be names of patients
    refused = call("screen", shop.guard, *files, "--summary", tmp_path)
    assert refused.exit_code == 2
    assert "is a folder" in refused.stderr


def test_a_guard_that_is_not_finished_is_remarked(shop: Shop):
    guard = Guard.load(shop.guard)
    some = screened(guard, 2, 0, list(guard.classes))
    assert remarks(guard, some) == []
    guard.training["config"]["updates"] += 1  # as if one were missing
    (told,) = remarks(guard, some)
    assert told.startswith("This guard is not finished: clear: its training ended itself at update 40 of 41")


def test_frames_of_a_file_are_not_counted_one_by_one(shop: Shop):
    guard = Guard.load(shop.guard)
    found = [
        Screened(Path("one.dcm"), i, 30, "rejected", one.finding) for i, one in enumerate(screened(guard, 0, 30, ["a"]))
    ]
    assert remarks(guard, found) == []


def test_one_diagnosis_for_all_is_remarked(shop: Shop):
    guard = Guard.load(shop.guard)
    name, other = guard.classes
    for counts, n, odd in [((12, 12), 6, False), ((12, 12), 7, True), ((24, 8), 15, False), ((24, 8), 17, True)]:
        guard.calibration = {"thresholds": {name: {"images": counts[0]}, other: {"images": counts[1]}}}
        told = [line for line in remarks(guard, screened(guard, n, 0, [name])) if "diagnosis" in line]
        assert bool(told) == odd == ((counts[0] / sum(counts)) ** n <= 0.01)
        assert not any("diagnosis" in line for line in remarks(guard, screened(guard, n, 0, [name, other])))
    guard.calibration = {}  # a guard of an older version
    assert [bool(remarks(guard, screened(guard, n, 0, [name]))) for n in (9, 10)] == [False, True]
