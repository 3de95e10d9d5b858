"""A guard calibrated at another site: only thresholds change, by images that then measure nothing."""

import dataclasses

import pytest
import torch
from tests.bench.small import SIZE, fitted
from tests.models.tiny_networks import tiny

from medaegis.bench.calibrate import calibrate_site, measured
from medaegis.bench.metrics import share_interval
from medaegis.errors import ArtefactError, ConfigError, DataError
from medaegis.guard.guard import Guard
from medaegis.guard.site import Site, other_site
from medaegis.images.datasets import load_dataset
from medaegis.images.hashes import pixel_hashes


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The guard of its own site, images of another one, and the guard calibrated there."""
    folder = tmp_path_factory.mktemp("calibration")
    home, _, _ = fitted(folder)
    more = load_dataset("phantom-xray?n=540", size=SIZE, channels="gray", cache_dir=folder)
    there = more.subset(range(240, 540))
    there = dataclasses.replace(there, images=(there.images.float() * 0.8).to(torch.uint8))
    site = other_site(home, there, seed=3, recalibrate=True)
    calibrate_site(home, site, folder / "there")
    return home, there, site, Guard.load(folder / "there", factory=tiny), folder


def test_thresholds_alone_change(made):
    home, _, site, guard, _ = made
    before, after = home.bank.state_dict(), guard.bank.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"centre", "scale"}
    verdict = guard.judge(site.dataset.pixels(site.split.val))
    for k in range(len(guard.classes)):
        mine = verdict.accepted[verdict.predicted == k]
        if len(mine) >= 10:
            assert int(mine.sum()) == -(-17 * (len(mine) + 1) // 20), "of n, the first ceil(0.85 (n + 1))"


def test_the_record_tells_of_which_guard_it_is_and_what_the_thresholds_were(made):
    home, _, site, guard, _ = made
    told = guard.calibration
    assert told["guard"] == home.digest
    assert told["former"]["centre"] == pytest.approx(home.bank.centre.tolist())
    assert told["former"]["scale"] == pytest.approx(home.bank.scale.tolist())
    assert told["site"]["spec"] == "phantom-xray?n=540"
    assert guard.training == home.training
    for name, judge in (("before", home), ("after", guard)):
        test = site.dataset.subset(site.split.adv_test)
        verdict = judge.judge(test.pixels(), ids=test.ids)
        wanted = share_interval(verdict.accepted, test.patients)
        assert told[name]["accepted"] == {
            "value": wanted.value, "low": wanted.low, "high": wanted.high, "n": len(test)
        }  # fmt: skip
        right = (verdict.predicted == test.labels)[verdict.accepted]
        assert told[name]["accuracy_accepted"]["value"] == pytest.approx(float(right.float().mean()))
        assert told[name]["accuracy_accepted"]["n"] == len(right)


def test_images_that_set_thresholds_measure_nothing_afterwards(made):
    home, there, site, guard, _ = made
    again = other_site(guard, there)
    assert again.split == site.split, "the split of the calibration, whatever seed is given"
    test = pixel_hashes(again.dataset.images[list(again.split.adv_test)])
    assert not torch.isin(test, guard.seen.thresholds).any()
    assert torch.isin(pixel_hashes(site.dataset.images[list(site.split.val)]), guard.seen.thresholds).all()
    assert torch.isin(home.seen.thresholds, guard.seen.learned).all(), "they still chose which Shields were kept"
    some = there.subset(range(5, 300))  # another set that shares images with the site's
    fewer = other_site(guard, some)
    assert fewer.left_out > 0
    assert not torch.isin(pixel_hashes(fewer.dataset.images), guard.seen.thresholds).any()


def test_a_class_that_the_site_lacks_gets_a_pooled_threshold(made):
    home, there, _, _, folder = made
    site = other_site(home, there.subset(there.labels == 0), recalibrate=True)
    verdict = home.judge(site.dataset.pixels(site.split.val))
    counts = verdict.predicted.bincount(minlength=len(home.classes)).tolist()
    guard = calibrate_site(home, site, folder / "lacking", tnr=0.8)
    assert [one["images"] for one in guard.calibration["thresholds"].values()] == counts
    assert guard.calibration["before"]["accepted_by_class"][home.classes[1]] is None
    assert guard.tnr == 0.8


def test_what_cannot_be_is_refused(made, tmp_path):
    home, there, site, _, _ = made
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "mine").write_text("mine")
    with pytest.raises(ArtefactError, match="not an empty folder"):
        calibrate_site(home, site, tmp_path / "taken")
    few = there.subset([*range(12)])
    with pytest.raises(DataError):
        calibrate_site(home, other_site(home, few, recalibrate=True), tmp_path / "few")
    with pytest.raises(ConfigError, match="of the fit"):
        calibrate_site(home, Site(site.dataset, site.split, home=True), tmp_path / "home")
    assert not (tmp_path / "few").exists()
    assert measured(home, site.dataset.subset([0]))["accepted"]["n"] == 1
