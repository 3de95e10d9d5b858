"""A network that was trained elsewhere becomes a classifier folder as `train` makes it, with a split of given data.

Nobody but who trained it knows which images it learned from, and every figure measured on those is too good. So the
folder says what is known of that, and everything that takes it repeats it.
"""

from __future__ import annotations

import copy
import hashlib
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from torch import nn

from medaegis.ambient import own_modes
from medaegis.artefact import check_target
from medaegis.errors import DataError
from medaegis.images.datasets import Dataset
from medaegis.images.sources import without_path
from medaegis.images.splits import split_dataset
from medaegis.models.classifier import Classifier
from medaegis.models.metrics import evaluate_classifier
from medaegis.models.normalisation import Told, parse_normalisation
from medaegis.models.outputs import Form
from medaegis.models.store import KIND, WRAPPED, Wrapped, save_classifier
from medaegis.sizes import Size
from medaegis.task import TaskName

TAPS = 4


@own_modes()
def wrap(
    network: nn.Module,
    *,
    classes: Sequence[str],
    size: Size,
    normalise: str | Told | None,
    channels: Literal["gray", "rgb"] = "rgb",
    taps: Sequence[str] | None = None,
    output: str | int | None = None,
    outputs: Form | None = None,
    task: TaskName = "single",
    backbone: str | None = None,
) -> Classifier:
    """A trained network of one's own as a classifier that everything here takes.

    >>> import torch, medaegis as ma
    >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 16 * 16, 1))  # one logit
    >>> model = ma.wrap(network, classes=("normal", "pneumonia"), size=16, normalise="imagenet")
    >>> model(torch.rand(5, 3, 16, 16)).shape
    torch.Size([5, 2])

    Args:
        network: with its weights, taking `(N, 3, H, W)` images, or `(N, 1, H, W)` if it is for gray ones.
        classes: names in the order of its outputs; one output alone is above 0 (or 0.5) for the second.
        size: side of square images in pixels, or (height, width).
        normalise: what it was trained with, which nothing can tell from outside: "imagenet", `(mean, std)` of pixels in
            [0, 1], one number each or one for each channel, "MEAN/STD", or None (also "none"), where it takes pixels as
            they are or normalises by itself.
        channels: of the images it is for.
        taps: modules whose outputs detectors and attacks on features read; None: some, spread over its depth.
        output: key or number of the part that holds the logits, of a network that returns a dict, tuple or object.
        outputs: "logits", or "probabilities", whose logarithms are taken: the classes stay, but where a probability is
            0 or 1 to the last digit there is no gradient, so that attacks find no way on and robustness looks better
            than it is. None: logits, and a network that might give either is refused.
        task: "single" (one class for each image), "multi" (several findings, each there or not) or "dense" (a class for
            each pixel, the first the background), see `Classifier`.
        backbone: what builds it again, without weights: ``package.module:factory``; needed where it is saved.

    Returns:
        The classifier, in eval mode.

    Raises:
        ConfigError: the network is no classifier of such images (see `Classifier`), or `normalise` is not understood.
    """
    mean, std = parse_normalisation(normalise)
    if any(weight.is_inference() for weight in (*network.parameters(), *network.buffers())):
        network = copy.deepcopy(network)  # what was made in inference mode can never be differentiated
    classifier = Classifier(
        network,
        classes=classes,
        size=size,
        channels=channels,
        taps=taps or (),
        backbone=backbone or f"{type(network).__module__}:{type(network).__qualname__}",
        mean=mean,
        std=std,
        output=output,
        outputs=outputs,
        task=task,
    ).eval()
    return classifier if taps is not None else classifier.around(network, taps=spread_taps(classifier))


