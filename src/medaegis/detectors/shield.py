"""The Shield (Medical Aegis section 3): per class, a network on the classifier's shallow-to-deep activations.

It gives one logit S_y: is this activation that of a genuine image of class y? The paper says "DNN-based" and no more;
ours reads each tap with a small convolutional head, averages it over its places and joins the heads by a perceptron.
No normalisation layers: they would mix clean and adversarial images of a batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from medaegis.detectors.thresholds import Threshold, set_thresholds
from medaegis.errors import ConfigError
from medaegis.validation import SHIELDS, Name, Shape, check_state

# Monotone and never flat. SiLU was tried: training drove half of its hidden units to where their slope is nil or of the
# wrong sign, so that attacks lost their way (masked gradients) while nothing became robust.
SLOPE = 0.1
FINEST = 7  # heads reduce their tap to about this side before pooling


class Shield(nn.Module):
    """Detector of one class.

    Args:
        shapes: tap name -> shape `(C, H, W)` of one image's activation; `(C,)` for a vector.
        width: channels of the first layer of a head; deeper ones have up to 8 times as many.
        hidden: width of the perceptron that joins the heads.
        seed: of the first weights; no other random state is read or changed.
    """

    def __init__(
        self, shapes: Mapping[str, Sequence[int]], *, width: int = 32, hidden: int = 128, seed: int = 0
    ) -> None:
        super().__init__()
        if not shapes:
            raise ConfigError("shield", "it has no taps", "name at least one")
        self.shapes = {name: tuple(shape) for name, shape in shapes.items()}
        self.taps = tuple(self.shapes)
        self.width, self.hidden = width, hidden
        with torch.random.fork_rng(devices=[]):  # PyTorch's own first weights come from the global random state
            self.heads = nn.ModuleList(_Head(shape, width) for shape in self.shapes.values())
            joined = sum(cast(_Head, head).out_features for head in self.heads)
            last = [nn.Linear(n, m, dtype=torch.float32) for n, m in ((joined, hidden), (hidden, 1))]
            self.join = nn.Sequential(last[0], nn.LeakyReLU(SLOPE), last[1])
        self._initialise(torch.Generator().manual_seed(seed))

    def forward(self, features: Mapping[str, Tensor]) -> Tensor:
        """S_y, float32 `(N,)`; higher is more genuine."""
        pooled = [head(features[name]) for name, head in zip(self.taps, self.heads, strict=True)]
        out: Tensor = self.join(torch.cat(pooled, 1))
        return out.squeeze(1).float()

    def _initialise(self, generator: torch.Generator) -> None:
        if torch.get_default_device().type == "meta":
            return  # there is nothing to fill
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight, generator=generator)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        # Near 0 at the start, so that no first step is spent on unlearning a random verdict.
        nn.init.normal_(cast(nn.Linear, self.join[2]).weight, std=0.02, generator=generator)

    @torch.no_grad()
    def standardise(self, features: Mapping[str, Tensor]) -> None:
        """Set each head's input scale from clean activations `(N, C, H, W)`: mean 0, deviation 1 per channel."""
        for name, head in zip(self.taps, self.heads, strict=True):
            cast(_Head, head).standardise(features[name].float())


