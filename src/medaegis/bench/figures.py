"""What records tell of a guard: what it is, what it does to clean images, and its figures under attack.

These are shares and areas with their intervals, cell by cell, and the examples shown.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from medaegis.attacks.catalogue import find_attack
from medaegis.attacks.victim import Verdict
from medaegis.bench.campaign import Campaign
from medaegis.bench.metrics import Interval, as_fields, auroc, auroc_interval, share_interval, tpr_at_tnr
from medaegis.bench.outcome import as_array, broken_by
from medaegis.bench.plan import Planned, norm_of
from medaegis.bench.records.archive import Array
from medaegis.bench.records.evaluation import (
    Cell,
    ClassResult,
    CleanResult,
    Confusion,
    Example,
    GuardFacts,
    JudgedImage,
)
from medaegis.bench.sample import Sample, diagnosed_rightly
from medaegis.bench.store import Piece
from medaegis.guard.guard import Guard
from medaegis.guard.looks import shield_facts, unfinished
from medaegis.images.datasets import Dataset
from medaegis.models.metrics import classification_metrics

EXAMPLES = 4


def guard_facts(guard: Guard) -> GuardFacts:
    """What a record tells of a guard."""
    config, data, thresholds = (
        part if isinstance(part, dict) else {}
        for part in (guard.training.get("config"), guard.training.get("data"), guard.calibration.get("thresholds"))
    )
    seconds = sum(shield.seconds for shield in (shield_facts(guard.training) or {}).values())
    return GuardFacts(
        digest=guard.digest,
        classes=list(guard.classes),
        backbone=guard.classifier.backbone,
        size=guard.classifier.size,
        channels=guard.classifier.channels,
        cushion=guard.cushion.spec,
        taps=list(guard.bank.taps),
        tnr_target=guard.tnr,
        thresholds=dict.fromkeys(guard.judged, 1.0),
        pooled=[name for name, told in thresholds.items() if isinstance(told, dict) and not told.get("own", True)],
        calibrated_from=str(guard.calibration.get("guard", "")),
        recipe={name: value for name, value in config.items() if not isinstance(value, dict)},
        training={"seconds": seconds, "images": data.get("images")},
        unfinished=unfinished(guard.training),
    )


def clean_result(guard: Guard, test: Dataset, clean: Verdict) -> CleanResult:
    """Of a guard on clean test images, and of its classifier without the Cushion."""
    bare = torch.cat([guard.classifier_logits(part) for part in test.pixels().split(64)])
    told = classification_metrics(clean.logits, test.labels, test.classes)
    wrong = clean.predicted != test.labels
    accuracy, accepted = share_interval(~wrong, test.patients), share_interval(clean.accepted, test.patients)
    by_class = {
        name: share_interval(clean.accepted[rows], [test.patients[i] for i in rows.nonzero().squeeze(1).tolist()])
        for name, rows in ((name, test.labels == k) for k, name in enumerate(test.classes))
        if rows.any()
    }
    shown = clean.accepted.nonzero().flatten().tolist()
    of_shown = share_interval(~wrong[shown], [test.patients[i] for i in shown]) if shown else None
    intervals = {"accuracy": accuracy, "tnr_reached": accepted, "accuracy_accepted": of_shown}
    return CleanResult(
        n=len(test),
        wrong=int(wrong.sum()),
        wrong_rejected=_mean(~clean.accepted[wrong]),
        accuracy=accuracy.value,
        accuracy_accepted=None if of_shown is None else of_shown.value,
        accuracy_without_cushion=_mean(bare.argmax(1) == test.labels),
        auroc=told["auroc"],
        sensitivity=told.get("sensitivity"),
        specificity=told.get("specificity"),
        ece=told["ece"],
        tnr_reached=accepted.value,
        tnr_by_class={name: by_class[name].value if name in by_class else None for name in test.classes},
        tnr_by_class_intervals={name: found.bounds for name, found in by_class.items()},
        intervals={name: found.bounds for name, found in intervals.items() if found is not None},
    )


def _mean(values: Tensor) -> float | None:
    """Share of true ones; None of nothing."""
    return float(values.float().mean()) if len(values) else None


@dataclass(frozen=True)
class Figures:
    """What is counted of a guard.

    Attributes:
        campaign: the attacks; its sample holds every test image, which clean figures are taken over.
        healthy: number of the class that no disease is.
    """

    campaign: Campaign
    healthy: int = 0

    @property
    def sample(self) -> Sample:
        return self.campaign.sample

    @property
    def genuine(self) -> Tensor:
        """Every row of the test images that is diagnosed rightly when clean: what attacked ones are told from (AUROC).

        HFC section 5.1 drops the misclassified ones as well. A misdiagnosis that is rejected is no false alarm.
        """
        return diagnosed_rightly(self.sample.clean, self.sample.test).nonzero().squeeze(1)

    def clean_scores(self) -> Array:
        """Of the genuine images."""
        return as_array(self.sample.clean.score[self.genuine])

    def cell(self, planned: Planned, piece: Piece) -> Cell:
        """The figures of a cell."""
        attack, entry = planned.value, find_attack(planned.attack)
        clean, attacked = self.clean_scores(), as_array(piece["score"])
        fooled = piece["fooled"].numpy()
        undetected, robust = self.shares(broken_by(piece))
        seconds, forwards, backwards = piece["cost"].sum(0).tolist()
        of_class = ((name, self.sample.labels == k) for k, name in enumerate(self.sample.test.classes))
        return Cell(
            id=planned.id,
            attack=planned.attack,
            title=self.title(planned),
            access=planned.access,
            adaptive=entry.adaptive,
            eps=planned.eps,
            eps_text=planned.eps_text,
            norm=norm_of(planned),
            steps=attack.steps,
            restarts=attack.restarts,
            gradient=None if planned.transferred else planned.gradient,
            samples=planned.samples,
            n=len(fooled),
            success=float(fooled.mean()),
            success_on_classifier=float(piece["fooled_bare"].float().mean()) if "fooled_bare" in piece else None,
            **as_fields("auroc", self.area(piece["score"])),
            auroc_fooling=auroc(clean, attacked[fooled]) if fooled.any() else None,
            auroc_wanted=auroc(clean, as_array(piece["wanted"])),
            tpr90=tpr_at_tnr(clean, attacked, 0.90),
            tpr95=tpr_at_tnr(clean, attacked, 0.95),
            tpr99=tpr_at_tnr(clean, attacked, 0.99),
            **as_fields("undetected", undetected),
            **as_fields("robust_accuracy", robust),
            seconds=seconds,
            forwards=int(forwards),
            backwards=int(backwards),
            seed=self.campaign.seed,
            by_class={name: self._of_class(piece, rows) for name, rows in of_class if rows.any()},
            examples=[self.example(i, piece) for i in _shown(piece)],
        )

    def _of_class(self, piece: Piece, rows: Tensor) -> ClassResult:
        """Of the attacked images where `rows` is true."""
        patients = self.sample.patients_of(self.sample.rows[rows])
        return ClassResult(
            n=len(patients),
            success=float(piece["fooled"][rows].float().mean()),
            **as_fields("auroc", self.area(piece["score"][rows], self.sample.rows[rows])),
            **as_fields("undetected", share_interval(broken_by(piece)[rows], patients)),
        )

    def title(self, planned: Planned) -> str:
        title, surrogate = find_attack(planned.attack).title, self.campaign.surrogate
        return f"{title}, made on {surrogate.name}" if planned.transferred and surrogate else title

    def example(self, i: int, piece: Piece) -> Example:
        """The attacked image at this place, before and after."""
        row, names, clean = int(self.sample.rows[i]), self.sample.test.classes, self.sample.clean

        def shown(predicted: Tensor, accepted: Tensor, score: Tensor) -> JudgedImage:
            value = float(score) if bool(score.isfinite()) else None
            return JudgedImage(predicted=names[int(predicted)], accepted=bool(accepted), score=value)

        return Example(
            name=f"test image {int(self.sample.ids[i])}",
            label=names[int(self.sample.labels[i])],
            clean=shown(clean.predicted[row], clean.accepted[row], clean.score[row]),
            adversarial=shown(piece["predicted"][i], piece["accepted"][i], piece["score"][i]),
        )

    def pictures(self, planned: Planned, piece: Piece) -> dict[str, Array]:
        """Pixels of the examples of a cell: clean, adversarial, and that after the Cushion."""
        places = _shown(piece)
        adversarial = piece["images"][places]
        judge = self.campaign.victim.drawn(self.sample.ids[places], seed=self.campaign.seed)
        views = {
            "clean": self.sample.test.images[self.sample.rows[places]],
            "adversarial": adversarial,
            "cushioned": (judge.cushion(adversarial.float() / 255) * 255).round().to(torch.uint8),
        }
        return {f"{planned.id}/{name}": view.numpy() for name, view in views.items()}

    def shares(self, broken: Tensor) -> tuple[Interval, Interval]:
        """Undetected success, and robust accuracy with rejection, intervals by patient; broken: bool `(N,)`."""
        sample = self.sample
        safe = torch.isin(sample.chosen, sample.rows[sample.accepted & ~broken])
        return share_interval(broken, sample.patients), share_interval(safe, sample.patients_of(sample.chosen))

    def area(self, score: Tensor, attacked: Tensor | None = None) -> Interval:
        """AUROC of clean images diagnosed rightly against attacked ones (rows; None: all), by patient."""
        rows = (self.genuine, self.sample.rows if attacked is None else attacked)
        groups = [self.sample.patients_of(part) for part in rows]
        return auroc_interval(self.clean_scores(), as_array(score), groups, seed=self.campaign.seed)

    def confusion(self, attacked: Tensor | None = None) -> Confusion:
        """What the guard gives out for the chosen images, by true class.

        Args:
            attacked: classes given out for the attacked images, K for withheld; None: all are clean.
        """
        sample = self.sample
        classes = len(sample.test.classes)
        given = torch.where(sample.clean.accepted, sample.clean.predicted, classes)
        if attacked is not None:
            given[sample.rows] = attacked
        given, labels = given[sample.chosen], sample.test.labels[sample.chosen]
        return {
            name: given[labels == k].bincount(minlength=classes + 1).tolist()
            for k, name in enumerate(sample.test.classes)
        }


def _shown(piece: Piece) -> list[int]:
    """Places for the picture strip: undetected images first, then those that fool, then the rest."""
    rank = piece["fooled"].int() + broken_by(piece).int()
    return torch.argsort(rank, descending=True, stable=True)[:EXAMPLES].tolist()
