"""From an experiment to the cells of its table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

from medaegis.attacks.catalogue import find_attack
from medaegis.bench.scene import any_cushion
from medaegis.detectors.registry import find_detector
from medaegis.errors import ConfigError
from medaegis.experiments.choices import CLEAN, GUARDS, SAME, WORST
from medaegis.experiments.schema import ANSWERS, AXES, Experiment, planned
from medaegis.experiments.tasks import TableCell

_TRAINED = ("dataset", "backbone", "method", "seed")
_USED = {
    "detection": (*_TRAINED, "layers", "cushion", "learned_from", "defence", "attack", "eps"),
    **dict.fromkeys(ANSWERS, (*_TRAINED, "cushion", "attack", "eps")),
    "shift": (*_TRAINED, "cushion", "attack", "reference", "eps"),
    "attack time": (*_TRAINED, "cushion", "attack", "eps"),
    "training time": _TRAINED,
    "features": (*_TRAINED, "cushion", "layer", "direction", "eps"),
}
_SHOWN = ("title", "paper", "table", "figures", "notes", "exclude", "rows", "columns", "seeds", "data")  # no settings


def cells_of(experiment: Experiment) -> list[TableCell]:
    """Its cells in order, without tasks: the product of the axes it uses, without what is excluded or makes no sense.

    "shield" is a defence without a Cushion and "aegis" one behind a Cushion that rounds; an attack with an eps of its
    own, or none at all, has one cell on the axis "eps"; detectors that learn from no attack have one on "learned_from".

    Raises:
        ConfigError: nothing is left.
    """
    used = _USED[experiment.measures]
    found: dict[str, TableCell] = {}
    for names in product(*(experiment.axis(axis) or ("",) for axis in used)):
        place = settled(experiment, dict(zip(used, names, strict=True)))
        if place is not None and not is_excluded(experiment, place):
            cell = TableCell(place, _settings(experiment, place))
            found.setdefault(cell.name, cell)
    if not found:
        raise ConfigError("experiment", "every cell is excluded", "leave out some of 'exclude'")
    return list(found.values())


def chosen(cells: Sequence[TableCell], only: Sequence[tuple[str, str]]) -> list[TableCell]:
    """The cells at one of the names given for an axis, for each axis of which some are given.

    Raises:
        ConfigError: an axis or a name that no cell has.
    """
    axes: dict[str, set[str]] = {}
    for axis, name in only:
        there = dict.fromkeys(cell.place[axis] for cell in cells if axis in cell.place)
        if name not in there:
            known = there or dict.fromkeys(axis for cell in cells for axis in cell.place)
            what = "cell has that name" if there else "axis of this experiment"
            raise ConfigError(f"{axis}={name}", f"no {what}", f"choose from {'; '.join(filter(None, known))}")
        axes.setdefault(axis, set()).add(name)
    return [cell for cell in cells if all(cell.place[axis] in names for axis, names in axes.items())]


def settled(experiment: Experiment, place: dict[str, str]) -> dict[str, str] | None:
    """The place with names that say what is done there; None where there is no such cell."""
    if "defence" in place:
        value, bare = experiment.defence[place["defence"]].detector, experiment.cushion[place["cushion"]] == "none"
        rounds = any_cushion(experiment.cushion[place["cushion"]]).rounds
        if (value == "shield" and not bare) or (value == "aegis" and (bare or not rounds)):
            return None
        if value in GUARDS or not find_detector(value).make().needs_attacked:
            place["learned_from"] = next(iter(experiment.learned_from))
    if "attack" in place:
        choice = experiment.attack[place["attack"]]
        if choice.attack == WORST:
            if _learns_from_each(experiment, place):
                return None
        elif choice.attack == CLEAN:
            place["eps"] = ""
        elif choice.eps is not None or find_attack(choice.attack).minimal:
            place["eps"] = planned(choice, "", experiment, place["dataset"]).eps_text
    return place


def _learns_from_each(experiment: Experiment, place: Mapping[str, str]) -> bool:
    """Whether there is another detector for each attack, so that none of them meets all."""
    if "defence" not in place or experiment.defence[place["defence"]].detector in GUARDS:
        return False
    detector = find_detector(experiment.defence[place["defence"]].detector).make()
    return detector.needs_attacked and experiment.learned_from[place["learned_from"]].attack == SAME


def is_excluded(experiment: Experiment, place: Mapping[str, str]) -> bool:
    """Whether the experiment leaves out the cell at this place."""

    def fits(axis: str, names: str | tuple[str, ...]) -> bool:
        return place.get(axis) in ((names,) if isinstance(names, str) else names)

    return any(all(fits(axis, names) for axis, names in one.items()) for one in experiment.exclude)


def is_checked(experiment: Experiment, place: Mapping[str, str]) -> bool:
    """Whether there are controls and alarms beside this cell: it is the worst case over attacks on a classifier."""
    return experiment.measures in ANSWERS and experiment.attack[place["attack"]].attack == WORST


def _settings(experiment: Experiment, place: Mapping[str, str]) -> dict[str, Any]:
    """All that the experiment says of this cell, but for what is only shown and where the images lie."""
    told = experiment.model_dump(mode="json", exclude=set(_SHOWN))
    if not is_checked(experiment, place):
        told.pop("checks")
    for axis in AXES:
        if axis == "seed" or axis not in told:
            continue
        values = told.pop(axis)
        if axis in place and isinstance(values, dict):
            one = values.get(place[axis], place[axis])
            told[axis] = values if axis == "attack" and one["attack"] == WORST else one  # it depends on all of them
    return told
