"""Asking a smoothed guard about noisy copies of images, stage by stage, and what has been seen of each image so far."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from medaegis.bench.assess import proportion
from medaegis.bench.campaign import guard_key
from medaegis.bench.checks.within import AT_ONCE, HOW, attack_smoothed, attacked_image, wanted_class
from medaegis.bench.radius import Bounds, Terms, lower
from medaegis.bench.records.assessment import Proportion
from medaegis.bench.records.certificate import AttackCheck, AttackedImage, CertifiedImage, CertifiedShare
from medaegis.bench.sample import draw
from medaegis.bench.store import PIECE_FLOPS, Piece, Store, flops
from medaegis.guard.smoothing import TOGETHER, SmoothedGuard
from medaegis.images.datasets import Dataset
from medaegis.progress import Meter, Progress


class Asked:
    """One image so far.

    Attributes:
        counts: of its first n noisy copies, `(2, K)` as of `SmoothedGuard.counts`.
        accepted, right: of the copies of the first stage the share that is accepted, and that the classifier takes for
            the right class.
    """

    def __init__(self, bounds: Bounds, classes: int) -> None:
        self.bounds, self.n = bounds, 0
        self.counts = torch.zeros(2, classes, dtype=torch.int64)
        self.accepted = self.right = 0.0

    def take(self, counts: Tensor, n: int) -> None:
        """The counts of further copies, up to the n-th."""
        self.counts = self.counts + counts
        if not self.n:
            self.accepted = float(self.counts[0].sum()) / n
            self.right = float(self.counts[1, self.bounds.label]) / n
        self.n = n
        self.bounds.take(self.counts.tolist(), n)

    def wrong(self, row: int) -> bool:
        """Whether a wrong diagnosis is given for sure; row 0: by the guard, 1: by the classifier alone."""
        sure = lower(self.counts[row].numpy(), self.n, self.bounds.level) - self.bounds.drift
        return bool((np.delete(sure, self.bounds.label) > 0.5).any())

    def told(self, name: str, classes: tuple[str, ...]) -> CertifiedImage:
        (no_harm, right), (plain_no_harm, plain_right) = self.bounds.radii.tolist()
        return CertifiedImage(
            name=name,
            label=classes[self.bounds.label],
            samples=self.n,
            accepted=self.counts[0].tolist(),
            predicted=self.counts[1].tolist(),
            no_harm=_at_least_0(no_harm),
            right=_at_least_0(right),
            plain_no_harm=_at_least_0(plain_no_harm),
            plain_right=_at_least_0(plain_right),
        )


def _at_least_0(radius: float) -> float | None:
    return radius if radius >= 0 else None


class Asking:
    """A smoothed guard and the images that it is asked about.

    Args:
        drift: how far chances may be from those that are bounded (`SmoothedGuard.drift`).

    Attributes:
        asked: what is known of each image.
    """

    def __init__(self, smoothed: SmoothedGuard, chosen: Dataset, store: Store, terms: Terms, drift: float) -> None:
        self.smoothed, self.chosen, self.store, self.terms = smoothed, chosen, store, terms
        guard, classes = smoothed.guard, len(chosen.classes)
        device = guard.classifier.device.type
        self.reach = terms.reach(classes, drift)
        self.asked = [
            Asked(Bounds(terms, classes=classes, label=label, drift=drift), classes) for label in chosen.labels.tolist()
        ]
        self._key = {**guard_key(guard, smoothed.seed), "sigma": terms.sigma, "device": device}
        kind, each = "cpu" if device == "cpu" else "cuda", max(1, flops(guard.judge, chosen.pixels([0])))
        # Whole batches, so that whatever the size of a part, the same copies are judged together.
        self._part = max(1, int(PIECE_FLOPS[kind] / each) // TOGETHER) * TOGETHER

    def run(self, progress: Progress) -> None:
        """Ask about every image that is not settled, all of a stage before the next; each part is stored when done."""
        start, stages = 0, self.terms.stages
        for stage, stop in enumerate(stages):
            open_ = [i for i, one in enumerate(self.asked) if not one.bounds.settled]
            message = f"noisy copies {start + 1} to {stop} of {len(open_)} images, stage {stage + 1} of {len(stages)}"
            meter = Meter(progress, (stop - start) * len(open_))
            for i in open_:
                self.asked[i].take(self._counts(i, start, stop, meter.part(stop - start, message)), stop)
            start = stop

    def _counts(self, i: int, start: int, stop: int, progress: Progress) -> Tensor:
        found = torch.zeros_like(self.asked[i].counts)
        for first in range(start, stop, self._part):
            last = min(first + self._part, stop)

            def compute(first: int = first, last: int = last) -> Piece:
                began = time.perf_counter()
                counts = self.smoothed.counts(self.chosen.images[i], int(self.chosen.ids[i]), first, last)
                return {"counts": counts, "cost": torch.tensor([[time.perf_counter() - began]], dtype=torch.float64)}

            found += self.store.get({**self._of(i), "copies": [first, last]}, compute)["counts"]
            progress(last - start, stop - start, "")
        return found

    def attack(self, limit: int, progress: Progress) -> AttackCheck:
        """Attack so many images that are certified beyond themselves, classes in proportion."""
        places = [i for i, one in enumerate(self.asked) if one.bounds.radii[0, 0] > 0]
        rows = draw(self.chosen.labels[places], limit, self.smoothed.seed).tolist()
        found: list[AttackedImage] = []
        for start in range(0, len(rows), AT_ONCE):
            progress(start, len(rows), "attacks within the certified radius")
            found += self._attacked([places[row] for row in rows[start : start + AT_ONCE]])
        return AttackCheck(**HOW, images=found)

    def _attacked(self, part: list[int]) -> list[AttackedImage]:
        images, asked = self.chosen.subset(part), [self.asked[i] for i in part]
        bounds = [one.bounds for one in asked]
        wanted = [wanted_class(one) for one in bounds]
        aims = {"wanted": wanted, "radii": [float(one.radii[0, 0]) for one in bounds]}
        key = {**self._key, **HOW, **aims, "ids": images.ids.tolist(), "images": images.pixel_fingerprint}
        piece = self.store.get(key, lambda: attack_smoothed(self.smoothed, images.images, images.ids, bounds))
        return [
            attacked_image(
                *(images.images[row], piece["images"][row], piece["counts"][row], one.bounds),
                before=float(one.counts[0, wanted[row]]) / one.n,
                name=images.names[row],
                classes=images.classes,
            )
            for row, one in enumerate(asked)
        ]

    def _of(self, i: int) -> dict[str, object]:
        one = self.chosen.subset([i])
        return {**self._key, "id": int(one.ids[0]), "image": one.pixel_fingerprint}

    def share(self, hit: Callable[[Asked], bool]) -> Proportion:
        """Of the images, with its interval by patient."""
        return proportion(torch.tensor([hit(one) for one in self.asked]), self.chosen.patients)

    def certified(self, radius: float) -> CertifiedShare:
        """The shares at a radius."""

        def share(row: int, column: int) -> Proportion:
            return self.share(lambda one: bool(one.bounds.radii[row, column] >= radius))

        return CertifiedShare(
            radius=radius,
            linf=radius / self.chosen.images[0].numel() ** 0.5,
            within_reach=radius <= self.reach,
            no_harm=share(0, 0),
            right=share(0, 1),
            plain_no_harm=share(1, 0),
            plain_right=share(1, 1),
        )
