"""Data sets: every scheme on a small tree of real files, the cache, failures, and specs that do not fit."""

import csv
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.images.dicom_files import dataset as dicom_dataset
from tests.images.dicom_files import write

from medaegis.errors import ConfigError, DataError
from medaegis.images import Dataset, dataset_schemes, load_dataset, model_input, read_image
from medaegis.images.kinds import Kind


def picture(path: Path, seed: int, *, side: int = 24, mode: str = "L") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (side, side + 3, 3) if mode == "RGB" else (side, side + 3)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8), mode).save(path)
    return path


def table(path: Path, header: str, *lines: str, delimiter: str = ",") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, delimiter=delimiter).writerows(line.split(",") for line in (header, *lines))
    return path


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def chest(tmp_path: Path) -> Path:
    root = tmp_path / "chest"
    for seed, name in enumerate(
        (
            "train/NORMAL/IM-0115-0001.png",
            "train/NORMAL/NORMAL2-IM-0381-0001.png",
            "train/PNEUMONIA/person1_bacteria_2.png",
            "train/PNEUMONIA/person12_virus_9.png",
            "val/PNEUMONIA/person1946_bacteria_4874.png",
            "test/NORMAL/NORMAL2-IM-0115-0001-0002.png",
            "test/PNEUMONIA/person1_virus_6.png",
        )
    ):
        picture(root / name, seed)
    return root


def load(spec: str, cache: Path, **options: object) -> Dataset:
    return load_dataset(spec, **({"size": 16, "channels": "gray", "cache_dir": cache} | options))  # type: ignore[arg-type]


def by_name(dataset: Dataset) -> dict[str, tuple[str, str]]:
    labels = [dataset.classes[label] for label in dataset.labels.tolist()]
    return dict(zip(dataset.names, zip(labels, dataset.patients, strict=True), strict=True))


def test_chest_xray_pools_the_folders_and_takes_one_number_for_one_patient(chest: Path, cache: Path) -> None:
    dataset = load(f"chest-xray:{chest}", cache)
    assert by_name(dataset) == {
        "train/NORMAL/IM-0115-0001.png": ("NORMAL", "IM-0115"),
        "train/NORMAL/NORMAL2-IM-0381-0001.png": ("NORMAL", "IM-0381"),
        "test/NORMAL/NORMAL2-IM-0115-0001-0002.png": ("NORMAL", "IM-0115"),
        "train/PNEUMONIA/person1_bacteria_2.png": ("PNEUMONIA", "person1"),
        "train/PNEUMONIA/person12_virus_9.png": ("PNEUMONIA", "person12"),
        "val/PNEUMONIA/person1946_bacteria_4874.png": ("PNEUMONIA", "person1946"),
        "test/PNEUMONIA/person1_virus_6.png": ("PNEUMONIA", "person1"),
    }
    assert dataset.channels == "gray"
    assert dataset.size == 16
    assert dataset.ids.tolist() == list(range(7))


def test_pixels_are_those_of_the_reader(chest: Path, cache: Path) -> None:
    dataset = load(f"chest-xray:{chest}", cache, channels="rgb", size=20)
    for place, name in enumerate(dataset.names):
        expected = model_input(read_image(chest / name), size=20, channels="rgb")
        assert np.array_equal(dataset.images[place].numpy(), expected)
    assert torch.equal(dataset.pixels([2, 0]) * 255, dataset.images[[2, 0]].float())


def test_chest_xray_refuses_a_name_without_patient(chest: Path, cache: Path) -> None:
    picture(chest / "test/NORMAL/scan.png", 99)
    with pytest.raises(DataError, match=r"no patient in the name scan\.png"):
        load(f"chest-xray:{chest}", cache)


