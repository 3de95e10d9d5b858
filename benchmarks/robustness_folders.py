"""Sound guard, classifier and detector folders for the trials of robustness, and how they are spoilt."""

from __future__ import annotations

import contextlib
import hashlib
import json
import random
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.robustness_stock import SIDE, drawing, spoilt
from medaegis.cushions import parse_cushion
from medaegis.detectors.base import Detector
from medaegis.detectors.density import KernelDensity
from medaegis.detectors.learned import RandomForest
from medaegis.detectors.reader import Reader
from medaegis.detectors.shield import Shield, ShieldBank
from medaegis.guard.guard import Guard
from medaegis.models.classifier import Classifier
from medaegis.models.store import save_classifier
from medaegis.plainjson import encode_json


class Small(nn.Module):
    """A network of a few hundred weights."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, stride=2, bias=False)
        self.norm = nn.BatchNorm2d(6)
        self.relu = nn.ReLU()
        self.fc = nn.Linear(6, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.relu(self.norm(self.conv(x))).mean((2, 3)))  # type: ignore[no-any-return]


def small(classes: int) -> nn.Module:
    """Factory of the network of these folders; a damaged number of classes is not built."""
    return Small(min(classes, 100))


def classifier() -> Classifier:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = Small(2)
    told = f"{__name__}:small"
    options = {"size": SIDE, "channels": "gray", "taps": ("relu",), "mean": (0.5,) * 3, "std": (0.25,) * 3}
    return Classifier(network, classes=("a", "b"), backbone=told, **options).eval()  # type: ignore[arg-type]


def images(count: int) -> Tensor:
    """Drawn pictures as a network takes them, float32 `(count, 1, SIDE, SIDE)`."""
    return torch.stack([torch.from_numpy(drawing(seed=k)) for k in range(count)])[:, None].float() / 255


def make_folder(kind: str, path: Path) -> None:
    """A sound folder of this kind: guard, classifier, detector or detector-forest."""
    network = classifier()
    if kind == "classifier":
        save_classifier(network, path, {"training": {"seconds": 1.0}, "split": {"seed": 0, "by": "patient"}})
    elif kind == "guard":
        shapes = network.tap_shapes(("input", "relu"))
        bank = ShieldBank([Shield(shapes, width=4, hidden=8, seed=k) for k in range(2)])
        bank.centre.fill_(0.0)
        Guard(network, parse_cushion("jpeg:80"), bank, tnr=0.9, calibration={"tnr_reached": 0.9}).save(path)
    else:
        seen = Reader(network, cushion=parse_cushion("jpeg:80")).read(images(24))
        labels = torch.arange(24) % 2
        detector: Detector = KernelDensity(taps=("relu",))
        if kind == "detector-forest":
            detector = RandomForest(taps=("relu",), trees=3)
        detector.fit(seen, labels, attacked=seen).save(path)


def forge(path: Path) -> None:
    """Make all hashes fit again, as anybody can who may write to a folder that nobody signed."""
    told = json.loads((path / "manifest.json").read_bytes())
    for name in told["files"]:
        data = (path / name).read_bytes()
        told["files"][name] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    told.pop("checksum", None)
    told["checksum"] = hashlib.sha256(encode_json(told)).hexdigest()
    (path / "manifest.json").write_bytes(encode_json(told))


def spoil_folder(path: Path, draw: random.Random) -> None:
    """Damage a folder: bytes of a file, a number in a tensor, an entry of the manifest; mostly with hashes that fit."""
    files = sorted(file for file in path.iterdir() if file.name != "manifest.json")
    change = draw.randrange(3)
    if change == 0:
        file = draw.choice(files)
        file.write_bytes(spoilt(file.read_bytes(), draw, [other.read_bytes() for other in files]))
    elif change == 1:
        file = draw.choice([file for file in files if file.suffix == ".safetensors"])
        data = bytearray(file.read_bytes())
        start = 8 + int.from_bytes(data[:8], "little")
        at = start + 4 * draw.randrange(max(1, (len(data) - start) // 4))
        odd = (float("nan"), float("inf"), float("-inf"), 0.0, -1.0, 1e30, -1e30, 1e-40)
        data[at : at + 4] = np.float32(draw.choice(odd)).tobytes()
        file.write_bytes(bytes(data))
    else:
        manifest = path / "manifest.json"
        told = json.loads(manifest.read_bytes())
        _spoil_json(told, draw)
        with contextlib.suppress(ValueError):  # what is no JSON any more stays as it was
            manifest.write_bytes(encode_json(told))
    if draw.random() < 0.8:
        with contextlib.suppress(ValueError, KeyError, TypeError, OSError, AttributeError):
            forge(path)


def _spoil_json(told: dict[str, object], draw: random.Random) -> None:
    places: list[tuple[Callable[[object], None], object]] = []

    def collect(value: object) -> None:
        pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        for key, inner in pairs:
            places.append((partial(value.__setitem__, key), inner))  # type: ignore[union-attr]
            collect(inner)

    collect(told)
    for _ in range(draw.randint(1, 3)):
        put, _ = draw.choice(places)
        odd = (None, True, False, 0, -1, 1.0, 1e308, 10**9, 10**30, "", "x", "1", [], {}, [[]], [0], {"a": 1}, "\u202e")
        put(draw.choice(odd) if draw.random() < 0.7 else draw.choice(places)[1])
