"""ISIC 2017, HAM10000 and PAD-UFES-20 in their published layouts, and what is refused."""

from pathlib import Path

import pytest
from tests.images.sets import greys, load, picture, told, write

from medaegis.errors import DataError
from medaegis.images.schemes import find_pairs

TRUTH = "image_id,melanoma,seborrheic_keratosis\n"


@pytest.fixture
def isic2017(tmp_path: Path) -> Path:
    """Two parts of three; superpixels and a table of ages lie beside the images, as they are unpacked."""
    root = tmp_path / "isic2017"
    for part, lines in (("Training", ("01,0.0,0.0", "02,1.0,0.0")), ("Test_v2", ("03,0.0,1.0",))):
        for line in lines:
            name = f"ISIC_00000{line[:2]}"
            picture(root / f"ISIC-2017_{part}_Data/{name}.jpg", 50 * int(line[1]))
            picture(root / f"ISIC-2017_{part}_Data/{name}_superpixels.png", 5)
            picture(root / f"ISIC-2017_{part}_Part1_GroundTruth/{name}_segmentation.png", 255)
        write(root / f"ISIC-2017_{part}_Data/ISIC-2017_{part}_Data_metadata.csv", "image_id,age_approximate,sex\n")
        table = "".join(f"ISIC_00000{line}\n" for line in lines)
        write(root / f"ISIC-2017_{part}_Part3_GroundTruth.csv", TRUTH + table)
    return root


def test_isic2017_has_three_classes_of_two_columns(isic2017: Path, tmp_path: Path) -> None:
    dataset = load(f"isic2017:{isic2017}", tmp_path / "cache")
    assert dataset.classes == ("nevus", "seborrheic keratosis", "melanoma")
    assert told(dataset) == ["nevus", "melanoma", "seborrheic keratosis"]
    assert greys(dataset) == pytest.approx([50, 100, 150], abs=2)
    assert dataset.grouping == "image"
    two = load(f"isic2017:{isic2017}?classes=other=nevus|seborrheic keratosis,melanoma", tmp_path / "cache")
    assert told(two) == ["other", "melanoma", "other"]
    assert told(load(f"isic2017:{isic2017}?part=test", tmp_path / "cache")) == ["seborrheic keratosis"]


def test_isic2017_pairs_images_with_masks_and_leaves_superpixels_out(isic2017: Path) -> None:
    found = find_pairs(f"isic2017:{isic2017}")
    assert [pair.image.name for pair in found.pairs] == [f"ISIC_000000{i}.jpg" for i in (1, 2, 3)]
    assert [pair.mask.name for pair in found.pairs] == [f"ISIC_000000{i}_segmentation.png" for i in (1, 2, 3)]
    assert not found.remarks
    assert [pair.image.name for pair in find_pairs(f"isic2017:{isic2017}?part=test").pairs] == ["ISIC_0000003.jpg"]


def test_what_is_no_isic2017_is_told(isic2017: Path, tmp_path: Path) -> None:
    table = isic2017 / "ISIC-2017_Test_v2_Part3_GroundTruth.csv"
    for text, says in (
        (f"{TRUTH}ISIC_0000003,1.0,1.0\n", r"Part3_GroundTruth\.csv, line 2: both melanoma and seborrheic keratosis"),
        (f"{TRUTH}ISIC_0000003,0.5,0.0\n", r"line 2: '0\.5' is no yes \(1\) or no \(0\)"),
        ("image,target\nISIC_0000003,1\n", "has no column 'image_id', only: image, target"),
    ):
        write(table, text)
        with pytest.raises(DataError, match=says):
            load(f"isic2017:{isic2017}", tmp_path / "cache")
    table.unlink()
    with pytest.raises(DataError, match=r"there is no ISIC-2017_Test_v2_Part3_GroundTruth\.csv in"):
        load(f"isic2017:{isic2017}", tmp_path / "cache")
    with pytest.raises(DataError, match="there is no ISIC-2017_Validation_Data in"):
        find_pairs(f"isic2017:{isic2017}?part=validation")
    with pytest.raises(DataError, match="no part=train; take one of training, validation, test"):
        load(f"isic2017:{isic2017}?part=train", tmp_path / "cache")