class _Head(nn.Module):
    mean: Tensor
    std: Tensor

    def __init__(self, shape: Sequence[int], width: int) -> None:
        super().__init__()
        channels, side = shape[0], (max(shape[1:]) if len(shape) > 1 else 1)
        self.register_buffer("mean", torch.zeros(1, channels, 1, 1, dtype=torch.float32))
        self.register_buffer("std", torch.ones(1, channels, 1, 1, dtype=torch.float32))
        layers: list[nn.Module] = []
        while side > FINEST:
            side = (side + 1) // 2
            out = _channels(side, width)
            layers += [_Pixels(channels, out) if channels <= 3 else _conv(channels, out, 3, stride=2)]
            layers += [nn.LeakyReLU(SLOPE)]
            if side <= 2 * FINEST:
                layers += [_conv(out, out, 3), nn.LeakyReLU(SLOPE)]
            channels = out
        if not layers:
            out = _channels(side, width)
            layers = [_conv(channels, out, 1), nn.LeakyReLU(SLOPE), _conv(out, out, 3), nn.LeakyReLU(SLOPE)]
            channels = out
        self.layers = nn.Sequential(*layers)
        self.out_features = channels

    def forward(self, x: Tensor) -> Tensor:
        x = x.view(*x.shape, *(1,) * (4 - x.ndim))
        z = self.layers((x - self.mean.to(x.dtype)) / self.std.to(x.dtype))
        pooled: Tensor = z.mean((2, 3))  # maxima beside it brought nothing
        return pooled

    def standardise(self, x: Tensor) -> None:
        x = x.view(*x.shape, *(1,) * (4 - x.ndim))
        self.mean.copy_(x.mean((0, 2, 3)).view_as(self.mean))
        # One image of a vector tap has no deviation (NaN).
        self.std.copy_(x.std((0, 2, 3)).nan_to_num(1.0).clamp_min(1e-3).view_as(self.std))


class _Pixels(nn.Conv2d):
    """A convolution of 5 x 5 with stride 2 on one to three channels.

    Where both sides are even it is computed as one of 3 x 3 on blocks of 2 x 2 pixels, the same up to rounding: few
    channels at full resolution are what convolutions are slow at.
    """

    def __init__(self, channels: int, out: int) -> None:
        super().__init__(channels, out, 5, stride=2, padding=2, dtype=torch.float32)

    def forward(self, x: Tensor) -> Tensor:
        if any(side % 2 for side in x.shape[2:]):
            return super().forward(x)
        blocks = F.pixel_unshuffle(x, 2).contiguous(memory_format=torch.channels_last)
        return F.conv2d(blocks, F.pixel_unshuffle(F.pad(self.weight, (0, 1, 0, 1)), 2), self.bias, padding=1)


def _channels(side: int, width: int) -> int:
    return width * (8 if side <= FINEST else 4 if side <= 2 * FINEST else 2 if side <= 4 * FINEST else 1)