def wrap_classifier(
    network: nn.Module,
    folder: Path | str,
    *,
    backbone: str,
    classes: Sequence[str],
    size: Size,
    normalise: str,
    channels: Literal["gray", "rgb"] = "rgb",
    taps: Sequence[str] | None = None,
    output: str | int | None = None,
    outputs: Form | None = None,
    dataset: Dataset | None = None,
    seed: int = 0,
    weights: Path | None = None,
) -> Classifier:
    """Write a trained network as a classifier folder that `fit`, `assess`, `compare`, `analyse` take.

    Args:
        network, classes, size, normalise, channels, taps, output, outputs: as of `wrap`.
        backbone: what builds it again, without weights: ``package.module:factory``.
        dataset: labelled images that it never learned from; they are split and it is measured on them. None: `fit`
            splits what it is given, and says that nobody knows.
        seed: of the split.
        weights: the file the weights came from, for the record.

    Returns:
        The classifier, in eval mode.

    Raises:
        ConfigError: the network is no classifier of such images (see `Classifier`), or `normalise` is not understood.
        DataError: the data are of other classes, or too few to be split.
        ArtefactError: the folder holds something else, or nothing can be written there.
    """
    folder = Path(folder)
    check_target(folder, kind=KIND)
    classifier = wrap(
        network,
        classes=classes,
        size=size,
        normalise=normalise,
        channels=channels,
        taps=taps,
        output=output,
        outputs=outputs,
        backbone=backbone,
    )
    told = Wrapped(
        learned="unknown" if dataset is None else "none",
        seed=seed,
        weights=None if weights is None else hashlib.sha256(weights.read_bytes()).hexdigest(),
    )
    documents: dict[str, dict[str, Any]] = {}
    if dataset is not None:
        check_classes(dataset, classifier)
        split = split_dataset(dataset, seed=seed)
        frozen, parts = classifier.frozen(), {"val": split.val, "adv_test": split.adv_test}
        metrics = {name: evaluate_classifier(frozen, dataset, part) for name, part in parts.items()}
        told = told.model_copy(update={"metrics": metrics})
        documents["split"] = split.document()
    save_classifier(classifier, folder, {WRAPPED: told.model_dump(mode="json"), **documents})
    return classifier


def check_classes(dataset: Dataset, classifier: Classifier) -> None:
    """Raises DataError unless the data are of the classifier's task and classes, in its order."""
    if dataset.task.name != classifier.task.name:
        problem = f"its labels are {dataset.task.title}; the network's task is {classifier.task.title}"
        raise DataError(without_path(dataset.spec), problem, "give the data this network is for")
    if dataset.classes == classifier.classes:
        return
    given, expected = ", ".join(dataset.classes), ",".join(classifier.classes)
    problem = f"its classes are {given}; the network's outputs are, in this order, {expected}"
    groups = ",".join(f"{name}=LABEL|LABEL" for name in classifier.classes)
    remedy = f"give the data this network is for, or say which labels each class has: add ?classes={groups} to the SPEC"
    if set(dataset.classes) == set(classifier.classes):
        remedy = f"ask for them in that order: add ?classes={expected} to the SPEC; or correct --classes"
    raise DataError(without_path(dataset.spec), problem, remedy)


def spread_taps(classifier: Classifier) -> tuple[str, ...]:
    """Modules spread over the depth of a network: of its repeated blocks, if it has such, else of all with places."""
    shapes = classifier.tap_shapes(classifier.tap_names())
    modules = {name: module for name, module in classifier.network.named_modules() if name in shapes}
    modules = {name: module for name, module in modules.items() if not isinstance(module, nn.Sequential)}
    placed = [name for name in modules if math.prod(shapes[name][1:]) > 1] or list(modules)
    kinds = Counter(type(modules[name]) for name in placed if any(modules[name].children()))
    if kinds and kinds.most_common(1)[0][1] >= 2:
        kind = kinds.most_common(1)[0][0]
        placed = [name for name in placed if type(modules[name]) is kind]
    n, k = len(placed), min(TAPS, len(placed))
    return tuple(placed[(i + 1) * n // k - 1] for i in range(k))
