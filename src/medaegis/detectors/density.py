"""Anomaly by density: kernel density (Feinman 2017), Mahalanobis distance (Lee 2018), Gaussian mixture (Li 2020).

All learn what clean features look like; attacked images serve at most to weight the layers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from medaegis.detectors.base import REMEDY, FitData
from medaegis.detectors.layered import Layered, OnFeatures, squared_distances
from medaegis.detectors.reader import Reading
from medaegis.errors import ConfigError, DataError
from medaegis.validation import Layout


@dataclass(kw_only=True, eq=False)
class KernelDensity(Layered):
    """Minus the log density of an image's features among clean images of the class it is taken for.

    Feinman 2017, section 4.1, with a Gaussian kernel exp(-d^2 / 2h^2): log densities, for the densities themselves
    underflow in hundreds of dimensions.

    Args:
        bandwidth: h. 1.0 is what HFC's authors used; Feinman's 1.2 (MNIST), 0.26 (CIFAR-10) and 1.0 (SVHN) hold for
            other networks.
    """

    kind = "kernel-density"
    bandwidth: float = 1.0

    def __post_init__(self) -> None:
        if not self.bandwidth > 0:
            raise ConfigError("kernel density", f"bandwidth {self.bandwidth}", "give a number above 0")

    def _fit_layers(self, data: FitData, rows: Tensor) -> None:
        self.learned["labels"] = data.labels[rows]
        for tap in self.reads:
            self.learned[f"{tap}/points"] = data.clean.feature(tap)[rows]

    def _layers(self, seen: Reading) -> Tensor:
        predicted, labels = seen.predicted, self.learned["labels"]
        scores = torch.empty((len(seen), len(self.reads)), dtype=torch.float64, device=seen.device)
        for k in predicted.unique().tolist():
            rows = predicted == k
            for i, tap in enumerate(self.reads):
                points = self.learned[f"{tap}/points"][labels == k]
                near = squared_distances(seen.feature(tap)[rows], points) / (-2 * self.bandwidth**2)
                volume = points.shape[1] / 2 * math.log(2 * math.pi * self.bandwidth**2)
                scores[rows, i] = math.log(len(points)) + volume - near.logsumexp(1)
        return scores

    def _check(self, tensors: Mapping[str, Tensor]) -> None:
        super()._check(tensors)
        if not bool((tensors["labels"] < self.classes).all()):
            raise ConfigError("kernel density", f"a label is none of {self.classes} classes", REMEDY)

    def layout(self) -> Layout:
        points: Layout = {f"{tap}/points": ("n", self.channels[tap]) for tap in self.reads}
        return super().layout() | points | {"labels": ("n",)}


@dataclass(kw_only=True, eq=False)
class Mahalanobis(Layered):
    """Squared Mahalanobis distance to the nearest class mean, with one covariance for all classes (Lee 2018, eq. 2).

    Args:
        magnitude: before the distance is taken, the image moves this far (pixel units) by the sign of the gradient
            towards the nearest mean, tap by tap (eq. 4); 0: not at all. The step is made behind the Cushion, whose
            rounding to 8 bits would undo it: the gradient to its output is what BPDA would hand to its input.
        shrinkage: share of a multiple of the unit matrix in the covariance. The papers have none; with fewer images
            than channels their covariance cannot be inverted, and directions in which no clean image moved would
            count nothing, or without bounds.
    """

    kind = "mahalanobis"
    taps: tuple[str, ...] | None = None
    magnitude: float = 0.0
    shrinkage: float = 1e-3

    def __post_init__(self) -> None:
        if not (0 <= self.shrinkage < 1 and 0 <= self.magnitude < 1):
            given = f"shrinkage {self.shrinkage}, magnitude {self.magnitude}"
            raise ConfigError("Mahalanobis", given, "give numbers from 0 to 1")

    @property
    def needs_images(self) -> bool:
        return self.magnitude > 0

    def _fit_layers(self, data: FitData, rows: Tensor) -> None:
        labels = data.labels[rows]
        for tap in self.reads:
            x = data.clean.feature(tap)[rows].double()
            means = torch.stack([x[labels == k].mean(0) for k in range(data.classes)])
            apart = x - means[labels]
            covariance = apart.T @ apart / len(x)
            mean_variance = covariance.diagonal().mean()
            covariance *= 1 - self.shrinkage
            covariance.diagonal().add_(self.shrinkage * mean_variance)
            lower, failed = torch.linalg.cholesky_ex(covariance)
            if int(failed):
                raise DataError(f"tap {tap!r}", "the covariance cannot be inverted", "give more images or shrinkage")
            unit = torch.eye(len(lower), dtype=lower.dtype, device=lower.device)
            white = torch.linalg.solve_triangular(lower, unit, upper=False).T.contiguous()
            self.learned |= {f"{tap}/white": white, f"{tap}/means": means}

    def distance(self, tap: str, features: Tensor) -> Tensor:
        """Squared distance of pooled features `(N, C)` to the nearest class mean, float64 `(N,)`; differentiable."""
        white, means = self.learned[f"{tap}/white"], self.learned[f"{tap}/means"]
        centre = means.mean(0)
        apart = (features.double() - centre) @ white - ((means - centre) @ white)[:, None]
        return apart.square().sum(2).amin(0)

    def _layers(self, seen: Reading) -> Tensor:
        if self.magnitude == 0:
            return torch.stack([self.distance(tap, seen.feature(tap)) for tap in self.reads], 1)
        reader, images = seen.source()
        return torch.cat([self._moved(reader.cushioned(part), seen) for part in images.split(reader.batch_size)])

    def _moved(self, x: Tensor, seen: Reading) -> Tensor:
        """Distances after each tap's own step; one forward pass serves the gradients of all taps."""
        reader, _ = seen.source()
        scores = []
        with torch.enable_grad():
            x = x.clone().requires_grad_()
            here = reader.look(x, self.reads)
            for i, tap in enumerate(self.reads):
                far = self.distance(tap, here.feature(tap)).sum()
                (slope,) = torch.autograd.grad(far, x, retain_graph=i + 1 < len(self.reads))
                with torch.no_grad():
                    there = reader.look(x - self.magnitude * slope.sign(), (tap,))
                    scores.append(self.distance(tap, there.feature(tap)))
        return torch.stack(scores, 1)

    def layout(self) -> Layout:
        layout = super().layout()
        for tap, channels in self.channels.items():
            layout |= {f"{tap}/white": (channels, channels), f"{tap}/means": (self.classes, channels)}
        return layout