def _conv(channels: int, out: int, kernel: int, *, stride: int = 1) -> nn.Module:
    return _Conv(channels, out, kernel, stride=stride, padding=kernel // 2, dtype=torch.float32)


class _Conv(nn.Conv2d):
    """A map one pixel wide, as of tokens, is turned on its side, and the kernel with it.

    With stride 2 PyTorch's bfloat16 leaves those gradients of the kernel unset that no pixel of such a map meets.
    """

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[3] > 1:
            return super().forward(x)
        return F.conv2d(x.mT, self.weight.mT, self.bias, self.stride, self.padding).mT


class ShieldBank(nn.Module):
    """The Shields of all classes, on one scale of suspicion.

    Logits of different Shields do not compare, so each is calibrated on clean images of its class: suspicion
    (centre - S_y) / scale is 0 for the median clean image and 1 at the threshold; above 1 an image is rejected.
    Until it is calibrated a bank rejects everything.

    Args:
        shields: one per class, in the classifier's order.
    """

    centre: Tensor
    scale: Tensor

    def __init__(self, shields: Sequence[Shield]) -> None:
        super().__init__()
        self.shields = nn.ModuleList(shields)
        self.register_buffer("centre", torch.full((len(shields),), torch.inf, dtype=torch.float32))
        self.register_buffer("scale", torch.ones(len(shields), dtype=torch.float32))
        self.taps = tuple(dict.fromkeys(tap for shield in shields for tap in shield.taps))

    def forward(self, features: Mapping[str, Tensor], classes: Tensor) -> Tensor:
        """Logit of the Shield of each image's class: float32 `(N,)`, `classes` int64 `(N,)`."""
        if classes.device.type != "cpu":  # which classes there are is not asked: the device would have to be waited for
            every = torch.stack([shield(features) for shield in self.shields], 1)
            return every.gather(1, classes.view(-1, 1)).squeeze(1)
        present = classes.unique().tolist()
        if len(present) == 1:
            return cast(Tensor, self.shields[present[0]](features))
        logits = torch.zeros(len(classes), dtype=torch.float32, device=classes.device)
        for k in present:
            rows = (classes == k).nonzero().squeeze(1)
            shield = cast(Shield, self.shields[k])
            logits = logits.index_put((rows,), shield({tap: features[tap][rows] for tap in shield.taps}))
        return logits

    def suspicion(self, logits: Tensor, classes: Tensor) -> Tensor:
        """Calibrated suspicion of Shield logits `(N,)`: 0 typical, above 1 rejected."""
        return (self.centre[classes] - logits) / self.scale[classes]

    @torch.no_grad()
    def calibrate(self, logits: Tensor, classes: Tensor, tnr: float, *, draws: int = 1) -> tuple[Threshold, ...]:
        """Set each class's centre and scale so that a share `tnr` of clean images is accepted (`set_thresholds`).

        Args:
            logits: of the Shield of each image's predicted class, `(N,)`.
            classes: predicted classes `(N,)`.
            tnr: true negative rate to reach, above 0.5 (the median image defines suspicion 0) and below 1.
            draws: rows that each image has, behind a random Cushion.

        Returns:
            what the threshold of each class rests on.

        Raises:
            ConfigError: another tnr.
            DataError: fewer than 10 images in all, or a logit is not finite.
        """
        set_to = set_thresholds(logits, classes, len(self.shields), tnr, draws=draws)
        self.centre.copy_(torch.tensor([one.centre for one in set_to], dtype=torch.float64))
        self.scale.copy_(torch.tensor([one.scale for one in set_to], dtype=torch.float64))
        return set_to


class TapManifest(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Name
    shape: Shape


class ShieldManifest(BaseModel):
    """One Shield. Its taps are a list: the order of its heads counts, and JSON objects have none."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    taps: tuple[TapManifest, ...] = Field(min_length=1, max_length=64)
    width: int = Field(ge=1, le=1024)
    hidden: int = Field(ge=1, le=16384)

    @model_validator(mode="after")
    def _each_tap_once(self) -> ShieldManifest:
        if len({tap.name for tap in self.taps}) != len(self.taps):
            raise ValueError("a tap is named twice")
        return self

    @staticmethod
    def of(shield: Shield) -> ShieldManifest:
        """What a Shield is made from again, beside its weights."""
        taps = tuple(TapManifest(name=name, shape=shape) for name, shape in shield.shapes.items())
        return ShieldManifest(taps=taps, width=shield.width, hidden=shield.hidden)


def empty_bank(told: Sequence[ShieldManifest]) -> ShieldBank:
    """A bank of these Shields without memory for its numbers: nothing is built in a size that only a folder names."""
    with torch.device("meta"):
        return ShieldBank(
            [Shield({tap.name: tap.shape for tap in one.taps}, width=one.width, hidden=one.hidden) for one in told]
        )


def fill_bank(bank: ShieldBank, tensors: Mapping[str, Tensor], *, source: str) -> None:
    """Give a bank its numbers.

    Raises:
        ConfigError: as `check_bank`.
    """
    check_bank(bank, tensors, source=source)
    bank.load_state_dict(dict(tensors), assign=True)


def check_bank(bank: ShieldBank, tensors: Mapping[str, Tensor], *, source: str) -> None:
    """Raises ConfigError unless the tensors are of the bank's sizes and can be the numbers of a calibrated one.

    Refused are a weight that is no finite number, a deviation or a scale that is not above 0, an infinite threshold.
    """
    check_state(source, bank, tensors, SHIELDS, remedy="fit the guard anew")
