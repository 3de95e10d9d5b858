"""Gaussian mixtures by expectation maximisation, for whoever models clean features; scikit-learn fits them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from torch import Tensor

from medaegis.errors import DataError

if TYPE_CHECKING:
    from sklearn.mixture import GaussianMixture


def fit_gaussians(
    x: Tensor,
    components: int,
    *,
    covariance: Literal["diag", "full"],
    regular: float,
    seed: int,
    source: str,
    rounds: int = 100,
) -> GaussianMixture:
    """The fitted mixture of features `(N, C)`, in float64.

    Args:
        regular: added to every variance.
        source: what the features are of, for the error.
        rounds: of expectation and maximisation, at most.

    Raises:
        DataError: a covariance that cannot be inverted.
    """
    from sklearn.mixture import GaussianMixture

    mixture = GaussianMixture(
        components, covariance_type=covariance, reg_covar=regular, max_iter=rounds, random_state=seed
    )
    try:
        return mixture.fit(x.double().cpu().numpy())
    except ValueError as error:
        size = f"of {x.shape[1]} channels over {len(x)} images, {components} components, {regular:g} added to variances"
        raise DataError(
            source,
            f"the covariance cannot be inverted ({size})",
            "give more images, fewer components, more regularisation, or take the diagonal alone",
        ) from error
