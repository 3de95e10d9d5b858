"""Certificates from end to end: of a guard whose truth is known, of a small real one, after a kill, under attack."""

import copy
import dataclasses
import doctest
import json
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import binomtest
from tests.guard.known import CLASSES, chances, known_guard, known_image
from tests.models.tiny_networks import tiny

import medaegis as ma
from medaegis.bench import certify as module
from medaegis.bench import radius
from medaegis.bench.certify import certify_guard
from medaegis.bench.checks import within
from medaegis.bench.checks.within import attack_smoothed, attacked_image
from medaegis.bench.metrics import share_interval
from medaegis.bench.radius import Bounds, Terms
from medaegis.bench.records.archive import read_record
from medaegis.bench.records.certificate import PAGE, RECORD, AttackedImage, Certificate
from medaegis.bench.store import Store
from medaegis.cushions import noise
from medaegis.errors import ConfigError, DataError
from medaegis.guard import smoothing
from medaegis.guard.guard import Guard
from medaegis.guard.site import Site, find_site
from medaegis.guard.smoothing import SmoothedGuard
from medaegis.images.datasets import Dataset, load_dataset
from medaegis.images.splits import split_dataset

GOLDEN = Path(__file__).parents[1] / "golden" / "guard"
TERMS = Terms(0.1, (0.05, 0.1, 0.2, 5.0), samples=400)
LIMIT = 6
OPTIONS = {"terms": TERMS, "limit": LIMIT, "attack_check": 2, "seed": 4}
LEFT_OUT = {"seconds", "created"}


@pytest.fixture(scope="module", autouse=True)
def _few_judge():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(within, "ASKED", 200)
        patch.setitem(within.HOW, "asked", 200)
        yield


@pytest.fixture(scope="module")
def scene(tmp_path_factory) -> tuple[Guard, Site]:
    guard = Guard.load(GOLDEN, factory=tiny)
    folder = tmp_path_factory.mktemp("data")
    dataset = load_dataset("phantom-xray?n=240", size=32, channels="gray", cache_dir=folder)
    return guard, find_site(guard, lambda *_: dataset)


@pytest.fixture(scope="module")
def made(scene, tmp_path_factory) -> tuple[Certificate, Path]:
    out = tmp_path_factory.mktemp("out")
    return certify_guard(*scene, out_dir=out, command="test", **OPTIONS), out


def test_the_record_is_read_back_and_adds_up(made, scene):
    found, out = made
    assert read_record(out / RECORD, Certificate, "certify") == found
    assert found.n == len(found.images) == LIMIT
    assert [row.radius for row in found.shares] == [0.0, 0.05, 0.1, 0.2, 5.0]
    test = scene[1].dataset.subset(scene[1].split.adv_test)
    patients = [dict(zip(test.names, test.patients, strict=True))[one.name] for one in found.images]
    for row in found.shares:
        assert row.linf == pytest.approx(row.radius / 32)
        for name in ("no_harm", "right", "plain_no_harm", "plain_right"):
            hits = [(radius := getattr(one, name)) is not None and radius >= row.radius for one in found.images]
            expected = share_interval(hits, patients)
            share = getattr(row, name)
            assert (share.n, share.share) == (LIMIT, expected.value)
            assert share.interval == (expected.low, expected.high)
        assert row.no_harm.share >= row.plain_no_harm.share
        assert row.right.share <= min(row.plain_right.share, row.no_harm.share)
        assert row.within_reach == (row.radius < found.reach)
    assert found.copies == sum(one.samples for one in found.images) < LIMIT * 400, "some stop early"
    assert {one.samples for one in found.images} <= {100, 400}
    assert found.shares[0].right.share > 0


