"""Which images of another site may measure a guard: none it learned from, classes by name, patients whole."""

import dataclasses

import pytest
import torch
from tests.guard.fitted import learned_classifier
from tests.models.drawn import squares
from tests.models.tiny_networks import tiny

from medaegis.cushions import parse_cushion
from medaegis.errors import ArtefactError, DataError
from medaegis.guard.fitting import fit_guard
from medaegis.guard.guard import Guard
from medaegis.guard.seen import Seen
from medaegis.guard.site import NO_CLASSIFIER_RECORD, NO_RECORD, find_site, other_site
from medaegis.images.hashes import pixel_hashes

from tests.guard.test_fitting import SHORT  # isort: skip


@pytest.fixture(scope="module")
def guard(tmp_path_factory):
    """As it is read from its folder: what it learned from must be there too."""
    dataset, split = squares(240)
    folder = tmp_path_factory.mktemp("guard") / "guard"
    config = SHORT.model_copy(update={"taps": ("input",)})
    fit_guard(
        learned_classifier(), dataset, split, cushion=parse_cushion("none"), config=config, out_dir=folder,
        learned=pixel_hashes(dataset.images[:1] ^ 1),
    )  # fmt: skip
    return Guard.load(folder, factory=tiny)


def elsewhere(n=200):
    """Squares of another scanner: brighter by nine levels, so that no pixels are the same."""
    dataset, _ = squares(n)
    return dataclasses.replace(dataset, images=dataset.images + 9)


def with_known(guard, which, *, n=200):
    """Another site's images, the first two of one patient exchanged for one the guard knows and its neighbour."""
    home, split = squares(240)
    images = elsewhere(n).images.clone()
    images[0] = home.images[which(split)]
    return dataclasses.replace(elsewhere(n), images=images)


def test_a_hash_is_of_the_pixels_alone_and_keeps_nothing_of_them():
    images = torch.arange(2 * 3 * 8 * 8, dtype=torch.int64).remainder(251).to(torch.uint8).view(2, 3, 8, 8)
    found = pixel_hashes(images)
    assert (found.dtype, found.shape) == (torch.int64, (2,))
    assert torch.equal(found, pixel_hashes(images.clone(memory_format=torch.channels_last)))
    changed = images.clone()
    changed[1, 2, 7, 7] += 1
    assert (found == pixel_hashes(changed)).tolist() == [True, False]


def test_a_guard_folder_knows_the_images_of_its_fit(guard):
    dataset, split = squares(240)
    hashes = pixel_hashes(dataset.images)
    learned = torch.isin(hashes, guard.seen.learned).nonzero().flatten().tolist()
    assert learned == sorted([*split.train, *split.adv_train])
    assert torch.isin(hashes, guard.seen.thresholds).nonzero().flatten().tolist() == sorted(split.val)
    assert torch.isin(pixel_hashes(dataset.images[:1] ^ 1), guard.seen.learned).all(), (
        "what the classifier learned from"
    )


def test_another_site_is_split_by_patient_with_every_image_somewhere(guard):
    site = other_site(guard, elsewhere())
    assert (site.home, site.left_out, site.note) == (False, 0, "")
    parts = {name: {site.dataset.patients[i] for i in rows} for name, rows in site.split.parts.items()}
    assert not parts["val"] & parts["adv_test"]
    assert not parts["train"] & (parts["val"] | parts["adv_test"])
    assert len(site.split.val) == pytest.approx(80, abs=4)
    assert len(site.split.adv_test) == pytest.approx(80, abs=4)


@pytest.mark.parametrize("part", ["train", "adv_train", "val"])
def test_an_image_that_the_guard_knows_is_left_out_with_its_patient(guard, part):
    site = other_site(guard, with_known(guard, lambda split: split.parts[part][0]))
    assert site.left_out == 2
    assert "p0" not in site.dataset.patients
    assert len(site.dataset) == 198


