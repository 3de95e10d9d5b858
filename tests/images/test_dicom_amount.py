"""As many pixels as the header promises: fewer, more, other frames than declared, and files without their preamble."""

import io
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, encapsulate_extended
from pydicom.uid import (
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    RLELossless,
)
from tests.images.dicom_files import RAMP, SECRET, compressed, dataset, encapsulated, jpeg, write

from medaegis.errors import ImageError
from medaegis.images.readers import read_image
from medaegis.images.search import find_images

BYTE = (RAMP % 256).astype(np.uint8)
COLOUR = np.dstack([BYTE, BYTE[::-1], BYTE[:, ::-1]])


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian])
def test_more_bytes_than_promised_are_refused(tmp_path: Path, syntax: str) -> None:
    cases = {
        "three frames": (dataset(np.stack([BYTE] * 3), syntax=syntax, NumberOfFrames=None), "640 .* holds 1,920"),
        "16 bits": (dataset(RAMP, syntax=syntax, BitsAllocated=8, BitsStored=8, HighBit=7), "640 .* holds 1,280"),
        "full YBR": (dataset(COLOUR, syntax=syntax, PhotometricInterpretation="YBR_FULL_422"), "1,280 .* holds 1,920"),
        "three colours": (
            dataset(COLOUR, syntax=syntax, SamplesPerPixel=1, PhotometricInterpretation="MONOCHROME2"),
            "640 .* holds 1,920",
        ),
        "two bytes": (dataset(BYTE, syntax=syntax, PixelData=BYTE.tobytes() + bytes(2)), "640 .* holds 642"),
    }
    for name, (made, reason) in cases.items():
        with pytest.raises(ImageError, match=reason):
            read_image(write(tmp_path / f"{name}.dcm", made))
    odd = BYTE[:17, :17]
    assert read_image(write(tmp_path / "odd.dcm", dataset(odd, syntax=syntax))).pixels.shape == (
        1,
        17,
        17,
    )  # one pad byte


def test_frames_that_a_compressed_file_does_not_declare_are_refused(tmp_path: Path) -> None:
    deep = np.arange(40 * 36, dtype=np.uint16).reshape(40, 36)
    frames = np.stack([deep, deep[::-1], deep])
    for name in ("rle", "jpeg2000", "jpeg-lossless", "jpeg-ls"):
        path = compressed(tmp_path / "a.dcm", dataset(frames, bits=12), name)
        made = pydicom.dcmread(path)
        for declared in (1, 2):
            made.NumberOfFrames = declared
            write(path, made)
            for frame in range(declared):
                with pytest.raises(ImageError, match=f"declares {declared} frames, its compressed pixels hold 3"):
                    read_image(path, frame=frame)
    codes = [jpeg(BYTE), jpeg(255 - BYTE)]
    for bot in (True, False):
        path = write(tmp_path / "b.dcm", encapsulated(codes, BYTE, syntax=JPEGBaseline8Bit, bot=bot))
        with pytest.raises(ImageError, match="declares 1 frames, its compressed pixels hold 2"):
            read_image(path)
    glued = encapsulated([b"".join(codes)], BYTE, syntax=JPEGBaseline8Bit)
    with pytest.raises(ImageError, match="more than one picture"):
        read_image(write(tmp_path / "c.dcm", glued))
    extended = encapsulated(codes, np.stack([BYTE] * 2), syntax=JPEGBaseline8Bit, NumberOfFrames=1)
    extended.PixelData, extended.ExtendedOffsetTable, extended.ExtendedOffsetTableLengths = encapsulate_extended(codes)
    with pytest.raises(ImageError, match="declares 1 frames, its compressed pixels hold 2"):
        read_image(write(tmp_path / "d.dcm", extended))


def test_one_frame_in_several_fragments_is_one_frame(tmp_path: Path) -> None:
    made = dataset(BYTE, syntax=JPEGBaseline8Bit)
    made.PixelData = encapsulate([jpeg(BYTE)], fragments_per_frame=3)
    made["PixelData"].is_undefined_length = True
    several = read_image(write(tmp_path / "a.dcm", made)).pixels
    whole = read_image(write(tmp_path / "b.dcm", encapsulated([jpeg(BYTE)], BYTE, syntax=JPEGBaseline8Bit))).pixels
    np.testing.assert_array_equal(several, whole)


@pytest.mark.parametrize("declared", [0, None, ""])
def test_no_number_of_frames_is_one_frame(tmp_path: Path, declared: int | str | None) -> None:
    made = dataset(RAMP, WindowCenter=320, WindowWidth=641)
    if declared is not None:
        made.NumberOfFrames = declared
    picture = read_image(write(tmp_path / "a.dcm", made))
    np.testing.assert_allclose(picture.pixels[0].ravel(), (np.arange(640) - 319.5) / 640 + 0.5, atol=1e-6)
    assert picture.frames == 1
    assert ("the header says 0 frames: taken as 1" in picture.steps) == (declared == 0)
    with pytest.raises(ImageError, match="use frame 0"):
        read_image(tmp_path / "a.dcm", frame=1)