@dataclass(kw_only=True, eq=False)
class GaussianMixture(OnFeatures):
    """Minus the log density of the features under a Gaussian mixture of clean ones (Li and Zhu 2020), without labels.

    Args:
        components: of the mixture; None: as many as classes.
        covariance: "diag", which a few hundred images can fill; or "full".
        regular: added to every variance (scikit-learn's default).
    """

    kind = "gaussian-mixture"
    components: int | None = None
    covariance: Literal["diag", "full"] = "diag"
    regular: float = 1e-6

    def __post_init__(self) -> None:
        if self.covariance not in ("diag", "full") or (self.components is not None and self.components < 1):
            given = f"components {self.components}, covariance {self.covariance!r}"
            raise ConfigError("Gaussian mixture", given, "give 1 or more components, 'diag' or 'full'")

    def _fit(self, data: FitData) -> None:
        count = self.components or data.classes
        x = self.joined(data.clean).double()
        if len(x) < 2 * count:
            raise DataError("Gaussian mixture", f"{len(x)} images for {count} components", "give more")
        source, how = f"Gaussian mixture of {', '.join(self.reads)}", self.covariance
        fit = fit_gaussians(x, count, covariance=how, regular=self.regular, seed=data.seed, source=source, rounds=1000)
        found = (fit.precisions_cholesky_, fit.means_, fit.weights_)
        roots, means, weights = (torch.from_numpy(values).to(x) for values in found)
        scales = roots if self.covariance == "diag" else roots.diagonal(dim1=1, dim2=2)
        constants = weights.log() + scales.log().sum(1) - x.shape[1] / 2 * math.log(2 * math.pi)
        self.learned = {"roots": roots, "means": means, "constants": constants}

    def _score(self, seen: Reading) -> Tensor:
        x, roots, logs = self.joined(seen).double(), self.learned["roots"], []
        for root, mean, constant in zip(roots, self.learned["means"], self.learned["constants"], strict=True):
            white = (x - mean) * root if self.covariance == "diag" else (x - mean) @ root
            logs.append(constant - white.square().sum(1) / 2)
        return -torch.stack(logs, 1).logsumexp(1)

    def layout(self) -> Layout:
        count, width = self.components or self.classes, self.width
        root = (count, width) if self.covariance == "diag" else (count, width, width)
        return {"roots": root, "means": (count, width), "constants": (count,)}


def fit_gaussians(
    x: Tensor,
    components: int,
    *,
    covariance: Literal["diag", "full"],
    regular: float,
    seed: int,
    source: str,
    rounds: int = 100,
) -> Any:
    """scikit-learn's Gaussian mixture of features `(N, C)`, fitted by expectation maximisation in float64.

    Args:
        regular: added to every variance.
        source: what the features are of, for the error.
        rounds: of expectation and maximisation, at most.

    Raises:
        DataError: a covariance that cannot be inverted.
    """
    from sklearn.mixture import GaussianMixture as Mixture

    mixture = Mixture(components, covariance_type=covariance, reg_covar=regular, max_iter=rounds, random_state=seed)
    try:
        return mixture.fit(x.double().cpu().numpy())
    except ValueError as error:
        size = f"of {x.shape[1]} channels over {len(x)} images, {components} components, {regular:g} added to variances"
        remedy = "give more images, fewer components, more regularisation, or take the diagonal alone"
        raise DataError(source, f"the covariance cannot be inverted ({size})", remedy) from error
