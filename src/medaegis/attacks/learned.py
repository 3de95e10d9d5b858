"""What attacks have in common that learn on known images of a known victim, and are fixed from then on: no image that
they are run on is ever asked about.
"""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar, Self

import torch
from torch import Tensor

from medaegis.ambient import own_modes
from medaegis.attacks.balls import LEVELS, Ball, Linf, whole_levels
from medaegis.attacks.base import AnyAttack, AttackResult, Request
from medaegis.attacks.engine import Attack
from medaegis.attacks.losses.answer import CarliniWagner
from medaegis.attacks.objective import Goal, Objective, View
from medaegis.attacks.steps import Problem, StepRule, Walker
from medaegis.attacks.victim import Victim
from medaegis.errors import ConfigError
from medaegis.progress import Progress, silent

Learned = Mapping[str, Tensor]  # by names that are the attack's own, on the processor
Change = Callable[[Tensor], Tensor]  # of images (N, C, H, W), of the same shape


@dataclass(frozen=True)
class Lesson:
    """What was learned for one wanted class, and what it took.

    Attributes:
        forwards, backwards: passes over single known images.
        seconds: wall time.
    """

    learned: dict[str, Tensor]
    forwards: int
    backwards: int
    seconds: float


@dataclass(frozen=True)
class Material:
    """Known images to learn from `(N, C, H, W)`, and what for.

    Attributes:
        victim: on whose device everything is computed.
        goal: one for all images.
        limit: largest change of a value; whole grey levels where the victim rounds.
        stream: names the draws of a random Cushion.
    """

    victim: Victim
    images: Tensor
    goal: Goal
    limit: float
    seed: int
    stream: str

    def __len__(self) -> int:
        return len(self.images)

    def batch(self, rows: Tensor, step: int) -> tuple[Victim, Tensor, Goal]:
        """The victim drawn for these images `(M,)`, the images and their goal."""
        drawn = self.victim.drawn(rows, seed=self.seed, stream=f"{self.stream}/{step}")
        x = self.images[rows.to(self.images.device)].to(self.victim.device)
        return drawn, x, self.goal[rows.to(self.goal.labels.device)].to(self.victim.device)

    def shuffled(self, steps: int, size: int, progress: Progress) -> Iterator[tuple[Victim, Tensor, Goal, float]]:
        """All images in so many passes, each in an order of its own, in batches; and what share of them is left."""
        order = torch.Generator().manual_seed(self.seed)
        batches = left = steps * -(-len(self) // size)
        for step in range(steps):
            for rows in torch.randperm(len(self), generator=order).split(size):
                yield *self.batch(rows, step), left / batches
                left -= 1
            progress(step + 1, steps, "passes over the known images")


@dataclass(frozen=True, kw_only=True)
class Learner(AnyAttack):
    """An attack that is learned, for any wrong class or for each wanted one; like every other, given known images.

    Args:
        objective: loss per image; best clipped, so that no image takes it all, but not near the boundary: only what
            carries known images far beyond it carries unknown ones over it.
        steps: of learning.
        learning_batch: known images that are looked at together.
        images: known images that it learns from at most; 500 were enough in Moosavi-Dezfooli 2017, section 3.
    """

    objective: Objective = field(default_factory=lambda: CarliniWagner(kappa=9.0))
    steps: int = 10
    learning_batch: int = 32
    images: int = 500
    what: ClassVar[str]
    stream: ClassVar[str]
    ball: ClassVar[Ball] = Linf()
    restarts: ClassVar[int] = 1
    samples: ClassVar[int] = 1
    random_start: ClassVar[bool] = False
    learns: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if min(self.steps, self.learning_batch, self.images) < 1:
            given = f"steps={self.steps}, learning_batch={self.learning_batch}, images={self.images}"
            raise ConfigError(self.what, given, "give at least 1 of each")

    def with_options(
        self, *, steps: int | None = None, restarts: int | None = None, samples: int | None = None
    ) -> Self:
        """A copy that learns by at most so many steps.

        `samples` changes nothing: each image of a step meets a draw of its own, so their sum is an expectation already.
        """
        if restarts is not None and restarts > 1:
            raise ConfigError(self.what, "it has one start, so restarts would repeat it", "leave restarts out")
        return self if steps is None else replace(self, steps=min(steps, self.steps))

    def passes(self, goal: Goal, classes: int) -> int:
        """Of learning, from as many known images as it takes at most; nothing is asked about those it is run on."""
        return self.steps * self.images * sum(self.objective.passes(goal, classes)) * len(wanted(goal.targets))

    @own_modes()
    @torch.enable_grad()
    def learn(
        self,
        victim: Victim,
        images: Tensor,
        labels: Tensor,
        *,
        eps: float,
        target: int | None = None,
        seed: int = 0,
        progress: Progress = silent,
    ) -> Lesson:
        """Learn for one wanted class, from the known images of all others; None: away from every class.

        Args:
            images: `(N, C, H, W)` in [0, 1]; labels: their classes, int64 `(N,)`.
            eps: largest change of a value; where the victim rounds, whole grey levels of it count.

        Raises:
            ConfigError: no images to learn from, labels that do not fit, or eps outside [0, 1].
        """
        self._check(images, labels, target, eps)
        began = time.perf_counter()
        if target is not None:
            images, labels = images[labels != target], labels[labels != target]
        goal = Goal(labels, None if target is None else torch.full_like(labels, target))
        limit = float(whole_levels(torch.tensor(eps))) / LEVELS if victim.cushion.rounds else eps
        known = Material(victim, images, goal, limit, seed, f"{self.stream}/{target}")
        learned, seen, followed = self._learned(known, progress)
        looks, pulls = self.objective.passes(goal, len(victim.exact.classes))
        learned = {name: values.cpu() for name, values in learned.items()}
        return Lesson(learned, seen * looks, followed * pulls, time.perf_counter() - began)

    @abstractmethod
    def _learned(self, known: Material, progress: Progress) -> tuple[dict[str, Tensor], int, int]:
        """What is learned; how often a known image was looked at, and its gradient followed."""

    def slope(self, victim: Victim, z: Tensor, goal: Goal) -> Tensor:
        """Gradient of the loss of images `(N, C, H, W)`, 0 where it is no number."""
        z, begun = z.detach().requires_grad_(True), self.objective.begin(victim, goal)
        return begun.pull(victim.look(z, goal, begun), z)[1].nan_to_num()

    @abstractmethod
    def change(self, learned: Learned) -> Change:
        """What was learned, as it is applied to images; without gradients."""

    def fixed(self, lessons: Mapping[int | None, Learned]) -> Attack:
        """The attack that applies what was learned, by wanted class, and never asks the victim."""
        changes = {k: self.change(one) for k, one in lessons.items()}
        return Attack(objective=Unasked(), rule=Fixed(self.what, changes), steps=1)

    def _run(self, victim: Victim, request: Request) -> AttackResult:
        """Learn on the known images, then apply what was learned to every image; passes and seconds are of both.

        What is learned depends on the known images, the seed and the largest eps; what it does to an image, on that
        image alone.
        """
        if request.known is None:
            remedy = "give known=(images, labels), none of the attacked ones"
            raise ConfigError(self.what, "it is learned from known images, and none are given", remedy)
        radius, classes = float(request.eps.max()), wanted(request.targets)
        lessons = {k: self.learn(victim, *request.known, eps=radius, target=k, seed=request.seed) for k in classes}
        found = self.fixed({k: lesson.learned for k, lesson in lessons.items()})._run(victim, request)
        return replace(
            found,
            forwards=sum(lesson.forwards for lesson in lessons.values()),
            backwards=sum(lesson.backwards for lesson in lessons.values()),
            seconds=found.seconds + sum(lesson.seconds for lesson in lessons.values()),
        )

    def _check(self, images: Tensor, labels: Tensor, target: int | None, eps: float) -> None:
        n = len(images)
        if images.ndim != 4 or not n:
            raise ConfigError(self.what, f"known images are {tuple(images.shape)}", "give some, (N, C, H, W)")
        if labels.shape != (n,):
            raise ConfigError(self.what, f"known labels are {tuple(labels.shape)}", f"give one each, ({n},)")
        if target is not None and bool((labels == target).all()):
            problem = f"every known image is of class {target}"
            raise ConfigError(self.what, problem, "give images of other classes to learn from")
        if not 0 <= eps <= 1:
            raise ConfigError(self.what, f"eps {eps} is not in [0, 1]", "give pixel units, as 16/256")


def wanted(targets: Tensor | None) -> list[int | None]:
    """The classes that something must be learned for; None is "any but the true one"."""
    return [None] if targets is None else sorted(set(targets.tolist()))


@dataclass(frozen=True, eq=False)
class Fixed(StepRule):
    """What was learned, applied to every image and cut to each one's ball.

    Args:
        what: it is, for errors.
        changes: by wanted class (None: untargeted).
    """

    what: str
    changes: Mapping[int | None, Change] = field(repr=False)
    needs_gradient = False

    @torch.no_grad()
    def begin(self, problem: Problem) -> Walker:
        goals = [None] * len(problem.x) if problem.targets is None else problem.targets.tolist()
        if unknown := set(goals) - set(self.changes):
            given = f"none was learned for class {unknown.pop()}"
            raise ConfigError(self.what, given, "learn one for each wanted class")
        change = torch.zeros_like(problem.x)
        for k in set(goals):
            rows = torch.tensor([i for i, goal in enumerate(goals) if goal == k], device=change.device)
            change[rows] = self.changes[k](problem.x[rows])
        return _FixedWalker(change, problem)


class _FixedWalker(Walker):
    def __init__(self, change: Tensor, problem: Problem) -> None:
        self.change, self.problem = change, problem

    def step(self, z: Tensor, grad: Tensor, losses: Tensor, i: int) -> Tensor:
        problem = self.problem
        return problem.ball.project_(problem.x + self.change, problem.x, problem.eps)


@dataclass(frozen=True)
class Unasked(Objective):
    """No loss: for an attack that is fixed beforehand. The victim has nothing to compute."""

    needs_logits = False
    any_task = True

    def walked(self) -> tuple[Objective, ...]:
        return ()

    def passes(self, goal: Goal, classes: int) -> tuple[int, int]:
        return 0, 0

    def __call__(self, view: View) -> Tensor:
        return torch.zeros_like(view.goal.labels, dtype=torch.float32)
