"""Guarded inference against the bare classifier: throughput, what each part costs, and peak memory."""

from __future__ import annotations

import sys

import torch

from benchmarks import memory
from benchmarks.record import Record
from benchmarks.subjects import as_classifier, guarded, near_pictures, splitting_network
from benchmarks.timing import Case, Ratio

ABOUT = (
    "`Guard.inspect` (JPEG-80, Shields of the default recipe, verdicts in float32) against the classifier alone: as a "
    "user has it, the same in channels-last layout, and with batch norm folded, which the guard does by itself. Half "
    "of the images are of either class, so that two Shields work. Memory: resident memory of the whole process at its "
    "peak, each way in a process of its own."
)
AS_BUILT, LAYOUT, FOLDED, GUARDED = "bare, as built", "bare, channels-last", "bare, folded", "guarded"


def run(record: Record) -> None:
    name, size, batch = ("resnet18", 64, 4) if record.quick else ("resnet50", 224, 32)
    record.settings(network=name, size=size, batch=batch, cushion="jpeg:80", arithmetic="float32")
    images = near_pictures(batch, size, seed=record.seed)
    model = splitting_network(name, images, seed=record.seed)
    classifier = as_classifier(model, name, size=size)
    guard = guarded(classifier, seed=record.seed)
    folded = classifier.frozen()
    last = images.contiguous(memory_format=torch.channels_last)
    taps = guard.bank.taps
    cushioned = guard.cushion(images)
    seen = folded.activations(cushioned, taps=taps)
    assert seen.logits is not None
    predicted = seen.logits.argmax(1)
    cases = [
        Case(AS_BUILT, lambda: model(images), batch),
        Case(LAYOUT, lambda: classifier(last), batch),
        Case(FOLDED, lambda: folded(images), batch),
        Case(GUARDED, lambda: guard.inspect(images), batch),
        Case("part: cushion", lambda: guard.cushion(images), batch),
        Case("part: network with taps", lambda: folded.activations(cushioned, taps=taps), batch),
        Case("part: Shields", lambda: guard.bank(seen.features, predicted), batch),
    ]
    with torch.inference_mode():
        seconds = record.measure(f"batch {batch}", cases, unit="image", rounds=8, budget=5 if record.quick else 55)
    for bare in (AS_BUILT, LAYOUT, FOLDED):
        record.ratio(f"throughput: {GUARDED} / {bare}", seconds, bare, GUARDED, goal=">= 0.90")
    for part in ("part: cushion", "part: Shields"):
        record.ratio(f"share of the guarded time: {part.removeprefix('part: ')}", seconds, part, GUARDED)
    _memory(record, name, size, batch)


def _memory(record: Record, name: str, size: int, batch: int) -> None:
    if sys.platform != "linux":
        record.note("Memory was not measured: the peak of a process can be set back on Linux only.")
        return
    threads = torch.get_num_threads()
    peaks = {way: memory.measure(way, name, size, batch, threads)["peak"] for way in memory.WAYS}
    record.settings(**{f"peak memory, {way}": f"{value / 2**20:.0f} MiB" for way, value in peaks.items()})
    for way in ("bare", "folded"):
        value = peaks["guarded"] / peaks[way]
        record.add(f"peak memory: {GUARDED} / {way}", Ratio(value, value, value), goal="<= 1.2")
