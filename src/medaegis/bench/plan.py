"""What an evaluation is to measure: a cell for each attack, eps, number of steps and way through the Cushion."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from medaegis.attacks.balls import check_eps
from medaegis.attacks.catalogue import find_attack
from medaegis.attacks.ensemble import Ensemble
from medaegis.attacks.entry import Access, AnyAttack
from medaegis.bench.records.evaluation import Attacker, Norm
from medaegis.bench.surrogates import transferable
from medaegis.cushions import Gradient
from medaegis.errors import ConfigError


@dataclass(frozen=True)
class Planned:
    """One cell to measure: a catalogue entry, eps in pixel units and as text, and what to change of its defaults.

    `transferred`: made on the field's surrogate, and only judged by the guard. `check`: the control or alarm that
    runs it on a few images; none: a cell of the plan, on all.
    """

    attack: str
    eps: float
    eps_text: str
    steps: int | None = None
    restarts: int | None = None
    gradient: Gradient = "bpda"
    transferred: bool = False
    samples: int = 1
    check: str = ""

    @property
    def value(self) -> AnyAttack:
        attack = find_attack(self.attack).attack
        return attack.with_options(steps=self.steps, restarts=self.restarts, samples=self.samples)

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
        other_ways: further ones, for WB alone.
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

    blind = {name for name in attacks if find_attack(name).access == "black-box"}
    asking = {name: queries for name in attacks if name in blind or isinstance(find_attack(name).attack, Ensemble)}
    adaptive = {name: asking.get(name, steps) for name in attacks if find_attack(name).adaptive}
    cells = [
        Planned(
            name,
            value,
            text,
            steps=asking.get(name, adaptive.get(name)),
            gradient=gradient,
            samples=1 if name in blind else samples,
        )
        for name in attacks
        for text, value in sizes(name)
    ]
    text, value = max(eps, key=lambda pair: pair[1])
    for name in adaptive:
        fewer = max(1, (adaptive[name] or find_attack(name).attack.steps) // 5)
        draws = 1 if name in blind else samples
        short = Planned(name, value, text, steps=fewer, gradient=gradient, samples=draws)
        if all(short.id != cell.id for cell in cells):  # a fifth may still be all that an attack ever takes
            cells.append(short)
    ways = other_ways if "wb" in attacks else ()
    cells += [
        Planned("wb", value, text, steps=steps, gradient=way, samples=samples) for way in ways for text, value in eps
    ]
    return cells + [Planned(name, value, text, transferred=True) for name in transferred for text, value in sizes(name)]


def attacker_of(planned: Planned) -> Attacker:
    """What one must know to run a cell."""
    if planned.access == "white-box":
        return "knows the guard" if find_attack(planned.attack).adaptive else "knows the classifier"
    return "asks and sees answers" if planned.access == "black-box" else "knows neither"


def norm_of(planned: Planned) -> Norm:
    """As the evaluation format writes it."""
    return "L2" if planned.value.ball.name == "l2" else "Linf"
