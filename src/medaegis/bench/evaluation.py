"""Evaluating a guard: every attack of a plan at every eps against the test patients, with the controls beside them.

Thresholds are fixed before any attack. All figures come from verdicts in float32 on 8-bit images. Each chunk of images
is stored when it is done, so a killed run goes on there. What the columns mean: `medaegis.bench.schema`.
"""

from __future__ import annotations

import copy
import hashlib
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from medaegis import __version__
from medaegis.attacks.catalogue import find_attack
from medaegis.attacks.engine import Attack, pick_targets
from medaegis.attacks.victim import Gradient, Verdict, Victim
from medaegis.bench.archive import Array, EvaluationFolder, write_evaluation
from medaegis.bench.controls import run_controls
from medaegis.bench.metrics import auroc, bootstrap_interval, expected_calibration_error, tpr_at_tnr, wilson_interval
from medaegis.bench.schema import (
    Cell,
    ClassResult,
    CleanResult,
    DataFacts,
    Evaluation,
    Example,
    GuardFacts,
    WorstCase,
)
from medaegis.bench.schema import Verdict as ShownVerdict
from medaegis.bench.store import Piece, Store
from medaegis.environment import environment
from medaegis.errors import ConfigError, DataError
from medaegis.guard.guard import Guard
from medaegis.images.datasets import Dataset
from medaegis.images.splits import Split
from medaegis.progress import Progress, silent

CHUNK = 32  # images between two savings
EXAMPLES = 4

THREAT_MODEL = (
    "The attacker knows everything: the Cushion, the classifier, the Shields, their weights and thresholds. He may "
    "change every pixel by at most eps before the image reaches the guard, on 8-bit pixels, and wants a wrong class "
    "that the Shield accepts. He does not control the scanner, the guard's files or its hardware. Gradients pass the "
    "Cushion straight through (BPDA) or by its differentiable twin. Thresholds were set on clean images before any "
    "attack."
)


@dataclass(frozen=True)
class Planned:
    """One cell to measure: a catalogue entry, eps in pixel units and as text, and what to change of its defaults."""

    attack: str
    eps: float
    eps_text: str
    steps: int | None = None
    restarts: int | None = None
    gradient: Gradient = "bpda"

    @property
    def value(self) -> Attack:
        return find_attack(self.attack).attack.with_options(steps=self.steps, restarts=self.restarts)

    @property
    def id(self) -> str:
        attack = self.value
        text = self.eps_text.replace("/", "of")
        return f"{self.attack}-{''.join(text.split())}-{attack.steps}x{attack.restarts}-{self.gradient}"


