"""Combination against ranks and quantiles counted by hand, on held-out images only."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from tests.detectors.read import drawn

from medaegis.detectors.base import Detector, hold_out
from medaegis.detectors.combined import Combined
from medaegis.detectors.density import KernelDensity, Mahalanobis
from medaegis.detectors.learned import SupportVectors
from medaegis.errors import ConfigError, DataError


@dataclass(kw_only=True, eq=False)
class First(Detector):
    """The first logit, or infinity; remembers how many images it was fitted on."""

    kind = "test-first"
    value: float = 0.0

    def _fit(self, lesson):
        self.fitted_on = len(lesson.clean)

    def _score(self, seen):
        return seen.logits[:, 0] + self.value


@pytest.mark.parametrize("share", [0.2, 0.5])
def test_every_class_is_held_out_alike_and_nothing_twice(share):
    labels = torch.tensor([0] * 50 + [1] * 10 + [2] * 2)[torch.randperm(62, generator=torch.Generator().manual_seed(1))]
    stay, held = hold_out(labels, share, 5)
    assert sorted(stay.tolist() + held.tolist()) == list(range(62))
    assert labels[held].bincount().tolist() == [50 * share, 10 * share, 1]
    assert torch.equal(held, hold_out(labels, share, 5)[1])
    assert not torch.equal(held, hold_out(labels, share, 6)[1])


def members():
    return KernelDensity(), Mahalanobis()


def test_mean_is_the_share_of_held_out_images_that_look_less_suspicious():
    clean, labels = drawn(120)
    test, _ = drawn(30, seed=1, shift=0.2)
    combined = Combined(members=members()).fit(clean, labels, seed=2)
    stay, held = hold_out(labels, 0.25, 2)
    shares = []
    for member in members():
        member.fit(clean[stay], labels[stay], seed=2)
        known, now = member.score(clean[held]).numpy(), member.score(test).numpy()
        shares.append([(known < score).mean() for score in now])
    np.testing.assert_allclose(combined.score(test).numpy(), np.mean(shares, 0), rtol=1e-6)


def test_max_is_the_largest_suspicion_and_1_is_the_true_negative_rate():
    clean, labels = drawn(400)
    combined = Combined(members=members(), rule="max", tnr=0.8).fit(clean, labels, seed=2)
    stay, held = hold_out(labels, 0.25, 2)
    each = []
    for member in members():
        member.fit(clean[stay], labels[stay], seed=2)
        score = member.score(clean[held]).double().numpy()
        centre, limit = np.quantile(score, [0.5, 0.8])
        each.append((score - centre) / (limit - centre))
        assert np.mean(each[-1] <= 1) == pytest.approx(0.8, abs=0.02)
    found = combined.score(clean[held]).numpy()
    np.testing.assert_allclose(found, np.max(each, 0), rtol=1e-4, atol=1e-5)


def test_members_learn_without_the_images_that_calibrate_them():
    clean, labels = drawn(120)
    first = First()
    Combined(members=(first,), held_out=0.5).fit(clean, labels)
    assert first.fitted_on == 60


def test_it_needs_what_its_members_need():
    clean, labels = drawn(60)
    attacked, _ = drawn(60, seed=3, shift=1)
    combined = Combined(members=(KernelDensity(), SupportVectors()))
    assert combined.needs_attacked
    assert not combined.needs_images
    with pytest.raises(ConfigError, match="attacked images: none"):
        combined.fit(clean, labels)
    score = combined.fit(clean, labels, attacked=attacked).score
    assert score(drawn(60, seed=5, shift=1)[0]).mean() > score(drawn(60, seed=6)[0]).mean() + 0.2


def test_impossible_options_and_calibration_are_refused():
    clean, labels = drawn(60)
    with pytest.raises(ConfigError, match="members"):
        Combined(members=())
    with pytest.raises(ConfigError, match="'mean' or 'max'"):
        Combined(members=members(), rule="median")
    with pytest.raises(ConfigError, match="tnr above"):
        Combined(members=members(), tnr=0.4)
    with pytest.raises(DataError, match="not finite"):
        Combined(members=(First(value=float("inf")),)).fit(clean, labels)
