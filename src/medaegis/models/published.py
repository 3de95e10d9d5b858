"""Weights learned from ImageNet that come as Python packages: which file, and how it is read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from medaegis.errors import ConfigError
from medaegis.models.normalisation import IMAGENET_MEAN, IMAGENET_STD
from medaegis.models.weights import read_weights

VGG_MEAN = (123.68, 116.779, 103.939)  # of red, green and blue in grey levels; subtracted by the authors of VGG


@dataclass(frozen=True)
class Published:
    """Weights in a package that is installed with pip: its name, the file in it, and the SHA-256 of that file.

    Attributes:
        read: the state dict in that file, under the names of the backbone.
    """

    package: str
    file: str
    sha256: str
    read: Callable[[Path], dict[str, Tensor]] = read_weights


def vgg16_convolutions(path: Path) -> dict[str, Tensor]:
    """The thirteen convolutions of VGG-16 in an ONNX file, under torchvision's names and for its normalisation.

    They are the authors' (Simonyan & Zisserman 2015): for blue, green and red in grey levels, less their means. The
    first one is rewritten for `IMAGENET_MEAN` and `IMAGENET_STD`, which gives the same answers but where it reads the
    frame of zeros around an image: a zero is another grey there, by less than half a grey level.

    Raises:
        ConfigError: the library that reads ONNX is not installed.
    """
    try:
        import onnx
        from onnx import numpy_helper
    except ImportError as error:
        raise ConfigError(path, "needs the package onnx", "pip install onnx, or medaegis[imagenet]") from error
    graph = onnx.load(str(path)).graph
    arrays = {one.name: torch.from_numpy(numpy_helper.to_array(one).copy()) for one in graph.initializer}
    state: dict[str, Tensor] = {}
    layer = 0
    for node in graph.node:
        if node.op_type == "Conv":
            state[f"features.{layer}.weight"], state[f"features.{layer}.bias"] = (arrays[k] for k in node.input[1:3])
        layer += node.op_type in ("Conv", "Relu", "MaxPool")
    first = state["features.0.weight"].double().flip(1)  # red, green, blue
    mean, std = (255 * torch.tensor(each, dtype=torch.float64) for each in (IMAGENET_MEAN, IMAGENET_STD))
    offset = (first.sum((2, 3)) * (mean - torch.tensor(VGG_MEAN, dtype=torch.float64))).sum(1)
    state["features.0.weight"] = (first * std[:, None, None]).float()
    state["features.0.bias"] = (state["features.0.bias"].double() + offset).float()
    return state
