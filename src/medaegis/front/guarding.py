"""Fit a guard, and load what was saved."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from torch import nn

from medaegis.ambient import own_modes
from medaegis.arrays import Images, Labels, as_dataset
from medaegis.artefact import kind_of
from medaegis.cushions import parse_cushion
from medaegis.detectors import base as detectors
from medaegis.detectors.registry import load_detector
from medaegis.errors import ConfigError
from medaegis.guard import guard as guards
from medaegis.guard.fitting import fit_guard, shield_config
from medaegis.guard.guard import Guard
from medaegis.images.splits import split_dataset
from medaegis.models.backbones import load_factory
from medaegis.models.classifier import Classifier
from medaegis.models.store import load_classifier
from medaegis.progress import Progress, silent


@own_modes()
def fit(
    model: Classifier,
    images: Images,
    labels: Labels | None = None,
    *,
    patients: Sequence[object] | None = None,
    cushion: str = "jpeg:80",
    recipe: str = "strong",
    updates: int = 2400,
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
        images: arrays with `labels`, a torch `Dataset` or `DataLoader` of pairs, a `Dataset`, or a spec such as
            "chest-xray:PATH" (`medaegis data schemes`). Images that the classifier learned from make the guard look
            better than it is.
        patients: one for each image, so that no patient is on both sides of the split; None: nothing is known of that,
            or the `Dataset` or spec says it.
        cushion: filter in front (`medaegis cushions`).
        recipe: of the Shields: "strong", "smooth" (for smooth pictures, as of the fundus) or "paper".
        updates: training steps of each Shield.
        tnr: share of clean images to be accepted.
        out: folder that the guard is written to, where an interrupted training goes on; None: it is in memory only.

    Raises:
        ConfigError, DataError: the images do not fit (see `medaegis.arrays.labelled`), or are too few.
        ConfigError, ArtefactError: see `fit_guard`.
    """
    dataset = as_dataset(images, labels, model, patients=patients)
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


@own_modes()
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
