"""What results depend on besides the data: versions, processor, codec, commit; and a check-up of the installation."""

import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from medaegis import __version__
from medaegis.errors import MedaegisError

_SLOW_IMPORT_SECONDS = 120
_GIB = 1 << 30


@dataclass(frozen=True)
class Check:
    """One line of the check-up: `status` is ok, warn (works, with a loss) or fail (something will not work)."""

    name: str
    status: Literal["ok", "warn", "fail"]
    detail: str
    remedy: str = ""


@cache
def _versions() -> tuple[tuple[str, str], ...]:
    import torch

    return (
        ("medaegis", __version__),
        ("python", platform.python_version()),
        ("torch", torch.__version__),
        ("numpy", version("numpy")),
        ("pydicom", version("pydicom")),
        ("pillow", version("pillow")),
        ("simplejpeg", version("simplejpeg")),
        ("codec", _codec()),
    )


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
        "cores": _cores(),
        "memory_gib": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / _GIB, 1),
        "gpu": gpu,
        "bf16": has_fast_bfloat16(torch.device("cuda" if gpu else "cpu")),
    }
    return {"versions": versions(), "machine": machine, "commit": commit()}


def commit() -> str | None:
    """The commit this package runs from, `-dirty` if files were changed; None if it is not run from its checkout."""
    here = Path(__file__).resolve()
    tracked = _git("ls-files", "--error-unmatch", here.name, folder=here.parent)
    return (
        _git("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*", folder=here.parent) if tracked else None
    )


def doctor(*, cache_dir: Path | str | None = None) -> list[Check]:
    """Checks that the installation and the machine can do the work; takes some seconds and changes nothing.

    Args:
        cache_dir: the folder for decoded images, as given to `load_dataset`.
    """
    checks: list[Callable[[], Check]] = [
        check_python,
        check_torch,
        check_torchvision,
        check_decoders,
        check_codec,
        check_bf16,
        lambda: check_cache(cache_dir),
        check_memory,
    ]
    return [check() for check in checks]


def check_python() -> Check:
    """Python is one that the package supports."""
    status: Literal["ok", "fail"] = "ok" if sys.version_info >= (3, 11) else "fail"
    return Check(
        "Python",
        status,
        f"{platform.python_version()} ({sys.executable})",
        "" if status == "ok" else "use Python >= 3.11",
    )


def check_torch() -> Check:
    """PyTorch imports and multiplies."""
    try:
        import torch

        right = torch.equal(torch.ones(2, 3) @ torch.ones(3, 2), torch.full((2, 2), 3.0))
    except (ImportError, OSError, RuntimeError) as error:
        return Check("PyTorch", "fail", f"does not work: {_first_line(error)}", "reinstall torch >= 2.8")
    if not right or _release(torch.__version__) < (2, 8):
        return Check("PyTorch", "fail", f"{torch.__version__} is too old or computes wrongly", "install torch >= 2.8")
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    return Check("PyTorch", "ok", f"{torch.__version__}, {device}, {torch.get_num_threads()} threads")


def check_torchvision(python: str = sys.executable) -> Check:
    """torchvision is absent (as intended) or fits PyTorch; a broken one makes other libraries crash.

    Args:
        python: the interpreter to try the import with, in a process of its own.
    """
    program = (
        "import importlib.util, sys\n"
        "if importlib.util.find_spec('torchvision') is None: sys.exit(3)\n"
        "import torch, torchvision\n"
        "torchvision.ops.nms(torch.zeros(1, 4), torch.zeros(1), 0.5)\n"
        "print(torchvision.__version__)\n"
    )
    remedy = "uninstall torchvision (nothing here needs it), or install the one made for this torch"
    try:
        done = subprocess.run([python, "-c", program], capture_output=True, text=True, timeout=_SLOW_IMPORT_SECONDS)
    except subprocess.TimeoutExpired:
        return Check("torchvision", "warn", f"no answer within {_SLOW_IMPORT_SECONDS} s", remedy)
    if done.returncode == 3:
        return Check("torchvision", "ok", "absent, not needed")
    if done.returncode == 0:
        return Check("torchvision", "ok", f"{done.stdout.strip()}, fits this PyTorch")
    last = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
    return Check("torchvision", "warn", f"installed, but broken: {last[:200]}", remedy)


