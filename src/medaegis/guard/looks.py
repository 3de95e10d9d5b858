"""What the looks at Shields in training say: what they reach, whether gradients mask, whether training is finished."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from pydantic import BaseModel, ValidationError
from torch import Tensor

from medaegis.draws import Draws
from medaegis.images.datasets import Dataset

WATCHED_EPS = (4, 8, 16, 64)  # of 256; at 64 a sound attack must win, or gradients are masked
WATCHED_TNR = 0.9  # share of clean images that pass, where it is asked how many attacked ones do
PASSES = 0.9  # share of attacked images that must pass at the largest watched eps, or gradients are masked
MASKED = 0.02  # AUROC there above which the Shield of an older guard, whose looks told no share, is taken to mask them
LOOKS = 8  # at robustness during one training; one of fewer updates gets none
BETWEEN_LOOKS = 30  # updates at least: a look takes as long as thirty of them
FIT_AGAIN = "Fit again with another --seed, with more images or with another number of --updates (default 2400)"


def in_chance_order(dataset: Dataset) -> Tensor:
    """Places of all images, int64 `(N,)`: the first ones are a fair sample, where those of a folder are of one kind."""
    return Draws(0, dataset.ids, "looks").keys().argsort(stable=True)


def area(clean: Tensor, attacked: Tensor) -> float:
    """AUROC of a Shield's logits of clean images against those of attacked ones, `(N,)` and `(M,)`."""
    from sklearn.metrics import roc_auc_score  # slow to import

    truth = torch.cat([torch.ones_like(clean), torch.zeros_like(attacked)])
    return float(roc_auc_score(truth.numpy(), torch.cat([clean, attacked]).numpy()))


def soundness(seen: Mapping[str, float]) -> float | None:
    """Rank of a look: AUROC at the largest eps but one; None where not even the largest eps gets everything through.

    At 64/256 an attacker can paint almost any picture. A Shield that stands there has learned to lead short attacks
    astray, in training and in the look alike; longer or other ones would break it. What counts is what passes: where
    some images of the class are extreme, as of severe disease, attacked ones need not rank above these.
    """
    passing, area = seen.get(f"passing_{WATCHED_EPS[-1]}"), seen[f"auroc_{WATCHED_EPS[-1]}"]
    masked = area > MASKED if passing is None else passing < PASSES
    return None if masked else seen[f"auroc_{WATCHED_EPS[-2]}"]


def reached(seen: Mapping[str, float]) -> str:
    """What a look saw, in words; nothing where it was no look at robustness."""
    areas = [seen.get(f"auroc_{eps}") for eps in WATCHED_EPS]
    if None in areas:
        return ""
    shown = " / ".join(f"{area:.2f}" for area in areas)
    return f"AUROC {shown} under attack at {' / '.join(map(str, WATCHED_EPS))} of 256"


class ShieldFacts(BaseModel):
    """What a guard's manifest says of the training of one Shield; fields that older guards lack are None.

    Attributes:
        history: the looks, each with its "update".
        updates: how many were made; kept: the update whose weights are the Shield's.
        seconds: that they took.
    """

    history: list[dict[str, float]] = []
    updates: int | None = None
    kept: int | None = None
    seconds: float = 0.0

    @property
    def last(self) -> int:
        """The last update."""
        return self.updates or (int(self.history[-1].get("update", 0)) if self.history else 0)

    @property
    def look(self) -> dict[str, float] | None:
        """The look at what was kept: the last one where nothing else is said, None where there was none."""
        mine = [seen for seen in self.history if self.kept in (None, seen.get("update"))]
        return mine[-1] if mine else None


def shield_facts(training: Mapping[str, Any]) -> dict[str, ShieldFacts] | None:
    """By class; None where the manifest's record cannot be read."""
    try:
        return {str(name): ShieldFacts.model_validate(told) for name, told in training.get("shields", {}).items()}
    except (ValidationError, AttributeError):
        return None


def unfinished(training: Mapping[str, Any]) -> list[str]:
    """Why a guard's Shields are not finished, a sentence each; empty where they are, or where nothing is known.

    Training ends itself where gradients mask: what is kept learned less than was asked for.
    """
    facts, config = shield_facts(training), training.get("config")
    planned = config.get("updates") if isinstance(config, dict) else None
    if facts is None:
        return ["the record of their training cannot be read"]
    found = []
    for name, shield in facts.items():
        look = shield.look
        masked = look is not None and reached(look) and soundness(look) is None
        if shield.history and isinstance(planned, int) and shield.last < planned:
            kept = f", kept is the one of update {shield.kept}" if shield.kept else ""
            found.append(
                f"{name}: its training ended itself at update {shield.last} of {planned}, gradients mask{kept}"
            )
        elif masked:
            found.append(f"{name}: its gradients mask, even an attack at {WATCHED_EPS[-1]}/256 does not get through")
    return found
