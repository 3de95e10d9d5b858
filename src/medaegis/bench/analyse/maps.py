"""Maps over the picture: where a network looks (Grad-CAM, saliency) and what its layers hold (mean activations).

Grad-CAM: Selvaraju 2017, eq. 1 and 2. Saliency: Simonyan 2014, section 3. Mean activations: Ma 2021, fig. 6 and 10.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medaegis.errors import ConfigError
from medaegis.models.classifier import INPUT, Classifier
from medaegis.models.taps import GIVEN, channels_first

BATCH = 32
LEADING = 5


@dataclass(frozen=True)
class Attention:
    """Where the network looks; one map per image, on the processor.

    Attributes:
        cam: Grad-CAM at the layer's own resolution, `(N, h, w)`, never negative, in units of the logit.
        saliency: largest absolute derivative over the channels, `(N, H, W)`, logit per full brightness.
    """

    cam: Tensor
    saliency: Tensor


def attention(classifier: Classifier, images: Tensor, classes: Tensor, layer: str) -> Attention:
    """Grad-CAM and saliency of one class's logit per image, by one forward and one backward pass.

    Args:
        classifier: in eval mode.
        images: `(N, C, H, W)` as the network sees them, behind the Cushion if there is one.
        classes: whose logit is explained, int64 `(N,)`.
        layer: module with outputs `(C, h, w)` that Grad-CAM looks at.

    Raises:
        ConfigError: a layer without places.
    """
    spatial(classifier, layer)
    sides = classifier.image_shape[1:]
    cams, saliencies = [], []
    for x, wanted in zip(images.split(BATCH), classes.split(BATCH), strict=True):
        kept: list[Tensor] = []

        def keep(module: nn.Module, args: Any, output: Tensor, kept: list[Tensor] = kept) -> Tensor:
            kept.append(output)
            return output.clone()  # operations in place that follow write into the copy

        x = x.detach().clone().requires_grad_()
        handle = classifier.network.get_submodule(layer).register_forward_hook(keep)
        try:
            logits = classifier(x)
        finally:
            handle.remove()
        chosen = logits.gather(1, wanted.view(-1, 1)).sum()
        to_layer, to_pixels = torch.autograd.grad(chosen, (kept[0], x))
        held, slopes = (places(channels_first(values, sides), sides) for values in (kept[0], to_layer))
        assert held is not None
        assert slopes is not None
        cams.append(F.relu((slopes.mean((2, 3), keepdim=True) * held).sum(1)).detach().float())
        saliencies.append(to_pixels.abs().amax(1))
    return Attention(torch.cat(cams).cpu(), torch.cat(saliencies).cpu())


def spatial(classifier: Classifier, layer: str) -> tuple[int, int]:
    """Height and width of a layer's outputs.

    Raises:
        ConfigError: not a tap of the network, the pixels themselves, what a module is given, or a layer without places.
    """
    (shape,) = classifier.tap_shapes((layer,)).values()
    example, own = torch.empty(1, *shape, device="meta"), layer != INPUT and not layer.endswith(GIVEN)
    mapped = places(example, classifier.image_shape[1:]) if own else None
    if mapped is None:
        raise ConfigError(f"layer {layer!r}", f"its output {shape} has no places to map", "take a convolutional layer")
    return mapped.shape[2], mapped.shape[3]


def places(features: Tensor, sides: tuple[int, int]) -> Tensor | None:
    """Features `(N, C, ...)` as maps `(N, C, h, w)`; None if they have no places.

    Tokens `(N, C, T)` are patches, row by row, as many as make a grid in the proportions of the images, whose height
    and width are `sides`, behind at most `LEADING` tokens that belong to no place
    (class, distillation, registers), which are left out.
    """
    if features.ndim == 3:
        common = math.gcd(*sides)
        down, across = sides[0] // common, sides[1] // common
        times = math.isqrt(features.shape[2] // (down * across))
        leading = features.shape[2] - down * across * times**2
        if leading <= LEADING:
            features = features[:, :, leading:].unflatten(2, (down * times, across * times))
    return features if features.ndim == 4 and features.shape[2] * features.shape[3] > 1 else None


def enlarged(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Maps `(N, h, w)` brought to the picture's size, bilinear."""
    return F.interpolate(maps[:, None], size=size, mode="bilinear", align_corners=False)[:, 0]


@torch.no_grad()
def activation_maps(classifier: Classifier, images: Tensor, taps: tuple[str, ...]) -> dict[str, Tensor]:
    """Mean over the channels of each tap's output, `(N, h, w)`; taps without places are left out."""
    features = classifier.activations(images, logits=False, taps=taps).features
    sides = classifier.image_shape[1:]
    mapped = {tap: values if values.ndim == 4 else places(values, sides) for tap, values in features.items()}
    return {tap: values.float().mean(1) for tap, values in mapped.items() if values is not None}


def correlation(a: Tensor, b: Tensor) -> Tensor:
    """Pearson correlation of two maps, image by image: `(N, h, w)` twice to `(N,)`; 0 where one is constant."""
    a, b = (m.double().flatten(1) - m.double().flatten(1).mean(1, keepdim=True) for m in (a, b))
    return F.cosine_similarity(a, b, dim=1)
