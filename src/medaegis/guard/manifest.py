"""What a guard folder says of itself beside the hashes of its files."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

from medaegis.detectors.shield import ShieldManifest
from medaegis.guard.purpose import PURPOSE, Purpose
from medaegis.validation import Share

Version = Annotated[int, Field(ge=10**13, lt=10**14)]


class CalibrationManifest(BaseModel):
    """Figures of the calibration that are shown; there may be more."""

    model_config = ConfigDict(frozen=True, extra="allow")

    tnr_chosen: Share | None = None
    tnr_reached: Share | None = None
    accuracy: Share | None = None


class GuardManifest(BaseModel):
    """What a guard folder says of itself beside the hashes.

    Attributes:
        classifier, cushion: descriptions by their own rooms.
        shields: taps and widths of each class's Shield, in the classifier's order.
        tnr: the true negative rate its thresholds were set for.
        calibration: figures reached on validation and test images.
        training: how it came about: data, split, configuration, seconds; "purpose": what it is for.
        version: when it was signed (UTC), the digits of year to second as one number: later is larger. None: unsigned.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    classifier: dict[str, Any]
    cushion: dict[str, Any]
    shields: tuple[ShieldManifest, ...]
    tnr: float = Field(gt=0.5, lt=1)
    calibration: CalibrationManifest = CalibrationManifest()
    training: dict[str, Any] = {}
    version: Version | None = None

    @field_validator("training")
    @classmethod
    def _purpose(cls, training: dict[str, Any]) -> dict[str, Any]:
        if training.get(PURPOSE) is not None:
            Purpose.model_validate(training[PURPOSE])
        return training
