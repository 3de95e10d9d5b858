"""Add-ons: what an attack by gradients takes on beside its own way, joined to its name as in `pgd+dim+hfc`.

An attack that an add-on would leave as it is, or that has it already, is refused it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from medaegis.attacks.engine import Attack
from medaegis.attacks.losses.hfc import HierarchicalFeature
from medaegis.attacks.objective import Objective, Sum
from medaegis.attacks.steps import Descent
from medaegis.attacks.transforms import InputDiversity, Smoothing, Transform
from medaegis.errors import ConfigError

if TYPE_CHECKING:
    from medaegis.attacks.entry import CatalogueEntry


@dataclass(frozen=True)
class AddOn:
    """Something that attacks can take on.

    Attributes:
        title: follows that of the attack.
        paper: where it comes from.
        join: the attack with it.
        obstacle: why an entry whose attack walks by gradients within eps cannot take it; None if it can.
    """

    title: str
    paper: str
    join: Callable[[Attack], Attack]
    obstacle: Callable[[CatalogueEntry, Attack], str | None]


def _transform(title: str, paper: str, transform: Transform) -> AddOn:
    def join(attack: Attack) -> Attack:
        return replace(attack, transforms=(*attack.transforms, transform))

    def obstacle(entry: CatalogueEntry, attack: Attack) -> str | None:
        return "has it already" if any(isinstance(t, type(transform)) for t in attack.transforms) else None

    return AddOn(title, paper, join, obstacle)


def _with_momentum(attack: Attack) -> Attack:
    assert isinstance(attack.rule, Descent)
    return replace(attack, rule=replace(attack.rule, momentum=1.0))


def _no_momentum(entry: CatalogueEntry, attack: Attack) -> str | None:
    if attack.steps == 1:
        return "takes one step, and momentum begins with the second"
    if not isinstance(attack.rule, Descent):
        return "has a step rule of its own"
    return "has it already" if attack.rule.momentum else None


def _hidden(attack: Attack) -> Attack:
    return replace(attack, objective=attack.objective + HierarchicalFeature())


def _no_hiding(entry: CatalogueEntry, attack: Attack) -> str | None:
    if not entry.misleads:
        return "shapes the features itself, and aims at no wrong answer"
    terms = _terms(attack.objective)
    if any(isinstance(term, HierarchicalFeature) for term in terms):
        return "has it already"
    # A sum walks along the gradient of its value, and not as one of its terms would.
    turned = any(type(term).pull is not Objective.pull for term in terms)
    return "turns its gradients by itself, which a sum does not" if turned else None


def _terms(objective: Objective) -> list[Objective]:
    if not isinstance(objective, Sum):
        return [objective]
    return [term for _, part in objective.terms for term in _terms(part)]


ADD_ONS: dict[str, AddOn] = {
    "momentum": AddOn("with momentum", "Dong 2018", _with_momentum, _no_momentum),
    "dim": _transform("on diverse inputs", "Xie 2019", InputDiversity()),
    "tim": _transform("along smoothed gradients", "Dong 2019", Smoothing()),
    "hfc": AddOn("with the hierarchical feature constraint", "Yao 2021 (HFC), eq. 7", _hidden, _no_hiding),
}


def obstacle(entry: CatalogueEntry, name: str) -> str | None:
    """Why the entry cannot take the add-on of this name; None if it can."""
    if not isinstance(entry.attack, Attack):
        return "is not one walk over each image"
    if not entry.attack.rule.needs_gradient:
        return "walks by answers, without gradients"
    if entry.minimal:
        return "looks for the smallest change, not within eps"
    return ADD_ONS[name].obstacle(entry, entry.attack)


def joined(entry: CatalogueEntry, base: str, names: Sequence[str]) -> CatalogueEntry:
    """The entry `base` with add-ons, in the order of their table, whatever that of the names.

    Raises:
        ConfigError: no such add-on, or the attack cannot take it.
    """
    for name in names:
        if name not in ADD_ONS:
            raise ConfigError(f"add-on {name!r}", "there is none of this name", f"choose from {', '.join(ADD_ONS)}")
    for name in sorted(names, key=list(ADD_ONS).index):
        if (problem := obstacle(entry, name)) is not None:
            remedy = f"leave it out, or take another attack, as 'pgd+{name}'"
            raise ConfigError(f"add-on {name!r} to {base!r}", f"the attack {problem}", remedy)
        added = ADD_ONS[name]
        assert isinstance(entry.attack, Attack)
        title, paper = f"{entry.title}, {added.title}", f"{entry.paper}, and {added.paper}"
        entry = replace(entry, title=title, paper=paper, attack=added.join(entry.attack))
    return entry
