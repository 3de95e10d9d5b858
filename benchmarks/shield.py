"""One step of Shield training against the sum of its parts: what the machinery around them costs."""

from __future__ import annotations

import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
import torch.nn.functional as F

from benchmarks.record import Record
from benchmarks.subjects import pictures
from benchmarks.timing import Case, Ratio, ratio
from medaegis.cushions import parse_cushion
from medaegis.guard.fitting import shield_config
from medaegis.guard.shield_training import ShieldTraining
from medaegis.images.datasets import Dataset
from medaegis.models.backbones import create_backbone, default_taps
from medaegis.models.classifier import Classifier
from medaegis.models.normalisation import IMAGENET_MEAN, IMAGENET_STD

ABOUT = (
    "One update of a Shield (default recipe, JPEG-80, grey images, the victim's fast arithmetic) against its parts, "
    "each done by hand with nothing around it: forward and input gradient of the inner attack, the Cushion as often "
    "as a step needs it, and the Shield's own update."
)
UPDATES = 10  # of each of two Shields, where they are timed side by side


def run(record: Record) -> None:
    size, batch = (64, 4) if record.quick else (112, 16)
    name = "resnet18"
    learning = training(name, size, batch, record.seed)
    config, victim, shield = learning.config, learning.victim, learning.shield
    record.settings(
        network=name,
        size=size,
        batch=f"{batch} + {batch}",
        inner_steps=config.inner_steps,
        cushion="jpeg:80",
        arithmetic=str(victim.dtype).removeprefix("torch."),
    )
    images = learning.dataset.pixels()[: 2 * batch]
    wanted = torch.full((2 * batch,), learning.label)
    updates = iter(range(10**9))
    optimizer = torch.optim.AdamW(shield.parameters(), lr=0.0)

    def gradient() -> None:
        shield.requires_grad_(False)
        for _ in range(config.inner_steps):
            z = images[:batch].clone().requires_grad_(True)
            seen = victim.fast.activations(z, logits=False, taps=shield.taps)
            with torch.autocast("cpu", victim.dtype, enabled=victim.dtype != torch.float32):
                logits = shield(seen.features)
            torch.autograd.grad(-logits.sum(), z)

    def cushion() -> None:
        for _ in range(config.inner_steps):
            victim.cushion(images[:batch])
        victim.cushion(images)

    def update() -> None:
        shield.requires_grad_(True)
        seen = victim.fast.activations(images, logits=False, taps=shield.taps)
        with torch.autocast("cpu", victim.dtype, enabled=victim.dtype != torch.float32):
            logits = shield(seen.features)
        optimizer.zero_grad()
        F.binary_cross_entropy_with_logits(logits, (wanted == learning.label).float()).backward()
        optimizer.step()

    whole = "whole training step"
    parts = {"inner attack's gradients": gradient, "cushion": cushion, "Shield's update": update}
    cases = [
        Case(whole, lambda: learning._update(next(updates)), batch),  # what train() repeats, without its checkpoints
        *(Case(part, work, batch) for part, work in parts.items()),
    ]
    group = f"{batch} genuine + {batch} adversarial"
    seconds = record.measure(group, cases, unit="image", rounds=10, budget=5 if record.quick else 40)
    total = {**seconds, "sum": [sum(each) for each in zip(*(seconds[part] for part in parts), strict=True)]}
    record.add("whole training step / sum of its parts", ratio(total, whole, "sum"))
    for part in parts:
        value: Ratio = ratio(total, part, whole)
        record.add(f"share of the step: {part}", value)
    _side_by_side(record, [learning, training(name, size, batch, record.seed + 1)])


def _side_by_side(record: Record, two: list[ShieldTraining]) -> None:
    """An update each of two Shields: in turn by all threads, and at once by half of them each, as `fit` has it."""
    threads = torch.get_num_threads()
    numbers = [iter(range(10**9)), iter(range(10**9))]

    def update(which: int, count: int) -> None:
        for _ in range(count):
            two[which]._update(next(numbers[which]))

    def in_turn() -> None:
        for which in (0, 1):
            update(which, UPDATES)

    def at_once() -> None:
        torch.set_num_threads(max(1, threads // 2))
        try:
            with ThreadPoolExecutor(2) as pool:
                list(pool.map(update, (0, 1), (UPDATES, UPDATES)))
        finally:
            torch.set_num_threads(threads)

    group = "two Shields"
    cases = [Case("in turn", in_turn, 2 * UPDATES), Case("side by side", at_once, 2 * UPDATES)]
    seconds = record.measure(group, cases, unit="update", rounds=5, budget=10 if record.quick else 120)
    record.ratio("two Shields in turn / side by side", seconds, "in turn", "side by side")


def training(name: str, size: int, batch: int, seed: int, *, device: str | torch.device = "cpu") -> ShieldTraining:
    """A Shield's training that is ready for its first update."""
    count = 4 * batch
    dataset = Dataset(
        spec="drawn",
        images=pictures(count, 1, size, seed=seed),
        labels=torch.arange(count) % 2,
        classes=("0", "1"),
        patients=tuple(map(str, range(count))),
        names=tuple(map(str, range(count))),
        ids=torch.arange(count),
    )
    classifier = (
        Classifier(
            create_backbone(name, classes=2, seed=seed),
            classes=dataset.classes,
            size=size,
            channels="gray",
            taps=default_taps(name),
            mean=IMAGENET_MEAN,
            std=IMAGENET_STD,
            backbone=name,
        )
        .eval()
        .to(device)
    )
    config = shield_config("strong", classifier, updates=1000, seed=seed)
    config = config.model_copy(update={"batch_size": batch, "early": 0.0})  # an update of full length
    with tempfile.TemporaryDirectory() as folder:  # nothing is written: checkpoints belong to train()
        return ShieldTraining(classifier, parse_cushion("jpeg:80"), dataset, 1, config, Path(folder))
