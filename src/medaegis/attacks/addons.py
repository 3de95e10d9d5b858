"""Add-ons: what an attack by gradients takes on beside its own way, joined to its name as in `pgd+dim+hfc`.

`hfc:64` has mixtures of 64 Gaussians. An attack that an add-on would leave as it is, or that has it already, is
refused it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from medaegis.attacks.engine import Attack
from medaegis.attacks.entry import CatalogueEntry
from medaegis.attacks.losses.hfc import HierarchicalFeature
from medaegis.attacks.objective import Objective, Sum
from medaegis.attacks.steps import Descent
from medaegis.attacks.transforms import InputDiversity, Smoothing, Transform
from medaegis.errors import ConfigError


@dataclass(frozen=True)
class AddOn:
    """Something that attacks can take on.

    Attributes:
        title: follows that of the attack.
        paper: where it comes from.
        join: the attack with it.
        obstacle: why an entry whose attack walks by gradients within eps cannot take it; None if it can.
        counts: what a number after its name is, as in `hfc:64`; none: it takes none.
    """

    title: str
    paper: str
    join: Callable[..., Attack]
    obstacle: Callable[[CatalogueEntry, Attack], str | None]
    counts: str = ""


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


def _hidden(attack: Attack, components: int = 1) -> Attack:
    return replace(attack, objective=attack.objective + HierarchicalFeature(components))


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
    "hfc": AddOn(
        "with the hierarchical feature constraint", "Yao 2021 (HFC), eq. 7", _hidden, _no_hiding, "components"
    ),
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
        ConfigError: no such add-on, a number that it cannot take, or the attack cannot take it.
    """
    given = [(name, _number(name)) for name in names]
    for name, number in sorted(given, key=lambda one: list(ADD_ONS).index(_word(one[0]))):
        if (problem := obstacle(entry, _word(name))) is not None:
            remedy = f"leave it out, or take another attack, as 'pgd+{name}'"
            raise ConfigError(f"add-on {name!r} to {base!r}", f"the attack {problem}", remedy)
        added = ADD_ONS[_word(name)]
        assert isinstance(entry.attack, Attack)
        of = f" of {number[0]} {added.counts}" if number else ""
        title, paper = f"{entry.title}, {added.title}{of}", f"{entry.paper}, and {added.paper}"
        entry = replace(entry, title=title, paper=paper, attack=added.join(entry.attack, *number))
    return entry


def _word(name: str) -> str:
    return name.partition(":")[0]


def _number(name: str) -> tuple[int, ...]:
    """What stands behind the colon in an add-on's name, if anything."""
    word, colon, text = name.partition(":")
    if word not in ADD_ONS:
        raise ConfigError(f"add-on {name!r}", "there is none of this name", f"choose from {', '.join(ADD_ONS)}")
    if not colon:
        return ()
    if not ADD_ONS[word].counts:
        raise ConfigError(f"add-on {name!r}", "takes no number", f"write {word}")
    if not (text.isascii() and text.isdecimal() and len(text) < 7 and int(text) > 0):
        raise ConfigError(f"add-on {name!r}", f"{text!r} is no number of {ADD_ONS[word].counts}", f"write {word}:64")
    return (int(text),)
