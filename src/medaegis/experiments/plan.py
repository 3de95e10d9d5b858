"""From the cells of an experiment to the tasks that they share."""

from __future__ import annotations

import hashlib
import importlib.util
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from medaegis.attacks.balls import check_eps, parse_eps, whole_levels
from medaegis.attacks.catalogue import find_attack
from medaegis.bench.plan import Planned
from medaegis.detectors.registry import find_detector
from medaegis.errors import ConfigError, DataError
from medaegis.experiments.cells import is_excluded, settled
from medaegis.experiments.choices import CLEAN, GUARDS, SAME, WORST, AttackChoice, BackboneChoice, DefenceChoice
from medaegis.experiments.schema import ANSWERS, Experiment, planned
from medaegis.experiments.tasks import Source, TableCell, Task, as_told, everything
from medaegis.images.datasets import Dataset, load_dataset
from medaegis.images.splits import split_dataset
from medaegis.models.backbones import is_own, weights_file
from medaegis.progress import Progress, silent
from medaegis.robust import find_recipe
from medaegis.task import task_named

EACH = "attacked "  # and a number: the images of an attack on one finding, or of one of all attacks
SCORES = "scores "  # likewise, of the images of each attack
SURROGATE_SEED = 1_000_003  # added to the seed of a classifier that is attacked in another's place


def load_sources(
    experiment: Experiment, cells: Sequence[TableCell], given: Mapping[str, str], progress: Progress = silent
) -> dict[tuple[str, str], Source]:
    """The images of every data set of these cells, and seed, by their names on the axes.

    Args:
        given: specs by key, over those of the experiment.

    Raises:
        ConfigError: a key without a spec, or a spec for none.
        DataError: a spec, a folder or a split that does not fit.
    """
    names = dict.fromkeys(cell.place["dataset"] for cell in cells)
    keys = {experiment.dataset[name] for name in names}
    for key in set(given) - keys:
        raise ConfigError(f"--data {key}", "no data set of this experiment", f"choose from {', '.join(sorted(keys))}")
    specs = {**experiment.data, **given}
    loaded: dict[str, Dataset] = {}
    for key in dict.fromkeys(experiment.dataset[name] for name in names):
        if key not in specs:
            raise ConfigError(f"data set {key!r}", "the experiment does not say where it lies", f"--data {key}=SPEC")
        loaded[key] = load_dataset(
            specs[key],
            size=experiment.size,
            channels=experiment.channels,
            limit=experiment.images,
            seed=experiment.seeds[0],
            progress=progress,
        )
        _check_task(experiment, loaded[key])
    a, b, c, d = experiment.fractions
    return {
        (name, str(seed)): Source(
            loaded[key], split_dataset(loaded[key], by=experiment.split, seed=seed, fractions=(a, b, c, d))
        )
        for name, key in experiment.dataset.items()
        if name in names
        for seed in experiment.seeds
    }


def _check_task(experiment: Experiment, dataset: Dataset) -> None:
    wanted = task_named(experiment.task_name, len(dataset.classes))
    if experiment.measures != "training time" and dataset.task.name != wanted.name:
        problem = f"has {dataset.task.title}; what measures {experiment.measures!r} is for {wanted.title}"
        raise DataError(dataset.spec, problem, "give other images, or say what to measure of these")


def plan_cells(
    experiment: Experiment,
    cells: Sequence[TableCell],
    sources: Mapping[tuple[str, str], Source],
    device: str,
    threads: int = 1,
) -> list[TableCell]:
    """These cells of it with their tasks.

    Args:
        threads: of the processor, for each task.

    Raises:
        ConfigError: an attack on a Shield where there is none, or one that needs more classes; an eps below a grey
            level where pixels are rounded.
    """
    made = []
    for cell in cells:
        source = sources[cell.place["dataset"], cell.place["seed"]]
        tasks = _Tasks(experiment, cell.place, source, device, threads)
        made.append(replace(cell, task=tasks.of(experiment.measures)))
    return made


