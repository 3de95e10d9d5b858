"""The evaluation format on disk: the one definition that the evaluation writes by and the report reads by.

These models are evaluation.json; the arrays beside it are described in `archive`. Shares are in [0, 1]; null means "not
measured", never zero.
"""

from __future__ import annotations

from collections import Counter
from datetime import datetime
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from medaegis.images.sources import Grouping
from medaegis.validation import PictureSize


def _ordered(bounds: tuple[float, float]) -> tuple[float, float]:
    if bounds[0] > bounds[1]:
        raise ValueError(f"an interval's low end {bounds[0]} is above its high end {bounds[1]}")
    return bounds


Share = Annotated[float, Field(ge=0, le=1)]
Bounds = Annotated[tuple[Share, Share], AfterValidator(_ordered)]
Amount = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=0)]
Norm = Literal["Linf", "L2"]
Scalar = str | bool | int | float | None
Setting = Scalar | list[Scalar]


class Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class GuardFacts(Model):
    """What was protected: the guard folder's own description.

    unfinished: what its manifest says against its Shields' training, a sentence each. pooled: classes with too few
    clean images for a threshold of their own. calibrated_from: digest of the guard that it is, but for the thresholds,
    which were set anew at a site; empty where they are those of the fit.
    """

    digest: str
    classes: list[str] = Field(min_length=2)
    backbone: str
    size: PictureSize
    channels: Literal["gray", "rgb"]
    cushion: str
    taps: list[str]
    tnr_target: Annotated[float, Field(gt=0, le=1)]
    thresholds: dict[str, float]
    recipe: dict[str, Setting] = {}
    training: dict[str, Setting] = {}
    unfinished: list[str] = []
    pooled: list[str] = []
    calibrated_from: str = ""


class SurrogateFacts(Model):
    """A classifier that an attacker without knowledge attacked instead; weights: SHA-256 of its network."""

    backbone: str
    weights: str


class DataFacts(Model):
    """The images the figures were measured on; counts are per class.

    site: whether they are of the data that the guard was fitted on, or of another site. left_out: images of a site that
    the guard learned from or was calibrated on, or of the same patients. note: what cannot be told of that.
    """

    spec: str
    split: str
    split_by: Grouping
    n: Count
    counts: dict[str, Count]
    site: Literal["of the fit", "another"] = "of the fit"
    left_out: Count = 0
    note: str = ""


class CleanResult(Model):
    """Images nobody attacked.

    tnr_reached: share of all of them that the guard accepts. wrong: how many the classifier diagnoses wrongly;
    wrong_rejected: share of those that the guard rejects; accuracy_accepted: of the accepted diagnoses. intervals: by
    field name.
    """

    n: Count
    wrong: Count | None = None
    wrong_rejected: Share | None = None
    accuracy: Share | None = None
    accuracy_accepted: Share | None = None
    accuracy_without_cushion: Share | None = None
    auroc: Share | None = None
    sensitivity: Share | None = None
    specificity: Share | None = None
    ece: Share | None = None
    tnr_reached: Share | None = None
    tnr_by_class: dict[str, Share | None] = {}
    tnr_by_class_intervals: dict[str, Bounds] = {}
    intervals: dict[str, Bounds] = {}


class ClassResult(Model):
    """A cell's figures over the attacked images of one true class; intervals as in `Cell`."""

    n: Count
    success: Share | None = None
    auroc: Share | None = None
    auroc_interval: Bounds | None = None
    undetected: Share | None = None
    undetected_interval: Bounds | None = None


class JudgedImage(Model):
    """What the guard said to one image; score is null where it could not be computed, which withholds the diagnosis."""

    predicted: str
    accepted: bool
    score: float | None = None


class Example(Model):
    """One image of a cell, in the order of its pixels in examples.safetensors."""

    name: str
    label: str
    clean: JudgedImage
    adversarial: JudgedImage


