"""What a guard says of one image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

FAINTEST = 16  # levels of 255 that some channel must span; a Shield may find a blank picture very typical of its class

Reason = Literal["accepted", "suspicious", "blank", "error"]


@dataclass(frozen=True)
class Finding:
    """What the guard says of one image.

    >>> import torch, medaegis as ma
    >>> guard = ma.load("tests/golden/guard", factory="tests.models.tiny_networks:tiny")
    >>> (finding,) = guard.inspect(torch.full((1, 1, 32, 32), 0.5))
    >>> finding.diagnosis is None, finding.accepted, finding.reason, finding.detail
    (True, False, 'blank', 'blank or nearly so: 0 of 255 grey levels, 16 are the least')

    Attributes:
        accepted: only then is there a diagnosis.
        reason: "accepted"; "suspicious" (the Shield does not trust the activations); "blank" (there is next to nothing
            in the picture); "error" (something failed).
        detail: the reason in words, without patient data.
        label: class the classifier predicts on the cushioned image; None for a blank image and after an error. For an
            image that is not accepted this is evidence for an investigation, not a diagnosis.
        probabilities: class name -> softmax probability; empty where there is no label.
        score: suspicion, 0 for a typical clean image, above 1 rejected; None where there is no label.
        cushion: what a random Cushion drew for this image, with which the finding can be repeated; None where the
            Cushion is not random.
    """

    accepted: bool
    reason: Reason
    detail: str
    label: str | None
    probabilities: dict[str, float]
    score: float | None
    cushion: str | None = None

    @property
    def diagnosis(self) -> str | None:
        """The label if the image was accepted, otherwise None: withheld."""
        return self.label if self.accepted else None


def blank(image: Tensor) -> Finding | None:
    """The finding of an image `(C, H, W)` that has too little contrast for any other; one flat colour has none."""
    levels = round(255 * float((image.amax((-2, -1)) - image.amin((-2, -1))).max()))
    if levels >= FAINTEST:
        return None
    detail = f"blank or nearly so: {levels} of 255 grey levels, {FAINTEST} are the least"
    return Finding(False, "blank", detail, None, {}, None)
