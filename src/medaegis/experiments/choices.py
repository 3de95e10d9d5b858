"""The values on the axes of an experiment that are more than a word: attacks, defences, backbones, methods, layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from medaegis.attacks.balls import parse_eps
from medaegis.attacks.catalogue import find_attack
from medaegis.attacks.engine import Attack
from medaegis.bench.surrogates import transferable
from medaegis.detectors.registry import DETECTORS
from medaegis.errors import ConfigError
from medaegis.models.learning import TrainConfig
from medaegis.robust import find_recipe

GUARDS = ("shield", "aegis")  # Shields without and behind a Cushion
CLEAN = "none"  # the attack that none is
WORST = "worst"  # of each image the strongest of all others
HIDING = "+hfc"
SAME = "same"  # detectors learn from the attack that they are judged on; a surrogate has the victim's backbone


def asked(check: Any, given: str) -> Any:
    """`check(given)`, its ConfigError as what pydantic expects."""
    try:
        return check(given)
    except ConfigError as error:
        raise ValueError(f"{error.source}: {error.problem}; {error.remedy}") from None


def check_settings(
    model: type[BaseModel],
    given: Mapping[str, Any],
    *,
    without: tuple[str, ...],
    filled: Mapping[str, Any] | None = None,
) -> None:
    """Whether a table holds settings of a configuration alone, and none that an experiment decides itself.

    Raises:
        ValueError: as pydantic expects it.
    """
    allowed = sorted(set(model.model_fields) - set(without))
    for name in given:
        if name not in allowed:
            raise ValueError(f"{name!r} is unknown; allowed are {', '.join(allowed)}")
    try:
        model.model_validate({**given, **(filled or {})})
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None


def _known_training(given: dict[str, Any]) -> dict[str, Any]:
    check_settings(TrainConfig, given, without=("backbone", "seed", "device", "taps"))
    return given


def _named(given: Any) -> Any:
    """A list of names as a table of what they mean: themselves."""
    return {name: name for name in given} if isinstance(given, list) else given


Words = Annotated[dict[str, str], BeforeValidator(_named)]
Training = Annotated[dict[str, Any], AfterValidator(_known_training)]
"""Settings of `TrainConfig`, but for those that an experiment decides itself."""


class Part(BaseModel):
    """What all parts of a file have in common: nothing is allowed that is not known, and nothing is converted."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class AttackChoice(Part):
    """One attack, with what to change of the experiment's settings.

    Attributes:
        attack: name in the catalogue, add-ons joined to it; "none"; or "worst": of each image what the strongest of the
            other attacks leaves of it that stay within eps in L-infinity, whatever ball they were made in.
        eps: of this attack, whatever the axis says; steps, step_size: likewise (step_size in units of eps).
        step: length of a step in pixel units, whatever the eps, as "1/255".
        components: of the mixtures of the add-on hfc; or by data set, as names on that axis.
        surrogate: backbone of a classifier that the attack is made on, whose weights are not the victim's; "same": the
            victim's backbone, trained with another seed.
        each_finding: the attack is made once for each finding, and of that one alone its images count.
    """

    attack: str
    eps: str | None = None
    steps: int | None = Field(default=None, ge=1)
    step_size: float | None = Field(default=None, gt=0)
    step: str | None = None
    components: Annotated[int, Field(ge=1)] | dict[str, Annotated[int, Field(ge=1)]] | None = None
    surrogate: str | None = None
    each_finding: bool = False

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.attack in (CLEAN, SAME, WORST):
            return self
        entry = asked(find_attack, self.attack)
        if self.eps is not None:
            asked(lambda text: parse_eps(text, rounds=False), self.eps)
        if self.step is not None:
            asked(lambda text: parse_eps(text, rounds=False), self.step)
        if self.step is not None and self.step_size is not None:
            raise ValueError("step and step_size both say how long a step is; give one")
        if (self.step_size or self.step) is not None and not isinstance(entry.attack, Attack):
            raise ValueError("step_size is for an attack that walks by steps of one length")
        if self.components is not None and not self.attack.endswith(HIDING):
            raise ValueError(f"components are for an attack with the add-on hfc, as bim{HIDING}")
        if self.surrogate is not None and not transferable(self.attack):
            raise ValueError(f"{self.attack} cannot be made on a surrogate; take one by gradients, as bim")
        return self

    def name_for(self, dataset: str) -> str:
        """In the catalogue, for images of this name on the axis."""
        count = self.components.get(dataset, 1) if isinstance(self.components, dict) else self.components or 1
        return self.attack if count == 1 else f"{self.attack}:{count}"


