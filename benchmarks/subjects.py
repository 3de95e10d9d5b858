"""What is measured on: drawn pictures, and networks with random weights that an attack can nevertheless fool.

Everything is a function of a seed.
"""

from __future__ import annotations

import copy
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medaegis.cushions import parse_cushion
from medaegis.detectors.shield import Shield, ShieldBank
from medaegis.guard.fitting import shield_config
from medaegis.guard.guard import Guard
from medaegis.models.backbones import backbone, create_backbone, default_taps
from medaegis.models.classifier import Classifier
from medaegis.models.normalisation import IMAGENET_MEAN, IMAGENET_STD


def pictures(count: int, channels: int, size: int, *, seed: int) -> Tensor:
    """Soft shapes with grain, uint8 `(count, channels, size, size)`; they compress about like an X-ray."""
    draw = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, channels, 7, 7, generator=draw)
    fine = torch.rand(count, channels, -(-size // 8), -(-size // 8), generator=draw)
    grain = torch.randn(count, channels, size, size, generator=draw)
    image = F.interpolate(coarse, size=size, mode="bicubic") + 0.25 * F.interpolate(fine, size=size, mode="bicubic")
    return (image / 1.25 + 0.01 * grain).clamp(0, 1).mul(255).round().to(torch.uint8)


def near_pictures(count: int, size: int, *, seed: int) -> Tensor:
    """Variations of one drawing, up to 3 grey levels apart: float32 `(count, 3, size, size)`, values k / 255.

    The changes are soft. Were they grain, an attack could only ever add to it, and would fool half of the images.
    """
    first = pictures(1, 3, size, seed=seed).float()
    coarse = 6 * torch.rand(count, 3, 7, 7, generator=torch.Generator().manual_seed(seed + 1)) - 3
    change = F.interpolate(coarse, size=size, mode="bicubic")
    return (first + change).round().clamp(0, 255) / 255


class Normalised(nn.Module):
    """Pixels to logits as a user writes it: normalisation, then the network, in float32 and PyTorch's own layout."""

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(1, 3, 1, 1))
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network((x - self.mean) / self.std)
        return logits


def splitting_network(name: str, images: Tensor, *, seed: int) -> Normalised:
    """A two-class network of random weights whose boundary runs through `images`, half of them on either side.

    Without this a random network says the same of every image, and whether an attack gets anywhere is chance. Its
    batch norms have the statistics of these images; its last layer reads the direction in which their features
    differ most.
    """
    model = Normalised(create_backbone(name, classes=2, seed=seed))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # a plain average: after one pass, the statistics of these images
    head = cast(nn.Linear, model.network.get_submodule(backbone(name).head))
    seen: list[Tensor] = []
    handle = head.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    with torch.no_grad():
        model.train()(images)
        model.eval()(images)
        handle.remove()
        features = seen[-1].double()
        centred = features - features.mean(0)
        direction = torch.linalg.eigh(centred @ centred.T).eigenvectors[:, -1] @ centred
        places = features @ direction
        scale = 1 / places.std()
        head.weight.copy_(torch.stack([-direction, direction]) * scale)
        assert head.bias is not None
        middle = places.sort().values[len(places) // 2 - 1 : len(places) // 2 + 1].mean()
        head.bias.copy_(torch.stack([middle, -middle]) * scale)
    return model.eval()


def as_classifier(model: Normalised, name: str, *, size: int, channels: Literal["gray", "rgb"] = "rgb") -> Classifier:
    """The same weights as a `Classifier` of ours; the model given keeps its own copy and layout."""
    return Classifier(
        copy.deepcopy(model.network),
        classes=("0", "1"),
        size=size,
        channels=channels,
        taps=default_taps(name),
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        backbone=name,
    ).eval()


def guarded(classifier: Classifier, *, cushion: str = "jpeg:80", seed: int = 0) -> Guard:
    """A guard with Shields of the default recipe's shape; random weights, and thresholds that accept about half."""
    config = shield_config("strong", classifier, updates=1)
    shapes = classifier.tap_shapes(config.taps)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        shields = [Shield(shapes, width=config.width, hidden=config.hidden) for _ in classifier.classes]
    bank = ShieldBank(shields).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    bank.centre.fill_(1.0)
    return Guard(classifier, parse_cushion(cushion), bank, tnr=0.9)
