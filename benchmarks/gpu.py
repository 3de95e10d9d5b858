"""A CUDA device against the processor: the same results, nothing that waits in the loop, and speed.

Ends within eight minutes on one GPU, each part within its share of the time. Without a CUDA device, or with `--quick`,
the processor stands in for it, which shows that it runs and says nothing else.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.record import Record
from benchmarks.shield import training
from benchmarks.subjects import as_classifier, guarded, near_pictures, pictures, splitting_network
from benchmarks.timing import Case, Ratio
from medaegis.attacks.catalogue import find_attack
from medaegis.attacks.engine import Attack
from medaegis.attacks.losses.answer import CrossEntropy
from medaegis.attacks.objective import Goal
from medaegis.attacks.victim import Victim
from medaegis.cushions import parse_cushion
from medaegis.detectors.density import KernelDensity
from medaegis.detectors.reader import Reader
from medaegis.guard.guard import Guard

ABOUT = (
    "Results on a CUDA device beside those of the processor: JPEG must be equal to the bit, verdicts equal but for the "
    "rounding of float32, attacks as successful; then the steps of attacks with PyTorch set to raise where anything "
    "waits for the device; then speed at 224 px: the loop over the bare bfloat16 gradient, WB on whole guards, one "
    "Shield's updates."
)
EPS = 8 / 255
PARTS = 6  # that share the time
SECONDS = 420.0
CUSHIONS = ("jpeg:50", "jpeg:80", "jpeg:80:444", "jpeg:95", "median:3", "bits:3")
ATTACKS = ("fgsm", "bim", "cw-linf", "apgd-ce", "wb", "selective")


def run(record: Record) -> None:
    real = torch.cuda.is_available() and not record.quick
    device = torch.device("cuda" if real else "cpu")
    size, networks, count = (224, ("resnet50", "vgg16"), 64) if real else (64, ("resnet18",), 6)
    record.settings(device=torch.cuda.get_device_name() if real else "cpu", size=size, networks=", ".join(networks))
    _same_pixels(record, device, size)
    images = near_pictures(2 * count, size, seed=record.seed)
    for name in networks:
        model = splitting_network(name, images, seed=record.seed)
        guard = guarded(as_classifier(model, name, size=size), seed=record.seed)
        away = _moved(guard, device)
        _same_verdicts(record, guard, away, images)
        _same_attacks(record, guard, away, images[: count // 2])
        _nothing_waits(record, away, images[: count // 2].to(device))
        _speed(record, name, away, images[:count].to(device))
    _shield(record, device, size, 32 if real else 4)


def _moved(guard: Guard, device: torch.device) -> Guard:
    """A copy of the guard on the device."""
    return Guard(copy.deepcopy(guard.classifier), guard.cushion, copy.deepcopy(guard.bank), tnr=guard.tnr).to(device)


def _exactly(value: float) -> Ratio:
    return Ratio(value, value, value)


def _same_pixels(record: Record, device: torch.device, size: int) -> None:
    """Of Cushions: pixels that differ, of all."""
    for channels in (1, 3):
        drawn = pictures(32, channels, size + 3, seed=record.seed).float() / 255
        noise = torch.randint(0, 256, drawn.shape, generator=torch.Generator().manual_seed(record.seed)) / 255
        for spec in CUSHIONS:
            cushion, x = parse_cushion(spec), torch.cat([drawn, noise])
            other = float((cushion(x) != cushion(x.to(device)).cpu()).float().mean())
            record.add(f"{spec}, {channels} channels: pixels that differ", _exactly(other), goal="<= 0")


def _same_verdicts(record: Record, guard: Guard, away: Guard, images: Tensor) -> None:
    here, there = guard.judge(images), away.judge(images)
    name = guard.classifier.backbone
    scale = float(here.logits.abs().max())
    logits = float((here.logits - there.logits).abs().max()) / scale
    record.add(f"{name}: logits, largest difference by the largest logit", _exactly(logits), goal="<= 0.001")
    other = float((here.predicted != there.predicted).float().mean())
    record.add(f"{name}: diagnoses that differ", _exactly(other), goal="<= 0")
    score = float(((here.score - there.score).abs() / here.score.abs().clamp_min(1)).max())
    record.add(f"{name}: suspicion, largest difference", _exactly(score), goal="<= 0.01")
    labels, readers = (
        torch.arange(len(images)) % 2,
        [Reader(one.classifier, cushion=one.cushion) for one in (guard, away)],
    )
    scores = [KernelDensity(taps=None).fit(r.read(images), labels, seed=0).score(r.read(images)).cpu() for r in readers]
    apart = float(((scores[0] - scores[1]).abs() / scores[0].abs().clamp_min(1)).max())
    record.add(f"{name}: kernel density, largest difference", _exactly(apart), goal="<= 0.01")


def _same_attacks(record: Record, guard: Guard, away: Guard, images: Tensor) -> None:
    """Shares of the images that each attack turns: float32 gradients on both sides, the same random starts."""
    labels = guard.judge(images).predicted
    for name in ATTACKS:
        attack = find_attack(name).attack.with_options(steps=10)
        fooled = [
            attack.run(one.victim(dtype=torch.float32), images, labels, eps=EPS, targets=1 - labels).fooled
            for one in (guard, away)
        ]
        other = float((fooled[0] != fooled[1]).float().mean())
        record.add(f"{guard.classifier.backbone}, {name}: successes that differ", _exactly(other), goal="<= 0.05")


@contextmanager
def _no_wait(device: torch.device) -> Iterator[None]:
    """PyTorch raises where the host waits for the device."""
    if device.type != "cuda":
        yield
        return
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def _nothing_waits(record: Record, guard: Guard, x: Tensor) -> None:
    labels = guard.judge(x).predicted
    victim, goal, eps = guard.victim(), Goal(labels, 1 - labels), torch.full_like(x[:, :1, :1, :1], EPS)
    for name in ATTACKS:
        attack = find_attack(name).attack.with_options(steps=3)
        assert isinstance(attack, Attack)
        attack.descend(victim, x, goal, eps, x)  # what is set up once may wait
        with _no_wait(x.device):
            attack.descend(victim, x, goal, eps, x)
    record.note(f"{guard.classifier.backbone}: no step of {', '.join(ATTACKS)} waits for the device.")


def _speed(record: Record, name: str, guard: Guard, x: Tensor) -> None:
    labels = guard.judge(x).predicted
    bare, victim = Victim(guard.classifier), guard.victim()
    eps = torch.full_like(x[:, :1, :1, :1], EPS)
    plain = Attack(objective=CrossEntropy(), steps=10)
    wb = find_attack("wb").attack.with_options(steps=10)
    assert isinstance(wb, Attack)
    goal, aimed = Goal(labels), Goal(labels, 1 - labels)
    work = 10 * len(x)
    cases = [
        _case("bare gradient", partial(_bare, bare, x, labels, 10), work, x.device),
        _case("loop", lambda: plain.descend(bare, x, goal, eps, x), work, x.device),
        _case("WB on the guard", lambda: wb.descend(victim, x, aimed, eps, x), work, x.device),
    ]
    budget = 5 if record.quick else SECONDS / PARTS
    seconds = record.measure(f"{name}, batch {len(x)}", cases, unit="image-step", rounds=7, budget=budget)
    record.ratio(f"{name}: loop / bare gradient", seconds, "loop", "bare gradient", goal="<= 1.1")
    record.ratio(f"{name}: WB on the guard / bare gradient", seconds, "WB on the guard", "bare gradient")


def _case(name: str, work: Callable[[], object], count: int, device: torch.device) -> Case:
    """Timed to the end of what the device was given."""

    def done() -> None:
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()

    return Case(name, done, work=count)


def _bare(victim: Victim, x: Tensor, labels: Tensor, steps: int) -> None:
    """The least there is to do: loss and gradient of the network itself."""
    classifier = victim.fast
    z = ((x - classifier.mean) / classifier.std).to(classifier.dtype, memory_format=torch.channels_last)
    z.requires_grad_(True)
    for _ in range(steps):
        torch.autograd.grad(F.cross_entropy(classifier.network(z).float(), labels, reduction="sum"), z)


def _shield(record: Record, device: torch.device, size: int, batch: int) -> None:
    """Updates of one Shield, the default recipe, and that its loss falls."""
    learning = training("resnet18", size, batch, record.seed, device=device)
    losses, began, update = [], time.perf_counter(), 0
    while time.perf_counter() - began < (3 if record.quick else SECONDS / PARTS) and update < 200:
        losses.append(learning._update(update))
        update += 1
    rate = update / (time.perf_counter() - began)
    record.note(
        f"One Shield at {size} px, batch {batch} + {batch}: {rate:.2f} updates a second, loss {losses[-1]:.3f}."
    )
