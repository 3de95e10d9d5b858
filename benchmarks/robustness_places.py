"""Long commands without room on the disk, and without rights to files and folders: they say so, and go on later."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.robustness_runs import DEFECT, Ended, Runner, clean_up, contents, differences, reference, words_of

NOBODY = 65534


def limited(most: int) -> Callable[[], None]:
    """To be called in a fork: no file of more than `most` bytes can be written (EFBIG, as on a full disk)."""

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))

    return limit


def no_room(runner: Runner, name: str, share: float, home: Path) -> dict[str, Any]:
    """No file may be larger than a share of the largest: the command says so; with room again it goes on as ever."""
    expected = reference(runner, name, home)
    out = home / f"{name}.full"
    clean_up(out)
    most = max(64, int(share * expected["bytes"]))
    ended = runner.run(words_of(name, home, out), before=limited(most))
    told = _told_of_trouble("no file above so many bytes", ended) | {"bytes": most}
    told |= _after_trouble(runner, name, home, out, expected)
    clean_up(out)
    return told


@contextmanager
def small_disk(place: Path, size: int) -> Iterator[bool]:
    """A file system of so many bytes at `place`; False where none can be mounted."""
    place.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(place)]
    mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", str(place)], check=True)


def full_disk(runner: Runner, name: str, share: float, home: Path) -> dict[str, Any] | None:
    """On a disk that holds a share of what the command writes; None where no such disk can be made."""
    expected = reference(runner, name, home)
    whole = sum(path.stat().st_size for path in (home / name).rglob("*") if path.is_file())
    place = home / "disk"
    size = max(8192, int(share * whole) // 4096 * 4096)
    with small_disk(place, size) as mounted:
        if not mounted:
            return None
        ended = runner.run(words_of(name, home, place / "out"))
        told = _told_of_trouble("disk of so many bytes", ended) | {"bytes": size}
        grown = subprocess.run(["mount", "-o", "remount,size=1g", str(place)], capture_output=True, check=False)
        if grown.returncode == 0:
            told |= _after_trouble(runner, name, home, place / "out", expected)
    return told


def _told_of_trouble(what: str, ended: Ended) -> dict[str, Any]:
    sound = ended.code in (0, 1, 2) and DEFECT not in ended.said and "Traceback" not in ended.said
    return {"trouble": what, "code": ended.code, "sound": sound, "said": ended.said.strip()[-300:]}


def _after_trouble(runner: Runner, name: str, home: Path, out: Path, expected: dict[str, Any]) -> dict[str, Any]:
    again = runner.run(words_of(name, home, out))
    lost = differences(contents(out), expected["contents"]) if out.exists() else ["everything"]
    sound = again.code == expected["code"] and DEFECT not in again.said
    told = {"sound_after": sound, "lost": [one for one in lost if one not in expected["unsteady"]]}
    return told if sound else told | {"said_after": again.said[-300:]}


def as_nobody() -> None:
    """To be called in a fork: give up root's rights, which ignore every permission."""
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)


def no_rights(runner: Runner, home: Path) -> list[dict[str, Any]] | None:
    """Files and folders that may not be read, or written into: named, and the exit code is not 0. None without root."""
    if os.getuid() != 0:
        return None
    place = Path("/tmp") / f"medaegis-rights-{os.getpid()}"
    try:
        return list(_without_rights(runner, home, place))
    finally:
        subprocess.run(["chmod", "-R", "u+rwx", str(place)], check=False)
        shutil.rmtree(place, ignore_errors=True)


def _without_rights(runner: Runner, home: Path, place: Path) -> Iterator[dict[str, Any]]:
    from PIL import Image

    from benchmarks.robustness_stock import drawing

    shutil.copytree(home / "fit", place / "guard")
    for name in ("open", "closed", "half"):
        for label in ("a", "b"):
            (place / name / label).mkdir(parents=True)
            for k in range(8):
                Image.fromarray(drawing(seed=k)).save(place / name / label / f"{k}.png")
    for path in (place, *place.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    (place / "closed" / "a").chmod(0)
    (place / "half" / "b" / "3.png").chmod(0)
    (place / "out").mkdir(mode=0o755)

    def enter() -> None:
        os.environ["MEDAEGIS_CACHE"] = str(place / "no-cache")
        as_nobody()

    train = f"--size 32 --channels gray --backbone mobilenet_v2 --epochs 1 --device cpu --out {place}/out/c"
    trials = {
        "screen, a folder that may not be listed": (f"screen {place}/guard {place}/closed", f"{place}/closed/a"),
        "screen, a file that may not be read": (f"screen {place}/guard {place}/half", "3.png"),
        "data inspect, a folder that may not be listed": (f"data inspect folder:{place}/closed", f"{place}/closed/a"),
        "data inspect, a file that may not be read": (f"data inspect folder:{place}/half", "3.png"),
        "train, a folder that may not be written": (f"train folder:{place}/open {train}", f"{place}/out"),
        "screen, a quarantine that may not be written": (
            f"screen {place}/guard {place}/open --quarantine {place}/out/q",
            f"{place}/out",
        ),
        "verify, a guard that may not be read": (f"verify {place}/closed/a", f"{place}/closed/a"),
    }
    for what, (text, named) in trials.items():
        ended = runner.run(text.split(), before=enter)
        told = _told_of_trouble(what, ended)
        flat = "".join(ended.said.split())
        yield told | {"sound": told["sound"] and ended.code != 0 and named in flat, "named": named in flat}
