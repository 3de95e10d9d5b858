"""Colours of compressed DICOM, in every combination of header, markers and ids; the colour drawn is the oracle."""

import io
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import JPEG2000, JPEG2000Lossless, JPEGBaseline8Bit, RLELossless
from tests.images.dicom_files import RAMP, compressed, dataset, encapsulated, jpeg, write

from medaegis.errors import ImageError
from medaegis.images.readers import read_image

DRAWN = (200, 40, 90)
COLOUR = np.broadcast_to(np.array(DRAWN, np.uint8), (32, 32, 3)).copy()
JFIF = bytes.fromhex("ffe000104a46494600010100000100010000")
IDS = {"1,2,3": (1, 2, 3), "0,1,2": (0, 1, 2), "R,G,B": tuple(b"RGB")}


def adobe(transform: int) -> bytes:
    return b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0" + bytes([transform])


def rewritten(stream: bytes, *, markers: bytes, ids: tuple[int, ...]) -> bytes:
    """The same coded pixels with these markers alone, and these ids in frame and scan header."""
    out, at = bytearray(b"\xff\xd8" + markers), 2
    while stream[at + 1] != 0xDA:
        length = 2 + int.from_bytes(stream[at + 2 : at + 4], "big")
        segment = bytearray(stream[at : at + length])
        if segment[1] in (0xC0, 0xC3):
            for k in range(3):
                segment[10 + 3 * k] = ids[k]
        if segment[1] not in (0xE0, 0xEE):
            out += segment
        at += length
    rest = bytearray(stream[at:])
    for k in range(3):
        rest[5 + 2 * k] = ids[k]
    return bytes(out + rest)


def lossy(*, rgb: bool, subsampling: int = 0) -> bytes:
    return jpeg(COLOUR, subsampling=subsampling, **({"keep_rgb": True} if rgb else {}))


MARKERS = {"none": b"", "JFIF": JFIF, "Adobe 0": adobe(0), "Adobe 1": adobe(1), "JFIF, Adobe 1": JFIF + adobe(1)}
# What the markers say, by T.871, T.872 and libjpeg's reading of the ids R, G, B; a set of two is a contradiction.
SAID = {"none": set(), "JFIF": {"Y"}, "Adobe 0": {"R"}, "Adobe 1": {"Y"}, "JFIF, Adobe 1": {"Y"}}


@pytest.mark.parametrize("photometric", ["RGB", "YBR_FULL_422", "YBR_FULL"])
@pytest.mark.parametrize("ids", IDS)
@pytest.mark.parametrize("markers", MARKERS)
def test_jpeg_colours_are_right_or_refused(tmp_path: Path, photometric: str, ids: str, markers: str) -> None:
    header = "R" if photometric == "RGB" else "Y"
    said = SAID[markers] | ({"R"} if ids == "R,G,B" else set())
    stream = rewritten(lossy(rgb=header == "R"), markers=MARKERS[markers], ids=IDS[ids])
    made = encapsulated([stream], COLOUR, syntax=JPEGBaseline8Bit, PhotometricInterpretation=photometric)
    path = write(tmp_path / "a.dcm", made)
    if said <= {header}:
        picture = read_image(path)
        assert np.abs(picture.pixels[:, 5, 5] * 255 - DRAWN).max() <= 2
        assert ("to RGB" in picture.steps[-1]) == (header == "Y")
    else:
        reason = "contradicts itself" if len(said) > 1 else f"header says {photometric}, its JPEG is"
        with pytest.raises(ImageError, match=reason):
            read_image(path)


def test_subsampled_chroma_is_ycbcr_whatever_the_header_says(tmp_path: Path) -> None:
    for markers in (b"", JFIF, adobe(1)):
        stream = rewritten(lossy(rgb=False, subsampling=2), markers=markers, ids=(1, 2, 3))
        path = write(tmp_path / "a.dcm", encapsulated([stream], COLOUR, syntax=JPEGBaseline8Bit))
        picture = read_image(path)
        assert np.abs(picture.pixels[:, 5, 5] * 255 - DRAWN).max() <= 2
        assert "the header says RGB, the JPEG is" in picture.steps[-1]
    stream = rewritten(lossy(rgb=False, subsampling=2), markers=adobe(0), ids=(1, 2, 3))
    with pytest.raises(ImageError, match="contradicts itself"):
        read_image(write(tmp_path / "a.dcm", encapsulated([stream], COLOUR, syntax=JPEGBaseline8Bit)))


YBR = np.broadcast_to(np.array([93, 126, 204], np.uint8), (32, 32, 3)).copy()  # DRAWN by PS3.3 C.7.6.3.1.2


