"""Certifying a smoothed guard: for each test image the radius within which no attack whatever gets a wrong diagnosis.

The mathematics: `medaegis.guard.smoothing` and `medaegis.bench.radius`. What has been asked about is stored, so a
killed run goes on there.
"""

from __future__ import annotations

import copy
import time
from pathlib import Path

import torch

from medaegis.ambient import own_modes
from medaegis.bench.asking import Asking
from medaegis.bench.campaign import guard_key
from medaegis.bench.facts import guard_facts
from medaegis.bench.radius import Terms
from medaegis.bench.records.archive import provenance, write_record
from medaegis.bench.records.certificate import RECORD, Certificate, NoisyThreshold
from medaegis.bench.report.certificate import write_certificate_page
from medaegis.bench.sample import check_images, data_facts, draw
from medaegis.bench.store import Piece, Store
from medaegis.errors import ConfigError, DataError
from medaegis.guard.guard import Guard
from medaegis.guard.site import Site
from medaegis.guard.smoothing import SmoothedGuard, noisy_thresholds
from medaegis.images.datasets import Dataset
from medaegis.progress import Progress, Resumed, silent


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
