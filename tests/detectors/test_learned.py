"""SVM and forest against scikit-learn's own predictions, and quantisation against NumPy's quantiles."""

import numpy as np
import pytest
import torch
from sklearn.ensemble import RandomForestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from tests.detectors.read import CHANNELS, drawn

from medaegis.detectors.learned import RandomForest, SupportVectors
from medaegis.detectors.reader import PENULTIMATE
from medaegis.errors import ConfigError


def lesson(n=90):
    clean, labels = drawn(n)
    attacked, _ = drawn(n, seed=5, shift=0.6)
    return clean, labels, attacked


def side_by_side(seen, taps):
    return np.concatenate([seen.features[tap].numpy() for tap in taps], 1)


@pytest.mark.parametrize("taps", [(PENULTIMATE,), None], ids=["penultimate", "all"])
def test_svm_is_that_of_scikit_learn(taps):
    clean, labels, attacked = lesson()
    test, _ = drawn(40, seed=1, shift=0.3)
    detector = SupportVectors(taps=taps, penalty=2.0).fit(clean, labels, attacked=attacked)
    names = taps or tuple(CHANNELS)
    x = np.concatenate([side_by_side(clean, names), side_by_side(attacked, names)]).astype(np.float64)
    model = make_pipeline(StandardScaler(), SVC(C=2.0, gamma=1 / x.shape[1], class_weight="balanced"))
    model.fit(x, np.repeat([0, 1], 90))
    expected = model.decision_function(side_by_side(test, names).astype(np.float64))
    np.testing.assert_allclose(detector.score(test).numpy(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("levels", [2, 4])
def test_qfeat_is_an_svm_on_codes_from_quantiles_of_clean_features(levels):
    clean, labels, attacked = lesson(81)  # 80 steps between the smallest and the largest: quantiles are images
    test, _ = drawn(40, seed=1, shift=0.3)
    detector = SupportVectors(levels=levels).fit(clean, labels, attacked=attacked)
    edges = np.quantile(side_by_side(clean, (PENULTIMATE,)), np.arange(1, levels) / levels, axis=0)

    def code(seen):
        x = side_by_side(seen, (PENULTIMATE,))
        return np.stack([np.digitize(x[:, c], edges[:, c], right=True) for c in range(x.shape[1])], 1)

    np.testing.assert_array_equal(detector.code(test.features[PENULTIMATE]).numpy(), code(test))
    model = make_pipeline(StandardScaler(), SVC(gamma=1 / 12, class_weight="balanced"))
    model.fit(np.concatenate([code(clean), code(attacked)]), np.repeat([0, 1], 81))
    np.testing.assert_allclose(detector.score(test).numpy(), model.decision_function(code(test)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("trees", [1, 30])
def test_forest_is_that_of_scikit_learn(trees):
    clean, labels, attacked = lesson()
    test, _ = drawn(300, seed=1, shift=0.3)
    detector = RandomForest(trees=trees).fit(clean, labels, attacked=attacked, seed=7)
    x = np.concatenate([side_by_side(clean, (PENULTIMATE,)), side_by_side(attacked, (PENULTIMATE,))])
    model = RandomForestClassifier(trees, class_weight="balanced", random_state=7).fit(x, np.repeat([0, 1], 90))
    expected = model.predict_proba(side_by_side(test, (PENULTIMATE,)))[:, 1]
    np.testing.assert_allclose(detector.score(test).numpy(), expected, atol=1e-6)


def test_a_value_on_the_threshold_goes_where_scikit_learn_sends_it():
    clean, labels, attacked = lesson()
    detector = RandomForest(trees=1).fit(clean, labels, attacked=attacked)
    x = np.concatenate([side_by_side(clean, (PENULTIMATE,)), side_by_side(attacked, (PENULTIMATE,))])
    model = RandomForestClassifier(1, class_weight="balanced", random_state=0).fit(x, np.repeat([0, 1], 90))
    tree = model.estimators_[0].tree_
    test, _ = drawn(10, seed=1)
    edge = np.float32(tree.threshold[0])
    around = [np.nextafter(edge, np.float32(-9)), edge, np.nextafter(edge, np.float32(9))]
    test.features[PENULTIMATE][:3, tree.feature[0]] = torch.tensor(np.array(around))
    expected = model.predict_proba(side_by_side(test, (PENULTIMATE,)))[:, 1]
    np.testing.assert_allclose(detector.score(test).numpy(), expected, atol=1e-6)


def test_a_channel_that_never_moves_is_no_trouble():
    clean, labels, attacked = lesson()
    for seen in (clean, attacked):
        seen.features[PENULTIMATE][:, 0] = 1.0
    assert bool(SupportVectors().fit(clean, labels, attacked=attacked).score(clean).isfinite().all())
    assert bool(SupportVectors(levels=4).fit(clean, labels, attacked=attacked).score(clean).isfinite().all())


@pytest.mark.parametrize(
    ("make", "options"),
    [(SupportVectors, {"penalty": 0}), (SupportVectors, {"levels": 1}), (RandomForest, {"trees": 0})],
)
def test_impossible_options_are_refused(make, options):
    with pytest.raises(ConfigError, match="give"):
        make(**options)
