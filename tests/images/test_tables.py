"""Tables as people keep them: every heading, delimiter and encoding that is right is read, the others are refused."""

from pathlib import Path

import pytest
from tests.images.sets import greys, load, picture, told, write

from medaegis.errors import DataError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for number in (1, 2, 3):
        picture(tmp_path / "x" / f"{number}.bmp", 10 * number)
    return tmp_path


@pytest.mark.parametrize(
    "heading",
    [
        *("patient", "Patient", "PATIENT", "patient_id", "PatientID", "Patient ID", " patient id ", "patient-id"),
        *("Patient No.", "subject", "Subject_ID", "PID"),
    ],
)
def test_the_patient_is_found_under_any_usual_heading(root: Path, heading: str) -> None:
    file = write(root / "a.csv", f"image,label,{heading}\nx/1.bmp,0,P1\nx/2.bmp,1,P1\nx/3.bmp,1,P1\n")
    dataset = load(f"csv:{file}", root / "cache")
    assert dataset.patients == ("P1", "P1", "P1")
    assert dataset.grouping == "patient"
    assert not dataset.remarks


def test_without_a_column_for_the_patient_that_is_said(root: Path) -> None:
    file = write(root / "a.csv", "image,label,patient age,code\nx/1.bmp,0,7,P1\nx/2.bmp,1,7,P1\n")
    dataset = load(f"csv:{file}", root / "cache")
    assert dataset.grouping == "image"
    assert len(set(dataset.patients)) == 2
    assert ["?patient=HEADING" in remark for remark in dataset.remarks] == [True]
    named = load(f"csv:{file}?patient=code", root / "cache")
    assert named.patients == ("P1", "P1")
    assert not named.remarks


def test_a_patient_who_is_known_for_some_images_only(root: Path) -> None:
    file = write(root / "a.csv", "image,label,patient\nx/1.bmp,0,P1\nx/2.bmp,1\nx/3.bmp,1,P1\n")
    dataset = load(f"csv:{file}", root / "cache")
    assert dataset.patients == ("P1", "x/2.bmp", "P1")
    assert dataset.grouping == "patient where known"


@pytest.mark.parametrize("spellings", [("7", "7.0", "07"), ("p1", "P1", "p1"), ("A  1", "a 1", "A 1")])
def test_a_patient_in_several_spellings_is_one(root: Path, spellings: tuple[str, str, str]) -> None:
    lines = (f"x/{i + 1}.bmp,{i % 2},{text}" for i, text in enumerate(spellings))
    dataset = load(f"csv:{write(root / 'a.csv', chr(10).join(['image,label,patient', *lines]))}", root / "cache")
    assert len(set(dataset.patients)) == 1
    (remark,) = dataset.remarks
    assert remark.startswith("1 patients are written in several ways")


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_delimiters_encodings_and_ends_of_lines(root: Path, delimiter: str, encoding: str, end: str) -> None:
    lines = ["Image,Label,Patient ID", 'x/1.bmp, "No, DR",  P1 ', "", "x/2.bmp,Ödem,P2", ",,"]
    text = end.join(lines).replace(",", delimiter).replace(f"No{delimiter} DR", "No, DR")
    dataset = load(f"csv:{write(root / 'a.csv', text, encoding)}", root / "cache")
    assert told(dataset) == ["No, DR", "Ödem"]
    assert dataset.patients == ("P1", "P2")
    assert greys(dataset) == [10, 20]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("image,label,label\nx/1.bmp,0,1\nx/2.bmp,1,0\n", "2 columns that could be label: 'label', 'label'"),
        (
            "image,label,Label\nx/1.bmp,0,1\nx/2.bmp,1,0\n",
            r"'label', 'Label'; keep one, or say which, as \?label=label",
        ),
        ("image;label;LABEL\nx/1.bmp;0;1\nx/2.bmp;1;0\n", "2 columns that could be label"),
        ("image,label,patient,PatientID\nx/1.bmp,0,1,2\nx/2.bmp,1,2,2\n", "could be patient: 'patient', 'PatientID'"),
        ("image,label\nx/1.bmp,No DR, mild\nx/2.bmp,1\n", "line 2 has 3 cells, the heading 2"),
        ('image,label\nx/1.bmp,"0\nx/2.bmp,1\nx/3.bmp,1\n', "cannot be read as a table"),
        ("image,label\nx/1\0.bmp,0\nx/2.bmp,1\n", "line 2 holds a NUL character"),
        ("image,la\0bel\nx/1.bmp,0\nx/2.bmp,1\n", "line 1 holds a NUL character"),
        ("image,label\nx/1.bmp,0\n,1\n", "line 3: image is empty"),
        ("image,label\nx/1.bmp\nx/2.bmp,1\n", "line 2: label is empty"),
        ("picture,label\nx/1.bmp,0\nx/2.bmp,1\n", "no column 'image', only: picture, label"),
        ("", "no column"),
    ],
)
def test_tables_that_can_be_read_in_two_ways_or_in_none(root: Path, text: str, says: str) -> None:
    with pytest.raises(DataError, match=says):
        load(f"csv:{write(root / 'a.csv', text)}", root / "cache")


def test_a_column_that_is_named_goes_before_others_of_its_kind(root: Path) -> None:
    file = write(root / "a.csv", "image,label,Label,patient,PatientID\nx/1.bmp,0,b,1,7\nx/2.bmp,1,a,2,7\n")
    dataset = load(f"csv:{file}?label=Label&patient=PatientID", root / "cache")
    assert told(dataset) == ["b", "a"]
    assert dataset.patients == ("7", "7")


def test_published_tables_are_read_in_every_spelling_too(root: Path) -> None:
    for name in ("a1", "b2", "c3"):
        picture(root / "train_images" / f"{name}.png", ord(name[0]))
    write(root / "train.csv", "ID_Code;Diagnosis\r\na1;0\r\nb2;2.0\r\nc3;04\r\n", "utf-8-sig")
    dataset = load(f"aptos2019:{root}", root / "cache")
    assert dataset.labels.tolist() == [0, 2, 4]
    assert dataset.grouping == "image"
    write(root / "train.csv", "id_code,diagnosis\na1,0\nb2,2.5\n")
    with pytest.raises(DataError, match=r"'2\.5' is no grade"):
        load(f"aptos2019:{root}", root / "cache")
    write(root / "train.csv", "id_code,diagnosis,Diagnosis\na1,0,1\nb2,2,1\n")
    with pytest.raises(DataError, match="2 columns that could be diagnosis"):
        load(f"aptos2019:{root}", root / "cache")