@pytest.mark.parametrize(("query", "classes"), [("", 5), ("?binary", 2)])
def test_aptos(tmp_path: Path, cache: Path, query: str, classes: int) -> None:
    grades = {"a1": 0, "b2": 4, "c3": 1}
    for seed, name in enumerate(grades):
        picture(tmp_path / "train_images" / f"{name}.png", seed, mode="RGB")
    table(tmp_path / "train.csv", "id_code,diagnosis", *(f"{name},{grade}" for name, grade in grades.items()))
    dataset = load(f"aptos2019:{tmp_path}{query}", cache, channels="rgb")
    assert len(dataset.classes) == classes
    assert dataset.labels.tolist() == [min(grade, classes - 1) if classes == 2 else grade for grade in grades.values()]
    assert len(set(dataset.patients)) == 3


def test_messidor2_pairs_eyes_and_leaves_out_ungradable_images(tmp_path: Path, cache: Path) -> None:
    for seed, name in enumerate(("l1.png", "r1.JPG", "l2.png", "bad.png")):
        picture(tmp_path / "IMAGES" / name, seed, mode="RGB")
    header = "image_id,adjudicated_dr_grade,adjudicated_dme,adjudicated_gradable"
    table(tmp_path / "messidor_data.csv", header, "l1.png,0,0,1", "r1.jpg,2.0,0,1", "l2.png,3,1,1", "bad.png,,,0")
    table(tmp_path / "messidor-2.csv", "left,right", "l1.png,r1.jpg", "l2.png,r2.png", delimiter=";")
    dataset = load(f"messidor2:{tmp_path}", cache, channels="rgb")
    assert dataset.labels.tolist() == [0, 2, 3]
    assert dataset.patients[0] == dataset.patients[1] != dataset.patients[2]
    table(tmp_path / "messidor-2.csv", "left,right", "l1.png,r1.jpg", "R1.png,l2.png", delimiter=";")
    with pytest.raises(DataError, match=r"line 3: R1\.png is paired twice"):
        load(f"messidor2:{tmp_path}", cache, channels="rgb")


def test_isic_groups_by_lesion(tmp_path: Path, cache: Path) -> None:
    for seed in range(3):
        picture(tmp_path / "images" / f"ISIC_{seed}.jpg", seed, mode="RGB")
    table(tmp_path / "metadata.csv", "isic_id,lesion_id,target", "ISIC_0,HAM_1,0", "ISIC_1,HAM_2,1", "ISIC_2,HAM_1,0")
    dataset = load(f"isic:{tmp_path}", cache, channels="rgb")
    assert dataset.classes[1] == "melanoma"
    assert dataset.labels.tolist() == [0, 1, 0]
    assert dataset.patients == ("HAM_1", "HAM_2", "HAM_1")


@pytest.mark.parametrize(
    ("query", "expected"),
    [("", {"1.png": 0, "2.png": 1, "3.png": 1}), ("?finding=Pneumonia", {"1.png": 0, "2.png": 1})],
)
def test_nih14(tmp_path: Path, cache: Path, query: str, expected: dict[str, int]) -> None:
    for seed in (1, 2, 3):
        picture(tmp_path / f"images_00{seed}" / "images" / f"{seed}.png", seed)
    lines = ("1.png,No Finding,7", "2.png,Effusion|Pneumonia,7", "3.png,Effusion,8")
    table(tmp_path / "Data_Entry_2017_v2020.csv", "Image Index,Finding Labels,Patient ID", *lines)
    dataset = load(f"nih14:{tmp_path}{query}", cache)
    assert {
        Path(name).name: label for name, label in zip(dataset.names, dataset.labels.tolist(), strict=True)
    } == expected
    assert dataset.patients[0] == dataset.patients[1] == "7"
    with pytest.raises(DataError, match="Effusion, Pneumonia"):
        load(f"nih14:{tmp_path}?finding=Flu", cache)


