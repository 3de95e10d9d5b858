"""A guard whose chances under noise are known: it looks at two pixels, one for the diagnosis, one for the Shield."""

import torch
from scipy.stats import norm
from torch import Tensor, nn

import medaegis as ma
from medaegis.cushions import parse_cushion
from medaegis.detectors.shield import ShieldBank
from medaegis.guard.guard import Guard

SIZE = 8
CLASSES = ("clear", "ill")


class Above(nn.Module):
    """The second class where the first pixel is above so many grey levels."""

    def __init__(self, level: int) -> None:
        super().__init__()
        self.level = nn.Parameter(torch.tensor(level + 0.5))

    def forward(self, x: Tensor) -> Tensor:
        over = 255 * x[:, 0, 0, 0] - self.level
        return torch.stack([-over, over], 1)


class Bright(nn.Module):
    """A Shield whose logit is the second pixel, in grey levels."""

    taps = ("input",)

    def forward(self, features: dict[str, Tensor]) -> Tensor:
        return 255 * features["input"][:, 0, 0, 1]


def known_guard(
    level: int = 100, least: int = -1000, *, cushion: str = "none", network: nn.Module | None = None
) -> Guard:
    """Ill above `level`; accepted where the second pixel is at least `least`, by default always."""
    model = ma.wrap(network or Above(level), classes=CLASSES, size=SIZE, channels="gray", normalise=None)
    bank = ShieldBank([Bright(), Bright()])
    bank.centre.fill_(least + 0.5)  # suspicion 1 half a level below
    return Guard(model, parse_cushion(cushion), bank, tnr=0.9)


def known_image(first: int, second: int = 128) -> Tensor:
    """uint8 `(1, H, W)` with these two pixels; the others are of a contrast that no noise takes away."""
    image = (torch.arange(SIZE * SIZE) % 2 * 255).to(torch.uint8).view(1, SIZE, SIZE)
    image[0, 0, :2] = torch.tensor([first, second])
    return image


def chances(first: int, second: int, sigma: float, level: int, least: int) -> tuple[list[float], list[float]]:
    """That a noisy copy is accepted as each class, and that the classifier takes it for each."""
    s = 255 * sigma
    ill, passes = norm.sf((level + 0.5 - first) / s), norm.sf((least - 0.5 - second) / s)
    return [(1 - ill) * passes, ill * passes], [1 - ill, ill]
