"""The smoothed guard: its counts against chances that are known, and whose noise it is."""

import pytest
import torch
from scipy.stats import binomtest
from tests.attacks.toys import toy_bank, toy_classifier, toy_images
from tests.bench.campaigns import toy_dataset
from tests.guard.known import Above, chances, known_guard, known_image
from torch import Tensor

from medaegis.cushions import RandomCushion, parse_cushion
from medaegis.cushions.noise import GridNoise
from medaegis.errors import ConfigError, DataError
from medaegis.guard import smoothing
from medaegis.guard.guard import Guard
from medaegis.guard.smoothing import SmoothedGuard, noisy_thresholds

SIGMA = 0.1


def test_copies_are_accepted_as_often_as_they_must_be():
    first, second, level, least, n = 90, 150, 100, 135, 4000
    smoothed = SmoothedGuard(known_guard(level, least), SIGMA, seed=2)
    counts = smoothed.counts(known_image(first, second), 7, 0, n)
    for row, wanted in zip(counts.tolist(), chances(first, second, SIGMA, level, least), strict=True):
        for count, chance in zip(row, wanted, strict=True):
            assert 0.1 < chance < 0.9
            assert binomtest(count, n, chance).pvalue > 1e-3


def test_a_count_is_the_same_however_it_is_asked_for(monkeypatch):
    smoothed, image = SmoothedGuard(known_guard(100, 120), SIGMA), known_image(100)
    whole = smoothed.counts(image, 3, 0, 150)
    assert torch.equal(smoothed.counts(image, 3, 0, 37) + smoothed.counts(image, 3, 37, 150), whole)
    others = [smoothed.counts(image, 4, 0, 150), smoothed.counts(image, 3, 150, 300)]
    others += [SmoothedGuard(smoothed.guard, SIGMA, seed=1).counts(image, 3, 0, 150)]
    others += [smoothed.counts(image, 3, 0, 150, purpose="other")]
    assert len({tuple(one.flatten().tolist()) for one in [whole, *others]}) > 3
    monkeypatch.setattr(smoothing, "TOGETHER", 11)
    assert torch.equal(smoothed.counts(image, 3, 0, 150), whole)


class Fails(Above):
    """For bright first pixels it gives an error, for dark ones no number; once it is awake."""

    awake = False

    def forward(self, x: Tensor) -> Tensor:
        if not self.awake:
            return super().forward(x)
        levels = 255 * x[:, 0, 0, 0]
        if bool((levels > 130.5).any()):
            raise RuntimeError("broken")
        return super().forward(x).masked_fill((levels < 89.5).view(-1, 1), torch.nan)


def test_whatever_fails_counts_as_withheld(monkeypatch):
    first, n = 110, 1500
    smoothed = SmoothedGuard(known_guard(network=Fails(100)), SIGMA)
    monkeypatch.setattr(Fails, "awake", True)
    counts = smoothed.counts(known_image(first), 0, 0, n)
    from_90, from_131 = (chances(first, 128, SIGMA, level, -1000)[1][1] for level in (89, 130))
    assert 0.3 < from_90 - from_131 < 0.8
    assert torch.equal(counts[0], counts[1])
    assert binomtest(int(counts[0].sum()), n, from_90 - from_131).pvalue > 1e-3


def test_a_random_cushion_is_drawn_anew_for_each_copy(monkeypatch):
    guard = known_guard(cushion="random:none+bits:1")
    drawn, draw = [], RandomCushion.draw

    def spied(self, seed, stream, ids):
        found = draw(self, seed, stream, ids)
        drawn.extend(found.specs)
        return found

    monkeypatch.setattr(RandomCushion, "draw", spied)
    smoothed = SmoothedGuard(guard, SIGMA)
    counts = smoothed.counts(known_image(100), 0, 0, 200)
    assert int(counts[1].sum()) == len(drawn) == 200
    assert 60 < drawn.count("none") < 140
    assert smoothed.drift(known_image(100)) == GridNoise.drift(64) + 2 * 2.0**-32


def test_thresholds_under_noise_accept_the_share_that_the_guard_was_set_for():
    classifier = toy_classifier()
    guard = Guard(classifier, parse_cushion("none"), toy_bank(classifier), tnr=0.8)
    images = toy_images(120, classifier, seed=3)
    dataset = toy_dataset(images, torch.zeros(120, dtype=torch.int64), classifier.classes)
    before = {name: value.clone() for name, value in guard.bank.state_dict().items()}
    bank, told = noisy_thresholds(guard, SIGMA, dataset, tuple(range(60)))
    assert 60 - len(told) < sum(one["images"] for one in told.values()) <= 60, "eight copies count as an image"
    assert all(torch.equal(value, before[name]) for name, value in guard.bank.state_dict().items())
    smoothed = SmoothedGuard(Guard(classifier, guard.cushion, bank, tnr=0.8), SIGMA)
    shares = {}
    for name, rows in (("set on", range(60)), ("others", range(60, 120))):
        counts = sum(smoothed.counts(dataset.images[i], i, 0, 20) for i in rows)
        shares[name] = float(counts[0].sum()) / (20 * 60)
    assert shares["set on"] == pytest.approx(0.8, abs=0.06)
    assert shares["others"] == pytest.approx(0.8, abs=0.12)
    with pytest.raises(DataError, match="to set thresholds on"):
        noisy_thresholds(guard, SIGMA, dataset, tuple(range(5)))


def test_attacks_meet_the_noise_before_the_guard():
    guard = known_guard(100, 120)
    smoothed = SmoothedGuard(guard, SIGMA)
    x = known_image(100).float()[None].repeat(400, 1, 1, 1) / 255
    verdict = smoothed.victim().verdicts(x, seed=1, stream="look", batch_size=100)
    _, (_, ill) = chances(100, 128, SIGMA, 100, 120)
    assert binomtest(int((verdict.predicted == 1).sum()), 400, ill).pvalue > 1e-3


@pytest.mark.parametrize("sigma", [0.0, -1.0])
def test_a_sigma_that_cannot_be_is_refused(sigma):
    with pytest.raises(ConfigError, match="sigma"):
        SmoothedGuard(known_guard(), sigma)


def test_a_classifier_alone_is_refused():
    with pytest.raises(ConfigError, match="is a Classifier; give a guard"):
        SmoothedGuard(known_guard().classifier, SIGMA)
