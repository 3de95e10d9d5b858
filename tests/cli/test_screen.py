"""Screening: every kind of file a hospital may send, in one batch; what is rejected, withheld, set aside."""

import csv
import io
import json
import struct
import zlib
from operator import itemgetter
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian
from tests.cli.shop import SIDE, Shop, call

import medaegis as ma
from medaegis.images import load_dataset

UNKNOWN_SYNTAX = "1.2.826.0.1.3680043.8.498.1"


def drawn(shop: Shop, count: int) -> np.ndarray:
    """Some images of both classes."""
    dataset = load_dataset(shop.spec, size=SIDE, channels="gray", limit=count)
    return dataset.images[:, 0].numpy()


def png(path: Path, pixels: np.ndarray, mode: str | None = None) -> None:
    image = Image.fromarray(pixels)
    (image if mode is None else image.convert(mode)).save(path, "PNG")


def bomb(path: Path) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 0, 0, 0, 0)
    data = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(10_000))) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + data)


def dicom(
    path: Path, pixels: np.ndarray | None, *, syntax: str = ExplicitVRLittleEndian, inverted: bool = False
) -> None:
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = syntax
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = "1.2.840.10008.5.1.4.1.1.7", "1.2.3"
    made = FileDataset("", {}, file_meta=meta, preamble=bytes(128), is_implicit_VR=False, is_little_endian=True)
    made.SOPClassUID, made.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    made.PatientName, made.PatientID = "ZZSECRETZZ^NAME", "ZZSECRETZZ"
    if pixels is not None:
        made.SamplesPerPixel, made.PhotometricInterpretation = 1, "MONOCHROME1" if inverted else "MONOCHROME2"
        made.Rows, made.Columns = pixels.shape[-2:]
        if pixels.ndim == 3:
            made.NumberOfFrames = len(pixels)
        made.BitsAllocated = made.BitsStored = 8
        made.HighBit, made.PixelRepresentation = 7, 0
        made.PixelData = pixels.tobytes()
        made["PixelData"].VR = "OB"
    made.save_as(path, enforce_file_format=True)


