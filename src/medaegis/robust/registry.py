"""Robust training by name: the survey's methods and fast ones, with their settings.

Settings are those of Dong et al. (survey, section 5.1, and its public code) where it has them; its weights for single
data sets are in the presets of its tables.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from pydantic import ValidationError

from medaegis.attacks.balls import parse_eps
from medaegis.errors import ConfigError
from medaegis.models.classifier import Classifier
from medaegis.robust.losses import Distilled, Fare, Hat, Mart, PmgFt, Tecoa, Trades
from medaegis.robust.perturbing import Inner, Noise
from medaegis.robust.recipe import Robust

AVERAGE, AWP, GROWTH = 0.995, 0.005, 0.5
ADD_ONS = {
    "awp": "adversarial weight perturbation (Wu 2020)",
    "average": "exponential moving average of the weights, which is what is kept (Izmailov 2018)",
    "growth": "the radius grows from zero over the first half of the training",
    "long": "each step of the inner attack is as long as the radius",
}
_OF_INNER = ("growth", "long")


@dataclass(frozen=True)
class Named:
    """A recipe that has a name.

    Attributes:
        title, source: what it is, and where it comes from.
        make: the recipe, given what it takes by name; of what is left out it has its own.
        takes: "eps", in units of full brightness; "beta", the weight of a divergence; "temperature"; and "helper", a
            trained classifier.
        eps: what it takes where none is said, as it is written.
        inner_passes: forwards and backwards an image beyond those of plain training, for estimates.
        refuses: add-ons that it has already, or has nothing for.
        helper: what it is and how to come by one, said where it is missing; None: it needs none.
    """

    title: str
    source: str
    make: Callable[..., Robust]
    takes: tuple[str, ...] = ("eps",)
    eps: str = "8/255"
    inner_passes: int = 0
    refuses: tuple[str, ...] = ()
    helper: tuple[str, str] | None = None


def _divergent(eps: float) -> Inner:
    return Inner(eps=eps, start="near", follows="divergence")


def _distilled(**given: Any) -> Robust:
    return Robust(inner=None, loss=Distilled(**given))


_PRETRAINED = (
    "needs the dual encoder that it goes on from",
    "train it with --text, and name it: --helper CLASSIFIER_DIR",
)

RECIPES: dict[str, Named] = {
    "pgd-at": Named("PGD, 10 steps", "Madry 2018", lambda eps: Robust(inner=Inner(eps=eps)), inner_passes=20),
    "trades": Named("TRADES: clean loss, and divergence from the clean answer", "Zhang 2019",
        lambda eps, **given: Robust(inner=_divergent(eps), loss=Trades(**given)),
        takes=("eps", "beta"), inner_passes=23),
    "mart": Named("MART: TRADES that minds misclassified images", "Wang 2020",
        lambda eps, **given: Robust(inner=Inner(eps=eps, start="near"), loss=Mart(**given)),
        takes=("eps", "beta"), inner_passes=22),
    "hat": Named("HAT: TRADES, helped by a plainly trained network", "Rade 2022",
        lambda eps, **given: Robust(inner=_divergent(eps), loss=Hat(**given)),
        takes=("eps", "beta", "helper"), inner_passes=26,
        helper=("needs a plainly trained classifier of the same images, which labels those beyond the ball",
            "train one without --robust first, and name it: --helper CLASSIFIER_DIR")),
    "mpadvt": Named("MPAdvT: every second batch attacked, radius and steps drawn anew",
        "Xu 2021 (0.01 to 0.04, up to 10 steps)",
        lambda eps: Robust(
            inner=Inner(eps=eps, least_eps=eps / 4, steps=10, least_steps=1, step_size=1 / 255), chance=0.5
        ),
        eps="0.04", inner_passes=6),
    "fgsm-at": Named("one step of 1.25 eps from a random start", "Wong 2020",
        lambda eps: Robust(inner=Inner(eps=eps, steps=1, step_size=1.25 * eps)), inner_passes=2,
        refuses=("long",)),
    "free": Named("four steps for each batch, one pass for image and weights", "Shafahi 2019",
        lambda eps: Robust(inner=Inner(eps=eps, steps=0, step_size=eps), replays=4),
        refuses=("awp", "long")),
    "growing": Named("half of each batch attacked by two steps, within a radius that grows",
        "after Madry 2018 and Wong 2020",
        lambda eps: Robust(inner=Inner(eps=eps, steps=2, step_size=eps, growth=GROWTH), share=0.5),
        inner_passes=2, refuses=_OF_INNER),
    "noise": Named("normal noise of deviation eps, for `medaegis certify`", "Cohen 2019",
        lambda eps: Robust(inner=Noise(eps=eps)), eps="0.25", refuses=_OF_INNER),
    "teacher": Named("plain training at a temperature, for distillation", "Papernot 2016", _distilled,
        takes=("temperature",), refuses=_OF_INNER),
    "distillation": Named("defensive distillation: what the teacher says, at its temperature", "Papernot 2016",
        _distilled, takes=("temperature", "helper"), refuses=_OF_INNER,
        helper=("needs a teacher of the same images, trained at the same temperature",
            "train one with --robust teacher, and name it: --helper TEACHER_DIR")),
    "tecoa": Named("TeCoA: two steps of eps against a fixed text head", "Mao 2023",
        lambda eps: Robust(inner=Inner(eps=eps, steps=2, step_size=eps), loss=Tecoa()), eps="1/255", inner_passes=4,
        refuses=("long",)),
    "pmg-ft": Named("PMG-FT: TeCoA, and divergence from what the pretrained network says", "Wang 2024",
        lambda eps, helper: Robust(inner=Inner(eps=eps, steps=2, step_size=eps), loss=PmgFt(helper=helper)),
        takes=("eps", "helper"), eps="1/255", inner_passes=7, refuses=("long",), helper=_PRETRAINED),
    "fare": Named("FARE: embeddings stay where they were, without labels", "Schlarmann 2024",
        lambda eps, helper: Robust(
            inner=Inner(eps=eps, follows="embedding", original=helper), loss=Fare(helper=helper)
        ),
        takes=("eps", "helper"), eps="2/255", inner_passes=22, helper=_PRETRAINED),
}  # fmt: skip


def find_recipe(text: str, **given: Any) -> tuple[Named, tuple[str, ...]]:
    """The entry of a name, and the add-ons joined to it.

    Args:
        given: options for it, by name; None: not given.

    Raises:
        ConfigError: no such name or add-on, or an option that it has no use for.
    """
    name, *more = text.split("+")
    if name not in RECIPES:
        near = get_close_matches(name, RECIPES, n=1)
        remedy = f"{f'did you mean {near[0]}? ' if near else ''}choose from {', '.join(RECIPES)}"
        raise ConfigError(f"robust training {text!r:.60}", "unknown", remedy)
    named = RECIPES[name]
    for one in more:
        if one not in ADD_ONS or more.count(one) > 1:
            what = "is said twice" if one in ADD_ONS else "is no add-on"
            raise ConfigError(f"robust training {text!r:.60}", f"{one!r} {what}", f"add-ons are {', '.join(ADD_ONS)}")
    for one in (one for one in more if one in named.refuses):
        problem = f"{name} has that already, or nothing that it could change"
        raise ConfigError(f"robust training {text}", problem, f"leave +{one} out")
    for option, value in given.items():
        if value is not None and option not in named.takes:
            having = ", ".join(key for key, entry in RECIPES.items() if option in entry.takes)
            raise ConfigError(option, f"{name} has no use for one", f"leave it out; it is for {having}")
    return named, tuple(more)


def parse_recipe(
    text: str,
    *,
    eps: float | None = None,
    beta: float | None = None,
    helper: Classifier | None = None,
    temperature: float | None = None,
) -> Robust:
    """The recipe of a name, with add-ons joined to it: `trades`, `pgd-at+growth+long`.

    >>> parse_recipe("pgd-at+average", eps=8 / 255).average
    0.995

    Args:
        eps: in units of full brightness; None: the recipe's own.
        beta: weight of the divergence, of those that have one; None: 6.
        helper: a plainly trained classifier for "hat", the teacher for "distillation".
        temperature: of "teacher" and "distillation", the same for both; None: 20.

    Raises:
        ConfigError: as `find_recipe`; a helper that is missing, a number out of range.
    """
    options: dict[str, Any] = {"eps": eps, "beta": beta, "helper": helper, "temperature": temperature}
    named, more = find_recipe(text, **options)
    if named.helper is not None and helper is None:
        raise ConfigError(text.partition("+")[0], *named.helper)
    given = {option: value for option, value in options.items() if value is not None}
    if "eps" in named.takes:
        given.setdefault("eps", parse_eps(named.eps))
    try:
        made = named.make(**given)
    except ValidationError as error:
        first = error.errors()[0]
        problem = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
        raise ConfigError(f"robust training {text}", problem, "give one in that range, an eps as 8/255") from error
    inner = made.inner
    if isinstance(inner, Inner):
        growth, size = GROWTH if "growth" in more else inner.growth, inner.eps if "long" in more else inner.step_size
        inner = inner.model_copy(update={"growth": growth, "step_size": size})
    changes = {"awp": AWP if "awp" in more else 0.0, "average": AVERAGE if "average" in more else 0.0}
    return made.model_copy(update={**changes, "inner": inner})