@pytest.mark.parametrize("photometric", ["RGB", "YBR_FULL"])
@pytest.mark.parametrize("ids", IDS)
@pytest.mark.parametrize("markers", MARKERS)
def test_lossless_jpeg_colours_are_right_or_refused(tmp_path: Path, photometric: str, ids: str, markers: str) -> None:
    header = "R" if photometric == "RGB" else "Y"
    said = SAID[markers] | ({"R"} if ids == "R,G,B" else set())
    path = compressed(tmp_path / "a.dcm", dataset(COLOUR if header == "R" else YBR), "jpeg-lossless")
    made = pydicom.dcmread(path)
    stream = next(generate_frames(made.PixelData, number_of_frames=1))
    made.PixelData = encapsulate([rewritten(stream, markers=MARKERS[markers], ids=IDS[ids])])
    made["PixelData"].is_undefined_length = True
    made.PhotometricInterpretation = photometric
    write(path, made)
    if said <= {header}:
        assert np.abs(read_image(path).pixels[:, 5, 5] * 255 - DRAWN).max() <= 1.5
    else:
        with pytest.raises(ImageError, match=r"contradict|header says"):
            read_image(path)


@pytest.mark.parametrize("name", ["rle", "jpeg-ls", "jpeg-lossless"])
def test_ybr_is_converted_once_by_every_coding(tmp_path: Path, name: str) -> None:
    path = compressed(tmp_path / "a.dcm", dataset(YBR, PhotometricInterpretation="YBR_FULL"), name)
    assert pydicom.dcmread(path).PhotometricInterpretation == "YBR_FULL"
    assert np.abs(read_image(path).pixels[:, 5, 5] * 255 - DRAWN).max() <= 1.5


def jpeg_2000(*, transformed: bool) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(COLOUR).save(stream, "JPEG2000", mct=int(transformed), no_jp2=True, irreversible=False)
    return stream.getvalue()


@pytest.mark.parametrize("photometric", ["RGB", "YBR_RCT", "YBR_FULL", "YBR_ICT", "YBR_FULL_422"])
@pytest.mark.parametrize("transformed", [True, False])
def test_jpeg_2000_colours_are_right_or_refused(tmp_path: Path, photometric: str, transformed: bool) -> None:
    made = encapsulated(
        [jpeg_2000(transformed=transformed)], COLOUR, syntax=JPEG2000Lossless, PhotometricInterpretation=photometric
    )
    path = write(tmp_path / "a.dcm", made)
    if photometric == "RGB" or (photometric == "YBR_RCT" and transformed):
        picture = read_image(path)
        assert np.abs(picture.pixels[:, 5, 5] * 255 - DRAWN).max() <= 0.01
        assert any("transform: undone" in step for step in picture.steps) == (transformed and photometric == "RGB")
    elif photometric == "YBR_FULL" and not transformed:  # the components are YCbCr then
        grey = encapsulated(
            [jpeg_2000(transformed=False)], COLOUR, syntax=JPEG2000, PhotometricInterpretation="YBR_FULL"
        )
        native = write(tmp_path / "b.dcm", dataset(COLOUR, PhotometricInterpretation="YBR_FULL"))
        np.testing.assert_array_equal(read_image(write(path, grey)).pixels, read_image(native).pixels)
    else:
        with pytest.raises(ImageError, match=r"transform|cannot hold"):
            read_image(path)


@pytest.mark.parametrize(
    ("syntax", "photometric"),
    [
        (RLELossless, "YBR_FULL_422"),
        (RLELossless, "YBR_RCT"),
        (JPEGBaseline8Bit, "YBR_ICT"),
        (JPEG2000, "YBR_FULL_422"),
    ],
)
def test_what_a_transfer_syntax_cannot_hold_is_refused(tmp_path: Path, syntax: str, photometric: str) -> None:
    made = encapsulated([b"\xff\xd8xx"], COLOUR, syntax=syntax, PhotometricInterpretation=photometric)
    with pytest.raises(ImageError, match=f"cannot hold {photometric}"):
        read_image(write(tmp_path / "a.dcm", made))


def test_ybr_that_no_table_of_the_standard_knows_is_refused(tmp_path: Path) -> None:
    deep = np.zeros((16, 18, 3), np.uint16)
    odd = np.zeros((16, 17, 3), np.uint8)
    for made, reason in [
        (dataset(deep, PhotometricInterpretation="YBR_FULL"), "8 are read"),
        (dataset(odd, PhotometricInterpretation="YBR_FULL_422"), "even number of columns"),
        (dataset(COLOUR, PhotometricInterpretation="YBR_FULL_422", PlanarConfiguration=1), "colours by pixel"),
        (dataset(COLOUR, PhotometricInterpretation="YBR_ICT"), "not compressed and yet YBR_ICT"),
    ]:
        with pytest.raises(ImageError, match=reason):
            read_image(write(tmp_path / "a.dcm", made))


