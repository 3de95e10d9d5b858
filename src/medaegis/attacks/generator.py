"""A generator (AdvGAN, Xiao 2018): a small network, learned on the victim, that makes an image's change in one pass.

Its paper's discriminator and hinge keep changes small and like the images; here eps does, so there is one loss, that of
the attacker.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from medaegis.attacks.learned import Change, Learned, Learner, Material
from medaegis.errors import ConfigError
from medaegis.progress import Progress


@dataclass(frozen=True, kw_only=True)
class Generator(Learner):
    """A network that looks at the image in three sizes (`output`), drawn into the ball by a hyperbolic tangent.

    Args:
        steps: passes over the known images, in an order drawn by the seed.
        width: channels at the size of the image; twice as many below.
        rate: learning rate of Adam; falls to 0 over the batches.
    """

    steps: int = 20
    width: int = 16
    rate: float = 0.01
    what: ClassVar[str] = "generator"
    stream: ClassVar[str] = "generator"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.width < 1 or self.rate <= 0:
            raise ConfigError(self.what, f"width={self.width}, rate={self.rate}", "give a width >= 1 and a rate > 0")

    def _learned(self, known: Material, progress: Progress) -> tuple[dict[str, Tensor], int, int]:
        weights = self.first(known.images.shape[1], known.seed, known.victim.device)
        adam = torch.optim.Adam(weights.values(), lr=self.rate)
        for victim, x, goal, left in known.shuffled(self.steps, self.learning_batch, progress):
            made = (x + known.limit * output(weights, x)).clamp(0, 1)
            slope = self.slope(victim, made, goal)
            adam.zero_grad()
            made.backward(slope / len(x))
            adam.param_groups[0]["lr"] = self.rate * left
            adam.step()
        spent = self.steps * len(known)
        limit = torch.tensor(known.limit, dtype=torch.float32)
        return {name: values.detach() for name, values in weights.items()} | {"limit": limit}, spent, spent

    def first(self, channels: int, seed: int, device: torch.device) -> dict[str, Tensor]:
        """Random weights (He 2015) by layer, to be learned."""
        source, weights, wide = torch.Generator().manual_seed(seed), {}, 2 * self.width
        layers = [(channels, self.width), (self.width, wide), (wide, wide), (wide, self.width), (self.width, channels)]
        for k, (before, after) in enumerate(layers):
            drawn = torch.randn((after, before, 3, 3), generator=source, dtype=torch.float32)
            weights[f"{k}.weight"] = drawn * (2 / (9 * before)) ** 0.5
            weights[f"{k}.bias"] = torch.zeros(after, dtype=torch.float32)
        return {name: values.to(device).requires_grad_(True) for name, values in weights.items()}

    def change(self, learned: Learned) -> Change:
        def made(x: Tensor) -> Tensor:
            here = {name: values.to(x) for name, values in learned.items()}
            if here["0.weight"].shape[1] != x.shape[1]:
                problem = f"it has {here['0.weight'].shape[1]} channels, the images {x.shape[1]}"
                raise ConfigError(self.what, problem, "learn it on those")
            # One by one, so that the last bit of none depends on the others.
            return here["limit"] * torch.cat([output(here, image) for image in x.split(1)])

        return made


def output(weights: Learned, x: Tensor) -> Tensor:
    """Of the network with these weights, for images `(N, C, H, W)`: in (-1, 1), of the same shape.

    Five convolutions of 3 x 3: one on the image, one on its half, one on its quarter, and two on the way back, where
    what was seen in each size is added.
    """

    def layer(k: int, seen: Tensor) -> Tensor:
        return F.conv2d(seen, weights[f"{k}.weight"], weights[f"{k}.bias"], padding=1)

    whole = F.leaky_relu(layer(0, 2 * x - 1), 0.2)
    half = F.leaky_relu(layer(1, F.avg_pool2d(whole, 2)), 0.2)
    quarter = F.leaky_relu(layer(2, F.avg_pool2d(half, 2)), 0.2)
    half = half + F.interpolate(quarter, size=half.shape[2:])
    whole = whole + F.interpolate(F.leaky_relu(layer(3, half), 0.2), size=whole.shape[2:])
    return torch.tanh(layer(4, whole))