@dataclass(frozen=True)
class _Tasks:
    """The tasks of one cell."""

    experiment: Experiment
    place: Mapping[str, str]
    source: Source
    device: str
    threads: int

    def of(self, measures: str) -> Task:
        """That of the figures."""
        ways = {
            "detection": self.detection,
            **dict.fromkeys(ANSWERS, self.answers),
            "attack time": self.attack_time,
            "training time": lambda: self._task("figures", {"of": "training time"}),
            "shift": self.shift,
            "features": self.features,
        }
        return ways[measures]()

    def detection(self) -> Task:
        choice = self.experiment.attack[self.place["attack"]]
        if choice.attack != WORST:
            attacked = self._attacked("test", choice)
            needs = {"clean": self._scores(), "hostile": self._scores(attacked=attacked), "attacked": attacked}
            return self._task("figures", {"of": "detection"}, **needs)
        each = [self._attacked("test", one) for one in self._others()]
        needs = {"clean": self._scores(), **_numbered(each)}
        needs |= {f"{SCORES}{k}": self._scores(attacked=attacked) for k, attacked in enumerate(each)}
        return self._task("figures", {"of": "detection", "within": self._within}, **needs)

    def _scores(self, **attacked: Task) -> Task:
        """Of the clean test images, or of attacked ones."""
        if self._defence in GUARDS:
            return self._task("scores", {}, guard=self._guard, **attacked)
        return self._task("scores", {}, detector=self._detector, reading=self._reading("test", **attacked))

    def _others(self) -> list[AttackChoice]:
        """The attacks that have a cell here, at this eps or one of their own."""
        found = []
        for name, choice in self.experiment.attack.items():
            place = settled(self.experiment, {**self.place, "attack": name})
            if choice.attack not in (CLEAN, WORST) and not choice.each_finding and place is not None:
                found += [] if is_excluded(self.experiment, place) else [choice]
        return found

    @property
    def _within(self) -> float:
        return parse_eps(self.experiment.eps[self.place["eps"]], rounds=False)

    def answers(self) -> Task:
        choice = self.experiment.attack[self.place["attack"]]
        told: dict[str, Any] = {"of": self.experiment.measures}
        if choice.attack == CLEAN:
            return self._task("figures", told)
        if choice.attack == WORST:
            each = [self._attacked("all", one) for one in self._others()]
            checks = self._task("checks", {"effort": asdict(self.experiment.checks)}, **_numbered(self._at_every_eps()))
            return self._task("figures", told | {"within": self._within}, checks=checks, **_numbered(each))
        if choice.each_finding:
            each = [self._attacked("all", choice, finding=k) for k in range(len(self.source.dataset.classes))]
            return self._task("figures", told, **_numbered(each))
        return self._task("figures", told, attacked=self._attacked("all", choice))

    def _at_every_eps(self) -> list[Task]:
        """The images of all attacks on this classifier, each once."""
        at = [replace(self, place={**self.place, "eps": eps}) for eps in self.experiment.eps]
        found = [tasks._attacked("all", one) for tasks in at for one in tasks._others()]
        return list({task.key: task for task in found}.values())

    def attack_time(self) -> Task:
        choice = self.experiment.attack[self.place["attack"]]
        return self._task("figures", {"of": "attack time"}, attacked=self._attacked("all", choice))

    def shift(self) -> Task:
        choices = self.experiment.attack[self.place["attack"]], self.experiment.reference[self.place["reference"]]
        hostile, reference = (self._reading("test", attacked=self._attacked("test", choice)) for choice in choices)
        return self._task("figures", {"of": "shift"}, clean=self._reading("test"), hostile=hostile, reference=reference)

    def features(self) -> Task:
        value = parse_eps(self.experiment.eps[self.place["eps"]])  # whole grey levels, whatever the Cushion
        layers = sorted(set(self.experiment.layer.values()))
        told = {"layers": layers, "levels": int(whole_levels(torch.tensor(value))), "steps": self.experiment.steps}
        pushed = self._task("pushed", told)
        of = {"layer": self.experiment.layer[self.place["layer"]], "direction": self.place["direction"]}
        return self._task("figures", {"of": "features", **of}, pushed=pushed)

    @property
    def _choice(self) -> DefenceChoice:
        return self.experiment.defence[self.place["defence"]]

    @property
    def _defence(self) -> str:
        return self._choice.detector

    @property
    def _seed(self) -> int:
        return int(self.place["seed"])

    @property
    def _taps(self) -> list[str] | None:
        layers = self.place.get("layers")
        named = next(iter(self.experiment.layers)) if layers is None else layers
        return list(self.experiment.layers[named]) or None

    @cached_property
    def _scene(self) -> dict[str, Any]:
        """What says which images are attacked and judged, and behind what."""
        return {
            "cushion": self.experiment.cushion[self.place.get("cushion", next(iter(self.experiment.cushion)))],
            "taps": self._taps,
            "limit": self.experiment.limit,
            "seed": self._seed,
            "aim": "drawn class" if self.experiment.goal == "targeted" else "any wrong class",
        }

    def _task(self, kind: Any, told: Mapping[str, Any], **needs: Task) -> Task:
        """A task in this cell's scene; it always needs the classifier."""
        needs = {"classifier": self._classifier(), **needs}
        return Task(kind, {**self._scene, **told}, needs, self.source, self.device, self.threads)

    def _classifier(self, backbone: str | None = None) -> Task:
        """The one under attack, or one on this backbone that is attacked in its place."""
        victim = self.experiment.backbone[self.place["backbone"]]
        seed = self._seed if backbone is None else self._seed + SURROGATE_SEED
        network = victim if backbone is None or backbone == SAME else BackboneChoice(backbone=backbone)
        told = {**self.experiment.training, **network.training, "backbone": network.backbone, "seed": seed}
        if given := _given(network.backbone, told.get("weights")):
            told["given"] = given
        method, needs = self.experiment.method[self.place["method"]], {}
        told |= {"text": True} if method.text else {}
        if backbone is None and method.robust != CLEAN:  # who attacks with another network has a plain one
            plain = Task("classifier", told, {}, self.source, self.device, self.threads)
            needs = {"helper": plain} if "helper" in find_recipe(method.robust)[0].takes else {}
            needs |= {"start": plain} if method.text else {}
            told = {**told, **method.training, "robust": method.told_for(self.place["dataset"])}
        return Task("classifier", told, needs, self.source, self.device, self.threads)

    @cached_property
    def _guard(self) -> Task:
        recipe = {"recipe": "paper", "updates": 2880, **self.experiment.shield}
        told = {"cushion": self._scene["cushion"], "taps": self._taps, "seed": self._seed, "shield": recipe}
        return Task("guard", told, {"classifier": self._classifier()}, self.source, self.device, self.threads)

    def _attacked(self, part: str, choice: AttackChoice, **more: Any) -> Task:
        one = planned(choice, self.experiment.eps.get(self.place["eps"], ""), self.experiment, self.place["dataset"])
        self._check(one)
        needs = {} if choice.surrogate is None else {"surrogate": self._classifier(choice.surrogate)}
        if find_attack(choice.attack).adaptive:
            needs["guard"] = self._guard
        return self._task("attacked", {"part": part, **as_told(one), "value": repr(one.value), **more}, **needs)

    def _check(self, one: Planned) -> None:
        entry, classes = find_attack(one.attack), len(self.source.dataset.classes)
        if entry.adaptive and (self.experiment.measures != "detection" or self._defence not in GUARDS):
            where = ", ".join(f"{axis} {name}" for axis, name in self.place.items() if name)
            raise ConfigError(f"attack {one.attack!r}", f"aims at a Shield; at {where} there is none", "exclude that")
        if entry.classes > classes:
            problem = f"needs {entry.classes} classes, there are {classes}"
            raise ConfigError(f"attack {one.attack!r}", problem, "drop it")
        if self._scene["cushion"] != "float":
            check_eps(one.eps_text, one.eps)

    def _reading(self, part: str, **attacked: Task) -> Task:
        return self._task("reading", {"part": part}, **attacked)

    @cached_property
    def _detector(self) -> Task:
        choice = self.experiment.learned_from[self.place["learned_from"]]
        needs = {"clean": self._reading("learn")}
        if find_detector(self._defence).make().needs_attacked:
            choice = self.experiment.attack[self.place["attack"]] if choice.attack == SAME else choice
            needs["hostile"] = self._reading("learn", attacked=self._attacked("learn", choice))
        return self._task("detector", {"detector": self._defence, "options": self._choice.options}, **needs)


def _numbered(each: Sequence[Task]) -> dict[str, Task]:
    return {f"{EACH}{k}": attacked for k, attacked in enumerate(each)}


def _given(backbone: str, weights: str | None) -> dict[str, str]:
    """SHA-256 of the files that a classifier begins with: weights, and the module of a network of one's own."""
    asked = Path(weights) if weights is not None and weights != "imagenet" else None
    files = {"weights": weights_file(backbone, "imagenet" if weights == "imagenet" else asked)}
    if is_own(backbone):
        found = importlib.util.find_spec(backbone.partition(":")[0])
        files["network"] = Path(found.origin) if found and found.origin else None
    return {name: hashlib.sha256(file.read_bytes()).hexdigest() for name, file in files.items() if file}


def shared(cells: Sequence[TableCell]) -> Iterator[tuple[Task, int]]:
    """Every task with the number of cells that use it, in the order they are done."""
    users = Counter(task.key for cell in cells for task in everything([cell]))
    return ((task, users[task.key]) for task in everything(cells))