class DefenceChoice(Part):
    """A detector with options of its own, or Shields: "shield" without a Cushion, "aegis" behind one."""

    detector: str
    options: dict[str, Any] = {}

    @model_validator(mode="after")
    def _fits(self) -> Self:
        known = [*GUARDS, *(name for name in DETECTORS if name not in GUARDS)]
        if self.detector not in known:
            raise ValueError(f"detector {self.detector!r} is none; choose from {', '.join(known)}")
        if self.detector in GUARDS and self.options:
            raise ValueError("Shields have no options here; write them into the table 'shield'")
        if self.detector not in GUARDS:
            try:
                DETECTORS[self.detector].make(**self.options)
            except (TypeError, ConfigError) as error:
                raise ValueError(f"options of {self.detector}: {error}") from None
        return self


class BackboneChoice(Part):
    """A network, by the name that `train --backbone` takes.

    Attributes:
        training: settings of `TrainConfig` for this one, in place of the experiment's.
    """

    backbone: str
    training: Training = {}


class MethodChoice(Part):
    """How classifiers are trained: "none" for plainly, or a recipe of robust training with its settings.

    Attributes:
        robust: the recipe's name, add-ons joined to it; eps, beta: of it, in place of its own; beta also by data set,
            as names on that axis.
        text: a dual encoder learns images with sentences about their findings first; a recipe goes on from there.
        training: settings of `TrainConfig` for the recipe, in place of the experiment's.
    """

    robust: str
    eps: str | None = None
    beta: float | dict[str, float] | None = None
    text: bool = False
    training: Training = {}

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.robust != CLEAN:
            for beta in self.beta.values() if isinstance(self.beta, dict) else (self.beta,):
                asked(lambda text, beta=beta: find_recipe(text, beta=beta), self.robust)
        if self.eps is not None:
            asked(lambda text: parse_eps(text, rounds=False), self.eps)
        if self.training and self.robust == CLEAN:
            raise ValueError("training: plain training takes the experiment's own; give settings there")
        return self

    def told_for(self, dataset: str) -> dict[str, Any]:
        """The recipe and its settings on images of this name on the axis."""
        beta = self.beta.get(dataset) if isinstance(self.beta, dict) else self.beta
        return {"robust": self.robust, "eps": self.eps, "beta": beta}


def _spelt_out(meaning: Callable[[str], Any]) -> BeforeValidator:
    """Values by name, each bare word by its meaning."""

    def told(given: Any) -> Any:
        named = _named(given)
        if not isinstance(named, Mapping):
            return named
        return {name: meaning(value) if isinstance(value, str) else value for name, value in named.items()}

    return BeforeValidator(told)


Attacks = Annotated[dict[str, AttackChoice], _spelt_out(lambda word: {"attack": word})]
Defences = Annotated[dict[str, DefenceChoice], _spelt_out(lambda word: {"detector": word})]
Backbones = Annotated[dict[str, BackboneChoice], _spelt_out(lambda word: {"backbone": word})]
Methods = Annotated[dict[str, MethodChoice], _spelt_out(lambda word: {"robust": word})]
Layers = Annotated[dict[str, tuple[str, ...]], _spelt_out(lambda word: [word])]