@pytest.mark.parametrize("name", ["HAM10000_metadata", "HAM10000_metadata.csv", "HAM10000_metadata.tab"])
def test_ham10000_is_grouped_by_lesion(tmp_path: Path, name: str) -> None:
    root = tmp_path / "ham"
    for number, part in ((24306, 1), (27419, 1), (32557, 2)):
        picture(root / f"HAM10000_images_part_{part}/ISIC_00{number}.jpg", number % 256)
    lines = (
        "lesion_id,image_id,dx,dx_type,age,sex,localization",
        "HAM_1,ISIC_0027419,bkl,histo,80.0,male,scalp",
        "HAM_2,ISIC_0024306,nv,follow_up,45.0,male,trunk",
        "HAM_1,ISIC_0032557,bkl,histo,80.0,male,scalp",
    )
    write(root / name, "\n".join(lines).replace(",", "\t" if name.endswith(".tab") else ",") + "\n")
    dataset = load(f"ham10000:{root}", tmp_path / "cache")
    assert len(dataset.classes) == 7
    assert dataset.classes[0] == "melanocytic nevi"
    assert told(dataset) == ["benign keratosis-like lesions", "melanocytic nevi", "benign keratosis-like lesions"]
    assert dataset.patients == ("HAM_1", "HAM_2", "HAM_1")
    assert dataset.grouping == "lesion"
    by_code = load(f"ham10000:{root}?classes=harmless=nv|bkl|df|vasc,ill=akiec|bcc|mel", tmp_path / "cache")
    assert told(by_code) == ["harmless"] * 3


def test_what_is_no_ham10000_is_told(tmp_path: Path) -> None:
    root = tmp_path / "ham"
    picture(root / "HAM10000_images_part_1/ISIC_1.jpg", 9)
    table = write(root / "HAM10000_metadata.csv", "lesion_id,image_id,dx\nHAM_1,ISIC_1,nevus\n")
    with pytest.raises(DataError, match=r"HAM10000_metadata\.csv, line 2: 'nevus' is no diagnosis .*expected nv, bkl"):
        load(f"ham10000:{root}", tmp_path / "cache")
    write(table, "lesion_id,image_id,dx\nHAM_1,ISIC_1,NV\n")
    assert told(load(f"ham10000:{root}", tmp_path / "cache")) == ["melanocytic nevi"]
    picture(root / "ham10000_images_part_1/ISIC_1.jpg", 9)
    with pytest.raises(
        DataError, match=r"ISIC_1 could be HAM10000_images_part_1/ISIC_1\.jpg and ham10000_images_part_1"
    ):
        load(f"ham10000:{root}", tmp_path / "cache")
    write(root / "HAM10000_metadata", table.read_text())
    with pytest.raises(DataError, match=r"holds HAM10000_metadata and HAM10000_metadata\.csv"):
        load(f"ham10000:{root}", tmp_path / "cache")


def test_pad_ufes_20_is_grouped_by_patient(tmp_path: Path) -> None:
    root = tmp_path / "pad"
    lines = ["patient_id,lesion_id,smoke,fitspatrick,diagnostic,itch,img_id,biopsed"]
    for place, code in enumerate(("NEV", "SEK", "ACK", "BCC", "SCC", "MEL")):
        name = f"PAT_{place // 2}_{place}_530.png"
        picture(root / f"imgs_part_{place // 2 + 1}/imgs_part_{place // 2 + 1}/{name}", 30 * place)
        lines.append(f"PAT_{place // 2},{place},,3.0,{code},False,{name},True")
    table = write(root / "metadata.csv", "\n".join(lines) + "\n")
    dataset = load(f"pad-ufes-20:{root}", tmp_path / "cache")
    assert dataset.labels.tolist() == list(range(6))
    assert dataset.classes == (
        *("nevus", "seborrheic keratosis", "actinic keratosis"),
        *("basal cell carcinoma", "squamous cell carcinoma", "melanoma"),
    )
    assert greys(dataset) == [0, 30, 60, 90, 120, 150]
    assert dataset.patients == ("PAT_0", "PAT_0", "PAT_1", "PAT_1", "PAT_2", "PAT_2")
    assert dataset.grouping == "patient"
    write(table, table.read_text().replace("ACK", "BOD"))
    with pytest.raises(DataError, match=r"metadata\.csv, line 4: 'BOD' is no diagnosis of PAD-UFES-20; expected NEV, "):
        load(f"pad-ufes-20:{root}", tmp_path / "cache")
