"""One step of adversarial training against its bare passes, for every recipe that has no helper."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.record import Record
from benchmarks.subjects import pictures
from benchmarks.timing import Case, ratio
from medaegis.images.datasets import Dataset
from medaegis.images.splits import split_dataset
from medaegis.models.hardware import has_fast_bfloat16
from medaegis.models.learning import TrainConfig
from medaegis.models.training import _Run
from medaegis.robust import parse_recipe

ABOUT = (
    "One step of robust training (ResNet-18, whole batch as `train` does it) against its bare passes, done by hand "
    "with nothing around them: forwards and backwards to the images in eval mode as often as the inner attack takes "
    "them, then forwards and backwards to the weights in training mode and the optimiser's step, all in the same "
    "arithmetic. Plain training beside them."
)
RECIPES = {"pgd-at": (10, 1), "trades": (10, 2), "fgsm-at": (1, 1), "free": (0, 4)}  # inner steps, passes to weights


def run(record: Record) -> None:
    size, batch = (32, 8) if record.quick else (112, 32)
    record.settings(network="resnet18", size=size, batch=batch)
    dataset = Dataset(
        spec="drawn",
        images=pictures(4 * batch, 1, size, seed=record.seed),
        labels=torch.arange(4 * batch) % 2,
        classes=("0", "1"),
        patients=tuple(map(str, range(4 * batch))),
        names=tuple(map(str, range(4 * batch))),
        ids=torch.arange(4 * batch),
    )
    split = split_dataset(dataset, seed=record.seed)
    config = TrainConfig(batch_size=batch, augmentation=False, balance="none", lr=1e-6, device="cpu")
    places = torch.tensor(split.train[:batch])
    group, cases = f"batch {batch}", []
    plain = _Run(dataset, split, config)
    cases.append(Case("plain training", lambda: plain._learn(places, 0), batch))
    for name, (inner, outer) in RECIPES.items():
        robust = _Run(dataset, split, config, parse_recipe(name))
        bare = _Run(dataset, split, config)
        cases += [
            Case(name, lambda robust=robust: robust._learn(places, 0), batch),  # type: ignore[misc]
            Case(f"{name}, bare", lambda bare=bare, inner=inner, outer=outer: _bare(bare, places, inner, outer), batch),  # type: ignore[misc]
        ]
    seconds = record.measure(group, cases, unit="image", rounds=5, budget=20 if record.quick else 300)
    for name in RECIPES:
        record.ratio(f"{name} / its bare passes", seconds, name, f"{name}, bare", goal="<= 1.1")
        record.add(f"{name} / plain training", ratio(seconds, name, "plain training"))


def _bare(run: _Run, places: Tensor, inner: int, outer: int) -> None:
    """The passes alone, on the network as it is trained."""
    x, labels, network = run.dataset.pixels(places), run.dataset.labels[places], run.classifier
    fast = torch.autocast("cpu", torch.bfloat16, enabled=has_fast_bfloat16(torch.device("cpu")))
    network.eval().requires_grad_(False)
    for _ in range(inner):
        z = x.clone().requires_grad_(True)
        with fast:
            logits = network(z)
        torch.autograd.grad(F.cross_entropy(logits, labels), z)
    network.train().requires_grad_(True)
    steps = 1 if outer < 4 else outer  # free takes a step after each pass, TRADES one after both
    for _ in range(steps):
        with fast:
            losses = [F.cross_entropy(network(x), labels) for _ in range(outer // steps)]
        run.optimizer.zero_grad(set_to_none=True)
        torch.stack(losses).sum().backward()
        run.optimizer.step()