def check_decoders() -> Check:
    """Every compressed DICOM transfer syntax that the readers know has its decoder."""
    try:
        from pydicom.pixels.decoders.base import get_decoder

        from medaegis.images.codec import COMPRESSED
    except ImportError as error:
        return Check("DICOM decoders", "fail", f"do not import: {_first_line(error)}", "reinstall pydicom >= 3.0.2")
    missing = [s.name for uid, s in COMPRESSED.items() if s.decoder not in get_decoder(uid).available_plugins]
    if missing:
        remedy = "install python-gdcm, pylibjpeg, pylibjpeg-openjpeg and Pillow"
        return Check("DICOM decoders", "warn", "none for " + ", ".join(missing), remedy)
    return Check("DICOM decoders", "ok", f"pydicom {version('pydicom')}, {len(COMPRESSED)} compressed syntaxes")


def check_codec() -> Check:
    """The JPEG codec gives the pixels of the JPEG Cushion, which then uses it on the processor."""
    try:
        from medaegis.cushions.jpeg import codec_is_exact

        exact = codec_is_exact(80, True, 1) and codec_is_exact(80, True, 3)
    except (ImportError, OSError, ValueError) as error:
        return Check("JPEG codec", "fail", f"does not work: {_first_line(error)}", "reinstall Pillow and simplejpeg")
    if not exact:
        detail = f"its pixels are not the JPEG Cushion's, which computes them without it, but slower ({_codec()})"
        return Check("JPEG codec", "warn", detail, "for speed, install the versions in constraints.txt")
    return Check("JPEG codec", "ok", _codec())


def check_bf16() -> Check:
    """Whether bfloat16, which trainings and attacks use where it pays, is the faster arithmetic here."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    seconds = {kind: _time_convolution(kind, device) for kind in (torch.float32, torch.bfloat16)}
    gain = seconds[torch.float32] / seconds[torch.bfloat16]
    detail = f"{gain:.1f} x the speed of float32 on this {device}"
    if gain < 1:
        return Check(
            "bfloat16", "warn", detail, "nothing breaks, but trainings take longer; try again when the machine is idle"
        )
    return Check("bfloat16", "ok", detail)


def check_cache(cache_dir: Path | str | None = None) -> Check:
    """The folder for decoded images can be written and has room."""
    from medaegis.images.cache import cache_folder

    remedy = "set MEDAEGIS_CACHE to a folder with room"
    try:
        folder = cache_folder(cache_dir)
        with tempfile.TemporaryFile(dir=folder) as stream:
            stream.write(b"0")
        free = shutil.disk_usage(folder).free / _GIB
    except (OSError, MedaegisError) as error:
        return Check("Cache", "fail", f"cannot be written: {_first_line(error)}", remedy)
    detail = f"{folder}, {free:.1f} GiB free"
    return Check("Cache", "ok", detail) if free >= 2 else Check("Cache", "warn", detail, remedy)


def check_memory() -> Check:
    """Enough memory is free for a training at the usual sizes."""
    free = _free_memory() / _GIB
    detail = f"{free:.1f} GiB free, {_cores()} cores"
    return (
        Check("Memory", "ok", detail) if free >= 4 else Check("Memory", "warn", detail, "use smaller batches or images")
    )


def _time_convolution(kind: Any, device: str) -> float:
    """Best of five, in seconds, for a forward and backward convolution of a ResNet's middle."""
    import torch

    generator = torch.Generator().manual_seed(0)
    x = torch.rand(8, 64, 56, 56, generator=generator).to(device, kind, memory_format=torch.channels_last)
    weight = torch.rand(64, 64, 3, 3, generator=generator).to(device, kind, memory_format=torch.channels_last)
    x.requires_grad_()
    best = float("inf")
    for _ in range(6):  # the first prepares the kernels
        start = time.perf_counter()
        (gradient,) = torch.autograd.grad(torch.nn.functional.conv2d(x, weight, padding=1).sum(), x)
        gradient.flatten()[0].item()  # waits for the device
        best = min(best, time.perf_counter() - start)
    return best


def _codec() -> str:
    try:
        from PIL import features

        turbo = features.version_feature("libjpeg_turbo") or "plain libjpeg"
        return (
            f"Pillow {version('pillow')} (libjpeg-turbo {turbo}), simplejpeg {version('simplejpeg')} ({_inner_turbo()})"
        )
    except (ImportError, PackageNotFoundError) as error:
        return f"unknown ({_first_line(error)})"


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
    for line in _lines("/proc/cpuinfo"):
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _free_memory() -> int:
    for line in _lines("/proc/meminfo"):
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _lines(file: str) -> list[str]:
    try:
        return Path(file).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []


def _release(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", text.partition("+")[0])[:2])


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
