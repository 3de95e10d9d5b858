"""Robust training by name: the survey's methods and fast ones, with their settings.

Settings are those of Dong et al. (survey, section 5.1, and its public code) where it has them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches

from medaegis.attacks.balls import parse_eps
from medaegis.errors import ConfigError
from medaegis.models.classifier import Classifier
from medaegis.robust.losses import Answer, Hat, Mart, Trades
from medaegis.robust.perturbing import Inner, Noise
from medaegis.robust.recipe import Robust

AVERAGE, AWP = 0.995, 0.005
ADD_ONS = {
    "awp": "adversarial weight perturbation (Wu 2020)",
    "average": "exponential moving average of the weights, which is what is kept (Izmailov 2018)",
}


@dataclass(frozen=True)
class Named:
    """A recipe that has a name.

    Attributes:
        title, source: what it is, and where it comes from.
        make: the recipe at an eps in units of full brightness, with a weight beta (None: its own), and a plainly
            trained helper.
        weighs: whether it has a beta; helped: whether it needs a helper.
        eps: what it takes where none is said, as it is written.
        inner_passes: forwards and backwards an image of the inner attack, for estimates.
    """

    title: str
    source: str
    make: Callable[[float, float | None, Classifier | None], Robust]
    weighs: bool = False
    helped: bool = False
    eps: str = "8/255"
    inner_passes: int = 0


def _hat(eps: float, beta: float | None, helper: Classifier | None) -> Robust:
    if helper is None:
        problem = "needs a plainly trained classifier of the same images, which labels those beyond the ball"
        raise ConfigError("hat", problem, "train one without --robust first, and name it: --helper CLASSIFIER_DIR")
    loss = Hat(helper=helper) if beta is None else Hat(helper=helper, beta=beta)
    return Robust(inner=_divergent(eps), loss=loss)


def _divergent(eps: float) -> Inner:
    return Inner(eps=eps, start="near", follows="divergence")


def _trades(eps: float, beta: float | None, helper: Classifier | None) -> Robust:
    return Robust(inner=_divergent(eps), loss=Trades() if beta is None else Trades(beta=beta))


def _mart(eps: float, beta: float | None, helper: Classifier | None) -> Robust:
    return Robust(inner=Inner(eps=eps, start="near"), loss=Mart() if beta is None else Mart(beta=beta))


RECIPES: dict[str, Named] = {
    "pgd-at": Named("PGD, 10 steps", "Madry 2018", lambda eps, *_: Robust(inner=Inner(eps=eps)), inner_passes=20),
    "trades": Named(
        "TRADES: clean loss, and divergence from the clean answer", "Zhang 2019", _trades, weighs=True, inner_passes=24
    ),
    "mart": Named("MART: TRADES that minds misclassified images", "Wang 2020", _mart, weighs=True, inner_passes=22),
    "hat": Named(
        "HAT: TRADES, helped by a plainly trained network", "Rade 2022", _hat, weighs=True, helped=True, inner_passes=28
    ),
    "mpadvt": Named(
        "MPAdvT: every second batch attacked, radius and steps drawn anew",
        "Xu 2021 (0.01 to 0.04, up to 10 steps)",
        lambda eps, *_: Robust(
            inner=Inner(eps=eps, least_eps=eps / 4, steps=10, least_steps=1, step_size=1 / 255), chance=0.5
        ),
        eps="0.04",
        inner_passes=6,
    ),
    "fgsm-at": Named(
        "one step of 1.25 eps from a random start",
        "Wong 2020",
        lambda eps, *_: Robust(inner=Inner(eps=eps, steps=1, step_size=1.25 * eps)),
        inner_passes=2,
    ),
    "free": Named(
        "four steps for each batch, one pass for image and weights",
        "Shafahi 2019",
        lambda eps, *_: Robust(inner=Inner(eps=eps, steps=0, step_size=eps), replays=4),
    ),
    "growing": Named(
        "half of each batch attacked by two steps, within a radius that grows",
        "after Madry 2018 and Wong 2020",
        lambda eps, *_: Robust(inner=Inner(eps=eps, steps=2, step_size=eps, growth=0.5), share=0.5),
        inner_passes=2,
    ),
    "noise": Named(
        "normal noise of deviation eps, for `medaegis certify`",
        "Cohen 2019",
        lambda eps, *_: Robust(inner=Noise(eps=eps), loss=Answer()),
        eps="0.25",
    ),
}


def find_recipe(text: str, *, beta: float | None = None) -> tuple[Named, tuple[str, ...]]:
    """The entry of a name, and the add-ons joined to it.

    Raises:
        ConfigError: no such name or add-on, or a beta that it has no use for.
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
    if name == "free" and "awp" in more:
        raise ConfigError(f"robust training {text}", "free goes with no weight perturbation", "leave +awp out")
    if beta is not None and not named.weighs:
        weighing = ", ".join(key for key, value in RECIPES.items() if value.weighs)
        raise ConfigError(f"beta {beta:g}", f"{name} has no such weight", f"leave it out; it is for {weighing}")
    return named, tuple(more)


def parse_recipe(
    text: str, *, eps: float | None = None, beta: float | None = None, helper: Classifier | None = None
) -> Robust:
    """The recipe of a name, with add-ons joined to it: `trades`, `pgd-at+awp+average`.

    >>> parse_recipe("pgd-at+average", eps=8 / 255).average
    0.995

    Args:
        eps: in units of full brightness; None: the recipe's own.
        beta: weight of the divergence, of those that have one; None: 6.
        helper: a plainly trained classifier, for "hat".

    Raises:
        ConfigError: as `find_recipe`; a helper that it has no use for or that is missing, an eps out of range.
    """
    named, more = find_recipe(text, beta=beta)
    if helper is not None and not named.helped:
        raise ConfigError("helper", f"{text} has no use for one", "leave it out; it is for hat")
    radius = parse_eps(named.eps) if eps is None else eps
    if not 0 < radius <= 1 or (beta is not None and not 0 <= beta < float("inf")):
        raise ConfigError(f"robust training {text}", f"eps {radius:g}, beta {beta}", "give an eps above 0, as 8/255")
    changes = {"awp": AWP if "awp" in more else 0.0, "average": AVERAGE if "average" in more else 0.0}
    return named.make(radius, beta, helper).model_copy(update=changes)
