"""How robust a classifier is that nothing guards: attacks at every eps, and the worst case of each image over them all.

Robust accuracy as in RobustBench (Croce 2021): of an image that is diagnosed rightly and stays so under every attack.
Of networks for findings and masks it is told how much of each answer is left (`quality`), and all chosen images are
attacked. All verdicts are float32, on 8-bit images.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from medaegis.attacks.balls import LEVELS, Ball
from medaegis.attacks.catalogue import find_attack
from medaegis.attacks.known import Known
from medaegis.attacks.victim import Verdict, Victim
from medaegis.bench.campaign import ON_CLASSIFIER, Campaign, Effort, classifier_key
from medaegis.bench.cascade import check_cascade, run_cascade
from medaegis.bench.checks.classifier import run_checks
from medaegis.bench.metrics import share_interval
from medaegis.bench.outcome import Outcomes, own_ones, pixels_of, transferred_ones
from medaegis.bench.plan import Planned, check_attacks, check_surrogates, norm_name, norm_of
from medaegis.bench.quality import measured, quality_of, worst
from medaegis.bench.records.archive import provenance, replace_file, write_record
from medaegis.bench.records.assessment import Assessment, ClassifierWorstCase, Proportion, Standing, Tried, markdown
from medaegis.bench.records.evaluation import Cascaded
from medaegis.bench.report.robustness import robustness_figure
from medaegis.bench.sample import Sample, check_images, data_facts
from medaegis.bench.similarity import psnr, ssim
from medaegis.bench.store import Piece, Store
from medaegis.bench.strength import median, strengths
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
            problem = f"is for one class an image, and here it is {classifier.task.title}"
            raise ConfigError(name, problem, "leave it out")
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
    clean = measured(classifier.task, sample.clean[sample.rows], sample.labels)
    by_others = transferred_ones(outcomes)
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
        clean=_standing(sample, torch.zeros(len(sample), dtype=torch.bool), clean),
        worst_case=_worst_cases([*outcomes, *more], eps, sample, clean),
        no_box=_worst_cases(by_others, eps, sample, clean),
        cascade=cascaded,
        attacks=[_tried(campaign, planned, piece) for planned, piece in outcomes],
        # What was made on surrogates is no attack on the classifier itself, but counts among the best.
        strengths=strengths(own_ones(outcomes), [*by_others, *more], sample.pixels, int(sample.right.sum())),
        controls=controls,
    )
    drawn = robustness_figure(found)
    replace_file(out_dir / "robust-accuracy.svg", drawn.svg)
    replace_file(out_dir / "robust-accuracy.png", drawn.png)
    replace_file(out_dir / "assessment.md", markdown(found).encode())
    write_record(out_dir / "assessment.json", found)
    return found


def _standing(sample: Sample, broken: Tensor, answers: Piece) -> Standing:
    """What is left of the chosen images when the attacked images `broken`, bool `(N,)`, are lost, and these are the
    answers about them (`measured`).
    """
    chosen, classes = sample.chosen, sample.test.classes
    if sample.test.task.name == "single":
        labels = sample.test.labels[chosen]
        recall = {name: _left(sample, broken, chosen[labels == k]) for k, name in enumerate(classes)}
    else:
        recall = {name: _found(sample, answers, k) for k, name in enumerate(classes)}
    return Standing(accuracy=_left(sample, broken, chosen), recall=recall, quality=quality_of(answers, sample))


def _left(sample: Sample, broken: Tensor, rows: Tensor) -> Proportion:
    """Share of these test images that are right from the start, and not among the attacked ones that are broken."""
    safe = torch.zeros(len(sample.test), dtype=torch.bool)
    safe[sample.rows] = sample.right & ~broken
    return proportion(safe[rows], sample.patients_of(rows))


def _turned(sample: Sample, hits: Tensor) -> Proportion:
    """Share of the attacked images that are, of those that were right from the start."""
    return proportion(hits[sample.right], sample.patients_of(sample.rows[sample.right]))


def _found(sample: Sample, answers: Piece, k: int) -> Proportion:
    """Of the images that have a finding those where it is found; of a class of masks nothing is told."""
    if "logits" not in answers:
        return proportion(torch.zeros(0, dtype=torch.bool), [])
    has = sample.labels[:, k] == 1
    return proportion(answers["logits"][has, k] > 0, sample.patients_of(sample.rows[has]))


def proportion(hits: Tensor, patients: Sequence[str]) -> Proportion:
    """Share of true ones in `(N,)`, its interval by patient."""
    if not len(hits):
        return Proportion(n=0, share=None, interval=None)
    found = share_interval(hits, patients)
    return Proportion(n=len(hits), share=found.value, interval=found.bounds)


def _balls(cells: Iterable[Planned]) -> list[Ball]:
    """Those that are attacked in."""
    return list({planned.value.ball.name: planned.value.ball for planned in cells}.values())


def _worst_cases(
    outcomes: Outcomes, eps: Sequence[tuple[str, float]], sample: Sample, clean: Piece
) -> list[ClassifierWorstCase]:
    """At each eps, in each norm that was attacked in.

    Args:
        clean: what `measured` gives of the images as they are.
    """
    found = []
    for ball in _balls(planned for planned, _ in outcomes):
        for text, value in sorted(eps, key=lambda pair: pair[1]):
            reached = Reached.of(outcomes, sample.pixels, ball, value)
            broken = reached.fooled.any(0)
            left = clean
            if clean:
                inside = torch.cat([torch.ones_like(broken)[None], reached.inside])
                left = worst([clean, *(piece for _, piece in outcomes)], inside, sample.labels)
            found.append(
                ClassifierWorstCase(
                    **dict(_standing(sample, broken, left)),
                    eps=value,
                    eps_text=text,
                    norm=norm_name(ball),
                    success=_turned(sample, broken),
                    further=reached.further(),
                )
            )
    return found


def _tried(campaign: Campaign, planned: Planned, piece: Piece) -> Tried:
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
        success=_turned(sample, fooled),
        robust_accuracy=_left(sample, fooled, sample.chosen),
        noise=_turned(sample, noise),
        quality=quality_of(piece, sample),
        noise_quality=quality_of(measured(sample.test.task, blind, sample.labels), sample),
        linf=median(turned.abs().amax((1, 2, 3))),
        l2=median(turned.flatten(1).norm(dim=1)),
        l0=median((turned != 0).any(1).sum((1, 2))),
        ssim=median(ssim(*pair)) if fooled.any() else None,
        psnr=median(psnr(*pair)) if fooled.any() else None,
        forwards=forwards,
        backwards=backwards,
        seconds=seconds,
    )


def shuffled(sample: Sample, change: Tensor) -> Tensor:
    """The images under their changes `(N, C, H, W)`, the pixels of each change put elsewhere: as large, but blind."""
    order = Draws(sample.seed, sample.ids, "shuffled").keys(change.shape[2] * change.shape[3]).argsort(1)
    moved = change.flatten(2).gather(2, order.unsqueeze(1).expand(-1, change.shape[1], -1))
    blind = sample.pixels + moved.view_as(change)
    return (blind.clamp(0, 1) * LEVELS).round() / LEVELS
