"""A guard behind noise that votes: findings repeat by name, thresholds are of the vote, its folder knows of it."""

import pytest
import torch
from tests.attacks.toys import toy_bank, toy_classifier, toy_images
from tests.guard.fitted import CONFIG, learned_classifier
from tests.models.drawn import squares
from tests.models.tiny_networks import tiny

from medaegis.cushions import parse_cushion
from medaegis.errors import ConfigError
from medaegis.guard.calibration import calibrate
from medaegis.guard.fitting import fit_guard
from medaegis.guard.guard import Guard
from medaegis.guard.smoothing import SmoothedGuard

SPECS = ("noise:0.1", "vote:5:noise:0.1+median:3", "vote:3:random:jpeg:30-65+bits:3-5")
N = 8


def make_guard(cushion):
    classifier = toy_classifier(2)
    return Guard(classifier, parse_cushion(cushion), toy_bank(classifier), tnr=0.9)


@pytest.mark.parametrize("cushion", SPECS)
def test_findings_repeat_by_the_name_of_their_draw(cushion, tmp_path):
    guard = make_guard(cushion)
    images = toy_images(N, guard.classifier, seed=4)
    found = guard.inspect(images)
    names = [finding.cushion for finding in found]
    assert len(set(names)) == N
    assert all(name.startswith(f"{guard.cushion.spec}#") for name in names)
    guard.save(tmp_path / "g")
    again = Guard.load(tmp_path / "g", factory=tiny)
    assert (again.cushion.spec, again.fingerprint()) == (guard.cushion.spec, guard.fingerprint())
    repeated = again.inspect(images, draws=names)
    for one, other in zip(found, repeated, strict=True):
        assert (one.label, one.accepted, one.cushion) == (other.label, other.accepted, other.cushion)
        assert one.score == pytest.approx(other.score, rel=1e-4, abs=1e-4)
    numbers = [int(name.rpartition("#")[2]) for name in names]
    verdict = guard.victim().behind(guard.cushion.draw(0, "named", numbers)).judge(images)
    assert [finding.accepted for finding in found] == verdict.accepted.tolist()
    with pytest.raises(ConfigError, match="never draws it"):
        guard.inspect(images[:1], draws=["jpeg:30"])


def test_of_a_vote_the_thresholds_accept_the_share_asked_for():
    """Each image counts once, by its vote; behind a single draw it would count by several."""
    dataset, split = squares(240)
    guard = Guard(learned_classifier(), parse_cushion("vote:5:noise:0.1"), toy_bank(learned_classifier()), tnr=0.9)
    figures = calibrate(guard, dataset, split)
    val = dataset.subset(split.val)
    verdict = guard.victim(dtype=torch.float32).verdicts(val.pixels(), val.ids, seed=0, stream="calibration/0")
    for k in range(2):
        mine = verdict.predicted == k
        n = int(mine.sum())
        assert int(verdict.accepted[mine].sum()) == -(-9 * (n + 1) // 10)
    assert figures["val_images"] == len(val)


def test_a_guard_is_fitted_behind_a_vote(tmp_path):
    dataset, split = squares(240)
    config = CONFIG.model_copy(update={"updates": 2, "watch_every": 2})
    cushion = parse_cushion("vote:3:noise:0.1")
    fit_guard(learned_classifier(), dataset, split, cushion=cushion, config=config, out_dir=tmp_path / "g")
    test = dataset.subset(split.adv_test)
    again = Guard.load(tmp_path / "g", factory=tiny)
    reached = again.judge(test.pixels(), ids=test.ids).accepted.float().mean().item()
    assert again.calibration["tnr_reached"] == pytest.approx(reached)


@pytest.mark.parametrize("cushion", SPECS)
def test_a_certificate_is_of_a_guard_without_noise_of_its_own(cushion):
    with pytest.raises(ConfigError, match="draws noise or votes itself"):
        SmoothedGuard(make_guard(cushion), 0.1)
