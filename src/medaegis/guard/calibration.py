"""Thresholds of a guard on clean images, and what share of clean images it accepts with them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from medaegis.ambient import own_modes
from medaegis.attacks.victim import Victim
from medaegis.cushions import Cushion
from medaegis.guard.guard import Guard
from medaegis.images.datasets import Dataset
from medaegis.images.splits import Split

DRAWS = 8  # of a random Cushion, for each image that sets a threshold


def calibrate(guard: Guard, dataset: Dataset, split: Split) -> dict[str, Any]:
    """Set the thresholds on clean "val" images, and measure on "adv_test" what share of clean images they accept.

    Raises:
        DataError: too few "val" images, or a Shield's logit that is not finite.
    """
    told = set_guard_thresholds(guard, dataset, split.val)
    test = dataset.subset(split.adv_test)
    verdict = guard.judge(test.pixels(), ids=test.ids)
    strata, names = test.strata
    by_class = {
        name: float(verdict.accepted[strata == k].float().mean())
        for k, name in enumerate(names)
        if bool((strata == k).any())
    }
    task = guard.classifier.task
    overlap = {"dice": float(task.quality(verdict.predicted, test.labels).mean())} if task.name == "dense" else {}
    return {
        "tnr_chosen": guard.tnr,
        "tnr_reached": float(verdict.accepted.float().mean()),
        "tnr_by_class": by_class,
        "thresholds": told,
        "accuracy": float(task.is_right(verdict.predicted, test.labels).float().mean()),
        **overlap,
        "val_images": len(split.val),
        "test_images": len(test),
    }


def set_guard_thresholds(guard: Guard, dataset: Dataset, indices: tuple[int, ...]) -> dict[str, dict[str, Any]]:
    """Set the thresholds on these clean images; for each Shield how many of them it judges, and whether they set its
    threshold alone ("own") or it is pooled.

    Behind a random Cushion each image counts under several draws, so that thresholds are those of the mixture and not
    of one lot; draws are a function of the image's number alone.
    """
    logits, classes = clean_logits(guard.victim(dtype=torch.float32), dataset, indices)
    found = guard.bank.calibrate(logits, classes, guard.tnr, draws=_draws_of(guard.cushion))
    return {name: {"images": one.images, "own": one.own} for name, one in zip(guard.judged, found, strict=True)}


def _draws_of(cushion: Cushion) -> int:
    """Rows that `clean_logits` gives for each image: several where one draw stands for it; a vote stands for itself."""
    return DRAWS if cushion.random and cushion.votes == 1 else 1


@own_modes()
@torch.no_grad()
def clean_logits(victim: Victim, dataset: Dataset, indices: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Logit of the Shield that judges each clean image, and which that is (the predicted class): `(N,)` each.

    Behind a random Cushion every image is looked at under `DRAWS` draws, which gives so many rows for each.
    """
    assert victim.shields is not None
    logits, classes = [], []
    for rows in torch.tensor(indices).split(64):
        pixels = dataset.pixels(rows, device=victim.device)
        for turn in range(_draws_of(victim.cushion)):
            drawn = victim.drawn(dataset.ids[rows], seed=0, stream=f"calibration/{turn}")
            if victim.votes > 1:
                shares, middle = drawn.vote(pixels)
                assert middle is not None
                classes.append(shares.argmax(1))
                logits.append(middle)
                continue
            seen = drawn.exact.activations(drawn.cushion(pixels), taps=victim.shields.taps)
            assert seen.logits is not None
            task = drawn.exact.task
            classes.append(task.shield_of(task.predicted(seen.logits)))
            logits.append(victim.shields(seen.features, classes[-1]))
    return torch.cat(logits), torch.cat(classes)
