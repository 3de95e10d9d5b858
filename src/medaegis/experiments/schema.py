"""What an experiment file may say: axes whose product are the cells, and settings; scales change some of both.

An axis names its values as the paper's table does, and says what each is here: `attack = { "CW-Linf" = "cw-linf" }`.
A plain list is a set of names that mean themselves: `attack = ["bim", "pgd"]`.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from medaegis.attacks.balls import parse_eps
from medaegis.attacks.catalogue import find_attack
from medaegis.attacks.engine import Attack
from medaegis.bench.campaign import ON_CLASSIFIER, Effort
from medaegis.bench.plan import EVERYTHING, Planned
from medaegis.bench.records.assessment import SMALLEST
from medaegis.bench.scene import any_cushion
from medaegis.errors import ConfigError
from medaegis.experiments.choices import (
    CLEAN,
    SAME,
    WORST,
    AttackChoice,
    Attacks,
    Backbones,
    Defences,
    Layers,
    MethodChoice,
    Methods,
    Training,
    Words,
    asked,
    check_settings,
)
from medaegis.guard.fitting import RECIPES
from medaegis.guard.shield_config import ShieldConfig
from medaegis.task import TaskName
from medaegis.validation import PictureSize

# What is measured of answers, by what images are labelled with.
ANSWERS: dict[str, TaskName] = {"classification": "single", "findings": "multi", "segmentation": "dense"}
SCALES = ("smoke", "cpu", "full")
Fractions = Annotated[tuple[float, ...], Field(min_length=4, max_length=4)]


class Experiment(BaseModel):
    """An experiment at one scale.

    Attributes:
        title, paper, table: what it repeats, such as "Table 3"; figures: the CSV beside it with the paper's own; notes:
            what differs.
        measures: "detection" (detectors and guards against attacks), "classification" (the classifier under attack),
            "findings" and "segmentation" (the same where images have several findings, or masks), "features" (how far
            mean activations can be pushed), "shift" (which way attacks move what the last layer is given), "attack
            time" (seconds that attacks take), "training time" (seconds and passes of an epoch).
        dataset .. direction: the axes. A cell for each combination that `exclude` does not name; an axis that is left
            out has one value, which is told nowhere. `dataset` names keys of `data`, `method` how classifiers are
            trained (robust training, or "none"), `cushion` also "float" (no
            rounding), `defence` detectors, or "shield" and "aegis"; `layers` what detectors and Shields read (none:
            the backbone's own), `layer` what is pushed, `reference` attacks whose shift others are compared with.
        exclude: tables of axis -> name, or names; a cell that has all of them is left out.
        data: key -> spec of a data set. A key without one is given by `--data KEY=SPEC`.
        images: at most so many of a data set; limit: at most so many of them judged, and as many learned from.
        split: by "patient", or by "image" as in the papers, which leaks; fractions: train, val, adv_train, adv_test.
        goal: "targeted" (a wrong class drawn for each image, which alone counts) or "untargeted" (any wrong class).
        steps, step_size: of attacks that iterate; None: their own.
        checks: effort of the controls and alarms beside the worst case over attacks on a classifier (`Effort`).
        training: settings of `TrainConfig`, of which a backbone or a method may have its own; shield: a recipe and
            settings of `ShieldConfig`.
        rows, columns: axes of the table, "metric" among them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    title: str
    paper: str
    table: str
    figures: str | None = None
    notes: tuple[str, ...] = ()
    measures: Literal[
        "detection", "classification", "findings", "segmentation", "features", "shift", "attack time", "training time"
    ]

    dataset: Words = Field(min_length=1)
    backbone: Backbones = Field(min_length=1)
    method: Methods = Field(default_factory=lambda: {CLEAN: MethodChoice(robust=CLEAN)}, min_length=1)
    cushion: Words = Field(default={"none": "none"}, min_length=1)
    defence: Defences = {}
    attack: Attacks = {}
    eps: Words = {}
    learned_from: Attacks = Field(default_factory=lambda: {SAME: AttackChoice(attack=SAME)})
    reference: Attacks = {}
    layers: Layers = {"own": ()}
    layer: Words = {}
    direction: tuple[Literal["clean", "up", "down"], ...] = ("clean", "up", "down")
    exclude: tuple[dict[str, str | tuple[str, ...]], ...] = ()

    data: dict[str, str] = {}
    size: PictureSize = 224
    channels: Literal["gray", "rgb"] = "rgb"
    images: int | None = Field(default=None, ge=1)
    limit: int | None = Field(default=None, ge=1)
    split: Literal["patient", "image"] = "patient"
    fractions: Fractions = (0.65, 0.12, 0.08, 0.15)
    seeds: tuple[int, ...] = Field(default=(0,), min_length=1)
    goal: Literal["targeted", "untargeted"] = "targeted"
    steps: int | None = Field(default=None, ge=1)
    step_size: float | None = Field(default=None, gt=0)
    checks: Effort = ON_CLASSIFIER
    training: Training = {}
    shield: dict[str, Any] = {}

    rows: tuple[str, ...] = ("dataset", "backbone", "defence")
    columns: tuple[str, ...] = ("attack", "metric")

    @field_validator("cushion")
    @classmethod
    def _known_cushions(cls, given: dict[str, str]) -> dict[str, str]:
        for value in given.values():
            if asked(any_cushion, value).random:
                raise ValueError(f"{value!r} is random; name the cushions that it draws from, one by one")
        return given

    @field_validator("checks")
    @classmethod
    def _some_effort(cls, given: Effort) -> Effort:
        if idle := [name for name, value in vars(given).items() if value <= 0]:
            raise ValueError(f"{idle[0]}: must be above 0")
        return given

    @field_validator("eps")
    @classmethod
    def _readable_eps(cls, given: dict[str, str]) -> dict[str, str]:
        for value in given.values():
            asked(lambda text: parse_eps(text, rounds=False), value)
        return given

    @field_validator("shield")
    @classmethod
    def _known_shield(cls, given: dict[str, Any]) -> dict[str, Any]:
        if given.get("recipe", "paper") not in RECIPES:
            raise ValueError(f"recipe: choose from {', '.join(RECIPES)}")
        own = {name: value for name, value in given.items() if name != "recipe"}
        check_settings(ShieldConfig, own, without=("seed", "taps"), filled={"taps": ("input",)})
        return given

    @model_validator(mode="after")
    def _whole(self) -> Self:
        needed = {
            "detection": ("defence", "attack"),
            **dict.fromkeys(ANSWERS, ("attack",)),
            "features": ("layer", "eps"),
            "shift": ("attack", "reference"),
            "attack time": ("attack",),
            "training time": (),
        }
        for name in needed[self.measures]:
            if not getattr(self, name):
                raise ValueError(f"{self.measures} needs the axis {name!r}")
        if SAME in {one.attack for one in self.attack.values()}:
            raise ValueError(f"attack: {SAME!r} is for the axis 'learned_from'")
        if {CLEAN, WORST} & {one.attack for one in self.learned_from.values()}:
            raise ValueError("learned_from: detectors learn from an attack")
        if {CLEAN, SAME, WORST} & {one.attack for one in self.reference.values()}:
            raise ValueError("reference: shifts are compared with that of an attack")
        if self.measures not in ANSWERS and CLEAN in {one.attack for one in self.attack.values()}:
            raise ValueError(f"attack: {CLEAN!r} is for what measures {', '.join(ANSWERS)}")
        if self.measures not in (*ANSWERS, "detection") and WORST in {one.attack for one in self.attack.values()}:
            raise ValueError(f"attack: {WORST!r} is for what measures detection, {', '.join(ANSWERS)}")
        if self.task_name != "single" and self.goal == "targeted":
            raise ValueError(f"{self.measures}: no other class is wanted of an image; say goal = 'untargeted'")
        if self.measures != "findings" and any(one.each_finding for one in self.attack.values()):
            raise ValueError("attack: each_finding is for what measures 'findings'")
        bare = [
            name
            for name, one in (*self.attack.items(), *self.reference.items())
            if one.eps is None and not _own_eps(one) and not self.eps
        ]
        if bare:
            raise ValueError(f"attack {bare[0]!r} has no eps, and there is no axis 'eps'")
        by_dataset: list[object] = [one.beta for one in self.method.values()]
        by_dataset += [one.components for one in (*self.attack.values(), *self.learned_from.values())]
        for name in {name for told in by_dataset if isinstance(told, dict) for name in told} - set(self.dataset):
            raise ValueError(f"by data set: there is no {name!r}; there is {', '.join(self.dataset)}")
        for one in self.exclude:
            for axis, names in one.items():
                if axis not in AXES:
                    raise ValueError(f"exclude: {axis!r} is no axis; those are {', '.join(AXES)}")
                for name in (names,) if isinstance(names, str) else names:
                    if name not in self.axis(axis):
                        known = ", ".join(self.axis(axis))
                        raise ValueError(f"exclude: {axis} has no {name!r}; it has {known}")
        for name in (*self.rows, *self.columns):
            if name not in (*AXES, "metric"):
                raise ValueError(f"rows and columns: {name!r} is no axis; those are {', '.join(AXES)}, metric")
        return self

    @property
    def task_name(self) -> TaskName:
        """What the images are labelled with."""
        return ANSWERS.get(self.measures, "single")

    def axis(self, name: str) -> tuple[str, ...]:
        """Names of the values of an axis."""
        if name == "seed":
            return tuple(map(str, self.seeds))
        return tuple(getattr(self, name))


AXES = (
    *("dataset", "backbone", "method", "seed", "layers", "cushion", "learned_from", "defence", "attack", "eps"),
    *("layer", "direction", "reference"),
)


def planned(choice: AttackChoice, eps: str, experiment: Experiment, dataset: str) -> Planned:
    """The attack on images of a data set as a cell of a campaign.

    One that looks for the smallest change has no eps to keep to.
    """
    entry = find_attack(choice.attack)
    text = SMALLEST if entry.minimal else choice.eps or eps
    walks = not entry.minimal and entry.attack.steps > 1
    step = choice.step_size or (experiment.step_size if walks and isinstance(entry.attack, Attack) else None)
    if choice.step is not None:
        step = parse_eps(choice.step, rounds=False) / parse_eps(text, rounds=False)
    return Planned(
        choice.name_for(dataset),
        EVERYTHING if entry.minimal else parse_eps(text, rounds=False),
        text,
        steps=choice.steps or (experiment.steps if walks else None),
        step_size=step,
        transferred=choice.surrogate is not None,
    )


def _own_eps(choice: AttackChoice) -> bool:
    return choice.attack in (CLEAN, SAME) or (choice.attack != WORST and find_attack(choice.attack).minimal)


def read_experiment(file: Path, scale: str) -> Experiment:
    """The experiment of a file at a scale: what the file says, with what its table `scale.<name>` says instead.

    Tables are merged name by name; everything else is replaced. At "full" the file may say nothing more.

    Raises:
        ConfigError: not to be read, no TOML, no such scale, or an entry that is unknown or out of its range.
    """
    if scale not in SCALES:
        raise ConfigError(f"--scale {scale}", "unknown", f"choose from {', '.join(SCALES)}")
    try:
        told = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(file, f"cannot be read ({error.strerror})", "name a TOML file or a preset") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(file, f"is no TOML: {error}", "mend that line") from None
    scales = told.pop("scale", {})
    if not isinstance(scales, dict) or set(scales) - set(SCALES):
        raise ConfigError(file, f"entry 'scale': holds {sorted(scales)}", f"name only {', '.join(SCALES)}")
    for name, value in scales.get(scale, {}).items():
        merges = isinstance(value, dict) and isinstance(told.get(name), dict)
        told[name] = {**told[name], **value} if merges else value
    try:
        return Experiment.model_validate(told)
    except ValidationError as error:
        found = error.errors()
        # A misspelt key first: what it leaves missing follows from it.
        first = next((one for one in found if one["type"] == "extra_forbidden"), found[0])
        where = ".".join(map(str, first["loc"])) or "the whole"
        allowed = f"; allowed are {', '.join(Experiment.model_fields)}" if first["type"] == "extra_forbidden" else ""
        remedy = "mend the entry; docs/experiments.md says what each may be"
        raise ConfigError(f"{file} at scale {scale}", f"entry {where!r:.80}: {first['msg']}{allowed}", remedy) from None
