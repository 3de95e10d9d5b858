"""Networks that give a class for each pixel: U-Net and SegNet, in a registry of their own.

U-Net (Ronneberger et al. 2015) in the form of Falk et al. 2019, with the keys and numerics of MONAI's BasicUNet;
SegNet as Badrinarayanan et al. 2017 describe it. They take normalised images `(N, 3, H, W)` and give logits
`(N, K, H, W)`; their modules have names, so that they can be tapped.
"""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medaegis.errors import ConfigError, DataError
from medaegis.models.backbones import Backbone, Weights, backbones, create_backbone, default_taps, is_own, seeded
from medaegis.models.dual_encoder import EMBEDDING, create_dual_encoder, is_dual_encoder
from medaegis.models.networks import convolutions, initialise
from medaegis.models.weights import load_weights
from medaegis.task import TaskName

MULTIPLE = 16  # both halve their images four times at least


def segmenters() -> tuple[str, ...]:
    """Names of the registered networks."""
    return tuple(_SEGMENTERS)


def segmenter(name: str) -> Backbone:
    """The registry's entry.

    Raises:
        ConfigError: no such name.
    """
    if name not in _SEGMENTERS:
        remedy = f"give one of {', '.join(_SEGMENTERS)}"
        raise ConfigError(f"segmentation network {name!r}", "is not registered", remedy)
    return _SEGMENTERS[name]


def create_segmenter(name: str, *, classes: int, seed: int = 0) -> nn.Module:
    """A network with logits for ``classes`` classes at each pixel; its weights are a function of ``seed`` alone.

    >>> import torch
    >>> network = create_segmenter("unet", classes=2)
    >>> network(torch.rand(1, 3, 48, 32)).shape
    torch.Size([1, 2, 48, 32])

    Args:
        name: one of `segmenters`.
        classes: how many there are, the background among them.

    Raises:
        ConfigError: unknown name, or fewer than two classes.
    """
    entry = segmenter(name)
    if classes < 2:
        raise ConfigError(f"classes {classes}", "too few", "count the background too: give 2 or more")
    with seeded(seed):
        return entry.build(classes)


def create_network(
    name: str, task: TaskName, classes: int, *, weights: Weights | None = None, seed: int = 0
) -> nn.Module:
    """The network of this name for a task: a segmentation network where it is "dense", else a dual encoder or backbone.

    Raises:
        ConfigError: as those do; weights for a network that has none; a dual encoder for anything but findings.
    """
    if is_dual_encoder(name):
        if task != "multi":
            problem = "answers by text whether findings are there, and these data have none"
            raise ConfigError(name, problem, "take data with findings, as phantom-findings or nih14:PATH?findings")
        network: nn.Module = create_dual_encoder(name, classes=classes, seed=seed)
        head: str | None = None
    elif task != "dense" or is_own(name):
        if name in _SEGMENTERS:
            raise ConfigError(name, "gives a class for each pixel", f"take one of {', '.join(backbones())}")
        return create_backbone(name, classes=classes, weights=weights, seed=seed)
    else:
        network, head = create_segmenter(name, classes=classes, seed=seed), segmenter(name).head
    if isinstance(weights, Path):
        load_weights(network, weights, head=head)
    elif weights is not None:
        raise ConfigError(f"weights {weights}", f"there are none for {name}", "give a file of yours, or none")
    return network


def taps_of(name: str, task: TaskName) -> tuple[str, ...]:
    """What is read by default, none of a network from elsewhere."""
    if is_dual_encoder(name):
        return (EMBEDDING,)
    return segmenter(name).taps if task == "dense" and not is_own(name) else default_taps(name)


def _check_sides(x: Tensor) -> None:
    """Raises DataError for images whose sides cannot be halved and restored, or leave no places to normalise over."""
    height, width = x.shape[-2:]
    if height % MULTIPLE or width % MULTIPLE or min(height, width) < 2 * MULTIPLE:
        raise DataError(
            "segmentation network",
            f"images are {height} x {width} px, expected sides that are multiples of {MULTIPLE} from {2 * MULTIPLE} on",
            "take a size such as 256 px",
        )


