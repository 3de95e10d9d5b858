"""A convolutional network on each layer's activations (Metzen 2017), trained on clean and attacked images.

One per tap, their logits summed (Medical Aegis, section 4; HFC, section 5.1).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medaegis.detectors.base import REMEDY, Detector, DetectorManifest, FitData
from medaegis.detectors.reader import PENULTIMATE, Reading
from medaegis.errors import ConfigError
from medaegis.models.backbones import seeded
from medaegis.validation import LEARNED, check_size, check_state

SMALLEST = 8  # side below which no map is pooled: Metzen leaves poolings out where the layer is small already
WIDTHS = (96, 192, 192)


@dataclass(kw_only=True, eq=False)
class Subnetworks(Detector):
    """Sum of the logits of one convolutional network per tap; positive for attacked.

    Convolutions with 96, 192 and 192 channels, batch norm and ReLU after each, max pooling after the first two where
    the map is larger than 8 x 8, a 1 x 1 convolution to one logit, averaged over places (Metzen 2017, figure 1).

    Args:
        plain: neither batch norm nor ReLU, as in the code of HFC's authors: linear but for the poolings.
        taps: whose activations; None: all that are read, but not what the last layer is given, which has no places.
        steps, batch_size, lr, weight_decay: of Adam, as in the code of HFC's authors; half of a batch is clean.
    """

    kind = "subnetworks"
    plain: bool = False
    taps: tuple[str, ...] | None = None
    steps: int = 200
    batch_size: int = 64
    lr: float = 1e-3
    weight_decay: float = 1e-4
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict, init=False, repr=False)
    networks: nn.ModuleList = field(default_factory=nn.ModuleList, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch_size < 2 or not self.lr > 0 or self.weight_decay < 0:
            given = f"steps {self.steps}, batch_size {self.batch_size}, lr {self.lr}, weight_decay {self.weight_decay}"
            raise ConfigError("subnetworks", given, "give steps and lr above 0, batches of 2 or more")

    @property
    def needs_attacked(self) -> bool:
        return True

    @property
    def needs_images(self) -> bool:
        return True

    def _fit(self, data: FitData) -> None:
        clean, attacked = data.pair()
        reader, images = clean.source()
        _, hostile = attacked.source()
        taps = tuple(tap for tap in reader.taps if tap != PENULTIMATE) if self.taps is None else self.taps
        trial = reader.maps(images[:1], taps).features
        self.shapes = {tap: tuple(_as_map(trial[tap]).shape[1:]) for tap in taps}
        draw = torch.Generator().manual_seed(data.seed)
        self._build(data.seed)
        self.networks.to(clean.device).train()
        optimiser = torch.optim.Adam(self.networks.parameters(), lr=self.lr, weight_decay=self.weight_decay)
        half = self.batch_size // 2
        kinds = (torch.arange(2 * half, device=clean.device) >= half).float()
        for step in range(self.steps):
            rows = [torch.randint(len(seen), (half,), generator=draw) for seen in (clean, attacked)]
            batch = torch.cat([images[rows[0].to(images.device)], hostile[rows[1].to(hostile.device)].to(images)])
            maps = reader.maps(batch, taps).features
            with torch.enable_grad():
                # Each network has its own loss: summed, for they share no weight.
                losses = [F.binary_cross_entropy_with_logits(z, kinds) for z in self._logits(maps)]
                optimiser.zero_grad()
                torch.stack(losses).sum().backward()
            optimiser.step()
            data.progress(step + 1, self.steps, "steps of the subnetworks")
        self.networks.eval().requires_grad_(False)

    def _logits(self, maps: Mapping[str, Tensor]) -> list[Tensor]:
        return [network(maps[tap]) for tap, network in zip(self.shapes, self.networks, strict=True)]

    def _score(self, seen: Reading) -> Tensor:
        reader, images = seen.source()
        parts = [reader.maps(part, tuple(self.shapes)).features for part in images.split(reader.batch_size)]
        return torch.cat([torch.stack(self._logits(maps)).sum(0) for maps in parts])

    def _build(self, seed: int) -> None:
        with seeded(seed):
            self.networks = nn.ModuleList(_Subnetwork(shape, plain=self.plain) for shape in self.shapes.values())

    # ---- on disk and between devices

    def options(self) -> dict[str, Any]:
        return super().options() | {"shapes": [[tap, list(shape)] for tap, shape in self.shapes.items()]}

    @classmethod
    def rebuilt(cls, told: DetectorManifest, tensors: Mapping[str, Tensor]) -> Self:
        plain = dict(told.options)
        shapes: dict[str, tuple[int, ...]] = {tap: (c, h, w) for tap, (c, h, w) in plain.pop("shapes")}
        for shape in shapes.values():
            check_size(f"detector {cls.kind!r}", "shape", shape, most=65536, remedy=REMEDY)
        check_size(f"detector {cls.kind!r}", "number of taps", [len(shapes)], most=1000, remedy=REMEDY)
        made = cls(**cls.read_options(plain))
        made.shapes = shapes
        made.settle(told, tensors)
        return made

    def tensors(self) -> dict[str, Tensor]:
        return cast(dict[str, Tensor], self.networks.state_dict())

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        with torch.device("meta"):  # nothing is built in a size that only a folder vouches for
            self._build(0)
        check_state(f"detector {self.kind!r}", self.networks, tensors, LEARNED, remedy=REMEDY)
        self.networks.load_state_dict(dict(tensors), assign=True)
        self.networks.eval().requires_grad_(False)

    def to(self, device: torch.device) -> Self:
        self.networks.to(device)
        return self


def _as_map(features: Tensor) -> Tensor:
    """Tokens `(N, C, T)` as a map of one column; all else as it is."""
    return features[..., None] if features.ndim == 3 else features


class _Subnetwork(nn.Module):
    def __init__(self, shape: tuple[int, ...], *, plain: bool) -> None:
        super().__init__()
        if len(shape) != 3:
            raise ConfigError("subnetworks", f"a tap gives {shape}, not channels, height and width", "tap another one")
        channels, side = shape[0], min(shape[1:])
        layers: list[nn.Module] = []
        for i, width in enumerate(WIDTHS):
            layers.append(nn.Conv2d(channels, width, 3, padding=1, bias=plain, dtype=torch.float32))
            layers += [] if plain else [nn.BatchNorm2d(width, dtype=torch.float32), nn.ReLU()]
            if i < 2 and side >= 2 * SMALLEST:
                layers.append(nn.MaxPool2d(2))
                side //= 2
            channels = width
        self.layers = nn.Sequential(*layers, nn.Conv2d(channels, 1, 1, dtype=torch.float32))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layers(_as_map(x).float())
        return out.mean((1, 2, 3))
