"""What the catalogue says of an attack."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from medaegis.attacks.base import AnyAttack
from medaegis.attacks.engine import Attack
from medaegis.task import TaskName

Access = Literal["white-box", "black-box", "no-box"]


@dataclass(frozen=True)
class CatalogueEntry:
    """A named attack.

    Attributes:
        title: one line for tables.
        paper: where it comes from.
        attack: the attack with its default settings.
        adaptive: aimed at the whole guard (needs a Shield), not at the classifier alone.
        classes: fewest classes that it can attack.
        misleads: aims at a wrong answer, and not at features alone.
        minimal: looks for the smallest change, or for few pixels, without regard to eps; run it at eps 1.
        sparse: changes few pixels, whose number is the size of its change.
        confined: to a small part of its ball, as to smooth changes; so that it need not win, however large eps is.
        access: what the attacker must have: "white-box" (weights), "black-box" (answers) or "no-box" (neither).
        task: the one it is for; of those for "single", `serves` says which are for others too.
    """

    title: str
    paper: str
    attack: AnyAttack
    adaptive: bool = False
    classes: int = 2
    misleads: bool = True
    minimal: bool = False
    sparse: bool = False
    confined: bool = False
    access: Access = "white-box"
    task: TaskName = "single"

    def serves(self, task: TaskName) -> bool:
        """Whether it can attack what a network says in this task."""
        if task == "single" or self.task != "single":
            return task == self.task
        if not self.attack.serves_any_task or (self.adaptive and task == "multi"):  # no Shield judges findings
            return False
        moved = isinstance(self.attack, Attack) and any(transform.moves for transform in self.attack.transforms)
        return task != "dense" or not moved
