"""Classifiers with feature taps: backbones, exact inference folding, training, storage."""

from medaegis.models.backbones import backbones, create_backbone, default_taps, load_factory
from medaegis.models.classifier import Classifier
from medaegis.models.folding import fold_batchnorm
from medaegis.models.taps import Activations
from medaegis.models.wrapping import wrap_classifier

__all__ = [
    "Activations",
    "Classifier",
    "backbones",
    "create_backbone",
    "default_taps",
    "fold_batchnorm",
    "load_factory",
    "wrap_classifier",
]
