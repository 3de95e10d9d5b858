"""What a guard is for, so that a picture of another kind is withheld and not diagnosed.

A chest guard may find a slice of a liver quite typical: a Shield tells tampered pictures from genuine ones of its kind,
not one kind from another. DICOM files say what they are; PNG and JPEG do not, and are judged.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from medaegis.errors import ConfigError
from medaegis.images.kinds import BODY_PART, MODALITIES, OBJECTS, UNASKED, Kind

CHEST = ("CHEST", "THORAX")
FILMS = ("CR", "DX", "RG")
ANY = "any"
PURPOSE = "purpose"  # its key among the facts of a guard's training


class Purpose(BaseModel):
    """The kind of picture that a guard was made for.

    Attributes:
        modalities: DICOM's terms; none: any, as somebody said.
        body_parts: DICOM's terms; none: not stated.
        colour: whether its pictures are in colour; None: not stated.
        source: who says so: "fit" (options), "training images" (their headers), or the data set's scheme.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    modalities: tuple[Annotated[str, Field(pattern=r"^[A-Z]{1,16}$")], ...] = Field(max_length=64)
    body_parts: tuple[Annotated[str, Field(pattern=BODY_PART)], ...] = Field(default=(), max_length=64)
    colour: bool | None = None
    source: str = Field(default="fit", pattern=r"^[a-z0-9 -]{1,64}$")


def told_purpose(purpose: Purpose | None) -> str:
    """In words, for people."""
    if purpose is None:
        return "not stated; DICOM pictures of nearly any kind are judged (fit --for says what it is for)"
    if not purpose.modalities:
        return f"any kind of picture, by {purpose.source}"
    parts = ", ".join(purpose.modalities)
    if purpose.body_parts:
        parts += f" of {' or '.join(purpose.body_parts)}"
    if purpose.colour is not None:
        parts += ", in colour" if purpose.colour else ", grey"
    return f"{parts}; by {purpose.source}"


# Data sets whose pictures are of one known kind, whatever format they come in.
OF_SCHEME = {
    **dict.fromkeys(("chest-xray", "nih14", "covid19-radiography", "phantom-xray"), (FILMS, CHEST, False)),
    **dict.fromkeys(("aptos2019", "messidor", "messidor2", "idrid", "phantom-fundus"), (("OP",), (), True)),
    **dict.fromkeys(("isic", "isic2017", "ham10000", "phantom-skin"), (("DMS", "XC"), (), True)),
    "pad-ufes-20": (("XC",), (), True),
}


def purpose_of(spec: str, kinds: Iterable[Kind]) -> Purpose | None:
    """What the training data say: the kinds of their DICOM files, else their scheme; None: not stated."""
    stated = [kind for kind in kinds if kind.modality]
    if stated:
        parts = {kind.body_part for kind in stated}
        colours = {kind.colour for kind in stated}
        return Purpose(
            modalities=tuple(sorted({kind.modality for kind in stated})),
            body_parts=() if "" in parts else tuple(sorted(parts)),
            colour=colours.pop() if len(colours) == 1 else None,
            source="training images",
        )
    scheme = re.split("[:?]", spec)[0]
    if scheme not in OF_SCHEME:
        return None
    modalities, body_parts, colour = OF_SCHEME[scheme]
    return Purpose(modalities=modalities, body_parts=body_parts, colour=colour, source=f"data set {scheme}")


def read_purpose(training: Mapping[str, Any]) -> Purpose | None:
    """The purpose among the facts of a guard's training; where an older version wrote none, by its data's scheme."""
    if training.get(PURPOSE) is not None:
        return Purpose.model_validate(training[PURPOSE])
    return purpose_of(str(training.get("data", {}).get("spec", "")), ())


def asked_purpose(modalities: str, body_parts: str) -> Purpose:
    """A purpose from options: terms with commas between, or "any".

    Raises:
        ConfigError: a term that is none of DICOM's modalities.
    """
    parts = _terms(body_parts)
    if modalities.strip().lower() == ANY:
        if parts:
            raise ConfigError("body part", f"{body_parts!r} beside any modality", "name the modalities")
        return Purpose(modalities=())
    terms = _terms(modalities)
    unknown = [term for term in terms if term not in MODALITIES]
    for part in parts:
        if not re.match(BODY_PART, part):
            raise ConfigError("body part", f"{part!r} is no term of DICOM", "use terms such as CHEST,THORAX")
    if unknown or not terms:
        known = ", ".join(MODALITIES)
        raise ConfigError("modality", f"{(unknown or [modalities])[0]!r} is not known", f"use any, or some of {known}")
    return Purpose(modalities=terms, body_parts=parts)


def _terms(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(term for part in text.split(",") if (term := part.strip().upper())))


def why_unsuited(purpose: Purpose | None, kind: Kind | None) -> str | None:
    """Why a picture of this kind is none for a guard of that purpose, in words; None: it may be judged.

    Args:
        purpose: None: the guard does not say. Whatever is a picture to some classifier is judged then.
        kind: None: the file does not say (PNG, JPEG and so on).
    """
    if kind is None or (purpose is not None and not purpose.modalities):
        return None
    if purpose is None:
        unasked = kind.object in UNASKED
        return f"it is {kind.told()}, and the guard does not say that it is for such pictures" if unasked else None
    if kind.modality not in purpose.modalities:
        return f"it is {kind.told()}; the guard is for {', '.join(purpose.modalities)}"
    if kind.modality not in OBJECTS.get(kind.object, ()):
        return f"it contradicts itself: it is {kind.told()}"
    if purpose.colour is not None and kind.colour != purpose.colour:
        given, wanted = ("in colour", "grey") if kind.colour else ("grey", "in colour")
        return f"it is {given}; the guard is for pictures that are {wanted}"
    if purpose.body_parts and kind.body_part and kind.body_part not in purpose.body_parts:
        return f"it names another body part than the guard is for ({', '.join(purpose.body_parts)})"
    return None
