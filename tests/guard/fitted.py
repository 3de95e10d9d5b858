"""A problem that a Shield can learn in seconds, and a training that can be started as its own process.

``python -m tests.guard.fitted FOLDER PAUSE`` trains one Shield, writes a checkpoint after every update and prints it.
"""

import sys
import time
from functools import cache
from pathlib import Path

import torch
from tests.attacks.toys import seeded
from tests.models.drawn import squares
from tests.models.tiny_networks import Tiny

from medaegis.cushions import parse_cushion
from medaegis.guard import shield_training
from medaegis.guard.shield_config import ShieldConfig
from medaegis.guard.shield_training import ShieldTraining
from medaegis.models.classifier import Classifier
from medaegis.models.normalisation import IMAGENET_MEAN, IMAGENET_STD

CONFIG = ShieldConfig(
    taps=("input", "relu"), width=4, hidden=8, updates=24, batch_size=16, inner_steps=2, lifetime=3, eps_below=0.3
)


@cache
def learned_classifier() -> Classifier:
    """`Tiny` trained to tell bright squares from dark ones."""
    dataset, split = squares(240)
    with seeded(0):
        network = Tiny(2)
    x, y = dataset.pixels(split.train), dataset.labels[list(split.train)]
    classifier = Classifier(
        network,
        classes=dataset.classes,
        size=16,
        channels="gray",
        taps=("relu", "last"),
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        backbone="tests.models.tiny_networks:tiny",
    )
    network.drop.p = 0.0
    network.train()
    optimizer = torch.optim.Adam(network.parameters(), lr=0.02)
    for _ in range(60):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(classifier(x), y).backward()
        optimizer.step()
    optimizer.zero_grad()
    return classifier.eval()


def training(folder: Path, *, label: int = 1, cushion: str = "none", config: ShieldConfig = CONFIG, **options):
    dataset, split = squares(240)
    learn = dataset.subset([*split.train, *split.adv_train])
    return ShieldTraining(learned_classifier(), parse_cushion(cushion), learn, label, config, folder, **options)


if __name__ == "__main__":
    torch.set_num_threads(1)
    shield_training.CHECKPOINT_SECONDS = 0.0

    def report(done: int, total: int, message: str) -> None:
        print(done, flush=True)
        time.sleep(float(sys.argv[2]))

    training(Path(sys.argv[1])).train(report)
