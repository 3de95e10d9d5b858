"""Splits: no patient twice, every image once, classes in proportion, repeatable, and bound to their data set."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medaegis.errors import ConfigError, DataError
from medaegis.images import PARTS, Dataset, Split, kept_together, small_classes, split_dataset
from medaegis.images.splits import with_shares

FRACTIONS = (0.65, 0.12, 0.08, 0.15)


def cohort(sizes: list[int], labels: list[int], *, mixed: bool = False, seed: int = 0) -> Dataset:
    """Patients of these sizes; all images of one have its label, or labels alternate within it if `mixed`."""
    owner = np.repeat(np.arange(len(sizes)), sizes)
    order = np.random.default_rng(seed).permutation(len(owner))
    owner = owner[order]
    label = np.array(labels)[owner] if not mixed else (np.arange(len(owner)) % 2)
    images = torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (len(owner), 1, 8, 8), dtype=np.uint8))
    names = tuple(f"image-{i}" for i in range(len(owner)))
    patients = tuple(f"patient-{p}" for p in owner)
    ids = torch.arange(len(owner))
    return Dataset("made", images, torch.from_numpy(label).long(), ("a", "b"), patients, names, ids)


cohorts = st.builds(
    cohort,
    st.lists(st.integers(1, 6), min_size=60, max_size=150),
    st.lists(st.integers(0, 1), min_size=150, max_size=150),
    mixed=st.booleans(),
    seed=st.integers(0, 99),
).filter(lambda dataset: min(np.bincount(dataset.labels, minlength=2)) >= 60)


@settings(max_examples=30)
@given(cohorts, st.integers(0, 1000))
def test_properties(dataset: Dataset, seed: int) -> None:
    split = split_dataset(dataset, seed=seed)
    everything = [place for part in split.parts.values() for place in part]
    assert sorted(everything) == list(range(len(dataset)))
    owners = [{dataset.patients[place] for place in part} for part in split.parts.values()]
    assert sum(map(len, owners)) == len(set().union(*owners)), "a patient in two parts"
    counts = np.bincount(dataset.labels, minlength=2)
    for part, share in zip(split.parts.values(), FRACTIONS, strict=True):
        held = np.bincount(dataset.labels[list(part)], minlength=2)
        assert np.all(np.abs(held - share * counts) <= 6), "off by more than the largest patient"
    assert split == split_dataset(dataset, seed=seed)
    assert not split.leaks


def test_the_seed_matters() -> None:
    dataset = cohort([2] * 100, [0, 1] * 50)
    assert split_dataset(dataset, seed=1).adv_test != split_dataset(dataset, seed=2).adv_test


def test_every_patient_gets_everywhere_over_seeds() -> None:
    dataset = cohort([1] * 40, [0, 1] * 20)
    for part in PARTS:
        reached = {place for seed in range(120) for place in split_dataset(dataset, seed=seed).parts[part]}
        assert len(reached) == 40, f"some patient never lands in {part}"


def test_patients_with_one_picture_in_common_stay_together() -> None:
    dataset = cohort([1] * 80, [0, 1] * 40)
    chain = [3, 17, 40, 66]  # a = b, b = c, c = d: the patients 17 and 40 have two images each
    images, patients = dataset.images.clone(), list(dataset.patients)
    images[17], patients[41] = images[3], patients[17]
    images[40], patients[42] = images[41], patients[40]
    images[66] = images[42]
    images[50], images[51] = 0, 0  # blank pictures tell nothing about who they are of
    twins = Dataset("made", images, dataset.labels, dataset.classes, tuple(patients), dataset.names, dataset.ids)
    apart = False
    for seed in range(20):
        split = split_dataset(twins, seed=seed)
        where = {place: part for part, places in split.parts.items() for place in places}
        assert len({where[place] for place in (*chain, 41, 42)}) == 1
        apart |= where[50] != where[51]
    assert apart


def test_by_image_is_offered_and_says_that_it_leaks(tmp_path: Path) -> None:
    dataset = cohort([4] * 30, [0, 1] * 15)
    split = split_dataset(dataset, by="image")
    owners = [{dataset.patients[place] for place in part} for part in split.parts.values()]
    assert set.intersection(owners[0], owners[3]), "with four images a patient some must be torn apart"
    assert split.leaks
    split.save(tmp_path / "split.json")
    assert json.loads((tmp_path / "split.json").read_text())["leaks_patients"] is True
    assert Split.load(tmp_path / "split.json", dataset) == split


def test_saved_split_is_refused_by_other_data_and_when_tampered_with(tmp_path: Path) -> None:
    dataset, file = cohort([2] * 50, [0, 1] * 25), tmp_path / "split.json"
    split = split_dataset(dataset, seed=5)
    split.save(file)
    assert [path.name for path in tmp_path.iterdir()] == ["split.json"], "nothing half-written is left behind"
    assert Split.load(file, dataset) == split
    with pytest.raises(DataError, match="other images"):
        Split.load(file, dataset.subset(range(99)))

    told = json.loads(file.read_text())
    moved = told | {"train": told["train"][1:], "adv_test": told["adv_test"] + told["train"][:1]}
    cases = {
        "is in": moved,
        "exactly once": told | {"train": told["train"][2:]},
        "names image 100": told | {"val": [*told["val"], 100]},
        "not a split": told | {"version": 2},
        "not a split .*": {key: value for key, value in told.items() if key != "seed"},
    }
    for says, content in cases.items():
        file.write_text(json.dumps(content))
        with pytest.raises(DataError, match=says):
            Split.load(file, dataset)
    for content in ("", "[]", "no json"):
        file.write_text(content)
        with pytest.raises(DataError, match="not a split"):
            Split.load(file, dataset)
    with pytest.raises(DataError, match="not a split"):
        Split.load(tmp_path / "absent.json", dataset)


def test_a_torn_patient_is_told_by_place_and_not_by_name(tmp_path: Path) -> None:
    dataset, file = cohort([2] * 50, [0, 1] * 25), tmp_path / "split.json"
    split_dataset(dataset, seed=5).save(file)
    told = json.loads(file.read_text())
    place = told["train"][0]
    file.write_text(json.dumps(told | {"train": told["train"][1:], "adv_test": [*told["adv_test"], place]}))
    with pytest.raises(DataError) as raised:
        Split.load(file, dataset)
    assert f"adv_test names image {place}, whose patient is in train too" in str(raised.value)
    assert not any(name in str(raised.value) for name in (*dataset.patients, *dataset.names))
    file.write_text(json.dumps(told | {"by": "image", "val": [*told["val"], place]}))
    with pytest.raises(DataError, match=rf"val names image {place}, which is in train too"):
        Split.load(file, dataset)


def test_a_part_without_a_class_is_refused() -> None:
    with pytest.raises(DataError, match=r"no image of class 'b' \(2 patients in all\)"):
        split_dataset(cohort([1] * 40, [0] * 38 + [1] * 2))


def test_an_empty_part_can_be_asked_for() -> None:
    dataset = cohort([1] * 40, [0, 1] * 20)
    split = split_dataset(dataset, fractions=(0.5, 0.25, 0.0, 0.25))
    assert split.adv_train == ()
    assert len(split.train) == 20


@pytest.mark.parametrize("fractions", [(0.5, 0.5, 0.5, 0.5), (1.2, -0.2, 0, 0), (0.0, 0.5, 0.2, 0.3), (0.5, 0.5)])
def test_fractions_that_are_none(fractions: tuple[float, float, float, float]) -> None:
    with pytest.raises(ConfigError, match="fractions"):
        split_dataset(cohort([1] * 40, [0, 1] * 20), fractions=fractions)
    with pytest.raises(ConfigError, match="doctor"):
        split_dataset(cohort([1] * 40, [0, 1] * 20), by="doctor")  # type: ignore[arg-type]


def test_small_classes_are_told_by_name_and_by_their_validation_images() -> None:
    dataset = replace(cohort([1] * 130, [0] * 100 + [1] * 30), classes=("No DR", "Severe", "Proliferative"))
    split = split_dataset(dataset)
    held = Counter(dataset.labels[list(split.val)].tolist())
    assert held[0] >= 10 > held[1] > 0
    small, empty = small_classes(dataset, split, fewest=10)
    assert small.startswith(f"class 'Severe' has 30 images, {held[1]} of them for validation")
    assert empty == "class 'Proliferative' has no image"
    assert small_classes(dataset, split, fewest=held[1]) == (empty,)


def test_nothing_is_told_to_be_split_by_patient_that_is_not() -> None:
    dataset = cohort([2] * 50, [0, 1] * 25)
    assert kept_together(dataset, split_dataset(dataset)) == "patient"
    assert kept_together(dataset, split_dataset(dataset, by="image")) == "image"
    for group, unit in (("image", "images"), ("lesion", "lesions"), ("patient where known", "patients")):
        few = replace(cohort([1] * 40, [0] * 38 + [1] * 2), grouping=group)
        with pytest.raises(DataError, match=rf"class 'b' \(2 {unit} in all\)"):
            split_dataset(few)
        many = replace(dataset, grouping=group)
        assert kept_together(many, split_dataset(many)) == group
        assert many.subset([0]).grouping == group


def test_a_larger_share_for_validation_leaves_the_others_in_proportion(tmp_path):
    assert with_shares() == FRACTIONS
    train, val, adv_train, adv_test = with_shares(val=0.34)  # 0.66 for the rest, which was 0.88: three quarters
    assert val == 0.34
    assert (train, adv_train, adv_test) == pytest.approx((0.65 * 0.75, 0.08 * 0.75, 0.15 * 0.75))
    for share in (0.0, -0.1, 0.51, float("nan")):
        for part in ("val", "test"):
            with pytest.raises(ConfigError, match=f"{part} share .* is not above 0 and at most"):
                with_shares(**{part: share})


def test_a_larger_share_for_the_test_leaves_the_others_in_proportion():
    train, val, adv_train, adv_test = with_shares(test=0.32)  # 0.68 for the rest, which was 0.85: four fifths
    assert adv_test == 0.32
    assert (train, val, adv_train) == pytest.approx((0.65 * 0.8, 0.12 * 0.8, 0.08 * 0.8))
    both = with_shares(val=0.2, test=0.3)
    assert both == pytest.approx((0.5 * 65 / 73, 0.2, 0.5 * 8 / 73, 0.3))
    with pytest.raises(ConfigError, match="less than a quarter"):
        with_shares(val=0.4, test=0.4)


def test_the_shares_are_kept_with_the_split(tmp_path):
    dataset = cohort([2] * 60, [0, 1] * 30)
    split = split_dataset(dataset, fractions=with_shares(val=0.3, test=0.2))
    split.save(tmp_path / "split.json")
    again = Split.load(tmp_path / "split.json", dataset)
    assert again == split
    assert split_dataset(dataset, fractions=again.fractions) == split
    older = json.loads((tmp_path / "split.json").read_text())
    del older["fractions"]
    (tmp_path / "older.json").write_text(json.dumps(older))
    assert Split.load(tmp_path / "older.json", dataset).fractions == FRACTIONS
