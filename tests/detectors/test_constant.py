"""Features that are the same for all images: every detector and every figure made of features refuses them by name."""

import pytest
import torch
from tests.detectors.read import drawn

from medaegis.attacks.normal import fit_mixtures
from medaegis.bench.analyse.shifts import embed
from medaegis.detectors.combined import Combined
from medaegis.detectors.density import GaussianMixture, KernelDensity, Mahalanobis
from medaegis.detectors.learned import RandomForest, SupportVectors
from medaegis.detectors.neighbours import LocalDimension
from medaegis.detectors.reader import PENULTIMATE, Reading
from medaegis.errors import DataError
from medaegis.models.taps import refuse_constant

ON_FEATURES = {
    "kernel density": lambda: KernelDensity(taps=None),
    "Mahalanobis": Mahalanobis,
    "LID": lambda: LocalDimension(learn=False, neighbours=5),
    "SVM": lambda: SupportVectors(taps=None),
    "quantised SVM": lambda: SupportVectors(taps=None, levels=4),
    "forest": lambda: RandomForest(taps=None, trees=5),
    "mixture": lambda: GaussianMixture(taps=None),
    "full mixture": lambda: GaussianMixture(taps=None, covariance="full"),
    "combined": lambda: Combined(members=(KernelDensity(taps=None), LocalDimension(learn=False, neighbours=5))),
}
each = pytest.mark.parametrize("make", ON_FEATURES.values(), ids=ON_FEATURES)


def changed(seen, tap, values):
    return Reading(seen.logits, {**seen.features, tap: values})


@each
@pytest.mark.parametrize("value", [0.0, 1e5])
def test_a_detector_names_the_dead_tap(make, value):
    seen, labels = drawn(120)
    dead = changed(seen, "middle", torch.full_like(seen.features["middle"], value))
    with pytest.raises(DataError, match=r"tap 'middle' gives the same features for all .* images.*leave that tap out"):
        make().fit(dead, labels, attacked=drawn(120, seed=1)[0])


@each
def test_channels_that_are_dead_beside_living_ones_do_no_harm(make):
    seen, labels = drawn(120)
    part = seen.features["middle"].clone()
    part[:, :4] = 0
    detector = make().fit(changed(seen, "middle", part), labels, attacked=drawn(120, seed=1)[0])
    scores = detector.score(drawn(30, seed=2)[0])
    assert scores.isfinite().all()
    assert len(scores.unique()) > 1


def test_what_differs_by_rounding_alone_is_the_same():
    noise = 1e-7 * torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    with pytest.raises(DataError, match="tap 'a', 'b'"):
        refuse_constant("it", {"a": 7 * (1 + noise), "b": torch.zeros(50, 3), "c": noise})
    refuse_constant("it", {"small": noise})


@pytest.mark.parametrize("scale", [1.0, 1e5])
def test_a_full_covariance_that_cannot_be_inverted_is_refused_in_plain_words(scale):
    """Of rank 8 in 64 channels; at 1e5 the usual regularisation is lost in rounding."""
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(60, 8, generator=draw) @ torch.randn(8, 64, generator=draw) * scale
    detector, seen = GaussianMixture(covariance="full"), Reading(torch.zeros(60, 2), {PENULTIMATE: x})
    labels = torch.arange(60) % 2
    if scale == 1.0:
        assert detector.fit(seen, labels).score(seen).isfinite().all()
    else:
        with pytest.raises(DataError, match=rf"{PENULTIMATE}: the covariance cannot be inverted.*diagonal"):
            detector.fit(seen, labels)


def test_mixtures_of_normal_features_name_tap_and_class():
    alive, labels = torch.randn(40, 8, generator=torch.Generator().manual_seed(0)), torch.arange(40) % 2
    with pytest.raises(DataError, match=r"normal features: tap 'dead'"):
        fit_mixtures({"dead": torch.zeros(40, 8), "alive": alive}, labels)
    half = torch.where((labels == 1)[:, None], 3.0, alive)
    with pytest.raises(DataError, match=r"normal features of class 1: tap 'half' .* all 20 images"):
        fit_mixtures({"alive": alive, "half": half}, labels)
    some = alive.clone()
    some[:, 2:] = 0
    assert fit_mixtures({"some": some}, labels).distance("some", some, labels).isfinite().all()


@pytest.mark.parametrize("made", [torch.ones(30, 4), torch.zeros(12, 8), torch.full((20, 1), 1e6)])
def test_t_sne_of_constant_features_is_refused(made):
    """scikit-learn's ends the process by signal 11."""
    with pytest.raises(DataError, match=r"t-SNE: tap 'last' gives the same"):
        embed(made, seed=0, tap="last")


def test_t_sne_of_one_channel():
    made = embed(torch.linspace(0, 1, 24)[:, None], seed=0)
    assert made.shape == (24, 2)
    assert made.isfinite().all()
    assert len(made.unique(dim=0)) == 24


def test_t_sne_of_features_that_all_but_one_share():
    assert embed(torch.cat([torch.zeros(30, 4), torch.ones(1, 4)]), seed=0).isfinite().all()