def frame_header(bits: int, process: int = 0xC1) -> bytes:
    """A JPEG's start of frame (20 rows x 32 columns, grey) and the start of a scan."""
    frame = bytes([0xFF, process, 0, 11, bits, 0, 20, 0, 32, 1, 1, 0x11, 0])
    return b"\xff\xd8" + frame + bytes([0xFF, 0xDA, 0, 8, 1, 1, 0, 0, 63, 0]) + bytes(20) + b"\xff\xd9"


@pytest.mark.parametrize(
    ("syntax", "bits", "stored", "process", "reason"),
    [
        ("1.2.840.10008.1.2.4.51", 12, 12, 0xC1, "JPEG with 12 bits, which is valid"),
        ("1.2.840.10008.1.2.4.50", 12, 12, 0xC1, "JPEG with 12 bits, which is valid"),
        ("1.2.840.10008.1.2.4.51", 12, 8, 0xC1, "has 12 bits per sample, its header says 8 of 16"),
        ("1.2.840.10008.1.2.4.50", 8, 12, 0xC0, "has 8 bits per sample, its header says 12 of 16"),
        ("1.2.840.10008.1.2.4.50", 8, 8, 0xC3, "says JPEG Baseline, its frame is JPEG of start-of-frame type C3"),
        ("1.2.840.10008.1.2.4.70", 8, 8, 0xC0, "says JPEG Lossless SV1, its frame is JPEG of start-of-frame type C0"),
        ("1.2.840.10008.1.2.4.80", 8, 8, 0xC3, "says JPEG-LS Lossless, its frame is JPEG"),
        ("1.2.840.10008.1.2.4.90", 8, 8, 0xC3, "says JPEG 2000 Lossless, its frame is JPEG"),
    ],
)
def test_depth_and_process_must_be_those_declared(
    tmp_path: Path, syntax: str, bits: int, stored: int, process: int, reason: str
) -> None:
    made = encapsulated([frame_header(bits, process)], RAMP, syntax=syntax, bits=stored)
    with pytest.raises(ImageError, match=reason) as caught:
        read_image(write(tmp_path / "a.dcm", made))
    assert "12 bits, which is valid" not in str(caught.value) or "damaged" not in str(caught.value)


def test_grey_jpeg_needs_no_colour_and_has_no_sign(tmp_path: Path) -> None:
    smooth = np.add.outer(np.arange(32), np.arange(40)).astype(np.uint8)
    code = jpeg(smooth)
    code = code[:2] + adobe(1) + code[2:]  # of one component it says nothing
    path = write(tmp_path / "a.dcm", encapsulated([code], smooth, syntax=JPEGBaseline8Bit))
    assert np.abs(read_image(path).pixels[0] * 255 - smooth).max() <= 3
    made = encapsulated([code], smooth, syntax=JPEGBaseline8Bit, PixelRepresentation=1)
    with pytest.raises(ImageError, match="has no sign"):
        read_image(write(path, made))


def test_a_jpeg_cut_short_and_ended_properly_is_damaged(tmp_path: Path) -> None:
    rough = np.random.default_rng(3).integers(0, 256, (64, 64), dtype=np.uint8)
    for pixels in (rough, np.dstack([rough, rough.T, rough[::-1]])):
        code = jpeg(pixels)
        elements = {"PhotometricInterpretation": "YBR_FULL_422"} if pixels.ndim == 3 else {}
        for stream in (code[: len(code) * 2 // 3] + b"\xff\xd9", code[: len(code) * 2 // 3]):
            made = encapsulated([stream], pixels, syntax=JPEGBaseline8Bit, **elements)
            with pytest.raises(ImageError, match="damaged"):
                read_image(write(tmp_path / "a.dcm", made))


@pytest.mark.parametrize(
    ("element", "value", "words"),
    [
        ("PixelRepresentation", 1, "says unsigned, the header does not: the header is followed"),
        ("BitsStored", 16, "has 12 bits per sample, the header says 16"),
    ],
)
def test_sign_and_depth_that_differ_in_jpeg_2000_are_told(tmp_path: Path, element: str, value: int, words: str) -> None:
    values = np.arange(40 * 36, dtype=np.uint16).reshape(40, 36)  # below 2048, so the same with a sign
    window = {"WindowCenter": 700, "WindowWidth": 1401}
    path = compressed(tmp_path / "a.dcm", dataset(values, bits=12, **window), "jpeg2000")
    made = pydicom.dcmread(path)
    setattr(made, element, value)
    made.HighBit = made.BitsStored - 1
    picture = read_image(write(path, made))
    np.testing.assert_allclose(picture.pixels[0], np.clip((values - 699.5) / 1400 + 0.5, 0, 1), atol=1e-6)
    assert any(words in step for step in picture.steps)
