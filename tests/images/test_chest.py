"""ChestX-ray14 with its official lists, as one class or several findings; the COVID-19 database and its masks."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.images.sets import greys, load, picture, told, write

from medaegis.errors import DataError
from medaegis.images.chest import FINDINGS, nih14_films
from medaegis.images.masks import read_pair
from medaegis.images.schemes import find_pairs
from medaegis.images.sources import Spec

TABLE = """Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age
1.png,Cardiomegaly,0,1,57
2.png,Emphysema|Cardiomegaly,1,1,58
3.png,No Finding,0,2,81
4.png,Effusion,0,3,60
"""


@pytest.fixture
def nih(tmp_path: Path) -> Path:
    root = tmp_path / "nih"
    for number in (1, 2, 3, 4):
        picture(root / f"images_00{number}/images/{number}.png", 40 * number)
    write(root / "Data_Entry_2017_v2020.csv", TABLE)
    write(root / "train_val_list.txt", "1.png\n2.png\n3.png\n")
    write(root / "test_list.txt", "4.png")
    return root


def test_films_have_findings_patient_and_official_part(nih: Path) -> None:
    films, remarks = nih14_films(Spec.parse(f"nih14:{nih}"))
    assert [film.path.name for film in films] == ["1.png", "2.png", "3.png", "4.png"]
    assert [film.findings for film in films] == [("Cardiomegaly",), ("Cardiomegaly", "Emphysema"), (), ("Effusion",)]
    assert [film.patient for film in films] == ["1", "1", "2", "3"]
    assert [film.part for film in films] == ["train_val", "train_val", "train_val", "test"]
    assert not remarks
    assert len(set(FINDINGS)) == 14
    for name in ("train_val_list.txt", "test_list.txt"):
        (nih / name).unlink()
    assert {film.part for film in nih14_films(Spec.parse(f"nih14:{nih}"))[0]} == {None}


@pytest.mark.parametrize(
    ("query", "classes", "expected"),
    [
        ("", ("No Finding", "Finding"), {40: 1, 80: 1, 120: 0, 160: 1}),
        ("?finding=Cardiomegaly", ("No Finding", "Cardiomegaly"), {40: 1, 80: 1, 120: 0}),
        ("?finding=cardiomegaly&others", ("no Cardiomegaly", "Cardiomegaly"), {40: 1, 80: 1, 120: 0, 160: 0}),
        ("?part=train_val", ("No Finding", "Finding"), {40: 1, 80: 1, 120: 0}),
        ("?part=test&finding=Effusion&others", ("no Effusion", "Effusion"), {160: 1}),
    ],
)
def test_one_finding_against_none_or_against_all_others(
    nih: Path, tmp_path: Path, query: str, classes: tuple[str, str], expected: dict[int, int]
) -> None:
    dataset = load(f"nih14:{nih}{query}", tmp_path / "cache")
    assert dataset.classes == classes
    assert dict(zip(greys(dataset), dataset.labels.tolist(), strict=True)) == expected


def test_tables_and_lists_that_do_not_fit_are_told_with_file_and_line(nih: Path, tmp_path: Path) -> None:
    table, train, test = (nih / name for name in ("Data_Entry_2017_v2020.csv", "train_val_list.txt", "test_list.txt"))
    kept = {path: path.read_text() for path in (table, train, test)}
    for path, text, says in (
        (
            table,
            TABLE.replace("Effusion", "Efusion"),
            r"csv, line 5: 'Efusion' is no finding .*expected No Finding, or",
        ),
        (table, TABLE.replace("Emphysema|", "No Finding|"), r"line 3: 2\.png has No Finding and Cardiomegaly"),
        (train, "1.png\n2.png\n", r"line 4: 3\.png is in neither train_val_list\.txt nor test_list\.txt"),
        (train, "1.png\n3.png\n", r"line 3: 2\.png is in neither"),
        (test, "\n4.png\n1.png\n", r"test_list\.txt, line 3: 1\.png is in the other list too"),
        (table, TABLE.replace("0,3,60", "0,1,60"), r"line 5: images of patient 1 are in both official parts"),
        (table, TABLE.replace("0,3,60", "0,01,60"), r"line 5: images of patient 01 are in both official parts"),
        (table, f"{TABLE}3.png,Effusion,0,2,81\n", r"line 6: 3\.png is in the table twice"),
    ):
        path.write_text(text)
        for query in ("", "?finding=Cardiomegaly"):
            with pytest.raises(DataError, match=says):
                load(f"nih14:{nih}{query}", tmp_path / "cache")
        path.write_text(kept[path])
    test.unlink()
    with pytest.raises(DataError, match=r"lacks test_list\.txt; add it"):
        load(f"nih14:{nih}", tmp_path / "cache")
    train.unlink()
    for query, says in (
        ("part=test", r"part=test needs train_val_list\.txt and test_list\.txt"),
        ("part=val", "no part=val; take one of train_val, test"),
        ("others", "others needs a finding"),
        ("finding=Hernia", "no image with finding='Hernia'; take one of Cardiomegaly, Effusion, Emphysema"),
    ):
        with pytest.raises(DataError, match=says):
            load(f"nih14:{nih}?{query}", tmp_path / "cache")


@pytest.fixture
def covid(tmp_path: Path) -> Path:
    """Images of 26 pixels a side, masks of 20 in three channels; one image has no mask."""
    root = tmp_path / "COVID-19_Radiography_Dataset"
    for grey, name in enumerate(("COVID", "Lung_Opacity", "Normal", "Viral Pneumonia")):
        for number in (1, 2):
            file = root / name / "images" / f"{name}-{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((26, 26), 50 * grey + number, np.uint8)).save(file)
            mask = np.zeros((20, 20, 3), np.uint8)
            mask[:, 10:] = 255
            (root / name / "masks").mkdir(exist_ok=True)
            Image.fromarray(mask).save(root / name / "masks" / file.name)
        write(root / f"{name}.metadata.xlsx", "")
    (root / "Normal/masks/Normal-2.png").unlink()
    return root


def test_covid19_has_a_folder_for_each_class(covid: Path, tmp_path: Path) -> None:
    for root in (covid, covid.parent):
        dataset = load(f"covid19-radiography:{root}", tmp_path / "cache")
        assert told(dataset) == [name for name in ("Normal", "Lung_Opacity", "COVID", "Viral Pneumonia") for _ in "12"]
        assert greys(dataset) == [101, 102, 51, 52, 1, 2, 151, 152]
        assert dataset.grouping == "image"
    two = load(
        f"covid19-radiography:{covid}?classes=rest=Normal|Lung_Opacity|Viral Pneumonia,COVID", tmp_path / "cache"
    )
    assert two.labels.tolist() == [0, 0, 0, 0, 1, 1, 0, 0]


def test_covid19_pairs_images_with_smaller_masks(covid: Path) -> None:
    found = find_pairs(f"covid19-radiography:{covid}")
    assert len(found.pairs) == 7
    assert [path.name for path in found.without_mask] == ["Normal-2.png"]
    assert "1 images have no mask, as " in found.remarks[0]
    image, mask = read_pair(found.pairs[1], size=16, channels="gray", scaled=found.scaled)
    assert (image == 51).all()
    assert (mask == (np.arange(16) >= 8)).all()


def test_what_is_no_covid19_is_told(covid: Path, tmp_path: Path) -> None:
    picture(covid / "Normal/images/COVID-7.png", 9)
    with pytest.raises(
        DataError, match=r"images/COVID-7\.png has not the name of an image of Normal; expected Normal-1"
    ):
        load(f"covid19-radiography:{covid}", tmp_path / "cache")
    (covid / "Normal/images/COVID-7.png").unlink()
    (covid / "COVID/images").rename(covid / "COVID/pictures")
    with pytest.raises(DataError, match=r"there is no images in .*/COVID"):
        load(f"covid19-radiography:{covid}", tmp_path / "cache")
    (covid / "COVID").rename(covid / "Corona")
    with pytest.raises(DataError, match="there is no COVID in"):
        find_pairs(f"covid19-radiography:{covid}")
