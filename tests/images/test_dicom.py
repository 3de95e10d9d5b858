"""DICOM: real files of every photometric interpretation and transfer syntax; the standard's formulas as the oracle."""

import io
import math
import os
import random
import signal
import struct
import traceback
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.encaps import generate_frames
from pydicom.pixels.processing import apply_modality_lut, apply_voi_lut
from pydicom.sequence import Sequence
from pydicom.uid import (
    JPEG2000,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    ImplicitVRLittleEndian,
    JPEGBaseline8Bit,
)
from tests.images.dicom_files import RAMP, SECRET, compressed, dataset, encapsulated, jpeg, table, write

from medaegis.errors import ImageError
from medaegis.images import isolated
from medaegis.images.readers import Limits, read_image

RNG = np.random.default_rng(11)
LINEAR = {"WindowCenter": 300, "WindowWidth": 200}


def read_back(path: Path, values: np.ndarray, *, frame: int = 0, **elements: Any) -> np.ndarray:
    return read_image(write(path / "made.dcm", dataset(values, **elements)), frame=frame).pixels


def standard_window(x: float, c: float, w: float, function: str) -> float:
    """PS3.3 C.11.2.1.2.1, C.11.2.1.3.1 and .2 word for word, with y from 0 to 1."""
    if function == "LINEAR":
        if x <= c - 0.5 - (w - 1) / 2:
            return 0.0
        if x > c - 0.5 + (w - 1) / 2:
            return 1.0
        return (x - (c - 0.5)) / (w - 1) + 0.5
    if function == "LINEAR_EXACT":
        if x <= c - w / 2:
            return 0.0
        if x > c + w / 2:
            return 1.0
        return (x - c) / w + 0.5
    return 1 / (1 + math.exp(-4 * (x - c) / w))


