"""Attacks that learn before they attack: each lesson once for all images, stored like every other piece of work."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from medaegis.attacks.entry import AnyAttack
from medaegis.attacks.known import Known
from medaegis.attacks.universal import Universal, fixed, wanted
from medaegis.attacks.victim import Victim
from medaegis.bench.store import Piece, Store
from medaegis.errors import ConfigError


def taught(
    attack: AnyAttack,
    victim: Victim,
    known: Known | None,
    targets: Tensor | None,
    *,
    eps: float,
    store: Store,
    key: Mapping[str, object],
) -> tuple[AnyAttack, Tensor]:
    """What is run on each chunk of images, and seconds, forwards and backwards of each lesson, float64 `(lessons, 3)`.

    A universal perturbation is learned once for each wanted class. Any other attack is itself, and took nothing.

    Args:
        targets: wanted classes of all images that will be attacked.
        key: what names the victim and the seed.

    Raises:
        ConfigError: nothing is known that it could learn from.
    """
    if not isinstance(attack, Universal):
        return attack, torch.zeros((0, 3), dtype=torch.float64)
    if known is None:
        raise ConfigError("universal perturbation", "no known images to learn from", "give some")
    lessons = {k: _lesson(attack, victim, known, k, eps, store, key) for k in wanted(targets)}
    return fixed({k: piece["change"] for k, piece in lessons.items()}), torch.cat(
        [piece["cost"] for piece in lessons.values()]
    )


def _lesson(
    attack: Universal,
    victim: Victim,
    known: Known,
    target: int | None,
    eps: float,
    store: Store,
    key: Mapping[str, object],
) -> Piece:
    def compute() -> Piece:
        lesson = attack.learn(victim, *known.lessons(attack), eps=eps, target=target, seed=known.seed)
        cost = torch.tensor([[lesson.seconds, lesson.forwards, lesson.backwards]], dtype=torch.float64)
        return {"change": lesson.change, "cost": cost}

    about = {"lesson": repr(attack), "eps": eps, "target": target, "dtype": str(victim.dtype)}
    return store.get({**key, **about, "known": known.key}, compute)
