"""A certificate of a smoothed guard on disk: the definition of certificate.json.

How its radii are got: `medaegis.bench.radius`. Radii are L2 distances in units of full brightness.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from medaegis.bench.records.assessment import Proportion
from medaegis.bench.records.evaluation import Amount, Count, DataFacts, GuardFacts, Measured, Model, Share

RECORD, PAGE = "certificate.json", "certificate.html"


class NoisyThreshold(Model):
    """Where a class's scale of suspicion lies under noise: (centre - logit) / scale is 1 at the threshold. images: in
    noisy copies predicted as the class; own: whether they set it alone."""

    centre: float
    scale: Annotated[float, Field(gt=0)]
    images: Count
    own: bool


class CertifiedImage(Model):
    """One image. samples: noisy copies that were asked about; accepted: how many of them as each class, in the guard's
    order; predicted: how many the classifier alone took for each. no_harm: within this radius the smoothed guard gives
    no wrong diagnosis; right: within it, it gives the right one; null where not even at the image itself. plain: both
    of the smoothed classifier alone, on the same copies."""

    name: str
    label: str
    samples: Count
    accepted: list[Count]
    predicted: list[Count]
    no_harm: Amount | None
    right: Amount | None
    plain_no_harm: Amount | None
    plain_right: Amount | None


class CertifiedShare(Model):
    """The share of the images that is certified at a radius; 0: the image itself. linf: the largest change of every
    value at once that stays within it. within_reach: whether so many samples could certify it at all."""

    radius: Amount
    linf: Amount
    within_reach: bool
    no_harm: Proportion
    right: Proportion
    plain_no_harm: Proportion
    plain_right: Proportion


class AttackedImage(Model):
    """An attack on the smoothed guard, towards the wrong diagnosis that noise brings nearest: `wanted`.

    radius: that of no harm; distance: of the attacked 8-bit image. before, after: share of noisy copies accepted as
    wanted, of the clean and of the attacked image; allowed: the most that the theorem allows at that distance. broken:
    some wrong diagnosis is given for sure; exceeded: the share is above what is allowed for sure. after_farther and
    broken_farther: of the same attack with a multiple of the radius, for which nothing is promised.
    """

    name: str
    label: str
    wanted: str
    radius: Amount
    distance: Amount
    before: Share
    after: Share
    allowed: Share
    broken: bool
    exceeded: bool
    after_farther: Share
    broken_farther: bool


class AttackCheck(Model):
    """Attacks within the certified radii. steps: of the walk; draws: of the noise that each step averages over; asked:
    noisy copies that judge an attacked image; farther: the multiple of the radius."""

    steps: Count
    draws: Count
    asked: Count
    farther: Amount
    images: list[AttackedImage]

    @property
    def broken(self) -> int:
        """Images that break the certificate: none may."""
        return sum(one.broken or one.exceeded for one in self.images)

    @property
    def broken_farther(self) -> int:
        return sum(one.broken_farther for one in self.images)


class Certificate(Measured):
    """The whole of certificate.json.

    stages: noisy copies asked at the end of each; alpha: chance at most that a radius told of one image is not so;
    level: of each bound; drift: added to each for what the drawn noise may differ from a normal one; reach: the largest
    radius that so many samples can certify. thresholds: of the smoothed guard, by class; empty where they are those of
    the guard. val: images that set them. noisy_accepted and noisy_accuracy: of the noisy copies of the first stage, the
    share that is accepted, and that the classifier takes for the right class. copies: asked about in all. given_wrong
    and plain_wrong: images that are given a wrong diagnosis for sure, without any attack.
    """

    format: Literal["medaegis-certificate"] = "medaegis-certificate"
    version: Literal[1] = 1
    seconds: Amount
    guard: GuardFacts
    data: DataFacts
    sigma: Annotated[float, Field(gt=0)]
    samples: Count
    stages: list[Count]
    alpha: Share
    level: Share
    drift: Amount
    reach: Amount
    thresholds: dict[str, NoisyThreshold]
    val: Count
    n: Count
    copies: Count
    noisy_accepted: Share
    noisy_accuracy: Share
    given_wrong: Proportion
    plain_wrong: Proportion
    shares: list[CertifiedShare] = Field(min_length=2)
    images: list[CertifiedImage]
    attacks: AttackCheck | None = None
