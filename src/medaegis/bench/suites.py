"""Suites: which attacks, at which sizes of change, on how many images, an evaluation runs: from minutes to hours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

from medaegis.attacks.balls import parse_eps
from medaegis.attacks.catalogue import find_attack
from medaegis.bench.plan import Planned, plan, samples_for
from medaegis.bench.surrogates import transferable
from medaegis.cushions import Gradient
from medaegis.errors import ConfigError
from medaegis.guard.guard import Guard


@dataclass(frozen=True)
class Suite:
    """What an evaluation runs unless told otherwise.

    Attributes:
        about: one line.
        attacks: names from the catalogue.
        eps: largest changes of a pixel, as text.
        l2_eps: of attacks in L2, as root mean squares; none: the same as in L-infinity.
        steps: of the attacks that know the guard; None: their own.
        queries: of the attacks that see answers alone; None: their own.
        limit: attacked images; None: all.
        stamina: also a few images with far more steps and restarts.
        every_way: WB through the Cushion by every other way at each eps, not only at one in the middle.
    """

    about: str
    attacks: tuple[str, ...]
    eps: tuple[str, ...]
    l2_eps: tuple[str, ...] = ()
    steps: int | None = None
    queries: int | None = None
    limit: int | None = None
    stamina: bool = False
    every_way: bool = True


_CONVENTIONAL = ("fgsm", "bim", "pgd", "pgd-l2", "mim", "cw-linf")
_ON_THE_GUARD = ("shield-only", "wb", "wb-decay", "wb-momentum", "wb-adaptive")
# Other weights, other objectives, other directions, and hiding among normal features.
_FURTHER = (
    *("wb-0.1", "wb-10", "selective", "orthogonal"),
    *("hfc", "wb-hfc", "feature-match", "logit-match"),
    *("uap", "uap-wb"),
)
MADE_TO_CARRY = ("mim", "dim", "tim")  # made on a surrogate whatever the suite, where there is one

SUITES: dict[str, Suite] = {
    "quick": Suite(
        "minutes: a few attacks on the guard, 20 steps, 40 images",
        ("pgd", "cw-linf", "wb", "wb-adaptive", "selective"),
        ("4/256", "8/256", "16/256"),
        steps=20,
        limit=40,
        every_way=False,
    ),
    "standard": Suite(
        "conventional attacks, and five on the guard with 100 steps, all images",
        (*_CONVENTIONAL, *_ON_THE_GUARD),
        ("1/256", "4/256", "8/256", "16/256"),
    ),
    "paper": Suite(
        "what Medical Aegis reports, at its eps; its transfer attack too with --surrogate",
        (*_CONVENTIONAL, "dim", "tim", "cw-l2", "feature-match", "hfc", "shield-only", "wb", "wb-decay"),
        ("16/256",),
        l2_eps=("8/256",),
    ),
    "worst-case": Suite(
        "everything aimed at the guard or at its features, 50 images; a few with far more steps and restarts",
        (*_CONVENTIONAL, *_ON_THE_GUARD, *_FURTHER, "square-guard"),
        ("2/256", "4/256", "8/256", "16/256"),
        queries=1000,
        limit=50,
        stamina=True,
    ),
}


def applicable(attacks: Sequence[str], classes: int) -> list[str]:
    """Those of the attacks that can be aimed at a classifier of so many classes."""
    return [name for name in attacks if find_attack(name).classes <= classes]


def find_suite(name: str) -> Suite:
    """Suite by name.

    Raises:
        ConfigError: no such suite; lists those there are.
    """
    if name not in SUITES:
        raise ConfigError(f"suite {name!r}", "unknown", f"choose from {', '.join(SUITES)}")
    return SUITES[name]


@dataclass(frozen=True)
class EvaluationPlan:
    """What an evaluation runs.

    Attributes:
        cells: what is measured.
        limit: test images drawn to be attacked; None: all.
        stamina: also a few images with far more steps and restarts.
    """

    cells: list[Planned]
    limit: int | None
    stamina: bool


def check_suite(suite: str, *, attacks: Sequence[str] | None, eps: Sequence[str] | None) -> None:
    """Raises ConfigError for a suite, an attack or an eps that there is not."""
    asked = find_suite(suite)
    for name in asked.attacks if attacks is None else attacks:
        find_attack(name)
    for text in asked.eps if eps is None else eps:
        parse_eps(text)


def plan_suite(
    guard: Guard,
    suite: str = "standard",
    *,
    attacks: Sequence[str] | None = None,
    eps: Sequence[str] | None = None,
    steps: int | None = None,
    queries: int | None = None,
    limit: int | None = None,
    gradient: Gradient = "bpda",
    samples: int | None = None,
    transfer: bool = False,
) -> EvaluationPlan:
    """What a suite runs against this guard, with what is given in place of its own.

    Args:
        attacks, eps: names and radii as text; None: the suite's. An L2 eps of the suite goes with its own eps.
        steps: of the attacks that know the guard; queries: of those that see answers alone.
        gradient: way through the Cushion. WB goes the others too, of suite quick at one eps in the middle.
        samples: draws of a random Cushion that each step averages over; None: 4 where it is random.
        transfer: conventional attacks also on surrogates.

    Raises:
        ConfigError: an unknown suite or attack, a useless eps, draws of a Cushion that is not random, or nothing to
            transfer.
    """
    asked = find_suite(suite)
    names = list(asked.attacks if attacks is None else attacks)
    if attacks is None:
        names = applicable(names, len(guard.classes))
    carried = dict.fromkeys(name for name in names if transferable(name)) if transfer else {}
    if transfer and attacks is None:
        carried |= dict.fromkeys(MADE_TO_CARRY)
    if transfer and not carried:
        problem = "none of these attacks can be made on another classifier"
        raise ConfigError("--surrogate with --attacks", problem, "name one on the classifier too, as dim")
    sizes = [(text, parse_eps(text)) for text in (asked.eps if eps is None else eps)]
    middle = sorted(sizes, key=lambda size: size[1])[(len(sizes) - 1) // 2 :][:1]
    cells = plan(
        names,
        sizes,
        l2_eps=[(text, parse_eps(text)) for text in asked.l2_eps] if eps is None else [],
        steps=asked.steps if steps is None else steps,
        queries=asked.queries if queries is None else queries,
        gradient=gradient,
        # Without a Cushion every way through it is the same.
        other_ways=[way for way in get_args(Gradient) if way != gradient and guard.cushion.spec != "none"],
        ways_at=None if asked.every_way else middle,
        samples=samples_for(guard.cushion, samples),
        transferred=list(carried),
    )
    return EvaluationPlan(cells, asked.limit if limit is None else limit, asked.stamina)