def test_counts_are_those_of_the_deployed_guard_on_noisy_copies(made, scene):
    found, _ = made
    guard, site = scene
    assert found.val == len(site.split.val)
    bank = SmoothedGuard(guard, 0.1).guard.bank
    one = found.images[0]
    place = site.dataset.names.index(one.name)
    asked = Guard(guard.classifier, guard.cushion, _with(bank, found), tnr=guard.tnr)
    counts = SmoothedGuard(asked, 0.1, seed=4).counts(
        site.dataset.images[place], int(site.dataset.ids[place]), 0, one.samples
    )
    assert counts.tolist() == [one.accepted, one.predicted]
    bounds = Bounds(TERMS, classes=2, label=guard.classes.index(one.label), drift=found.drift)
    if one.samples == 100:
        bounds.take([one.accepted, one.predicted], 100)
        told = [[one.no_harm, one.right], [one.plain_no_harm, one.plain_right]]
        assert [[r if r >= 0 else None for r in row] for row in bounds.radii.tolist()] == told


def _with(bank, found):
    """The bank with the thresholds that the record tells."""
    bank = copy.deepcopy(bank)
    bank.centre.copy_(torch.tensor([one.centre for one in found.thresholds.values()], dtype=torch.float64))
    bank.scale.copy_(torch.tensor([one.scale for one in found.thresholds.values()], dtype=torch.float64))
    return bank


def test_attacks_within_the_radius_break_nothing(made):
    found, _ = made
    assert len(found.attacks.images) == 2
    assert found.attacks.broken == 0
    certified = {image.name: image.no_harm for image in found.images}
    for one in found.attacks.images:
        assert one.radius == certified[one.name]
        assert 0.9 * one.radius < one.distance <= one.radius
        assert one.after <= 0.5
        assert one.wanted != one.label


