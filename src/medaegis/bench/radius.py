"""From counts of noisy copies to radii: the bounds of a certificate by randomised smoothing, and when to stop asking.

Of the K events "accepted as diagnosis j" (each wrong one) and "not accepted as the right one" an image has, each has a
bound u on its chance. By Cohen et al. 2019, theorem 1 (see `SmoothedGuard`), it stays at most 1/2 within sigma
Phi^-1(1 - u): so no wrong diagnosis is given within the smallest of the radii of the wrong ones ("no harm"), and the
right one is given within that of the last event ("right").
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
from scipy.special import betainccinv, ndtri

from medaegis.cushions.noise import check_sigma
from medaegis.errors import ConfigError

FIRST, GROWTH = 100, 10  # copies of the first stage; how much larger each further one is
MOST = 2**32 - 1  # copies of an image that have numbers
SLACK = 1e-9  # taken off every bound: a million times the errors of the quantiles in float64, or more

FloatArray = npt.NDArray[np.float64]
Counted = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Terms:
    """What a certificate is asked for, and how sure it is.

    The noisy copies of an image are asked in stages, of 100, 1,000, 10,000, ... in all, and after each there is a
    bound of Clopper and Pearson (1934) on each of the image's K events. All those of all stages hold together with a
    chance of at least 1 - alpha, for each has the level alpha / (K stages) (Bonferroni). So whatever is seen may decide
    when to stop, and of the bounds of an event the best counts.

    >>> terms = Terms(sigma=0.25, radii=(0.25, 0.5))
    >>> terms.stages, round(terms.reach(2), 2)
    ((100, 1000, 10000), 0.78)

    Args:
        sigma: of the noise, in units of full brightness.
        radii: L2 radii that are asked about, above 0, in units of full brightness.
        samples: noisy copies of an image at most.
        alpha: chance at most that anything said of an image is not so.

    Raises:
        ConfigError: a sigma, radii, samples or alpha that cannot be.
    """

    sigma: float
    radii: tuple[float, ...]
    samples: int = 10_000
    alpha: float = 0.001

    def __post_init__(self) -> None:
        check_sigma(self.sigma)
        if not self.radii or not all(0 < radius < np.inf for radius in self.radii):
            given = ", ".join(f"{radius:g}" for radius in self.radii) or "none"
            raise ConfigError(f"radii {given}", "expected numbers above 0", "give L2 radii, as 0.25,0.5,1")
        if list(self.radii) != sorted(set(self.radii)):
            raise ConfigError("radii", "do not rise", "give each once, the smallest first")
        if type(self.samples) is not int or not 1 <= self.samples <= MOST:
            raise ConfigError(f"samples {self.samples!r:.40}", "expected a whole number above 0", "give 10000")
        if not 0 < self.alpha < 0.5:
            raise ConfigError(f"alpha {self.alpha}", "expected a chance above 0 and below 0.5", "give 0.001")

    @cached_property
    def stages(self) -> tuple[int, ...]:
        """Copies that have been asked about in all at the end of each stage."""
        sizes, size = [], FIRST
        while size < self.samples:
            sizes.append(size)
            size *= GROWTH
        return (*sizes, self.samples)

    def level(self, classes: int) -> float:
        """Of each bound."""
        return self.alpha / (classes * len(self.stages))

    def radius(self, chance: FloatArray) -> FloatArray:
        """How far from an image an event of at most this chance there stays at most as likely as not; below 0: not even
        at the image itself.
        """
        found: FloatArray = -self.sigma * ndtri(np.clip(chance, 0.0, 1.0))
        return found

    def reach(self, classes: int, drift: float = 0.0) -> float:
        """The largest radius that can be certified: that of an event which none of the copies showed."""
        none = np.zeros(1, dtype=np.int64)
        return float(self.radius(upper(none, self.samples, self.level(classes)) + drift)[0])

    def check_reach(self, classes: int, drift: float = 0.0) -> None:
        """Raises ConfigError where no radius that is asked about can be certified."""
        reach = self.reach(classes, drift)
        if self.radii[0] > reach:
            problem = (
                f"at most {max(reach, 0.0):.3g} can be certified by {self.samples} samples at sigma {self.sigma:g}"
            )
            raise ConfigError(f"radius {self.radii[0]:g}", problem, "take more, a larger sigma or smaller radii")


def upper(counts: Counted, n: int, level: float) -> FloatArray:
    """Bounds above the chances of events that n draws showed so often; each fails with a chance of at most `level`.

    Clopper and Pearson 1934: the chance at which so few or fewer have a chance of `level`.
    """
    rest = np.maximum(n - counts, 1)
    found: FloatArray = np.where(counts < n, betainccinv(counts + 1, rest, level) + SLACK, 1.0)
    return found


def lower(counts: Counted, n: int, level: float) -> FloatArray:
    """Bounds below them."""
    return 1 - upper(n - counts, n, level)


class Bounds:
    """What is known of one image after each stage: of the guard, and of the classifier alone on the same copies.

    Each of the two has radii "no harm" and "right", and each all of alpha, for it is a certificate of its own.

    >>> terms = Terms(sigma=0.25, radii=(0.25,))
    >>> seen = Bounds(terms, classes=2, label=0)
    >>> seen.take([[60, 0], [95, 5]], 100)  # accepted as each class; taken for each class by the classifier
    >>> seen.settled, (seen.radii > 0).tolist()
    (False, [[True, False], [True, True]])

    Args:
        label: the right class.
        drift: how far the chances of copies may be from those that are bounded.

    Attributes:
        radii: certified so far, float64 `(2, 2)`: by row guard and classifier, by column no harm and right; below 0
            where not even the image itself is certified.
        settled: whether more copies can change no answer at a radius that is asked about, nor at 0.
    """

    def __init__(self, terms: Terms, *, classes: int, label: int, drift: float = 0.0) -> None:
        self.terms, self.label, self.drift = terms, label, drift
        self.level = terms.level(classes)
        self.chances = np.ones((2, classes))
        self.radii = self._radii(self.chances)
        self.settled = False

    def take(self, counts: Sequence[Sequence[int]], n: int) -> None:
        """Narrow the bounds by the counts of the first n copies, `(2, K)` as of `SmoothedGuard.counts`.

        A radius is lost, and nothing waits for it, where even if no further copy showed the event its bound would be
        too high; or where the bound on the other side, of the same level, says that the event is too likely there. The
        first is certain. The second may miss a radius that more copies would have certified; it never adds one.
        """
        shown = np.array(counts, dtype=np.int64)
        shown[:, self.label] = n - shown[:, self.label]
        self.chances = np.minimum(self.chances, np.minimum(upper(shown, n, self.level) + self.drift, 1.0))
        self.radii = self._radii(self.chances)
        likely = lower(shown, n, self.level) - self.drift
        at_best = upper(shown, self.terms.samples, self.level) + self.drift
        attainable = np.minimum(self._radii(likely), self._radii(at_best))
        asked = np.array([0.0, *self.terms.radii])
        self.settled = not bool(((self.radii[..., None] < asked) & (asked <= attainable[..., None])).any())

    def _radii(self, chances: FloatArray) -> FloatArray:
        radii = self.terms.radius(chances)
        return np.stack([np.delete(radii, self.label, 1).min(1), radii[:, self.label]], 1)
