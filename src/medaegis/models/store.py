"""Classifiers on disk: weights, what they are for, and how they came about, in an integrity-checked folder.

A registered backbone is rebuilt from its name; nothing that a folder holds is ever executed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from medaegis.artefact import read_folder, write_folder
from medaegis.errors import ArtefactError, ConfigError
from medaegis.models.backbones import backbones, build_own, is_own
from medaegis.models.classifier import Classifier
from medaegis.models.denoising import Denoising, denoised, denoising_of
from medaegis.models.dual_encoder import is_dual_encoder
from medaegis.models.outputs import Form
from medaegis.models.segmentation_networks import create_network, segmenters
from medaegis.sizes import Size, sides, told_size
from medaegis.task import TaskName
from medaegis.validation import BATCH_NORM, Name, Names, PictureSize, check_state, read_entry

KIND = "classifier"
MAX_MAP = 1 << 27  # numbers that a layer may give for one image: VGG at 1448 px, ResNet at 2896 px
_OWN = "network"
_LEARNED = "learned"
WRAPPED = "wrapped"
Level = Annotated[float, Field(ge=-1e6, le=1e6)]
Deviation = Annotated[float, Field(ge=1e-6, le=1e6)]


class ClassifierManifest(BaseModel):
    """What a classifier is rebuilt from beside its weights: its settings, and its filters."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    backbone: Name
    classes: Names = Field(min_length=1, max_length=10_000)
    size: PictureSize
    channels: str = Field(pattern="^(gray|rgb)$")
    taps: Names = Field(max_length=1000)
    mean: tuple[Level, ...] = Field(min_length=1, max_length=3)
    std: tuple[Deviation, ...] = Field(min_length=1, max_length=3)
    output: str | int | None = None
    outputs: Form = "logits"
    task: TaskName = "single"
    denoise: Denoising | None = None

    @model_validator(mode="after")
    def _enough(self) -> Self:
        if len(self.classes) < 2 and self.task != "multi":
            raise ValueError(f"'classes' names {len(self.classes)}, where 2 are the least")
        return self