class Shown(HTMLParser):
    """The words of a page, and whether it would load anything from elsewhere."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.sources: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.sources += [value for name, value in attrs if name in ("src", "href") and value]

    def handle_data(self, data):
        self.words.append(data)


def test_the_page_says_what_the_record_says(made):
    found, out = made
    page = Shown((out / PAGE).read_text(encoding="utf-8"))
    text = " ".join(" ".join(page.words).split())
    for row in found.shares[:-1]:
        assert f"{100 * row.no_harm.share:.1f} %" in text
    assert "beyond what 400 samples can certify" in text
    for label in {image.label for image in found.images}:
        images = [image for image in found.images if image.label == label]
        certified = sum(image.no_harm is not None for image in images)
        assert f"{certified} of {len(images)} {label}" in text
        assert f"{label}, of {len(images)}: guard: no wrong diagnosis" in text
    assert "Attacks within the certified radius broke none of 2 images" in text
    assert all(one.name in text for one in found.attacks.images)
    assert all(source.startswith(("data:", "#")) for source in page.sources)


def test_a_name_from_outside_is_text_on_the_page(made, tmp_path):
    found, _ = made
    told = found.model_dump(mode="json")
    told["attacks"]["images"][0]["name"] = "<script>alert(1)</script>"
    module.write_certificate_page(Certificate.model_validate(told), tmp_path)
    assert "<script" not in (tmp_path / PAGE).read_text(encoding="utf-8")


def test_a_run_that_was_killed_ends_with_the_same_bits(made, scene, tmp_path, monkeypatch):
    found, _ = made
    ask, left = Store.get, [7]

    def dying(self, key, compute):
        def counted():
            if not left[0]:
                raise KeyboardInterrupt
            left[0] -= 1
            return compute()

        return ask(self, key, counted)

    with monkeypatch.context() as patch:
        patch.setattr(Store, "get", dying)
        with pytest.raises(KeyboardInterrupt):
            certify_guard(*scene, out_dir=tmp_path, command="test", **OPTIONS)
    assert not (tmp_path / RECORD).exists()
    assert len(list((tmp_path / "pieces").iterdir())) == 7
    before = {file.name: file.stat().st_mtime_ns for file in (tmp_path / "pieces").iterdir()}
    told = []
    again = certify_guard(
        *scene, out_dir=tmp_path, command="test", progress=lambda done, total, what: told.append(what), **OPTIONS
    )
    assert again.model_dump(exclude=LEFT_OUT) == found.model_dump(exclude=LEFT_OUT)
    assert told[0] == "goes on where it was"
    after = {file.name: file.stat().st_mtime_ns for file in (tmp_path / "pieces").iterdir()}
    assert before.items() <= after.items(), "nothing is asked twice"


def test_another_seed_is_other_noise(made, scene, tmp_path):
    other = certify_guard(*scene, out_dir=tmp_path, **{**OPTIONS, "seed": 5, "attack_check": 0})
    mine = {one.name: one.predicted for one in made[0].images}
    assert any(one.predicted != mine[one.name] for one in other.images if one.name in mine)
    assert other.attacks is None


def test_a_guard_that_withholds_everything_does_no_harm_and_gives_nothing(scene, tmp_path):
    guard, site = scene
    bank = copy.deepcopy(guard.bank)
    bank.centre.fill_(torch.inf)
    shut = Guard(guard.classifier, guard.cushion, bank, tnr=guard.tnr, training=guard.training)
    found = certify_guard(shut, site, out_dir=tmp_path, calibrate=False, **{**OPTIONS, "attack_check": 0})
    assert found.thresholds == {}
    assert found.noisy_accepted == 0
    assert [row.no_harm.share for row in found.shares] == [1.0, 1.0, 1.0, 1.0, 0.0]
    assert [row.right.share for row in found.shares] == [0.0] * 5
    assert found.given_wrong.share == 0


# ---- a guard whose truth is known


def strip(firsts: list[int], labels: list[int], second: int = 128) -> tuple[Dataset, Site]:
    """Images by their first pixel, each of a patient of its own; all are test images."""
    n = len(firsts)
    images = torch.stack([known_image(first, second) for first in firsts])
    names = tuple(f"{i}.png" for i in range(n))
    dataset = Dataset("known", images, torch.tensor(labels), CLASSES, names, names, torch.arange(n))
    split = split_dataset(dataset, seed=0, complete=False)
    return dataset, Site(dataset, dataclasses.replace(split, adv_test=tuple(range(n))))


def test_radii_of_a_linear_classifier_stay_within_the_true_distance(tmp_path):
    """At a chance of 0.2 that one is larger, which many images can check; the theorem is tight there."""
    level, first, n = 100, 70, 120
    dataset, site = strip([first] * n, [0] * n)
    terms = Terms(0.1, (0.05, 0.1, 0.15), samples=100, alpha=0.2)
    found = certify_guard(known_guard(level), site, terms=terms, out_dir=tmp_path, calibrate=False)
    true = (level + 0.5 - first) / 255
    radii = [one.no_harm or 0.0 for one in found.images]
    failed = sum(radius > true for radius in radii)
    assert failed > 0
    assert binomtest(failed, n, terms.alpha, alternative="greater").pvalue > 1e-3
    assert np.mean(radii) > 0.6 * true
    assert found.guard.cushion == "none"
    assert len(dataset) == found.n


def test_the_shield_alone_makes_the_radius_larger(tmp_path):
    """Of two images near the boundary the darker second pixel is withheld more often."""
    _, site = strip([95], [0], second=120)
    terms = Terms(0.1, (0.01, 0.02), samples=2000)
    bare, shielded = (
        certify_guard(guard, site, terms=terms, out_dir=tmp_path / name, calibrate=False).images[0]
        for name, guard in (("bare", known_guard(100)), ("shielded", known_guard(100, 128)))
    )
    assert bare.predicted == shielded.predicted
    assert shielded.no_harm > bare.no_harm == bare.plain_no_harm == shielded.plain_no_harm


def attack(smoothed: SmoothedGuard, image: torch.Tensor, seen: Bounds) -> tuple[AttackedImage, torch.Tensor]:
    """What came of an attack on one image, and the attacked image within the radius."""
    piece = attack_smoothed(smoothed, image[None], torch.tensor([0]), [seen])
    rows = (image, piece["images"][0], piece["counts"][0], seen)
    return attacked_image(*rows, before=0.3, name="x", classes=CLASSES), piece["images"][0, 0]


def test_the_attack_goes_the_whole_way_and_breaks_what_is_beyond():
    """Up to the boundary of a linear classifier the chance of the other class is known: Phi of the distance left."""
    level, first = 100, 85
    guard = known_guard(level)
    smoothed, image = SmoothedGuard(guard, 0.1), known_image(first)
    seen = Bounds(Terms(0.1, (0.01,), samples=10_000), classes=2, label=0)
    seen.take(smoothed.counts(image, 0, 0, 2000).tolist(), 2000)
    told, attacked = attack(smoothed, image, seen)
    assert int(attacked[0, 0, 0]) - first == int(255 * told.radius) > 5, "all of it in the one pixel that counts"
    assert not told.broken
    assert not told.exceeded
    left = chances(int(attacked[0, 0, 0]), 128, 0.1, level, -1000)[0][1]
    assert binomtest(round(told.after * within.ASKED), within.ASKED, left).pvalue > 1e-3
    assert left < told.allowed < left + 0.1
    assert told.broken_farther, "at four times the radius it is past the boundary"
    lying = Bounds(seen.terms, classes=2, label=0)
    lying.chances[0, 1], lying.radii[0, 0] = 1e-3, 0.31  # as if it had been certified so far
    wrong, _ = attack(smoothed, image, lying)
    assert wrong.broken
    assert wrong.exceeded, "a certificate that is not so is found out"


# ---- bad input


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"limit": 0}, ConfigError, "limit 0"),
        ({"attack_check": -1}, ConfigError, "attack check of -1 images"),
        ({"terms": Terms(0.1, (3.0,))}, ConfigError, r"radius 3: at most 0\.31\d* can be certified"),
        ({"terms": Terms(0.1, (0.1,), samples=5)}, ConfigError, "by 5 samples"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_asked(scene, tmp_path, monkeypatch, options, error, said):
    monkeypatch.setattr(SmoothedGuard, "counts", lambda *_, **__: pytest.fail("asked"))
    with pytest.raises(error, match=said):
        certify_guard(*scene, out_dir=tmp_path / "out", **{**OPTIONS, **options})
    assert not (tmp_path / "out").exists()


def test_other_images_than_the_guard_is_for_are_refused(scene, tmp_path):
    dataset, site = strip([1, 2], [0, 1])
    with pytest.raises(DataError, match="the guard is for clear, opacity"):
        certify_guard(scene[0], site, out_dir=tmp_path, **OPTIONS)
    with pytest.raises(DataError, match="no images to set thresholds on"):
        certify_guard(
            known_guard(),
            Site(dataset, dataclasses.replace(site.split, val=())),
            out_dir=tmp_path,
            **OPTIONS,
        )


@pytest.mark.parametrize("room", [noise, radius, smoothing], ids=lambda room: room.__name__)
def test_the_examples_run(room):
    assert doctest.testmod(room).attempted
    assert not doctest.testmod(room).failed


def test_in_python_a_classifier_is_no_guard_and_radii_come_in_any_order(scene, tmp_path):
    guard, site = scene
    with pytest.raises(ConfigError, match="is a Classifier; give a guard"):
        ma.certify(guard.classifier, site.dataset, out=tmp_path)
    with pytest.raises(ConfigError, match="expected numbers above 0"):
        ma.certify(guard, site.dataset, out=tmp_path, radii=[0.1, -1.0])
    options = {"sigma": 0.1, "radii": [0.1, 0.05, 0.1], "samples": 100, "limit": 2}
    found = ma.certify(guard, site.dataset, out=tmp_path, **options)
    assert [row.radius for row in found.shares] == [0.0, 0.05, 0.1]
    assert json.loads((tmp_path / RECORD).read_text())["command"] == "ma.certify"
