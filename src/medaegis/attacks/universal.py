"""Universal perturbation: one change that fools for most images (Moosavi-Dezfooli 2017).

By stochastic gradients as in Shafahi 2020: no inner DeepFool for each image but a step along the summed gradient of
each batch, with a clipped loss. Or from answers alone (Koga and Takemoto 2022, after SimBA of Guo 2019).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from medaegis.attacks.balls import LEVELS
from medaegis.attacks.learned import Change, Learned, Learner, Material, wanted
from medaegis.attacks.objective import Goal
from medaegis.errors import ConfigError
from medaegis.progress import Progress
from medaegis.waves import cosines, low_count


@dataclass(frozen=True, kw_only=True)
class OneChange(Learner):
    """One change `(C, H, W)` for every image, or one for each wanted class: "change" in what was learned, in units of
    full brightness; whole grey levels where the victim rounds.
    """

    what: ClassVar[str] = "universal perturbation"
    stream: ClassVar[str] = "universal"

    def change(self, learned: Learned) -> Change:
        change = learned["change"]

        def same(x: Tensor) -> Tensor:
            if change.shape != x.shape[1:]:
                given, expected = tuple(change.shape), tuple(x.shape[1:])
                raise ConfigError(self.what, f"it is {given}, the images {expected}", "learn it on those")
            return change.to(x).expand_as(x)

        return same


@dataclass(frozen=True, kw_only=True)
class Universal(OneChange):
    """By stochastic gradients.

    Args:
        steps: passes over the known images, in an order drawn by the seed.
        step_size: of the first batch, in units of eps, by the sign of the summed gradient; falls to 0 over the batches.
    """

    step_size: float = 0.4

    def _learned(self, known: Material, progress: Progress) -> tuple[dict[str, Tensor], int, int]:
        change = torch.zeros_like(known.images[0], device=known.victim.device)
        for victim, x, goal, left in known.shuffled(self.steps, self.learning_batch, progress):
            slope = self.slope(victim, (x + change).clamp_(0, 1), goal)
            change -= self.step_size * known.limit * left * slope.sum(0).sign()
            change.clamp_(-known.limit, known.limit)
        spent = self.steps * len(known)
        return {"change": whole(change, known)}, spent, spent


@dataclass(frozen=True, kw_only=True)
class SearchedUniversal(OneChange):
    """From answers alone: by the mean loss of the known images, one query each for every look at them.

    Each step tries a cosine wave of one channel, drawn without repetition among the low frequencies until all were
    tried: plus that, and if the loss is not lower, minus that. The change is cut to eps.

    Args:
        steps: waves that are tried, for at most two looks at the known images each.
        images: 100 suffice in section 3 of the paper.
        step_size: largest change of a value by one wave, in units of eps.
        share: of the frequencies of either side that are low.
    """

    steps: int = 300
    images: int = 100
    step_size: float = 0.25
    share: float = 1 / 8

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (0 < self.step_size <= 2 and 0 < self.share <= 1):
            given = f"step_size={self.step_size}, share={self.share}"
            raise ConfigError(self.what, given, "give step_size in (0, 2], share in (0, 1]")

    def passes(self, goal: Goal, classes: int) -> int:
        looks = (1 + 2 * self.steps) * self.objective.passes(goal, classes)[0]
        return looks * self.images * len(wanted(goal.targets))

    @torch.no_grad()
    def _learned(self, known: Material, progress: Progress) -> tuple[dict[str, Tensor], int, int]:
        shape = known.images.shape[1:]
        change = torch.zeros(shape, dtype=torch.float32, device=known.victim.device)
        lowest, looks = self._mean(known, change, 0), 1
        for step, wave in enumerate(itertools.islice(self._waves(shape, known.seed), self.steps), 1):
            for sign in (1, -1):
                tried = change + sign * self.step_size * known.limit * wave.to(change)
                loss, looks = self._mean(known, tried.clamp_(-known.limit, known.limit), step), looks + 1
                if loss < lowest:
                    change, lowest = tried, loss
                    break
            progress(step, self.steps, "waves tried on the known images")
        return {"change": whole(change, known)}, looks * len(known), 0

    def _mean(self, known: Material, change: Tensor, step: int) -> float:
        """Loss of the known images with this change."""
        losses = []
        for rows in torch.arange(len(known)).split(self.learning_batch):
            victim, x, goal = known.batch(rows, step)
            begun = self.objective.begin(victim, goal)
            losses.append(begun(victim.look((x + change).clamp_(0, 1), goal, begun)))
        mean = torch.cat(losses).double().mean().item()
        return math.inf if math.isnan(mean) else mean

    def _waves(self, shape: torch.Size, seed: int) -> Iterator[Tensor]:
        """Low waves `(C, H, W)` of one channel each, 1 at most, in random order, without end."""
        channels, *sides = shape
        lines = (cosines(side, low_count(self.share, side)) for side in sides)
        down, across = (waves / waves.abs().amax(0) for waves in lines)
        order = torch.Generator().manual_seed(seed)
        while True:
            for place in torch.randperm(channels * down.shape[1] * across.shape[1], generator=order).tolist():
                channel, rest = divmod(place, down.shape[1] * across.shape[1])
                row, column = divmod(rest, across.shape[1])
                wave = torch.zeros(shape, dtype=torch.float64)
                wave[channel] = torch.outer(down[:, row], across[:, column])
                yield wave


def whole(change: Tensor, known: Material) -> Tensor:
    """In whole grey levels where the victim rounds."""
    return (change * LEVELS).round() / LEVELS if known.victim.cushion.rounds else change
