"""The front door of the library: attack a network, guard it, detect attacks on it, load what was saved, in a line each.

Images are torch tensors or NumPy arrays `(N, C, H, W)`, uint8 or floats in [0, 1], on any device. Labels are class
numbers or names.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, Self, overload

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from medaegis.ambient import own_modes
from medaegis.artefact import kind_of
from medaegis.attacks.balls import parse_eps
from medaegis.attacks.base import AnyAttack, AttackResult
from medaegis.attacks.catalogue import find_attack
from medaegis.attacks.choices import pick_targets
from medaegis.attacks.known import Known
from medaegis.attacks.victim import Victim
from medaegis.cushions import Gradient, parse_cushion
from medaegis.cushions.filters import Unrounded
from medaegis.detectors import base as detectors
from medaegis.detectors.reader import Reader
from medaegis.detectors.registry import find_detector, load_detector
from medaegis.errors import ConfigError
from medaegis.guard import guard as guards
from medaegis.guard.fitting import fit_guard, shield_config
from medaegis.guard.guard import Guard
from medaegis.images.datasets import Dataset, load_dataset
from medaegis.images.splits import split_dataset
from medaegis.models.backbones import load_factory
from medaegis.models.classifier import Classifier
from medaegis.models.store import load_classifier
from medaegis.models.wrapping import check_classes
from medaegis.progress import Progress, silent

Images = Tensor | npt.NDArray[Any]
Labels = Tensor | npt.NDArray[Any] | Sequence[int] | Sequence[str]
Eps = float | str
Rounding = Literal["8bit", "none"]


@overload
def attack(
    attack: str | AnyAttack,
    target: Classifier | Guard | Victim,
    images: Images,
    labels: Labels,
    *,
    eps: Eps,
    targets: Labels | Literal["random"] | None = None,
    known: tuple[Images, Labels] | None = None,
    steps: int | None = None,
    restarts: int | None = None,
    gradient: Gradient = "bpda",
    rounding: Rounding = "8bit",
    seed: int = 0,
    batch_size: int = 32,
    progress: Progress = silent,
) -> AttackResult: ...
@overload
def attack(
    attack: str | AnyAttack,
    target: Classifier | Guard | Victim,
    images: Images,
    labels: Labels,
    *,
    eps: list[Eps],
    targets: Labels | Literal["random"] | None = None,
    known: tuple[Images, Labels] | None = None,
    steps: int | None = None,
    restarts: int | None = None,
    gradient: Gradient = "bpda",
    rounding: Rounding = "8bit",
    seed: int = 0,
    batch_size: int = 32,
    progress: Progress = silent,
) -> list[AttackResult]: ...
@own_modes()
def attack(
    attack: str | AnyAttack,
    target: Classifier | Guard | Victim,
    images: Images,
    labels: Labels,
    *,
    eps: Eps | list[Eps],
    targets: Labels | Literal["random"] | None = None,
    known: tuple[Images, Labels] | None = None,
    steps: int | None = None,
    restarts: int | None = None,
    gradient: Gradient = "bpda",
    rounding: Rounding = "8bit",
    seed: int = 0,
    batch_size: int = 32,
    progress: Progress = silent,
) -> AttackResult | list[AttackResult]:
    """Attack images.

    >>> import torch, medaegis as ma
    >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 16 * 16, 2))
    >>> model = ma.wrap(network, classes=("normal", "pneumonia"), size=16, normalise=None)
    >>> x = torch.randint(0, 256, (4, 3, 16, 16), dtype=torch.uint8)
    >>> y = model(x / 255).argmax(1)  # what it says of the clean images
    >>> result = ma.attack("pgd", model, x, y, eps="32/255", steps=5)
    >>> result.fooled.tolist()
    [True, True, True, True]
    >>> curve = ma.attack("fgsm", model, x, y, eps=["1/255", "8/255", "32/255"])
    >>> [int(one.fooled.sum()) for one in curve][-1]
    4

    Args:
        attack: a name of the catalogue (`medaegis attacks` lists them), with add-ons as in "pgd+dim+hfc"; or a value.
        target: a classifier alone, a guard, or any other `Victim`.
        labels: the true classes.
        eps: radius in pixel units, "8/255" or 0.03; a list gives a list of results. Attacks that look for the smallest
            change take it as a bound.
        targets: wanted classes, one for each image; "random": another one than its label, drawn for each image by the
            seed; None: any wrong class.
        known: clean images and labels that the attacker has beside those he attacks, for attacks that imitate one, hide
            among normal features, or learn one perturbation for all.
        steps, restarts: of the attack; None: those it is known with.
        gradient: how gradients pass a guard's Cushion, see `Victim`.
        rounding: "8bit": the result is an image that a file can carry, and so must the given images be: others are
            rounded, with a warning. "none": float pixels, as other libraries attack; of a classifier alone.
        seed: of everything random; an image's draws depend on its place.

    Raises:
        ConfigError: an unknown attack; one that needs a Shield, or known images, without; images, labels, targets or
            eps that do not fit.
    """
    victim = _victim(target, gradient, rounding)
    names = victim.exact.classes
    if isinstance(attack, str):
        entry = find_attack(attack)
        if entry.adaptive and victim.shields is None:
            raise ConfigError(f"attack {attack!r}", "is aimed at a Shield, and the target has none", "attack a guard")
        attack = entry.attack
    chosen: AnyAttack = attack.with_options(steps=steps, restarts=restarts)
    x = pixels(images, victim.exact, rounding)
    y = class_numbers(labels, names, len(x))
    ids = torch.arange(len(x))
    aims = pick_targets(y, len(names), ids=ids, seed=seed)
    wanted = aims if isinstance(targets, str) and targets == "random" else None
    if targets is not None and wanted is None:
        aims = wanted = class_numbers(targets, names, len(x))
    options: dict[str, Any] = {"targets": wanted, "ids": ids, "seed": seed}
    if Known.serve(chosen):
        if known is None:
            raise ConfigError(
                "attack", "it learns from clean images of the attacker's own", "give known=(images, labels)"
            )
        own = array_dataset(*known, victim.exact, name="known images")
        options |= Known(own, seed=seed).options(chosen, victim, x, aims, ids)
    texts = [str(one) for one in (eps if isinstance(eps, list) else [eps])]
    radii = [parse_eps(text, rounds=victim.cushion.rounds) for text in texts]
    found: list[AttackResult] = []
    for place, radius in enumerate(radii):

        def told(done: int, total: int, message: str, before: int = place) -> None:
            progress(before * total + done, len(radii) * total, message)

        found.append(chosen.run(victim, x, y, eps=radius, batch_size=batch_size, progress=told, **options))
    return found if isinstance(eps, list) else found[0]


@own_modes()
def fit(
    model: Classifier,
    images: Images | Dataset | str,
    labels: Labels | None = None,
    *,
    patients: Sequence[object] | None = None,
    cushion: str = "jpeg:80",
    recipe: str = "strong",
    updates: int = 2880,
    tnr: float = 0.9,
    out: Path | str | None = None,
    signing_key: Path | None = None,
    seed: int = 0,
    progress: Progress = silent,
) -> Guard:
    """Train a guard for a classifier: its Shields, and their thresholds, which come from images apart from those.

    >>> import medaegis as ma
    >>> data = ma.load_dataset("phantom-xray?n=240", size=32, channels="gray")
    >>> model = ma.load("tests/golden/guard", factory="tests.models.tiny_networks:tiny").classifier
    >>> guard = ma.fit(model, data.images, data.labels, patients=data.patients, updates=2)
    >>> guard.classes
    ('clear', 'opacity')

    Args:
        images: arrays with `labels`, a `Dataset`, or a spec such as "chest-xray:PATH" (`medaegis data schemes`). Images
            that the classifier learned from make the guard look better than it is.
        patients: one for each image, so that no patient is on both sides of the split; None: nothing is known of that.
        cushion: filter in front (`medaegis cushions`).
        recipe: of the Shields, "strong" or "paper".
        updates: training steps of each Shield.
        tnr: share of clean images to be accepted.
        out: folder that the guard is written to, where an interrupted training goes on; None: it is in memory only.

    Raises:
        DataError: the images do not fit the classifier, or are too few.
        ConfigError, ArtefactError: see `fit_guard`.
    """
    if isinstance(images, str):
        dataset = load_dataset(images, size=model.size, channels=model.channels)
    elif isinstance(images, Dataset):
        dataset = images
    elif labels is None:
        raise ConfigError("fit", "arrays without labels", "give labels, one for each image")
    else:
        dataset = array_dataset(images, labels, model, patients=patients)
    check_classes(dataset, model)
    with tempfile.TemporaryDirectory() as beside:
        return fit_guard(
            model,
            dataset,
            split_dataset(dataset, seed=seed),
            cushion=parse_cushion(cushion),
            config=shield_config(recipe, model, updates=updates, seed=seed),
            out_dir=Path(beside) / "guard" if out is None else Path(out),
            tnr=tnr,
            signing_key=signing_key,
            progress=progress,
        )


class ImageDetector:
    """A detector that takes images: it reads their features from the classifier itself. Made by `detector`.

    Attributes:
        detector: what was, or is to be, learned; its `save` writes it.
        reader: what reads features.
    """

    def __init__(self, detector: detectors.Detector, reader: Reader) -> None:
        self.detector, self.reader = detector, reader

    def fit(
        self,
        images: Images,
        labels: Labels,
        *,
        attacked: Images | None = None,
        seed: int = 0,
        progress: Progress = silent,
    ) -> Self:
        """Learn from clean images and, where the detector does, from attacked copies of those very images, in order.

        Raises:
            ConfigError, DataError: see `Detector.fit`.
        """
        model = self.reader.classifier
        clean = self.reader.read(pixels(images, model))
        copies = None if attacked is None else self.reader.read(pixels(attacked, model))
        numbers = class_numbers(labels, model.classes, len(clean))
        self.detector.fit(clean, numbers, attacked=copies, seed=seed, progress=progress)
        return self

    def score(self, images: Images) -> Tensor:
        """One number for each image `(N,)`, higher for more suspicious."""
        return self.detector.score(self.reader.read(pixels(images, self.reader.classifier)))


def detector(
    name: str, model: Classifier, *, cushion: str = "none", taps: Sequence[str] | None = None, **options: object
) -> ImageDetector:
    """A detector of the table (`medaegis detectors`), not yet fitted.

    >>> import torch, medaegis as ma
    >>> from torch import nn
    >>> network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(784, 2))
    >>> model = ma.wrap(network, classes=("normal", "pneumonia"), size=16, normalise=None)
    >>> x, y = torch.rand(40, 3, 16, 16).mul(255).byte(), torch.arange(40) % 2
    >>> ma.detector("kd", model).fit(x, y).score(x[:3]).shape
    torch.Size([3])

    Args:
        cushion: filter in front of the classifier.
        taps: modules whose features are read; None: those of the classifier.
        options: of the detector, by name.

    Raises:
        ConfigError: an unknown detector, option, Cushion or tap.
    """
    return ImageDetector(find_detector(name).make(**options), Reader(model, cushion=parse_cushion(cushion), taps=taps))


def load(
    folder: Path | str, *, factory: str | Callable[..., nn.Module] | None = None, public_key: Path | None = None
) -> Guard | Classifier | detectors.Detector:
    """A saved guard, classifier or detector, whichever the folder holds; every byte is checked, nothing in it executed.

    >>> import medaegis as ma
    >>> type(ma.load("tests/golden/guard", factory="tests.models.tiny_networks:tiny")).__name__
    'Guard'

    Args:
        factory: builds a network of one's own, ``package.module:function`` or the function itself.
        public_key: of who must have signed it (guards, detectors).

    Raises:
        ArtefactError: the folder is changed, incomplete or foreign.
    """
    kind = kind_of(folder)
    build = load_factory(factory) if isinstance(factory, str) else factory
    if kind == guards.KIND:
        return Guard.load(folder, public_key=public_key, factory=build)
    if kind == detectors.KIND:
        return load_detector(folder, public_key=public_key)
    if public_key is not None:
        raise ConfigError(f"public_key for {folder}", "classifiers are not signed", "leave it out")
    return load_classifier(Path(folder), build)


def pixels(images: Images, model: Classifier, rounding: Rounding = "8bit") -> Tensor:
    """float32 `(N, C, size, size)` in [0, 1] as the classifier takes them, on the device they came from.

    Raises:
        ConfigError: another shape, integers that are not uint8, or values outside [0, 1].
    """
    given = torch.from_numpy(np.ascontiguousarray(images)) if isinstance(images, np.ndarray) else images
    shape = (model.in_channels, model.size, model.size)
    if not isinstance(given, Tensor) or tuple(given.shape[1:]) != shape or not len(given):
        found = tuple(getattr(given, "shape", ())) or type(given).__name__
        remedy = "give (N, {}, {}, {})".format(*shape)
        if tuple(getattr(given, "shape", ()))[1:] == (*shape[1:], shape[0]):
            remedy += ": colours come before rows here, as x.transpose(0, 3, 1, 2) puts them"
        raise ConfigError("images", f"got {found}", remedy)
    if given.dtype == torch.uint8:
        return given.float() / 255
    if not given.is_floating_point():
        raise ConfigError("images", f"are {given.dtype}", "give uint8, or floats in [0, 1]")
    x = given.detach().float()
    low, high = float(x.min()), float(x.max())
    if not (low >= 0 and high <= 1):
        remedy = "divide by 255" if high > 1 and low >= 0 else "give pixels before normalisation, and nothing infinite"
        raise ConfigError("images", f"values from {low:.3g} to {high:.3g}, expected 0 to 1", remedy)
    if rounding == "none":
        return x
    rounded = (x * 255).round()
    off = float((x * 255 - rounded).abs().max())
    if off > 255 * max(torch.finfo(given.dtype).eps, torch.finfo(torch.float32).eps):
        warnings.warn(f"pixels were rounded to 8 bits (by up to {off:.2f} of 255), as a file holds them", stacklevel=3)
    return rounded / 255


def class_numbers(labels: Labels, names: Sequence[str], count: int) -> Tensor:
    """int64 `(N,)` of class numbers or names, one for each of `count` images.

    Raises:
        ConfigError: another number of them, a name or a number that is no class, or numbers that are not whole.
    """
    if len(labels) != count:
        raise ConfigError("labels", f"{len(labels)} for {count} images", "give one for each image")
    if isinstance(labels, Tensor | np.ndarray):
        given = torch.as_tensor(labels)
        if given.is_floating_point() or given.dtype == torch.bool or given.ndim != 1:
            raise ConfigError("labels", f"are {given.dtype} {tuple(given.shape)}", "give whole numbers (N,), or names")
        return _classes_there(given.to(torch.int64), names)
    numbers = {name: number for number, name in enumerate(names)}
    if unknown := sorted({str(one) for one in labels if isinstance(one, str) and one not in numbers}):
        raise ConfigError("labels", f"{', '.join(unknown)}: no such class", f"the classes are {', '.join(names)}")
    found = [numbers[one] if isinstance(one, str) else int(one) for one in labels]
    return _classes_there(torch.tensor(found, dtype=torch.int64), names)


def _classes_there(labels: Tensor, names: Sequence[str]) -> Tensor:
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= len(names):
        raise ConfigError("labels", f"go from {low} to {high}", f"the classes are 0 to {len(names) - 1}")
    return labels


def array_dataset(
    images: Images,
    labels: Labels,
    model: Classifier,
    *,
    patients: Sequence[object] | None = None,
    name: str = "arrays",
) -> Dataset:
    """Arrays as the data set that trainings take, in 8 bits, numbered by place."""
    x = pixels(images, model).cpu()
    y = class_numbers(labels, model.classes, len(x)).cpu()
    places = tuple(f"{i:06d}" for i in range(len(x)))
    return Dataset(
        spec=name,
        images=(x * 255).round().to(torch.uint8),
        labels=y,
        classes=model.classes,
        patients=places if patients is None else tuple(map(str, patients)),
        names=places,
        ids=torch.arange(len(x)),
        grouping="image" if patients is None else "patient",
    )


def _victim(target: Classifier | Guard | Victim, gradient: Gradient, rounding: Rounding) -> Victim:
    if rounding not in ("8bit", "none"):
        raise ConfigError(f"rounding {rounding!r}", "unknown", "give '8bit' or 'none'")
    if isinstance(target, Victim):
        return target
    if isinstance(target, Classifier):
        return Victim(target, cushion=Unrounded() if rounding == "none" else None, gradient=gradient)
    if isinstance(target, Guard):
        if rounding == "none":
            raise ConfigError("rounding 'none'", "a guard judges images that a file can carry", "attack its classifier")
        return target.victim(gradient=gradient)
    raise ConfigError("target", f"is a {type(target).__name__}", "give a Classifier (ma.wrap), a Guard or a Victim")
