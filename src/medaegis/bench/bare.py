"""A classifier without Shields, perhaps behind a Cushion, under attack: outcomes chunk by chunk, stored when done."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from medaegis.attacks.catalogue import CATALOGUE, find_attack
from medaegis.attacks.choices import pick_targets
from medaegis.attacks.entry import AnyAttack
from medaegis.attacks.known import Known
from medaegis.attacks.victim import Verdict, Victim
from medaegis.bench.code import code_fingerprint
from medaegis.bench.lessons import taught
from medaegis.bench.sample import draw
from medaegis.bench.store import BATCH, Piece, Store, flops, images_per_piece
from medaegis.cushions import Cushion, Gradient
from medaegis.errors import ConfigError
from medaegis.guard.fingerprint import weights_fingerprint
from medaegis.images.datasets import Dataset
from medaegis.models.classifier import Classifier
from medaegis.models.store import describe_classifier
from medaegis.progress import Progress


@dataclass(frozen=True)
class Pictures:
    """Clean images with what an attack needs to know of each, a row each."""

    pixels: Tensor
    labels: Tensor
    targets: Tensor
    ids: Tensor
    patients: tuple[str, ...]

    @classmethod
    def of(cls, images: Dataset, rows: Tensor, seed: int) -> Pictures:
        """These rows of a data set, each with a wrong class to aim at."""
        labels, ids = images.labels[rows], images.ids[rows]
        targets = pick_targets(labels, len(images.classes), ids=ids, seed=seed)
        return cls(images.pixels(rows), labels, targets, ids, tuple(images.patients[i] for i in rows.tolist()))

    def __len__(self) -> int:
        return len(self.labels)

    def few(self, n: int, seed: int) -> Tensor:
        """Rows of at most n of them, the classes in proportion: test images come sorted by class."""
        return draw(self.labels, n, seed)

    def __getitem__(self, rows: slice | Tensor) -> Pictures:
        patients = tuple(self.patients[i] for i in torch.arange(len(self))[rows].tolist())
        return Pictures(self.pixels[rows], self.labels[rows], self.targets[rows], self.ids[rows], patients)


def pixels_of(piece: Piece) -> Tensor:
    """The attacked images of a piece, float in [0, 1]; stored as bytes where the Cushion rounds."""
    images = piece["images"]
    return images.float() / 255 if images.dtype == torch.uint8 else images


class Bare:
    """What is attacked, and what was found of it before.

    Args:
        known: other clean images, in the attacker's hands.
    """

    def __init__(self, classifier: Classifier, cushion: Cushion, known: Known, seed: int, store: Store) -> None:
        self.classifier, self.cushion = classifier, cushion
        self._victim = Victim(classifier, cushion=cushion)
        # Without the Cushion, whose rounding would step: what slopes are looked at on.
        self.smooth = Victim(classifier, gradient="skip", dtype=torch.float32)
        self.known, self.seed, self.store = known, seed, store
        self._flops: int | None = None
        self.key: dict[str, object] = {
            "classifier": weights_fingerprint(classifier),
            "network": describe_classifier(classifier),
            "cushion": cushion.manifest(),
            "seed": seed,
            "code": code_fingerprint(),
        }

    def victim(self, gradient: Gradient = "bpda") -> Victim:
        """By its way through the Cushion."""
        return self._victim.by(gradient)

    def judge(self, images: Tensor, ids: Tensor) -> Verdict:
        """Verdicts on the CPU."""
        return self.victim().verdicts(images, ids, seed=self.seed, batch_size=64)

    def attack(
        self,
        attack: AnyAttack,
        pictures: Pictures,
        eps: float,
        *,
        targeted: bool,
        gradient: Gradient = "bpda",
        progress: Progress,
    ) -> Piece:
        """Attacked copies of the images, what the classifier says of them, and the cost of each chunk.

        Args:
            targeted: each towards its own wrong class; else to any.
            gradient: way through the Cushion.
        """
        victim, key = self.victim(gradient), {**self.key, "gradient": gradient}
        if self._flops is None:
            first = victim.drawn(pictures.ids[:1], seed=self.seed)
            self._flops = flops(first.judge, pictures.pixels[:1].to(victim.device))
        size = images_per_piece(attack, self._flops, victim.device)
        targets = pictures.targets if targeted else None
        run, cost = taught(attack, victim, self.known, targets, eps=eps, store=self.store, key=key)
        parts = []
        for start in range(0, len(pictures), size):
            parts.append(self._chunk(attack, run, victim, key, pictures[start : start + size], eps, targeted))
            progress(min(start + size, len(pictures)), len(pictures), "images attacked")
        piece = {field: torch.cat([part[field] for part in parts]) for field in parts[0]}
        piece["cost"] = torch.cat([cost, piece["cost"]])
        return piece

    def _chunk(
        self,
        attack: AnyAttack,
        run: AnyAttack,
        victim: Victim,
        key: dict[str, object],
        pictures: Pictures,
        eps: float,
        targeted: bool,
    ) -> Piece:
        """`run` is the attack, or what it learned."""
        key = {
            **key,
            "attack": repr(attack),
            "dtype": str(victim.dtype),
            "eps": eps,
            "targets": pictures.targets.tolist() if targeted else None,
            "ids": pictures.ids.tolist(),
            "labels": pictures.labels.tolist(),
            "images": hashlib.sha256(pictures.pixels.numpy().tobytes()).hexdigest(),
        }
        if self.known.serve(attack):
            key["known"] = self.known.key_for(attack)

        def compute() -> Piece:
            found = run.run(
                victim,
                pictures.pixels,
                pictures.labels,
                eps=eps,
                targets=pictures.targets if targeted else None,
                ids=pictures.ids,
                seed=self.seed,
                batch_size=BATCH,
                **self.known.options(run, victim, pictures.pixels, pictures.targets, pictures.ids),
            )
            return {
                "images": (found.images * 255).round().to(torch.uint8) if self.cushion.rounds else found.images,
                "predicted": found.verdict.predicted,
                "accepted": found.verdict.accepted,
                "fooled": found.fooled,
                "cost": torch.tensor([[found.seconds, found.forwards, found.backwards]]).double(),
            }

        return self.store.get(key, compute)


def check_attacks(names: Iterable[str], classes: int | None = None) -> None:
    """Whether each can be aimed at a classifier alone, of so many classes where that is known.

    Raises:
        ConfigError: an attack on a Shield, with what to take in its place; one that needs more classes; an unknown one.
    """
    for name in names:
        entry = find_attack(name)
        if entry.adaptive:
            base, plus, added = name.partition("+")
            twin = base.removesuffix("-guard").removesuffix("-wb").removeprefix("wb-")
            instead = twin if twin in CATALOGUE and not CATALOGUE[twin].adaptive else "cw-linf"
            instead += plus + added
            raise ConfigError(f"attack {name!r}", "aims at a Shield; here there is none", f"take {instead!r}")
        if classes is not None and entry.classes > classes:
            raise ConfigError(f"attack {name!r}", f"needs {entry.classes} classes, there are {classes}", "leave it out")
