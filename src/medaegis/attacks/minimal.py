"""Attacks that look for the smallest change: Carlini-Wagner L2 (2017), DeepFool (Moosavi-Dezfooli 2016), of masks dense
adversary generation (DAG; Xie 2017, "Adversarial examples for semantic segmentation and object detection") and JSMA
(Papernot 2016).

Their rules take an image for adversarial where its loss is below 0, as margins are. They walk without regard to eps;
the ball has the last word: an image whose smallest change is longer than eps is drawn back into it, and fails there.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from medaegis.attacks.balls import LEVELS, Ball, Linf
from medaegis.attacks.losses.answer import CarliniWagner
from medaegis.attacks.objective import Goal, Objective, View, margin
from medaegis.attacks.steps import Problem, StepRule, Walker
from medaegis.errors import ConfigError

SHORTEST = 1 / (8 * LEVELS)  # least step to a boundary; 8-bit pixels would not feel the shorter ones near it
FINEST = 1e-6  # the same for pixels that are not rounded, some units in the last place of float32
LARGEST_WEIGHT = 1e10  # upper end of the search for c
BETAS, ADAM_EPS = (0.9, 0.999), 1e-8


class Shortest(Walker):
    """Hands over the shortest adversarial change that it saw; until there is one, the point of the lowest loss.

    Attributes:
        far: length of that change in the norm of the ball, `(N,)`; infinite until there is one.
    """

    def __init__(self, problem: Problem) -> None:
        self.problem, self.point = problem, problem.x.clone()
        self.far = torch.full((len(problem.x),), torch.inf, dtype=torch.float32, device=problem.x.device)
        self._lowest = self.far.clone()

    def see(self, z: Tensor, losses: Tensor, reached: Tensor) -> None:
        """A point `(N, C, H, W)`, as the victim sees it; its losses and whether it is adversarial, `(N,)`."""
        z = self.problem.seen(z)
        far = self.problem.ball.length(z - self.problem.x).flatten()
        lower = torch.isinf(self.far) & (losses < self._lowest)
        better = torch.where(reached, far < self.far, lower)
        self.point = torch.where(better.view(-1, 1, 1, 1), z, self.point)
        self._lowest = torch.where(better, losses, self._lowest)
        self.far = torch.where(better & reached, far, self.far)

    def result(self, z: Tensor) -> Tensor:
        """The points, drawn into the ball where they lie outside."""
        return self.problem.inside(self.point)


@dataclass(frozen=True)
class CarliniL2(StepRule):
    """Adam on ||delta||^2 + c * max(loss, -kappa), and a search for each image's smallest c that works.

    Carlini and Wagner 2017, with the defaults of their `l2_attack.py`. But pixels are walked themselves and kept in
    [0, 1] (their "projected gradient descent"): in their tanh space pure black and white, of which radiographs are
    full, have no slope and never move. The rate is theirs as it acts on mid-grey. The steps of the attack are shared
    out among the rounds of the search. Hands over the shortest adversarial change, or where there was none the point
    of the lowest loss.

    Args:
        search: rounds.
        rate: learning rate, in pixel units.
        first: weight c of the first round; times 10 until it works, halved between what did and did not from then on.
        kappa: confidence: a change counts once the loss is at most -kappa.
    """

    search: int = 9
    rate: float = 0.005
    first: float = 1e-3
    kappa: float = 0.0
    by_sign = True

    def __post_init__(self) -> None:
        if self.search < 1 or self.rate <= 0 or self.first <= 0 or self.kappa < 0:
            raise ConfigError("CW-L2", f"{self}", "give search >= 1, rate > 0, first > 0, kappa >= 0")

    def begin(self, problem: Problem) -> Walker:
        return _CarliniWalker(self, problem)


class _CarliniWalker(Shortest):
    def __init__(self, rule: CarliniL2, problem: Problem) -> None:
        super().__init__(problem)
        self.rule, self.length = rule, -(-problem.steps // rule.search)
        self.weight = torch.full_like(self.far, rule.first)
        self.low, self.high = torch.zeros_like(self.weight), torch.full_like(self.weight, LARGEST_WEIGHT)
        self.clean: tuple[Tensor, Tensor] | None = None
        self._begin_round()

    def _begin_round(self) -> None:
        self.taken = 0
        self.first, self.second = torch.zeros_like(self.problem.x), torch.zeros_like(self.problem.x)
        self.worked = torch.zeros_like(self.weight, dtype=torch.bool)

    def step(self, z: Tensor, grad: Tensor, losses: Tensor, i: int) -> Tensor:
        reached = self._reached(losses)
        self.worked |= reached
        self.see(z, losses, reached)
        if self.clean is None:
            self.clean = grad, losses
        if i and i % self.length == 0:
            self._search()
            self._begin_round()
            # Every round starts at the clean image, whose gradient is known: no second look.
            z, (grad, losses) = self.problem.x, self.clean
        return self._adam(z, grad, losses)

    def _reached(self, losses: Tensor) -> Tensor:
        return (losses < 0) & (losses <= -self.rule.kappa)

    def _search(self) -> None:
        self.high = torch.where(self.worked, torch.minimum(self.high, self.weight), self.high)
        self.low = torch.where(self.worked, self.low, torch.maximum(self.low, self.weight))
        bounded = self.high < LARGEST_WEIGHT
        self.weight = torch.where(bounded, (self.low + self.high) / 2, self.weight * 10)

    def _adam(self, z: Tensor, grad: Tensor, losses: Tensor) -> Tensor:
        pulls = self.weight * ~self._reached(losses)  # on the boundary itself nothing is reached yet
        grad = 2 * (z - self.problem.x) + pulls.view(-1, 1, 1, 1) * grad
        self.taken += 1
        self.first.lerp_(grad, 1 - BETAS[0])
        self.second.lerp_(grad.square(), 1 - BETAS[1])
        mean, spread = (v / (1 - b**self.taken) for v, b in zip((self.first, self.second), BETAS, strict=True))
        return (z - self.rule.rate * mean / (spread.sqrt() + ADAM_EPS)).clamp_(0, 1)


@dataclass(frozen=True)
class Boundary(StepRule):
    """To where the loss, taken as linear, is 0, and a little beyond: the step of DeepFool in the norm of the ball.

    An image rests once it is adversarial. The clean image plus the whole change is looked at, overshoot included, as
    in the authors' code.

    Args:
        overshoot: share by which each step is longer (0.02 in the paper).
    """

    overshoot: float = 0.02
    by_sign = True

    def begin(self, problem: Problem) -> Walker:
        return _BoundaryWalker(self, problem)


class _BoundaryWalker(Walker):
    def __init__(self, rule: Boundary, problem: Problem) -> None:
        self.rule, self.problem = rule, problem
        self.least = SHORTEST if problem.rounds else FINEST
        self.resting = torch.zeros(len(problem.x), dtype=torch.bool, device=problem.x.device)

    def step(self, z: Tensor, grad: Tensor, losses: Tensor, i: int) -> Tensor:
        direction = self.problem.ball.direction(grad)
        slope = (grad * direction).sum((1, 2, 3), keepdim=True)
        length = ((1 + self.rule.overshoot) * losses.view(-1, 1, 1, 1) / slope).clamp_min(self.least)
        # Where the gradient is nil there is no boundary to see, now and for good.
        self.resting |= (losses < 0) | ~(slope > 0).flatten()
        return torch.where(self.resting.view(-1, 1, 1, 1), z, z - length * direction).clamp_(0, 1)

    def rests(self) -> bool:
        return bool(self.resting.all())

    def result(self, z: Tensor) -> Tensor:
        return self.problem.inside(z)


@dataclass(frozen=True)
class NearestBoundary(Objective):
    """Margin to the class whose boundary is nearest, each taken as linear (DeepFool); below 0 once crossed.

    Untargeted it takes a backward for each other class: one alone where there are two, for only the difference of
    logits matters. With targets there is one boundary of interest, to the best other class: one backward.

    Args:
        ball: whose norm tells what is near; give the attack the same.
    """

    ball: Ball = field(default_factory=Linf)

    def walked(self) -> tuple[Objective, ...]:
        return (CarliniWagner(),)

    def passes(self, goal: Goal, classes: int) -> tuple[int, int]:
        return 1, classes - 1 if goal.targets is None else 1

    def __call__(self, view: View) -> Tensor:
        return margin(view.known_logits(), view.goal)

    def pull(self, view: View, z: Tensor) -> tuple[Tensor, Tensor]:
        if view.goal.targets is not None:
            return super().pull(view, z)
        logits, labels = view.known_logits(), view.goal.labels.view(-1, 1)
        classes = logits.shape[1]
        true = logits.gather(1, labels)
        apart = [(true - logits.gather(1, (labels + k) % classes)).squeeze(1) for k in range(1, classes)]
        nearest = torch.full_like(apart[0], torch.inf)
        losses, grad = apart[0], torch.zeros_like(z)
        for k, loss in enumerate(apart):
            (slopes,) = torch.autograd.grad(loss.sum(), z, retain_graph=k < classes - 2)
            slope = (slopes * self.ball.direction(slopes)).sum((1, 2, 3))
            # A class whose logit goes along with the true one, as that of a tie for good, has no boundary to go to.
            far = torch.where((slope > 0) | (loss < 0), loss.detach() / slope.clamp_min(1e-30), torch.inf)
            nearer = far < nearest
            nearest = torch.where(nearer, far, nearest)
            losses = torch.where(nearer, loss, losses)
            grad = torch.where(nearer.view(-1, 1, 1, 1), slopes, grad)
        return losses, grad


@dataclass(frozen=True)
class Accumulate(StepRule):
    """Adds up gradients, the largest value of each drawn to `rate`, until the loss is below 0 (DAG, algorithm 1).

    Args:
        rate: in pixel units; half a grey level in the paper.
    """

    rate: float = 0.5 / LEVELS
    by_sign = True

    def __post_init__(self) -> None:
        if not 0 < self.rate <= 1:
            raise ConfigError("DAG", f"rate is {self.rate}", "give pixel units above 0, at most 1")

    def begin(self, problem: Problem) -> Walker:
        return _AccumulateWalker(self, problem)


class _AccumulateWalker(Walker):
    def __init__(self, rule: Accumulate, problem: Problem) -> None:
        self.rule, self.problem, self.point = rule, problem, problem.x
        self.through = torch.zeros(len(problem.x), dtype=torch.bool, device=problem.x.device)

    def step(self, z: Tensor, grad: Tensor, losses: Tensor, i: int) -> Tensor:
        now = (losses < 0) & ~self.through
        self.point = torch.where(now.view(-1, 1, 1, 1), self.problem.seen(z), self.point)
        self.through |= now
        longest = grad.abs().amax((1, 2, 3), keepdim=True).clamp_min(1e-30)
        return torch.where(self.through.view(-1, 1, 1, 1), z, (z - self.rule.rate * grad / longest).clamp(0, 1))

    def rests(self) -> bool:
        return bool(self.through.all())

    def result(self, z: Tensor) -> Tensor:
        """What got through when it did, of the others the last point; drawn into the ball where it lies outside."""
        return self.problem.inside(torch.where(self.through.view(-1, 1, 1, 1), self.point, z))


@dataclass(frozen=True)
class Sparse(StepRule):
    """The few values that matter most: a bounded number may change, each once and by the whole step.

    In step i the largest entries of the gradient are spent among the values still untouched, as many as brings the
    number changed to `share` * C*H*W * (i + 1) / steps. An image rests once it is adversarial. JSMA's theta is the
    attack's `step_size`, in units of eps; its number of features per step follows from the steps.

    Args:
        share: of all values that may change (gamma; 14.5 % in Papernot 2016).
    """

    share: float = 0.145
    by_sign = True

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ConfigError("sparse steps", f"share is {self.share}", "give a share of the values in (0, 1]")

    def begin(self, problem: Problem) -> Walker:
        return _SparseWalker(self, problem)


class _SparseWalker(Walker):
    def __init__(self, rule: Sparse, problem: Problem) -> None:
        self.rule, self.problem = rule, problem
        self.values = problem.x[0].numel()
        self.touched = torch.zeros_like(problem.x, dtype=torch.bool)
        self.reached = torch.zeros(len(problem.x), dtype=torch.bool, device=problem.x.device)

    def allowed(self, i: int) -> int:
        """Values that may have changed after `i` steps."""
        return int(self.rule.share * self.values * i / self.problem.steps)

    def step(self, z: Tensor, grad: Tensor, losses: Tensor, i: int) -> Tensor:
        self.reached |= losses < 0
        problem = self.problem
        moved = problem.ball.project_(z - problem.step_size * grad.sign(), problem.x, problem.eps)
        free = ~self.touched & (moved != z) & ~self.reached.view(-1, 1, 1, 1)
        weight = torch.where(free, grad.abs(), 0.0).flatten(1)
        largest = weight.topk(self.allowed(i + 1) - self.allowed(i), 1)
        chosen = torch.zeros_like(weight, dtype=torch.bool).scatter_(1, largest.indices, largest.values > 0).view_as(z)
        self.touched |= chosen
        return torch.where(chosen, moved, z)

    def rests(self) -> bool:
        return bool(self.reached.all())


@dataclass(frozen=True)
class Saliency(Objective):
    """JSMA's saliency map (Papernot 2016) of single values; the loss is the margin.

    In the paper a value counts by the product of two slopes of opposite signs, that of the target's output and that of
    the sum of the others. Outputs that sum to 1, as probabilities do, have both the same but for their sign, and the
    order is that of the one slope. The slopes of raw logits change under a shift common to all of them, which no answer
    depends on; so the mean of all is taken from each, after which they sum to 0: it is the slope of the target's logit
    less their mean that counts. The paper scores pairs, which for d values takes d^2 numbers: 20 GB for an image of
    224 x 224. Untargeted the true class takes the target's place with the signs turned.
    """

    def walked(self) -> tuple[Objective, ...]:
        return (CarliniWagner(),)

    def __call__(self, view: View) -> Tensor:
        return margin(view.known_logits(), view.goal)

    def pull(self, view: View, z: Tensor) -> tuple[Tensor, Tensor]:
        logits, goal = view.known_logits(), view.goal
        named = goal.labels if goal.targets is None else goal.targets
        own = logits.gather(1, named.view(-1, 1)).squeeze(1) - logits.mean(1)
        (slopes,) = torch.autograd.grad(own.sum(), z)
        return self(view), slopes if goal.targets is None else -slopes
