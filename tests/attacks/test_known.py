"""What an attacker knows of clean images reaches the attacks that need it, and no other."""

from dataclasses import replace

import pytest
import torch
from tests.attacks.toys import SIZE, toy_victim

from medaegis.attacks.catalogue import find_attack
from medaegis.attacks.hfc import fit_mixtures
from medaegis.attacks.known import Known
from medaegis.cushions import parse_cushion
from medaegis.images.datasets import load_dataset


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return load_dataset("phantom-xray?n=60", size=SIZE, channels="gray", cache_dir=tmp_path_factory.mktemp("drawn"))


def test_guides_are_images_of_the_wanted_class_the_same_in_any_batch(images):
    known, victim = Known(images, seed=3), toy_victim(2)
    targets, ids = torch.tensor([0, 1, 1, 0, 1]), torch.arange(5)
    attack = find_attack("feature-match").attack
    told = known.options(attack, victim, targets, ids)
    assert list(told) == ["guides"]
    pool = {bytes(image.numpy()): int(label) for image, label in zip(images.images, images.labels, strict=True)}
    chosen = [pool[bytes((guide * 255).round().to(torch.uint8).numpy())] for guide in told["guides"]]
    assert chosen == targets.tolist()
    part = known.options(attack, victim, targets[2:4], ids[2:4])
    assert torch.equal(part["guides"], told["guides"][2:4])
    assert not torch.equal(Known(images, seed=4).options(attack, victim, targets, ids)["guides"], told["guides"])


def test_normal_features_are_those_behind_the_victims_cushion(images):
    attack = find_attack("wb-hfc").attack
    known = Known(images)
    for spec in ("none", "median:5"):
        victim = toy_victim(2, cushion=spec)
        normal = known.options(attack, victim, torch.tensor([0]), torch.tensor([0]))["normal"]
        assert normal.taps == victim.exact.taps
        behind = parse_cushion(spec)(images.pixels())
        features = toy_victim(2).pooled(behind, ("relu",))
        expected = fit_mixtures(features, images.labels)
        torch.testing.assert_close(normal.means["relu"], expected.means["relu"])
    assert known.normal(victim) is known.normal(victim)
    assert Known(images, taps=("input", "last")).normal(victim).taps == ("last",)


def test_a_universal_perturbation_learns_from_some_of_them_by_the_seed(images):
    victim, attack = toy_victim(2), replace(find_attack("uap").attack, images=20)
    here = torch.tensor([0])
    pixels, labels = Known(images, seed=3).options(attack, victim, here, here)["known"]
    pool = {bytes(image.numpy()): int(label) for image, label in zip(images.images, images.labels, strict=True)}
    drawn = [bytes((image * 255).round().to(torch.uint8).numpy()) for image in pixels]
    assert len(set(drawn)) == 20
    assert [pool[image] for image in drawn] == labels.tolist()
    assert torch.equal(Known(images, seed=3).options(attack, victim, here, here)["known"][0], pixels)
    assert not torch.equal(Known(images, seed=4).options(attack, victim, here, here)["known"][0], pixels)
    assert len(Known(images).options(find_attack("uap").attack, victim, here, here)["known"][1]) == 60, "all there are"


@pytest.mark.parametrize(
    ("name", "served"), [("uap", True), ("uap-wb", True), ("hfc", True), ("feature-match", True), ("pgd", False)]
)
def test_it_is_told_whom_they_serve(name, served):
    assert Known.serve(find_attack(name).attack) == served


def test_results_are_told_apart_by_what_they_were_made_with(images, monkeypatch):
    """Stored adversarial images of HFC are not those of a later model of the same normal features."""
    known, other = Known(images), Known(images.subset(range(20)))
    hfc, match = find_attack("hfc").attack, find_attack("feature-match").attack
    assert known.key_for(match) == known.key
    assert len({str(who.key_for(attack)) for who in (known, other) for attack in (hfc, match)}) == 4
    before = known.key_for(hfc)
    monkeypatch.setattr("medaegis.attacks.known.REGULAR", 0.5)
    assert known.key_for(hfc) != before


def test_attacks_that_need_nothing_are_told_nothing(images):
    assert Known(images).options(find_attack("wb").attack, toy_victim(2), torch.tensor([0]), torch.tensor([0])) == {}
