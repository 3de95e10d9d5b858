"""What results depend on besides the data: versions, processor, codec and commit."""

import os
import platform
import re
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from medaegis.version import __version__

GIB = 1 << 30


@cache
def _versions() -> dict[str, str]:
    import torch

    own = {"medaegis": __version__, "python": platform.python_version(), "torch": torch.__version__}
    return own | {name: version(name) for name in ("numpy", "pydicom", "pillow", "simplejpeg")} | {"codec": codec()}


def versions() -> dict[str, str]:
    """Versions of everything that pixels and scores depend on; `codec` names the JPEG libraries inside."""
    return dict(_versions())


def environment() -> dict[str, Any]:
    """Versions, machine and commit, as stored with every result.

    Returns:
        `versions` as from `versions`; `machine` with `cpu`, `cores` (usable by this process), `memory_gib`, `gpu`
        (name or None), `bf16` (whether the GPU, or without one the processor, computes in bfloat16); `commit`,
        the checkout's commit with `-dirty` if files were changed, None outside a checkout of this package.
    """
    import torch

    from medaegis.models.hardware import has_fast_bfloat16

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    machine = {
        "cpu": _cpu_name(),
        "cores": cores(),
        "memory_gib": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / GIB, 1),
        "gpu": gpu,
        "bf16": has_fast_bfloat16(torch.device("cuda" if gpu else "cpu")),
    }
    return {"versions": versions(), "machine": machine, "commit": commit()}


def commit() -> str | None:
    """The commit this package runs from, `-dirty` if files were changed; None if it is not run from its checkout."""
    here = Path(__file__).resolve()
    if not _git("ls-files", "--error-unmatch", here.name, folder=here.parent):
        return None
    return _git("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*", folder=here.parent)


def codec() -> str:
    """The JPEG libraries and what they were built with."""
    try:
        from PIL import features

        turbo = features.version_feature("libjpeg_turbo") or "plain libjpeg"
        pillow = f"Pillow {version('pillow')} (libjpeg-turbo {turbo})"
        return f"{pillow}, simplejpeg {version('simplejpeg')} ({_inner_turbo()})"
    except (ImportError, PackageNotFoundError) as error:
        return f"unknown ({first_line(error)})"


def _inner_turbo() -> str:
    """simplejpeg does not tell which libjpeg-turbo it was built with; its binary carries the text."""
    from simplejpeg import _jpeg

    found = re.search(rb"libjpeg-turbo version (\d[\d.]*)", Path(_jpeg.__file__).read_bytes())
    return f"libjpeg-turbo {found[1].decode()}" if found else "libjpeg-turbo of unknown version"


def _git(*command: str, folder: Path) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(folder), *command], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _cpu_name() -> str:
    for line in lines("/proc/cpuinfo"):
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def lines(file: str) -> list[str]:
    """Of a text file; none where it cannot be read."""
    try:
        return Path(file).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []


def first_line(error: BaseException) -> str:
    """What an error says, in short."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
