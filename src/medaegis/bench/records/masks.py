"""The evaluation of a guard for masks on disk: the definition of masks.json.

Shares are in [0, 1]; null means "not measured", never zero. Intervals are of 95 %, by patient.
"""

from __future__ import annotations

from typing import Literal

from medaegis.bench.records.evaluation import (
    Amount,
    Bounds,
    Control,
    Count,
    DataFacts,
    GuardFacts,
    Measured,
    Model,
    Share,
)

RECORD = "masks.json"


class CleanMasks(Model):
    """Images nobody attacked. dice: mean; right: share of masks with a Dice from `MaskEvaluation.least` on; accepted:
    of all images, accepted_right: of those with a right mask."""

    n: Count
    dice: Share
    right: Share
    accepted: Share
    accepted_interval: Bounds
    accepted_right: Share | None


class MaskCell(Model):
    """One attack at one eps, on images whose mask is right when clean. dice: mean after the attack; wrong: share of
    masks that are no longer right, without a look at the Shield; undetected: share that are so and are accepted.
    auroc: of the Shield's suspicion, clean images with a right mask against attacked ones with a wrong one; null where
    there is none of these."""

    id: str
    attack: str
    title: str
    adaptive: bool
    eps: Amount
    eps_text: str
    steps: Count
    gradient: str
    n: Count
    dice: Share
    wrong: Share
    undetected: Share
    undetected_interval: Bounds
    auroc: Share | None
    seconds: Amount
    forwards: Count
    backwards: Count


class WorstMasks(Model):
    """Of each image the strongest of all attacks within an eps. wrong: share of images of which any attack makes a
    wrong mask; undetected: any that is accepted; auroc: as of a cell, of each image with a wrong mask the lowest
    suspicion among those; robust: share of all drawn images with a right mask, accepted, that no attack makes harm of.
    """

    eps: Amount
    eps_text: str
    n: Count
    wrong: Share
    undetected: Share
    undetected_interval: Bounds
    auroc: Share | None
    auroc_interval: Bounds | None
    robust: Share
    robust_interval: Bounds


class MaskEvaluation(Measured):
    """The whole of masks.json. least: Dice from which on a mask is right."""

    format: Literal["medaegis-masks"] = "medaegis-masks"
    version: Literal[1] = 1
    seconds: Amount
    threat_model: str
    least: Share
    guard: GuardFacts
    data: DataFacts
    clean: CleanMasks
    cells: list[MaskCell]
    worst_case: list[WorstMasks]
    controls: list[Control]