@pytest.mark.parametrize("function", [None, "LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize(("centre", "width"), [(300, 200), (40.5, 1), (0, 1000), (320, 7.5)])
def test_window_is_the_standards(tmp_path: Path, function: str | None, centre: float, width: float) -> None:
    elements = {"VOILUTFunction": function} if function else {}
    pixels = read_back(tmp_path, RAMP, bits=12, WindowCenter=centre, WindowWidth=width, **elements)
    expected = [standard_window(float(x), centre, width, function or "LINEAR") for x in RAMP.flat]
    np.testing.assert_allclose(pixels[0].ravel(), expected, atol=1e-6)


def test_signed_values_are_rescaled_before_the_window(tmp_path: Path) -> None:
    values = (RAMP.astype(np.int16) - 300) * 4
    made = dataset(values, RescaleSlope="0.5", RescaleIntercept="-100", WindowCenter=[-50, 7], WindowWidth=[300, 8])
    picture = read_image(write(tmp_path / "a.dcm", made))
    expected = [standard_window(float(x) * 0.5 - 100, -50, 300, "LINEAR") for x in values.flat]
    np.testing.assert_allclose(picture.pixels[0].ravel(), expected, atol=1e-6)
    assert picture.steps == (
        "DICOM, Explicit VR Little Endian, MONOCHROME2, 16 bits stored",
        "rescaled: value x 0.5 - 100",
        "window: centre -50, width 300 (LINEAR)",
    )


def test_monochrome1_is_the_negative_of_monochrome2(tmp_path: Path) -> None:
    straight = read_back(tmp_path, RAMP, bits=12, **LINEAR)
    inverted = read_back(tmp_path, RAMP, bits=12, PhotometricInterpretation="MONOCHROME1", **LINEAR)
    np.testing.assert_allclose(inverted, 1 - straight, atol=1e-6)
    # PresentationLUTShape INVERSE says the same thing again and must not invert twice.
    twice = read_back(
        tmp_path, RAMP, bits=12, PhotometricInterpretation="MONOCHROME1", PresentationLUTShape="INVERSE", **LINEAR
    )
    np.testing.assert_array_equal(twice, inverted)


def test_without_window_eight_bits_keep_their_range_and_more_are_stretched(tmp_path: Path) -> None:
    byte = RNG.integers(90, 120, (16, 18), dtype=np.uint8)
    np.testing.assert_allclose(read_back(tmp_path, byte)[0], byte / 255, atol=1e-7)
    np.testing.assert_allclose(read_back(tmp_path, byte >> 2, bits=6)[0], (byte >> 2) / 63, atol=1e-7)
    signed = byte.astype(np.int8)
    np.testing.assert_allclose(read_back(tmp_path, signed)[0], (signed + 128.0) / 255, atol=1e-7)
    np.testing.assert_allclose(
        read_back(tmp_path, signed, RescaleSlope=2, RescaleIntercept=1), read_back(tmp_path, signed)
    )
    np.testing.assert_allclose(read_back(tmp_path, RAMP + 50, bits=12)[0], RAMP / RAMP.max(), atol=1e-6)


def test_window_that_the_standard_forbids_is_not_used_and_says_so(tmp_path: Path) -> None:
    picture = read_image(write(tmp_path / "a.dcm", dataset(RAMP, WindowCenter=0, WindowWidth=0)))
    np.testing.assert_allclose(picture.pixels[0], RAMP / RAMP.max(), atol=1e-6)
    assert "window of width 0 is not allowed by the standard: not used" in picture.steps


def test_lookup_tables_agree_with_the_formula_and_with_pydicom(tmp_path: Path) -> None:
    modality = np.sort(RNG.integers(0, 1024, 500))  # pydicom, the peer, knows 8 and 16 bits only
    voi = np.sort(RNG.integers(0, 4096, 900))
    made = dataset(RAMP, bits=12)
    made.ModalityLUTSequence = table(modality, 60, 16)
    made.ModalityLUTSequence[0].ModalityLUTType = "US"
    made.VOILUTSequence = table(voi, 50, 12)
    picture = read_image(write(tmp_path / "a.dcm", made))
    after = modality[np.clip(RAMP.astype(int) - 60, 0, 499)]
    expected = voi[np.clip(after - 50, 0, 899)]
    np.testing.assert_allclose(picture.pixels[0], expected / 4095, atol=1e-6)
    peer = apply_voi_lut(apply_modality_lut(RAMP, made), made)
    np.testing.assert_allclose(picture.pixels[0], peer / 4095, atol=1e-6)
    assert "modality LUT applied (500 entries of 16 bits)" in picture.steps
    assert "VOI LUT applied (900 entries of 12 bits)" in picture.steps


@pytest.mark.parametrize("first", [60, -200])
def test_voi_lut_goes_before_the_window_and_maps_rescaled_values(tmp_path: Path, first: int) -> None:
    entries = np.arange(300) * 3
    made = dataset(
        RAMP, bits=12, RescaleIntercept=-250, RescaleSlope=1, VOILUTSequence=table(entries, first, 10), **LINEAR
    )
    expected = entries[np.clip(RAMP.astype(int) - 250 - first, 0, 299)] / 1023
    np.testing.assert_allclose(read_image(write(tmp_path / "a.dcm", made)).pixels[0], expected, atol=1e-6)


def test_padding_is_black_and_does_not_set_the_range(tmp_path: Path) -> None:
    values = RAMP.astype(np.int16) + 100
    values[:5] = -2000
    for photometric in ("MONOCHROME1", "MONOCHROME2"):
        made = dataset(values, PixelPaddingValue=-2000, PhotometricInterpretation=photometric)
        picture = read_image(write(tmp_path / "a.dcm", made))
        inside = (values[5:] - values[5:].min()) / (values[5:].max() - values[5:].min())
        inside = 1 - inside if photometric == "MONOCHROME1" else inside
        np.testing.assert_allclose(picture.pixels[0, 5:], inside, atol=1e-6)
        assert (picture.pixels[0, :5] == 0).all()
        assert "padding value: 160 pixels set to black" in picture.steps
    made = dataset(values)
    made.add_new("PixelPaddingValue", "US", 65536 - 2000)  # the same bits, written as unsigned
    np.testing.assert_array_equal(read_image(write(tmp_path / "b.dcm", made)).pixels[0, :5], 0)
    limited = dataset(RAMP, PixelPaddingValue=0, PixelPaddingRangeLimit=99, WindowCenter=50, WindowWidth=10)
    picture = read_image(write(tmp_path / "c.dcm", limited))
    assert (picture.pixels[0][RAMP <= 99] == 0).all()
    assert (picture.pixels[0][RAMP > 99] == 1).all()


def test_bits_above_those_stored_are_ignored(tmp_path: Path) -> None:
    dirty = RAMP | 0xF000
    np.testing.assert_array_equal(
        read_back(tmp_path, dirty, bits=12, **LINEAR), read_back(tmp_path, RAMP, bits=12, **LINEAR)
    )
    signed = (RAMP.astype(np.int16) - 300) & 0x0FFF  # 12-bit two's complement, sign not extended
    pixels = read_back(tmp_path, signed, bits=12, WindowCenter=0, WindowWidth=400)
    expected = [standard_window(float(x) - 300, 0, 400, "LINEAR") for x in RAMP.flat]
    np.testing.assert_allclose(pixels[0].ravel(), expected, atol=1e-6)


def test_constant_frames_are_read_and_say_so(tmp_path: Path) -> None:
    picture = read_image(write(tmp_path / "a.dcm", dataset(np.full((16, 16), 700, dtype=np.uint16))))
    assert (picture.pixels == 0).all()
    assert picture.steps[-1] == "constant: all pixels have one shade"


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian])
def test_native_transfer_syntaxes_and_frames(tmp_path: Path, syntax: str) -> None:
    deep = RNG.integers(0, 4096, (3, 16, 17), dtype=np.uint16)
    colour = RNG.integers(0, 256, (3, 17, 17, 3), dtype=np.uint8)
    path = write(tmp_path / "a.dcm", dataset(deep, syntax=syntax, bits=12, WindowCenter=2048, WindowWidth=4096))
    other = write(tmp_path / "b.dcm", dataset(colour, syntax=syntax))
    for frame in range(3):
        picture = read_image(path, frame=frame)
        assert (picture.frame, picture.frames, picture.bits) == (frame, 3, 12)
        np.testing.assert_allclose(picture.pixels[0], deep[frame] / 4095, atol=1e-3)
        np.testing.assert_allclose(
            read_image(other, frame=frame).pixels, np.moveaxis(colour[frame], 2, 0) / 255, atol=1e-6
        )
    with pytest.raises(ImageError, match="frame 3 was asked for, but it has 3 frames"):
        read_image(path, frame=3)


