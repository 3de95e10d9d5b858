"""What a guard is for: other kinds of picture are named, whatever a file or a manifest claims."""

import json
import re
import shutil

import pytest
from pydicom.uid import UID
from safetensors.torch import load_file
from tests.guard.small import load, make_guard

from medaegis.artefact import write_folder
from medaegis.errors import ArtefactError, ConfigError
from medaegis.guard.purpose import CHEST, Purpose, asked_purpose, purpose_of, told_purpose, why_unsuited
from medaegis.images.kinds import MODALITIES, OBJECTS, UNASKED, Kind

CLASSES = "1.2.840.10008.5.1.4.1.1."
FILM, SLIDE, CAPTURE = CLASSES + "1", CLASSES + "77.1.6", CLASSES + "7"
CHESTS = Purpose(modalities=("CR", "DX"), body_parts=CHEST, colour=False)
CR = Kind("CR", FILM, "CHEST", False)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (CR, None),
        (Kind("DX", CLASSES + "1.1", "THORAX", False), None),
        (Kind("CR", FILM, "", False), None),  # many a file names no body part
        (Kind("CR", CAPTURE, "CHEST", False), None),  # a secondary capture can be of any modality
        (None, None),  # PNG and JPEG say nothing
        (Kind("CT", CLASSES + "2", "CHEST", False), "computed tomography"),
        (Kind("SM", SLIDE, "", True), "slide microscopy"),
        (Kind("", CAPTURE, "CHEST", False), "no known modality"),
        (Kind("OT", CAPTURE, "CHEST", False), "other"),
        (Kind("CR", SLIDE, "CHEST", False), "contradicts itself"),
        (Kind("CR", CLASSES + "2", "CHEST", False), "contradicts itself"),
        (Kind("CR", "", "CHEST", False), "contradicts itself: it is .*unknown kind"),
        (Kind("CR", FILM, "HAND", False), "another body part"),
        (Kind("CR", FILM, "CHEST", True), "in colour"),
    ],
)
def test_a_chest_guard_is_for_films_of_the_chest(kind, words):
    why = why_unsuited(CHESTS, kind)
    if words is None:
        assert why is None
    else:
        assert re.search(words, why)
        assert "HAND" not in why  # what a header says freely is not repeated


def test_whole_slides_and_maps_of_values_need_a_guard_that_asks_for_them():
    slide = Kind("SM", SLIDE, "", True)
    assert "does not say that it is for such pictures" in why_unsuited(None, slide)
    assert why_unsuited(None, Kind("CT", CLASSES + "2", "", False)) is None
    assert why_unsuited(Purpose(modalities=()), slide) is None
    assert why_unsuited(Purpose(modalities=("SM",)), slide) is None
    assert all(why_unsuited(None, Kind("OT", uid, "", False)) for uid in UNASKED)


def test_every_kind_of_object_is_a_registered_one_with_known_modalities():
    for uid in (*OBJECTS, *UNASKED):
        assert UID(uid).type == "SOP Class", uid
    assert all(modalities <= set(MODALITIES) for modalities in OBJECTS.values())


def test_the_training_data_say_what_a_guard_is_for():
    assert purpose_of("folder:/data", ()) is None
    assert purpose_of("folder:/data", [Kind("", CAPTURE, "", False)]) is None
    assert purpose_of("chest-xray:/data", ()).modalities == ("CR", "DX", "RG")
    assert purpose_of("phantom-xray?n=240", ()).modalities == ("CR", "DX", "RG")
    assert purpose_of("aptos2019:/data", ()) == Purpose(modalities=("OP",), colour=True, source="data set aptos2019")
    two = [CR, Kind("DX", CLASSES + "1.1", "THORAX", False)]
    assert purpose_of("folder:/data", two) == Purpose(
        modalities=("CR", "DX"), body_parts=("CHEST", "THORAX"), colour=False, source="training images"
    )
    mixed = purpose_of("chest-xray:/data", [CR, Kind("XC", CLASSES + "77.1.4", "", True)])
    assert (mixed.modalities, mixed.body_parts, mixed.colour) == (("CR", "XC"), (), None)


def test_options():
    assert asked_purpose("cr, DX", "chest") == Purpose(modalities=("CR", "DX"), body_parts=("CHEST",))
    assert asked_purpose("any", "") == Purpose(modalities=())
    for modalities, parts, words in [
        ("CR,KO", "", "'KO' is not known"),
        ("", "", "not known"),
        ("any", "CHEST", "any"),
    ]:
        with pytest.raises(ConfigError, match=words):
            asked_purpose(modalities, parts)
    with pytest.raises(ConfigError, match="no term of DICOM"):
        asked_purpose("CR", "chest; or so")
    assert told_purpose(asked_purpose("CR", "CHEST")) == "CR of CHEST; by fit"
    assert "not stated" in told_purpose(None)
    assert "any kind" in told_purpose(asked_purpose("any", ""))


def test_it_is_kept_with_the_guard(tmp_path):
    make_guard(training={"purpose": CHESTS.model_dump(mode="json")}).save(tmp_path / "g")
    guard = load(tmp_path / "g")
    assert guard.purpose == CHESTS
    assert guard.unsuited(CR) is None
    assert guard.unsuited(Kind("CT", CLASSES + "2", "", False)) is not None


def test_an_older_guard_is_for_what_its_data_set_is(tmp_path):
    make_guard(training={"data": {"spec": "chest-xray:PATH"}}).save(tmp_path / "g")
    assert load(tmp_path / "g").purpose.body_parts == CHEST
    make_guard().save(tmp_path / "h")
    assert load(tmp_path / "h").purpose is None


@pytest.mark.parametrize(
    "purpose",
    [
        "CR",
        {"modalities": "CR"},
        {"modalities": ["\x1b[2J"]},
        {"modalities": ["CR"] * 1000},
        {"modalities": ["CR"], "body_parts": ["<b>"]},
        {"modalities": ["CR"], "source": "\x1b]0;"},
        {"modalities": ["CR"], "more": 1},
        {},
    ],
)
def test_a_purpose_that_cannot_be_is_refused(tmp_path, purpose):
    make_guard().save(tmp_path / "g")
    manifest = json.loads((tmp_path / "g" / "manifest.json").read_text())
    manifest["guard"]["training"]["purpose"] = purpose
    tensors = {name: load_file(tmp_path / "g" / f"{name}.safetensors") for name in ("classifier", "shields")}
    shutil.rmtree(tmp_path / "g")
    write_folder(tmp_path / "g", kind="guard", manifest={"guard": manifest["guard"]}, tensors=tensors)
    with pytest.raises(ArtefactError, match="training"):
        load(tmp_path / "g")
