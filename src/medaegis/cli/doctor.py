"""The check-up behind `medaegis doctor`: whether installation and machine can do the work."""

import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from medaegis.errors import MedaegisError
from medaegis.provenance import GIB, codec, cores, first_line, lines

_SLOW_IMPORT_SECONDS = 120


@dataclass(frozen=True)
class Check:
    """One line of the check-up: `status` is ok, warn (works, with a loss) or fail (something will not work)."""

    name: str
    status: Literal["ok", "warn", "fail"]
    detail: str
    remedy: str = ""


def doctor(*, cache_dir: Path | str | None = None) -> list[Check]:
    """Checks that the installation and the machine can do the work; takes some seconds and changes nothing.

    Args:
        cache_dir: the folder for decoded images, as given to `load_dataset`.
    """
    return [
        check_python(),
        check_torch(),
        check_torchvision(),
        check_decoders(),
        check_codec(),
        check_bf16(),
        check_cache(cache_dir),
        check_memory(),
    ]


def check_python() -> Check:
    """Python is one that the package supports."""
    able, detail = sys.version_info >= (3, 11), f"{platform.python_version()} ({sys.executable})"
    return Check("Python", "ok", detail) if able else Check("Python", "fail", detail, "use Python >= 3.11")


def check_torch() -> Check:
    """PyTorch imports and multiplies."""
    try:
        import torch

        right = torch.equal(torch.ones(2, 3) @ torch.ones(3, 2), torch.full((2, 2), 3.0))
    except (ImportError, OSError, RuntimeError) as error:
        return Check("PyTorch", "fail", f"does not work: {first_line(error)}", "reinstall torch >= 2.8")
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
        return Check("DICOM decoders", "fail", f"do not import: {first_line(error)}", "reinstall pydicom >= 3.0.2")
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
        return Check("JPEG codec", "fail", f"does not work: {first_line(error)}", "reinstall Pillow and simplejpeg")
    if not exact:
        detail = f"its pixels are not the JPEG Cushion's, which computes them without it, but slower ({codec()})"
        return Check("JPEG codec", "warn", detail, "for speed, install the versions in constraints.txt")
    return Check("JPEG codec", "ok", codec())


def check_bf16() -> Check:
    """Whether bfloat16, which trainings and attacks use where it pays, is the faster arithmetic here."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    seconds = {kind: _time_convolution(kind, device) for kind in (torch.float32, torch.bfloat16)}
    gain = seconds[torch.float32] / seconds[torch.bfloat16]
    detail = f"{gain:.1f} x the speed of float32 on this {device}"
    remedy = "nothing breaks, but trainings take longer; try again when the machine is idle"
    return Check("bfloat16", "warn", detail, remedy) if gain < 1 else Check("bfloat16", "ok", detail)


def check_cache(cache_dir: Path | str | None = None) -> Check:
    """The folder for decoded images can be written and has room."""
    from medaegis.images.cache import cache_folder

    remedy = "set MEDAEGIS_CACHE to a folder with room"
    try:
        folder = cache_folder(cache_dir)
        with tempfile.TemporaryFile(dir=folder) as stream:
            stream.write(b"0")
        free = shutil.disk_usage(folder).free / GIB
    except (OSError, MedaegisError) as error:
        return Check("Cache", "fail", f"cannot be written: {first_line(error)}", remedy)
    detail = f"{folder}, {free:.1f} GiB free"
    return Check("Cache", "ok", detail) if free >= 2 else Check("Cache", "warn", detail, remedy)


def check_memory() -> Check:
    """Enough memory is free for a training at the usual sizes."""
    free = _free_memory() / GIB
    detail, remedy = f"{free:.1f} GiB free, {cores()} cores", "use smaller batches or images"
    return Check("Memory", "ok", detail) if free >= 4 else Check("Memory", "warn", detail, remedy)


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


def _free_memory() -> int:
    for line in lines("/proc/meminfo"):
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _release(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", text.partition("+")[0])[:2])