def test_colour_layouts(tmp_path: Path) -> None:
    colour = RNG.integers(0, 256, (16, 18, 3), dtype=np.uint8)
    expected = np.moveaxis(colour, 2, 0) / 255
    planar = dataset(colour, PlanarConfiguration=1, PixelData=np.moveaxis(colour, 2, 0).tobytes())
    np.testing.assert_allclose(read_image(write(tmp_path / "a.dcm", planar)).pixels, expected, atol=1e-6)
    deep = RNG.integers(0, 65536, (16, 18, 3), dtype=np.uint16)
    np.testing.assert_allclose(read_back(tmp_path, deep), np.moveaxis(deep, 2, 0) / 65535, atol=1e-6)


def test_ybr_full_is_turned_into_rgb(tmp_path: Path) -> None:
    ybr = RNG.integers(0, 256, (16, 18, 3), dtype=np.uint8)
    y, b, r = (ybr[..., k].astype(float) - (128 if k else 0) for k in range(3))
    # PS3.3 C.7.6.3.1.2, solved for RGB
    expected = np.stack([y + 1.402 * r, y - (0.114 * 1.772 * b + 0.299 * 1.402 * r) / 0.587, y + 1.772 * b])
    picture = read_image(write(tmp_path / "a.dcm", dataset(ybr, PhotometricInterpretation="YBR_FULL")))
    assert np.abs(picture.pixels * 255 - np.clip(expected, 0, 255)).max() <= 1.01
    assert picture.steps[-1] == "YBR_FULL to RGB"
    # 4:2:2 stores Y1 Y2 B R for two neighbours
    half = ybr.copy()
    half[:, 1::2, 1:] = half[:, ::2, 1:]
    packed = np.stack([half[:, ::2, 0], half[:, 1::2, 0], half[:, ::2, 1], half[:, ::2, 2]], axis=-1)
    full = read_image(write(tmp_path / "b.dcm", dataset(half, PhotometricInterpretation="YBR_FULL")))
    made = dataset(half, PhotometricInterpretation="YBR_FULL_422", PixelData=packed.tobytes())
    np.testing.assert_array_equal(read_image(write(tmp_path / "c.dcm", made)).pixels, full.pixels)


