"""The hierarchical feature constraint against SciPy's Gaussians and scikit-learn's mixtures."""

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal
from sklearn.mixture import GaussianMixture
from tests.attacks.toys import toy_images, toy_labels, toy_victim

from medaegis.attacks.catalogue import find_attack
from medaegis.attacks.losses.hfc import HierarchicalFeature
from medaegis.attacks.normal import fit_mixtures
from medaegis.attacks.objective import Goal, View
from medaegis.errors import ConfigError, DataError
from medaegis.models.taps import pool


def cloud(n=300, channels=4, seed=0):
    """Correlated features of two classes, each in two heaps."""
    source = np.random.default_rng(seed)
    labels = source.integers(0, 2, n)
    heaps = source.integers(0, 2, n)
    mix = source.normal(size=(2, channels, channels))
    values = (
        np.einsum("nc,ncd->nd", source.normal(size=(n, channels)), mix[labels]) + 6 * heaps[:, None] + labels[:, None]
    )
    return torch.from_numpy(values).float(), torch.from_numpy(labels)


@pytest.mark.parametrize("components", [1, 3])
def test_distance_is_that_to_the_likeliest_component(components):
    values, labels = cloud()
    mixtures = fit_mixtures({"tap": values}, labels, components=components, seed=5)
    asked = torch.tensor([0, 1] * 10)
    found = mixtures.distance("tap", values[:20], asked)
    for i in range(20):
        k = int(asked[i])
        mine = values[labels == k].double().numpy()
        fit = GaussianMixture(components, reg_covar=0.1 * mine.var(0).mean(), random_state=5).fit(mine)
        logs, squares = [], []
        for weight, mean, covariance in zip(fit.weights_, fit.means_, fit.covariances_, strict=True):
            logs.append(np.log(weight) + multivariate_normal(mean, covariance).logpdf(values[i].double().numpy()))
            apart = values[i].double().numpy() - mean
            squares.append(apart @ np.linalg.inv(covariance) @ apart)
        assert found[i].item() == pytest.approx(squares[int(np.argmax(logs))], rel=1e-3)


def test_normal_images_that_were_not_learned_from_look_normal():
    """With twice as many channels as images; the added variance brings them a hundred times nearer."""
    source = torch.Generator().manual_seed(0)
    values = torch.randn((60, 64), generator=source) * torch.linspace(0.2, 2, 64)
    labels = asked = torch.zeros(30, dtype=torch.int64)

    def stretch(**options):
        normal = fit_mixtures({"tap": values[:30]}, labels, **options)
        seen, other = (normal.distance("tap", part, asked).median() for part in (values[:30], values[30:]))
        return float(other / seen)

    assert 100 * stretch() < stretch(regular=1e-6)


def test_the_loss_is_eq_7():
    values, labels = cloud()
    mixtures = fit_mixtures({"a": values, "b": values[:, :2]}, labels)
    maps = {"a": values[:6].view(6, 4, 1, 1).expand(-1, -1, 3, 2), "b": values[:6, :2]}
    goal = Goal(labels[:6], 1 - labels[:6], normal=mixtures)
    bound = HierarchicalFeature().begin(toy_victim(2), goal)
    assert bound.taps == ("a", "b")
    expected = mixtures.distance("a", values[:6], 1 - labels[:6]) / (2 * 4)
    expected = expected + mixtures.distance("b", values[:6, :2], 1 - labels[:6]) / (2 * 2)
    torch.testing.assert_close(bound(View(goal, None, maps)), expected)


def test_it_hides_features_and_still_fools():
    """Beside the same attack without it: far nearer to the normal features of the wanted class."""
    victim = toy_victim(2)
    pool_of = toy_images(300, victim.exact, seed=5)
    known = toy_labels(victim, pool_of)
    normal = fit_mixtures(victim.pooled(pool_of, ("relu", "last")), known)
    images, labels = pool_of[:30], known[:30]
    run = {"eps": 32 / 256, "targets": 1 - labels}

    def far(found):
        features = victim.pooled(found.images, ("relu", "last"))
        return sum(normal.distance(tap, features[tap], 1 - labels) for tap in normal.taps)

    plain = find_attack("bim").attack.with_options(steps=100).run(victim, images, labels, **run)
    hidden = find_attack("hfc").attack.run(victim, images, labels, normal=normal, **run)
    assert hidden.fooled.float().mean() >= plain.fooled.float().mean() - 0.1
    assert far(hidden).median() < 0.5 * far(plain).median()


def test_what_is_missing_is_told():
    victim = toy_victim(2)
    images = toy_images(4, victim.exact)
    labels = toy_labels(victim, images)
    with pytest.raises(ConfigError, match="normal"):
        find_attack("hfc").attack.run(victim, images, labels, eps=0.1)
    with pytest.raises(DataError, match="images of a class"):
        fit_mixtures({"tap": torch.rand(3, 2)}, torch.tensor([0, 0, 1]))


def test_pooling():
    maps = torch.rand(2, 3, 4, 5)
    torch.testing.assert_close(pool(maps), maps.mean((2, 3)))
    assert torch.equal(pool(maps[:, :, 0, 0]), maps[:, :, 0, 0])


def test_a_class_without_known_images_is_refused():
    with pytest.raises(DataError, match="0 images of a class"):
        fit_mixtures({"tap": torch.rand(6, 2)}, torch.tensor([0, 0, 0, 1, 1, 1]), classes=3)
