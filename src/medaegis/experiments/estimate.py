"""What a plan will take: passes are counted, and what a pass takes is timed on a few images of each network, here."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from medaegis.attacks.objective import Goal
from medaegis.attacks.victim import Victim
from medaegis.bench.checks.classifier import LONGER
from medaegis.bench.store import BATCH
from medaegis.experiments.tasks import Task, attack_of, settings_of
from medaegis.guard.shield_config import ShieldConfig
from medaegis.models.classifier import Classifier
from medaegis.models.learning import TrainConfig
from medaegis.models.normalisation import IMAGENET_MEAN, IMAGENET_STD
from medaegis.models.segmentation_networks import create_network
from medaegis.robust import find_recipe

TRIAL = 8  # images of a timed pass
_GIVES = {"classifier": 4e7, "guard": 8e7}  # bytes on disk, roughly; images are counted


@dataclass(frozen=True)
class Network:
    """One network at one size: seconds of a pass over an image (forwards and backwards alike), bytes at work."""

    seconds: float
    memory: float


@dataclass(frozen=True)
class Estimate:
    """Of a task: passes over single images, seconds, bytes of memory while it runs and of disk afterwards."""

    passes: int
    seconds: float
    memory: float
    disk: float


def estimate(tasks: Iterable[Task], device: torch.device) -> dict[str, Estimate]:
    """By key of the task. What fitting a detector takes is not counted, nor what a Cushion adds to a pass."""
    networks: dict[tuple[object, ...], Network] = {}
    found = {}
    for task in tasks:
        key = (_backbone(task), tuple(task.source.dataset.images.shape[1:]), len(task.source.dataset.classes))
        if key not in networks:
            networks[key] = calibrate(task, device)
        network, passes = networks[key], passes_of(task)
        images = task.source.dataset.images.numel()
        disk = _GIVES.get(task.kind, 0.0)
        if task.kind == "attacked":
            bytes_each = 4 if task.told["cushion"] == "float" else 1
            disk = _images(task) * prod(task.source.dataset.images.shape[1:]) * bytes_each
        found[task.key] = Estimate(passes, passes * network.seconds, network.memory + images, disk)
    return found


def calibrate(task: Task, device: torch.device) -> Network:
    """Time a forward and a backward of the network of a task, as attacks take them, and what they keep in memory."""
    dataset, backbone = task.source.dataset, _backbone(task)
    classifier = Classifier(
        create_network(backbone, dataset.task.name, len(dataset.classes)).to(device),
        classes=dataset.classes,
        size=dataset.size,
        channels=dataset.channels,
        taps=(),
        backbone=backbone,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        outputs="logits",
        task=dataset.task.name,
    )
    victim = Victim(classifier.eval())
    x = torch.rand((TRIAL, *dataset.images.shape[1:]), device=device, requires_grad=True)
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        kept[tensor.data_ptr()] = tensor.numel() * tensor.element_size()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        victim.fast(x).sum().backward()  # not timed: the first pass prepares
    weights = sum(value.numel() * value.element_size() for value in classifier.network.state_dict().values())
    began = time.perf_counter()
    victim.fast(x).sum().backward()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    seconds = (time.perf_counter() - began) / (2 * TRIAL)
    return Network(seconds, sum(kept.values()) / TRIAL * BATCH + 4 * weights)


def passes_of(task: Task) -> int:
    """Forwards and backwards over single images that a task takes, as far as they can be counted."""
    told, dataset = task.told, task.source.dataset
    if task.kind == "classifier":
        config, each = TrainConfig(**settings_of(task)), 3
        if "robust" in told:
            each += find_recipe(told["robust"]["robust"])[0].inner_passes
        return config.epochs * (each * len(task.source.split.train) + len(task.source.split.val))
    if task.kind == "guard":
        shield = {name: value for name, value in told["shield"].items() if name != "recipe"}
        recipe = ShieldConfig(taps=("input",), **shield)
        inner = sum(recipe.steps(update) for update in range(recipe.updates))
        return len(dataset.classes) * recipe.batch_size * (2 * inner + 6 * recipe.updates)
    n = _images(task)
    if task.kind == "checks":
        effort = told["effort"]
        steps = {
            one.attack: one.value.steps for one in (attack_of(t) for t in task.needs.values() if t.kind == "attacked")
        }
        walks = 2 * effort["far"] * (sum(steps.values()) + LONGER * steps.get("pgd", 0))  # far out, and longer
        return int(walks + effort["guessed"] * effort["queries"])
    if task.kind == "attacked":
        one = attack_of(task)
        targets = torch.zeros(n, dtype=torch.int64)
        goal = Goal(targets, None if told["aim"] == "any wrong class" else targets)  # only their number counts
        return one.value.passes(goal, len(dataset.classes))
    if task.kind == "pushed":
        return 2 * 2 * len(told["layers"]) * (told["steps"] or 10) * n
    return 0 if task.kind in ("figures", "detector") else n


def total(estimates: Iterable[Estimate]) -> Estimate:
    """Of all together: times and disk add up, memory is that of the largest."""
    every = list(estimates)
    return Estimate(
        sum(one.passes for one in every),
        sum(one.seconds for one in every),
        max((one.memory for one in every), default=0.0),
        sum(one.disk for one in every),
    )


def _backbone(task: Task) -> str:
    other = task.needs.get("surrogate") or task.needs.get("classifier") or task
    return str(other.told["backbone"])


def _images(task: Task) -> int:
    """At most so many images; only those that are diagnosed rightly are really attacked."""
    part = task.source.split.adv_train if task.told.get("part") == "learn" else task.source.split.adv_test
    limit = task.told.get("limit")
    return len(part) if limit is None else min(limit, len(part))