@pytest.mark.parametrize("bits", [8, 16])
def test_palette_colour(tmp_path: Path, bits: int) -> None:
    indices = RNG.integers(0, 40, (16, 18), dtype=np.uint8)
    tables = RNG.integers(0, 1 << bits, (3, 30)).astype(f"<u{bits // 8}")
    made = dataset(indices, PhotometricInterpretation="PALETTE COLOR")
    for name, entries in zip(("Red", "Green", "Blue"), tables, strict=True):
        made.add_new(f"{name}PaletteColorLookupTableDescriptor", "US", [30, 5, bits])
        made.add_new(f"{name}PaletteColorLookupTableData", "OW", entries.tobytes())
    picture = read_image(write(tmp_path / "a.dcm", made))
    expected = tables[:, np.clip(indices.astype(int) - 5, 0, 29)] / ((1 << bits) - 1)
    np.testing.assert_allclose(picture.pixels, expected, atol=1e-6)
    del made["BluePaletteColorLookupTableData"]
    with pytest.raises(ImageError, match="lookup table"):
        read_image(write(tmp_path / "b.dcm", made))


def test_one_bit_frames(tmp_path: Path) -> None:
    mask = RNG.random((2, 16, 16)) > 0.5
    made = dataset(mask.astype(np.uint8), BitsAllocated=1, BitsStored=1, HighBit=0)
    made.PixelData = np.packbits(mask.ravel(), bitorder="little").tobytes()
    np.testing.assert_array_equal(read_image(write(tmp_path / "a.dcm", made), frame=1).pixels[0], mask[1])


def test_functional_groups_of_a_frame_are_followed(tmp_path: Path) -> None:
    frames = np.stack([RAMP, RAMP])
    shared, first, second = Dataset(), Dataset(), Dataset()
    rescale, near, far = Dataset(), Dataset(), Dataset()
    rescale.RescaleSlope, rescale.RescaleIntercept = 2, -100
    near.WindowCenter, near.WindowWidth = 200, 100
    far.WindowCenter, far.WindowWidth = 700, 400
    shared.PixelValueTransformationSequence = Sequence([rescale])
    first.FrameVOILUTSequence, second.FrameVOILUTSequence = Sequence([near]), Sequence([far])
    made = dataset(frames, bits=12)
    made.SharedFunctionalGroupsSequence = Sequence([shared])
    made.PerFrameFunctionalGroupsSequence = Sequence([first, second])
    path = write(tmp_path / "a.dcm", made)
    for frame, (centre, width) in enumerate([(200, 100), (700, 400)]):
        expected = [standard_window(2.0 * x - 100, centre, width, "LINEAR") for x in RAMP.flat]
        np.testing.assert_allclose(read_image(path, frame=frame).pixels[0].ravel(), expected, atol=1e-6)


LOSSLESS = ["rle", "jpeg2000", "jpeg-lossless", "jpeg-ls"]