@pytest.mark.parametrize("colour", [False, True])
def test_medmnist(tmp_path: Path, cache: Path, colour: bool) -> None:
    random = np.random.default_rng(0)
    shape = (28, 28, 3) if colour else (28, 28)
    arrays: dict[str, np.ndarray] = {}
    for part, n in (("train", 4), ("val", 2), ("test", 3)):
        arrays[f"{part}_images"] = random.integers(0, 256, (n, *shape), dtype=np.uint8)
        arrays[f"{part}_labels"] = np.arange(n, dtype=np.uint8)[:, None] % 2
    np.savez(tmp_path / "pneumoniamnist.npz", **arrays)
    dataset = load(f"medmnist:{tmp_path / 'pneumoniamnist.npz'}", cache, size=28, channels="rgb" if colour else "gray")
    expected = np.concatenate([arrays[f"{part}_images"] for part in ("train", "val", "test")])
    expected = expected.transpose(0, 3, 1, 2) if colour else expected[:, None]
    assert np.array_equal(dataset.images.numpy(), expected)
    assert dataset.labels.tolist() == [0, 1, 0, 1, 0, 1, 0, 1, 0]
    assert dataset.classes == ("normal", "pneumonia")


def test_medmnist_never_unpickles_and_refuses_volumes(tmp_path: Path, cache: Path) -> None:
    one = {"train_labels": np.zeros((2, 1), np.uint8)}
    np.savez(tmp_path / "pickle.npz", train_images=np.array([{}, {}], dtype=object), **one)
    np.savez(tmp_path / "volume.npz", train_images=np.zeros((2, 28, 28, 28), np.uint8), **one)
    np.savez(
        tmp_path / "many.npz", train_images=np.zeros((2, 28, 28), np.uint8), train_labels=np.zeros((2, 14), np.uint8)
    )
    np.save(tmp_path / "array.npy", np.zeros(3))
    (tmp_path / "array.npy").rename(tmp_path / "array.npz")
    np.savez(
        tmp_path / "empty.npz", train_images=np.zeros((0, 28, 28), np.uint8), train_labels=np.zeros((0, 1), np.uint8)
    )
    images = np.random.default_rng(0).integers(0, 255, (2, 28, 28), dtype=np.uint8)
    np.savez_compressed(tmp_path / "damaged.npz", train_images=images, **one)
    damaged = bytearray((tmp_path / "damaged.npz").read_bytes())
    damaged[200:400] = b"\xff" * 200
    (tmp_path / "damaged.npz").write_bytes(damaged)
    encrypted = bytearray((tmp_path / "many.npz").read_bytes())
    for header, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = encrypted.find(header)
        while at >= 0:
            encrypted[at + flags] |= 1
            at = encrypted.find(header, at + 4)
    (tmp_path / "encrypted.npz").write_bytes(encrypted)
    for name in ("pickle", "volume", "many", "array", "empty", "damaged", "encrypted"):
        with pytest.raises(DataError, match=name):
            load(f"medmnist:{tmp_path / name}.npz", cache)


