"""How robust a classifier is that nothing guards: attacks at every eps, and the worst case of each image over them all.

Robust accuracy as in RobustBench (Croce 2021): of an image that is diagnosed rightly and stays so under every attack.
All verdicts are float32, on 8-bit images.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from medaegis.attacks.balls import LEVELS, check_eps
from medaegis.attacks.catalogue import CATALOGUE, find_attack
from medaegis.attacks.choices import generator
from medaegis.attacks.ensemble import Ensemble
from medaegis.attacks.known import Known
from medaegis.bench.bare import Bare, Pictures, check_attacks
from medaegis.bench.checks.classifier import run_checks
from medaegis.bench.metrics import share_interval
from medaegis.bench.outcome import Outcomes, further, within
from medaegis.bench.plan import Planned, norm_of
from medaegis.bench.records.archive import provenance, replace_file, write_record
from medaegis.bench.records.assessment import (
    SMALLEST,
    Assessment,
    ClassifierWorstCase,
    Proportion,
    Standing,
    Tried,
    markdown,
)
from medaegis.bench.report.robustness import robustness_figure
from medaegis.bench.sample import check_images, data_facts, draw
from medaegis.bench.store import Piece, Store
from medaegis.cushions import Gradient, parse_cushion
from medaegis.errors import ConfigError, DataError
from medaegis.images.datasets import Dataset
from medaegis.images.splits import Split
from medaegis.models.classifier import Classifier
from medaegis.progress import Meter, Progress, Resumed, silent

ATTACKS = ("fgsm", "bim", "pgd", "mim", "cw-linf", "pgd-l2", "deepfool", "cw-l2", "auto")
EVERYTHING = 1.0  # eps of an attack that looks for the smallest change: the ball holds every image
SHUFFLE = -3  # in the place of a restart: the random numbers of an image's shuffled change


def plan_assessment(
    attacks: Sequence[str],
    eps: Sequence[tuple[str, float]],
    *,
    steps: int | None = None,
    queries: int | None = None,
    gradients: Sequence[Gradient] = ("bpda",),
    samples: int = 1,
) -> list[Planned]:
    """Every attack at every eps by every way through the Cushion; those that look for the smallest change at one eps.

    Args:
        steps: of the iterated attacks by gradients within an eps; None: their own.
        queries: of the attacks that see answers alone, and the most that any attack of an ensemble takes; None: their
            own.
        gradients: ways through the Cushion; attacks that see answers alone have none and are run once.
        samples: draws of a random Cushion that each step averages over; attacks that see answers alone get one a query.

    Raises:
        ConfigError: no attack, no eps or no way, one twice, an eps below a grey level.
    """
    sizes = [value for _, value in eps]
    for what, given in (("attacks", list(attacks)), ("eps", sizes), ("gradient", list(gradients))):
        if not given or len(set(given)) != len(given):
            raise ConfigError(what, "none, or one twice", "name at least one, each once")
    for text, value in eps:
        check_eps(text, value)
    cells = []
    for name in attacks:
        entry = find_attack(name)
        blind = entry.access == "black-box"
        if blind or isinstance(entry.attack, Ensemble):
            length = queries
        else:
            length = None if entry.minimal or entry.attack.steps == 1 else steps
        sizes_of = [(SMALLEST, EVERYTHING)] if entry.minimal else eps
        cells += [
            Planned(name, value, text, steps=length, gradient=way, samples=1 if blind else samples)
            for way in (gradients[:1] if blind else gradients)
            for text, value in sizes_of
        ]
    return cells


def every_attack(classes: int) -> list[str]:
    """Names of all attacks that can be aimed at a classifier alone, of so many classes."""
    return [name for name, entry in CATALOGUE.items() if not entry.adaptive and entry.classes <= classes]


def assess_classifier(
    classifier: Classifier,
    dataset: Dataset,
    split: Split,
    *,
    cells: Sequence[Planned],
    eps: Sequence[tuple[str, float]],
    out_dir: Path,
    cushion: str = "none",
    targeted: bool = False,
    limit: int | None = None,
    seed: int = 0,
    command: str = "",
    progress: Progress = silent,
) -> Assessment:
    """Attack, count and check; writes assessment.json, assessment.md and robust-accuracy.svg and .png into `out_dir`.

    Called again after a kill it goes on where it was: attacked images are stored chunk by chunk.

    Args:
        cells: of `plan_assessment`.
        eps: as text and in pixel units; the worst case is taken at each, over all cells.
        cushion: filter in front of the classifier, which the attacker knows; of a random one each image gets a draw
            that he does not know.
        targeted: only a wrong class drawn for each image counts as success; else any.
        limit: at most so many test images, classes in proportion.

    Raises:
        ConfigError: an attack that needs a Shield or more classes, a limit below 1, an unknown Cushion.
        DataError: the images are not of the classifier's kind, or none is diagnosed rightly.
    """
    started = time.perf_counter()
    check_attacks(dict.fromkeys(cell.attack for cell in cells), len(classifier.classes))
    check_images(classifier, dataset, split, limit, "classifier")
    filtering = parse_cushion(cushion)
    test = dataset.subset(split.adv_test)
    about = provenance(seed, command)  # of the code that runs, whatever is committed meanwhile
    progress = Resumed(progress)
    store = Store(out_dir / "pieces", progress.begin)
    known = Known(dataset.subset([*split.train, *split.adv_train]), seed=seed)
    bare = Bare(classifier, filtering, known, seed, store)
    chosen = draw(test.labels, limit, seed)
    right = bare.judge(test.pixels(chosen), test.ids[chosen]).predicted == test.labels[chosen]
    if not right.any():
        raise DataError(dataset.spec, "no test image is diagnosed rightly, so none can be attacked", "train longer")
    pictures = Pictures.of(test, chosen[right], seed)
    patients = [test.patients[i] for i in chosen.tolist()]
    count = _Count(test.labels[chosen], patients, right, classifier.classes)
    meter = Meter(progress, sum(cell.value.steps for cell in cells))
    outcomes = []
    for planned in cells:
        told = meter.part(planned.value.steps, planned.id)
        piece = bare.attack(
            planned.value, pictures, planned.eps, targeted=targeted, gradient=planned.gradient, progress=told
        )
        outcomes.append((planned, piece))
    controls, more = run_checks(bare, pictures, outcomes, targeted, progress)
    found = Assessment(
        **about,
        seconds=time.perf_counter() - started + store.spent_before,
        classifier=str(bare.key["classifier"]),
        classes=list(classifier.classes),
        backbone=classifier.backbone,
        size=classifier.size,
        channels=classifier.channels,
        cushion=filtering.spec,
        targeted=targeted,
        data=data_facts(test, split),
        chosen=len(chosen),
        attacked=len(pictures),
        clean=count.standing(torch.zeros(len(pictures), dtype=torch.bool)),
        worst_case=_worst_cases([*outcomes, *more], pictures, eps, count),
        attacks=[_tried(bare, planned, piece, pictures, count) for planned, piece in outcomes],
        controls=controls,
    )
    drawn = robustness_figure(found)
    replace_file(out_dir / "robust-accuracy.svg", drawn.svg)
    replace_file(out_dir / "robust-accuracy.png", drawn.png)
    replace_file(out_dir / "assessment.md", markdown(found).encode())
    write_record(out_dir / "assessment.json", found)
    return found


@dataclass(frozen=True)
class _Count:
    """The chosen images: their classes and patients, and which are diagnosed rightly when clean; those, in order, are
    attacked.
    """

    labels: Tensor
    patients: Sequence[str]
    right: Tensor
    classes: Sequence[str]

    def standing(self, broken: Tensor) -> Standing:
        """What is left when the attacked images `broken`, bool `(N,)`, are lost."""
        safe = self.right.clone()
        safe[self.right] = ~broken
        of_class = [self.labels == k for k in range(len(self.classes))]
        recall = {name: self._of(safe, rows) for name, rows in zip(self.classes, of_class, strict=True)}
        return Standing(accuracy=self._of(safe, torch.ones_like(safe)), recall=recall)

    def _of(self, hits: Tensor, rows: Tensor) -> Proportion:
        """Share of these rows, both bool over the chosen images."""
        patients = [patient for patient, counts in zip(self.patients, rows.tolist(), strict=True) if counts]
        return proportion(hits[rows], patients)


def proportion(hits: Tensor, patients: Sequence[str]) -> Proportion:
    """Share of true ones in `(N,)`, its interval by patient."""
    if not len(hits):
        return Proportion(n=0, share=None, interval=None)
    found = share_interval(hits, patients)
    return Proportion(n=len(hits), share=found.value, interval=(found.low, found.high))


def _worst_cases(
    outcomes: Outcomes, pictures: Pictures, eps: Sequence[tuple[str, float]], count: _Count
) -> list[ClassifierWorstCase]:
    """At each eps, in each norm that was attacked in."""
    found = []
    for ball in {planned.value.ball.name: planned.value.ball for planned, _ in outcomes}.values():
        for text, value in sorted(eps, key=lambda pair: pair[1]):
            inside = torch.stack([within(piece, pictures.pixels, ball, value) for _, piece in outcomes])
            fooled = torch.stack([piece["fooled"] for _, piece in outcomes]) & inside
            broken = fooled.any(0)
            standing = count.standing(broken)
            found.append(
                ClassifierWorstCase(
                    accuracy=standing.accuracy,
                    recall=standing.recall,
                    eps=value,
                    eps_text=text,
                    norm="L2" if ball.name == "l2" else "Linf",
                    success=proportion(broken, pictures.patients),
                    further=further(outcomes, inside, fooled),
                )
            )
    return found


def _tried(bare: Bare, planned: Planned, piece: Piece, pictures: Pictures, count: _Count) -> Tried:
    entry, fooled = find_attack(planned.attack), piece["fooled"]
    change = piece["images"].float() / LEVELS - pictures.pixels
    turned = change[fooled]
    seconds, forwards, backwards = (piece["cost"].sum(0) / len(pictures)).tolist()
    noise = bare.judge(shuffled(pictures, change, bare.seed), pictures.ids).predicted != pictures.labels
    return Tried(
        attack=planned.attack,
        title=entry.title,
        access=entry.access,
        eps=None if entry.minimal else planned.eps,
        eps_text=planned.eps_text,
        norm=norm_of(planned),
        steps=planned.value.steps,
        restarts=planned.value.restarts,
        gradient=None if entry.access == "black-box" else planned.gradient,
        samples=planned.samples,
        success=proportion(fooled, pictures.patients),
        robust_accuracy=count.standing(fooled).accuracy,
        noise=proportion(noise, pictures.patients),
        linf=_median(turned.abs().amax((1, 2, 3))),
        l2=_median(turned.flatten(1).norm(dim=1)),
        l0=_median((turned != 0).any(1).sum((1, 2))),
        forwards=forwards,
        backwards=backwards,
        seconds=seconds,
    )


def _median(values: Tensor) -> float | None:
    return float(values.double().quantile(0.5)) if len(values) else None


def shuffled(pictures: Pictures, change: Tensor, seed: int) -> Tensor:
    """The images under their changes `(N, C, H, W)`, the pixels of each change put elsewhere: as large, but blind."""
    moved = []
    for one, i in zip(change.flatten(2), pictures.ids.tolist(), strict=True):
        moved.append(one[:, torch.randperm(one.shape[1], generator=generator(seed, i, SHUFFLE))])
    blind = pictures.pixels + torch.stack(moved).view_as(change)
    return (blind.clamp(0, 1) * LEVELS).round() / LEVELS
