"""What an attacker knows of clean images reaches the attacks that need it, and no other."""

from dataclasses import replace

import pytest
import torch
from tests.attacks.toys import SIZE, toy_images, toy_victim

from medaegis.attacks.catalogue import find_attack
from medaegis.attacks.engine import Attack
from medaegis.attacks.ensemble import Ensemble, Member
from medaegis.attacks.known import Known
from medaegis.attacks.losses.answer import CrossEntropy
from medaegis.attacks.losses.matching import ClosestFeatureMatch
from medaegis.attacks.normal import fit_mixtures
from medaegis.cushions import parse_cushion
from medaegis.errors import ConfigError, DataError
from medaegis.images.datasets import load_dataset


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return load_dataset("phantom-xray?n=60", size=SIZE, channels="gray", cache_dir=tmp_path_factory.mktemp("drawn"))


def test_guides_are_images_of_the_wanted_class_the_same_in_any_batch(images):
    known, victim = Known(images, seed=3), toy_victim(2)
    targets, ids, some = torch.tensor([0, 1, 1, 0, 1]), torch.arange(5), toy_images(5, victim.exact)
    attack = find_attack("feature-match").attack
    told = known.options(attack, victim, some, targets, ids)
    assert list(told) == ["guides"]
    pool = {bytes(image.numpy()): int(label) for image, label in zip(images.images, images.labels, strict=True)}
    chosen = [pool[bytes((guide * 255).round().to(torch.uint8).numpy())] for guide in told["guides"]]
    assert chosen == targets.tolist()
    part = known.options(attack, victim, some[2:4], targets[2:4], ids[2:4])
    assert torch.equal(part["guides"], told["guides"][2:4])
    assert not torch.equal(Known(images, seed=4).options(attack, victim, some, targets, ids)["guides"], told["guides"])


def test_mixtures_have_as_many_components_as_the_attack_says(images):
    known, victim = Known(images, taps=("last",)), toy_victim(2)
    asked = images.pixels([0, 1]), torch.tensor([0, 1]), torch.tensor([0, 1])
    for name, components in (("pgd+hfc", 1), ("pgd+hfc:3", 3), ("pgd+dim+hfc:2", 2)):
        normal = known.options(find_attack(name).attack, victim, *asked)["normal"]
        assert normal.means["last"].shape[:2] == (2, components)
    with pytest.raises(DataError, match="fewer components"):
        known.options(find_attack("pgd+hfc:50").attack, victim, *asked)


@pytest.mark.parametrize("cushion", ["none", "median:5", "random:jpeg:60-95"])
@pytest.mark.parametrize("taps", [(), ("relu", "last")])
def test_the_closest_guide_is_the_one_of_its_class_with_the_nearest_activations(images, taps, cushion):
    """Against distances one by one, in NumPy; the same in any batch, and the known images are looked at once."""
    known, victim = Known(images), toy_victim(2, cushion=cushion)
    attack = Attack(objective=ClosestFeatureMatch(taps))
    some, targets, ids = toy_images(9, victim.exact), torch.tensor([0, 1, 1, 0, 1, 0, 0, 1, 1]), 7 * torch.arange(9)
    looked, features = [], victim.features
    victim.features = lambda x, *rest: looked.append(len(x)) or features(x, *rest)
    guides = known.options(attack, victim, some, targets, ids)["guides"]
    parts = [known.options(attack, victim, some[k::2], targets[k::2], ids[k::2])["guides"] for k in (0, 1)]
    assert all(torch.equal(part, guides[k::2]) for k, part in enumerate(parts))
    assert sorted(looked) == [4, 5, 9, 60]

    def inside(pixels, numbers):
        behind = victim.drawn(numbers, seed=0, stream="pooled").cushion(pixels)
        seen = victim.exact.activations(behind).features
        return [seen[tap].double().numpy() for tap in taps or ("last",)]

    here, there = inside(some, ids), inside(images.pixels(), torch.arange(60))
    for i, target in enumerate(targets.tolist()):
        far = {}
        for j in (images.labels == target).nonzero().flatten().tolist():
            far[j] = sum(((x[i] - y[j]) ** 2).mean() / (y**2).mean() for x, y in zip(here, there, strict=True))
        assert torch.equal(guides[i], images.pixels([min(far, key=far.get)])[0])


