"""The study: one attack on one victim, looked at from every side. Computes; `figures` draws, `page` writes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from medaegis.attacks.engine import Attack
from medaegis.attacks.victim import Verdict, Victim
from medaegis.bench.analyse import maps, shifts
from medaegis.bench.analyse.landscape import Landscape, landscape
from medaegis.bench.analyse.spectra import Spectrum, passed, radial_spectrum
from medaegis.bench.analyse.subjects import Plan, Subjects
from medaegis.bench.outcome import broken_by, pixels_of
from medaegis.bench.plan import Planned
from medaegis.bench.store import Store
from medaegis.errors import ConfigError
from medaegis.images.datasets import Dataset
from medaegis.models.classifier import Classifier
from medaegis.models.taps import refuse_constant
from medaegis.progress import Meter, Progress, Resumed, silent

STRESSED = 16  # images of the stress test
LANDSCAPES = 3
STRESS_LEVELS = (1, 4, 8)
COMPARED = ("fgsm", "bim", "pgd", "mim", "cw-linf")  # whose shifts are compared (HFC fig. 2b)


@dataclass(frozen=True)
class Direction:
    """Where the penultimate features go (HFC fig. 2).

    Attributes:
        tap: the penultimate module.
        steps: numbers of attack steps; cosine: of the shift with the wanted minus the true weights, `(steps, N)`.
        noise: the same for random noise of the same size, `(N,)`.
        pair: the two classes of the scatter, `shift` and `weight` per channel `(D,)`: mean change towards the second.
        names: of the compared attacks; mutual: mean cosine between their shifts, `(A, A)`.
    """

    tap: str
    steps: tuple[int, ...]
    cosine: Tensor
    noise: Tensor
    pair: tuple[int, int]
    shift: Tensor
    weight: Tensor
    names: tuple[str, ...]
    mutual: Tensor


@dataclass(frozen=True)
class Study:
    """Everything the figures are drawn from; tensors on the CPU, one row per attacked image.

    Attributes:
        rows: of the test images that were attacked, all diagnosed rightly before.
        embedding: per tap, t-SNE of the clean images, then of the attacked ones, `(2N, 2)`.
        apart: per tap, share told apart by their nearest neighbours (`shifts.told_apart`).
        attention: before and after; the class is the one diagnosed each time.
        activations: per tap, mean activation maps of the examples, before and after.
        stress: by Cushion.
        spectra: by what they are of; passed: what the Cushion lets through of it, ring by ring (`spectra.passed`).
        examples: rows of the images in the maps.
    """

    plan: Plan
    classes: tuple[str, ...]
    rows: Tensor
    images: Tensor
    attacked: Tensor
    labels: Tensor
    targets: Tensor
    before: Verdict
    after: Verdict
    fooled: Tensor
    broken: Tensor | None
    layer: str
    embedding: dict[str, Tensor]
    apart: dict[str, float]
    direction: Direction | None
    attention: tuple[maps.Attention, maps.Attention]
    activations: dict[str, tuple[Tensor, Tensor]]
    landscape: Landscape
    stress: dict[str, shifts.Stress]
    spectra: dict[str, Spectrum]
    passed: dict[str, Tensor]
    examples: Tensor


def study(
    victim: Victim,
    test: Dataset,
    plan: Plan,
    *,
    key: Mapping[str, object],
    out_dir: Path,
    known: Dataset | None = None,
    progress: Progress = silent,
) -> Study:
    """Attack test images that are diagnosed rightly and look at what that does.

    Called again after a kill it goes on where it was: attacked images are stored in `out_dir` chunk by chunk.

    Args:
        victim: with or without Cushion and Shields.
        key: names it (`campaign.guard_key` or `classifier_key`).
        known: other clean images, for attacks that imitate one or hide among normal features.

    Raises:
        ConfigError: an attack that this victim cannot be given, an eps below a grey level, a layer that has no map.
        DataError: fewer than 8 test images diagnosed rightly; a tap that gives the same for all of them.
    """
    layer = _layer(victim.exact, plan.layer)
    progress = Resumed(progress)
    subjects = Subjects(victim, test, plan, Store(out_dir / "pieces", progress.begin), key=key, known=known)
    images, here = subjects.images, victim.device
    head = shifts.find_head(victim.exact, victim.cushion(images[:4].to(here)))
    taps = tuple(dict.fromkeys((*victim.exact.taps, *([head.tap] if head else []))))
    clean = _pooled(victim, images, taps)
    refuse_constant("analysis", clean)  # before the attack, which may take long
    meter = Meter(progress, _passes(subjects, taps, head))
    found = subjects.campaign.attack(plan.planned, meter.part(subjects.cost(plan.planned), plan.attack))
    attacked = pixels_of(found)
    after = victim.verdicts(attacked, subjects.ids, seed=plan.seed)
    pooled = [clean, _pooled(victim, attacked, taps)]
    looks, drawn = [], []
    shown = subjects.examples(plan.examples)
    for x, verdict in ((images, subjects.before), (attacked, after)):
        seen = victim.cushion(x.to(here))
        looks.append(maps.attention(victim.exact, seen, verdict.predicted.to(here), layer))
        drawn.append(maps.activation_maps(victim.exact, seen[shown.to(here)], victim.exact.taps))
    few = shown[:LANDSCAPES]
    x, y, wanted = (part[few].to(here) for part in (images, subjects.labels, subjects.targets))
    surfaces = landscape(victim, x, y, wanted, subjects.ids[few], levels=plan.levels, seed=plan.seed)
    spectra, through = _spectra(subjects, attacked)
    return Study(
        plan=plan,
        classes=test.classes,
        rows=subjects.rows,
        images=images,
        attacked=attacked,
        labels=subjects.labels,
        targets=subjects.targets,
        before=subjects.before,
        after=after,
        fooled=found["fooled"],
        broken=broken_by(found) if victim.shields is not None else None,
        layer=layer,
        embedding={
            tap: shifts.embed(torch.cat([part[tap] for part in pooled]), seed=plan.seed, tap=tap) for tap in taps
        },
        apart={tap: shifts.told_apart(pooled[0][tap], pooled[1][tap]) for tap in taps},
        direction=None if head is None else _direction(subjects, head, pooled, meter),
        attention=(looks[0], looks[1]),
        activations={tap: (before.cpu(), drawn[1][tap].cpu()) for tap, before in drawn[0].items()},
        landscape=surfaces,
        stress=_stress(subjects, taps, meter),
        spectra=spectra,
        passed=through,
        examples=shown,
    )


def _layer(classifier: Classifier, asked: str | None) -> str:
    """Where Grad-CAM looks: the layer asked for, or the deepest tap with places."""
    if asked is not None:
        maps.spatial(classifier, asked)
        return asked
    for tap in reversed(classifier.taps):
        try:
            maps.spatial(classifier, tap)
        except ConfigError:
            continue
        return tap
    raise ConfigError("Grad-CAM", "no tap of this classifier has places", "name a convolutional layer (--layer)")


def _marks(attack: Attack) -> tuple[int, ...]:
    """Numbers of steps after which one looks: 1, 2, 5, 10, 20 … and the last."""
    return (*(k * 10**p for p in range(5) for k in (1, 2, 5) if k * 10**p < attack.steps), attack.steps)


def _others(subjects: Subjects) -> dict[str, Planned]:
    planned = subjects.plan.planned
    return {name: replace(planned, attack=name, steps=None) for name in COMPARED if name != planned.attack}


def _passes(subjects: Subjects, taps: Sequence[str], head: shifts.Head | None) -> int:
    """What the whole study costs, as the meter counts it."""
    attack = subjects.plan.value
    passes = subjects.cost(subjects.plan.planned) + len(subjects.stressed()) * _stress_cost(subjects, taps)
    if head is not None:
        passes += sum(_marks(attack)[:-1]) * attack.restarts * len(subjects.rows)
        passes += sum(map(subjects.cost, _others(subjects).values()))
    return passes


def _direction(subjects: Subjects, head: shifts.Head, pooled: Sequence[dict[str, Tensor]], meter: Meter) -> Direction:
    attack, labels, targets = subjects.plan.value, subjects.labels, subjects.targets
    clean, weight = pooled[0][head.tap], head.weight.cpu()

    def shift(images: Tensor) -> Tensor:
        return _pooled(subjects.victim, images, (head.tap,))[head.tap] - clean

    def cosine(moved: Tensor) -> Tensor:
        return shifts.along_weights(moved, weight, labels, targets)

    marks, last = _marks(attack), pooled[1][head.tap] - clean
    # Steps as long as those of the whole walk, so that fewer of them are its beginning.
    size = attack.step_size or max(2.5 / attack.steps, 1 / (8 * 255 * subjects.plan.eps))
    walk = []
    for steps in marks[:-1]:
        shorter = replace(subjects.plan.planned, steps=steps, step_size=size)
        walk.append(cosine(shift(subjects.attacked(shorter, meter.part(subjects.cost(shorter), "direction")))))
    compared = {subjects.plan.attack: last}
    for name, other in _others(subjects).items():
        told = meter.part(subjects.cost(other), f"direction of {name}")
        compared[name] = shift(subjects.attacked(other, told))
    random = shifts.noise(subjects.images, subjects.plan.levels, subjects.ids, seed=subjects.plan.seed)
    pairs = Counter(tuple(sorted(pair)) for pair in zip(labels.tolist(), targets.tolist(), strict=True))
    (low, high), _ = pairs.most_common(1)[0]
    there, back = ((labels == a) & (targets == b) for a, b in ((low, high), (high, low)))
    return Direction(
        tap=head.tap,
        steps=marks,
        cosine=torch.stack([*walk, cosine(last)]),
        noise=cosine(shift(random)),
        pair=(low, high),
        shift=torch.cat([last[there], -last[back]]).mean(0),
        weight=weight[high] - weight[low],
        names=tuple(compared),
        mutual=shifts.mutual(list(compared.values())),
    )


def _stress_cost(subjects: Subjects, taps: Sequence[str]) -> int:
    return 2 * len(taps) * len(STRESS_LEVELS) * shifts.STEPS * min(STRESSED, len(subjects.rows))


def _stress(subjects: Subjects, taps: tuple[str, ...], meter: Meter) -> dict[str, shifts.Stress]:
    few = torch.linspace(0, len(subjects.rows) - 1, min(STRESSED, len(subjects.rows))).long()
    images, labels, ids = subjects.images[few], subjects.labels[few], subjects.ids[few]
    return {
        spec: shifts.stress_test(
            victim,
            images,
            labels,
            ids,
            taps,
            STRESS_LEVELS,
            seed=subjects.plan.seed,
            progress=meter.part(_stress_cost(subjects, taps), "stress test"),
        )
        for spec, victim in subjects.stressed().items()
    }


def _spectra(subjects: Subjects, attacked: Tensor) -> tuple[dict[str, Spectrum], dict[str, Tensor]]:
    images, cushion = subjects.images, subjects.plan.cushion
    random = shifts.noise(images, subjects.plan.levels, subjects.ids, seed=subjects.plan.seed)
    found = {"clean": images, "attack": attacked - images, "noise": random - images}
    through = {}
    if cushion.spec != "none":
        calm = cushion(images)
        for name, x in (("attack", attacked), ("noise", random)):
            after = found[f"{name}, cushioned"] = cushion(x) - calm
            through[name] = passed(found[name], after)
    return {name: radial_spectrum(x) for name, x in found.items()}, through


def _pooled(victim: Victim, images: Tensor, taps: tuple[str, ...]) -> dict[str, Tensor]:
    return {tap: features.cpu() for tap, features in victim.pooled(images, taps).items()}
