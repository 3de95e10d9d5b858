"""Attacks on a sample of images: cell by cell, in chunks of images, each chunk stored when it is done."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import ceil
from typing import Any, Literal

import torch
from torch import Tensor

from medaegis.attacks.base import AnyAttack
from medaegis.attacks.catalogue import find_attack
from medaegis.attacks.known import Known
from medaegis.attacks.learned import Learner, wanted
from medaegis.attacks.objective import Goal
from medaegis.attacks.transfer import transfer
from medaegis.attacks.victim import Victim
from medaegis.bench.outcome import as_scores
from medaegis.bench.plan import Planned
from medaegis.bench.quality import measured
from medaegis.bench.sample import Sample
from medaegis.bench.store import BATCH, Piece, Store, code_fingerprint, flops, images_per_piece
from medaegis.bench.surrogates import Surrogate
from medaegis.cushions import Cushion
from medaegis.errors import ConfigError
from medaegis.guard.guard import Guard
from medaegis.models.classifier import Classifier
from medaegis.models.fingerprint import weights_fingerprint
from medaegis.models.store import describe_classifier
from medaegis.progress import Meter, Progress
from medaegis.task import FREE

Aim = Literal["any wrong class", "drawn class", "towards the drawn class"]


@dataclass(frozen=True)
class Effort:
    """Images, eps and steps of what controls and alarms run themselves, beside the plan.

    Attributes:
        harmless: images that harmless changes are tried on at least, where there are so many: of ten one alone would
            decide.
        far, far_eps: images that are attacked at this eps, a quarter of the range, where nothing can stand; on as many
            images longer attacks and the planted weakness are tried.
        probed: images whose gradients are looked at.
        guessed, queries: images that Square is asked about, and how often each.
        stamina: images that are attacked with far more steps and restarts.
        planted: updates of the Shields that are weak by construction.
    """

    harmless: int = 200
    far: int = 64
    far_eps: float = 64 / 256
    probed: int = 64
    guessed: int = 16
    queries: int = 500
    stamina: int = 16
    planted: int = 150


ON_GUARD = Effort()
ON_CLASSIFIER = Effort(guessed=32, queries=1000)  # alone it answers sooner


@dataclass(frozen=True)
class Campaign:
    """What is attacked, with what is known, and where outcomes are kept.

    Attributes:
        victim: gives the verdicts, those on the clean images of the sample too; attacks follow its gradients, or those
            of the surrogate in transferred cells.
        key: names the victim and all else that outcomes depend on beside the cell and the images.
        aim: what counts as success, and where images are driven to: to "any wrong class"; to the "drawn class" of each
            image, which alone counts; "towards the drawn class", where any wrong class counts.
        finding: the only one that is driven at, where images have several; None: all.
        known: other clean images, in the attacker's hands; None: no attack may need them.
        alone: the classifier without Cushion and Shield, for how often the same attack fools that; None: not asked.
        surrogate: what an attacker attacks who knows nothing of the victim; None where no cell is transferred.
        effort: of the checks.
    """

    victim: Victim
    sample: Sample
    store: Store
    key: Mapping[str, object]
    aim: Aim
    finding: int | None = None
    known: Known | None = None
    alone: Victim | None = None
    surrogate: Surrogate | None = None
    effort: Effort = ON_GUARD

    def __len__(self) -> int:
        return len(self.sample)

    @property
    def seed(self) -> int:
        return self.sample.seed

    @property
    def goal(self) -> Goal:
        """What the attacker wants of the attacked images."""
        return Goal(self.sample.labels, self._targets, task=self.sample.test.task)

    def few(self, n: int) -> Tensor:
        """Places of at most n attacked images, the classes in proportion."""
        return self.sample.few(n)

    def only(self, places: Tensor) -> Campaign:
        """On the attacked images at these places only."""
        return replace(self, sample=self.sample.only(places))

    def against(self, guard: Guard) -> Campaign:
        """The same images against another guard."""
        return replace(self, victim=guard.victim(), key=guard_key(guard, self.seed))

    @cached_property
    def smooth(self) -> Victim:
        """Where slopes are looked at: in float32 and without the Cushion, whose rounding would step."""
        return self.victim.by("skip").in_float32()

    def run(self, cells: Sequence[Planned], progress: Progress) -> list[tuple[Planned, Piece]]:
        """The outcomes of all cells; progress is counted in their steps."""
        meter = Meter(progress, sum(planned.value.steps for planned in cells))
        return [(planned, self.attack(planned, meter.part(planned.value.steps, planned.id))) for planned in cells]

    def attack(self, planned: Planned, progress: Progress) -> Piece:
        """Attacked images, verdicts and costs of a cell.

        Returns:
            "images" (uint8 where the victim rounds, else float32), "predicted", "accepted", "score", "fooled" and
            "still", a row each; where an image has no single class what `measured` gives; "cost", float64
            `(chunks, 3)`: seconds, forwards (verdicts that let images go among them) and backwards; with Shields of
            classes "wanted", the suspicion by that of the drawn class; "fooled_bare" where `alone` was attacked in the
            same way.
        """
        parts, most = [], self._piece_size(planned)
        size = ceil(len(self) / ceil(len(self) / most))  # of nearly equal pieces: few images take longer each
        attack, cost = self._learned(planned, self.attacked(planned), self._key(planned))
        for start in range(0, len(self), size):
            chunk = self.only(torch.arange(start, min(start + size, len(self))))
            parts.append(chunk._chunk(attack, planned))
            progress(min(start + size, len(self)), len(self), planned.id)
        piece = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        piece["cost"] = torch.cat([cost, piece["cost"]])
        return piece

    def passes(self, planned: Planned) -> int:
        """Forwards and backwards together that a cell takes at most."""
        return planned.value.passes(self.goal, len(self.sample.test.classes))

    def attacked(self, planned: Planned) -> Victim:
        """Whose gradients are followed."""
        if planned.transferred:
            assert self.surrogate is not None, "checked before any hour is spent"
            return self.surrogate.victim
        return self.victim.by(planned.gradient)

    def _key(self, planned: Planned) -> dict[str, object]:
        if planned.transferred and self.surrogate is not None:
            return {**self.key, "surrogates": self.surrogate.key}
        return {**self.key, "gradient": planned.gradient}

    @cached_property
    def _flops(self) -> int:
        first = self.victim.drawn(self.sample.ids[:1], seed=self.seed)
        return flops(first.judge, self.sample.only(torch.arange(1)).pixels.to(self.victim.device))

    def _piece_size(self, planned: Planned) -> int:
        lesson = isinstance(planned.value, Learner)  # what it learned is added to each image, and that is all
        passes = 1 if lesson else self.passes(planned) / len(self)
        return images_per_piece(passes, self._flops, self.victim.device)

    def _learned(self, planned: Planned, victim: Victim, key: Mapping[str, object]) -> tuple[AnyAttack, Tensor]:
        """What is run on each chunk, and the cost of learning it, float64 `(lessons, 3)`.

        One that learns does so once for each wanted class of all images. Any other attack is itself.
        """
        attack = planned.value
        if not isinstance(attack, Learner):
            return attack, torch.zeros((0, 3), dtype=torch.float64)
        if self.known is None:
            raise ConfigError(attack.what, "no known images to learn from", "give some")
        known = self.known

        def lesson(target: int | None) -> Piece:
            def compute() -> Piece:
                found = attack.learn(victim, *known.lessons(attack), eps=planned.eps, target=target, seed=known.seed)
                cost = torch.tensor([[found.seconds, found.forwards, found.backwards]], dtype=torch.float64)
                return {**found.learned, "cost": cost}

            about = {"lesson": repr(attack), "eps": planned.eps, "target": target, "dtype": str(victim.dtype)}
            about["device"] = victim.device.type
            return self.store.get({**key, **about, "known": known.key}, compute)

        lessons = {target: lesson(target) for target in wanted(self._targets)}
        learned = {k: {name: t for name, t in piece.items() if name != "cost"} for k, piece in lessons.items()}
        return attack.fixed(learned), torch.cat([piece["cost"] for piece in lessons.values()])

    @property
    def _targets(self) -> Tensor | None:
        if self.finding is not None:
            targets = torch.full_like(self.sample.labels, FREE)
            targets[:, self.finding] = 1 - self.sample.labels[:, self.finding]
            return targets
        return None if self.aim == "any wrong class" else self.sample.targets

    def _chunk(self, attack: AnyAttack, planned: Planned) -> Piece:
        """All images at once. `attack`: the value of `planned`, or what that learned."""
        sample, attacked, targets = self.sample, self.attacked(planned), self._targets
        key = {
            **self._key(planned),
            "attack": repr(planned.value),
            "eps": planned.eps,
            "aim": self.aim,
            "alone": self.alone is not None,
            "dtype": str(attacked.dtype),
            "device": attacked.device.type,
            "ids": sample.ids.tolist(),
            "labels": _named(sample.labels),
            "images": hashlib.sha256(sample.test.images[sample.rows].numpy().tobytes()).hexdigest(),
        }
        if self.known is not None and self.known.serve(planned.value):
            key["known"] = self.known.key_for(planned.value)
        if self.finding is not None:
            key["finding"] = self.finding
        if planned.until != "end":
            key["until"] = planned.until

        def compute() -> Piece:
            pixels, labels, victim = sample.pixels, sample.labels, self.victim.by(planned.gradient)
            options: dict[str, Any] = {"eps": planned.eps, "targets": targets, "ids": sample.ids, "seed": self.seed}
            options |= {"only_target": self.aim == "drawn class", "batch_size": BATCH, "until": planned.until}
            if self.known is not None and self.known.serve(attack):
                options |= self.known.options(attack, attacked, pixels, sample.targets, sample.ids)
            if planned.transferred:
                found = transfer(attack, attacked, victim, pixels, labels, **options)
            else:
                found = attack.run(victim, pixels, labels, wrong=~sample.right, **options)
            images, forwards = found.images.to(victim.device), found.forwards + found.checks
            piece = {
                "images": (found.images * 255).round().to(torch.uint8) if victim.cushion.rounds else found.images,
                "predicted": found.verdict.predicted,
                "accepted": found.verdict.accepted,
                "score": as_scores(found.verdict.score),
                "fooled": found.fooled,
                "still": found.still,
                "cost": torch.tensor([[found.seconds, forwards, found.backwards]], dtype=torch.float64),
            }
            piece |= measured(sample.test.task, found.verdict, labels)
            if victim.shields is not None and sample.test.task.name == "single":
                judge = victim.drawn(sample.ids, seed=self.seed)
                piece["wanted"] = as_scores(judge.suspicion(images, sample.targets.to(victim.device)).cpu())
            if self.alone is not None and planned.transferred:
                bare = self.alone.judge(images).to(labels.device)
                piece["fooled_bare"] = found.judged(bare, Goal(labels, task=sample.test.task)).reached
            elif self.alone is not None and not find_attack(planned.attack).adaptive:
                same, _ = self._learned(planned, self.alone, {**self._key(planned), "victim": "classifier"})
                piece["fooled_bare"] = same.run(self.alone, pixels, labels, **options).reached
            return piece

        return self.store.get(key, compute)


def _named(labels: Tensor) -> object:
    """Labels in a key: as they are where there is one for each image, else by their hash."""
    if labels.ndim == 1:
        return labels.tolist()
    return [*labels.shape, str(labels.dtype), hashlib.sha256(labels.contiguous().numpy().tobytes()).hexdigest()]


def guard_key(guard: Guard, seed: int) -> dict[str, object]:
    """What names a guard, the seed and the code that outcomes depend on."""
    return {"guard": guard.fingerprint(), "seed": seed, "code": code_fingerprint()}


def classifier_key(classifier: Classifier, cushion: Cushion, seed: int) -> dict[str, object]:
    """The same of a classifier behind a Cushion."""
    return {
        "classifier": weights_fingerprint(classifier),
        "network": describe_classifier(classifier),
        "cushion": cushion.manifest(),
        "seed": seed,
        "code": code_fingerprint(),
    }