@pytest.mark.parametrize("name", LOSSLESS)
def test_lossless_compression_changes_no_pixel(tmp_path: Path, name: str) -> None:
    deep = RNG.integers(0, 4096, (3, 33, 37), dtype=np.uint16)
    options = {"bits": 12, "WindowCenter": 2048, "WindowWidth": 4096}
    plain = write(tmp_path / "a.dcm", dataset(deep, **options))
    packed = compressed(tmp_path / "b.dcm", dataset(deep, **options), name)
    assert pydicom.dcmread(packed).file_meta.TransferSyntaxUID.is_encapsulated
    for frame in range(3):
        one, other = read_image(plain, frame=frame), read_image(packed, frame=frame)
        np.testing.assert_array_equal(one.pixels, other.pixels)
        assert one.steps[1:] == other.steps[1:]
    with pytest.raises(ImageError, match="choose a frame from 0 to 2"):
        read_image(packed, frame=3)


@pytest.mark.parametrize("name", ["rle", "jpeg2000", "jpeg-lossless"])
def test_compressed_colour_and_signed_values(tmp_path: Path, name: str) -> None:
    colour = RNG.integers(0, 256, (40, 33, 3), dtype=np.uint8)
    pixels = read_image(compressed(tmp_path / "a.dcm", dataset(colour), name)).pixels
    np.testing.assert_allclose(pixels, np.moveaxis(colour, 2, 0) / 255, atol=1e-6)
    signed = RNG.integers(-2000, 2000, (40, 33), dtype=np.int16)
    path = compressed(tmp_path / "b.dcm", dataset(signed, WindowCenter=0, WindowWidth=4001, RescaleSlope=1), name)
    np.testing.assert_allclose(read_image(path).pixels[0], (signed + 0.5) / 4000 + 0.5, atol=1e-6)


def test_jpeg_baseline_grey_and_ybr(tmp_path: Path) -> None:
    smooth = (np.add.outer(np.arange(48) * 2, np.arange(40)) % 256).astype(np.uint8)
    made = encapsulated([jpeg(smooth)], smooth, syntax=JPEGBaseline8Bit, LossyImageCompression="01")
    picture = read_image(write(tmp_path / "a.dcm", made))
    assert np.abs(picture.pixels[0] * 255 - smooth).max() <= 3
    assert "compressed with loss before" in picture.steps[1]
    colour = np.dstack([smooth, smooth[::-1], np.full_like(smooth, 60)])
    code = jpeg(colour, subsampling=0)
    made = encapsulated([code], colour, syntax=JPEGBaseline8Bit, PhotometricInterpretation="YBR_FULL_422")
    picture = read_image(write(tmp_path / "b.dcm", made))
    shown = np.moveaxis(np.asarray(Image.open(io.BytesIO(code))), 2, 0)
    assert np.abs(picture.pixels * 255 - shown).max() <= 2
    assert picture.steps[-1] == "YBR_FULL_422 to RGB"


@pytest.mark.parametrize("bot", [True, False])
def test_only_the_frame_asked_for_is_decoded(tmp_path: Path, bot: bool) -> None:
    smooth = np.add.outer(np.arange(32), np.arange(40)).astype(np.uint8)
    frames = [jpeg(smooth), b"\xff\xd8 this frame is damaged ", jpeg(255 - smooth)]
    made = encapsulated(frames, np.stack([smooth] * 3), syntax=JPEGBaseline8Bit, bot=bot)
    path = write(tmp_path / "a.dcm", made)
    assert np.abs(read_image(path, frame=0).pixels[0] * 255 - smooth).max() <= 3
    assert np.abs(read_image(path, frame=2).pixels[0] * 255 - (255 - smooth)).max() <= 3
    with pytest.raises(ImageError, match="has no header that can be read"):
        read_image(path, frame=1)


