"""Detectors side by side: how well each tells attacked images from clean ones, with and without a Cushion.

The protocol of HFC (Yao 2021, section 5.1; its Table 2) and of Medical Aegis (its Table 2): images that the classifier
gets wrong are dropped, detectors learn from "adv_train" images and copies of them attacked in one way, and are judged
on "adv_test" images attacked in every way. The attacker knows classifier and Cushion, and no detector.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from medaegis.attacks.balls import check_eps
from medaegis.attacks.catalogue import find_attack
from medaegis.bench.outcome import pixels_of
from medaegis.bench.plan import Planned, check_attacks
from medaegis.bench.records.archive import provenance, replace_file, write_record
from medaegis.bench.records.comparison import Attacked, Comparison, DetectorResult, markdown
from medaegis.bench.scene import SHIELD, Scene, any_cushion
from medaegis.bench.store import Piece, Store
from medaegis.detectors.base import Detector
from medaegis.detectors.registry import find_detector
from medaegis.detectors.shield import ShieldBank
from medaegis.errors import ConfigError
from medaegis.guard.fitting import check_shields
from medaegis.guard.guard import Guard
from medaegis.images.datasets import Dataset
from medaegis.images.splits import Split
from medaegis.models.classifier import INPUT, Classifier
from medaegis.models.fingerprint import weights_fingerprint
from medaegis.progress import Meter, Progress, Resumed, silent


def compare_detectors(
    classifier: Classifier,
    dataset: Dataset,
    split: Split,
    *,
    detectors: Sequence[str],
    attacks: Sequence[str],
    guard: Guard | None = None,
    learn_from: str,
    eps: float,
    eps_text: str,
    out_dir: Path,
    taps: Sequence[str] | None = None,
    cushions: Sequence[str] = ("none",),
    steps: int | None = None,
    limit: int | None = None,
    seed: int = 0,
    command: str = "",
    progress: Progress = silent,
) -> Comparison:
    """Attack, fit and judge; writes comparison.json and comparison.md into `out_dir`.

    Called again after a kill it goes on where it was: attacked images are stored chunk by chunk, scores by detector.

    Args:
        detectors: names from the table of detectors.
        guard: whose Shields are the detector "shield"; of this classifier, or of another where they read pixels alone.
        attacks: names from the catalogue; none may aim at a Shield.
        learn_from: the attack whose images detectors learn from that need attacked ones.
        eps: radius in pixel units, and how it is written.
        taps: modules whose features detectors read and HFC imitates; None: those of the classifier.
        cushions: filters in front of classifier and detectors; "none" for none, "float" for not even the rounding.
        steps: of every iterated attack; None: their own.
        limit: at most so many images to learn from, and as many to judge.

    Raises:
        ConfigError: a classifier for findings or masks, an unknown name, an attack on a Shield, the same name twice,
            Shields of another classifier, an eps below a grey level.
        DataError: too few images are diagnosed rightly, or the Shields learned from other images or another split.
    """
    classifier.check_single("comparison")
    check_comparison(detectors, attacks, learn_from, cushions, guard, len(classifier.classes))
    check_eps(eps_text, eps)
    if guard is not None:
        check_shields(guard, classifier, dataset, split)
    about = provenance(seed, command, classifier.device)  # of the code that runs, whatever is committed meanwhile
    progress = Resumed(progress)
    store = Store(out_dir / "pieces", progress.begin)
    taps = tuple(tap for tap in (classifier.taps if taps is None else taps) if tap != INPUT)
    told, rows = [], []
    part, parts = 0, len(cushions) * (len(attacks) + 2)

    def under(message: str) -> Progress:
        done = part
        return lambda i, n, _: progress(1000 * done + 1000 * i // max(1, n), 1000 * parts, message)

    def planned(name: str) -> Planned:
        return Planned(name, eps, eps_text, steps=steps if find_attack(name).attack.steps > 1 else None)

    for spec in cushions:
        scene = Scene(classifier, any_cushion(spec), dataset, split, taps, limit, seed, store)
        scene.check_enough(detectors)
        made = {}
        for name in attacks:
            made[name] = scene.test.attack(planned(name), under(f"{name} behind {spec}"))
            part += 1
        taught = scene.learn.attack(planned(learn_from), under(f"{learn_from} to learn from, behind {spec}"))
        part += 1
        bank = None if guard is None else guard.bank
        rows += _judge(scene, detectors, bank, pixels_of(taught), made, under(f"detectors behind {spec}"))
        part += 1
        told += [_told(scene.cushion.spec, name, piece) for name, piece in made.items()]
    found = Comparison(
        **about,
        data=dataset.spec.split(":")[0],
        backbone=classifier.backbone,
        size=classifier.size,
        eps=eps_text,
        steps=steps,
        taps=list(taps),
        learned_from=learn_from,
        learned=len(scene.learn),
        tested=len(scene.test),
        attacks=told,
        rows=rows,
    )
    replace_file(out_dir / "comparison.md", markdown(found).encode())
    write_record(out_dir / "comparison.json", found)
    return found


def _judge(
    scene: Scene,
    detectors: Sequence[str],
    bank: ShieldBank | None,
    taught: Tensor,
    made: Mapping[str, Piece],
    progress: Progress,
) -> list[DetectorResult]:
    """Every detector, fitted once, against every attack; scores are stored detector by detector."""
    learn = scene.learn.sample
    images = [learn.pixels, taught, scene.test.sample.pixels, *map(pixels_of, made.values())]
    clean, attacked, test, *hostile = map(scene.reader.read, images)
    key = {
        **scene.key,
        "taps": scene.reader.taps,
        "images": [hashlib.sha256(pixels.numpy().tobytes()).hexdigest() for pixels in images],
        "attacks": list(made),
    }
    rows, meter = [], Meter(progress, 1000 * len(detectors))
    for name in detectors:
        entry = find_detector(name)
        detector = entry.make(bank=bank) if name == SHIELD else entry.make()
        told = meter.part(1000, name)

        def compute(detector: Detector = detector, told: Progress = told) -> Piece:
            began = time.perf_counter()
            detector.fit(clean, learn.labels, attacked=attacked, seed=scene.seed, progress=told)
            fitted = time.perf_counter()
            scores = {f"of {attack}": detector.score(seen).cpu() for attack, seen in zip(made, hostile, strict=True)}
            scores["clean"] = detector.score(test).cpu()
            seconds = torch.tensor([[fitted - began, time.perf_counter() - fitted]], dtype=torch.float64)
            return {**scores, "cost": seconds}

        shields = weights_fingerprint(bank) if bank is not None and name == SHIELD else None
        about = {"detector": name, "options": detector.options(), "shields": shields}
        piece = scene.store.get({**key, **about}, compute)
        fitted, scored = piece["cost"][0].tolist()
        for attack in made:
            scores, fooled = piece[f"of {attack}"], made[attack]["fooled"].bool()
            rows.append(
                DetectorResult(
                    **dict(scene.separation(piece["clean"], scores, torch.ones_like(fooled))),
                    cushion=scene.cushion.spec,
                    detector=name,
                    title=entry.title,
                    attack=attack,
                    fooling=scene.separation(piece["clean"], scores, fooled) if fooled.any() else None,
                    fit_seconds=fitted,
                    score_seconds=scored,
                )
            )
        told(1, 1, name)
    return rows


def _told(cushion: str, name: str, piece: Piece) -> Attacked:
    return Attacked(
        cushion=cushion,
        attack=name,
        title=find_attack(name).title,
        n=len(piece["fooled"]),
        success=float(piece["fooled"].float().mean()),
        seconds=float(piece["cost"][:, 0].sum()),
    )


def check_comparison(
    detectors: Sequence[str],
    attacks: Sequence[str],
    learn_from: str,
    cushions: Sequence[str],
    guard: Guard | None,
    classes: int,
) -> None:
    """Whatever could stop the comparison, asked before any image is read.

    Raises:
        ConfigError: as `compare_detectors`.
    """
    for what, given in (("detectors", detectors), ("attacks", attacks), ("cushions", cushions)):
        if not given or len(set(given)) != len(given):
            raise ConfigError(what, "none, or one twice", "name at least one, each once")
    check_attacks([learn_from, *attacks], classes)
    for spec in cushions:
        if any_cushion(spec).random:
            problem = "is random, and detectors are compared on the same pixels"
            raise ConfigError(f"cushion {spec!r}", problem, "name the cushions that it draws from, one by one")
    for name in detectors:
        find_detector(name)
        if name == SHIELD and guard is None:
            problem = "its Shields are trained by attacking them"
            raise ConfigError("detector 'shield'", problem, "name a guard (--guard)")
