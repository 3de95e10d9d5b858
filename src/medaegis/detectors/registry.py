"""The table of detectors: every detector of the papers by name, with its paper and default values; loading them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from medaegis.ambient import own_modes
from medaegis.artefact import read_folder
from medaegis.detectors.bank import Shields
from medaegis.detectors.base import KIND, Detector, rebuild
from medaegis.detectors.combined import Combined
from medaegis.detectors.density import GaussianMixture, KernelDensity, Mahalanobis
from medaegis.detectors.learned import RandomForest, SupportVectors
from medaegis.detectors.neighbours import LocalDimension
from medaegis.detectors.subnetwork import Subnetworks
from medaegis.detectors.uncertainty import BayesianUncertainty, FeatureSqueezing
from medaegis.errors import ArtefactError, ConfigError


@dataclass(frozen=True)
class DetectorEntry:
    """A named detector.

    Attributes:
        title: one line for tables.
        paper: where it comes from.
        make: the unfitted detector with its default values; options may be given by name.
    """

    title: str
    paper: str
    make: Callable[..., Detector]


_KD, _LID = partial(KernelDensity, taps=None), partial(LocalDimension, learn=False)


def _union(**options: Any) -> Detector:
    options.setdefault("members", (_KD(), Mahalanobis(), _LID()))
    return Combined(**options)


DETECTORS: dict[str, DetectorEntry] = {
    "kd": DetectorEntry("Kernel density, penultimate layer", "Feinman 2017", KernelDensity),
    "kd-layers": DetectorEntry("Kernel density, average of all layers", "Yao, Medical Aegis, section 4", _KD),
    "bu": DetectorEntry("Bayesian uncertainty by dropout", "Feinman 2017", BayesianUncertainty),
    "lid": DetectorEntry("Local intrinsic dimensionality, layers weighted by regression", "Ma 2018", LocalDimension),
    "lid-layers": DetectorEntry("Local intrinsic dimensionality, average", "Yao, Medical Aegis, section 4", _LID),
    "mahalanobis": DetectorEntry("Mahalanobis distance, input preprocessing, layers weighted by regression", "Lee 2018",
        partial(Mahalanobis, learn=True, magnitude=0.0005)),  # the magnitude is the one HFC's authors used
    "mahalanobis-layers": DetectorEntry("Mahalanobis distance, average", "Yao, Medical Aegis, section 4", Mahalanobis),
    "svm": DetectorEntry("RBF-SVM on deep features", "Lu 2017, as in Yao 2021", SupportVectors),
    "dnn": DetectorEntry("Network on each layer's activations, logits summed", "Metzen 2017", Subnetworks),
    "dnn-plain": DetectorEntry("Network on each layer's activations without batch norm and ReLU",
        "Yao 2021 (HFC), its code", partial(Subnetworks, plain=True)),
    "dfeat": DetectorEntry("Random forest on deep features", "Ma 2021", RandomForest),
    "qfeat": DetectorEntry("RBF-SVM on quantised deep features", "Lu 2017, Ma 2021", partial(SupportVectors, levels=4)),
    "gmm": DetectorEntry("Gaussian mixture of deep features", "Li 2020", GaussianMixture),
    "squeezing": DetectorEntry("Feature squeezing: fewer bits, median", "Xu 2018", FeatureSqueezing),
    "shield": DetectorEntry("Shields, trained by attacking them", "Yao, Medical Aegis, section 3", Shields),
    "combined": DetectorEntry("KD, LID and Mahalanobis together, averages of layers", "ours: mean of ranks", _union),
}  # fmt: skip


def find_detector(name: str) -> DetectorEntry:
    """Entry of the table.

    Raises:
        ConfigError: no such detector; lists those there are.
    """
    if name not in DETECTORS:
        raise ConfigError(f"detector {name!r}", "not in the table", f"choose from {', '.join(DETECTORS)}")
    return DETECTORS[name]


@own_modes()
def load_detector(path: Path | str, *, public_key: Path | None = None) -> Detector:
    """Read a detector's folder; every byte is checked and nothing in it is executed.

    Raises:
        ArtefactError: the folder is changed, incomplete or foreign, or its parts do not fit together.
    """
    folder = read_folder(path, kind=KIND, public_key=public_key)
    try:
        return rebuild(folder.manifest.get("detector") or {}, folder.tensors("learned"))
    except ConfigError as error:
        raise ArtefactError(path, f"{error.source}: {error.problem}", error.remedy) from error
