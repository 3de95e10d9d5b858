"""A network that hangs is given up: the command ends in time, and what was not judged is withheld."""

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image
from tests.attacks.toys import toy_bank, toy_classifier

from medaegis.cushions import parse_cushion
from medaegis.guard.guard import Guard

SECONDS = 5


def screen(guard: Path, images: Path, factory: str) -> tuple[subprocess.CompletedProcess[str], float]:
    start = time.monotonic()
    program = [sys.executable, "-c", "from medaegis.cli import main; main()"]
    options = ["--format", "jsonl", "--timeout", str(SECONDS), "--factory", f"tests.models.tiny_networks:{factory}"]
    done = subprocess.run([*program, "screen", guard, images, *options], capture_output=True, text=True, timeout=120)
    return done, time.monotonic() - start


def test_screen_withholds_where_the_network_hangs(tmp_path: Path):
    classifier = toy_classifier()
    bank = toy_bank(classifier)
    bank.centre.fill_(-1e3)
    for factory in ("hangs", "hangs_at_once"):
        classifier.backbone = f"tests.models.tiny_networks:{factory}"
        Guard(classifier, parse_cushion("none"), bank, tnr=0.9).save(tmp_path / factory)
    (tmp_path / "images").mkdir()
    noise = np.random.default_rng(0).integers(0, 60, (20, 16, 16), dtype=np.uint8)
    for i, pixels in enumerate(noise):
        Image.fromarray(pixels + (190 if i == 17 else 0)).save(tmp_path / "images" / f"{i:02}.png")

    done, seconds = screen(tmp_path / "hangs", tmp_path / "images", "hangs")
    assert done.returncode == 1, done.stderr
    records = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(records) == 20
    withheld = [record for record in records if record["status"] == "failed"]
    assert records[17] in withheld
    assert all(record["diagnosis"] is None for record in withheld)
    assert f"no answer within {SECONDS} s" in records[17]["reason"]
    assert any(record["status"] == "accepted" for record in records)
    assert seconds < 60

    done, seconds = screen(tmp_path / "hangs_at_once", tmp_path / "images", "hangs_at_once")
    assert (done.returncode, done.stdout) == (1, "")
    assert f"no answer within {SECONDS} s" in done.stderr
    assert seconds < 60