def test_a_test_image_of_the_fit_is_not_known(guard):
    assert other_site(guard, with_known(guard, lambda split: split.adv_test[0])).left_out == 0


def test_the_data_of_the_fit_under_another_name_are_no_other_site(guard):
    dataset, _ = squares(240)
    renamed = dataclasses.replace(dataset, names=tuple(f"copy-{name}" for name in dataset.names))
    with pytest.raises(DataError, match=r"learned from 20\d of these 240 images"):
        other_site(guard, renamed)


def test_classes_are_matched_by_name_whatever_their_order(guard):
    dataset = elsewhere()
    swapped = dataclasses.replace(dataset, classes=("bright", "dark"), labels=1 - dataset.labels)
    found = other_site(guard, swapped).dataset
    assert found.classes == ("dark", "bright")
    assert torch.equal(found.labels, dataset.labels)
    more = dataclasses.replace(dataset, classes=("grey", "dark", "bright"), labels=dataset.labels + 1)
    assert torch.equal(other_site(guard, more).dataset.labels, dataset.labels), "a class without images does no harm"
    lacking = dataset.subset(dataset.labels == 1)
    only = other_site(guard, dataclasses.replace(lacking, classes=("bright",), labels=lacking.labels - 1))
    assert set(only.dataset.labels.tolist()) == {1}
    with pytest.raises(
        DataError,
        match=r"classes grey; the guard knows dark, bright; .*\?classes=dark=LABEL\|LABEL,bright=LABEL\|LABEL",
    ):
        other_site(guard, dataclasses.replace(dataset, classes=("grey", "bright")))


def test_a_size_or_colour_of_its_own_is_refused(guard):
    with pytest.raises(DataError, match="load it with 16 px gray"):
        other_site(guard, dataclasses.replace(elsewhere(), images=elsewhere().images.repeat(1, 3, 1, 1)))


def test_a_guard_without_a_record_is_taken_with_a_warning(guard):
    older = Guard(guard.classifier, guard.cushion, guard.bank, tnr=guard.tnr, training=guard.training)
    assert other_site(older, elsewhere()).note == NO_RECORD
    training = {**guard.training, "classifier_learned_known": False}
    wrapped = Guard(guard.classifier, guard.cushion, guard.bank, tnr=0.9, training=training, seen=guard.seen)
    assert other_site(wrapped, elsewhere()).note == NO_CLASSIFIER_RECORD


@pytest.mark.parametrize("told", [None, {}, {"seed": 0, "by": "class"}, {"seed": "0", "by": "patient"}])
def test_a_guard_that_does_not_say_how_its_images_were_split_is_refused(told, guard):
    training = {**guard.training, "split": told}
    foreign = Guard(guard.classifier, guard.cushion, guard.bank, tnr=guard.tnr, training=training, seen=guard.seen)
    with pytest.raises(ArtefactError, match="does not say how its images were split"):
        find_site(foreign, lambda limit, seed: elsewhere())


@pytest.mark.parametrize("seed", [None, "3"])
def test_thresholds_of_a_site_without_its_seed_are_those_of_another(seed, guard):
    foreign = Guard(
        guard.classifier, guard.cushion, guard.bank, tnr=guard.tnr, training=guard.training, seen=guard.seen
    )
    foreign.calibration = {"site": {"fingerprint": elsewhere().fingerprint, "seed": seed}}
    assert other_site(foreign, elsewhere()).split == other_site(guard, elsewhere()).split


@pytest.mark.parametrize(
    "tensors",
    [
        {"learned": torch.zeros(3, dtype=torch.int64)},
        {"learned": torch.zeros(3), "thresholds": torch.zeros(3, dtype=torch.int64)},
        {"learned": torch.zeros((3, 1), dtype=torch.int64), "thresholds": torch.zeros(3, dtype=torch.int64)},
    ],
)
def test_a_record_that_is_none_is_refused(tensors):
    with pytest.raises(ArtefactError, match="no such record"):
        Seen.read(tensors, "guard")
