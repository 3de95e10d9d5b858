"""Damaged files and folders: the outcome is a picture (a guard, a data set) or a refusal in our own words, in time.

The cases of a kind are read in a child process, some at a time, so that one that kills it costs only itself.

`python -m benchmarks.robustness_files KIND FIRST LAST SEED FOLDER` reads cases FIRST to LAST and writes a line for each
that is not as it must be, and a last one with the counts.
"""

from __future__ import annotations

import json
import os
import random
import select
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks import robustness_stock as stock

PICTURES = ("png", "jpeg", "tiff", "bmp", "webp", "dicom")
FOLDERS = ("guard", "classifier", "detector", "detector-forest")
KINDS = (*PICTURES, *FOLDERS, "table")
CASES = {
    "png": 4000,
    "jpeg": 5000,
    "tiff": 5000,
    "bmp": 3000,
    "webp": 3000,
    "dicom": 9000,
    "guard": 1500,
    "classifier": 800,
    "detector": 600,
    "detector-forest": 600,
    "table": 1000,
}
ROOT = Path(__file__).parents[1]
AT_ONCE = 1000  # cases of a child process; a killed run goes on after the last whole lot
SECONDS = (
    90.0  # that a case may take (a decoder is stopped after 60); a child that is silent for twice as long is killed
)
TRIES = 5  # to start a child process
MEBIBYTES = 1024  # that a process may take, the decoders' included


def run_kind(kind: str, count: int, seed: int, folder: Path) -> dict[str, Any]:
    """Read `count` damaged cases of a kind; goes on after a kill. What was found, with every case that is not right."""
    done = folder / f"{kind}.json"
    told: dict[str, Any] = {"next": 0, "outcomes": {}, "wrong": [], "slowest": 0.0, "most_mebibytes": 0}
    if done.exists():
        told = json.loads(done.read_text())
    outcomes = Counter(told["outcomes"])
    while told["next"] < count:
        first, last = told["next"], min(told["next"] + AT_ONCE, count)
        for line in _lot(kind, first, last, seed, folder / "work" / kind):
            if "outcomes" in line:
                outcomes.update(line["outcomes"])
                told["slowest"] = max(told["slowest"], line["slowest"])
                told["most_mebibytes"] = max(told["most_mebibytes"], line["most_mebibytes"])
            else:
                told["wrong"].append(line)
                outcomes[line["outcome"]] += line.get("counted", 0)
        told |= {"next": last, "outcomes": dict(outcomes)}
        done.parent.mkdir(parents=True, exist_ok=True)
        draft = done.with_suffix(".tmp")
        draft.write_text(json.dumps(told, indent=1))
        draft.replace(done)
    return told


def _lot(kind: str, first: int, last: int, seed: int, folder: Path) -> list[dict[str, Any]]:
    """Lines of one lot; a child that dies or falls silent is told as the fault of the case it was at."""
    lines: list[dict[str, Any]] = []
    tries = 0
    while first < last:
        command = [
            sys.executable,
            "-m",
            "benchmarks.robustness_files",
            kind,
            str(first),
            str(last),
            str(seed),
            str(folder),
        ]
        child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0, cwd=ROOT)
        assert child.stdout is not None
        at, ended, silent = -1, False, False
        while not ended:
            ready, _, _ = select.select([child.stdout], [], [], 2 * SECONDS)
            line = child.stdout.readline() if ready else b""
            if not line:
                silent, ended = not ready, True
                continue
            told = json.loads(line)
            if "at" in told:
                at = told["at"]
            else:
                lines.append(told)
                ended = "outcomes" in told
        if silent:
            child.kill()
        _, said = child.communicate()
        if lines and "outcomes" in lines[-1] and lines[-1].get("to") == last:
            return lines
        if at < 0:  # it did not come to any case: a machine too busy to start it, or a fault of these trials
            tries += 1
            if tries == TRIES:
                raise RuntimeError(f"trials of {kind} cannot be started: {said.decode(errors='replace')[-1000:]}")
            continue
        outcome = "over the time" if silent else "process ended"
        detail = said.decode(errors="replace")[-300:]
        lines.append({"kind": kind, "case": at, "outcome": outcome, "detail": detail, "counted": 1})
        first = max(at, first) + 1
    return lines


# ---- in the child