@pytest.fixture(scope="module")
def batch(shop: Shop, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Good files of many kinds beside every bad one of the acceptance list."""
    folder = tmp_path_factory.mktemp("batch")
    images = drawn(shop, 4)
    png(folder / "good.png", images[0])
    png(folder / "good-palette.png", images[0], "P")
    Image.fromarray(images[1].astype(np.uint16) * 257).save(folder / "good-16bit.png")
    dicom(folder / "good.dcm", images[2])
    dicom(folder / "good-monochrome1.dcm", 255 - images[2], inverted=True)
    dicom(folder / "good-frames.dcm", images[1:4])
    Image.fromarray(images[0]).convert("CMYK").save(folder / "bad-cmyk.jpg", "JPEG")
    (folder / "bad-empty.png").write_bytes(b"")
    (folder / "bad-truncated.png").write_bytes((folder / "good.png").read_bytes()[:200])
    (folder / "bad-text.png").write_text("patient,age\n")
    bomb(folder / "bad-bomb.png")
    png(folder / "bad-dot.png", np.zeros((1, 1), np.uint8))
    dicom(folder / "bad-no-pixels.dcm", None)
    dicom(folder / "bad-syntax.dcm", images[3], syntax=UNKNOWN_SYNTAX)
    (folder / "bad-esc\x1b[2J.png").write_bytes(b"GIF89a")
    return folder


def test_a_batch_of_good_and_bad_files(shop: Shop, batch: Path):
    result = call("screen", shop.guard, batch, batch / "bad-missing.png", "--format", "jsonl")
    assert result.exit_code == 1
    assert "Traceback" not in result.stderr
    assert "ZZSECRETZZ" not in result.output
    found = [json.loads(line) for line in result.stdout.splitlines()]
    unreadable = {Path(one["file"]).name for one in found if one["status"] == "unreadable"}
    expected = {path.name for path in batch.iterdir() if path.name.startswith("bad-")} | {"bad-missing.png"}
    assert unreadable == expected
    judged = [one for one in found if one["status"] != "unreadable"]
    assert all(one["remedy"] for one in found if one["status"] == "unreadable")
    assert sorted(Path(one["file"]).name for one in judged) == sorted(
        [*(path.name for path in batch.iterdir() if path.name.startswith("good")), "good-frames.dcm", "good-frames.dcm"]
    )
    assert [one["frame"] for one in judged if one["frames"] == 3] == [0, 1, 2]
    assert f"{len(expected)} unreadable" in result.stderr
    closing = result.stderr[result.stderr.index("Unreadable:") :]
    assert all(name.replace("\x1b", "\\x1b") in closing for name in expected)
    assert "\x1b" not in closing


def test_in_python_it_is_the_same(shop: Shop, batch: Path, tmp_path: Path):
    told = call("screen", shop.guard, batch, batch / "bad-missing.png", "--quarantine", tmp_path, "--format", "jsonl")
    guard = ma.load(shop.guard)
    assert isinstance(guard, ma.Guard)
    found = list(guard.screen([batch, str(batch / "bad-missing.png")], quarantine=tmp_path))
    records = [json.loads(line) for line in told.stdout.splitlines()]
    place = itemgetter("file", "frame")
    assert sorted(records, key=place) == sorted((one.record() for one in found), key=place)
    assert all(isinstance(one.path, Path) and one.reason for one in found)
    assert {one.finding is None for one in found if one.status == "unreadable"} == {True}
    assert [one.diagnosis for one in guard.screen(str(batch / "good.png"))] == [
        one["diagnosis"] for one in records if one["file"] == str(batch / "good.png")
    ]


def test_the_same_pixels_get_the_same_finding_whatever_the_file(shop: Shop, batch: Path):
    result = call("screen", shop.guard, batch, "--format", "jsonl")
    score = {
        (Path(one["file"]).name, one["frame"]): one["suspicion"]
        for one in map(json.loads, result.stdout.split("\n")[:-1])
    }
    assert score["good.png", 0] == score["good-palette.png", 0]
    assert score["good.dcm", 0] == score["good-monochrome1.dcm", 0]
    # Frames of a file are judged together, and a network rounds otherwise for three images than for one.
    assert score["good-frames.dcm", 1] == pytest.approx(score["good.dcm", 0], abs=1e-5)
    assert score["good-frames.dcm", 0] == pytest.approx(score["good-16bit.png", 0], abs=1e-5)


def test_one_frame_can_be_chosen(shop: Shop, batch: Path):
    result = call("screen", shop.guard, batch / "good-frames.dcm", "--frame", 2, "--format", "jsonl")
    assert [json.loads(line)["frame"] for line in result.stdout.splitlines()] == [2]
    missing = call("screen", shop.guard, batch / "good-frames.dcm", "--frame", 3, "--format", "jsonl")
    assert json.loads(missing.stdout)["status"] == "unreadable"
    assert missing.exit_code == 1


def noise(folder: Path, count: int) -> list[Path]:
    """Pictures that no Shield has seen anything like; whichever class they get, some are rejected."""
    rng = np.random.default_rng(5)
    files = []
    for i in range(count):
        files.append(folder / f"noise-{i}.png")
        png(files[-1], rng.integers(0, 256, (32, 32), dtype=np.uint8))
    return files


def test_only_accepted_images_get_a_diagnosis(shop: Shop, tmp_path: Path):
    for i, image in enumerate(drawn(shop, 24)):
        png(tmp_path / f"clean-{i:02d}.png", image)
    noise(tmp_path, 8)
    result = call("screen", shop.guard, tmp_path, "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(result.stdout)))
    assert len(rows) == 32
    assert {row["status"] for row in rows} == {"accepted", "rejected"}
    for row in rows:
        accepted = row["status"] == "accepted"
        assert bool(row["diagnosis"]) == accepted
        assert bool(row["probability"]) == accepted
        assert (float(row["suspicion"]) <= 1) == accepted
    table = call("screen", shop.guard, tmp_path)
    assert table.stdout.count("withheld") == sum(row["status"] == "rejected" for row in rows)
    assert table.exit_code == result.exit_code == 1


def test_exit_code_is_0_when_all_are_accepted(shop: Shop, tmp_path: Path):
    for i, image in enumerate(drawn(shop, 12)):
        png(tmp_path / f"{i}.png", image)
    found = [json.loads(line) for line in call("screen", shop.guard, tmp_path, "--format", "jsonl").stdout.splitlines()]
    accepted = [one["file"] for one in found if one["status"] == "accepted"]
    assert accepted
    assert call("screen", shop.guard, *accepted).exit_code == 0


def test_quarantine_copies_and_overwrites_nothing(shop: Shop, tmp_path: Path):
    source, kept = tmp_path / "in", tmp_path / "in" / "quarantine"
    kept.mkdir(parents=True)
    files = noise(source, 8)
    (kept / "noise-0.png").write_bytes(b"of somebody else")
    (kept / "noise-1.png").symlink_to(tmp_path / "outside.png")
    first = call("screen", shop.guard, source, "--quarantine", kept, "--format", "jsonl")
    found = [json.loads(line) for line in first.stdout.splitlines()]
    assert len(found) == 8  # what lies in the quarantine is not screened
    for one in found:
        copy = one["quarantined_as"]
        assert (copy is not None) == (one["status"] == "rejected")
        if copy is not None:
            assert Path(copy).read_bytes() == Path(one["file"]).read_bytes()
    assert any(one["quarantined_as"] for one in found)
    assert all(path.is_file() for path in files)  # copied, not moved
    assert (kept / "noise-0.png").read_bytes() == b"of somebody else"
    assert not (tmp_path / "outside.png").exists()
    before = sorted(kept.iterdir())
    call("screen", shop.guard, source, "--quarantine", kept)
    assert sorted(kept.iterdir()) == before  # a second screening makes no second copies


def test_a_folder_without_images_is_wrong_use(shop: Shop, tmp_path: Path):
    result = call("screen", shop.guard, tmp_path)
    assert result.exit_code == 2
    assert "no image in it" in result.stderr


CLASSES = "1.2.840.10008.5.1.4.1.1."


def of_kind(path: Path, pixels: np.ndarray, sop_class: str, **elements: str) -> Path:
    """A DICOM file of some kind, with these pixels."""
    dicom(path, pixels)
    made = pydicom.dcmread(path)
    made.SOPClassUID = made.file_meta.MediaStorageSOPClassUID = CLASSES + sop_class
    for keyword, value in elements.items():
        setattr(made, keyword, value)
    made.save_as(path, enforce_file_format=True)
    return path


def test_a_whole_slide_is_withheld_by_a_guard_that_does_not_say_what_it_is_for(shop: Shop, tmp_path: Path):
    images = drawn(shop, 4)
    slide = of_kind(tmp_path / "slide.dcm", np.stack(images), "77.1.6", Modality="SM")
    result = call("screen", shop.guard, slide, "--format", "jsonl")
    (one,) = map(json.loads, result.stdout.splitlines())  # the file, not each of its frames
    assert (one["status"], one["diagnosis"], one["frames"]) == ("unsupported", None, 4)
    assert "slide microscopy (SM)" in one["reason"]
    assert "--any-kind" in one["remedy"]
    assert result.exit_code == 1
    table = call("screen", shop.guard, slide)
    assert "1 unsupported" in table.stderr
    assert "Of a kind that the guard is not for:" in table.stderr
    forced = call("screen", shop.guard, slide, "--any-kind", "--format", "jsonl")
    found = [json.loads(line) for line in forced.stdout.splitlines()]
    assert [one["frame"] for one in found] == [0, 1, 2, 3]
    assert all(one["suspicion"] is not None and "slide microscopy" in one["other_kind"] for one in found)
    assert "4 images of kinds that the guard is not for were judged" in forced.stderr


def test_a_guard_for_chest_films_withholds_other_kinds(shop: Shop, tmp_path: Path):
    guard = tmp_path / "guard"
    options = ["--shields", shop.guard, "--for", "CR,DX", "--body-part", "CHEST", "--out", guard]
    fitted = call("fit", shop.classifier, shop.spec, *options)
    assert fitted.exit_code == 0, fitted.output
    assert "CR, DX of CHEST" in fitted.stdout
    assert "CR, DX of CHEST" in call("verify", guard).stdout
    told = json.loads(call("verify", guard, "--json").stdout)
    assert told["purpose"]["modalities"] == ["CR", "DX"]
    image = drawn(shop, 1)[0]
    png(tmp_path / "says nothing.png", image)
    of_kind(tmp_path / "chest.dcm", image, "1", Modality="CR", BodyPartExamined="CHEST")
    of_kind(tmp_path / "no part.dcm", image, "1.1", Modality="DX")
    of_kind(tmp_path / "hand.dcm", image, "1", Modality="CR", BodyPartExamined="HAND")
    of_kind(tmp_path / "liver.dcm", image, "2", Modality="CT")
    of_kind(tmp_path / "capture.dcm", image, "7")
    of_kind(tmp_path / "odd.dcm", image, "77.1.6", Modality="CR")
    files = sorted([*tmp_path.glob("*.dcm"), *tmp_path.glob("*.png")])
    result = call("screen", guard, *files, "--format", "jsonl")
    found = {Path(one["file"]).stem: one["status"] for one in map(json.loads, result.stdout.splitlines())}
    judged = {"says nothing", "chest", "no part"}
    assert {name for name, status in found.items() if status == "unsupported"} == set(found) - judged
    assert len({found[name] for name in judged}) == 1  # the same pixels, so the same verdict
    assert "HAND" not in result.output


def test_body_part_needs_a_modality(shop: Shop, tmp_path: Path):
    result = call("fit", shop.classifier, shop.spec, "--body-part", "CHEST", "--out", tmp_path / "guard")
    assert result.exit_code == 2
    assert "needs --for" in result.stderr