def _convolution(before: int, after: int) -> nn.Sequential:
    norm = OrderedDict(N=nn.InstanceNorm2d(after, affine=True), A=nn.LeakyReLU(0.1, inplace=True))
    return nn.Sequential(OrderedDict(conv=nn.Conv2d(before, after, 3, padding=1), adn=nn.Sequential(norm)))


def _convolutions(before: int, after: int) -> nn.Sequential:
    return nn.Sequential(OrderedDict(conv_0=_convolution(before, after), conv_1=_convolution(after, after)))


def _down(before: int, after: int) -> nn.Sequential:
    return nn.Sequential(OrderedDict(max_pooling=nn.MaxPool2d(2), convs=_convolutions(before, after)))


class _UpCat(nn.Module):
    """Twice the size, `up` channels of it, with what the way down had at this size beside it."""

    def __init__(self, before: int, beside: int, after: int, up: int) -> None:
        super().__init__()
        self.upsample = nn.Sequential(OrderedDict(deconv=nn.ConvTranspose2d(before, up, 2, stride=2)))
        self.convs = _convolutions(beside + up, after)

    def forward(self, x: Tensor, beside: Tensor) -> Tensor:
        return self.convs(torch.cat([beside, self.upsample(x)], 1))  # type: ignore[no-any-return]


class UNet(nn.Module):
    """Four steps down and four up; normalised by image and channel, so that no image depends on its batch.

    Raises:
        DataError: in a pass, for images whose sides are no multiples of 16 of 32 or more.
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.conv_0 = _convolutions(3, 32)
        self.down_1 = _down(32, 32)
        self.down_2 = _down(32, 64)
        self.down_3 = _down(64, 128)
        self.down_4 = _down(128, 256)
        self.upcat_4 = _UpCat(256, 128, 128, up=128)
        self.upcat_3 = _UpCat(128, 64, 64, up=64)
        self.upcat_2 = _UpCat(64, 32, 32, up=32)
        self.upcat_1 = _UpCat(32, 32, 32, up=32)
        self.final_conv = nn.Conv2d(32, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        _check_sides(x)
        x0 = self.conv_0(x)
        x1 = self.down_1(x0)
        x2 = self.down_2(x1)
        x3 = self.down_3(x2)
        x = self.upcat_4(self.down_4(x3), x3)
        x = self.upcat_1(self.upcat_2(self.upcat_3(x, x2), x1), x0)
        return self.final_conv(x)  # type: ignore[no-any-return]


class SegNet(nn.Module):
    """The thirteen convolutions of VGG-16, and as many in the opposite order.

    Max-pooling tells which pixel it took, and on the way back its value is put there, with zeros around it.

    Raises:
        DataError: in a pass, for images whose sides are no multiples of 16 of 32 or more.
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        widths = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
        self.encoder, self.decoder = nn.ModuleList(), nn.ModuleList()
        before = 3
        for stage in widths:
            self.encoder.append(nn.Sequential(*convolutions(before, stage)))
            before = stage[-1]
        for stage, above in zip(reversed(widths[1:]), (512, 256, 128, 64), strict=True):
            self.decoder.append(nn.Sequential(*convolutions(before, (*stage[1:], above))))
            before = above
        self.decoder.append(nn.Sequential(*convolutions(64, [64]), nn.Conv2d(64, classes, 3, padding=1)))
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        _check_sides(x)
        kept: list[tuple[Tensor, torch.Size]] = []
        for stage in self.encoder:
            x = stage(x)
            whole = x.shape
            x, places = F.max_pool2d(x, 2, return_indices=True)
            kept.append((places, whole))
        for stage, (places, whole) in zip(self.decoder, reversed(kept), strict=True):
            x = stage(F.max_unpool2d(x, places, (2, 2), output_size=whole[2:]))
        return x


_SEGMENTERS = {
    entry.name: entry
    for entry in (
        Backbone(
            "unet",
            UNet,
            "Ronneberger et al. 2015, U-Net: Convolutional Networks for Biomedical Image Segmentation",
            ("down_2", "down_4", "upcat_3", "upcat_1"),
            "final_conv",
        ),
        Backbone(
            "segnet",
            SegNet,
            "Badrinarayanan et al. 2017, SegNet: A Deep Convolutional Encoder-Decoder Architecture",
            ("encoder.1", "encoder.3", "decoder.1", "decoder.3"),
            "decoder.4.3",
        ),
    )
}