def test_a_medmnist_bomb_is_not_unpacked(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medaegis.images.schemes._MEDMNIST_BYTES", 1 << 20)
    monkeypatch.setattr("numpy.load", lambda *_, **__: pytest.fail("it is unpacked"))
    file = tmp_path / "bomb.npz"
    labels = np.zeros((2000, 1), np.uint8)
    np.savez_compressed(file, train_images=np.zeros((2000, 28, 28), np.uint8), train_labels=labels)
    assert file.stat().st_size < 1 << 14
    with pytest.raises(DataError, match=r"bomb\.npz.*its arrays take"):
        load(f"medmnist:{file}", cache)


def test_folder_takes_inner_folders_for_patients(tmp_path: Path, cache: Path) -> None:
    for seed, name in enumerate(("b/p1/1.png", "b/p1/2.png", "b/3.png", "a/p2/series/1.png", ".hidden/x.png")):
        picture(tmp_path / "set" / name, seed)
    dataset = load(f"folder:{tmp_path / 'set'}", cache)
    assert by_name(dataset) == {
        "a/p2/series/1.png": ("a", "p2"),
        "b/3.png": ("b", "b/3.png"),
        "b/p1/1.png": ("b", "p1"),
        "b/p1/2.png": ("b", "p1"),
    }


def test_csv_with_and_without_patients(tmp_path: Path, cache: Path) -> None:
    for seed in range(3):
        picture(tmp_path / "img" / f"{seed}.png", seed)
    rows = ("img/0.png,10,p", "img/1.png,9,p", "img/2.png,10,")
    dataset = load(f"csv:{table(tmp_path / 'a.csv', 'image,label,patient', *rows)}", cache)
    assert dataset.classes == ("9", "10")
    assert dataset.patients == ("p", "p", "img/2.png")
    dataset = load(f"csv:{table(tmp_path / 'b.csv', 'image,label', *(row[:-2] for row in rows[:2]))}", cache)
    assert len(set(dataset.patients)) == 2


def test_unreadable_images_are_listed_and_left_out_also_from_the_cache(chest: Path, cache: Path) -> None:
    victim = chest / "train/NORMAL/IM-0115-0001.png"
    victim.write_bytes(victim.read_bytes()[:100])
    (chest / "train/PNEUMONIA/person1_bacteria_3.png").write_text("not a picture")
    first = load(f"chest-xray:{chest}", cache)
    again = load(f"chest-xray:{chest}", cache)
    for dataset in (first, again):
        assert len(dataset) == 6
        assert sorted(Path(error.source).name for error in dataset.failures) == [
            "IM-0115-0001.png",
            "person1_bacteria_3.png",
        ]
    assert 0 not in first.ids.tolist(), "an image keeps its place in the full set when others fail"
    assert first.fingerprint == again.fingerprint
    assert torch.equal(first.images, again.images)


def test_second_load_decodes_nothing_and_a_changed_file_is_seen(chest: Path, cache: Path) -> None:
    seen: list[int] = []

    def count(done: int, total: int, message: str) -> None:
        seen.append(done)

    first = load(f"chest-xray:{chest}", cache, progress=count)
    assert seen == list(range(1, 8))
    seen.clear()
    assert torch.equal(load(f"chest-xray:{chest}", cache, progress=count).images, first.images)
    assert not seen
    changed = picture(chest / first.names[3], 77)
    os.utime(changed, ns=(1, 1))
    new = load(f"chest-xray:{chest}", cache, progress=count)
    assert len(seen) == 7
    assert not torch.equal(new.images[3], first.images[3])


@pytest.mark.parametrize("way", ["in place", "renamed over", "link led elsewhere"])
def test_a_file_replaced_by_one_of_the_same_size_and_time_is_seen(tmp_path: Path, cache: Path, way: str) -> None:
    """As `cp -p`, `rsync -t` and Git LFS replace it."""
    for name, grey in (("a", 30), ("b", 60), ("other", 222)):
        Image.fromarray(np.full((20, 20), grey, np.uint8)).save(tmp_path / f"{name}.bmp")
        os.utime(tmp_path / f"{name}.bmp", ns=(10**18, 10**18))
    (tmp_path / "link.bmp").symlink_to(tmp_path / "a.bmp")
    name = "link" if way == "link led elsewhere" else "a"
    spec = f"csv:{table(tmp_path / 't.csv', 'image,label', f'{name}.bmp,x', 'b.bmp,y')}"
    assert load(spec, cache).images.unique().tolist() == [30, 60]
    if way == "in place":
        (tmp_path / "a.bmp").write_bytes((tmp_path / "other.bmp").read_bytes())
    elif way == "renamed over":
        (tmp_path / "other.bmp").rename(tmp_path / "a.bmp")
    else:
        (tmp_path / "link.bmp").unlink()
        (tmp_path / "link.bmp").symlink_to(tmp_path / "other.bmp")
    os.utime(tmp_path / "a.bmp", ns=(10**18, 10**18))
    assert load(spec, cache).images.unique().tolist() == [60, 222]


def test_a_damaged_cache_is_made_anew(chest: Path, cache: Path) -> None:
    first = load(f"chest-xray:{chest}", cache)
    (file,) = cache.iterdir()
    for damage in (b"", file.read_bytes()[:-50], os.urandom(200)):
        file.write_bytes(damage)
        assert torch.equal(load(f"chest-xray:{chest}", cache).images, first.images)


def test_a_cache_that_cannot_be_read_is_made_anew(chest: Path, cache: Path) -> None:
    first = load(f"chest-xray:{chest}", cache)
    (file,) = cache.iterdir()
    file.unlink()
    file.mkdir()
    with pytest.raises(DataError, match="MEDAEGIS_CACHE"):
        load(f"chest-xray:{chest}", cache)
    file.rmdir()
    file.symlink_to(file)
    assert torch.equal(load(f"chest-xray:{chest}", cache).images, first.images)


def test_cache_folder_from_the_environment(chest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDAEGIS_CACHE", str(tmp_path / "elsewhere"))
    load_dataset(f"chest-xray:{chest}", size=16, channels="gray")
    assert list((tmp_path / "elsewhere").glob("*.safetensors"))
    (tmp_path / "blocked").write_text("")
    with pytest.raises(DataError, match="MEDAEGIS_CACHE"):
        load(f"chest-xray:{chest}", tmp_path / "blocked")


def test_limit_keeps_proportions_and_ids(cache: Path) -> None:
    full = load("phantom-xray?n=60", cache)
    part = load("phantom-xray?n=60", cache, limit=20, seed=3)
    assert len(part) == 20
    assert abs(part.labels.float().mean() - full.labels.float().mean()) <= 0.05
    assert part.ids.tolist() == sorted(part.ids.tolist())
    assert torch.equal(part.images, full.images[part.ids])
    assert torch.equal(part.ids, load("phantom-xray?n=60", cache, limit=20, seed=3).ids)
    assert not torch.equal(part.ids, load("phantom-xray?n=60", cache, limit=20, seed=4).ids)


def test_subset_carries_everything_along(cache: Path) -> None:
    full = load("phantom-xray?n=12", cache)
    part = full.subset([5, 1])
    assert part.names == (full.names[5], full.names[1])
    assert part.ids.tolist() == [5, 1]
    assert torch.equal(part.images, full.images[[5, 1]])
    assert part.fingerprint != full.fingerprint
    assert full.subset(full.labels == 1).labels.unique().tolist() == [1]
    assert len(full.subset([])) == 0


def test_fingerprint_is_of_names_labels_and_patients() -> None:
    def make(name: str = "a", label: int = 0, patient: str = "p", grey: int = 0) -> str:
        images = torch.full((1, 1, 8, 8), grey, dtype=torch.uint8)
        number = torch.tensor([label])
        return Dataset("x", images, number, ("c", "d"), (patient,), (name,), torch.zeros(1).long()).fingerprint

    assert make() == make(grey=9)
    assert len({make(), make(name="b"), make(label=1), make(patient="q")}) == 4


def test_dataset_refuses_parts_that_do_not_fit() -> None:
    images, number = torch.zeros((2, 1, 8, 8), dtype=torch.uint8), torch.zeros(2).long()
    with pytest.raises(DataError, match="2 images but 1 patients"):
        Dataset("x", images, number, ("c",), ("p",), ("a", "b"), number)
    with pytest.raises(DataError, match="uint8"):
        Dataset("x", images.float(), number, ("c",), ("p", "p"), ("a", "b"), number)


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("chestxray:/x", "no scheme 'chestxray'.*chest-xray"),
        ("", "no scheme"),
        ("chest-xray", "chest-xray:PATH"),
        ("chest-xray:/no/such/folder", "no folder /no/such/folder"),
        ("csv:/no/such.csv", "no file"),
        ("chest-xray:/tmp?binary", "no option 'binary'"),
        ("phantom-xray?n=0", "n=0"),
        ("phantom-xray?n=many", "n=many"),
        ("phantom-xray:/tmp", "takes no path"),
    ],
)
def test_specs_that_do_not_fit(spec: str, says: str, cache: Path) -> None:
    with pytest.raises(DataError, match=says):
        load(spec, cache)


