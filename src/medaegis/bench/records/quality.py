"""How much of what is said about images is right where that is not one class each, as records keep it."""

from __future__ import annotations

from pydantic import Field

from medaegis.bench.records.evaluation import Bounds, Count, Model, Share

SLIGHT = 0.05  # difference in how far an image is harmed (`quality.measured`) that counts as none
LOST = 0.5  # harm above which an image is lost


class Mean(Model):
    """A mean with its interval of 95 %, by patient (`metrics.mean_interval` and `mean_auroc_interval`), of n images."""

    n: Count
    value: Share
    interval: Bounds


class Quality(Model):
    """Of findings: auroc, the mean of the areas under their ROC curves over those that some images have and some have
    not, aurocs of each (null of the others), right, the mean share of an image's findings that are. Of masks: dice and
    miou, means over the images (over the classes but the background, and over all)."""

    auroc: Mean | None = None
    aurocs: dict[str, Share | None] = Field(default_factory=dict)
    right: Mean | None = None
    dice: Mean | None = None
    miou: Mean | None = None
