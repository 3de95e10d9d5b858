"""A data set of two kinds of squares that a few steps can learn, and a run that can be started as its own process.

``python tests/models/drawn.py OUT_DIR PAUSE`` trains on it, writes a checkpoint at every step and prints the steps.
"""

import sys
import time
from pathlib import Path

import torch

from medaegis.images.datasets import Dataset
from medaegis.images.splits import Split, split_dataset
from medaegis.models import training
from medaegis.models.learning import TrainConfig

CONFIG = TrainConfig(backbone="tests.models.tiny_networks:tiny", taps=("relu",), epochs=4, batch_size=10, lr=0.01)


def squares(n: int = 80, size: int = 16) -> tuple[Dataset, Split]:
    """Grey noise with a bright or a dark square somewhere; two images per patient."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(90, 166, (n, 1, size, size), generator=generator, dtype=torch.uint8)
    labels = torch.arange(n) // 2 % 2
    corners = torch.randint(0, size - 6, (n, 2), generator=generator)
    for image, label, (row, column) in zip(images, labels, corners, strict=True):
        image[:, row : row + 6, column : column + 6] = 220 if label else 40
    dataset = Dataset(
        spec="squares",
        images=images,
        labels=labels,
        classes=("dark", "bright"),
        patients=tuple(f"p{i // 2}" for i in range(n)),
        names=tuple(f"{i}.png" for i in range(n)),
        ids=torch.arange(n) * 3,
    )
    return dataset, split_dataset(dataset)


if __name__ == "__main__":
    training.CHECKPOINT_SECONDS = 0.0

    def report(done: int, total: int, message: str) -> None:
        print(done, total, message, flush=True)
        time.sleep(float(sys.argv[2]))

    training.train_classifier(*squares(), CONFIG, Path(sys.argv[1]), report)
