"""`csv:` by its options, several tables, and `?classes=` on any set."""

from pathlib import Path

import pytest
from tests.images.sets import greys, load, picture, told, write

from medaegis.errors import DataError
from medaegis.images import without_path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Pictures 0 to 4 of the grades 0 to 4, of the patients A, A, B, B, C."""
    for grade in range(5):
        picture(tmp_path / "images" / f"id{grade}.png", 10 + grade)
    lines = (f"id{grade},images/id{grade}.png,{grade},{'AABBC'[grade]}" for grade in range(5))
    write(tmp_path / "t.csv", "\n".join(["code,file,grade,who", *lines]))
    return tmp_path


@pytest.mark.parametrize("where", ["image=file", "path=images/{code}.png", "path=images/{ Code }.png", "path={file}"])
def test_columns_by_option(root: Path, where: str) -> None:
    dataset = load(f"csv:{root}/t.csv?{where}&label=grade&patient=who", root / "cache")
    assert greys(dataset) == [10, 11, 12, 13, 14]
    assert dataset.names == tuple(f"images/id{grade}.png" for grade in range(5))
    assert told(dataset) == ["0", "1", "2", "3", "4"]
    assert dataset.patients == ("A", "A", "B", "B", "C")
    assert dataset.grouping == "patient"


@pytest.mark.parametrize(
    ("classes", "order", "labels"),
    [
        ("4,3,2,1,0", ("4", "3", "2", "1", "0"), [4, 3, 2, 1, 0]),
        ("No DR=0,DR=1|2|3|4", ("No DR", "DR"), [0, 1, 1, 1, 1]),
        (" DR = 4 | 3|2.0|01 , No DR=0 , none=7", ("DR", "No DR", "none"), [1, 0, 0, 0, 0]),
        ("a%2Cb=0|1,c%3Dd=2|3|4", ("a,b", "c=d"), [0, 0, 1, 1, 1]),
    ],
)
def test_classes_in_a_given_order_and_grouped(
    root: Path, classes: str, order: tuple[str, ...], labels: list[int]
) -> None:
    dataset = load(f"csv:{root}/t.csv?image=file&label=grade&patient=who&classes={classes}", root / "cache")
    assert dataset.classes == order
    assert dataset.labels.tolist() == labels
    assert list(dataset.remarks) == (["no image has the label '7'"] if "7" in classes else [])


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("label=grade", r"no column 'image'.*or name another, as \?image=HEADING"),
        ("image=code&label=grade", r"none of 5 .*id0: no such file.*their paths: \?path=images/\{id\}\.jpg"),
        ("image=file&label=Grad", "no column 'Grad', only: code, file, grade, who"),
        ("image=file&label=grade&patient=whom", "no column 'whom'"),
        ("image=file&label=grade&label=who", "label is given twice"),
        ("image=file&path=images/{code}.png&label=grade", "image and path both say"),
        ("path=images/code.png&label=grade", "names no column"),
        ("path=images/{id}.png&label=grade", "no column 'id'"),
        ("image=&label=grade", "image is empty"),
        (
            "image=file&label=grade&classes=0,1,2,3",
            "no class has the label '4'; add each to the class that it belongs to",
        ),
        ("image=file&label=grade&classes=a=0|1,b=1|2|3|4", "the label '1' is in two"),
        ("image=file&label=grade&classes=a=0|1,A=2|3|4", "an empty name or one twice"),
        ("image=file&label=grade&classes=a=0|1|2|3|4", "is one class"),
        ("image=file&label=grade&classes=", "an empty name"),
        ("image=file&label=grade&kind=1", "no option 'kind'.* image, path, label, patient, classes"),
    ],
)
def test_options_that_do_not_fit(root: Path, query: str, says: str) -> None:
    with pytest.raises(DataError, match=says):
        load(f"csv:{root}/t.csv?{query}", root / "cache")


def test_numbers_in_two_spellings_are_one_class_and_words_are_refused(root: Path) -> None:
    rows = ("images/id0.png,0", "images/id1.png,1", "images/id2.png,1.0", "images/id3.png,01")
    dataset = load(f"csv:{write(root / 'n.csv', chr(10).join(['image,label', *rows]))}", root / "cache")
    assert dataset.classes == ("0", "1")
    assert dataset.labels.tolist() == [0, 1, 1, 1]
    assert "the labels '1' and '01' and '1.0' are taken for one class" in dataset.remarks
    floats = load(
        f"csv:{write(root / 'f.csv', chr(10).join(['image,label', rows[0] + '.0', rows[2]]))}", root / "cache"
    )
    assert floats.classes == ("0.0", "1.0"), "one spelling is kept as it is"

    words = write(root / "w.csv", "image,label\nimages/id0.png,No DR\nimages/id1.png,DR\nimages/id2.png,dr\n")
    with pytest.raises(DataError, match=r"the labels 'DR' and 'dr' differ in spelling only.*\?classes=DR=DR\|dr"):
        load(f"csv:{words}", root / "cache")
    with pytest.raises(DataError, match="no class has the label 'dr'"):
        load(f"csv:{words}?classes=No DR,DR", root / "cache")
    given = load(f"csv:{words}?classes=No DR,DR=DR|dr", root / "cache")
    assert given.labels.tolist() == [0, 1, 1]


def test_several_tables(root: Path) -> None:
    """Each with its own folder, delimiter and headings; one patient in two tables is one."""
    one = write(root / "one/train.csv", "image,label,patient\nimages/1.png,DR,7\n")
    two = write(root / "two/test.csv", "Label;Image;Patient ID\nNo DR;images/1.png;7.0\n")
    picture(root / "one/images/1.png", 33)
    picture(root / "two/images/1.png", 66)
    dataset = load(f"csv:{one},{two}", root / "cache")
    assert greys(dataset) == [33, 66]
    assert told(dataset) == ["DR", "No DR"]
    assert dataset.names == ("one/images/1.png", "two/images/1.png")
    assert len(set(dataset.patients)) == 1
    with pytest.raises(DataError, match=r"one/images/1\.png is listed 2 times"):
        load(f"csv:{one},{two},{one}", root / "cache")
    with pytest.raises(DataError, match=r"there is no file .*three\.csv"):
        load(f"csv:{one},{root / 'three.csv'}", root / "cache")
    comma = write(root / "a,b.csv", one.read_text() + "images/id0.png,No DR,8\n")
    picture(root / "images/1.png", 1)
    assert len(load(f"csv:{comma}", root / "cache")) == 2, "a name that holds a comma is that of one file"


@pytest.mark.parametrize("value", ["No DR=0,DR=1|2|3|4", "No DR,DR=Mild|Moderate|severe|Proliferative DR"])
def test_classes_of_a_published_set_by_grade_or_name(root: Path, value: str) -> None:
    write(root / "train.csv", "\n".join(["id_code,diagnosis", *(f"id{grade},{grade}" for grade in range(5))]))
    (root / "images").rename(root / "train_images")
    grouped = load(f"aptos2019:{root}?classes={value}", root / "cache")
    binary = load(f"aptos2019:{root}?binary", root / "cache")
    assert grouped.classes == binary.classes == ("No DR", "DR")
    assert grouped.labels.tolist() == binary.labels.tolist() == [0, 1, 1, 1, 1]
    assert grouped.fingerprint == binary.fingerprint


def test_classes_of_drawn_images_in_another_order(tmp_path: Path) -> None:
    plain, turned = (load(f"phantom-xray?n=12{more}", tmp_path) for more in ("", "&classes=opacity,clear"))
    assert turned.classes == plain.classes[::-1]
    assert (turned.labels + plain.labels).unique().tolist() == [1]


def test_a_record_names_no_folder_of_an_option() -> None:
    assert without_path("csv:/home/me/t.csv,/x/u.csv?label=a&path=/home/me/{id}.jpg&patient=b") == (
        "csv:PATH?label=a&path=PATH&patient=b"
    )
    for place in ("~/{id}.jpg", "%2Fhome%2Fme", "C:%5Cme", "C:/me"):
        assert without_path(f"csv:t.csv?path={place}") == "csv:PATH?path=PATH"
    assert without_path("csv:t.csv?path=images/{id}.jpg") == "csv:PATH?path=images/{id}.jpg"
