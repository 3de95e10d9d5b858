"""Densities and distances against scikit-learn, and the input step against finite differences."""

import copy

import numpy as np
import pytest
import torch
from sklearn.covariance import EmpiricalCovariance, ShrunkCovariance
from sklearn.linear_model import LogisticRegression
from sklearn.mixture import GaussianMixture as Mixture
from sklearn.neighbors import KernelDensity as Kernel
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tests.detectors.read import CHANNELS, drawn, seen_by, toy_reader

from medaegis.detectors.base import hold_out
from medaegis.detectors.density import GaussianMixture, KernelDensity, Mahalanobis
from medaegis.detectors.layered import squared_distances
from medaegis.detectors.reader import PENULTIMATE
from medaegis.errors import ConfigError, DataError


def test_distances_keep_their_digits_far_from_the_origin():
    draw = torch.Generator().manual_seed(0)
    a, b = (1e4 + torch.randn((n, 30), generator=draw) for n in (7, 9))
    b[0] = a[0]
    exact = (a.double()[:, None] - b.double()).square().sum(2)
    torch.testing.assert_close(squared_distances(a, b), exact, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("taps", [(PENULTIMATE,), None], ids=["penultimate", "average of layers"])
def test_kernel_density_is_that_of_scikit_learn(taps):
    clean, labels = drawn(90)
    test, _ = drawn(40, seed=1, shift=0.3)
    detector = KernelDensity(taps=taps, bandwidth=0.7).fit(clean, labels)
    expected = []
    for tap in taps or CHANNELS:
        kernels = [Kernel(bandwidth=0.7).fit(clean.features[tap][labels == k].double().numpy()) for k in range(3)]
        points = zip(test.predicted.tolist(), test.features[tap].double().numpy(), strict=True)
        expected.append([-kernels[k].score_samples(point[None])[0] for k, point in points])
    np.testing.assert_allclose(detector.score(test).numpy(), np.mean(expected, 0), rtol=1e-4)


def test_the_predicted_class_counts_and_no_other():
    clean, labels = drawn(60)
    test, _ = drawn(30, seed=1)
    detector = KernelDensity().fit(clean, labels)
    turned = type(test)(test.logits.roll(1, 1), test.features)
    assert (detector.score(turned) > detector.score(test)).float().mean() > 0.9


def covariance_distance(fit, clean, labels, features):
    """Smallest squared distance to a class mean, by scikit-learn's covariance of centred features."""
    clean = clean.double().numpy()
    means = np.stack([clean[labels.numpy() == k].mean(0) for k in range(3)])
    model = fit.fit(clean - means[labels.numpy()])
    return np.min([model.mahalanobis(features.double().numpy() - mean) for mean in means], 0)


@pytest.mark.parametrize("shrinkage", [0.0, 0.05])
def test_mahalanobis_is_that_of_scikit_learn(shrinkage):
    clean, labels = drawn(120)
    test, _ = drawn(40, seed=1, shift=0.5)
    detector = Mahalanobis(shrinkage=shrinkage).fit(clean, labels)
    fit = ShrunkCovariance(shrinkage=shrinkage, assume_centered=True)
    if shrinkage == 0:
        fit = EmpiricalCovariance(assume_centered=True)
    expected = [covariance_distance(fit, clean.features[tap], labels, test.features[tap]) for tap in CHANNELS]
    np.testing.assert_allclose(detector.score(test).numpy(), np.mean(expected, 0), rtol=1e-4)


def test_regression_learns_from_images_that_no_statistic_was_taken_from():
    clean, labels = drawn(120)
    attacked, _ = drawn(120, seed=5, shift=0.4)
    detector = Mahalanobis(learn=True).fit(clean, labels, attacked=attacked, seed=3)
    stay, held = hold_out(labels, 0.5, 3)
    assert not set(stay.tolist()) & set(held.tolist())
    mean = clean.features["early"][stay][labels[stay] == 0].double().mean(0)
    torch.testing.assert_close(detector.learned["early/means"][0], mean)
    fit = ShrunkCovariance(shrinkage=1e-3, assume_centered=True)

    def scores(seen):
        return np.stack(
            [covariance_distance(fit, clean.features[t][stay], labels[stay], seen.features[t]) for t in CHANNELS], 1
        )

    model = make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced", max_iter=1000, tol=1e-8))
    model.fit(np.concatenate([scores(clean)[held], scores(attacked)[held]]), np.repeat([0, 1], len(held)))
    test, _ = drawn(30, seed=9, shift=0.2)
    np.testing.assert_allclose(
        detector.score(test).numpy(), model.decision_function(scores(test)), rtol=1e-4, atol=1e-4
    )


def test_a_covariance_without_inverse_is_refused_and_shrinkage_gives_it_one():
    clean, labels = drawn(60)
    clean.features["early"][:, 2] = 0.5  # a dead channel
    with pytest.raises(DataError, match="shrinkage"):
        Mahalanobis(shrinkage=0.0).fit(clean, labels)
    detector = Mahalanobis().fit(clean, labels)
    test, _ = drawn(10, seed=2)
    test.features["early"][:, 2] = 0.5
    before = detector.score(test)
    test.features["early"][:, 2] = 1.5
    assert bool((detector.score(test) > before + 10).all()), "a dead channel that comes alive is suspicious"


@pytest.mark.parametrize("cushion", ["none", "jpeg:60"])
def test_the_input_step_walks_towards_the_nearest_mean(cushion):
    """By central differences in float64, pixel by pixel, in what the classifier is given."""
    reader = toy_reader(cushion=cushion)
    clean, _, labels = seen_by(reader, 60)
    still = Mahalanobis(taps=("last",)).fit(clean, labels)
    moving = Mahalanobis(taps=("last",), magnitude=1e-3).fit(clean, labels)
    few = clean[:3]
    x = reader.cushioned(few.images).double()
    exact = copy.deepcopy(reader.classifier).double()

    def distance(pixels):
        features = exact.activations(pixels, logits=False, taps=("last",)).features["last"]
        return still.distance("last", features.mean((2, 3)) if features.ndim == 4 else features)

    base, step = torch.eye(x[0].numel()).view(-1, *x.shape[1:]).double(), 1e-6
    slopes = torch.stack([(distance(one + step * base) - distance(one - step * base)) / (2 * step) for one in x])
    expected = distance(x - 1e-3 * slopes.view_as(x).sign())
    found = moving.score(few)
    assert bool((found < still.score(few)).all())
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=0)


