"""An assessment of a classifier on disk: the definition of assessment.json, and the same figures as Markdown tables."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from medaegis.bench.records.archive import read_record
from medaegis.bench.records.evaluation import (
    Amount,
    Bounds,
    Cascaded,
    Control,
    Count,
    DataFacts,
    Further,
    Measured,
    Model,
    Norm,
    Share,
    SurrogateFacts,
)
from medaegis.bench.records.quality import Quality
from medaegis.bench.report.markdown import cascade_tables, controls_table, table
from medaegis.bench.report.quality import ABOUT, HEADS, LEADING, findings_tables, leading, quality_cells, told_mean
from medaegis.bench.report.words import (
    NOT_MEASURED,
    beyond,
    capital,
    count,
    decimal,
    duration,
    eps_name,
    gradient_name,
    percent,
    percent_range,
)
from medaegis.errors import DataError
from medaegis.sizes import told_size
from medaegis.task import TaskName
from medaegis.validation import PictureSize

SMALLEST = "smallest"  # written for the eps of attacks that look for the smallest change
Measure = Literal["Linf", "L2", "L0"]


class Proportion(Model):
    """A share of n images, with its Wilson interval of 95 % by patient (`share_interval`); null of none."""

    n: Count
    share: Share | None
    interval: Bounds | None


# Written only where there is any, so that the records of others are what they were.
LATER: dict[str, object] = {"quality": None, "noise_quality": None, "task": "single", "surrogates": [], "no_box": []}


class Extended(Model):
    """One to which fields were added, for other tasks than one class an image and for surrogates (`LATER`)."""

    @model_serializer(mode="wrap")
    def _told(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        told: dict[str, Any] = write(self)
        return {name: value for name, value in told.items() if name not in LATER or value != LATER[name]}


class Standing(Extended):
    """Right diagnoses of the chosen images. recall: by true class; of two, the second's is the sensitivity, the first's
    the specificity. Of findings: of the images that have one, where it is found (and the whole is right where every
    finding is); of masks there is none (and one is right from a Dice of 0.7 on). quality: of findings and masks."""

    accuracy: Proportion
    recall: dict[str, Proportion]
    quality: Quality | None = None


class ClassifierWorstCase(Standing):
    """The same with each image as the strongest attack leaves it: wrong if any attack, of whatever norm or eps, made it
    wrong within this ball. success: share of the attacked images that are, of those that were right from the start.
    further: what checks tried on few of them, and turned, which counts. quality: of each image as the attack leaves it
    that leaves least, or untouched, each figure by itself; of the logit of each finding the one farthest from right."""

    eps: Amount
    eps_text: str
    norm: Norm
    success: Proportion
    further: list[Further]


class Tried(Extended):
    """One attack at one eps, on images diagnosed rightly when clean, towards any wrong class or, if targeted, towards
    one drawn for each image, which alone counts. Of findings and masks all chosen images are attacked, and success and
    medians are over those that were right when clean.

    eps: in pixel units, for L2 the root mean square; null: the attack looks for the smallest change. robust_accuracy:
    of all chosen images, those diagnosed wrongly from the start counted as lost. noise: share turned by the attack's
    own changes with their pixels shuffled, which are as large in every norm. Medians over the images turned, null
    where there is none: linf and l2 (Euclidean length) in pixel units, l0 in pixels, ssim and psnr (decibels) beside
    the clean image (`bench/similarity`). Passes and seconds are per image; verdicts are not counted among the passes.
    gradient: way through the Cushion, null where answers alone are seen, and where access is "no-box": made on the
    surrogates, and passes are those through them.
    samples: draws of a random Cushion that a step averages over. quality: of findings and masks; noise_quality: the
    same under the shuffled changes.
    """

    attack: str
    title: str
    access: str
    eps: Amount | None
    eps_text: str
    norm: Norm
    steps: Count
    restarts: Count
    gradient: str | None = "bpda"
    samples: Count = 1
    success: Proportion
    robust_accuracy: Proportion
    noise: Proportion
    quality: Quality | None = None
    noise_quality: Quality | None = None
    linf: Amount | None
    l2: Amount | None
    l0: Amount | None
    ssim: Annotated[float, Field(ge=-1, le=1)] | None = None
    psnr: Amount | None = None
    forwards: Amount
    backwards: Amount
    seconds: Amount


class Strength(Model):
    """How near to the clean images one attack comes, over all its eps (`bench/strength`).

    turned: of the n attacked images. norm: what its changes are measured by; L0: the number of pixels, of attacks that
    change few. smallest: of the smallest changes it found the median over the images turned, L-infinity and L2
    (Euclidean length) in pixel units; best: of the smallest that any attack measured so found, over the same images.
    optimality: 1 where it found the best of each image (AttackBench); null where all these are the same. passes:
    forwards and backwards per image, over all its eps. gradient: way through the Cushion.
    """

    attack: str
    gradient: str | None
    norm: Measure
    n: Count
    turned: Count
    smallest: Amount | None
    best: Amount | None
    optimality: Share | None
    passes: Amount


class Assessment(Extended, Measured):
    """The whole of assessment.json. chosen: test images drawn; attacked: those of them diagnosed rightly, of findings
    and masks all. task: what the labels are. no_box: the worst case over what was made on the surrogates alone; in
    worst_case it counts like all else."""

    format: Literal["medaegis-assessment"] = "medaegis-assessment"
    version: Literal[1] = 1
    seconds: Amount
    classifier: str
    classes: list[str] = Field(min_length=1)
    task: TaskName = "single"
    backbone: str
    size: PictureSize
    channels: Literal["gray", "rgb"]
    cushion: str
    targeted: bool = False
    surrogates: list[SurrogateFacts] = Field(default_factory=list)
    data: DataFacts
    chosen: Count
    attacked: Count
    clean: Standing
    worst_case: list[ClassifierWorstCase]
    no_box: list[ClassifierWorstCase] = Field(default_factory=list)
    cascade: list[Cascaded] = Field(default_factory=list)
    attacks: list[Tried]
    strengths: list[Strength] = Field(default_factory=list)
    controls: list[Control]


def read_assessment(folder: Path) -> Assessment:
    """Reads and checks the record of an assessment folder.

    Raises:
        DataError: names the file and every field that does not fit.
    """
    found = read_record(folder / "assessment.json", Assessment, "assess")
    for standing in (found.clean, *found.worst_case, *found.no_box):
        if set(standing.recall) != set(found.classes):
            problem = f"recall of {sorted(standing.recall)}, and the classes are {sorted(found.classes)}"
            raise DataError(folder / "assessment.json", problem, "write it again with `medaegis assess`")
    return found


def markdown(found: Assessment) -> str:
    """What was measured, how, and the tables."""
    attacked = f"all {found.attacked} images"
    if found.task == "single":
        attacked = f"the {found.attacked} images diagnosed rightly"
    answers = {"clean": found.clean.quality}
    answers |= {eps_name(row.eps_text, row.norm): row.quality for row in found.worst_case}
    parts = [
        _source(found),
        f"![{capital(LEADING[found.task])} over the size of the change](robust-accuracy.svg)",
        "Worst case: each image as the strongest of all attacks leaves it.",
        _worst(found, found.worst_case),
        *findings_tables(answers),
        *_no_box(found),
        *cascade_tables(found.cascade),
        f"Attacks, each on {attacked}, towards {_goal(found)}; an eps of {SMALLEST!r} is of one that looks for the "
        "smallest change, or for few pixels, however far it takes. Noise: the attack's own changes with their pixels "
        "shuffled. Medians are over the images turned; L2 is the Euclidean length in units of full brightness, an eps "
        "in L2 its root mean square per value. Passes and time: per image.",
        _attacks(found),
        *_strengths(found),
        controls_table(found.controls),
    ]
    return "\n\n".join(parts) + "\n"


def _goal(found: Assessment) -> str:
    if found.task != "single":
        return "any wrong answer"
    return "a wrong class drawn for each, which alone counts" if found.targeted else "any wrong class"


def _source(found: Assessment) -> str:
    counts = ", ".join(f"{n} {name}" for name, n in found.data.counts.items())
    behind = "no Cushion" if found.cushion == "none" else f"behind the Cushion {found.cushion}"
    return (
        f"Measured on {found.created:%Y-%m-%d} by `{found.command}`, commit {found.commit or 'unknown'}, seed "
        f"{found.seed}, on {found.machine.get('cpu')} ({found.machine.get('cores')} cores), in "
        f"{duration(found.seconds)}. Data: {found.data.spec}, {found.chosen} of the {found.data.n} images of "
        f"{found.data.split} split by {found.data.split_by} ({counts}). Classifier {found.classifier[:12]}: "
        f"{found.backbone}, {told_size(found.size)} {found.channels}, {behind}. The attacker knows it all. Shares with "
        "their 95 % intervals (Wilson, by patient where patients are known)."
    ) + (f" {ABOUT[found.task]}" if found.task != "single" else "")


def _worst(found: Assessment, cases: Sequence[ClassifierWorstCase]) -> str:
    names = [f"recall {name}" for name in found.classes] if found.task == "single" else []
    if len(names) == 2:
        names = [f"specificity ({found.classes[0]})", f"sensitivity ({found.classes[1]})"]
    told = found.classes if found.task == "single" else []
    rows = [["clean", *quality_cells(found.clean.quality), *_standing(found.clean, told), "", ""]]
    rows += [
        [
            eps_name(worst.eps_text, worst.norm),
            *quality_cells(worst.quality),
            *_standing(worst, told),
            _told(worst.success),
            beyond(worst.further),
        ]
        for worst in cases
    ]
    heads = ("robust accuracy", *names, "success of the attacker", "of it by checks on few images")
    return table(["eps", *HEADS[found.task], *heads], rows)


def _no_box(found: Assessment) -> list[str]:
    if not found.no_box:
        return []
    names = " and ".join(one.backbone for one in found.surrogates)
    who = f"an attacker who knows nothing of the classifier, and attacks {names} in its place (transfer):"
    return [f"Worst case of {who}", _worst(found, found.no_box)]


def _standing(standing: Standing, classes: list[str]) -> list[str]:
    return [_told(standing.accuracy), *(_told(standing.recall[name]) for name in classes)]


def _attacks(found: Assessment) -> str:
    ways = found.cushion != "none"
    heads = (
        *("attack", "eps", "steps", *(["gradient"] if ways else []), *HEADS[found.task]),
        *("n", "success", "robust accuracy", "noise"),
        *("median L∞", "median L2", "median pixels", "SSIM", "PSNR", "forwards", "backwards", "time"),
    )
    return table(heads, [_row(tried, ways) for tried in found.attacks])


def attack_name(tried: Tried) -> str:
    """Of an attack in tables: whether it was made on surrogates."""
    return f"{tried.attack} (transfer)" if tried.access == "no-box" else tried.attack


def _row(tried: Tried, ways: bool) -> list[str]:
    draws = f", {tried.samples} draws" if tried.samples > 1 else ""
    return [
        attack_name(tried),
        eps_name(tried.eps_text, tried.norm),
        f"{tried.steps}" if tried.restarts == 1 else f"{tried.steps} x {tried.restarts}",
        *([f"{gradient_name(tried.gradient)}{draws}"] if ways else []),
        *quality_cells(tried.quality),
        str(tried.success.n),
        _told(tried.success),
        _told(tried.robust_accuracy),
        percent(tried.noise.share)
        if tried.noise_quality is None
        else told_mean(leading(tried.noise_quality), bounds=False),
        size_name(tried.linf, "Linf"),
        size_name(tried.l2, "L2"),
        count(None if tried.l0 is None else round(tried.l0)),
        decimal(tried.ssim),
        NOT_MEASURED if tried.psnr is None else f"{tried.psnr:.1f} dB",
        count(round(tried.forwards)),
        count(round(tried.backwards)),
        duration(tried.seconds),
    ]


def _strengths(found: Assessment) -> list[str]:
    """Nothing of records that were made before this was measured."""
    if not found.strengths:
        return []
    ways = found.cushion != "none"
    rows = [
        [
            one.attack,
            *([gradient_name(one.gradient)] if ways else []),
            one.norm,
            f"{one.turned} of {one.n}",
            size_name(one.smallest, one.norm),
            size_name(one.best, one.norm),
            decimal(one.optimality),
            count(round(one.passes)),
        ]
        for one in found.strengths
    ]
    heads = ("norm", "turned", "smallest change", "best of all attacks", "optimality", "passes")
    return [
        "How good the attacks are, each over all its eps: the median of the smallest changes that turned images, "
        "and of the smallest that any attack in this norm found of the same images (L0: pixels). "
        "Optimality after AttackBench (Cinà et al. 2025): 1 if no attack found a smaller change of any image.",
        table(("attack", *(["gradient"] if ways else []), *heads), rows),
    ]


def size_name(size: float | None, norm: Measure) -> str:
    """The size of a change in words: grey levels, Euclidean length or pixels."""
    if size is None:
        return NOT_MEASURED
    return {"Linf": f"{255 * size:.0f}/255", "L2": f"{size:.2f}", "L0": f"{size:.0f}"}[norm]


def _told(proportion: Proportion) -> str:
    bounds = percent_range(proportion.interval)
    return percent(proportion.share) + (f" ({bounds})" if bounds else "")