def test_a_closest_guide_is_picked_for_whom_it_is_asked(images):
    """A victim with other features finds another one; without images of the class there is none."""
    known, attack = Known(images), find_attack("feature-match-closest").attack
    victims = [toy_victim(2, seed=seed) for seed in (0, 1)]
    some, targets, ids = toy_images(20, victims[0].exact), torch.arange(20) % 2, torch.arange(20)
    one, other = (known.options(attack, victim, some, targets, ids)["guides"] for victim in victims)
    assert not torch.equal(one, other)
    assert torch.equal(known.options(attack, victims[0], some, targets, ids)["guides"], one)
    both = Ensemble((Member(Attack(objective=0.5 * ClosestFeatureMatch() + CrossEntropy())),))
    assert torch.equal(known.options(both, victims[0], some, targets, ids)["guides"], one)
    lonely = Known(images.subset((images.labels == 0).nonzero().flatten().tolist()))
    with pytest.raises(ConfigError, match="no image of class 1"):
        lonely.options(attack, victims[0], some, targets, ids)


def test_normal_features_are_those_behind_the_victims_cushion(images):
    attack = find_attack("wb-hfc").attack
    known = Known(images)
    for spec in ("none", "median:5"):
        victim = toy_victim(2, cushion=spec)
        normal = known.options(attack, victim, images.pixels([0]), torch.tensor([0]), torch.tensor([0]))["normal"]
        assert normal.taps == victim.exact.taps
        behind = parse_cushion(spec)(images.pixels())
        features = toy_victim(2).pooled(behind, ("relu",))
        expected = fit_mixtures(features, images.labels)
        torch.testing.assert_close(normal.means["relu"], expected.means["relu"])
    assert known.normal(victim) is known.normal(victim)
    assert Known(images, taps=("input", "last")).normal(victim).taps == ("last",)


def test_a_universal_perturbation_learns_from_some_of_them_by_the_seed(images):
    victim, attack = toy_victim(2), replace(find_attack("uap").attack, images=20)
    here, one = torch.tensor([0]), images.pixels([0])
    pixels, labels = Known(images, seed=3).options(attack, victim, one, here, here)["known"]
    pool = {bytes(image.numpy()): int(label) for image, label in zip(images.images, images.labels, strict=True)}
    drawn = [bytes((image * 255).round().to(torch.uint8).numpy()) for image in pixels]
    assert len(set(drawn)) == 20
    assert [pool[image] for image in drawn] == labels.tolist()
    assert torch.equal(Known(images, seed=3).options(attack, victim, one, here, here)["known"][0], pixels)
    assert not torch.equal(Known(images, seed=4).options(attack, victim, one, here, here)["known"][0], pixels)
    assert len(Known(images).options(find_attack("uap").attack, victim, one, here, here)["known"][1]) == 60, (
        "all there are"
    )


@pytest.mark.parametrize(
    ("name", "served"), [("uap", True), ("uap-wb", True), ("hfc", True), ("feature-match", True), ("pgd", False)]
)
def test_it_is_told_whom_they_serve(name, served):
    assert Known.serve(find_attack(name).attack) == served


def test_results_are_told_apart_by_what_they_were_made_with(images):
    """Stored adversarial images of HFC are not those that hide in another place, or among other pixels."""
    known, other = Known(images), Known(images.subset(range(20)))
    hfc, match = find_attack("hfc").attack, find_attack("feature-match").attack
    assert known.key_for(match) == known.key
    assert len({str(who.key_for(attack)) for who in (known, other) for attack in (hfc, match)}) == 4
    elsewhere, inverted = Known(images, taps=("relu",)), Known(replace(images, images=255 - images.images))
    assert elsewhere.key_for(hfc) != known.key_for(hfc)
    assert elsewhere.key_for(match) == known.key_for(match)
    assert inverted.key_for(match) != known.key_for(match)


def test_attacks_that_need_nothing_are_told_nothing(images):
    here = torch.tensor([0])
    assert Known(images).options(find_attack("wb").attack, toy_victim(2), images.pixels([0]), here, here) == {}