def test_native_and_compressed_pixels_are_not_taken_for_each_other(tmp_path: Path) -> None:
    made = encapsulated([jpeg(BYTE)], BYTE, syntax=JPEGBaseline8Bit)
    write(tmp_path / "a.dcm", made)
    data = (tmp_path / "a.dcm").read_bytes()
    native = data.replace(b"UI\x16\x001.2.840.10008.1.2.4.50", b"UI\x14\x001.2.840.10008.1.2.1\0", 1)
    assert native != data
    group = native.index(b"\x02\0\0\0UL\x04\0") + 8
    length = int.from_bytes(native[group : group + 4], "little") - 2
    (tmp_path / "b.dcm").write_bytes(native[:group] + length.to_bytes(4, "little") + native[group + 4 :])
    with pytest.raises(ImageError, match="a native one, its pixels are in fragments"):
        read_image(tmp_path / "b.dcm")
    plain = dataset(BYTE)
    plain.file_meta.TransferSyntaxUID = RLELossless
    body = io.BytesIO()
    pydicom.dcmwrite(body, dataset(BYTE), enforce_file_format=True)
    old, new = b"UI\x14\x001.2.840.10008.1.2.1\0", b"UI\x14\x001.2.840.10008.1.2.5\0"
    (tmp_path / "c.dcm").write_bytes(body.getvalue().replace(old, new, 1))
    with pytest.raises(ImageError, match="a compressed one, its pixels are not in fragments"):
        read_image(tmp_path / "c.dcm")


def test_the_transfer_syntax_is_named_only_where_it_is_registered(tmp_path: Path) -> None:
    whole = write(tmp_path / "a.dcm", encapsulated([b"xx"], BYTE, syntax=JPEG2000Lossless)).read_bytes()
    for syntax in (f"1.2.{SECRET}.1980.01", "1.2.3.19700101.4.5.678", "1.2.840.10008.5.1.4.31"):
        assert len(syntax) == len(JPEG2000Lossless)
        (tmp_path / "a.dcm").write_bytes(whole.replace(JPEG2000Lossless.encode(), syntax.encode(), 1))
        with pytest.raises(ImageError, match="is not one that is registered") as caught:
            read_image(tmp_path / "a.dcm")
        assert syntax not in str(caught.value)
    write(tmp_path / "b.dcm", encapsulated([b"xx"], BYTE, syntax="1.2.840.10008.1.2.4.100"))
    with pytest.raises(ImageError, match=r"transfer syntax \(MPEG2 Main Profile / Main Level\) is not supported"):
        read_image(tmp_path / "b.dcm")


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian, "rle"])
def test_a_file_without_preamble_and_suffix_is_found_and_read(tmp_path: Path, syntax: str) -> None:
    whole, bare = tmp_path / "whole.dcm", tmp_path / "folder" / "IM0001"
    bare.parent.mkdir()
    if syntax == "rle":
        compressed(whole, dataset(RAMP, bits=12), "rle")
    else:
        write(whole, dataset(RAMP, syntax=syntax, bits=12))
    bare.write_bytes(whole.read_bytes()[132:])
    assert find_images([bare.parent]) == [bare]
    np.testing.assert_array_equal(read_image(bare).pixels, read_image(whole).pixels)


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian])
@pytest.mark.parametrize("first", ["SOPClassUID", "SpecificCharacterSet", "ImageType"])
def test_a_data_set_without_file_meta_group_is_named(tmp_path: Path, syntax: str, first: str) -> None:
    made = Dataset()
    made.update(dataset(RAMP))
    if first == "SpecificCharacterSet":
        made.SpecificCharacterSet = "ISO_IR 100"
    elif first == "ImageType":
        made.ImageType = ["ORIGINAL", "PRIMARY"]
    body = io.BytesIO()
    pydicom.dcmwrite(
        body, made, implicit_vr=syntax == ImplicitVRLittleEndian, little_endian=syntax != ExplicitVRBigEndian
    )
    (tmp_path / "IM0001").write_bytes(body.getvalue())
    assert body.getvalue()[128:132] != b"DICM"
    assert find_images([tmp_path]) == [tmp_path / "IM0001"]
    with pytest.raises(ImageError, match="without the file meta group") as caught:
        read_image(tmp_path / "IM0001")
    assert SECRET not in str(caught.value)


def test_what_is_no_dicom_is_not_taken_for_one(tmp_path: Path) -> None:
    for name, content in {
        "notes": b"patient,age\n1,50\n",
        "zeros": bytes(400),
        "small numbers": np.arange(200, dtype="<u2").tobytes(),
        "words": np.full(200, 8, "<u2").tobytes(),
        "doubles": np.linspace(0, 1, 100).tobytes(),
    }.items():
        (tmp_path / name).write_bytes(content)
    assert find_images([tmp_path]) == []