class Wrapped(BaseModel):
    """What the folder says of a network that was trained elsewhere.

    Attributes:
        learned: which of the images the network learned from: "unknown" where no data were given with it, else "none",
            as its owner says.
        seed: draws the split of whatever data are given later, where none were given with it.
        weights: SHA-256 of the file they came from, where there was one.
        metrics: on the data given with it, by part.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    learned: Literal["unknown", "none"]
    seed: int = Field(ge=0, lt=2**32)
    weights: str | None = None
    metrics: dict[str, Any] = {}


def describe_classifier(classifier: Classifier) -> dict[str, Any]:
    """The manifest's entry for a classifier, ready for JSON; with its ``network.state_dict()`` it rebuilds it.

    Raises:
        ConfigError: a frozen classifier, whose network is no longer the backbone's.
    """
    if classifier.is_frozen:
        raise ConfigError("classifier", "frozen: its network was folded and cast", "store the one it was frozen from")
    made = ClassifierManifest(**classifier.settings(), denoise=denoising_of(classifier.network))
    return made.model_dump(mode="json", exclude_defaults=True)  # what has none of these is read by earlier versions too


def rebuild_classifier(
    description: Mapping[str, Any],
    state: Mapping[str, Tensor],
    *,
    source: Path,
    factory: Callable[..., nn.Module] | None = None,
) -> Classifier:
    """The classifier of `describe_classifier` and its weights, in eval mode on the CPU.

    Args:
        source: named in errors.
        factory: builds a user's own network (`build_own`); needed for one, because no code is imported on the word of a
            folder (see `load_factory`). A network that medaegis, timm or torchvision builds is left to them.

    Raises:
        ArtefactError: a description or weights that do not fit together, or a network that needs its factory.
    """
    remedy = "write the folder anew"
    try:
        told = read_entry(ClassifierManifest, description, source="classifier", remedy=remedy)
    except ConfigError as error:
        raise ArtefactError(source, f"classifier {error.problem}", remedy) from error
    if is_own(told.backbone) and factory is None:
        remedy = f"if you trust that code, name it yourself: --factory {told.backbone}, in Python factory="
        raise ArtefactError(source, f"needs the network {told.backbone!r}, and a folder may not have code run", remedy)
    classes = len(told.classes)
    try:
        own = factory if is_own(told.backbone) else None
        with torch.random.fork_rng(devices=[]):
            network = create_network(told.backbone, told.task, classes) if own is None else build_own(own, classes)
        if told.denoise is not None and denoising_of(network) is None:
            network = denoised(network, layers=told.denoise.layers, keep=told.denoise.keep)
        if denoising_of(network) != told.denoise:
            raise ConfigError("denoising", "the factory's network has other filters in it", remedy)
        check_state("weights", network, state, BATCH_NORM, remedy=remedy)
        if told.backbone in (*backbones(), *segmenters()) or is_dual_encoder(told.backbone):
            _check_size_of_pass(network, told.size)
        _widen(network, state)
        network.load_state_dict(dict(state))
        classifier = Classifier(network, **told.model_dump(exclude={"denoise"}))
    except (ConfigError, RuntimeError) as error:
        if factory is not None and is_own(told.backbone):
            remedy = f"give the factory it was wrapped with, {told.backbone}"
        problem = " ".join((error.problem if isinstance(error, ConfigError) else str(error)).split())[:300]
        raise ArtefactError(source, f"its weights and its description do not fit: {problem}", remedy) from error
    return classifier.eval()


def _widen(network: nn.Module, state: Mapping[str, Tensor]) -> None:
    """So that no weight is rounded on its way in, as where a factory is called under a default dtype of 16 bits."""
    built, stored = (
        {value.dtype for value in values if value.is_floating_point()}
        for values in (network.state_dict().values(), state.values())
    )
    if len(built) == len(stored) == 1:
        network.to(torch.promote_types(*built, *stored))


@torch.no_grad()
def _check_size_of_pass(network: nn.Module, size: Size) -> None:
    """Raises ConfigError for a network whose pass would fill the memory: its weights do not tell the size.

    Looked at in a pass of at most 64 px a side: maps grow with the sides.
    """
    height, width = sides(size)
    rows, columns, widest = min(height, 64), min(width, 64), 0

    def note(module: nn.Module, given: Any, output: Any) -> None:
        nonlocal widest
        widest = max(widest, output.numel() if isinstance(output, Tensor) else 0)

    hooks = [module.register_forward_hook(note) for module in network.modules()]
    network.eval()(torch.zeros(1, 3, rows, columns))
    for hook in hooks:
        hook.remove()
    widest = round(widest * (height / rows) * (width / columns))
    if widest > MAX_MAP:
        problem = f"at {told_size(size)} one layer alone gives {widest:,} numbers an image"
        raise ConfigError("size", problem, "make it smaller")


def save_classifier(
    classifier: Classifier,
    folder: Path,
    extra: Mapping[str, Mapping[str, Any]] | None = None,
    *,
    learned: Tensor | None = None,
) -> None:
    """Write ``network.safetensors`` and the manifest, in one step.

    Args:
        extra: further JSON documents, each ``<name>.json`` (training puts "training" and "split" here).
        learned: hashes of the images it learned from (`pixel_hashes`).

    Raises:
        ConfigError: a frozen classifier.
    """
    write_folder(
        folder,
        kind=KIND,
        manifest={"classifier": describe_classifier(classifier)},
        tensors={_OWN: classifier.network.state_dict(), **({} if learned is None else {_LEARNED: {"hashes": learned}})},
        documents=extra,
    )


def load_classifier(folder: Path, factory: Callable[..., nn.Module] | None = None) -> Classifier:
    """The saved classifier, in eval mode on the CPU.

    Args:
        factory: as in `rebuild_classifier`.

    Raises:
        ArtefactError: the folder is changed, incomplete, foreign, or needs a factory.
    """
    stored = read_folder(folder, kind=KIND)
    description = stored.manifest.get("classifier")
    if not isinstance(description, dict):
        raise ArtefactError(folder, "its manifest describes no classifier", "write the folder anew")
    return rebuild_classifier(description, stored.tensors(_OWN), source=folder, factory=factory)


def read_wrapped(folder: Path) -> Wrapped:
    """What is known of the past of a network that was trained elsewhere.

    Raises:
        ArtefactError: the folder is changed, incomplete or foreign, or its classifier was not wrapped.
    """
    remedy = "wrap it anew"
    try:
        return read_entry(Wrapped, read_folder(folder, kind=KIND).document(WRAPPED), source="past", remedy=remedy)
    except ConfigError as error:
        problem = f"what it says of its network's past does not fit: {error.problem}"
        raise ArtefactError(folder, problem, remedy) from error


def read_training(folder: Path) -> dict[str, Any]:
    """How a trained classifier came about: "config", "data", "history", "metrics" of "val" and "adv_test", "seconds".

    Raises:
        ArtefactError: the folder is changed, incomplete or foreign, or its classifier was not trained here.
    """
    return read_folder(folder, kind=KIND).document("training")


def read_learned(folder: Path) -> Tensor | None:
    """Hashes of the images that a classifier learned from, as it was saved with; None if it was not.

    Raises:
        ArtefactError: the folder is changed, incomplete or foreign.
    """
    stored = read_folder(folder, kind=KIND)
    if _LEARNED not in stored.tensor_names:
        return None
    hashes = stored.tensors(_LEARNED).get("hashes")
    if hashes is None or hashes.dtype != torch.int64 or hashes.ndim != 1:
        raise ArtefactError(folder, "its record of the images it learned from is no such record", "train it anew")
    return hashes
