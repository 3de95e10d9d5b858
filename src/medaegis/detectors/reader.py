"""What detectors see of images: pooled features of the taps and logits, of one pass through Cushion and classifier.

An experiment reads its images once and hands the readings to every detector.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from medaegis.ambient import own_modes
from medaegis.cushions import Cushion, parse_cushion
from medaegis.errors import ConfigError, DataError
from medaegis.models.classifier import INPUT, Classifier
from medaegis.models.taps import GIVEN, Activations, pool
from medaegis.progress import Progress, silent

PENULTIMATE = "penultimate"  # what the last linear layer is given


@dataclass(frozen=True, eq=False)
class Reading:
    """What was seen of N images.

    Attributes:
        logits: float32 `(N, K)`.
        features: tap -> channel means, float32 `(N, C)`.
        images: the images themselves `(N, C, H, W)`, for detectors that look again.
        reader: who read them.
    """

    logits: Tensor
    features: Mapping[str, Tensor]
    images: Tensor | None = None
    reader: Reader | None = None

    def __len__(self) -> int:
        return len(self.logits)

    def __getitem__(self, rows: Tensor | slice) -> Reading:
        images = self.images
        if images is not None:
            images = images[rows.to(images.device) if isinstance(rows, Tensor) else rows]
        return Reading(
            self.logits[rows], {tap: values[rows] for tap, values in self.features.items()}, images, self.reader
        )

    def split(self, size: int) -> Iterator[Reading]:
        """Readings of `size` images and a last one of what is left."""
        return (self[slice(start, start + size)] for start in range(0, len(self), size))

    @property
    def device(self) -> torch.device:
        return self.logits.device

    @property
    def predicted(self) -> Tensor:
        """Class the classifier says, int64 `(N,)`."""
        return self.logits.argmax(1)

    def feature(self, tap: str) -> Tensor:
        """Pooled features of a tap; ConfigError if it was not read."""
        if tap not in self.features:
            have = ", ".join(self.features) or "none"
            raise ConfigError(f"tap {tap!r}", f"was not read; taps read: {have}", "name it in Reader(taps=...)")
        return self.features[tap]

    def source(self) -> tuple[Reader, Tensor]:
        """The reader and the images, for detectors that look again; ConfigError if it holds features alone."""
        if self.reader is None or self.images is None:
            raise ConfigError("detector", "it looks at the images again, and got features alone", "use Reader.read")
        return self.reader, self.images

    def finite(self) -> Tensor:
        """Whether all that was seen of an image is a number, bool `(N,)`."""
        # In float64 a sum of float32 numbers is finite if and only if all of them are; one pass, no mask.
        sums = [values.sum(1, dtype=torch.float64) for values in (self.logits, *self.features.values())]
        return torch.stack(sums).isfinite().all(0)


class Reader:
    """Cushion and classifier as detectors see them, in float32 on the classifier's device.

    Args:
        classifier: the protected network.
        cushion: filter in front of it (None: no filter).
        taps: whose channel means are read; None: those of the classifier but for the pixels, whose mean says nothing.
            Where the network ends in a linear layer, what that is given is read too, as "penultimate".
        batch_size: images of one pass.

    Raises:
        ConfigError: a tap that the classifier cannot have, or a batch size below 1.
    """

    @own_modes()
    def __init__(
        self,
        classifier: Classifier,
        *,
        cushion: Cushion | None = None,
        taps: Sequence[str] | None = None,
        batch_size: int = 32,
    ) -> None:
        if batch_size < 1:
            raise ConfigError("reader", f"batch_size is {batch_size}", "give 1 or more")
        if taps is None:
            taps = [tap for tap in classifier.taps if tap != INPUT]
        classifier.tap_shapes([tap for tap in taps if tap != PENULTIMATE])  # refuses what can be no tap
        self.cushion = cushion if cushion is not None else parse_cushion("none")
        self.batch_size = batch_size
        # Folding changes what tapped convolutions give, unless the classifier knows that they are tapped.
        frozen = classifier.frozen(fold=set(taps) <= {PENULTIMATE, *classifier.taps})
        self.classifier = frozen
        self._places, self.head = _last_layer(frozen)
        self.taps = tuple(dict.fromkeys((*taps, *self._places)))

    @property
    def device(self) -> torch.device:
        return self.classifier.device

    @torch.no_grad()
    def cushioned(self, images: Tensor) -> Tensor:
        """What the classifier is given of images that were read: these behind the Cushion, on its device."""
        return self.cushion.within_range(images.to(self.device))

    @own_modes()
    @torch.no_grad()
    def read(self, images: Tensor, *, progress: Progress = silent) -> Reading:
        """One pass over `(N, C, H, W)` images in [0, 1], batch by batch; the features stay on the reader's device.

        Raises:
            DataError: no images, or not such as the classifier takes.
            ImageError: pixels that are NaN or outside [0, 1].
        """
        if not len(images):
            raise DataError("detector", "there are no images", "give at least one")
        parts = []
        for start in range(0, len(images), self.batch_size):
            parts.append(self.look(self.cushion(images[start : start + self.batch_size].to(self.device))))
            progress(min(start + self.batch_size, len(images)), len(images), "images read")
        features = {tap: torch.cat([part.features[tap] for part in parts]) for tap in self.taps}
        return Reading(torch.cat([part.logits for part in parts]), features, images, self)

    def look(self, x: Tensor, taps: Sequence[str] | None = None) -> Reading:
        """One differentiable pass over one batch of images that are behind the Cushion already.

        Given taps, the pass stops at the deepest of them, and the logits are those of no class, `(N, 0)`.
        """
        seen = self._pass(x, self.taps if taps is None else taps, logits=taps is None)
        logits = seen.logits if seen.logits is not None else x.new_zeros((len(x), 0))
        return Reading(logits, {tap: pool(values) for tap, values in seen.features.items()})

    @own_modes()
    @torch.no_grad()
    def maps(self, images: Tensor, taps: Sequence[str], *, logits: bool = False) -> Activations:
        """Whole activations `(N, C, H, W)` of one batch of images that were read, through the Cushion."""
        return self._pass(self.cushioned(images), taps, logits=logits)

    def _pass(self, x: Tensor, taps: Sequence[str], *, logits: bool) -> Activations:
        names = {tap: self._places.get(tap, tap) for tap in taps}
        seen = self.classifier.activations(x, logits=logits, taps=tuple(names.values()))
        return Activations(seen.logits, {tap: seen.features[name] for tap, name in names.items()})


@torch.no_grad()
def _last_layer(frozen: Classifier) -> tuple[dict[str, str], nn.Linear | None]:
    """The linear layer that gives the logits, if one does, and the tap that is what it is given."""
    trial = torch.rand((2, *frozen.image_shape), dtype=torch.float32, generator=torch.Generator().manual_seed(0))
    linears = [(name, module) for name, module in frozen.network.named_modules() if isinstance(module, nn.Linear)]
    for name, linear in reversed(linears):
        head = frozen.outputs.last_layer(linear, len(frozen.classes))
        if head is None or not name:
            continue
        before = f"{name}{GIVEN}"
        try:
            seen = frozen.activations(trial.to(frozen.device), taps=(before,))
        except ConfigError:
            continue  # it is not called once a pass
        assert seen.logits is not None
        given = seen.features[before]
        if given.ndim == 2 and _alike(head(given), seen.logits):
            return {PENULTIMATE: before}, head
    return {}, None


def _alike(one: Tensor, other: Tensor) -> bool:
    """Whether two logits `(N, K)` give the same probabilities; where a network gives these, a common shift is lost."""
    return torch.allclose(one.log_softmax(1), other.log_softmax(1), atol=1e-5)
