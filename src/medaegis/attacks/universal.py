"""Universal perturbation: one change that fools for most images (Moosavi-Dezfooli 2017), by stochastic gradients.

As in Shafahi 2020: no inner DeepFool for each image but a step along the summed gradient of each batch, with a clipped
loss. It is learned on known images of a known victim and fixed from then on: no image it is added to is ever asked
about.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import Tensor

from medaegis.ambient import own_modes
from medaegis.attacks.balls import LEVELS, Ball, Linf, whole_levels
from medaegis.attacks.base import AnyAttack, AttackResult, Request
from medaegis.attacks.engine import Attack
from medaegis.attacks.losses.answer import CarliniWagner
from medaegis.attacks.objective import Goal, Objective, View
from medaegis.attacks.steps import Problem, Walker
from medaegis.attacks.victim import Victim
from medaegis.errors import ConfigError
from medaegis.progress import Progress, silent

WHAT = "universal perturbation"


@dataclass(frozen=True)
class LearnedChange:
    """What was learned, and what it took.

    Attributes:
        change: `(C, H, W)`, in units of full brightness; whole grey levels where the victim rounds.
        forwards, backwards: passes over single known images.
        seconds: wall time.
    """

    change: Tensor
    forwards: int
    backwards: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Universal(AnyAttack):
    """One change for every image, or one for each wanted class; an attack like every other, given known images.

    Args:
        objective: loss per image; best clipped, so that no image takes it all, but not near the boundary: only what
            carries known images far beyond it carries unknown ones over it.
        steps: passes over the known images, in an order drawn by the seed.
        step_size: of the first batch, in units of eps, by the sign of the summed gradient; falls to 0 over the batches.
        learning_batch: known images of a step.
        images: known images that it learns from at most; 500 were enough in Moosavi-Dezfooli 2017, section 3.
    """

    objective: Objective = field(default_factory=lambda: CarliniWagner(kappa=9.0))
    steps: int = 10
    step_size: float = 0.4
    learning_batch: int = 32
    images: int = 500
    ball: ClassVar[Ball] = Linf()
    restarts: ClassVar[int] = 1
    samples: ClassVar[int] = 1
    random_start: ClassVar[bool] = False
    learns: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if min(self.steps, self.learning_batch, self.images) < 1:
            given = f"steps={self.steps}, learning_batch={self.learning_batch}, images={self.images}"
            raise ConfigError(WHAT, given, "give at least 1 of each")

    def with_options(
        self, *, steps: int | None = None, restarts: int | None = None, samples: int | None = None
    ) -> Universal:
        """A copy that passes over the known images at most so many times.

        `samples` changes nothing: each image of a step meets a draw of its own, so their sum is an expectation already.
        """
        if restarts is not None and restarts > 1:
            raise ConfigError(WHAT, "it has one start, so restarts would repeat it", "leave restarts out")
        return self if steps is None else replace(self, steps=min(steps, self.steps))

    def passes(self, goal: Goal, classes: int) -> int:
        """Of learning, from as many known images as it takes at most; nothing is asked about those it is added to."""
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
    ) -> LearnedChange:
        """Learn the change for one wanted class, from the known images of all others; None: away from every class.

        Args:
            images: `(N, C, H, W)` in [0, 1]; labels: their classes, int64 `(N,)`.
            eps: largest change of a value; where the victim rounds, whole grey levels of it count.

        Raises:
            ConfigError: no images to learn from, labels that do not fit, or eps outside [0, 1].
        """
        _check(images, labels, target, eps)
        began = time.perf_counter()
        if target is not None:
            images, labels = images[labels != target], labels[labels != target]
        goal = Goal(labels, None if target is None else torch.full_like(labels, target))
        rounds = victim.cushion.rounds
        limit = float(whole_levels(torch.tensor(eps))) / LEVELS if rounds else eps
        change = torch.zeros_like(images[0], device=victim.device)
        order = torch.Generator().manual_seed(seed)
        size, batches = self.step_size * limit, self.steps * -(-len(images) // self.learning_batch)
        left = batches
        for step in range(self.steps):
            for rows in torch.randperm(len(images), generator=order).split(self.learning_batch):
                part = goal[rows.to(labels.device)].to(victim.device)
                x = images[rows.to(images.device)].to(victim.device)
                z = (x + change).clamp_(0, 1).requires_grad_(True)
                drawn = victim.drawn(rows, seed=seed, stream=f"universal/{target}/{step}")
                begun = self.objective.begin(drawn, part)
                _, grad = begun.pull(drawn.look(z, part, begun), z)
                change -= size * left / batches * grad.nan_to_num().sum(0).sign()
                change.clamp_(-limit, limit)
                left -= 1
            progress(step + 1, self.steps, "passes over the known images")
        looks, pulls = self.objective.passes(goal, len(victim.exact.classes))
        spent = self.steps * len(images)
        change = (change * LEVELS).round() / LEVELS if rounds else change
        return LearnedChange(change.cpu(), spent * looks, spent * pulls, time.perf_counter() - began)

    def _run(self, victim: Victim, request: Request) -> AttackResult:
        """Learn on the known images, then add what was learned to every image; passes and seconds are of both.

        What is learned depends on the known images, the seed and the largest eps; what it does to an image, on that
        image alone.
        """
        if request.known is None:
            remedy = "give known=(images, labels), none of the attacked ones"
            raise ConfigError(WHAT, "it is learned from known images, and none are given", remedy)
        radius, classes = float(request.eps.max()), wanted(request.targets)
        lessons = {k: self.learn(victim, *request.known, eps=radius, target=k, seed=request.seed) for k in classes}
        found = fixed({k: lesson.change for k, lesson in lessons.items()})._run(victim, request)
        return replace(
            found,
            forwards=sum(lesson.forwards for lesson in lessons.values()),
            backwards=sum(lesson.backwards for lesson in lessons.values()),
            seconds=found.seconds + sum(lesson.seconds for lesson in lessons.values()),
        )


def wanted(targets: Tensor | None) -> list[int | None]:
    """The classes that a change must be learned for; None is "any but the true one"."""
    return [None] if targets is None else sorted(set(targets.tolist()))


def fixed(changes: Mapping[int | None, Tensor]) -> Attack:
    """The attack that adds what was learned, by wanted class, and never asks the victim."""
    return Attack(objective=Unasked(), rule=Fixed(changes), steps=1)


@dataclass(frozen=True, eq=False)
class Fixed:
    """The same change for every image of one goal, cut to each one's ball.

    Args:
        changes: by wanted class (None: untargeted), `(C, H, W)` in pixel units.
    """

    changes: Mapping[int | None, Tensor] = field(repr=False)
    needs_gradient = False
    by_sign = False
    keeps_best = False

    def begin(self, problem: Problem) -> Walker:
        goals = [None] * len(problem.x) if problem.targets is None else problem.targets.tolist()
        if unknown := set(goals) - set(self.changes):
            raise ConfigError(WHAT, f"none was learned for class {unknown.pop()}", "learn one for each wanted class")
        change = torch.stack([self.changes[k] for k in goals])
        if change.shape != problem.x.shape:
            given, expected = tuple(change.shape[1:]), tuple(problem.x.shape[1:])
            raise ConfigError(WHAT, f"it is {given}, the images {expected}", "learn it on those")
        return _FixedWalker(change.to(problem.x), problem)


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


def _check(images: Tensor, labels: Tensor, target: int | None, eps: float) -> None:
    n = len(images)
    if images.ndim != 4 or not n:
        raise ConfigError(WHAT, f"known images are {tuple(images.shape)}", "give some, (N, C, H, W)")
    if labels.shape != (n,):
        raise ConfigError(WHAT, f"known labels are {tuple(labels.shape)}", f"give one each, ({n},)")
    if target is not None and bool((labels == target).all()):
        raise ConfigError(WHAT, f"every known image is of class {target}", "give images of other classes to learn from")
    if not 0 <= eps <= 1:
        raise ConfigError(WHAT, f"eps {eps} is not in [0, 1]", "give pixel units, as 16/256")