class Cell(Model):
    """One attack at one eps. Intervals are of 95 %, by patient (`metrics.share_interval` and `auroc_interval`).

    n: attacked images, those diagnosed rightly when clean. success: share whose diagnosis the attack turns wrong behind
    the Cushion, to any. undetected: wrong and accepted. robust_accuracy: share whose clean image is diagnosed
    rightly and accepted, and whose attacked image is no undetected success (Tramèr 2022). access: "no-box" where the
    images were made on surrogates; then gradient is null, and passes are those through the surrogates. samples: draws
    of a random Cushion that each step averaged over (if it was not left out). auroc: clean images that are diagnosed
    rightly against all attacked ones (HFC section 5.1 drops misclassified images too); auroc_fooling: against those
    alone that fool the classifier; auroc_wanted: against all of them, each judged by the Shield of the class that the
    attacker wants, whatever the classifier says. tprXX: share of attacked images withheld at XX % TNR over the same
    clean images. eps is in pixel units, for L2 the root mean square. examples: the attacker's best first, that is
    undetected, then fooling, then other images.
    """

    id: str = Field(pattern=r"^[^/\s]+$")
    attack: str
    title: str
    access: str
    adaptive: bool
    eps: Amount
    eps_text: str
    norm: Norm = "Linf"
    steps: Count
    restarts: Count
    gradient: str | None = None
    samples: Count = 1
    n: Count
    success: Share | None = None
    success_on_classifier: Share | None = None
    auroc: Share | None = None
    auroc_interval: Bounds | None = None
    auroc_fooling: Share | None = None
    auroc_wanted: Share | None = None
    tpr90: Share | None = None
    tpr95: Share | None = None
    tpr99: Share | None = None
    undetected: Share | None = None
    undetected_interval: Bounds | None = None
    robust_accuracy: Share | None = None
    robust_accuracy_interval: Bounds | None = None
    seconds: Amount | None = None
    forwards: Count | None = None
    backwards: Count | None = None
    seed: int | None = None
    by_class: dict[str, ClassResult] = {}
    examples: list[Example] = []


Attacker = Literal["anyone", "knows the guard", "knows the classifier", "asks and sees answers", "knows neither"]


class Further(Model):
    """What a control or alarm tried beyond the plan: n of the attacked images; it broke `more` than all cells."""

    check: str
    n: Count
    more: Count


Confusion = dict[str, list[Count]]
"""By true class: how many images were given out as each class, in the guard's order; last, how many were withheld."""


class Missed(Model):
    """Attacked images of any class but the healthy one: the share that is accepted as healthy."""

    n: Count
    share: Share
    interval: Bounds


class WorstCase(Model):
    """Within one eps, for each image the strongest result over all cells of an attacker, by default over all cells: of
    whatever norm or eps, if the attacked image lies in this ball by its pixels.

    auroc: an image counts with its lowest score among those that fool the classifier, or, where none does, among those
        of cells at just this eps.
    auroc_wanted: with its lowest score by the Shield of the class that the attacker wants.
    further: what checks tried, on these images and no others; what they broke counts. An attacker of whom there is no
        cell was tried by checks alone, and has no figures.
    unguarded: share of the same images that some attack of the plan turns, within this eps and norm, on the classifier
        without Cushion and Shield.
    missed: diseased images accepted as healthy after any attack.
    confusion: of all chosen images after the worst that any attack did to each: wrong and accepted (as healthy, where
        some attack did that), else withheld, else right. Images that were diagnosed wrongly from the start stay so.
    """

    attacker: Attacker = "anyone"
    eps: Amount
    eps_text: str
    norm: Norm = "Linf"
    n: Count
    auroc: Share | None = None
    auroc_interval: Bounds | None = None
    auroc_wanted: Share | None = None
    undetected: Share | None = None
    undetected_interval: Bounds | None = None
    robust_accuracy: Share | None = None
    robust_accuracy_interval: Bounds | None = None
    unguarded: Share | None = None
    unguarded_interval: Bounds | None = None
    missed: Missed | None = None
    confusion: Confusion = {}
    further: list[Further] = []


class Cascaded(Model):
    """How many of more images any attack breaks within one eps: each is left alone once it is broken.

    n: images diagnosed rightly, those that have figures of their own among them; share: of them that some attack of the
    plan, or of a check, breaks, of whatever norm or eps, if the attacked image lies in this ball by its pixels.

    checked: images that every attack was run on, of which none was broken at a smaller eps only, so that the others
    were not attacked at an eps below one at which they held. 0: each was attacked at every eps until it was broken.
    """

    eps: Amount
    eps_text: str
    norm: Norm
    n: Count
    share: Share
    interval: Bounds
    checked: Count = 0