def refusals() -> dict[str, tuple[Any, str]]:
    byte = RNG.integers(0, 256, (20, 18), dtype=np.uint8)

    def document(sop_class: str) -> Dataset:
        made = dataset(byte)
        for keyword in [*made.dir("Pixel"), "Rows", "Columns", "BitsStored", "BitsAllocated", "HighBit"]:
            if keyword in made:
                del made[keyword]
        made.SOPClassUID = made.file_meta.MediaStorageSOPClassUID = sop_class
        return made

    def float_pixels() -> Dataset:
        made = dataset(byte, PixelData=None, BitsAllocated=32)
        made.FloatPixelData = byte.astype("<f4").tobytes()
        return made

    declared = "1000 rows x 18 columns|20 rows x 18"
    return {
        "structured report": (
            lambda: document("1.2.840.10008.5.1.4.1.1.88.33"),
            r"no pixel data \(its object is Comprehensive SR Storage",
        ),
        "key objects": (
            lambda: document("1.2.840.10008.5.1.4.1.1.88.59"),
            "no pixel data .*Key Object Selection",
        ),
        "pdf": (lambda: document("1.2.840.10008.5.1.4.1.1.104.1"), "no pixel data .*Encapsulated PDF"),
        "no pixels": (lambda: dataset(byte, PixelData=None), "image header but no pixel data"),
        "float pixels": (float_pixels, "floating-point"),
        "unknown syntax": (
            lambda: encapsulated([b"xx"], byte, syntax="1.2.3.99"),
            "transfer syntax is not one that is registered",
        ),
        "mpeg": (
            lambda: encapsulated([b"xx"], byte, syntax="1.2.840.10008.1.2.4.102"),
            r"\(MPEG-4 AVC/H.264 .* is not supp",
        ),
        "deflated": (lambda: dataset(byte, syntax=DeflatedExplicitVRLittleEndian), "deflated"),
        "huge": (lambda: dataset(byte, Rows=60000, Columns=60000), "more than the limit"),
        "tiny": (lambda: dataset(byte[:1, :1]), "at least 16"),
        "too few bytes": (lambda: dataset(byte, Rows=200), "promises 3,600 bytes"),
        "too many frames": (lambda: dataset(byte, NumberOfFrames=2**31 - 1), "frames"),
        "frames missing": (lambda: dataset(byte, NumberOfFrames=5), "promises 1,800 bytes"),
        "frames below 0": (lambda: dataset(byte, NumberOfFrames=-3), "NumberOfFrames is -3"),
        "two heights": (lambda: dataset(byte, Rows=[20, 20]), "2 values of Rows"),
        "rows do not fit": (lambda: encapsulated([jpeg(byte)], byte, syntax=JPEGBaseline8Bit, Rows=1000), declared),
        "samples do not fit": (
            lambda: encapsulated([jpeg(np.dstack([byte] * 3))], byte, syntax=JPEGBaseline8Bit),
            "3 samp",
        ),
        "empty frame": (lambda: encapsulated([bytes(2)], byte, syntax=JPEG2000), "cannot be decoded|damaged"),
        "htj2k rubbish": (
            lambda: encapsulated([b"\xff\x4f\xff\x51" * 9], byte, syntax=HTJ2KLossless),
            "cannot|damaged",
        ),
        "argb": (lambda: dataset(byte, PhotometricInterpretation="ARGB"), r"\(ARGB\)"),
        "photometric": (lambda: dataset(byte, PhotometricInterpretation=SECRET[:12]), "missing or unknown"),
        "samples": (lambda: dataset(byte, SamplesPerPixel=4), "4 samples"),
        "32 bit": (lambda: dataset(RAMP.astype(np.uint32)), "32 of 32 bits"),
        "high bit": (lambda: dataset(RAMP, bits=12, HighBit=15), "HighBit is 15"),
        "stored above allocated": (lambda: dataset(byte, BitsStored=12, HighBit=11), "12 of 8"),
        "slope 0": (lambda: dataset(RAMP, RescaleSlope=0, RescaleIntercept=1), "RescaleSlope is 0"),
        "voi function": (lambda: dataset(RAMP, VOILUTFunction=SECRET[:9], **LINEAR), "VOILUTFunction"),
        "short table": (
            lambda: dataset(RAMP, VOILUTSequence=short_table()),
            "10 of 50",
        ),
        **{
            f"no {tag}": (lambda tag=tag: dataset(byte, **{tag: None}), tag)
            for tag in ("Rows", "Columns", "BitsAllocated")
        },
        **{
            f"no {tag}": (lambda tag=tag: dataset(byte, **{tag: None}), tag)
            for tag in ("SamplesPerPixel", "BitsStored")
        },
        "no sign": (lambda: dataset(byte, PixelRepresentation=None), "PixelRepresentation"),
    }


