"""How robust a classifier is that nothing guards: attacks at every eps, and the worst case of each image over them all.

Robust accuracy as in RobustBench (Croce 2021): of an image that is diagnosed rightly and stays so under every attack.
Of networks for findings and masks it is told how much of each answer is left (`quality`), and all chosen images are
attacked. All verdicts are float32, on 8-bit images.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from medaegis.attacks.balls import LEVELS, Ball
from medaegis.attacks.catalogue import find_attack
from medaegis.attacks.known import Known
from medaegis.attacks.victim import Verdict, Victim
from medaegis.bench.campaign import Campaign, classifier_key
from medaegis.bench.cascade import check_cascade, run_cascade
from medaegis.bench.checks.classifier import run_checks
from medaegis.bench.checks.effort import ON_CLASSIFIER, Effort
from medaegis.bench.metrics import share_interval
from medaegis.bench.outcome import Outcomes, own_ones, pixels_of, transferred_ones
from medaegis.bench.plan import Planned, check_attacks, check_surrogates, norm_of
from medaegis.bench.quality import measured, quality_of, worst
from medaegis.bench.records.archive import provenance, replace_file, write_record
from medaegis.bench.records.assessment import (
    Assessment,
    ClassifierWorstCase,
    Proportion,
    Standing,
    Strength,
    Tried,
    markdown,
)
from medaegis.bench.records.evaluation import Cascaded
from medaegis.bench.report.robustness import robustness_figure
from medaegis.bench.sample import Sample, check_images, data_facts
from medaegis.bench.similarity import psnr, ssim
from medaegis.bench.store import Piece, Store
from medaegis.bench.strength import strengths
from medaegis.bench.surrogates import surrogate_of
from medaegis.bench.worst_case import Reached
from medaegis.cushions import parse_cushion
from medaegis.draws import Draws
from medaegis.errors import ConfigError
from medaegis.images.datasets import Dataset
from medaegis.images.splits import Split
from medaegis.models.classifier import Classifier
from medaegis.progress import Progress, Resumed, silent
from medaegis.task import TaskName

ATTACKS: dict[TaskName, tuple[str, ...]] = {
    "single": ("fgsm", "bim", "pgd", "mim", "cw-linf", "pgd-l2", "deepfool", "cw-l2", "auto"),
    "multi": ("fgsm", "bim", "pgd", "mim", "cw-linf", "apgd-ce", "pgd-l2"),
    "dense": ("fgsm", "pgd", "pgd-dice", "pgd-iou", "cw-linf", "apgd-ce"),
}


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
    cascade: int | None = None,
    surrogates: Sequence[Classifier] = (),
    effort: Effort = ON_CLASSIFIER,
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
        targeted: only a wrong class drawn for each image counts as success; else any. Of one class an image alone.
        limit: at most so many test images, classes in proportion.
        cascade: also tell how many of so many test images any of the attacks turns, each left alone once it is turned.
            Of one class an image alone.
        surrogates: what an attacker attacks who knows nothing of the classifier, through the mean of their logits; he
            makes the cells that are `transferred`.
        effort: of the checks.

    Raises:
        ConfigError: an attack that needs a Shield or more classes, or is for another task, a limit below 1, an unknown
            Cushion; `targeted` or a cascade where an image has no single class; surrogates and no cell made on them, or
            the other way round, or such as do not fit.
        DataError: the images are not of the classifier's kind, or none is diagnosed rightly.
    """
    started = time.perf_counter()
    check_attacks(dict.fromkeys(cell.attack for cell in cells), len(classifier.classes), task=classifier.task.name)
    check_images(classifier, dataset, split, limit, "classifier", task=None)
    for name, asked in (("targeted", targeted), ("cascade", cascade is not None)):
        if asked and classifier.task.name != "single":
            raise ConfigError(
                name, f"is for one class an image, and here it is {classifier.task.title}", "leave it out"
            )
    check_cascade(cascade, limit)
    surrogate = surrogate_of(surrogates, classifier)
    check_surrogates(bool(surrogates), cells)
    filtering = parse_cushion(cushion)
    test = dataset.subset(split.adv_test)
    about = provenance(seed, command, classifier.device)  # of the code that runs, whatever is committed meanwhile
    progress = Resumed(progress)
    store = Store(out_dir / "pieces", progress.begin)
    victim = Victim(classifier, cushion=filtering)

    def judge(images: Tensor, ids: Tensor) -> Verdict:
        return victim.verdicts(images, ids, seed=seed, batch_size=64)

    campaign = Campaign(
        victim,
        Sample.draw(test, judge, limit=limit, seed=seed, everyone=classifier.task.name != "single"),
        store,
        classifier_key(classifier, filtering, seed),
        "drawn class" if targeted else "any wrong class",
        known=Known(dataset.subset([*split.train, *split.adv_train]), seed=seed),
        surrogate=surrogate,
        effort=effort,
    )
    sample = campaign.sample
    outcomes = campaign.run(cells, progress)
    controls, more = run_checks(campaign, outcomes, progress)
    cascaded: list[Cascaded] = []
    if cascade is not None:
        wide = Sample.draw(test, judge, limit=cascade, seed=seed)
        places = [(text, value, ball) for ball in _balls(cells) for text, value in sorted(eps, key=lambda one: one[1])]
        cascaded = run_cascade(campaign, wide, cells, [*outcomes, *more], places, progress)
    count, clean = _Count(sample), measured(classifier.task, sample.clean[sample.rows], sample.labels)
    found = Assessment(
        **about,
        seconds=time.perf_counter() - started + store.spent_before,
        classifier=str(campaign.key["classifier"]),
        classes=list(classifier.classes),
        backbone=classifier.backbone,
        size=classifier.size,
        channels=classifier.channels,
        cushion=filtering.spec,
        task=classifier.task.name,
        targeted=targeted,
        surrogates=[] if surrogate is None else surrogate.facts,
        data=data_facts(test, split),
        chosen=len(sample.chosen),
        attacked=len(sample),
        clean=count.standing(torch.zeros(len(sample), dtype=torch.bool), clean),
        worst_case=_worst_cases([*outcomes, *more], eps, count, clean),
        no_box=_worst_cases(transferred_ones(outcomes), eps, count, clean),
        cascade=cascaded,
        attacks=[_tried(campaign, planned, piece, count) for planned, piece in outcomes],
        strengths=_strengths(campaign, outcomes, more),
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
    """What is left of the chosen images: right from the start, and not lost to attacks."""

    sample: Sample

    def standing(self, broken: Tensor, answers: Piece) -> Standing:
        """What is left when the attacked images `broken`, bool `(N,)`, are lost, and these are the answers about them
        (`measured`).
        """
        chosen, labels, classes = self.sample.chosen, self.sample.test.labels, self.sample.test.classes
        safe = self._safe(broken)
        if self.sample.test.task.name == "single":
            recall = {name: self._of(safe, chosen[labels[chosen] == k]) for k, name in enumerate(classes)}
        else:
            recall = {name: self._found(answers, k) for k, name in enumerate(classes)}
        return Standing(accuracy=self._of(safe, chosen), recall=recall, quality=quality_of(answers, self.sample))

    def accuracy(self, broken: Tensor) -> Proportion:
        """Share of the chosen images that are right and not among these."""
        return self._of(self._safe(broken), self.sample.chosen)

    def turned(self, hits: Tensor) -> Proportion:
        """Share of the attacked images that are, of those that were right from the start."""
        return proportion(hits[self.sample.right], self.sample.patients_of(self.sample.rows[self.sample.right]))

    def _safe(self, broken: Tensor) -> Tensor:
        safe = torch.zeros(len(self.sample.test), dtype=torch.bool)
        safe[self.sample.rows] = self.sample.right & ~broken
        return safe

    def _found(self, answers: Piece, k: int) -> Proportion:
        """Of the images that have a finding those where it is found; of a class of masks nothing is told."""
        if "logits" not in answers:
            return proportion(torch.zeros(0, dtype=torch.bool), [])
        has = self.sample.labels[:, k] == 1
        return proportion(answers["logits"][has, k] > 0, self.sample.patients_of(self.sample.rows[has]))

    def _of(self, safe: Tensor, rows: Tensor) -> Proportion:
        return proportion(safe[rows], self.sample.patients_of(rows))


def proportion(hits: Tensor, patients: Sequence[str]) -> Proportion:
    """Share of true ones in `(N,)`, its interval by patient."""
    if not len(hits):
        return Proportion(n=0, share=None, interval=None)
    found = share_interval(hits, patients)
    return Proportion(n=len(hits), share=found.value, interval=(found.low, found.high))


def _balls(cells: Iterable[Planned]) -> list[Ball]:
    """Those that are attacked in."""
    return list({planned.value.ball.name: planned.value.ball for planned in cells}.values())


def _worst_cases(
    outcomes: Outcomes, eps: Sequence[tuple[str, float]], count: _Count, clean: Piece
) -> list[ClassifierWorstCase]:
    """At each eps, in each norm that was attacked in.

    Args:
        clean: what `measured` gives of the images as they are.
    """
    found, sample = [], count.sample
    for ball in _balls(planned for planned, _ in outcomes):
        for text, value in sorted(eps, key=lambda pair: pair[1]):
            reached = Reached.of(outcomes, sample.pixels, ball, value)
            broken = reached.fooled.any(0)
            left = clean
            if clean:
                inside = torch.cat([torch.ones_like(broken)[None], reached.inside])
                left = worst([clean, *(piece for _, piece in outcomes)], inside, sample.labels)
            standing = count.standing(broken, left)
            found.append(
                ClassifierWorstCase(
                    accuracy=standing.accuracy,
                    recall=standing.recall,
                    quality=standing.quality,
                    eps=value,
                    eps_text=text,
                    norm="L2" if ball.name == "l2" else "Linf",
                    success=count.turned(broken),
                    further=reached.further(),
                )
            )
    return found


def _tried(campaign: Campaign, planned: Planned, piece: Piece, count: _Count) -> Tried:
    entry, fooled, sample = find_attack(planned.attack), piece["fooled"], campaign.sample
    found = pixels_of(piece)
    change = found - sample.pixels
    turned, pair = change[fooled], (found[fooled], sample.pixels[fooled])
    seconds, forwards, backwards = (piece["cost"].sum(0) / len(sample)).tolist()
    blind = campaign.victim.verdicts(shuffled(sample, change), sample.ids, seed=sample.seed, batch_size=64)
    noise = ~sample.test.task.is_right(blind.predicted, sample.labels)
    return Tried(
        attack=planned.attack,
        title=entry.title,
        access=planned.access,
        eps=None if entry.minimal else planned.eps,
        eps_text=planned.eps_text,
        norm=norm_of(planned),
        steps=planned.value.steps,
        restarts=planned.value.restarts,
        gradient=planned.gradient if planned.access == "white-box" else None,
        samples=planned.samples,
        success=count.turned(fooled),
        robust_accuracy=count.accuracy(fooled),
        noise=count.turned(noise),
        quality=quality_of(piece, sample),
        noise_quality=quality_of(measured(sample.test.task, blind, sample.labels), sample),
        linf=_median(turned.abs().amax((1, 2, 3))),
        l2=_median(turned.flatten(1).norm(dim=1)),
        l0=_median((turned != 0).any(1).sum((1, 2))),
        ssim=_median(ssim(*pair)) if fooled.any() else None,
        psnr=_median(psnr(*pair)) if fooled.any() else None,
        forwards=forwards,
        backwards=backwards,
        seconds=seconds,
    )


def _strengths(campaign: Campaign, outcomes: Outcomes, more: Outcomes) -> list[Strength]:
    """Of the attacks on the classifier itself; what was made on surrogates counts among the best."""
    sample = campaign.sample
    further = [*transferred_ones(outcomes), *more]
    return strengths(own_ones(outcomes), further, sample.pixels, int(sample.right.sum()))


def _median(values: Tensor) -> float | None:
    """None of none, and where there is no number."""
    middle = values.double().quantile(0.5) if len(values) else torch.tensor(torch.nan)
    return float(middle) if middle.isfinite() else None


def shuffled(sample: Sample, change: Tensor) -> Tensor:
    """The images under their changes `(N, C, H, W)`, the pixels of each change put elsewhere: as large, but blind."""
    order = Draws(sample.seed, sample.ids, "shuffled").keys(change.shape[2] * change.shape[3]).argsort(1)
    moved = change.flatten(2).gather(2, order.unsqueeze(1).expand(-1, change.shape[1], -1))
    blind = sample.pixels + moved.view_as(change)
    return (blind.clamp(0, 1) * LEVELS).round() / LEVELS
