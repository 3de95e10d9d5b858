"""The command line called in this process, and the folders that the shared data, classifier and guard lie in."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from typer.testing import CliRunner, Result

from medaegis.bench.campaign import Effort
from medaegis.cli.app import app

PATIENTS, SHOTS, SIDE = 80, 3, 32
TRAINING = "--epochs 4 --batch-size 8 --device cpu"
# Of controls and alarms: less than users get.
SMALL = Effort(harmless=40, far=16, probed=16, guessed=4, queries=50, stamina=4, planted=20)


def call(*arguments: object) -> Result:
    """The command line in this process: exit code, stdout and stderr."""
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def draw(folder: Path) -> None:
    """A folder per class and patient: grey noise, in half of the patients with a bright disc; learned in seconds."""
    rng = np.random.default_rng(3)
    rows, columns = np.mgrid[:SIDE, :SIDE]
    for patient in range(PATIENTS):
        name = ("clear", "disc")[patient % 2]
        place = folder / name / f"patient-{patient:02d}"
        place.mkdir(parents=True)
        for shot in range(SHOTS):
            pixels = rng.normal(90, 12, (SIDE, SIDE))
            y, x = rng.integers(8, SIDE - 8, 2)
            if name == "disc":
                pixels[(rows - y) ** 2 + (columns - x) ** 2 < 30] += 90
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(place / f"{shot}.png")


@dataclass(frozen=True)
class Shop:
    """Where the shared data, classifier and guard lie, and the keys the guard is signed with."""

    root: Path

    @property
    def spec(self) -> str:
        return f"folder:{self.root / 'data'}"

    @property
    def classifier(self) -> Path:
        return self.root / "classifier"

    @property
    def guard(self) -> Path:
        return self.root / "guard"

    @property
    def public_key(self) -> Path:
        return self.root / "keys" / "public-key.pem"

    def copy_of_guard(self, to: Path) -> Path:
        """A guard of one's own, to damage."""
        return shutil.copytree(self.guard, to / "guard")
