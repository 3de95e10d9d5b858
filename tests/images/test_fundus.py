"""Messidor in its published layout, its errata, and what is no Messidor."""

from pathlib import Path

import pytest
from tests.images.sets import greys, load, picture, told, write

from medaegis.errors import DataError

HEADING = "Image name,Ophthalmologic department,Retinopathy grade,Risk of macular edema "
LINES = {
    "11": ("20051019_38557_0100_PP.tif,Lariboisiere,3,1", "20051020_43808_0100_PP.tif,Lariboisiere,0,0"),
    "23": ("20060412_52169_0200_PP.tif,LaTIM - CHU de BREST,1,0",),
    "34": ("20051202_36553_0400_PP.tif,CHU de St Etienne,2,2",),
}


def messidor(root: Path, *, beside: bool, lines: dict[str, tuple[str, ...]] = LINES, ends: str = ".csv") -> str:
    """A folder for each base; its table in it, as they are unpacked, or beside it."""
    for number, (base, of_base) in enumerate(lines.items()):
        for place, line in enumerate(of_base):
            picture(root / f"Base{base}" / line.split(",")[0], 40 * number + 10 * place)
        folder = root if beside else root / f"Base{base}"
        write(folder / f"Annotation_Base{base}{ends}", "\n".join([HEADING, *of_base, ""]))
    return f"messidor:{root}"


@pytest.mark.parametrize("beside", [True, False])
def test_the_tables_of_all_bases_are_one_set(tmp_path: Path, beside: bool) -> None:
    spec = messidor(tmp_path / "m", beside=beside)
    dataset = load(spec, tmp_path / "cache")
    assert told(dataset) == ["Grade 3", "No DR", "Grade 1", "Grade 2"]
    assert greys(dataset) == [0, 10, 40, 80]
    assert dataset.grouping == "image"
    assert dataset.remarks == ("3 of Messidor's 12 parts are here: Base11, Base23, Base34",)
    assert told(load(f"{spec}?binary", tmp_path / "cache")) == ["DR", "No DR", "DR", "DR"]
    grouped = load(f"{spec}?classes=fine=0|1,ill=2|3", tmp_path / "cache")
    assert told(grouped) == ["ill", "fine", "fine", "ill"]


def test_a_whole_set_in_one_folder_has_nothing_to_remark(tmp_path: Path) -> None:
    for group in "123":
        for part in "1234":
            base = group + part
            picture(tmp_path / f"m/{base}.tif", int(base))
            write(tmp_path / f"m/Annotation Base{base}.csv", f"{HEADING}\n{base}.tif,Lariboisiere,{int(part) - 1},0\n")
    dataset = load(f"messidor:{tmp_path / 'm'}", tmp_path / "cache")
    assert dataset.labels.tolist() == [0, 1, 2, 3] * 3
    assert greys(dataset)[:5] == [11, 12, 13, 14, 21]
    assert not dataset.remarks


@pytest.mark.parametrize(("table", "corrected"), [("3", True), ("0", False)])
def test_grades_of_the_errata_are_corrected_where_the_table_is_from_before(
    tmp_path: Path, table: str, corrected: bool
) -> None:
    name = "20051020_63045_0100_PP.tif"
    lines = {"11": (f"{name},Lariboisiere,{table},0", "other.tif,Lariboisiere,3,0")}
    for query, last in (("", "Grade 3"), ("?binary", "DR")):
        spec = messidor(tmp_path / "m", beside=False, lines=lines, ends="_update20161024.csv")
        dataset = load(spec + query, tmp_path / "cache")
        assert told(dataset) == ["No DR", last]
        remark = f"1 grades are corrected by the errata of 2016, as that of {name}: the tables are from before"
        assert (remark in dataset.remarks) == corrected


def test_what_is_no_messidor_is_told_with_file_line_and_remedy(tmp_path: Path) -> None:
    root = tmp_path / "m"
    spec = messidor(root, beside=True)
    table = root / "Annotation_Base23.csv"
    for text, says in (
        (f"{HEADING}\na.tif,x,0,0\nb.tif,x,4,0\n", r"Annotation_Base23\.csv, line 3: '4' is no grade.*expected 0 to 3"),
        (f"{HEADING}\na.tif,x,,0\n", r"Annotation_Base23\.csv, line 2: Retinopathy grade is empty"),
        ("Image,Grade\na.tif,0\n", r"Annotation_Base23\.csv has no column 'Image name', only: Image, Grade"),
    ):
        write(table, text)
        with pytest.raises(DataError, match=says):
            load(spec, tmp_path / "cache")
    table.rename(table.with_suffix(".xls"))
    with pytest.raises(DataError, match=r"Annotation_Base23\.xls is an Excel file.*save each as CSV.*soffice"):
        load(spec, tmp_path / "cache")
    for name, says in (
        ("Annotation_Base11_update20161024.csv", "Base11 has the tables .* and .*; leave the newer one"),
        ("Annotation_Base15.csv", r"Annotation_Base15\.csv: Messidor has no Base15"),
        ("messidor_data.csv", "a table of another set, Messidor-2; write messidor2:PATH"),
    ):
        (root / name).write_text(HEADING)
        with pytest.raises(DataError, match=says):
            load(spec, tmp_path / "cache")
        (root / name).unlink()
