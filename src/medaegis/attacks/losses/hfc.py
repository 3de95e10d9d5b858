"""Hierarchical feature constraint (HFC; Yao 2021): hide among the normal features of the wanted class, in every layer.

Normal features of each layer and class are modelled by a Gaussian mixture; the add-on pulls an image's features towards
the component that is most likely for them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from medaegis.attacks.normal import Mixtures
from medaegis.attacks.objective import Begun, Goal, Objective, Target, View
from medaegis.errors import ConfigError
from medaegis.models.taps import pool


@dataclass(frozen=True)
class HierarchicalFeature(Begun):
    """The add-on J_HFC (eq. 7), with 1 / channels as the weight of a layer.

    Args:
        components: K, Gaussians of the mixture of a class in a layer (section 4: 64 for fundus, 1 for chest X-rays).
    """

    components: int = 1
    needs_logits = False
    needs_normal = True

    def __post_init__(self) -> None:
        if self.components < 1:
            raise ConfigError("HFC", f"{self.components} components", "give 1 or more")

    def begin(self, victim: Target, goal: Goal) -> Objective:
        if goal.normal is None:
            raise ConfigError("HFC", "it needs the mixtures of normal features", "set normal (fit_mixtures)")
        return _Hidden(goal.normal.to(victim.device), goal.normal.taps, goal.targets is None)


@dataclass(frozen=True)
class _Hidden(Objective):
    normal: Mixtures
    taps: tuple[str, ...]
    needs_logits: bool

    def __call__(self, view: View) -> Tensor:
        wanted = view.goal.class_to_be(view.logits)
        losses = []
        for tap in self.taps:
            features = pool(view.features[tap])
            losses.append(self.normal.distance(tap, features, wanted) / (2 * features.shape[1]))
        return torch.stack(losses).sum(0)
