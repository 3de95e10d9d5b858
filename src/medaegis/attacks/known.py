"""What an attacker knows of clean images: some to imitate, and how their features are distributed."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from medaegis.attacks.engine import Attack, pick_guides
from medaegis.attacks.ensemble import Ensemble
from medaegis.attacks.hfc import Mixtures, fit_mixtures
from medaegis.attacks.victim import Victim
from medaegis.images.datasets import Dataset
from medaegis.models.classifier import INPUT


class Known:
    """Clean images in the attacker's hands, none of those he attacks.

    Args:
        images: with their labels.
        taps: modules in which an attack hides among normal features; None: those of the classifier, but for the pixels.
        seed: of the choice of guides and of the mixtures.
    """

    def __init__(self, images: Dataset, *, taps: tuple[str, ...] | None = None, seed: int = 0) -> None:
        self.images, self.taps, self.seed = images, taps, seed
        self._normal: dict[Victim, Mixtures] = {}

    def options(self, attack: Attack | Ensemble, victim: Victim, targets: Tensor, ids: Tensor) -> dict[str, Any]:
        """What `Attack.run` asks for beside the images: guides and normal features, where the attack needs them.

        Args:
            targets: wanted classes `(N,)`; ids: numbers of the attacked images `(N,)`.
        """
        needs = attack.objective
        told: dict[str, Any] = {}
        if needs.needs_guides:
            told["guides"] = self.images.pixels(pick_guides(self.images.labels, targets, ids=ids, seed=self.seed))
        if needs.needs_normal:
            told["normal"] = self.normal(victim)
        return told

    def normal(self, victim: Victim) -> Mixtures:
        """Of features behind the victim's Cushion, worked out once for each victim."""
        if victim not in self._normal:
            taps = self.taps if self.taps is not None else victim.exact.taps
            features = victim.pooled(self.images.pixels(), tuple(tap for tap in taps if tap != INPUT))
            self._normal[victim] = fit_mixtures(features, self.images.labels, seed=self.seed)
        return self._normal[victim]
