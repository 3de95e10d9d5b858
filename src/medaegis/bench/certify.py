"""Certifying a smoothed guard: for each test image the radius within which no attack whatever gets a wrong diagnosis.

The mathematics: `medaegis.guard.smoothing` and `medaegis.bench.radius`. The guard is asked about noisy copies stage by
stage; what has been asked about is stored, so a killed run goes on there.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from medaegis.ambient import own_modes
from medaegis.bench.assess import proportion
from medaegis.bench.campaign import guard_key
from medaegis.bench.checks.within import AT_ONCE, HOW, attack_smoothed, attacked_image, wanted_class
from medaegis.bench.figures import guard_facts
from medaegis.bench.radius import Bounds, Terms, lower
from medaegis.bench.records.archive import provenance, write_record
from medaegis.bench.records.assessment import Proportion
from medaegis.bench.records.certificate import (
    RECORD,
    AttackCheck,
    AttackedImage,
    Certificate,
    CertifiedImage,
    CertifiedShare,
    NoisyThreshold,
)
from medaegis.bench.report.certificate import write_certificate_page
from medaegis.bench.sample import check_images, data_facts, draw
from medaegis.bench.store import PIECE_FLOPS, Piece, Store, flops
from medaegis.errors import ConfigError, DataError
from medaegis.guard.guard import Guard
from medaegis.guard.site import Site
from medaegis.guard.smoothing import TOGETHER, SmoothedGuard, noisy_thresholds
from medaegis.images.datasets import Dataset
from medaegis.progress import Meter, Progress, Resumed, silent


@own_modes()
def certify_guard(
    guard: Guard,
    site: Site,
    *,
    terms: Terms,
    out_dir: Path,
    limit: int | None = None,
    calibrate: bool = True,
    attack_check: int = 0,
    seed: int = 0,
    command: str = "",
    progress: Progress = silent,
) -> Certificate:
    """Certify "adv_test" images, and write record and page.

    Args:
        limit: at most so many images, classes in proportion (`bench/sample`); rightly diagnosed or not, all count.
        calibrate: set the thresholds on noisy copies of "val" images, at the guard's true-negative rate; its own are
            those of images without noise.
        attack_check: attack so many certified images within their radius.

    Raises:
        ConfigError: no guard; a sigma, limit or number that cannot be; no radius that so many samples could certify.
        DataError: the data are not those the guard was fitted for, or too few to set thresholds on.
    """
    started = time.perf_counter()
    smoothed = SmoothedGuard(guard, terms.sigma, seed=seed)
    dataset, split = site.dataset, site.split
    check_images(guard.classifier, dataset, split, limit, "guard")
    if attack_check < 0:
        raise ConfigError(f"attack check of {attack_check} images", "below 0", "give 0 for none")
    if calibrate and not split.val:
        raise DataError(dataset.spec, "no images to set thresholds on", "give more images, or keep the guard's own")
    test = dataset.subset(split.adv_test)
    chosen = test.subset(draw(test.labels, limit, seed))
    drift = smoothed.drift(chosen.images[0])
    terms.check_reach(len(guard.classes), drift)
    about = provenance(seed, command, guard.classifier.device)  # of the code that runs, whatever is committed meanwhile
    progress = Resumed(progress)
    store = Store(out_dir / "pieces", progress.begin)
    thresholds: dict[str, NoisyThreshold] = {}
    if calibrate:
        under_noise, thresholds = _calibrated(guard, dataset, split.val, store, sigma=terms.sigma, seed=seed)
        smoothed = SmoothedGuard(under_noise, terms.sigma, seed=seed)
    asking = Asking(smoothed, chosen, store, terms, drift)
    asking.run(progress)
    attacks = asking.attack(attack_check, progress) if attack_check else None
    n = len(chosen)
    found = Certificate(
        **about,
        seconds=time.perf_counter() - started + store.spent_before,
        guard=guard_facts(guard),
        data=data_facts(test, split, site),
        sigma=terms.sigma,
        samples=terms.samples,
        stages=list(terms.stages),
        alpha=terms.alpha,
        level=terms.level(len(guard.classes)),
        drift=drift,
        reach=asking.reach,
        thresholds=thresholds,
        val=len(split.val) if calibrate else 0,
        n=n,
        copies=sum(one.n for one in asking.asked),
        noisy_accepted=sum(one.accepted for one in asking.asked) / n,
        noisy_accuracy=sum(one.right for one in asking.asked) / n,
        given_wrong=asking.share(lambda one: one.wrong(0)),
        plain_wrong=asking.share(lambda one: one.wrong(1)),
        shares=[asking.certified(radius) for radius in (0.0, *terms.radii)],
        images=[one.told(name, guard.classes) for name, one in zip(chosen.names, asking.asked, strict=True)],
        attacks=attacks,
    )
    write_certificate_page(found, out_dir)
    write_record(out_dir / RECORD, found)
    return found


def _calibrated(
    guard: Guard, dataset: Dataset, val: tuple[int, ...], store: Store, *, sigma: float, seed: int
) -> tuple[Guard, dict[str, NoisyThreshold]]:
    """The guard with thresholds set under noise. They are stored, so that a run that goes on has the very same."""
    images = dataset.subset(val)
    key = {**guard_key(guard, seed), "thresholds at": sigma, "images": images.pixel_fingerprint}
    key |= {"ids": images.ids.tolist(), "device": guard.classifier.device.type}

    def compute() -> Piece:
        bank, told = noisy_thresholds(guard, sigma, dataset, val)
        counts = {name: torch.tensor([int(one[name]) for one in told.values()]) for name in ("images", "own")}
        return {"centre": bank.centre.cpu(), "scale": bank.scale.cpu(), **counts}

    piece = store.get(key, compute)
    bank = copy.deepcopy(guard.bank)
    bank.centre.copy_(piece["centre"])
    bank.scale.copy_(piece["scale"])
    rows = zip(guard.classes, *(piece[name].tolist() for name in ("centre", "scale", "images", "own")), strict=True)
    told = {
        name: NoisyThreshold(centre=centre, scale=scale, images=images, own=bool(own))
        for name, centre, scale, images, own in rows
    }
    return Guard(guard.classifier, guard.cushion, bank, tnr=guard.tnr), told


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
        """Whether a wrong diagnosis is given for sure; row 0: by the guard, 1: by the classifier alone.

        Each wrong class is a bound of the level of the others, beside those of the radii that alpha is for.
        """
        sure = lower(self.counts[row].numpy(), self.n, self.bounds.level) - self.bounds.drift
        return bool((np.delete(sure, self.bounds.label) > 0.5).any())

    def told(self, name: str, classes: tuple[str, ...]) -> CertifiedImage:
        radii = [radius if radius >= 0 else None for radius in self.bounds.radii.flatten().tolist()]
        no_harm, right, plain_no_harm, plain_right = radii
        return CertifiedImage(
            name=name,
            label=classes[self.bounds.label],
            samples=self.n,
            accepted=self.counts[0].tolist(),
            predicted=self.counts[1].tolist(),
            no_harm=no_harm,
            right=right,
            plain_no_harm=plain_no_harm,
            plain_right=plain_right,
        )


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
        one, found = self.chosen.subset([i]), torch.zeros_like(self.asked[i].counts)
        key = {**self._key, "id": int(one.ids[0]), "image": one.pixel_fingerprint}
        for first in range(start, stop, self._part):
            last = min(first + self._part, stop)

            def compute(first: int = first, last: int = last) -> Piece:
                began = time.perf_counter()
                counts = self.smoothed.counts(one.images[0], int(one.ids[0]), first, last)
                return {"counts": counts, "cost": torch.tensor([[time.perf_counter() - began]], dtype=torch.float64)}

            found += self.store.get({**key, "copies": [first, last]}, compute)["counts"]
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
