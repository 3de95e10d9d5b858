"""From stored values to display, by kind of object: signs of lookup tables, X-ray films, presentation LUT shapes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from tests.images.dicom_files import dataset, write

from medaegis.errors import ImageError
from medaegis.images.readers import Picture, read_image

SYNTAXES = [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian]
RAMP = np.tile(np.arange(16, dtype=np.uint16) * 273, (16, 1))  # 0 to 4095
LEVELS = RAMP[0].astype(float)
WINDOW = {"WindowCenter": 2048, "WindowWidth": 4096}
LINEAR = np.clip((LEVELS - 2047.5) / 4095 + 0.5, 0, 1)
CLASSES = "1.2.840.10008.5.1.4.1.1."


def lut(entries: np.ndarray, first: int, bits: int, *, vr: str = "", data: str = "OW", syntax: str = "") -> Sequence:
    """A sequence of one table; `vr` of its descriptor, `data` of its entries, as a writer may choose them."""
    item = Dataset()
    item.add_new("LUTDescriptor", vr or ("US" if first >= 0 else "SS"), [len(entries), first, bits])
    if data == "OW":
        item.add_new("LUTData", "OW", entries.astype(">u2" if syntax == ExplicitVRBigEndian else "<u2").tobytes())
    else:
        item.add_new("LUTData", data, entries.astype(np.uint16).astype(np.int16 if data == "SS" else int).tolist())
    return Sequence([item])


def shown(path: Path, made: Dataset) -> np.ndarray:
    return read_image(write(path / "a.dcm", made)).pixels[0, 0]


@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize("data", ["OW", "US", "SS"])
def test_the_sign_of_a_voi_lut_is_that_of_the_rescaled_values(tmp_path: Path, syntax: str, data: str) -> None:
    made = dataset(RAMP, syntax=syntax, bits=12, RescaleSlope=1, RescaleIntercept=-1024)
    made.VOILUTSequence = lut(np.arange(4096) * 16, -1024, 16, data=data, syntax=syntax)
    np.testing.assert_allclose(shown(tmp_path, made), LEVELS * 16 / 65535, atol=1e-6)


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_it_is_signed_for_signed_pixels_and_unsigned_after_a_modality_lut(tmp_path: Path, syntax: str) -> None:
    signed = (RAMP.astype(np.int16) - 2048).astype(np.int16)
    made = dataset(signed, syntax=syntax, VOILUTSequence=lut(np.arange(4096) * 16, -2048, 16, syntax=syntax))
    np.testing.assert_allclose(shown(tmp_path, made), LEVELS * 16 / 65535, atol=1e-6)
    # Signed pixels whose rescaled values are not: a table that begins above 32767 begins there, not below 0.
    made = dataset(signed, syntax=syntax, bits=12, RescaleSlope=16, RescaleIntercept=32768)
    made.HighBit, made.BitsStored = 11, 12
    made.VOILUTSequence = lut(np.linspace(0, 65535, 32768).astype(int), 32768, 16, vr="US", syntax=syntax)
    expected = np.linspace(0, 65535, 32768).astype(int)[np.clip((LEVELS - 2048) * 16, 0, 32767).astype(int)]
    np.testing.assert_allclose(shown(tmp_path, made), expected / 65535, atol=1e-6)
    # A modality LUT gives unsigned values, whatever the pixels were.
    made = dataset(signed, syntax=syntax, bits=12)
    made.ModalityLUTSequence = lut(np.arange(4096) * 8 + 32768, -2048, 16, syntax=syntax)
    made.ModalityLUTSequence[0].ModalityLUTType = "US"
    made.VOILUTSequence = lut(np.arange(32768) * 2, 32768, 16, vr="US", syntax=syntax)
    np.testing.assert_allclose(shown(tmp_path, made), LEVELS * 16 / 65535, atol=1e-6)


@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize("shared", [True, False])
def test_it_is_found_in_functional_groups_too(tmp_path: Path, syntax: str, shared: bool) -> None:
    rescale, view, group = Dataset(), Dataset(), Dataset()
    rescale.RescaleSlope, rescale.RescaleIntercept = 1, -1024
    view.VOILUTSequence = lut(np.arange(4096) * 16, -1024, 16, syntax=syntax)
    group.PixelValueTransformationSequence, group.FrameVOILUTSequence = Sequence([rescale]), Sequence([view])
    made = dataset(np.stack([RAMP, RAMP]), syntax=syntax, bits=12)
    if shared:
        made.SharedFunctionalGroupsSequence = Sequence([group])
    else:
        made.PerFrameFunctionalGroupsSequence = Sequence([group, group])
    picture = read_image(write(tmp_path / "a.dcm", made), frame=1)
    np.testing.assert_allclose(picture.pixels[0, 0], LEVELS * 16 / 65535, atol=1e-6)


@pytest.mark.parametrize(
    ("entries", "first", "bits", "reason"),
    [
        (np.arange(4096), 0, 16, "declares 16 bits, its largest entry has 12"),
        (np.arange(4096), 0, 14, "declares 14 bits, its largest entry has 12"),
        (np.arange(4096), 0, 8, "declares 8 bits and holds larger entries"),
        (np.arange(4096) * 16, 5000, 16, "is for values from 5000 to 9095, its pixels can be from 0 to 4095"),
        (np.arange(100) * 655, -101, 16, "is for values from -101 to -2, its pixels can be"),
    ],
)
def test_a_table_that_contradicts_itself_or_the_pixels_is_refused(
    tmp_path: Path, entries: np.ndarray, first: int, bits: int, reason: str
) -> None:
    with pytest.raises(ImageError, match=reason):
        shown(tmp_path, dataset(RAMP, bits=12, VOILUTSequence=lut(entries, first, bits)))


def test_a_palette_of_eight_bits_declared_as_sixteen_is_refused(tmp_path: Path) -> None:
    made = dataset(np.tile(np.arange(16, dtype=np.uint8), (16, 1)), PhotometricInterpretation="PALETTE COLOR")
    for name in ("Red", "Green", "Blue"):
        made.add_new(f"{name}PaletteColorLookupTableDescriptor", "US", [16, 0, 16])
        made.add_new(f"{name}PaletteColorLookupTableData", "OW", (np.arange(16) * 17).astype("<u2").tobytes())
    with pytest.raises(ImageError, match="palette declares 16 bits and holds none above 8"):
        read_image(write(tmp_path / "a.dcm", made))


def test_modality_lut_and_rescale_together_are_refused(tmp_path: Path) -> None:
    made = dataset(RAMP, bits=12, RescaleSlope=2, RescaleIntercept=0, ModalityLUTSequence=lut(np.arange(4096), 0, 16))
    with pytest.raises(ImageError, match="of which only one may be"):
        read_image(write(tmp_path / "a.dcm", made))


def of_class(sop_class: str, **elements: Any) -> Dataset:
    made = dataset(RAMP, bits=12, **WINDOW, **elements)
    made.SOPClassUID = made.file_meta.MediaStorageSOPClassUID = CLASSES + sop_class
    return made


CUBE = np.round(65535 * (np.arange(4096) / 4095) ** 4).astype(int)


@pytest.mark.parametrize(("sop_class", "left_out"), [("12.1", True), ("12.2", True), ("12.3", True), ("1", False)])
@pytest.mark.parametrize("way", ["table", "rescale"])
def test_of_an_angiogram_the_modality_lut_is_not_shown(
    tmp_path: Path, sop_class: str, left_out: bool, way: str
) -> None:
    """PS3.3 C.8.7.1.1.2; dcm2pnm of DCMTK does so for the same three classes."""
    elements = {"ModalityLUTSequence": lut(CUBE, 0, 16)} if way == "table" else {"RescaleSlope": 2}
    picture = read_image(write(tmp_path / "a.dcm", of_class(sop_class, **elements)))
    after = LEVELS if left_out else CUBE[RAMP[0]] if way == "table" else 2 * LEVELS
    np.testing.assert_allclose(picture.pixels[0, 0], np.clip((after - 2047.5) / 4095 + 0.5, 0, 1), atol=1e-6)
    assert any("left out" in step for step in picture.steps) == left_out


def test_enhanced_angiograms_have_no_modality_lut(tmp_path: Path) -> None:
    for sop_class in ("12.1.1", "12.2.1"):
        np.testing.assert_allclose(shown(tmp_path, of_class(sop_class)), LINEAR, atol=1e-6)
        with pytest.raises(ImageError, match="which its kind of object has not"):
            shown(tmp_path, of_class(sop_class, RescaleSlope=2))


def test_what_a_file_says_of_its_use_is_told(tmp_path: Path) -> None:
    def told(**elements: Any) -> str:
        picture: Picture = read_image(write(tmp_path / "a.dcm", of_class("12.1", **elements)))
        return " ".join(picture.steps)

    assert "subtract a mask" in told(RecommendedViewingMode="SUB")
    assert "for processing, not for display" in told(PresentationIntentType="FOR PROCESSING")
    assert "colours some of its grey" in told(PixelPresentation="COLOR")
    plain = told(
        RecommendedViewingMode="NAT", PresentationIntentType="FOR PRESENTATION", PixelPresentation="MONOCHROME"
    )
    assert "the file" not in plain


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("shape", ["", "IDENTITY", "INVERSE"])
@pytest.mark.parametrize("deep", [True, False])
def test_presentation_lut_shape_has_the_last_word(tmp_path: Path, photometric: str, shape: str, deep: bool) -> None:
    values, window, expected = (
        (RAMP, WINDOW, LINEAR) if deep else ((RAMP >> 4).astype(np.uint8), {}, (RAMP[0] >> 4) / 255)
    )
    elements = {"PresentationLUTShape": shape} if shape else {}
    made = dataset(values, bits=12 if deep else 8, PhotometricInterpretation=photometric, **window, **elements)
    picture = read_image(write(tmp_path / "a.dcm", made))
    inverted = shape == "INVERSE" if shape else photometric == "MONOCHROME1"
    np.testing.assert_allclose(picture.pixels[0, 0], 1 - expected if inverted else expected, atol=1e-6)
    contradiction = bool(shape) and (shape == "INVERSE") != (photometric == "MONOCHROME1")
    assert any("the shape is followed" in step for step in picture.steps) == contradiction
    assert any("inverted, so that" in step for step in picture.steps) == inverted


def test_other_presentation_luts_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="neither IDENTITY nor INVERSE"):
        shown(tmp_path, dataset(RAMP, PresentationLUTShape="LIN OD"))
    with pytest.raises(ImageError, match="presentation LUT, which belongs to a presentation state"):
        shown(tmp_path, dataset(RAMP, PresentationLUTSequence=lut(np.arange(4096), 0, 12)))
