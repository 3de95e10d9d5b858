"""Small data sets and networks for tasks beyond one class an image."""

from functools import cache

import torch
from torch import Tensor, nn

from medaegis.images.datasets import Dataset, load_dataset
from medaegis.images.splits import Split, split_dataset
from medaegis.models.learning import TrainConfig
from medaegis.task import MULTI

LUNGS = "phantom-lungs?n=60"
CONFIG = TrainConfig(epochs=4, batch_size=10, lr=0.01, augmentation=False)
MASKS = CONFIG.model_copy(update={"backbone": "tests.tasks.small:tiny_unet", "epochs": 12, "taps": ("deep",)})
SEVERAL = CONFIG.model_copy(update={"backbone": "tests.models.tiny_networks:tiny", "taps": ("relu",), "epochs": 10})


class TinyUNet(nn.Module):
    """Two levels, a few hundred weights; any even sides."""

    def __init__(self, classes: int = 2) -> None:
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.deep = nn.Sequential(nn.Conv2d(8, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU())
        self.wide = nn.Sequential(nn.Conv2d(16, 16, 5, padding=2), nn.ReLU())
        self.up = nn.ConvTranspose2d(16, 8, 2, 2)
        self.head = nn.Conv2d(16, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        first = self.down(x)
        return self.head(torch.cat([first, self.up(self.wide(self.deep(first)))], 1))


def tiny_unet(classes: int) -> nn.Module:
    return TinyUNet(classes)


@cache
def lungs(size: int = 32) -> tuple[Dataset, Split]:
    dataset = load_dataset(LUNGS, size=size, channels="gray")
    return dataset, split_dataset(dataset)


@cache
def findings() -> tuple[Dataset, Split]:
    """Grey noise; a finding is a bright patch in its own corner, each there or not by itself; two images a patient."""
    n, generator = 120, torch.Generator().manual_seed(0)
    images = torch.randint(90, 166, (n, 1, 16, 16), generator=generator, dtype=torch.uint8)
    labels = (torch.rand(n // 2, 3, generator=generator) < torch.tensor([0.5, 0.4, 0.3])).long().repeat_interleave(2, 0)
    for image, there in zip(images, labels.tolist(), strict=True):
        for (row, column), has in zip(((1, 1), (1, 9), (9, 1)), there, strict=True):
            if has:
                image[:, row : row + 5, column : column + 5] = 210
    dataset = Dataset(
        spec="corners",
        images=images,
        labels=labels,
        classes=("left", "right", "below"),
        patients=tuple(f"p{i // 2}" for i in range(n)),
        names=tuple(f"{i}.png" for i in range(n)),
        ids=torch.arange(n) * 3,
        task=MULTI,
    )
    return dataset, split_dataset(dataset)
