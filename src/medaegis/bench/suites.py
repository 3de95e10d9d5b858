"""Suites: which attacks, at which sizes of change, on how many images, an evaluation runs: from minutes to hours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from medaegis.attacks.catalogue import find_attack
from medaegis.errors import ConfigError


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
    """

    about: str
    attacks: tuple[str, ...]
    eps: tuple[str, ...]
    l2_eps: tuple[str, ...] = ()
    steps: int | None = None
    queries: int | None = None
    limit: int | None = None
    stamina: bool = False


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
        "minutes: a few attacks on the guard, 40 steps, 40 images",
        ("pgd", "cw-linf", "wb", "wb-adaptive", "selective"),
        ("4/256", "8/256", "16/256"),
        steps=40,
        limit=40,
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
