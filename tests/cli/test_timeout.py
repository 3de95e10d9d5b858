"""A network that hangs is given up: the command ends in time, and what was not judged is withheld."""

import importlib
import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.attacks.toys import toy_bank, toy_classifier
from tests.cli.shop import call
from tests.models.tiny_networks import LET_GO

from medaegis.cushions import parse_cushion
from medaegis.guard.guard import Guard

SECONDS = 5


def screen(guard: Path, images: Path, factory: str) -> subprocess.CompletedProcess[str]:
    program = [sys.executable, "-c", "from medaegis.cli import main; main()"]
    options = ["--format", "jsonl", "--timeout", str(SECONDS), "--factory", f"tests.models.tiny_networks:{factory}"]
    done = subprocess.run([*program, "screen", guard, images, *options], capture_output=True, text=True, timeout=300)
    return done


def test_screen_withholds_where_the_network_hangs(tmp_path: Path):
    classifier = toy_classifier()
    bank = toy_bank(classifier)
    bank.centre.fill_(-1e3)
    classifier.backbone = "tests.models.tiny_networks:hangs"
    Guard(classifier, parse_cushion("none"), bank, tnr=0.9).save(tmp_path / "guard")
    (tmp_path / "images").mkdir()
    noise = np.random.default_rng(0).integers(0, 60, (20, 16, 16), dtype=np.uint8)
    for i, pixels in enumerate(noise):
        Image.fromarray(pixels + (190 if i == 17 else 0)).save(tmp_path / "images" / f"{i:02}.png")

    done = screen(tmp_path / "guard", tmp_path / "images", "hangs")
    assert done.returncode == 1, done.stderr
    records = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(records) == 20
    withheld = [record for record in records if record["status"] == "failed"]
    assert records[17] in withheld
    assert all(record["diagnosis"] is None for record in withheld)
    assert f"no answer within {SECONDS} s" in records[17]["reason"]
    assert any(record["status"] == "accepted" for record in records)


def test_a_network_that_hangs_while_it_is_loaded_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    module = importlib.import_module("medaegis.cli.screen")
    monkeypatch.setattr(module, "LOADING", 3.0)
    classifier = toy_classifier()
    classifier.backbone = "tests.models.tiny_networks:hangs_at_once"
    Guard(classifier, parse_cushion("none"), toy_bank(classifier), tnr=0.9).save(tmp_path / "guard")
    Image.new("L", (16, 16)).save(tmp_path / "image.png")
    start, before = time.monotonic(), set(threading.enumerate())
    try:
        done = call(
            *("screen", tmp_path / "guard", tmp_path / "image.png", "--timeout", 0.5),
            *("--factory", "tests.models.tiny_networks:hangs_at_once"),
        )
    finally:
        LET_GO.set()
        for thread in set(threading.enumerate()) - before:
            thread.join(60)
        LET_GO.clear()
    assert (done.exit_code, done.stdout) == (1, "")
    assert "no answer within 3 s" in done.stderr
    assert time.monotonic() - start < 30
