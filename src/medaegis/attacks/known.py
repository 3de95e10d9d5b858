"""What an attacker knows of clean images: some to imitate or learn from, and how their features are distributed."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from medaegis.attacks.base import AnyAttack
from medaegis.attacks.choices import closest_guides, pick_guides
from medaegis.attacks.learned import Learner
from medaegis.attacks.losses.evasion import apart
from medaegis.attacks.normal import Mixtures, fit_mixtures
from medaegis.attacks.victim import Victim
from medaegis.images.datasets import Dataset
from medaegis.models.classifier import INPUT, Classifier


class Known:
    """Clean images in the attacker's hands, none of those he attacks.

    Args:
        images: with their labels.
        taps: modules in which an attack hides among normal features; None: those of the classifier, but for the pixels.
        seed: of the choice of guides and of images to learn from, and of the mixtures.
    """

    def __init__(self, images: Dataset, *, taps: tuple[str, ...] | None = None, seed: int = 0) -> None:
        self.images, self.taps, self.seed = images, taps, seed
        self._normal: dict[tuple[Classifier, str, int], Mixtures] = {}
        # Whole activations are large: those of one victim and its taps at a time.
        self._seen: tuple[tuple[Classifier, str], tuple[str, ...], dict[str, Tensor]] | None = None

    @cached_property
    def key(self) -> list[str]:
        """What names these images, pixels included, where results are stored."""
        return [self.images.fingerprint, self.images.pixel_fingerprint]

    def key_for(self, attack: AnyAttack) -> list[object]:
        """What names all that the attack takes from here: the images, and where it hides among normal features."""
        return [*self.key, self.taps] if attack.objective.needs_normal else [*self.key]

    @staticmethod
    def serve(attack: AnyAttack) -> bool:
        """Whether the attack needs clean images at all."""
        needs = attack.objective
        return attack.learns or needs.needs_guides or needs.needs_normal

    def options(
        self, attack: AnyAttack, victim: Victim, images: Tensor, targets: Tensor, ids: Tensor
    ) -> dict[str, Any]:
        """What `run` asks for beside the images: guides, normal features, images to learn from, as the attack needs.

        Args:
            images: the attacked ones `(N, C, H, W)`; targets: wanted classes `(N,)`; ids: numbers of the images `(N,)`.

        Raises:
            ConfigError: guides are needed and there is no known image of a wanted class.
        """
        needs = attack.objective
        told: dict[str, Any] = {}
        if needs.needs_guides:
            if taps := needs.guide_taps(victim):
                rows = closest_guides(self.images.labels, targets, self.distances(victim, taps, images, ids))
            else:
                rows = pick_guides(self.images.labels, targets, ids=ids, seed=self.seed)
            told["guides"] = self.images.pixels(rows)
        if needs.needs_normal:
            told["normal"] = self.normal(victim, needs.components)
        if isinstance(attack, Learner):
            told["known"] = self.lessons(attack)
        return told

    def lessons(self, attack: Learner) -> tuple[Tensor, Tensor]:
        """Images and labels that an attack is learned from, drawn with the seed."""
        drawn = torch.randperm(len(self.images), generator=torch.Generator().manual_seed(self.seed))
        rows = drawn[: attack.images].sort().values
        return self.images.pixels(rows), self.images.labels[rows]

    def distances(self, victim: Victim, taps: tuple[str, ...], images: Tensor, ids: Tensor) -> Tensor:
        """Squared Euclidean distances `(N, M)` of the images' activations to those of the M known ones.

        Over several taps they add up, each as the mean over its values in units of the known images' mean square.
        """
        if self._seen is None or self._seen[:2] != (_place(victim), taps):
            pixels = self.images.pixels()
            self._seen = _place(victim), taps, victim.features(pixels, taps, torch.arange(len(pixels)), _flat)
        here = victim.features(images, taps, ids, _flat)
        far = torch.zeros((len(images), len(self.images)), dtype=torch.float32, device=victim.device)
        for tap, known in self._seen[2].items():
            far += apart(here[tap], known).square() / known.square().sum().clamp_min(1e-12)
        return far.cpu()

    def normal(self, victim: Victim, components: int = 1) -> Mixtures:
        """Of features behind the victim's Cushion, worked out once, whatever way gradients take."""
        place = (*_place(victim), components)
        if place not in self._normal:
            taps = self.taps if self.taps is not None else victim.exact.taps
            features = victim.pooled(self.images.pixels(), tuple(tap for tap in taps if tap != INPUT))
            self._normal[place] = fit_mixtures(
                features, self.images.labels, classes=len(victim.exact.classes), components=components, seed=self.seed
            )
        return self._normal[place]


def _place(victim: Victim) -> tuple[Classifier, str]:
    """Where features are read: the same whatever way gradients take."""
    return victim.exact, victim.cushion.spec


def _flat(features: Tensor) -> Tensor:
    return features.float().flatten(1)
