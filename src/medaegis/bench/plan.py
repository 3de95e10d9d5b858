"""What an evaluation is to measure: a cell for each attack, eps, number of steps and way through the Cushion."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import get_args

from medaegis.attacks.balls import Ball, check_eps
from medaegis.attacks.base import AnyAttack, Until
from medaegis.attacks.catalogue import CATALOGUE, DENSE, find_attack
from medaegis.attacks.engine import Attack
from medaegis.attacks.ensemble import Ensemble
from medaegis.attacks.entry import Access, CatalogueEntry
from medaegis.bench.records.assessment import SMALLEST
from medaegis.bench.records.evaluation import Attacker, Norm
from medaegis.bench.surrogates import transferable
from medaegis.cushions import Cushion, Gradient
from medaegis.errors import ConfigError
from medaegis.task import TaskName

EVERYTHING = 1.0  # eps of an attack that looks for the smallest change: the ball holds every image


@dataclass(frozen=True)
class Planned:
    """One cell to measure: a catalogue entry, eps in pixel units and as text, and what to change of its defaults.

    `transferred`: made on the surrogate, and only judged by the guard. `check`: the control or alarm that
    runs it on a few images; none: a cell of the plan, on all. `until`: of `AnyAttack.run`.
    """

    attack: str
    eps: float
    eps_text: str
    steps: int | None = None
    restarts: int | None = None
    gradient: Gradient = "bpda"
    transferred: bool = False
    samples: int = 1
    step_size: float | None = None
    check: str = ""
    until: Until = "end"

    @property
    def value(self) -> AnyAttack:
        attack = find_attack(self.attack).attack
        attack = attack.with_options(steps=self.steps, restarts=self.restarts, samples=self.samples)
        if self.step_size is None:
            return attack
        assert isinstance(attack, Attack), "asked of a walk alone"
        return replace(attack, step_size=self.step_size)

    @property
    def access(self) -> Access:
        return "no-box" if self.transferred else find_attack(self.attack).access

    @property
    def id(self) -> str:
        attack = self.value
        text = self.eps_text.replace("/", "of")
        way = "transfer" if self.transferred else self.gradient
        draws = f"-{self.samples}draws" if self.samples > 1 else ""
        return f"{self.attack}-{''.join(text.split())}-{attack.steps}x{attack.restarts}-{way}{draws}"


def plan(
    attacks: Sequence[str],
    eps: Sequence[tuple[str, float]],
    *,
    l2_eps: Sequence[tuple[str, float]] = (),
    steps: int | None = None,
    queries: int | None = None,
    gradient: Gradient = "bpda",
    other_ways: Sequence[Gradient] = (),
    ways_at: Sequence[tuple[str, float]] | None = None,
    transferred: Sequence[str] = (),
    samples: int = 1,
) -> list[Planned]:
    """Every attack at every eps, WB also by other ways; adaptive ones at the largest eps also with fewer steps.

    The short runs (a fifth of the steps) stand beside the long ones so that training against short attacks cannot pass
    for robustness; the other ways through the Cushion, so that a Shield that hides behind its rounding cannot either.

    Args:
        l2_eps: of the attacks in L2; none: the same.
        steps: of the adaptive attacks; None: their own.
        queries: of the attacks that see answers alone, adaptive or not, and the most that any attack of an ensemble
            takes; None: their own.
        gradient: way through the Cushion.
        other_ways: further ones, for WB alone; ways_at: for which eps; None: for all.
        transferred: attacks to make on surrogates, at every eps with their own steps.
        samples: draws of a random Cushion that each step averages over; attacks that see answers alone get one a query.

    Raises:
        ConfigError: an attack that is not in the catalogue, or cannot be made on a surrogate, no eps, or one below a
            grey level.
    """
    if not eps:
        raise ConfigError("eps", "none given", "give at least one, as 8/256")
    for text, value in eps:
        check_eps(text, value)
    for name in transferred:
        if not transferable(name):
            problem = "cannot be made on a surrogate: it needs the guard's own Shields or answers"
            raise ConfigError(f"attack {name!r}", problem, "take one on the classifier by gradients, as dim")

    def sizes(name: str) -> Sequence[tuple[str, float]]:
        return l2_eps if l2_eps and find_attack(name).attack.ball.name == "l2" else eps

    asking = {name: queries for name in attacks if _counts_queries(name)}
    adaptive = {name: asking.get(name, steps) for name in attacks if find_attack(name).adaptive}
    lengths = {**adaptive, **asking}
    cells = [_cell(name, size, lengths.get(name), gradient, samples) for name in attacks for size in sizes(name)]
    largest = max(eps, key=lambda pair: pair[1])
    for name, length in adaptive.items():
        fewer = max(1, (length or find_attack(name).attack.steps) // 5)
        short = _cell(name, largest, fewer, gradient, samples)
        if all(short.id != cell.id for cell in cells):  # a fifth may still be all that an attack ever takes
            cells.append(short)
    ways = other_ways if "wb" in attacks else ()
    cells += [_cell("wb", size, steps, way, samples) for way in ways for size in (eps if ways_at is None else ways_at)]
    return cells + [Planned(name, value, text, transferred=True) for name in transferred for text, value in sizes(name)]


def _cell(name: str, size: tuple[str, float], steps: int | None, gradient: Gradient, samples: int) -> Planned:
    """An attack on the victim itself; one that sees answers alone gets one draw a query."""
    draws = 1 if find_attack(name).access == "black-box" else samples
    return Planned(name, size[1], size[0], steps=steps, gradient=gradient, samples=draws)


def _counts_queries(name: str) -> bool:
    """Whether its steps are queries; of an ensemble they are the most that any of its attacks takes."""
    entry = find_attack(name)
    return entry.access == "black-box" or isinstance(entry.attack, Ensemble)


def attacker_of(planned: Planned) -> Attacker:
    """What one must know to run a cell."""
    if planned.access == "white-box":
        return "knows the guard" if find_attack(planned.attack).adaptive else "knows the classifier"
    return "asks and sees answers" if planned.access == "black-box" else "knows neither"


def norm_of(planned: Planned) -> Norm:
    return norm_name(planned.value.ball)


def norm_name(ball: Ball) -> Norm:
    """As the evaluation format writes it."""
    return "L2" if ball.name == "l2" else "Linf"


def plan_assessment(
    attacks: Sequence[str],
    eps: Sequence[tuple[str, float]],
    *,
    steps: int | None = None,
    queries: int | None = None,
    gradients: Sequence[Gradient] = ("bpda",),
    samples: int = 1,
    transferred: Sequence[str] = (),
) -> list[Planned]:
    """Every attack at every eps by every way through the Cushion; those that look for the smallest change at one eps.

    Args:
        steps: of the iterated attacks by gradients within an eps; None: their own.
        queries: of the attacks that see answers alone, and the most that any attack of an ensemble takes; None: their
            own.
        gradients: ways through the Cushion; attacks that see answers alone have none and are run once.
        samples: draws of a random Cushion that each step averages over; attacks that see answers alone get one a query.
        transferred: attacks to make on surrogates too, of `carried_over`.

    Raises:
        ConfigError: no attack, no eps or no way, one twice, an eps below a grey level.
    """
    sizes = [value for _, value in eps]
    for what, given in (("attacks", list(attacks)), ("eps", sizes), ("gradient", list(gradients))):
        if not given or len(set(given)) != len(given):
            raise ConfigError(what, "none, or one twice", "name at least one, each once")
    for text, value in eps:
        check_eps(text, value)
    cells = []
    for name in attacks:
        entry, length = find_attack(name), _length(name, steps, queries)
        ways = gradients[:1] if entry.access == "black-box" else gradients
        sizes_of = [(SMALLEST, EVERYTHING)] if entry.minimal else eps
        cells += [_cell(name, size, length, way, samples) for way in ways for size in sizes_of]
    for name in transferred:
        length = _length(name, steps, queries)
        cells += [Planned(name, value, text, steps=length, transferred=True) for text, value in eps]
    return cells


def _length(name: str, steps: int | None, queries: int | None) -> int | None:
    """Steps of an attack of an assessment; None: its own."""
    if _counts_queries(name):
        return queries
    entry = find_attack(name)
    return None if entry.minimal or entry.attack.steps == 1 else steps


def carried_over(names: Sequence[str]) -> list[str]:
    """Those of these attacks that can be made on a surrogate, within an eps.

    Raises:
        ConfigError: none can.
    """
    found = [name for name in names if transferable(name) and not find_attack(name).minimal]
    if not found:
        problem = f"none of {', '.join(names)} can be made on it"
        raise ConfigError("surrogate", problem, "add one by gradients within an eps, as pgd")
    return found


def every_attack(classes: int, task: TaskName = "single") -> list[str]:
    """Names of all attacks that can be aimed at a classifier alone, of so many classes, or at one of another task."""
    entries = {name: entry for name, entry in {**CATALOGUE, **DENSE}.items() if entry.serves(task)}
    return [name for name, entry in entries.items() if not entry.adaptive and _enough(entry, classes, task)]


def _enough(entry: CatalogueEntry, classes: int, task: TaskName) -> bool:
    return task != "single" or entry.classes <= classes


def check_attacks(
    names: Iterable[str], classes: int | None = None, *, shields: bool = False, task: TaskName = "single"
) -> None:
    """Whether each can be aimed at a classifier of this task and so many classes, where it is known, with or without
    Shields.

    Raises:
        ConfigError: an attack on a Shield, with what to take in its place; one that needs more classes, or is for
            another task, with those that there are; an unknown one.
    """
    for name in names:
        entry = find_attack(name)
        if entry.adaptive and not shields:
            base, plus, added = name.partition("+")
            twin = base.removesuffix("-guard").removesuffix("-wb").removeprefix("wb-")
            instead = twin if twin in CATALOGUE and not CATALOGUE[twin].adaptive else "cw-linf"
            instead += plus + added
            raise ConfigError(f"attack {name!r}", "aims at a Shield; here there is none", f"take {instead!r}")
        if classes is None:
            continue
        if not entry.serves(task):
            what = {"single": "one class an image", "multi": "findings", "dense": "masks"}[task]
            there = ", ".join(every_attack(classes, task)) if task != "single" else "`medaegis attacks`"
            raise ConfigError(f"attack {name!r}", f"does not attack {what}", f"take one of {there}")
        if not _enough(entry, classes, task):
            raise ConfigError(f"attack {name!r}", f"needs {entry.classes} classes, there are {classes}", "leave it out")


def check_surrogates(given: bool, cells: Iterable[Planned]) -> None:
    """Whether there are cells made on surrogates just where some are given.

    Raises:
        ConfigError: one without the other.
    """
    if given != any(cell.transferred for cell in cells):
        problem = "no cell is made on them" if given else "none given, and some cells are made on them"
        raise ConfigError("surrogates", problem, "give both or neither")


SAMPLES = 4  # draws of a random Cushion, if nothing else is asked for


def ways_through(cushion: Cushion, asked: Sequence[str], attacks: Sequence[str]) -> list[Gradient]:
    """The ways for gradients through this Cushion that are asked for, for these attacks.

    Raises:
        ConfigError: there is no such way; or one is asked for that nothing would go: there is no Cushion, or no attack
            has gradients.
    """
    known: tuple[Gradient, ...] = get_args(Gradient)
    text = ",".join(asked)
    for one in asked:
        if one not in known:
            raise ConfigError(f"--gradient {one}", "is no way through a Cushion", f"take {', '.join(known)}")
    ways = [way for one in asked for way in known if way == one]
    if cushion.spec == "none" and ways != ["bpda"]:
        raise ConfigError(f"--gradient {text}", "without a Cushion every way is the same", "leave it out")
    if ways != ["bpda"] and all(find_attack(name).access == "black-box" for name in attacks):
        problem = f"{', '.join(attacks)}: by answers alone, without gradients"
        raise ConfigError(f"--gradient {text}", problem, "leave it out")
    return ways


def samples_for(cushion: Cushion, asked: int | None) -> int:
    """Draws that an attack through this Cushion averages over; 1 where nothing is drawn.

    Raises:
        ConfigError: several are asked for, and the Cushion is not random: they would all be the same.
    """
    if cushion.random:
        return SAMPLES if asked is None else asked
    if asked is not None and asked > 1:
        problem = f"the Cushion {cushion.spec} is not random, so every draw is the same"
        raise ConfigError(f"--samples {asked}", problem, "leave it out")
    return 1
