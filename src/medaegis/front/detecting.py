"""The papers' detectors, on images in place of features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

from torch import Tensor

from medaegis.ambient import own_modes
from medaegis.arrays import Images, Labels, labelled, pixels
from medaegis.cushions import parse_cushion
from medaegis.detectors.base import Detector
from medaegis.detectors.reader import Reader
from medaegis.detectors.registry import find_detector
from medaegis.models.classifier import Classifier
from medaegis.progress import Progress, silent


class ImageDetector:
    """A detector that takes images: it reads their features from the classifier itself. Made by `detector`.

    >>> import torch, medaegis as ma
    >>> model = ma.load("tests/golden/guard", factory="tests.models.tiny_networks:tiny").classifier
    >>> data = ma.load_dataset("phantom-xray?n=60", size=32, channels="gray")
    >>> attacked = ma.attack("fgsm", model, data.images, data.labels, eps="8/255").images
    >>> detector = ma.detector("mahalanobis", model).fit(data.images, data.labels, attacked=attacked)
    >>> type(detector).__name__, detector.score(data.images[:5]).shape
    ('ImageDetector', torch.Size([5]))

    Attributes:
        detector: what was, or is to be, learned; its `save` writes it.
        reader: what reads features.
    """

    def __init__(self, detector: Detector, reader: Reader) -> None:
        self.detector, self.reader = detector, reader

    @own_modes()
    def fit(
        self,
        images: Images,
        labels: Labels | None = None,
        *,
        attacked: Images | None = None,
        seed: int = 0,
        progress: Progress = silent,
    ) -> Self:
        """Learn from clean images and, where the detector does, from attacked copies of those very images, in order.

        Args:
            images: arrays with `labels`, or what holds both, see `medaegis.attack`.

        Raises:
            ConfigError, DataError: see `Detector.fit` and `medaegis.arrays.labelled`.
        """
        model = self.reader.classifier
        x, y = labelled(images, labels, model)
        copies = None if attacked is None else self.reader.read(pixels(attacked, model))
        self.detector.fit(self.reader.read(x), y, attacked=copies, seed=seed, progress=progress)
        return self

    @own_modes()
    def score(self, images: Images) -> Tensor:
        """One number for each image `(N,)`, higher for more suspicious."""
        return self.detector.score(self.reader.read(pixels(images, self.reader.classifier)))


@own_modes()
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
