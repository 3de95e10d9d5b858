"""The smoothed guard: a guard asked about many noisy copies of an image (randomised smoothing, Cohen et al. 2019).

Its diagnosis is the one as which more than half of all noisy copies are accepted; where there is none, it withholds.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from medaegis.attacks.victim import Victim
from medaegis.cushions import RandomCushion
from medaegis.cushions.noise import GridNoise, NoisyCushion
from medaegis.cushions.random import Numbered
from medaegis.detectors.shield import ShieldBank
from medaegis.draws import WORD, Draws
from medaegis.errors import ConfigError
from medaegis.guard.calibration import set_guard_thresholds
from medaegis.guard.guard import Guard
from medaegis.images.datasets import Dataset

TOGETHER = 64  # noisy copies in a batch


class SmoothedGuard:
    """A guard under noise.

    With s = 255 sigma and Z standard normal, h(z) = guard(clip(round(z))) is a function of real images z in grey
    levels. Let p_j(x) be the chance that h gives diagnosis j of x + s Z; of an 8-bit image x that is the noisy copy
    clip(x + round(s Z)). So for every x', on the 8-bit grid or not, at most r away in L2 (in units of full brightness)

        p_j(x') <= Phi(Phi^-1(p_j(x)) + r / sigma)

    by the lemma of Neyman and Pearson (Cohen et al. 2019, theorem 1 and its proof). A random Cushion makes of "accepted
    as j" a chance in [0, 1]; for that it holds too (Salman et al. 2019).

    >>> import medaegis as ma
    >>> guard = ma.load("tests/golden/guard", factory="tests.models.tiny_networks:tiny")
    >>> image = ma.load_dataset("phantom-xray?n=8", size=32, channels="gray").images[0]
    >>> counts = SmoothedGuard(guard, 0.1).counts(image, 0, 0, 20)  # of 20 noisy copies of image number 0
    >>> counts.shape, bool((counts[0] <= counts[1]).all())
    (torch.Size([2, 2]), True)

    Args:
        guard: judges each copy; as it is deployed (`Guard.inspect`), and whatever fails there is withheld.
        sigma: standard deviation of the noise in units of full brightness.
        seed: of the noise.

    Raises:
        ConfigError: no guard, or a sigma that cannot be.
    """

    def __init__(self, guard: Guard, sigma: float, *, seed: int = 0) -> None:
        check_guard(guard)
        self.guard, self.noise, self.seed = guard, GridNoise(sigma), seed

    def counts(self, image: Tensor, number: int, start: int, stop: int, *, purpose: str = "certificate") -> Tensor:
        """Of noisy copies `start` to `stop` (without that) of an image: how many are accepted as each class, and how
        many the classifier takes for it, accepted or not: int64 `(2, K)`.

        Args:
            image: uint8 `(C, H, W)`.
            number: of the image. A copy's noise is a function of seed, purpose, this and the copy's own number.
            purpose: what they are asked for; the noise of two purposes has nothing in common.
        """
        image = image.to(self.guard.classifier.device)
        found = torch.zeros(2, len(self.guard.classes), dtype=torch.int64)
        for first in range(start, stop, TOGETHER):
            turns = torch.arange(first, min(first + TOGETHER, stop))
            draws = Draws(self.seed, torch.full_like(turns, number), f"{purpose}/noise", step=turns)
            copies = self.noise.added(image[None], draws.to(image.device)).float() / 255
            specs = None
            if isinstance(self.guard.cushion, RandomCushion):
                specs = self.guard.cushion.draw(self.seed, f"{purpose}/cushion/{number}", turns.tolist()).specs
            for finding in self.guard.inspect(copies, batch_size=TOGETHER, draws=specs):
                if finding.label is not None:
                    k = self.guard.classes.index(finding.label)
                    found[1, k] += 1
                    found[0, k] += finding.accepted
        return found

    def drift(self, image: Tensor) -> float:
        """How far the chances of `counts` may be from those with exact normal noise, and a Cushion drawn evenly."""
        uneven = len(self.guard.cushion.choices) / (WORD + 1) if isinstance(self.guard.cushion, RandomCushion) else 0.0
        return self.noise.drift(image.numel()) + uneven

    def victim(self) -> Victim:
        """The target of attacks: each look is at a copy under noise of its own."""
        return self.guard.victim().behind(NoisyCushion(self.noise, self.guard.cushion))


def check_guard(guard: object) -> None:
    """Raises ConfigError for anything else, such as a classifier alone, for a guard for masks, or noise of its own."""
    if not isinstance(guard, Guard):
        raise ConfigError("guard", f"is a {type(guard).__name__}", "give a guard, as `ma.load` of its folder does")
    guard.classifier.check_single("certificate")
    if isinstance(guard.cushion, Numbered):
        problem = f"its Cushion {guard.cushion.spec} draws noise or votes itself"
        raise ConfigError("guard", problem, "take one without, which is asked under noise here")


def noisy_thresholds(
    guard: Guard, sigma: float, dataset: Dataset, indices: tuple[int, ...]
) -> tuple[ShieldBank, dict[str, dict[str, Any]]]:
    """The guard's Shields with thresholds that accept the share `guard.tnr` of noisy copies of these images, and what
    they rest on, as of `set_guard_thresholds`. Those of the guard stay as they are.

    Raises:
        DataError: too few images.
    """
    bank = copy.deepcopy(guard.bank)
    noisy = Guard(guard.classifier, NoisyCushion(GridNoise(sigma), guard.cushion), bank, tnr=guard.tnr)
    return bank, set_guard_thresholds(noisy, dataset, indices)
