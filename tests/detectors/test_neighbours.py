"""LID against a transcription of its formula, image by image and neighbour by neighbour."""

import math

import pytest
import torch
from tests.detectors.read import CHANNELS, drawn

from medaegis.detectors.neighbours import LocalDimension
from medaegis.detectors.reader import PENULTIMATE, Reading
from medaegis.errors import ConfigError, DataError


def transcribed(point, reference, k):
    """-(1/k sum log(r_i / r_k))^-1 (Ma 2018, eq. 4)."""
    radii = sorted(math.dist(point, other) for other in reference)[:k]
    return -1 / (sum(math.log(radius / radii[-1]) for radius in radii) / k)


@pytest.mark.parametrize("k", [2, 7, 20])
def test_lid_is_the_formula(k):
    clean, labels = drawn(80)
    test, _ = drawn(12, seed=1)
    detector = LocalDimension(learn=False, neighbours=k, reference=50).fit(clean, labels, seed=2)
    expected = torch.zeros(12, dtype=torch.float64)
    for tap in CHANNELS:
        reference = detector.learned[f"{tap}/reference"].tolist()
        assert len(reference) == 50
        assert all(row in clean.features[tap].tolist() for row in reference)
        expected += torch.tensor([transcribed(point, reference, k) for point in test.features[tap].tolist()])
    torch.testing.assert_close(detector.score(test), (expected / 3).float(), rtol=1e-4, atol=0)


def test_lid_finds_the_dimension_of_a_flat_cloud():
    """Uniform on a disc of d dimensions in a space of 12: the estimate is about d."""
    draw = torch.Generator().manual_seed(0)
    for dimension in (2, 5):
        axes = torch.linalg.qr(torch.randn((12, 12), generator=draw)).Q[:dimension]

        def cloud(n, axes=axes):
            features = {PENULTIMATE: (torch.rand((n, len(axes)), generator=draw) - 0.5) @ axes}
            return Reading(torch.eye(2)[torch.arange(n) % 2], features)

        many = cloud(4000)
        detector = LocalDimension(taps=(PENULTIMATE,), learn=False, reference=4000)
        detector.fit(many, torch.arange(4000) % 2)
        found = detector.score(cloud(300)).median().item()
        assert abs(found - dimension) < 0.2 * dimension


def test_no_image_it_learns_from_is_a_reference_nor_made_from_one():
    """The regression's clean images and the copies of them are far from every reference image: no distance is nil."""
    clean, labels = drawn(60)
    attacked = Reading(clean.logits, {tap: values.clone() for tap, values in clean.features.items()})
    seen = []

    class Watched(LocalDimension):
        def dimension(self, tap, features):
            seen.append(torch.cdist(features.double(), self.learned[f"{tap}/reference"].double()).min())
            return super().dimension(tap, features)

    Watched(neighbours=5, reference=20).fit(clean, labels, attacked=attacked)
    assert len(seen) == 2 * len(CHANNELS)
    assert min(seen) > 1e-3


def test_regression_weighs_the_layer_that_tells():
    clean, labels = drawn(200)
    attacked, _ = drawn(200, seed=4)
    attacked.features["middle"][:] += 3 * torch.randn((200, 8), generator=torch.Generator().manual_seed(1))
    detector = LocalDimension().fit(clean, labels, attacked=attacked)
    early, middle, late = detector.learned["weight"].abs().tolist()
    assert middle > 2 * max(early, late)
    test, hostile = drawn(100, seed=7)[0], drawn(100, seed=8)[0]
    hostile.features["middle"][:] += 3 * torch.randn((100, 8), generator=torch.Generator().manual_seed(2))
    assert (detector.score(hostile)[:, None] > detector.score(test)).float().mean() > 0.95


def test_several_attacks_follow_each_other():
    """Two attacks in one reading: the copies of a held-out image are found in both blocks."""
    clean, labels = drawn(60)
    first, second = drawn(60, seed=4, shift=1)[0], drawn(60, seed=5, shift=-1)[0]
    both = Reading(
        torch.cat([first.logits, second.logits]),
        {tap: torch.cat([first.features[tap], second.features[tap]]) for tap in CHANNELS},
    )
    used = []

    class Watched(LocalDimension):
        def _layers(self, seen):
            used.append(seen)
            return super()._layers(seen)

    Watched(neighbours=5, reference=20).fit(clean, labels, attacked=both)
    genuine, hostile = used
    rows = [clean.features["early"].tolist().index(row) for row in genuine.features["early"].tolist()]
    assert torch.equal(
        hostile.features["early"], torch.cat([first.features["early"][rows], second.features["early"][rows]])
    )


def test_a_copy_of_a_reference_image_has_a_finite_score():
    clean, labels = drawn(60)
    detector = LocalDimension(learn=False, neighbours=5, reference=60).fit(clean, labels)
    assert bool(detector.score(clean).isfinite().all())
    flat = Reading(clean.logits, {tap: torch.ones_like(values) for tap, values in clean.features.items()})
    assert bool(detector.score(flat).isfinite().all())


def test_too_few_images_and_impossible_options_are_refused():
    clean, labels = drawn(18)
    with pytest.raises(DataError, match="18 reference images for 20 neighbours"):
        LocalDimension(learn=False).fit(clean, labels)
    with pytest.raises(ConfigError, match="30 neighbours among 20"):
        LocalDimension(neighbours=30, reference=20)