@pytest.mark.parametrize("covariance", ["diag", "full"])
@pytest.mark.parametrize("components", [None, 2])
def test_gaussian_mixture_is_that_of_scikit_learn(covariance, components):
    clean, labels = drawn(120)
    test, _ = drawn(40, seed=1, shift=0.5)
    detector = GaussianMixture(covariance=covariance, components=components, taps=("early", PENULTIMATE))
    detector.fit(clean, labels, seed=4)

    def both(seen):
        return np.concatenate([seen.features["early"].double(), seen.features[PENULTIMATE].double()], 1)

    mixture = Mixture(components or 3, covariance_type=covariance, random_state=4, max_iter=1000).fit(both(clean))
    np.testing.assert_allclose(detector.score(test).numpy(), -mixture.score_samples(both(test)), rtol=1e-4)


@pytest.mark.parametrize(
    ("make", "options"),
    [
        (KernelDensity, {"bandwidth": 0.0}),
        (Mahalanobis, {"shrinkage": 1.0}),
        (Mahalanobis, {"magnitude": -0.1}),
        (GaussianMixture, {"components": 0}),
        (GaussianMixture, {"covariance": "tied"}),
    ],
)
def test_impossible_options_are_refused(make, options):
    with pytest.raises(ConfigError, match="give"):
        make(**options)


def test_the_input_step_needs_images():
    clean, labels = drawn(60)
    with pytest.raises(ConfigError, match=r"Reader\.read"):
        Mahalanobis(magnitude=0.01).fit(clean, labels).score(clean)


def test_more_components_than_images_fill_are_refused():
    clean, labels = drawn(20)
    with pytest.raises(DataError, match="20 images for 11 components"):
        GaussianMixture(components=11).fit(clean, labels)
