"""An experiment of six cells on drawn X-rays, run in seconds: two detectors and a guard, two attacks, two Cushions."""

import os
from pathlib import Path

import pytest

from medaegis.experiments.cells import cells_of
from medaegis.experiments.plan import load_sources, plan_cells
from medaegis.experiments.run import run_plan
from medaegis.experiments.schema import read_experiment
from medaegis.experiments.store import ExperimentStore

TOML = """
title = "Two detectors and a guard"
paper = "none"
table = "0"
measures = "detection"
dataset = { Chest = "chest" }
backbone = { Net = "medaegis.experiments.tiny:network" }
cushion = { none = "none", jpeg-80 = "jpeg:80" }
defence = { KD = "kd", SVM = "svm", "Medical Aegis" = "aegis" }
attack = { BIM = "bim", WB = "wb" }
eps = ["16/256"]
exclude = [{ attack = "WB", defence = ["KD", "SVM"] }]
layers = { own = ["layer1", "layer4"] }

[scale.smoke]
data = { chest = "phantom-xray?n=160" }
size = 32
channels = "gray"
fractions = [0.4, 0.15, 0.25, 0.2]
steps = 3
training = { epochs = 4, batch_size = 16, lr = 0.01, augmentation = false }
shield = { recipe = "paper", updates = 4, batch_size = 4, inner_steps = 2, width = 4, hidden = 8 }
"""


def written(folder: Path, *changes: tuple[str, str]) -> Path:
    """The file, with some of its text replaced."""
    text = TOML
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    file = folder / "small.toml"
    file.write_text(text, encoding="utf-8")
    return file


def cells(file: Path, device: str = "cpu", **given):
    return planned_of(read_experiment(file, "smoke"), device, **given)


def planned_of(experiment, device: str = "cpu", **given):
    made = cells_of(experiment)
    return plan_cells(experiment, made, load_sources(experiment, made, given), device)


def run(planned, folder: Path, log: Path | None = None, **options):
    """Run them; the key of every task is put into the log once it is kept."""
    with ExperimentStore(folder, write=True) as store:
        keep = store.put

        def put(task, *given, **told):
            keep(task, *given, **told)
            if log is not None:
                with open(log, "a", encoding="utf-8") as lines:
                    lines.write(f"{task.key}\n")
                    lines.flush()
                    os.fsync(lines.fileno())

        store.put = put
        return run_plan("small", "smoke", planned, store, **options)


def figures(folder: Path):
    with ExperimentStore(folder) as store:
        return store.cells("small", "smoke")


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    """Decoded pictures are kept where no other test looks."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MEDAEGIS_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def whole(tmp_path_factory, cache):
    """The cells, and the store of a run that nothing broke."""
    folder = tmp_path_factory.mktemp("whole")
    planned = cells(written(folder))
    run(planned, folder / "store", folder / "log")
    return planned, folder / "store"
