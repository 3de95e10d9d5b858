"""Universal perturbation: one change that fools for most images (Moosavi-Dezfooli 2017), by stochastic gradients.

As in Shafahi 2020: no inner DeepFool for each image but a step along the summed gradient of each batch,
with a clipped loss. It is learned on known images; applied to others it is an attack that never asks the victim.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

import torch
from torch import Tensor

from medaegis.attacks.balls import LEVELS
from medaegis.attacks.engine import Attack
from medaegis.attacks.objectives import CarliniWagner, Goal, Objective, View
from medaegis.attacks.steps import Problem, Walker
from medaegis.attacks.victim import Victim
from medaegis.errors import ConfigError
from medaegis.progress import Progress, silent


def universal_attack(
    victim: Victim,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float,
    targets: Tensor | None = None,
    objective: Objective | None = None,
    epochs: int = 10,
    step_size: float = 0.1,
    batch_size: int = 32,
    seed: int = 0,
    progress: Progress = silent,
) -> Attack:
    """Learn one perturbation on known images; running the attack adds it to any image, without a look at the victim.

    What is learned depends on the batches (that is what it is); what it does to an image depends on that image alone.

    Args:
        images: `(N, C, H, W)` in [0, 1].
        labels: their classes, int64 `(N,)`.
        eps: largest change of a value; whole grey levels of it count.
        targets: wanted classes `(N,)`; None: untargeted.
        objective: loss per image; None: the margin, clipped at a confidence of 1 so that no image takes it all.
        epochs: passes over the images, in an order drawn by `seed`.
        step_size: of a batch, in units of eps, by the sign of the summed gradient.

    Raises:
        ConfigError: no images, labels or targets that do not fit, eps outside [0, 1], or no epoch.
    """
    goal = Goal(labels, targets)
    _check(images, goal, eps, epochs, batch_size)
    objective = CarliniWagner(kappa=1.0) if objective is None else objective
    limit = round(eps * LEVELS) / LEVELS
    change = torch.zeros_like(images[0], device=victim.device)
    order = torch.Generator().manual_seed(seed)
    for epoch in range(epochs):
        for rows in torch.randperm(len(images), generator=order).split(batch_size):
            part = goal[rows.to(labels.device)].to(victim.device)
            x = images[rows.to(images.device)].to(victim.device)
            z = (x + change).clamp_(0, 1).requires_grad_(True)
            drawn = victim.drawn(rows, seed=seed, stream=f"universal/{epoch}")
            begun = objective.begin(drawn, part)
            _, grad = begun.pull(drawn.look(z, part, begun), z)
            change -= step_size * limit * grad.nan_to_num().sum(0).sign()
            change.clamp_(-limit, limit)
        progress(epoch + 1, epochs, "epochs of the universal perturbation")
    return Attack(objective=Unasked(), rule=Fixed((change * LEVELS).round().cpu() / LEVELS), steps=1)


@dataclass(frozen=True, eq=False)
class Fixed:
    """The same change for every image, cut to each one's ball.

    Args:
        change: `(C, H, W)`, in pixel units.
    """

    change: Tensor = field(repr=False)
    digest: str = field(init=False)  # tells one from another where attacks are named by their text
    needs_gradient = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "digest", hashlib.sha256(self.change.numpy().tobytes()).hexdigest())

    def begin(self, problem: Problem) -> Walker:
        if self.change.shape != problem.x.shape[1:]:
            given, wanted = tuple(self.change.shape), tuple(problem.x.shape[1:])
            raise ConfigError("universal perturbation", f"it is {given}, the images {wanted}", "learn it on those")
        return _FixedWalker(self, problem)


class _FixedWalker:
    def __init__(self, rule: Fixed, problem: Problem) -> None:
        self.rule, self.problem = rule, problem

    def step(self, z: Tensor, grad: Tensor, losses: Tensor, i: int) -> Tensor:
        problem = self.problem
        return problem.ball.project_(problem.x + self.rule.change.to(problem.x), problem.x, problem.eps)

    def result(self, z: Tensor) -> Tensor:
        return z


@dataclass(frozen=True)
class Unasked(Objective):
    """No loss: for an attack that is fixed beforehand. The victim has nothing to compute."""

    needs_logits = False

    def passes(self, goal: Goal, classes: int) -> tuple[int, int]:
        return 0, 0

    def __call__(self, view: View) -> Tensor:
        return torch.zeros(len(view.goal.labels), device=view.goal.labels.device)


def _check(images: Tensor, goal: Goal, eps: float, epochs: int, batch_size: int) -> None:
    n = len(images)
    if images.ndim != 4 or not n:
        raise ConfigError("universal perturbation", f"images are {tuple(images.shape)}", "give some, (N, C, H, W)")
    for what, values in (("labels", goal.labels), ("targets", goal.targets)):
        if values is not None and values.shape != (n,):
            raise ConfigError("universal perturbation", f"{what} are {tuple(values.shape)}", f"give one each, ({n},)")
    if not 0 <= eps <= 1:
        raise ConfigError("universal perturbation", f"eps {eps} is not in [0, 1]", "give pixel units, as 16/256")
    if epochs < 1 or batch_size < 1:
        given = f"epochs={epochs}, batch_size={batch_size}"
        raise ConfigError("universal perturbation", given, "give at least 1 of each")
