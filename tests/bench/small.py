"""A guard, fitted in seconds on drawn X-rays, and an evaluation that can be started as its own process.

``python -m tests.bench.small WORK PAUSE`` fits once, evaluates into WORK/out and prints each piece that it measures.
"""

import sys
import time
from pathlib import Path

import torch
from tests.arithmetic import in_float32
from tests.attacks.toys import seeded
from tests.models.tiny_networks import Tiny, tiny

from medaegis.bench import store
from medaegis.bench.campaign import Effort
from medaegis.bench.evaluate import evaluate_guard
from medaegis.bench.plan import Planned
from medaegis.bench.records.evaluation import Evaluation
from medaegis.bench.store import Store
from medaegis.cushions import parse_cushion
from medaegis.guard.fitting import fit_guard
from medaegis.guard.guard import Guard
from medaegis.guard.shield_config import ShieldConfig
from medaegis.guard.site import Site
from medaegis.images.datasets import Dataset, load_dataset
from medaegis.images.splits import Split, split_dataset
from medaegis.models.classifier import Classifier
from medaegis.models.normalisation import IMAGENET_MEAN, IMAGENET_STD

SIZE = 32
CONFIG = ShieldConfig(taps=("input", "relu"), width=4, hidden=8, updates=12, batch_size=12, inner_steps=2)
CELLS = [
    Planned("fgsm", 8 / 256, "8/256"),
    Planned("pgd", 8 / 256, "8/256", steps=6),
    Planned("wb", 8 / 256, "8/256", steps=6),
    Planned("wb", 8 / 256, "8/256", steps=2),
    Planned("pgd", 16 / 256, "16 / 256", steps=6),
    Planned("wb", 16 / 256, "16 / 256", steps=6),
    Planned("pgd-l2", 8 / 256, "8/256", steps=4),
]


def data(folder: Path, n: int = 240) -> tuple[Dataset, Split]:
    dataset = load_dataset(f"phantom-xray?n={n}", size=SIZE, channels="gray", cache_dir=folder)
    return dataset, split_dataset(dataset, seed=0, fractions=(0.45, 0.25, 0.05, 0.25))


def learned(dataset: Dataset, split: Split) -> Classifier:
    with seeded(0):
        network = Tiny(len(dataset.classes))
    classifier = Classifier(
        network,
        classes=dataset.classes,
        size=SIZE,
        channels="gray",
        taps=("relu", "last"),
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        backbone="tests.models.tiny_networks:tiny",
    )
    network.drop.p = 0.0
    network.train()
    optimizer = torch.optim.Adam(network.parameters(), lr=0.02)
    x, y = dataset.pixels(split.train), dataset.labels[list(split.train)]
    for _ in range(50):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(classifier(x), y).backward()
        optimizer.step()
    return classifier.eval()


def fitted(folder: Path) -> tuple[Guard, Dataset, Split]:
    """The guard in folder/guard, fitted if it is not there yet."""
    dataset, split = data(folder)
    if (folder / "guard").exists():
        return Guard.load(folder / "guard", factory=tiny), dataset, split
    with in_float32():  # the same guard on every machine
        guard = fit_guard(
            learned(dataset, split),
            dataset,
            split,
            cushion=parse_cushion("jpeg:80"),
            config=CONFIG,
            out_dir=folder / "guard",
            tnr=0.85,  # of the 18 images of a class 17 are accepted; at 0.9 all would be
        )
    return guard, dataset, split


EFFORT = Effort(far=8, queries=20)


def measure(folder: Path, out: Path, *, cells=CELLS, planted: bool = False, **options) -> Evaluation:
    guard, dataset, split = fitted(folder)
    options = {"effort": EFFORT, **options}
    return evaluate_guard(guard, Site(dataset, split), cells=cells, out_dir=out, planted=planted, **options)


if __name__ == "__main__":
    torch.set_num_threads(1)
    store.BATCH = 8
    ask = Store.get

    def get(self, key, compute):
        def told():
            piece = compute()
            print("computed", flush=True)
            time.sleep(float(sys.argv[2]))
            return piece

        return ask(self, key, told)

    Store.get = get
    with in_float32():
        measure(Path(sys.argv[1]), Path(sys.argv[1]) / "out")
    print("done", flush=True)
