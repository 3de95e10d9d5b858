"""What kind of picture a DICOM file says it holds: modality, kind of object, body part, grey or colour.

Nothing here is about a patient, and only terms of the standard are repeated, for anything may stand in a header.
Source: DICOM PS3.3 C.7.3.1.1.1 (modality), C.7.6.1 (body part), PS3.4 B.5 (storage SOP classes).
"""

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

# Defined terms of Modality whose objects are pictures.
MODALITIES = {
    "CR": "computed radiography",
    "DX": "digital radiography",
    "RG": "radiographic imaging on film",
    "PX": "panoramic X-ray",
    "IO": "intra-oral radiography",
    "MG": "mammography",
    "XA": "X-ray angiography",
    "RF": "radiofluoroscopy",
    "RTIMAGE": "radiotherapy image",
    "CT": "computed tomography",
    "MR": "magnetic resonance",
    "US": "ultrasound",
    "IVUS": "intravascular ultrasound",
    "NM": "nuclear medicine",
    "PT": "positron emission tomography",
    "OP": "ophthalmic photography",
    "OPT": "ophthalmic tomography",
    "OCT": "optical coherence tomography",
    "IVOCT": "intravascular optical coherence tomography",
    "XC": "external-camera photography",
    "DMS": "dermoscopy",
    "ES": "endoscopy",
    "GM": "general microscopy",
    "SM": "slide microscopy",
    "TG": "thermography",
    "BI": "biomagnetic imaging",
    "CFM": "confocal microscopy",
    "OT": "other",
}

BODY_PART = r"^[A-Z0-9 _]{1,16}$"

_CLASSES = "1.2.840.10008.5.1.4.1.1."
# Kinds of object that hold a picture, and the modalities that such an object can be of.
OBJECTS: dict[str, frozenset[str]] = {
    _CLASSES + number: frozenset(modalities)
    for modalities, numbers in (
        (("CR", "DX", "RG", "PX", "IO"), ("1", "1.1", "1.1.1", "1.3", "1.3.1")),
        (("MG",), ("1.2", "1.2.1", "13.1.3", "13.1.4", "13.1.5")),
        (("CT",), ("2", "2.1", "2.2")),
        (("MR",), ("4", "4.1", "4.3", "4.4")),
        (("US", "IVUS"), ("3", "3.1", "6", "6.1", "6.2")),
        (("XA", "RF"), ("12.1", "12.1.1", "12.2", "12.2.1", "12.3")),
        (("XA", "DX", "CT"), ("13.1.1", "13.1.2")),
        (("IVOCT",), ("14.1", "14.2")),
        (("NM",), ("5", "20")),
        (("PT",), ("128", "128.1", "130")),
        (("RTIMAGE",), ("481.1",)),
        (("ES",), ("77.1.1",)),
        (("GM",), ("77.1.2",)),
        (("SM",), ("77.1.3", "77.1.6")),
        (("XC", "OP", "DMS", "ES", "GM"), ("77.1.4",)),
        (("DMS", "XC"), ("77.1.7",)),
        (("OP",), ("77.1.5.1", "77.1.5.2", "77.1.5.5", "77.1.5.6")),
        (("OPT", "OCT"), ("77.1.5.4", "77.1.5.8")),
        (tuple(MODALITIES), ("7", "7.1", "7.2", "7.3", "7.4")),  # secondary captures
    )
    for number in numbers
}
# Parts of a slide, and maps of values, are no picture to any classifier that was not made for just these.
UNASKED = frozenset(
    _CLASSES + number for number in ("77.1.6", "77.1.3", "66.4", "30", "481.2", "68.1", "77.1.5.3", "82.1")
)


@dataclass(frozen=True)
class Kind:
    """What a DICOM file says of its picture; "" where it says nothing, or nothing that the standard knows.

    Attributes:
        modality: a key of `MODALITIES`.
        object: UID of a registered kind of object (SOP class).
        body_part: as written, in capitals; for comparison only, never for a message.
        colour: whether it is in colour.
    """

    modality: str
    object: str
    body_part: str
    colour: bool

    def told(self) -> str:
        """In words that may be shown."""
        from pydicom.uid import UID

        name = str(UID(self.object).name).removesuffix(" Storage") if self.object else "object of an unknown kind"
        modality = f"{MODALITIES[self.modality]} ({self.modality})" if self.modality else "no known modality"
        return f"{modality}, {name}"


def read_kind(dataset: "Dataset") -> Kind:
    """The kind of picture that a header declares."""
    from pydicom.uid import UID

    def term(keyword: str) -> str:
        value = dataset.get(keyword)
        return value.strip().upper() if isinstance(value, str) else ""

    uid = UID(str(dataset.get("SOPClassUID") or ""))
    modality, body_part = term("Modality"), term("BodyPartExamined")
    return Kind(
        modality=modality if modality in MODALITIES else "",
        object=str(uid) if uid.type == "SOP Class" else "",
        body_part=body_part if re.match(BODY_PART, body_part) else "",
        colour=not term("PhotometricInterpretation").startswith("MONOCHROME"),
    )
