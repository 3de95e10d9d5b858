"""How features of clean images are distributed: Gaussian mixtures by layer and class (HFC; Yao 2021, eq. 5 and 6)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from medaegis.ambient import own_modes
from medaegis.detectors.density import fit_gaussians
from medaegis.errors import DataError
from medaegis.models.taps import refuse_constant

REGULAR = 0.1  # share of the features' mean variance that is added to each variance


@dataclass(frozen=True)
class Mixtures:
    """Pooled features of clean images and Gaussian mixtures of them, by tap (HFC, eq. 5).

    K classes, M components, C channels, N images.

    Attributes:
        constants: log of a component's weight and of its density's factor that depends on the covariance, `(K, M)`.
        means: `(K, M, C)`.
        roots: of the inverse covariances, `(K, M, C, C)`: `(f - mean) @ root` is white.
        features: the features themselves, `(N, C)`.
        labels: their classes, int64 `(N,)`.
    """

    constants: dict[str, Tensor]
    means: dict[str, Tensor]
    roots: dict[str, Tensor]
    features: dict[str, Tensor]
    labels: Tensor

    @property
    def taps(self) -> tuple[str, ...]:
        return tuple(self.means)

    def to(self, device: torch.device) -> Mixtures:
        def moved(part: dict[str, Tensor]) -> dict[str, Tensor]:
            return {tap: values.to(device) for tap, values in part.items()}

        constants, means, roots = moved(self.constants), moved(self.means), moved(self.roots)
        return Mixtures(constants, means, roots, moved(self.features), self.labels.to(device))

    def distance(self, tap: str, features: Tensor, classes: Tensor) -> Tensor:
        """Squared Mahalanobis distance to the most likely component of each image's class (eq. 6).

        Args:
            features: pooled, `(N, C)`.
            classes: `(N,)`.
        """
        apart = features[:, None, None] - self.means[tap]
        squares = torch.einsum("nkmc,kmcd->nkmd", apart, self.roots[tap]).square().sum(3)
        likeliest = (self.constants[tap] - squares / 2).argmax(2, keepdim=True)
        return squares.gather(2, likeliest).squeeze(2).gather(1, classes.view(-1, 1)).squeeze(1)


@own_modes()
def fit_mixtures(
    features: Mapping[str, Tensor],
    labels: Tensor,
    *,
    classes: int | None = None,
    components: int = 1,
    regular: float = REGULAR,
    seed: int = 0,
) -> Mixtures:
    """Mixtures of normal features, by expectation maximisation with full covariances.

    Args:
        features: tap -> pooled features `(N, C)` of clean images.
        labels: their classes, int64 `(N,)`; classes: how many there are, None: up to the last of these.
        components: of each mixture (K in the paper: 1 for chest X-rays, 64 for fundus).
        regular: share of the features' mean variance that is added to each variance; the paper names none. With more
            channels than images the covariance is singular: directions in which these very images did not vary then
            outweigh all else, and the attack neither fools nor hides among other normal images: with 0.01 HFC turned
            59 % of the diagnoses of fundus photographs at 64/256, with 0.1 all (docs/results/fundus.md).

    Raises:
        DataError: fewer than two images of a class, or fewer than components; a tap that is the same for all images,
            or all of a class; a covariance that cannot be inverted.
    """
    classes = int(labels.max()) + 1 if classes is None else classes
    counts = labels.bincount(minlength=classes)
    if int(counts.min()) < max(2, components):
        raise DataError("normal features", f"{int(counts.min())} images of a class", "give more, or fewer components")
    constants, means, roots = {}, {}, {}
    refuse_constant("normal features", features)
    for tap, values in features.items():
        fits = []
        for k in range(classes):
            mine, source = values[labels == k].double(), f"normal features of class {k}, tap {tap!r}"
            refuse_constant(f"normal features of class {k}", {tap: mine})
            added = regular * float(mine.var(0, correction=0).mean())
            fits.append(fit_gaussians(mine, components, covariance="full", regular=added, seed=seed, source=source))
        root = torch.stack([torch.from_numpy(fit.precisions_cholesky_) for fit in fits])
        weight = torch.stack([torch.from_numpy(fit.weights_) for fit in fits])
        constants[tap] = (weight.log() + root.diagonal(dim1=2, dim2=3).log().sum(2)).float()
        means[tap] = torch.stack([torch.from_numpy(fit.means_) for fit in fits]).float()
        roots[tap] = root.float()
    return Mixtures(constants, means, roots, {tap: values.float() for tap, values in features.items()}, labels)
