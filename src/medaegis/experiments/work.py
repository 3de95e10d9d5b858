"""How each task is done, by what the rest of the package does already; what comes out is handed to the store.

Classifiers, guards and detectors are written as folders of their own, by the functions that make them, so that a killed
training goes on where it was. Everything else is a few tensors.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from medaegis.attacks.balls import parse_eps
from medaegis.bench.analyse.shifts import STEPS, stress_test
from medaegis.bench.campaign import Campaign, Effort
from medaegis.bench.checks.classifier import run_checks
from medaegis.bench.outcome import as_scores, own_ones, pixels_of
from medaegis.bench.records.evaluation import Control
from medaegis.bench.scene import Scene, any_cushion
from medaegis.bench.store import Piece, Store
from medaegis.bench.surrogates import surrogate_of
from medaegis.detectors.reader import Reading
from medaegis.detectors.registry import find_detector, load_detector
from medaegis.experiments.cost import account
from medaegis.experiments.figures import (
    Figure,
    answers,
    attack_time,
    detection,
    each_finding,
    everyone,
    features,
    model_area,
    shift,
    training_time,
    worst_answers,
    worst_detection,
)
from medaegis.experiments.plan import EACH, SCORES
from medaegis.experiments.schema import ANSWERS
from medaegis.experiments.store import Pieces
from medaegis.experiments.tasks import Kind, Task, attack_of, settings_of
from medaegis.guard.fitting import fit_guard, shield_config
from medaegis.guard.guard import Guard
from medaegis.models.backbones import create_backbone, is_own
from medaegis.models.classifier import INPUT, Classifier
from medaegis.models.learning import TrainConfig, TrainingRecipe
from medaegis.models.store import load_classifier, read_training
from medaegis.models.training import train_classifier
from medaegis.progress import Progress, silent
from medaegis.robust import Robust, parse_recipe
from medaegis.zero_shot import Contrastive

Value = TypeVar("Value")
FURTHER = "images of a check "  # and a number
_KEPT = 2  # classifiers and scenes in memory: tasks come ordered by them


@dataclass(frozen=True)
class Made:
    """What a task gave, nothing where it wrote a folder itself; and how long it took."""

    tensors: Piece | None = None
    figures: tuple[Figure, ...] = ()
    checks: tuple[Control, ...] = ()
    seconds: float = 0.0


class Workshop:
    """Does tasks whose needs are finished.

    Args:
        pieces: where those lie, and where folders are to be written.
        device: where to compute.
    """

    def __init__(self, pieces: Pieces, device: str = "cpu") -> None:
        self.pieces, self.device = pieces, torch.device(device)
        self._classifiers: dict[str, Classifier] = {}
        self._scenes: dict[str, Scene] = {}
        self._models: dict[Scene, tuple[Figure, ...]] = {}

    def make(self, task: Task, progress: Progress = silent) -> Made:
        """Do one task; called again after a kill it goes on where it was, where there is a way to."""
        ways: dict[Kind, Callable[[Task, Progress], Made]] = {
            "classifier": self._train,
            "guard": self._fit_guard,
            "attacked": self._attack,
            "reading": self._look,
            "detector": self._fit_detector,
            "scores": self._score,
            "pushed": self._push,
            "checks": self._check,
            "figures": lambda task, _: Made(figures=self._count(task)),
        }
        before, began = torch.get_num_threads(), time.perf_counter()
        torch.set_num_threads(task.threads)
        try:
            return replace(ways[task.kind](task, progress), seconds=time.perf_counter() - began)
        finally:
            torch.set_num_threads(before)

    # ---- tasks that write folders

    def _train(self, task: Task, progress: Progress) -> Made:
        config, source = TrainConfig(**settings_of(task), device=str(self.device)), task.source
        if "start" in task.needs:
            weights = self.pieces.folder_of(task.needs["start"]) / "network.safetensors"
            config = config.model_copy(update={"weights": weights})
        recipe: TrainingRecipe | None = None
        if "robust" in task.told:
            recipe = self._recipe(task)
        elif "text" in task.told:
            recipe = Contrastive(source.dataset.classes)
        train_classifier(source.dataset, source.split, config, self.pieces.folder_of(task), progress, recipe=recipe)
        return Made()

    def _recipe(self, task: Task) -> Robust:
        asked = task.told["robust"]
        helper = self._load_classifier(task.needs["helper"]) if "helper" in task.needs else None
        eps = None if asked["eps"] is None else parse_eps(asked["eps"], rounds=False)
        return parse_recipe(asked["robust"], eps=eps, beta=asked["beta"], helper=helper)

    def _fit_guard(self, task: Task, progress: Progress) -> Made:
        classifier = self._around(task)
        told = dict(task.told["shield"])
        recipe, updates = told.pop("recipe"), told.pop("updates")
        config = shield_config(recipe, classifier, updates=updates, seed=task.told["seed"])
        if config.taps != (INPUT,) and task.told["taps"]:
            told["taps"] = tuple(task.told["taps"])
        fit_guard(
            classifier,
            task.source.dataset,
            task.source.split,
            cushion=any_cushion(task.told["cushion"]),
            config=type(config).model_validate({**config.model_dump(), **told}),
            out_dir=self.pieces.folder_of(task),
            progress=progress,
        )
        return Made()

    def _fit_detector(self, task: Task, progress: Progress) -> Made:
        clean = self._read(task.needs["clean"])
        hostile = self._read(task.needs["hostile"]) if "hostile" in task.needs else None
        labels = self.scene(task).learn.sample.labels
        self.scene(task).check_enough([task.told["detector"]])
        detector = find_detector(task.told["detector"]).make(**task.told["options"])
        detector.fit(clean, labels, attacked=hostile, seed=task.told["seed"], progress=progress)
        detector.save(self.pieces.folder_of(task))
        return Made()

    # ---- tasks that give tensors

    def _attack(self, task: Task, progress: Progress) -> Made:
        one, campaign = attack_of(task), self._campaign(task)
        chunks = self.pieces.folder_of(task).with_suffix(".chunks")
        piece = replace(campaign, store=Store(chunks)).attack(one, progress)
        told = account(campaign.attacked(one), campaign.sample.pixels, piece)
        return Made({name: values.contiguous() for name, values in piece.items()}, told)

    def _look(self, task: Task, progress: Progress) -> Made:
        reading = self.scene(task).reader.read(self._pixels(task), progress=progress)
        return Made({"logits": reading.logits.cpu()} | {f"of {tap}": v.cpu() for tap, v in reading.features.items()})

    def _score(self, task: Task, progress: Progress) -> Made:
        if "guard" in task.needs:
            sample = self.scene(task).test.sample
            pixels = pixels_of(self._tensors(task.needs["attacked"])) if "attacked" in task.needs else sample.pixels
            found = self._load_guard(task.needs["guard"]).judge(pixels, ids=sample.ids, seed=sample.seed).score
        else:
            detector = load_detector(self.pieces.folder_of(task.needs["detector"]))
            found = detector.score(self._read(task.needs["reading"]))
        return Made({"scores": as_scores(found.cpu())})

    def _push(self, task: Task, progress: Progress) -> Made:
        scene = self.scene(task)
        sample, layers = scene.test.sample, tuple(task.told["layers"])
        found = stress_test(
            scene.victim,
            sample.pixels,
            sample.labels,
            sample.ids,
            layers,
            [task.told["levels"]],
            seed=task.told["seed"],
            steps=task.told["steps"] or STEPS,
            progress=progress,
        )
        means = {f"clean {tap}": value for tap, value in found.clean.items()}
        for direction, pushed in (("down", found.down), ("up", found.up)):
            means |= {f"{direction} {tap}": values[0] for tap, values in pushed.items()}
        told = {name: torch.tensor(value, dtype=torch.float64) for name, value in means.items()}
        return Made({**told, "n": torch.tensor(len(sample))})

    def _check(self, task: Task, progress: Progress) -> Made:
        """Controls and alarms of attacks on a classifier, on the images it gets right; and what further attacks made.

        Of findings and masks on all images.
        """
        every = replace(everyone(self.scene(task).test), effort=Effort(**task.told["effort"]))
        right = every.sample.right
        rows = (right if task.source.dataset.task.name == "single" else torch.ones_like(right)).nonzero().squeeze(1)
        chunks = Store(self.pieces.folder_of(task).with_suffix(".chunks"))
        outcomes = [
            (attack_of(other), {name: t if name == "cost" else t[rows] for name, t in self._tensors(other).items()})
            for other in task.needs.values()
            if other.kind == "attacked"
        ]
        if not len(rows) or not own_ones(outcomes):
            return Made({})
        controls, further = run_checks(replace(every.only(rows), store=chunks), outcomes, progress)
        clean, made = every.sample.pixels, {}
        for k, (_, piece) in enumerate(further):
            tried = rows[piece["tried"]]
            made[f"{FURTHER}{k}"] = clean.index_put((tried,), pixels_of(piece)[piece["tried"]])
        return Made(made, checks=tuple(controls))

    def _count(self, task: Task) -> tuple[Figure, ...]:
        of = task.told["of"]
        if of == "training time":
            return training_time(read_training(self.pieces.folder_of(task.needs["classifier"])))
        if of == "attack time":
            return attack_time(self._tensors(task.needs["attacked"]))
        scene = self.scene(task)
        if of == "features":
            return features(self._tensors(task.needs["pushed"]), task.told["layer"], task.told["direction"])
        if of == "shift":
            return shift(scene, *(self._tensors(task.needs[name]) for name in ("clean", "hostile", "reference")))
        attacked = self._tensors(task.needs["attacked"]) if "attacked" in task.needs else None
        each, within = self._numbered(task, EACH), task.told.get("within")
        if of in ANSWERS:
            if within is not None:
                made = self._tensors(task.needs["checks"])
                return worst_answers(scene.test, [*each, *({"images": images} for images in made.values())], within)
            return each_finding(scene.test, each) if each else answers(everyone(scene.test), attacked)
        clean = self._tensors(task.needs["clean"])["scores"]
        if within is not None:
            found = worst_detection(scene, clean, self._numbered(task, SCORES), each, within)
        else:
            assert attacked is not None, "detection always attacks"
            found = detection(scene, clean, self._tensors(task.needs["hostile"])["scores"], attacked["fooled"].bool())
        return (*found, *self._model(scene))

    def _numbered(self, task: Task, role: str) -> list[Piece]:
        """What it needs in this role and a number, in their order."""
        return [self._tensors(other) for name, other in task.needs.items() if name.startswith(role)]

    def _model(self, scene: Scene) -> tuple[Figure, ...]:
        """The classifier's own figure, the same in all cells of a scene."""
        if scene not in self._models:
            self._models = {scene: model_area(scene)}
        return self._models[scene]

    # ---- what they are made from

    def scene(self, task: Task) -> Scene:
        """Classifier, Cushion and images that a task is about."""
        told, classifier = task.told, task.needs["classifier"]
        key = repr((classifier.key, [told[name] for name in ("cushion", "taps", "limit", "seed", "aim")]))

        def build() -> Scene:
            around = self._around(task)
            return Scene(
                around,
                any_cushion(told["cushion"]),
                task.source.dataset,
                task.source.split,
                tuple(tap for tap in around.taps if tap != INPUT),
                told["limit"],
                told["seed"],
                Store(Path()),  # each attack is given one of its own
                told["aim"],
            )

        return _kept(self._scenes, key, build)

    def _campaign(self, task: Task) -> Campaign:
        scene = self.scene(task)
        campaign = scene.learn if task.told["part"] == "learn" else scene.test
        if task.told["part"] == "all":
            campaign = replace(everyone(campaign), finding=task.told.get("finding"))
        if "guard" in task.needs:
            campaign = campaign.against(self._load_guard(task.needs["guard"]))
        if "surrogate" in task.needs:
            other, around = self._load_classifier(task.needs["surrogate"]), self._around(task)
            alike = task.needs["surrogate"].told["backbone"] == task.needs["classifier"].told["backbone"]
            other = _tapped(other, task.told["taps"]) if alike else other  # another network names its modules otherwise
            campaign = replace(campaign, surrogate=surrogate_of([other], around))
        return campaign

    def _pixels(self, task: Task) -> Tensor:
        """The images of a reading."""
        if "attacked" in task.needs:
            return pixels_of(self._tensors(task.needs["attacked"]))
        return self._campaign(task).sample.pixels

    def _read(self, task: Task) -> Reading:
        """A reading, with its images and the reader for detectors that look again."""
        stored = self._tensors(task)
        reader = self.scene(task).reader
        features = {tap: stored[f"of {tap}"].to(reader.device) for tap in reader.taps}
        return Reading(stored["logits"].to(reader.device), features, self._pixels(task), reader)

    def _tensors(self, task: Task) -> Piece:
        return self.pieces.tensors(task)

    def _around(self, task: Task) -> Classifier:
        return _tapped(self._load_classifier(task.needs["classifier"]), task.told["taps"])

    def _load_classifier(self, task: Task) -> Classifier:
        def load() -> Classifier:
            return load_classifier(self.pieces.folder_of(task), _factory(task.told["backbone"])).to(self.device)

        return _kept(self._classifiers, task.key, load)

    def _load_guard(self, task: Task) -> Guard:
        factory = _factory(task.needs["classifier"].told["backbone"])
        return Guard.load(self.pieces.folder_of(task), factory=factory).to(self.device)


def _kept(cache: dict[str, Value], key: str, make: Callable[[], Value]) -> Value:
    """The value of a key, made if it is none of the last few."""
    if key not in cache:
        while len(cache) >= _KEPT:
            del cache[next(iter(cache))]
        cache[key] = make()
    return cache[key]


def _tapped(classifier: Classifier, taps: Sequence[str] | None) -> Classifier:
    """The classifier with other taps, where some are named."""
    return classifier if not taps else classifier.around(classifier.network, taps=taps)


def _factory(backbone: str) -> Callable[..., nn.Module] | None:
    """What builds a network of one's own, which the experiment named; None for one that medaegis builds."""
    return partial(create_backbone, backbone) if is_own(backbone) else None