def plan(attacks: Sequence[str], eps: Sequence[tuple[str, float]], *, gradient: Gradient = "bpda") -> list[Planned]:
    """Every attack at every eps, adaptive ones also with a fifth of their steps at the largest eps.

    The short runs stand beside the long ones so that training against short attacks cannot pass for robustness.

    Raises:
        ConfigError: an attack that is not in the catalogue, or no eps.
    """
    if not eps:
        raise ConfigError("eps", "none given", "give at least one, as 8/256")
    cells = [Planned(name, value, text, gradient=gradient) for name in attacks for text, value in eps]
    text, value = max(eps, key=lambda pair: pair[1])
    short = [name for name in attacks if find_attack(name).adaptive]
    return cells + [
        Planned(name, value, text, steps=max(1, find_attack(name).attack.steps // 5), gradient=gradient)
        for name in short
    ]


def evaluate_guard(
    guard: Guard,
    dataset: Dataset,
    split: Split,
    *,
    cells: Sequence[Planned],
    out_dir: Path,
    limit: int | None = None,
    planted: bool = True,
    seed: int = 0,
    command: str = "",
    progress: Progress = silent,
) -> Evaluation:
    """Measure every planned cell on "adv_test" images and write the evaluation folder (see `schema`).

    Args:
        limit: attack at most so many images, classes in proportion; the clean figures use all test images.
        planted: also train a deliberately weak Shield and show that the attacks break it.

    Raises:
        ConfigError: the same cell twice, or a limit below 1.
        DataError: the data are not those the guard was fitted for, or no test image is diagnosed rightly.
    """
    started = time.perf_counter()
    _check(guard, dataset, split, cells, limit)
    test = dataset.subset(split.adv_test)
    store = Store(out_dir / "pieces")
    key: dict[str, object] = {"guard": guard.fingerprint(), "seed": seed, "medaegis": __version__}
    clean = guard.judge(test.pixels())
    chosen = _draw(test.labels, limit, seed)
    field = Field(guard, test, clean, chosen, seed, store, key)
    if not len(field.right):
        raise DataError(dataset.spec, "no test image is diagnosed rightly, so none can be attacked", "train longer")
    total, done = sum(cell.value.steps for cell in cells), 0
    measured: list[Cell] = []
    scores: dict[str, Array] = {"clean": _array(clean.score)}
    examples: dict[str, Array] = {}
    outcomes: list[tuple[Planned, Piece]] = []
    for planned in cells:
        begun, size = done, planned.value.steps

        def told(part: int, parts: int, _: str, begun: int = begun, size: int = size, name: str = planned.id) -> None:
            progress(begun + size * part // parts, total, name)

        piece = field.attack(planned, told)
        done += size
        measured.append(field.cell(planned, piece))
        outcomes.append((planned, piece))
        scores[planned.id] = _array(piece["score"])
        scores[f"{planned.id}/fooled"] = piece["fooled"].numpy().astype(np.uint8)
        examples |= field.pictures(planned, piece)
    controls = run_controls(guard, dataset, split, field, outcomes, planted=planted, progress=progress)
    about = environment()
    evaluation = Evaluation(
        created=datetime.now(UTC).replace(microsecond=0),
        seconds=time.perf_counter() - started,
        seed=seed,
        versions=about["versions"],
        machine=about["machine"],
        command=command,
        commit=about["commit"],
        threat_model=THREAT_MODEL,
        guard=_guard_facts(guard),
        data=DataFacts(
            spec=dataset.spec.split(":")[0],
            split="adv_test",
            split_by=split.by,
            n=len(test),
            counts={name: int((test.labels == k).sum()) for k, name in enumerate(test.classes)},
        ),
        clean=_clean_result(guard, test, clean),
        cells=measured,
        worst_case=field.worst_cases(outcomes),
        controls=controls,
    )
    write_evaluation(out_dir, EvaluationFolder(evaluation, scores, examples))
    return evaluation


class Field:
    """The images under attack: those of the chosen test images that the guard's classifier gets right.

    Attributes:
        chosen: rows of `test` that the shares are taken over; right: the attacked ones among them.
    """

    def __init__(
        self,
        guard: Guard,
        test: Dataset,
        clean: Verdict,
        chosen: Tensor,
        seed: int,
        store: Store,
        key: dict[str, object],
    ) -> None:
        self.guard, self.test, self.clean, self.seed = guard, test, clean, seed
        self.store, self.key = store, key
        self.chosen = chosen
        self.right = chosen[clean.predicted[chosen] == test.labels[chosen]]
        self.labels = test.labels[self.right]
        self.targets = pick_targets(self.labels, len(test.classes), ids=test.ids[self.right], seed=seed)
        self.accepted = clean.accepted[self.right]
        self._victims: dict[str, Victim] = {}

    def first(self, n: int) -> Field:
        """The field with its first n attacked images only."""
        small = copy.copy(self)
        small.right, small.labels, small.targets = self.right[:n], self.labels[:n], self.targets[:n]
        small.accepted = self.accepted[:n]
        return small

    def victim(self, gradient: Gradient) -> Victim:
        if gradient not in self._victims:
            self._victims[gradient] = self.guard.victim(gradient=gradient)
        return self._victims[gradient]

    def bare(self) -> Victim:
        """The classifier alone, without Cushion and Shield."""
        if "bare" not in self._victims:
            self._victims["bare"] = Victim(self.guard.classifier)
        return self._victims["bare"]

    def attack(self, planned: Planned, progress: Progress) -> Piece:
        """Adversarial images, scores and verdicts of a cell, chunk by chunk, each stored when done."""
        parts = []
        victim = self.victim(planned.gradient)
        for start in range(0, len(self.right), CHUNK):
            rows = slice(start, start + CHUNK)
            parts.append(self._chunk(victim, planned, rows))
            progress(min(start + CHUNK, len(self.right)), len(self.right), planned.id)
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def _chunk(self, victim: Victim, planned: Planned, rows: slice) -> Piece:
        ids = self.test.ids[self.right[rows]]
        key = {
            **self.key,
            "attack": repr(planned.value),
            "eps": planned.eps,
            "gradient": planned.gradient,
            "dtype": str(victim.dtype),
            "ids": ids.tolist(),
            "labels": self.labels[rows].tolist(),
            "images": hashlib.sha256(self.test.images[self.right[rows]].numpy().tobytes()).hexdigest(),
        }
        adaptive = find_attack(planned.attack).adaptive

        def compute() -> Piece:
            pixels = self.test.pixels(self.right[rows])
            labels, targets = self.labels[rows], self.targets[rows]
            options = {"eps": planned.eps, "targets": targets, "ids": ids, "seed": self.seed}
            found = planned.value.run(victim, pixels, labels, **options, batch_size=CHUNK)  # type: ignore[arg-type]
            piece = {
                "images": (found.images * 255).round().to(torch.uint8),
                "score": torch.nan_to_num(found.verdict.score, nan=torch.inf, posinf=torch.inf, neginf=-torch.inf),
                "predicted": found.verdict.predicted,
                "accepted": found.verdict.accepted,
                "fooled": found.fooled,
                "cost": torch.tensor([found.seconds, found.forwards, found.backwards]).expand(1, 3).double(),
            }
            if not adaptive:
                bare = planned.value.run(self.bare(), pixels, labels, **options, batch_size=CHUNK)  # type: ignore[arg-type]
                piece["fooled_bare"] = bare.fooled
            return piece

        return self.store.get(key, compute)

    def cell(self, planned: Planned, piece: Piece) -> Cell:
        """The figures of a cell."""
        attack, entry = planned.value, find_attack(planned.attack)
        clean, attacked = _array(self.clean.score[self.chosen]), _array(piece["score"])
        fooled = piece["fooled"].numpy()
        broken = fooled & piece["accepted"].numpy()
        groups = [[self.test.patients[i] for i in rows.tolist()] for rows in (self.chosen, self.right)]
        interval = bootstrap_interval(auroc, [clean, attacked], n=500, seed=self.seed, groups=groups)
        undetected = wilson_interval(int(broken.sum()), len(broken))
        safe = self.accepted.numpy() & ~broken
        robust = wilson_interval(int(safe.sum()), len(self.chosen))
        seconds, forwards, backwards = piece["cost"].sum(0).tolist()
        by_class = {}
        for k, name in enumerate(self.test.classes):
            rows = (self.labels == k).numpy()
            if rows.any():
                by_class[name] = ClassResult(
                    n=int(rows.sum()),
                    success=float(fooled[rows].mean()),
                    auroc=auroc(clean, attacked[rows]),
                    undetected=float(broken[rows].mean()),
                )
        return Cell(
            id=planned.id,
            attack=planned.attack,
            title=entry.title,
            access="white-box",
            adaptive=entry.adaptive,
            eps=planned.eps,
            eps_text=planned.eps_text,
            norm="L2" if attack.ball.name == "l2" else "Linf",
            steps=attack.steps,
            restarts=attack.restarts,
            gradient=planned.gradient,
            n=len(fooled),
            success=float(fooled.mean()),
            success_on_classifier=float(piece["fooled_bare"].float().mean()) if "fooled_bare" in piece else None,
            auroc=interval.value,
            auroc_interval=(interval.low, interval.high),
            auroc_fooling=auroc(clean, attacked[fooled]) if fooled.any() else None,
            tpr90=tpr_at_tnr(clean, attacked, 0.90),
            tpr95=tpr_at_tnr(clean, attacked, 0.95),
            tpr99=tpr_at_tnr(clean, attacked, 0.99),
            undetected=undetected.value,
            undetected_interval=(undetected.low, undetected.high),
            robust_accuracy=robust.value,
            robust_accuracy_interval=(robust.low, robust.high),
            seconds=seconds,
            forwards=int(forwards),
            backwards=int(backwards),
            seed=self.seed,
            by_class=by_class,
            examples=[self._example(i, piece) for i in self._shown(piece)],
        )

    def _shown(self, piece: Piece) -> list[int]:
        """Images for the picture strip: undetected ones first, then those that fool, then the rest."""
        rank = piece["fooled"].int() + (piece["fooled"] & piece["accepted"]).int()
        return torch.argsort(rank, descending=True, stable=True)[:EXAMPLES].tolist()

    def _example(self, i: int, piece: Piece) -> Example:
        row = int(self.right[i])
        names = self.test.classes

        def shown(predicted: Tensor, accepted: Tensor, score: Tensor) -> ShownVerdict:
            value = float(score) if bool(score.isfinite()) else None
            return ShownVerdict(predicted=names[int(predicted)], accepted=bool(accepted), score=value)

        return Example(
            name=f"test image {int(self.test.ids[row])}",
            label=names[int(self.labels[i])],
            clean=shown(self.clean.predicted[row], self.clean.accepted[row], self.clean.score[row]),
            adversarial=shown(piece["predicted"][i], piece["accepted"][i], piece["score"][i]),
        )

    def pictures(self, planned: Planned, piece: Piece) -> dict[str, Array]:
        """Pixels of the examples of a cell: clean, adversarial, and that after the Cushion."""
        rows = self._shown(piece)
        adversarial = piece["images"][rows]
        cushioned = self.guard.cushion(adversarial.float() / 255)
        views = {
            "clean": self.test.images[self.right[rows]],
            "adversarial": adversarial,
            "cushioned": (cushioned * 255).round().to(torch.uint8),
        }
        return {f"{planned.id}/{name}": view.numpy() for name, view in views.items()}

    def worst_cases(self, outcomes: Sequence[tuple[Planned, Piece]]) -> list[WorstCase]:
        """At each eps and norm, for each image its strongest result: broken first, then the lowest suspicion."""
        rows = []
        for eps, norm in sorted({(planned.eps, planned.value.ball.name) for planned, _ in outcomes}):
            mine = [(p, piece) for p, piece in outcomes if p.eps == eps and p.value.ball.name == norm]
            broken = torch.stack([piece["fooled"] & piece["accepted"] for _, piece in mine]).any(0)
            # Only an image that fools the classifier harms; the suspicion of others counts where nothing fools.
            harmless = torch.stack([torch.where(piece["fooled"], torch.inf, piece["score"]) for _, piece in mine])
            harmful = torch.stack([torch.where(piece["fooled"], piece["score"], torch.inf) for _, piece in mine])
            fooled = torch.stack([piece["fooled"] for _, piece in mine]).any(0)
            score = torch.where(fooled, harmful.amin(0), harmless.amin(0))
            undetected = wilson_interval(int(broken.sum()), len(broken))
            rows.append(
                WorstCase(
                    eps=eps,
                    eps_text=mine[0][0].eps_text,
                    norm="L2" if norm == "l2" else "Linf",
                    n=len(broken),
                    auroc=auroc(_array(self.clean.score[self.chosen]), _array(score)),
                    undetected=undetected.value,
                    undetected_interval=(undetected.low, undetected.high),
                    robust_accuracy=float((self.accepted & ~broken).sum()) / len(self.chosen),
                )
            )
        return rows


def _check(guard: Guard, dataset: Dataset, split: Split, cells: Sequence[Planned], limit: int | None) -> None:
    """Whatever could stop the evaluation, before any hour is spent on it."""
    wanted = (guard.classes, guard.classifier.size, guard.classifier.channels)
    if (dataset.classes, dataset.size, dataset.channels) != wanted:
        given = f"{', '.join(dataset.classes)} at {dataset.size} px {dataset.channels}"
        expected = f"{', '.join(guard.classes)} at {guard.classifier.size} px {guard.classifier.channels}"
        raise DataError(dataset.spec, f"is {given}, the guard is for {expected}", "use the data it was fitted for")
    if split.fingerprint != dataset.fingerprint:
        raise DataError(dataset.spec, "the split was made for other images", "use the split of the guard's classifier")
    if not split.adv_test:
        raise DataError(dataset.spec, "the split has no adv_test images", "split with a share above 0 for it")
    if not cells:
        raise ConfigError("evaluation", "no attack is planned", "name at least one")
    repeated = [name for name, times in Counter(cell.id for cell in cells).items() if times > 1]
    if repeated:
        raise ConfigError("evaluation", f"the cell {repeated[0]} is planned twice", "name each attack and eps once")
    if limit is not None and limit < 1:
        raise ConfigError(f"limit {limit}", "leaves no image", "take 1 or more, or no limit")


def _draw(labels: Tensor, limit: int | None, seed: int) -> Tensor:
    """Rows of `limit` images in their order, the classes in proportion: each is ranked at random, the ranks merged."""
    share = torch.empty(len(labels), dtype=torch.float64)
    generator = torch.Generator().manual_seed(seed)
    for k in labels.unique().tolist():
        rows = (labels == k).nonzero().squeeze(1)
        share[rows] = (torch.randperm(len(rows), generator=generator) + 0.5).double() / len(rows)
    return share.argsort(stable=True)[:limit].sort().values


def _mean(values: Tensor) -> float | None:
    """Share of true ones; None of nothing."""
    return float(values.float().mean()) if len(values) else None


def _array(values: Tensor) -> Array:
    return torch.nan_to_num(values.float(), nan=torch.inf, posinf=torch.inf, neginf=-torch.inf).numpy()


def _guard_facts(guard: Guard) -> GuardFacts:
    config = guard.training.get("config", {})
    seconds = [facts.get("seconds", 0.0) for facts in guard.training.get("shields", {}).values()]
    return GuardFacts(
        digest=guard.digest,
        classes=list(guard.classes),
        backbone=guard.classifier.backbone,
        size=guard.classifier.size,
        channels=guard.classifier.channels,
        cushion=guard.cushion.spec,
        taps=list(guard.bank.taps),
        tnr_target=guard.tnr,
        thresholds=dict.fromkeys(guard.classes, 1.0),
        recipe={name: value for name, value in config.items() if not isinstance(value, dict)},
        training={"seconds": sum(seconds), "images": guard.training.get("data", {}).get("images")},
    )


def _clean_result(guard: Guard, test: Dataset, clean: Verdict) -> CleanResult:
    bare = torch.cat([guard.classifier_logits(part) for part in test.pixels().split(64)])
    right = clean.predicted == test.labels
    labels = test.labels.numpy()
    binary = len(test.classes) == 2
    accuracy = wilson_interval(int(right.sum()), len(test))
    accepted = wilson_interval(int(clean.accepted.sum()), len(test))
    recall = [_mean(right[test.labels == k]) for k in range(len(test.classes))]
    # Logits, not probabilities: a softmax makes ties at 1.
    ranked = (clean.logits[:, 1] - clean.logits[:, 0]).numpy()
    return CleanResult(
        n=len(test),
        accuracy=accuracy.value,
        accuracy_without_cushion=_mean(bare.argmax(1) == test.labels),
        auroc=auroc(ranked[labels == 0], ranked[labels == 1]) if binary and len(np.unique(labels)) == 2 else None,
        sensitivity=recall[1] if binary else None,
        specificity=recall[0] if binary else None,
        ece=expected_calibration_error(clean.logits.softmax(1).numpy(), labels),
        tnr_reached=accepted.value,
        tnr_by_class={name: _mean(clean.accepted[test.labels == k]) for k, name in enumerate(test.classes)},
        intervals={"accuracy": (accuracy.low, accuracy.high), "tnr_reached": (accepted.low, accepted.high)},
    )