def main(kind: str, first: int, last: int, seed: int, folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    os.environ["MEDAEGIS_CACHE"] = str(folder / "cache")
    os.environ["MPLCONFIGDIR"] = str(folder)
    read = {"table": _Tables, **dict.fromkeys(FOLDERS, _Folders)}.get(kind, _Pictures)(kind, folder)
    outcomes: Counter[str] = Counter()
    slowest, memory = 0.0, 0
    read.warm_up()  # imports and decoders' processes are not the first case's
    for case in range(first, last):
        draw = random.Random(f"{seed}/{kind}/{case}")
        read.spoil(draw)
        say(at=case)
        started = time.perf_counter()
        outcome, detail = _outcome(read)
        seconds = time.perf_counter() - started
        slowest, memory = max(slowest, seconds), max(memory, _memory())
        if outcome not in ("read", "refused"):
            say(kind=kind, case=case, outcome=outcome, detail=detail)
        elif seconds > SECONDS:
            outcome = "over the time"
            say(kind=kind, case=case, outcome=outcome, detail=f"{seconds:.0f} s")
        elif memory > MEBIBYTES:
            outcome = "over the memory"
            say(kind=kind, case=case, outcome=outcome, detail=f"{memory} MiB")
        outcomes[outcome] += 1
        if memory > MEBIBYTES:  # the mark stays: the next case needs another process
            say(outcomes=outcomes, slowest=round(slowest, 2), most_mebibytes=memory, to=case + 1)
            os.execv(
                sys.executable,
                [sys.executable, "-m", "benchmarks.robustness_files", kind, str(case + 1), *sys.argv[3:]],
            )
    say(outcomes=outcomes, slowest=round(slowest, 2), most_mebibytes=memory, to=last)


def say(**told: object) -> None:
    print(json.dumps(told), flush=True)


def _outcome(read: Any) -> tuple[str, str]:
    from medaegis.errors import MedaegisError

    try:
        problem = read.read()
    except MedaegisError:
        return "refused", ""
    except BaseException as error:  # what must not be: told, whatever it is
        return "other exception", f"{type(error).__name__}: {str(error)[:200]}"
    return ("unsound", problem) if problem else ("read", "")


def _memory() -> int:
    """The most that this process or one of its children has taken so far, in MiB."""
    most = 0
    me = os.getpid()
    try:
        children = Path(f"/proc/{me}/task/{me}/children").read_text().split()
    except OSError:
        children = []
    for process in (str(me), *children):
        try:
            status = Path(f"/proc/{process}/status").read_text()
        except OSError:
            continue
        most = max([most, *(int(line.split()[1]) // 1024 for line in status.splitlines() if line.startswith("VmHWM"))])
    return most


class _Pictures:
    def __init__(self, kind: str, folder: Path) -> None:
        self.sound, self.file = stock.pictures(kind), folder / f"case.{kind}"

    def spoil(self, draw: random.Random) -> None:
        self.file.write_bytes(stock.spoilt(draw.choice(self.sound), draw, self.sound))
        self.frame = draw.choice((0, 0, 0, 1))

    def warm_up(self) -> None:
        self.frame = 0
        for data in self.sound[:3]:
            self.file.write_bytes(data)
            if _outcome(self) != ("read", ""):
                raise RuntimeError("a sound picture is not read")

    def read(self) -> str:
        import numpy as np

        from medaegis.errors import ImageError, MedaegisError
        from medaegis.images import model_input, read_image

        try:
            picture = read_image(self.file, frame=self.frame)
        except ImageError:
            raise
        except MedaegisError as error:
            return f"{type(error).__name__} in place of ImageError"
        pixels = picture.pixels
        if pixels.dtype != np.float32 or pixels.ndim != 3 or pixels.shape[0] not in (1, 3):
            return f"{pixels.dtype} {pixels.shape}"
        if not np.isfinite(pixels).all() or pixels.min() < 0 or pixels.max() > 1:
            return "values outside [0, 1]"
        square = model_input(picture, size=stock.SIDE, channels="gray")
        return "" if square.shape == (1, stock.SIDE, stock.SIDE) else f"input {square.shape}"


class _Folders:
    def __init__(self, kind: str, folder: Path) -> None:
        from benchmarks import robustness_folders as folders

        self.kind, self.sound, self.folder, self.stock = kind, folder / "sound", folder / "case", folders
        folders.make_folder(kind, self.sound)
        self.images = folders.images(2)

    def spoil(self, draw: random.Random) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.copytree(self.sound, self.folder)
        self.stock.spoil_folder(self.folder, draw)

    def warm_up(self) -> None:
        shutil.copytree(self.sound, self.folder)
        if _outcome(self) != ("read", ""):
            raise RuntimeError(f"a sound {self.kind} folder is not read")

    def read(self) -> str:
        import torch

        from medaegis.detectors.reader import Reader
        from medaegis.detectors.registry import load_detector
        from medaegis.guard.guard import Guard
        from medaegis.models.store import load_classifier

        if self.kind == "guard":
            found = Guard.load(self.folder, factory=self.stock.small).inspect(self.images)
            return "" if len(found) == 2 else f"{len(found)} findings"
        if self.kind == "classifier":
            network = load_classifier(self.folder, factory=self.stock.small)
            logits = network(torch.zeros(1, network.in_channels, network.size, network.size))
            return "" if logits.shape == (1, len(network.classes)) else f"logits {tuple(logits.shape)}"
        scores = load_detector(self.folder).score(Reader(self.stock.classifier()).read(self.images))
        return "" if scores.shape == (2,) and not bool(scores.isnan().any()) else f"scores {scores.tolist()}"


class _Tables:
    def __init__(self, kind: str, folder: Path) -> None:
        self.folder = folder / "table"
        self.text = stock.make_table(self.folder)

    def spoil(self, draw: random.Random) -> None:
        (self.folder / "labels.csv").write_bytes(stock.text_spoilt(self.text, draw))

    def warm_up(self) -> None:
        (self.folder / "labels.csv").write_text(self.text)
        if _outcome(self) != ("read", ""):
            raise RuntimeError("a sound table is not read")

    def read(self) -> str:
        from medaegis.images import load_dataset

        dataset = load_dataset(f"csv:{self.folder / 'labels.csv'}", size=stock.SIDE, channels="gray")
        return "" if len(dataset) == len(dataset.labels) <= 13 else f"{len(dataset)} images of 12"


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), Path(sys.argv[5]))