def short_table() -> Sequence:
    item = Dataset()
    item.add_new("LUTDescriptor", "US", [50, 0, 12])
    item.add_new("LUTData", "OW", np.arange(50, dtype="<u2").tobytes()[:20])
    return Sequence([item])


@pytest.mark.parametrize("name", refusals())
def test_bad_files_are_refused_with_their_reason_and_without_the_patient(
    tmp_path: Path, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    make, reason = refusals()[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's, on writing what is wrong on purpose
        path = write(tmp_path / "a.dcm", make())
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        with pytest.raises(ImageError, match=reason) as caught:
            read_image(path)
    assert not told
    assert capfd.readouterr() == ("", "")
    assert SECRET not in "".join(traceback.format_exception(caught.value))


def test_meta_group_without_transfer_syntax(tmp_path: Path) -> None:
    body = io.BytesIO()
    dataset(RAMP).save_as(body, enforce_file_format=True)
    data = body.getvalue()
    start = data.index(b"\x02\x00\x10\x00UI")
    length = struct.unpack("<H", data[start + 6 : start + 8])[0]
    (tmp_path / "a.dcm").write_bytes(data[:start] + data[start + 8 + length :])
    with pytest.raises(ImageError, match="no transfer syntax"):
        read_image(tmp_path / "a.dcm")


def test_deflated_bomb_is_refused_without_unpacking(tmp_path: Path) -> None:
    made = dataset(RAMP, syntax=DeflatedExplicitVRLittleEndian, PixelData=bytes(20_000_000))
    path = write(tmp_path / "a.dcm", made)
    assert path.stat().st_size < 50_000
    with pytest.raises(ImageError, match="deflated"):
        read_image(path)


def test_limits_are_the_callers(tmp_path: Path) -> None:
    path = write(tmp_path / "a.dcm", dataset(np.stack([RAMP] * 4)))
    for limits, reason in [
        (Limits(max_pixels=639), "limit of 639"),
        (Limits(min_side=21), "at least 21"),
        (Limits(max_frames=3), "more than 3 frames"),
        (Limits(max_file_bytes=1000), "limit of 1,000"),
    ]:
        with pytest.raises(ImageError, match=reason):
            read_image(path, limits=limits)


def test_patient_is_in_no_step(tmp_path: Path) -> None:
    assert SECRET not in repr(read_image(write(tmp_path / "a.dcm", dataset(RAMP, **LINEAR))).steps)


def test_implicit_body_under_an_explicit_syntax_is_read(tmp_path: Path) -> None:
    made = dataset(RAMP, bits=12, **LINEAR)
    expected = read_image(write(tmp_path / "a.dcm", made)).pixels
    made.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    write(tmp_path / "b.dcm", made)
    data = (tmp_path / "b.dcm").read_bytes()
    old, new = b"1.2.840.10008.1.2\0", b"1.2.840.10008.1.2.1\0"
    at = data.index(old)
    data = data[: at - 2] + struct.pack("<H", len(new)) + new + data[at + len(old) :]
    (tmp_path / "c.dcm").write_bytes(data)
    np.testing.assert_array_equal(read_image(tmp_path / "c.dcm").pixels, expected)


@pytest.mark.parametrize("name", ["native", "big endian", *LOSSLESS, "jpeg"])
def test_damage_anywhere_gives_a_picture_or_an_image_error(
    tmp_path: Path, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    values = RNG.integers(0, 4096, (2, 32, 32), dtype=np.uint16)
    path = tmp_path / "a.dcm"
    if name == "jpeg":
        byte = (values[0] >> 4).astype(np.uint8)
        write(path, encapsulated([jpeg(byte)], byte, syntax=JPEGBaseline8Bit))
    elif name in LOSSLESS:
        compressed(path, dataset(values, bits=12), name)
    else:
        syntax = ExplicitVRBigEndian if name == "big endian" else ImplicitVRLittleEndian
        write(path, dataset(values, syntax=syntax, bits=12, VOILUTSequence=table(np.arange(4096), 0, 12)))
    whole, rng, errors = path.read_bytes(), random.Random(name), []
    capfd.readouterr()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for _ in range(40):
            data = bytearray(whole[: rng.randrange(132, len(whole))] if rng.random() < 0.2 else whole)
            for _ in range(rng.choice([0, 1, 1, 4, 16])):
                data[rng.randrange(132, len(data))] = rng.randrange(256)
            path.write_bytes(data)
            try:
                pixels = read_image(path, frame=rng.choice([0, 0, 0, 1])).pixels
                assert 0 <= pixels.min() <= pixels.max() <= 1
            except ImageError as error:
                errors.append("".join(traceback.format_exception(error)))
    assert len(errors) > 5
    assert SECRET not in "".join(errors)
    assert not told
    assert capfd.readouterr() == ("", "")


def test_a_decoder_that_dies_costs_no_other_file(tmp_path: Path) -> None:
    path = compressed(tmp_path / "a.dcm", dataset(RAMP, bits=12), "jpeg-lossless")
    expected = read_image(path).pixels
    for child in isolated._idle:
        child.process.kill()
        child.process.wait()
    np.testing.assert_array_equal(read_image(path).pixels, expected)


def test_a_decoder_that_hangs_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = compressed(tmp_path / "a.dcm", dataset(RAMP, bits=12), "rle")
    read_image(path)
    monkeypatch.setattr(isolated, "SECONDS", 0.05)
    os.kill(isolated._idle[-1].process.pid, signal.SIGSTOP)  # it will answer nothing
    with pytest.raises(ImageError, match="cannot be decoded"):
        read_image(path)


def test_no_process_to_be_had_is_not_called_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = compressed(tmp_path / "a.dcm", dataset(RAMP, bits=12), "rle")
    isolated._close_all()
    monkeypatch.setattr(isolated.sys, "executable", str(tmp_path / "nothing"))
    with pytest.raises(ImageError, match="no process could be started"):
        read_image(path)


def test_threads_and_forks_get_the_same_pixels(tmp_path: Path) -> None:
    path = compressed(tmp_path / "a.dcm", dataset(np.stack([RAMP, RAMP[::-1]]), bits=12), "rle")
    expected = [read_image(path, frame=frame).pixels for frame in (0, 1)]
    filters = list(warnings.filters)
    with ThreadPoolExecutor(2) as pool:
        read = list(pool.map(lambda k: read_image(path, frame=k % 2).pixels, range(20)))
    for k, pixels in enumerate(read):
        np.testing.assert_array_equal(pixels, expected[k % 2])
    assert warnings.filters == filters
    pid = os.fork()
    if pid == 0:
        same = np.array_equal(read_image(path, frame=1).pixels, expected[1])
        isolated._close_all()
        os._exit(0 if same else 1)
    np.testing.assert_array_equal(read_image(path, frame=0).pixels, expected[0])
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_every_file_of_a_local_collection_is_read_or_refused_for_a_reason() -> None:
    folder = os.environ.get("MEDAEGIS_DATA")
    if not folder:
        pytest.skip("MEDAEGIS_DATA names no folder with real images (dicom/, chest_xray/, ...)")
    paths = sorted(Path(folder, "dicom").glob("*.dcm"))
    for name in ("chest_xray", "aptos2019", "isic"):
        paths += sorted(Path(folder, name).rglob("*.jp*g"))[:5]
    assert paths
    unclear = []
    for path in paths:
        try:
            picture = read_image(path)
        except ImageError as error:
            unclear += [str(error)] if "damaged, cut short" in error.problem else []
        else:
            assert np.isfinite(picture.pixels).all()
            assert picture.steps
    assert not unclear


def test_frames_written_are_the_frames_that_pydicom_sees(tmp_path: Path) -> None:
    """Guards the helper above: a test file with the wrong fragments would prove nothing."""
    path = compressed(tmp_path / "a.dcm", dataset(np.stack([RAMP] * 3), bits=12), "jpeg-ls")
    assert len(list(generate_frames(pydicom.dcmread(path).PixelData, number_of_frames=3))) == 3
