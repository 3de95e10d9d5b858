"""Which file a set means: exact names first, one of several never, and one file never twice, in every loader."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.images.sets import greys, load, picture, write

from medaegis.errors import DataError

NIH = "Image Index,Finding Labels,Patient ID\n00000001_000.png,No Finding,1\n00000002_000.png,Mass,2\n"


def nih(root: Path, *names: str) -> str:
    """The set with its two pictures, of 50 and 70, and others, of 200."""
    for name in ("images_001/images/00000001_000.png", "images_002/images/00000002_000.png", *names):
        picture(root / name, 200 if name in names else 50 if "images_001" in name else 70)
    write(root / "Data_Entry_2017.csv", NIH)
    return f"nih14:{root}"


@pytest.mark.parametrize(
    "copies",
    [
        ("224/00000001_000.jpg",),
        ("224/00000001_000.jpg", "a/00000002_000.PNG"),
        ("224/00000001_000.png.png", "a/00000001_000.1.png"),
    ],
)
def test_the_exact_name_goes_before_its_resized_copies(tmp_path: Path, copies: tuple[str, ...]) -> None:
    dataset = load(nih(tmp_path / "n", *copies), tmp_path / "cache")
    assert greys(dataset) == [50, 70]
    assert not dataset.remarks


@pytest.mark.parametrize("order", ["224", "zz"])
def test_two_files_of_the_exact_name_are_refused(tmp_path: Path, order: str) -> None:
    with pytest.raises(DataError, match=r"00000001_000\.png could be .*00000001_000\.png and .*00000001_000\.png"):
        load(nih(tmp_path / "n", f"{order}/00000001_000.png"), tmp_path / "cache")


def test_another_suffix_is_taken_where_it_is_the_only_file_and_told(tmp_path: Path) -> None:
    spec = nih(tmp_path / "n")
    (tmp_path / "n/images_002/images/00000002_000.png").unlink()
    picture(tmp_path / "n/224/00000002_000.jpg", 200)
    dataset = load(spec, tmp_path / "cache")
    assert greys(dataset) == [50, 200]
    assert dataset.remarks == (
        "1 images have another suffix than in the table, as 224/00000002_000.jpg for 00000002_000.png: copies of the "
        "originals?",
    )
    picture(tmp_path / "n/512/00000002_000.jpeg", 200)
    with pytest.raises(DataError, match=r"512/00000002_000\.jpeg and 224/|224/00000002_000\.jpg and 512/"):
        load(spec, tmp_path / "cache")


@pytest.mark.parametrize("name", ["../secret.png", "images_001/../../secret.png", "{outside}/secret.png"])
def test_a_table_names_no_file_outside_of_its_set(tmp_path: Path, name: str) -> None:
    spec = nih(tmp_path / "n")
    picture(tmp_path / "secret.png", 9)
    table = tmp_path / "n/Data_Entry_2017.csv"
    table.write_text(NIH.replace("00000001_000.png", name.format(outside=tmp_path)))
    with pytest.raises(DataError, match=r"secret\.png lies outside of"):
        load(spec, tmp_path / "cache")


def test_a_link_is_no_second_file(tmp_path: Path) -> None:
    spec = nih(tmp_path / "n")
    (tmp_path / "n/224").mkdir()
    (tmp_path / "n/224/00000001_000.jpg").symlink_to(tmp_path / "n/images_001/images/00000001_000.png")
    dataset = load(spec, tmp_path / "cache")
    assert greys(dataset) == [50, 70]
    assert not dataset.remarks


def test_two_tables_of_nih_are_refused(tmp_path: Path) -> None:
    spec = nih(tmp_path / "n")
    write(tmp_path / "n/Data_Entry_2017_v2020.csv", NIH)
    with pytest.raises(DataError, match=r"has Data_Entry_2017\.csv, Data_Entry_2017_v2020\.csv"):
        load(spec, tmp_path / "cache")
    write(tmp_path / "m/Data_Entry.csv", NIH.replace("Mass", "Mass|No Finding"))
    with pytest.raises(DataError, match=r"00000002_000\.png has No Finding and Mass"):
        load(f"nih14:{tmp_path / 'm'}", tmp_path / "cache")


def aptos(root: Path) -> tuple[str, Path]:
    write(root / "train.csv", "id_code,diagnosis\na1,0\nb.2,3\n")
    return f"aptos2019:{root}", root / "train_images"


def isic(root: Path) -> tuple[str, Path]:
    write(root / "metadata.csv", "isic_id,lesion_id,target\na1,L1,0\nb.2,L2,1\n")
    return f"isic:{root}", root / "images"


def messidor2(root: Path) -> tuple[str, Path]:
    write(root / "messidor_data.csv", "image_id,adjudicated_dr_grade,adjudicated_gradable\na1,0,1\nb.2,3.0,1.0\n")
    return f"messidor2:{root}", root / "IMAGES"


def idrid(root: Path) -> tuple[str, Path]:
    part = root / "B. Disease Grading"
    write(
        part / "2. Groundtruths/a. IDRiD_Disease Grading_Training Labels.csv",
        "Image name,Retinopathy grade,Risk of macular edema ,,,\na1,0,0,,,\nb.2,3,1,,,\n,,,,,\n",
    )
    return f"idrid:{root}", part / "1. Original Images/a. Training Set"


@pytest.mark.parametrize("layout", [aptos, isic, messidor2, idrid])
def test_names_without_suffix(tmp_path: Path, layout: Callable[[Path], tuple[str, Path]]) -> None:
    """A name with a dot is not cut there; a file in another case is found; two that fit are refused."""
    spec, images = layout(tmp_path / "set")
    picture(images / "a1.png", 40)
    picture(images / "b.png", 99)
    picture(images / "B.2.JPG", 80)
    assert greys(load(spec, tmp_path / "cache")) == [40, 80]
    picture(images / "b.2.jpg", 120)
    assert greys(load(spec, tmp_path / "cache")) == [40, 120], "exact names go first"
    picture(images / "224" / "a1.jpg", 200)
    with pytest.raises(DataError, match=r"a1 could be 224/a1\.jpg and a1\.png|a1 could be IMAGES/"):
        load(spec, tmp_path / "cache")
    (images / "224" / "a1.jpg").unlink()
    picture(images / "a1.tif", 200)
    with pytest.raises(DataError, match="a1 could be"):
        load(spec, tmp_path / "cache")


@pytest.mark.parametrize("again", ["x/1.bmp", "./x/1.bmp", "x/../x/1.bmp", "{root}/x/1.bmp", "soft.bmp", "hard.bmp"])
@pytest.mark.parametrize("label", ["0", "1"])
def test_one_file_under_two_spellings_is_refused(tmp_path: Path, again: str, label: str) -> None:
    for number in (1, 2):
        picture(tmp_path / f"x/{number}.bmp", number)
    (tmp_path / "soft.bmp").symlink_to(tmp_path / "x/1.bmp")
    os.link(tmp_path / "x/1.bmp", tmp_path / "hard.bmp")
    text = f"image,label\nx/1.bmp,0\nx/2.bmp,1\n{again.format(root=tmp_path)},{label}\n"
    with pytest.raises(DataError, match=r"x/1\.bmp is listed 2 times") as raised:
        load(f"csv:{write(tmp_path / 'a.csv', text)}", tmp_path / "cache")
    assert ("with different labels" in str(raised.value)) == (label == "1")


def test_names_that_differ_only_in_case_are_two_files(tmp_path: Path) -> None:
    picture(tmp_path / "A.png", 10)
    picture(tmp_path / "a.png", 20)
    if (tmp_path / "A.png").samefile(tmp_path / "a.png"):
        pytest.skip("this disk knows no case")
    file = write(tmp_path / "t.csv", "image,label\na.png,x\nA.png,y\n")
    assert greys(load(f"csv:{file}", tmp_path / "cache")) == [20, 10]


def test_a_link_between_the_folders_of_two_classes_is_refused(tmp_path: Path) -> None:
    picture(tmp_path / "set/a/1.png", 1)
    picture(tmp_path / "set/b/2.png", 2)
    (tmp_path / "set/b/3.png").symlink_to(tmp_path / "set/a/1.png")
    with pytest.raises(DataError, match=r"a/1\.png is listed 2 times, also as b/3\.png, with different labels"):
        load(f"folder:{tmp_path / 'set'}", tmp_path / "cache")


@pytest.mark.parametrize("copy", ["a/1.jpg", "a/1.PNG", "a/224/1.jpg", "a/p1/3.jpg"])
def test_a_copy_beside_the_original_is_refused_in_folders(tmp_path: Path, copy: str) -> None:
    for name in ("a/1.png", "a/p1/3.png", "a/p2/3.png", "b/1.png"):
        picture(tmp_path / "set" / name, 9)
    assert len(load(f"folder:{tmp_path / 'set'}", tmp_path / "cache")) == 4
    picture(tmp_path / "set" / copy, 8)
    with pytest.raises(DataError, match="have one name: one may be a copy of the other"):
        load(f"folder:{tmp_path / 'set'}", tmp_path / "cache")


def test_folders_of_one_class_in_two_spellings_are_refused(tmp_path: Path) -> None:
    for classes in (("DR", "dr"), ("1", "1.0")):
        for name in (*classes, "other"):
            picture(tmp_path / classes[0] / name / "i.png", 3)
        with pytest.raises(DataError, match="one class in two spellings"):
            load(f"folder:{tmp_path / classes[0]}", tmp_path / "cache")


def test_parts_are_no_classes_and_images_beside_the_classes_are_told(tmp_path: Path) -> None:
    for name in ("Train/a/1.png", "Train/b/1.png", "test/a/1.png", "Train/loose.png", "Train/notes.txt"):
        picture(tmp_path / name, 5) if name.endswith("png") else write(tmp_path / name, "")
    with pytest.raises(DataError, match="holds Train and test, which are parts of a set"):
        load(f"folder:{tmp_path}", tmp_path.parent / "cache")
    dataset = load(f"folder:{tmp_path / 'Train'}", tmp_path / "cache")
    assert dataset.names == ("a/1.png", "b/1.png")
    assert dataset.remarks == ("1 images lie beside the folders of the classes, as loose.png: not used",)


def test_copies_and_spellings_of_folders_in_chest_xray(tmp_path: Path) -> None:
    root = tmp_path / "chest"
    picture(root / "Train/normal/IM-0001-0001.jpeg", 10)
    picture(root / "Train/PNEUMONIA/person1_virus_1.jpeg", 20)
    assert greys(load(f"chest-xray:{root}", tmp_path / "cache")) == [10, 20]
    picture(root / "Train/PNEUMONIA/224/person1_virus_1.png", 30)
    with pytest.raises(DataError, match="have one name"):
        load(f"chest-xray:{root}", tmp_path / "cache")
    (root / "Train/PNEUMONIA/224/person1_virus_1.png").unlink()
    picture(root / "Train/NORMAL/IM-0002-0001.jpeg", 30)
    with pytest.raises(DataError, match="Train holds NORMAL and normal; leave one, called NORMAL"):
        load(f"chest-xray:{root}", tmp_path / "cache")


def test_idrid_reads_both_sets_whose_images_are_numbered_alike(tmp_path: Path) -> None:
    for root in (tmp_path / "IDRiD", tmp_path / "IDRiD" / "B. Disease Grading"):
        part = tmp_path / "IDRiD" / "B. Disease Grading"
        for letter, name, lines in (
            ("a", "Training", "IDRiD_001,3,2\nIDRiD_002,0,0"),
            ("b", "Testing", "IDRiD_001,4,1"),
        ):
            for number, line in enumerate(lines.split("\n")):
                file = part / f"1. Original Images/{letter}. {name} Set" / f"{line.split(',')[0]}.jpg"
                picture(file, 100 * (letter == "b") + 40 * number + 20)
            labels = part / f"2. Groundtruths/{letter}. IDRiD_Disease Grading_{name} Labels.csv"
            write(labels, f"Image name,Retinopathy grade,Risk of macular edema\n{lines}\n")
        dataset = load(f"idrid:{root}", tmp_path / "cache")
        assert dataset.labels.tolist() == [3, 0, 4]
        assert greys(dataset) == [20, 60, 120]
        assert dataset.grouping == "image"
        assert len(set(dataset.patients)) == 3
        assert load(f"idrid:{root}?binary", tmp_path / "cache").labels.tolist() == [1, 0, 1]
    (part / "2. Groundtruths/b. IDRiD_Disease Grading_Testing Labels.csv").unlink()
    with pytest.raises(DataError, match="lacks the table of grades of the Testing set"):
        load(f"idrid:{tmp_path / 'IDRiD'}", tmp_path / "cache")


@pytest.mark.parametrize(
    ("scheme", "kept", "says"),
    [
        ("aptos2019", "train_images", r"no train\.csv in {root}"),
        ("aptos2019", "train.csv", "no train_images in {root}"),
        ("isic", "images", r"no metadata\.csv in {root}"),
        ("idrid", "1. Original Images", r"no 2\. Groundtruths in {root}"),
        ("messidor2", "IMAGES", r"no messidor_data\.csv in {root}"),
        ("messidor", "IMAGES", "{root} and the folders in it hold no Annotation_Base11"),
        ("isic2017", "images", "{root} holds no ISIC-2017_Training_Data"),
        ("ham10000", "images", "{root} holds no HAM10000_metadata"),
        ("pad-ufes-20", "images", r"no metadata\.csv in {root}"),
        ("covid19-radiography", "Normal", "no images in {root}/Normal"),
        ("folder", "one", "{root} holds 1 folders"),
        ("nih14", "images", "{root} has no Data_Entry"),
    ],
)
def test_errors_name_the_folder_that_was_given(tmp_path: Path, scheme: str, kept: str, says: str) -> None:
    (tmp_path / kept).mkdir()
    with pytest.raises(DataError, match=says.format(root=tmp_path)):
        load(f"{scheme}:{tmp_path}", tmp_path / "cache")
