"""Long commands that are killed go on where they were, and what they give is that of an unbroken run to the bit.

A run is a fork of this process with everything imported, so that kills fall into the work and not into imports.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import sqlite3
import sys
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

SPEC = "phantom-xray?n=240"
LOOK = "--attacks fgsm,pgd --eps 4/256 --steps 3 --limit 12"
EXPERIMENT = "aegis-table2 --scale smoke"
DETECTORS = "--detectors kd,mahalanobis --attacks fgsm,bim"
WRITES = "--seed SEED --out OUT"
LEARNS = "--size 32 --channels gray --backbone resnet18 --epochs 2 --batch-size 8 --device cpu"
COMMANDS = {
    "train": f"train {SPEC} {LEARNS} {WRITES}",
    "fit": f"fit CLASSIFIER {SPEC} --updates 12 {WRITES}",
    "calibrate": f"calibrate GUARD SITE {WRITES}",
    "evaluate": f"evaluate GUARD {SPEC} {LOOK} --no-planted {WRITES}",
    "assess": f"assess CLASSIFIER {SPEC} {LOOK} {WRITES}",
    "compare": f"compare CLASSIFIER {SPEC} {DETECTORS} --eps 4/256 --steps 3 --limit 40 {WRITES}",
    "analyse": f"analyse GUARD {SPEC} --attack pgd --eps 4/256 --steps 3 --limit 16 {WRITES}",
    "attack": f"attack GUARD {SPEC} --attack pgd --eps 4/256 --steps 3 --limit 12 {WRITES}",
    "bench": f"bench run {EXPERIMENT} --store OUT",
    "bench-ray": f"bench run {EXPERIMENT} --on ray --store OUT",
}
# What differs between two runs of the same: times and the place.
VOLATILE = {
    *("cost", "ms_per_image", "wall", "duration", "rate", "images_per_second"),
    *("created", "date", "started", "finished", "time", "load", "machine", "threads", "memory_gib", "peak_mib"),
    *("commit", "command", "out", "path", "guard", "digest", "files", "checksum", "versions"),
}
# Of the index of an experiment's store.
STORED = ("* FROM figures ORDER BY key, metric", "experiment, scale, place, key, settings FROM cells ORDER BY place")
DEFECT = "This is a defect of medaegis"


@dataclass
class Ended:
    """How a command ended: exit code (negative: by that signal), what it said, seconds."""

    code: int
    said: str
    seconds: float


@dataclass
class Runner:
    """Runs commands in forks of this process.

    Args:
        home: folder for caches and what commands say.
    """

    home: Path
    _ready: bool = field(default=False, init=False)

    def prepare(self) -> None:
        """Import all that commands need, once; forks start with it."""
        if self._ready:
            return
        self.home.mkdir(parents=True, exist_ok=True)
        for name in ("MEDAEGIS_CACHE", "MPLCONFIGDIR", "XDG_CACHE_HOME"):
            os.environ[name] = str(self.home / "cache")
        import matplotlib.pyplot
        import scipy.stats
        import sklearn.ensemble
        import sklearn.linear_model
        import sklearn.manifold
        import sklearn.mixture
        import sklearn.svm
        import torch

        import medaegis.bench.report.report
        import medaegis.cli.app
        from medaegis.guard import shield_training
        from medaegis.models import training

        torch.set_num_threads(1)
        # Checkpoints at every step, not every half minute, because the runs are short.
        shield_training.CHECKPOINT_SECONDS = training.CHECKPOINT_SECONDS = 0.0
        del matplotlib, scipy, sklearn, medaegis
        self._ready = True

    def start(self, words: list[str], said: Path, before: Callable[[], None] | None = None) -> int:
        """Fork, and run `medaegis WORDS` in it; the process id."""
        self.prepare()
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if pid:
            return pid
        try:
            os.setsid()
            out = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
            os.dup2(out, 1)
            os.dup2(out, 2)
            if before is not None:
                before()
            from medaegis.cli.app import app

            app(words, prog_name="medaegis")
        except SystemExit as end:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(end.code if isinstance(end.code, int) else 0 if end.code is None else 1)
        except BaseException as error:  # what escapes is what is looked for
            os.write(2, f"{DEFECT}: escaped {type(error).__name__}: {error}".encode())
        os._exit(99)

    def run(
        self,
        words: list[str],
        *,
        kill_after: float | None = None,
        before: Callable[[], None] | None = None,
        limit: float = 1200,
    ) -> Ended:
        """Run to the end, or kill (SIGKILL) the command and its children after so many seconds."""
        said = self.home / "said.txt"
        said.unlink(missing_ok=True)
        started = time.perf_counter()
        pid = self.start(words, said, before)
        until = limit if kill_after is None else kill_after
        while True:
            ended, status = os.waitpid(pid, os.WNOHANG)
            seconds = time.perf_counter() - started
            if ended:
                break
            if seconds >= until:
                os.killpg(pid, signal.SIGKILL)
                _, status = os.waitpid(pid, 0)
                break
            time.sleep(0.005)
        text = said.read_text(errors="replace") if said.exists() else ""
        return Ended(os.waitstatus_to_exitcode(status), text, time.perf_counter() - started)


def known_commands() -> dict[str, str]:
    """The long commands that this version has; those on Ray where that is installed."""
    from medaegis.cli.app import app

    names = {info.name or info.callback.__name__ for info in app.registered_commands if info.callback is not None}
    names |= {info.name for info in app.registered_groups if info.name}
    without_ray = find_spec("ray") is None
    known = {name: text for name, text in COMMANDS.items() if text.split()[0] in names}
    return {name: text for name, text in known.items() if not (without_ray and "--on ray" in text)}


def words_of(name: str, home: Path, out: Path, *, seed: int = 0) -> list[str]:
    """The words of a command that writes into `out`."""
    places = {"CLASSIFIER": str(home / "train"), "GUARD": str(home / "fit"), "SITE": f"folder:{home / 'site'}"}
    places |= {"OUT": str(out), "SEED": str(seed)}
    return [places.get(word, word) for word in COMMANDS[name].split()]


def make_site(folder: Path, count: int = 80) -> None:
    """Images of another site, which the guard has not seen: other drawings, brighter and with grain, in folders."""
    import numpy as np
    from PIL import Image

    from medaegis.images import load_dataset

    dataset = load_dataset(f"phantom-xray?n={3 * count}", size=48, channels="gray", seed=5)
    rng = np.random.default_rng(0)
    for k in range(2 * count, 3 * count):
        place = folder / dataset.classes[int(dataset.labels[k])]
        place.mkdir(parents=True, exist_ok=True)
        pixels = 255 * (dataset.images[k, 0].numpy() / 255) ** 0.8 + rng.normal(0, 3, (48, 48))
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(place / f"{k}.png")


# ---- what came of a command


def contents(folder: Path) -> dict[str, str]:
    """File -> SHA-256 of what must be the same in every run: arrays, pictures, tables; figures without times."""
    import safetensors.numpy

    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        passing = path.suffix in (".html", ".svg", ".md", ".sqlite-wal", ".sqlite-shm") or path.name == "lock"
        if not path.is_file() or passing or "manifest" in path.name:
            continue
        data = path.read_bytes()
        if path.suffix == ".sqlite":  # of an experiment: which figures stand where
            with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as index:
                told = [list(index.execute(f"SELECT {rows}")) for rows in STORED]
            data = json.dumps(told).encode()
        elif path.suffix in (".json", ".jsonl"):
            lines = data.splitlines() if path.suffix == ".jsonl" else [data]
            data = json.dumps([steady(json.loads(line)) for line in lines if line.strip()], sort_keys=True).encode()
        elif path.suffix == ".safetensors":
            kept = {key: value for key, value in safetensors.numpy.load(data).items() if key not in VOLATILE}
            data = safetensors.numpy.save(kept)
        found[name] = hashlib.sha256(data).hexdigest()
    return found


def steady(value: Any) -> Any:
    """A JSON value without what differs from run to run."""
    if isinstance(value, dict):
        kept = {key: inner for key, inner in value.items() if key not in VOLATILE and "seconds" not in key}
        return {key: steady(inner) for key, inner in kept.items()}
    return [steady(inner) for inner in value] if isinstance(value, list) else value


def differences(found: dict[str, str], expected: dict[str, str]) -> list[str]:
    """Names of files that are missing, surplus or other than expected."""
    return sorted(name for name in {*found, *expected} if found.get(name) != expected.get(name))


# ---- kills


def reference(runner: Runner, name: str, home: Path) -> dict[str, Any]:
    """What an unbroken run gives and how long it takes; in what two of them differ ("unsteady")."""
    kept = home / f"{name}.reference.json"
    if kept.exists():
        return dict(json.loads(kept.read_text()))
    if name == "calibrate" and not (home / "site").exists():
        make_site(home / "site")
    runs = []
    for out in (home / name, home / f"{name}.again"):
        shutil.rmtree(out, ignore_errors=True)
        ended = runner.run(words_of(name, home, out))
        if ended.code not in (0, 1) or DEFECT in ended.said or not out.exists():  # 1: a control failed, as it may here
            raise RuntimeError(f"{name} does not run: {ended.said[-1000:]}")
        runs.append((contents(out), ended.seconds, ended.code))
    told = {
        "contents": runs[0][0],
        "seconds": runs[1][1],
        "code": runs[0][2],
        "unsteady": differences(runs[0][0], runs[1][0]),
        "bytes": max(path.stat().st_size for path in (home / name).rglob("*") if path.is_file()),
    }
    shutil.rmtree(home / f"{name}.again")
    kept.write_text(json.dumps(told, indent=1))
    return told


def kill_often(runner: Runner, name: str, turn: int, kills: int, seed: int, home: Path) -> dict[str, Any]:
    """Kill a run at random moments, calling it again each time; let it end, and compare with the unbroken one."""
    expected = reference(runner, name, home)
    out = home / f"{name}.killed"
    clean_up(out)
    draw = random.Random(f"{seed}/{name}/{turn}")
    met = 0
    for _ in range(kills):
        # Up to a quarter of the whole time, so that most kills meet it at work, each at another place.
        ended = runner.run(words_of(name, home, out), kill_after=draw.uniform(0.02, 0.25) * expected["seconds"])
        met += ended.code == -signal.SIGKILL
    again = runner.run(words_of(name, home, out))
    lost = differences(contents(out), expected["contents"]) if out.exists() else ["everything"]
    told = {"turn": turn, "kills": kills, "met": met, "lost": [one for one in lost if one not in expected["unsteady"]]}
    told["sound"] = again.code == expected["code"] and DEFECT not in again.said
    if not told["sound"]:
        told["said"] = again.said[-500:]
    clean_up(out)
    return told


def clean_up(out: Path) -> None:
    """Remove a folder and what was written beside it."""
    for path in out.parent.glob(f"*{out.name}*"):
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