def test_tables_and_folders_that_do_not_fit(tmp_path: Path, cache: Path) -> None:
    (tmp_path / "empty").mkdir()
    image = picture(tmp_path / "i.png", 0)
    latin = tmp_path / "latin.csv"
    latin.write_bytes("image,label\ni.png,Kötter".encode("latin-1"))
    (tmp_path / "junk" / "a").mkdir(parents=True)
    (tmp_path / "junk" / "b").mkdir()
    (tmp_path / "junk" / "a" / "x.png").write_text("no picture")
    cases = {
        f"chest-xray:{tmp_path / 'empty'}": "NORMAL and PNEUMONIA",
        f"folder:{tmp_path / 'empty'}": "0 folders",
        f"nih14:{tmp_path / 'empty'}": "Data_Entry",
        f"aptos2019:{tmp_path / 'empty'}": r"no train\.csv in .*empty",
        f"csv:{latin}": "UTF-8",
        f"csv:{table(tmp_path / 'c.csv', 'file,label', 'i.png,a')}": "no column 'image'",
        f"csv:{table(tmp_path / 'd.csv', 'image,label', 'i.png,a', 'i.png,b')}": r"i\.png is listed 2 times",
        f"csv:{table(tmp_path / 'e.csv', 'image,label', 'i.png,a')}": "1 different labels",
        f"csv:{table(tmp_path / 'f.csv', 'image,label', 'i.png,')}": "line 2: label is empty",
        f"csv:{table(tmp_path / 'g.csv', 'image,label', 'x.png,a', 'y.png,b')}": "none of 2 images could be read",
        f"folder:{tmp_path / 'junk'}": "none of 1 images could be read",
        f"csv:{image}": "cannot be read as a table",
    }
    for spec, says in cases.items():
        with pytest.raises(DataError, match=says):
            load(spec, cache)


