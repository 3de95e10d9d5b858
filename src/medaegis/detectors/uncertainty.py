"""Doubt of the classifier itself: Bayesian uncertainty by dropout (Feinman 2017), and feature squeezing (Xu 2018)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from medaegis.cushions import parse_cushion
from medaegis.detectors.base import Detector, FitData
from medaegis.detectors.reader import PENULTIMATE, Reading
from medaegis.errors import ConfigError
from medaegis.validation import Layout


@dataclass(kw_only=True, eq=False)
class BayesianUncertainty(Detector):
    """Variance of the probabilities under dropout before the last layer, averaged over classes (Feinman 2017).

    All that comes before the dropout is the same in every pass, so it is computed once, and the passes are one matrix
    product. Every image meets the same masks: a score depends on no other image.

    Args:
        passes: how many networks are drawn (Feinman: 50).
        dropout: probability of dropping a feature.
    """

    kind = "bayesian-uncertainty"
    passes: int = 50
    dropout: float = 0.5

    def __post_init__(self) -> None:
        if self.passes < 2 or not 0 < self.dropout < 1:
            given = f"{self.passes} passes, dropout {self.dropout}"
            raise ConfigError("Bayesian uncertainty", given, "give 2 or more passes, a dropout between 0 and 1")

    def wanted(self, seen: Reading) -> tuple[str, ...]:
        return (PENULTIMATE,)

    def _fit(self, data: FitData) -> None:
        reader, _ = data.clean.source()
        if reader.head is None:
            raise ConfigError("Bayesian uncertainty", "the network does not end in a linear layer", "use another one")
        weight = reader.head.weight.detach().float()
        bias = torch.zeros_like(weight[:, 0]) if reader.head.bias is None else reader.head.bias.detach().float()
        draw = torch.Generator().manual_seed(data.seed)
        kept = torch.rand((self.passes, weight.shape[1]), dtype=torch.float32, generator=draw) >= self.dropout
        self.learned = {"kept": kept.to(weight.device), "weight": weight.clone(), "bias": bias.clone()}

    def _score(self, seen: Reading) -> Tensor:
        kept, weight = self.learned["kept"], self.learned["weight"]
        thinned = (kept[:, None] * weight / (1 - self.dropout)).flatten(0, 1)
        logits = (seen.feature(PENULTIMATE) @ thinned.T).view(len(seen), *kept.shape[:1], -1) + self.learned["bias"]
        return logits.double().softmax(2).var(1, correction=0).mean(1)

    def layout(self) -> Layout:
        width = self.channels[PENULTIMATE]
        return {"kept": (self.passes, width), "weight": (self.classes, width), "bias": (self.classes,)}


@dataclass(kw_only=True, eq=False)
class FeatureSqueezing(Detector):
    """Largest change of the probabilities (L1 distance) when the image is squeezed (Xu 2018, eq. 4 and section 5.2).

    Args:
        squeezers: specs of cushions; each squeezes the image before it goes its usual way. The paper's are 5 bits
            (3 dropped) and a median filter, besides non-local means for colour photographs.
    """

    kind = "feature-squeezing"
    squeezers: tuple[str, ...] = ("bits:3", "median:3")

    def __post_init__(self) -> None:
        if not self.squeezers:
            raise ConfigError("feature squeezing", "there are no squeezers", "name at least one")
        self._cushions = [parse_cushion(spec) for spec in self.squeezers]
        if drawn := [cushion.spec for cushion in self._cushions if cushion.random]:
            raise ConfigError("feature squeezing", f"{drawn[0]} squeezes at random", "name deterministic squeezers")

    @property
    def needs_images(self) -> bool:
        return True

    def _fit(self, data: FitData) -> None:
        """It has nothing to learn."""

    def _score(self, seen: Reading) -> Tensor:
        reader, images = seen.source()
        usual = seen.logits.double().softmax(1)
        scores = []
        for cushion in self._cushions:
            parts = [cushion.within_range(part.to(reader.device)) for part in images.split(reader.batch_size)]
            squeezed = torch.cat([reader.look(reader.cushioned(part)).logits for part in parts])
            scores.append((squeezed.double().softmax(1) - usual).abs().sum(1))
        return torch.stack(scores).amax(0)
