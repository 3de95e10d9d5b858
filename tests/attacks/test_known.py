"""What an attacker knows of clean images reaches the attacks that need it, and no other."""

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


def test_attacks_that_need_nothing_are_told_nothing(images):
    assert Known(images).options(find_attack("wb").attack, toy_victim(2), torch.tensor([0]), torch.tensor([0])) == {}