class Corrupted(Model):
    """A harmless change at one severity, on images that nobody attacked; or those images as they are ("clean", 0).

    amount: what `parameter` says, of this severity. accuracy: share diagnosed rightly, accepted or not; accepted: by
    the guard; auroc: of the diagnosis among the n_accepted accepted images, null where a class has none of them. One
    image is kept in examples.safetensors: "corruptions/clean" `(1, C, H, W)`, "corruptions/<name>" `(5, C, H, W)`.
    """

    name: str = Field(pattern=r"^[^/\s]+$")
    title: str
    group: str
    parameter: str
    severity: Annotated[int, Field(ge=0, le=5)]
    amount: float | None = None
    n: Count
    accuracy: Share
    accuracy_interval: Bounds
    accepted: Share
    accepted_interval: Bounds
    n_accepted: Count
    auroc: Share | None = None
    auroc_interval: Bounds | None = None


class Through(Model):
    """An image that got through in L-infinity: the smallest eps of a worst case that it counts in, and the least
    suspicious of the attacked images there.

    title: of the attack; cell: where it is of the plan, else null, and check names the control or alarm that ran it.
    Its pixels have the same row in "through/clean" and "through/adversarial" of examples.safetensors.
    """

    cell: str | None
    check: str = ""
    title: str
    eps: Amount
    eps_text: str
    example: Example


class Judged(Model):
    """How a check that compares shares was judged (see `medaegis.bench.checks.exact`).

    test: against its claim; n: images, of the comparison that has fewest; p: of the weakest of so many comparisons,
    times their number; at `level` and below the check fails.
    """

    test: str
    n: Count
    p: Share
    level: Share
    comparisons: Annotated[int, Field(ge=1)] = 1


class Control(Model):
    """A check on the evaluation itself; passed is null where it was not judged, or not measured.

    kind: a control must come out right in every evaluation; an alarm that did not pass is a sign of masked gradients.
    judged: by which test, where shares are compared; not passed and not failed are too few images to tell.
    """

    kind: Literal["control", "alarm"] = "control"
    name: str
    expectation: str
    measured: str
    passed: bool | None
    detail: str = ""
    judged: Judged | None = None


class Measured(Model):
    """Where figures come from."""

    created: datetime
    seed: int
    versions: dict[str, str | None]
    machine: dict[str, Scalar]
    device: str = "cpu"
    command: str
    commit: str | None


class Evaluation(Measured):
    """The whole of evaluation.json. healthy: the class that no disease is; healthy_told: whether somebody said so, else
    it is the first. confusion: of the chosen images before any attack.
    """

    format: Literal["medaegis-evaluation"] = "medaegis-evaluation"
    version: Literal[2] = 2
    seconds: Amount
    threat_model: str
    guard: GuardFacts
    surrogates: list[SurrogateFacts] = []
    data: DataFacts
    clean: CleanResult
    cells: list[Cell]
    worst_case: list[WorstCase]
    by_attacker: list[WorstCase] = []
    cascade: list[Cascaded] = []
    corruptions: list[Corrupted] = []
    through: list[Through] = []
    healthy: str = ""
    healthy_told: bool = False
    confusion: Confusion = {}
    controls: list[Control]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        classes = set(self.guard.classes)
        repeated = [name for name, times in Counter(cell.id for cell in self.cells).items() if times > 1]
        if repeated:
            raise ValueError(f"cells: the id {repeated[0]!r} occurs more than once")
        if missing := sorted(classes - set(self.guard.thresholds)):
            raise ValueError(f"guard.thresholds: no threshold for the classes {missing}")
        named = {*self.guard.thresholds, *self.data.counts, *self.clean.tnr_by_class}
        named.update(name for cell in self.cells for name in cell.by_class)
        if foreign := sorted(named - classes):
            raise ValueError(f"the classes {foreign} are not among guard.classes {sorted(classes)}")
        matrices = [self.confusion, *(row.confusion for row in [*self.worst_case, *self.by_attacker])]
        for matrix in filter(None, matrices):
            if set(matrix) != classes or any(len(counts) != len(classes) + 1 for counts in matrix.values()):
                raise ValueError(f"confusion: not a row for each class of {sorted(classes)}, each with one count more")
        if self.healthy and self.healthy not in classes:
            raise ValueError(f"healthy: {self.healthy!r} is not among guard.classes {sorted(classes)}")
        if unknown := sorted({one.cell for one in self.through if one.cell} - {cell.id for cell in self.cells}):
            raise ValueError(f"through: there is no cell {unknown[0]!r}")
        return self
