"""Objectives that add to others: the stress test of features (Yao 2021), losses that evade kernel density (Carlini
2017b) and local intrinsic dimension (Athalye 2018), and the stability term of the stabilised medical attack (Qi 2021).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from medaegis.attacks.normal import Mixtures
from medaegis.attacks.objective import Begun, Goal, Objective, Target, View
from medaegis.attacks.transforms import Smoothing
from medaegis.errors import ConfigError
from medaegis.models.taps import pool


@dataclass(frozen=True)
class FeatureShift(Objective):
    """The stress test: features driven down (J = mean f) or up (J = -mean f), whatever the class (HFC, section 3).

    Args:
        sign: 1 up, -1 down.
        taps: where; none: the classifier's deepest. Of several the means are added.
    """

    sign: Literal[-1, 1] = 1
    taps: tuple[str, ...] = ()
    needs_logits = False
    any_task = True

    def __post_init__(self) -> None:
        if self.sign not in (-1, 1):
            raise ConfigError("stress test", f"sign is {self.sign}", "give 1 (up) or -1 (down)")

    def begin(self, victim: Target, goal: Goal) -> Objective:
        return FeatureShift(self.sign, self.taps or victim.exact.deepest())

    def __call__(self, view: View) -> Tensor:
        means = [view.features[tap].float().flatten(1).mean(1) for tap in self.taps]
        return -self.sign * torch.stack(means).sum(0)


@dataclass(frozen=True)
class KernelDensityEvasion(Begun):
    """Minus the log density of the features among clean ones of the wanted class, by Gaussian kernels (Carlini 2017b).

    Density as Feinman 2017: of the deepest layer that is known, of several surrogates the mean over them.

    Args:
        bandwidth: of the kernels (1 on pooled features in the code of HFC).
    """

    bandwidth: float = 1.0
    needs_logits = False
    needs_normal = True

    def __post_init__(self) -> None:
        if not self.bandwidth > 0:
            raise ConfigError("KDE evasion", f"bandwidth is {self.bandwidth}", "give a number above 0")

    def begin(self, victim: Target, goal: Goal) -> Objective:
        normal = _normal(goal, "KDE evasion").to(victim.device)
        return _Dense(normal, self.bandwidth, victim.exact.deepest(normal.taps), goal.targets is None)


@dataclass(frozen=True)
class _Dense(Objective):
    normal: Mixtures
    bandwidth: float
    taps: tuple[str, ...]
    needs_logits: bool

    def __call__(self, view: View) -> Tensor:
        mine = self.normal.labels == view.goal.class_to_be(view.logits)[:, None]
        return torch.stack([self._log_density(tap, pool(view.features[tap]), mine) for tap in self.taps]).mean(0).neg()

    def _log_density(self, tap: str, features: Tensor, mine: Tensor) -> Tensor:
        clean = self.normal.features[tap]
        squares = apart(features, clean).square()
        exponents = torch.where(mine, -squares / (2 * self.bandwidth**2), -torch.inf)
        volume = mine.sum(1).log() + clean.shape[1] * math.log(self.bandwidth * math.sqrt(2 * math.pi))
        return exponents.logsumexp(1) - volume


@dataclass(frozen=True)
class LocalDimensionEvasion(Begun):
    """How far the local intrinsic dimension (LID) of the features exceeds that of clean ones, by share, mean over taps.

    Ma 2018: -1 / mean(log(r_i / r_k)), r_i the distance to the i-th nearest of a batch of clean images. The
    batch is drawn evenly from the known ones; the typical LID of clean images is the median of its own members among
    the others. Nothing is gained below it.

    Args:
        neighbours: k (20 in the paper).
        batch: clean images to measure against (100 in the paper).
    """

    neighbours: int = 20
    batch: int = 100
    needs_logits = False
    needs_normal = True

    def __post_init__(self) -> None:
        if not 2 <= self.neighbours < self.batch:
            raise ConfigError("LID evasion", f"{self.neighbours} neighbours of {self.batch}", "give 2 or more, of more")

    def begin(self, victim: Target, goal: Goal) -> Objective:
        normal = _normal(goal, "LID evasion").to(victim.device)
        n = min(self.batch, len(normal.labels))
        if n <= self.neighbours:
            given = f"{n} clean images are known, for {self.neighbours} neighbours"
            raise ConfigError("LID evasion", given, "give more of them")
        rows = torch.arange(n, device=victim.device) * len(normal.labels) // n
        clean = {tap: values[rows] for tap, values in normal.features.items()}
        distances = {tap: apart(values, values).fill_diagonal_(torch.inf) for tap, values in clean.items()}
        typical = {tap: dimension(far, self.neighbours).median() for tap, far in distances.items()}
        return _Low(clean, typical, self.neighbours, tuple(clean))


def apart(features: Tensor, clean: Tensor) -> Tensor:
    """Distances `(N, M)` of `(N, C)` and `(M, C)`; by differences, for a product would lose what is near."""
    return torch.cdist(features, clean, compute_mode="donot_use_mm_for_euclid_dist")


def dimension(distances: Tensor, neighbours: int) -> Tensor:
    """LID `(N,)` from distances `(N, M)` to M others (Ma 2018); differentiable."""
    # A distance of 0, as between equal images, has no logarithm.
    logs = distances.topk(neighbours, 1, largest=False).values.clamp_min(1e-6).log()
    return 1 / (logs[:, -1:] - logs).mean(1).clamp_min(1e-6)


@dataclass(frozen=True)
class _Low(Objective):
    clean: dict[str, Tensor]
    typical: dict[str, Tensor]
    neighbours: int
    taps: tuple[str, ...]
    needs_logits = False

    def __call__(self, view: View) -> Tensor:
        losses = []
        for tap, clean in self.clean.items():
            distances = apart(pool(view.features[tap]), clean)
            losses.append((dimension(distances, self.neighbours) / self.typical[tap] - 1).clamp_min(0))
        return torch.stack(losses).mean(0)


def _normal(goal: Goal, what: str) -> Mixtures:
    if goal.normal is None:
        raise ConfigError(what, "it needs features of clean images", "set normal (fit_mixtures)")
    return goal.normal


SPREAD = 2  # pixels between the points of SMA's kernel


@dataclass(frozen=True)
class Stability(Objective):
    """The stabilisation term of SMA (Qi 2021): a smoothed copy of the image gets the same answer, by KL divergence.

    The answer to the smoothed copy is a constant in each step, as in the authors' code, so it costs a forward and no
    backward. Their code sets the weight of this term to 0; the paper's weight is not known here: 1 unless scaled.

    Args:
        kernel: Gaussian (3 x 3 in their code), its points 2 pixels apart.
    """

    kernel: Smoothing = field(default_factory=lambda: Smoothing(length=3, sigma=1.0))
    any_task = True

    def walked(self) -> tuple[Objective, ...]:
        return ()

    def passes(self, goal: Goal, classes: int) -> tuple[int, int]:
        return 2, 1

    def __call__(self, view: View) -> Tensor:
        assert view.pixels is not None
        assert view.target is not None
        with torch.no_grad():
            smoothed = view.target.look(self.smooth(view.pixels), view.goal, self).known_logits()
        return view.goal.task.divergences(view.known_logits(), smoothed, view.goal.labels)

    def smooth(self, pixels: Tensor) -> Tensor:
        """The image convolved with the kernel; its borders are continued."""
        channels = pixels.shape[1]
        weight = self.kernel.kernel().to(pixels)
        reach = SPREAD * (len(weight) // 2)
        padded = F.pad(pixels, (reach, reach, reach, reach), mode="replicate")
        return F.conv2d(padded, weight.expand(channels, 1, *weight.shape), dilation=SPREAD, groups=channels)