def test_options_out_of_range(cache: Path) -> None:
    for wrong in ({"size": 4}, {"channels": "grey"}, {"limit": 0}):
        with pytest.raises(ConfigError):
            load("phantom-xray", cache, **wrong)


def test_every_scheme_has_a_line_of_help() -> None:
    assert {
        "chest-xray",
        "aptos2019",
        "isic",
        "nih14",
        "messidor",
        "medmnist",
        "folder",
        "csv",
    } < dataset_schemes().keys()
    assert all(line and "\n" not in line for line in dataset_schemes().values())


def test_dicom_files_say_what_they_show_and_the_cache_keeps_it(tmp_path: Path) -> None:
    values = np.random.default_rng(1).integers(0, 256, (20, 20), dtype=np.uint8)
    for label in ("clear", "ill"):
        (tmp_path / "data" / label).mkdir(parents=True)
        for name, part in (("a", "CHEST"), ("b", "THORAX")):
            made = dicom_dataset(values, Modality="CR", BodyPartExamined=part)
            made.SOPClassUID = made.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.1"
            write(tmp_path / "data" / label / f"{name}.dcm", made)
        Image.fromarray(values).save(tmp_path / "data" / label / "c.png")
    film = "1.2.840.10008.5.1.4.1.1.1"
    expected = (Kind("CR", film, "CHEST", False), Kind("CR", film, "THORAX", False))
    for _ in range(2):  # decoded, then from the cache
        found = load_dataset(f"folder:{tmp_path / 'data'}", size=16, channels="gray", cache_dir=tmp_path / "cache")
        assert len(found) == 6
        assert found.kinds == expected
        assert found.subset([0]).kinds == expected


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("aptos:/data", "did you mean aptos2019:"),
        ("phantom_xray?n=8", "did you mean phantom-xray:"),
        ("HERE", "write folder:HERE; else start the spec with one of"),
        ("nowhere/at/all", "there is no scheme 'nowhere/at/all'; start the spec with one of"),
    ],
)
def test_what_is_no_scheme_is_told_with_the_nearest(tmp_path: Path, spec: str, says: str) -> None:
    with pytest.raises(DataError) as caught:
        load_dataset(spec.replace("HERE", str(tmp_path)), size=8, channels="gray")
    assert says.replace("HERE", str(tmp_path)) in str(caught.value)
