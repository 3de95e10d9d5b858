"""Peak memory of inference, each way in a process of its own: `python -m benchmarks.memory guarded resnet50 224 32`.

Linux only: the kernel's high-water mark of resident memory is set back after the models are built, so that building
does not count but everything that stays resident does.
"""

from __future__ import annotations

import gc
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.subjects import Normalised, as_classifier, guarded, pictures
from medaegis.models.backbones import create_backbone

WAYS = ("bare", "folded", "guarded")


def measure(way: str, name: str, size: int, batch: int, threads: int) -> dict[str, float]:
    """Bytes resident before inference and at its peak, from a new process."""
    command = [sys.executable, "-m", "benchmarks.memory", way, name, str(size), str(batch), str(threads)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    answer: dict[str, float] = json.loads(done.stdout)
    return answer


def peak(run: Callable[[], object], *, repeats: int = 2) -> dict[str, float]:
    """Resident bytes before `run` and the most while it runs."""
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    for _ in range(repeats):
        run()
    return {"before": before, "peak": _status("VmHWM")}


def _status(key: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key):
            return 1024 * float(line.split()[1])
    raise RuntimeError(f"the kernel tells no {key}")


def _infer(way: str, name: str, size: int, batch: int) -> Callable[[], object]:
    """Inference on one batch, holding no more models than a user would."""
    images = pictures(batch, 3, size, seed=0).float() / 255
    model = Normalised(create_backbone(name, classes=2)).eval()
    if way == "bare":
        return lambda: model(images)
    if way == "folded":
        frozen = as_classifier(model, name, size=size).frozen()
        return lambda: frozen(images)
    guard = guarded(as_classifier(model, name, size=size))
    return lambda: guard.inspect(images)


def main(arguments: list[str]) -> None:
    way, name, *numbers = arguments
    if way not in WAYS:
        raise SystemExit(f"unknown way {way!r}; choose from {', '.join(WAYS)}")
    size, batch, threads = map(int, numbers)
    torch.set_num_threads(threads)
    infer = _infer(way, name, size, batch)
    gc.collect()
    with torch.no_grad():
        print(json.dumps(peak(infer)))


if __name__ == "__main__":
    main(sys.argv[1:])
