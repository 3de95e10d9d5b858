"""What a guard says of one image."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from torch import Tensor

from medaegis.attacks.victim import Verdict
from medaegis.errors import MedaegisError
from medaegis.task import PredictionTask

log = logging.getLogger(__name__)
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
        accepted: only then is there a diagnosis, or a mask.
        reason: "accepted"; "suspicious" (the Shield does not trust the activations); "blank" (there is next to nothing
            in the picture); "error" (something failed).
        detail: the reason in words, without patient data.
        label: class the classifier predicts on the cushioned image; None for a blank image and after an error. For an
            image that is not accepted this is evidence for an investigation, not a diagnosis.
        probabilities: class name -> softmax probability; empty where there is no label.
        score: suspicion, 0 for a typical clean image, above 1 rejected; None where there is no label.
        cushion: what a random Cushion drew for this image, with which the finding can be repeated; None where the
            Cushion is not random.
        mask: of a guard for masks, the class number of each pixel, uint8 `(H, W)`, in the size that the network sees.
            None unless accepted: a mask that is withheld is kept nowhere.
        areas: class name -> share of the pixels that the mask gives it; empty where there is none.
    """

    accepted: bool
    reason: Reason
    detail: str
    label: str | None
    probabilities: dict[str, float]
    score: float | None
    cushion: str | None = None
    mask: Tensor | None = field(default=None, repr=False, compare=False)
    areas: dict[str, float] = field(default_factory=dict)

    @property
    def mask_sha256(self) -> str | None:
        """SHA-256 (hex) of the mask's bytes, row by row; None where there is none."""
        return None if self.mask is None else hashlib.sha256(self.mask.contiguous().numpy().tobytes()).hexdigest()

    @property
    def diagnosis(self) -> str | None:
        """The label if the image was accepted, otherwise None: withheld."""
        return self.label if self.accepted else None


def blank(image: Tensor) -> Finding | None:
    """The finding of an image `(C, H, W)` that has too little contrast for any other; one flat colour has none.

    One with a value that is not finite is an error.
    """
    if not image.isfinite().all():
        return Finding(False, "error", "the image has a value that is not finite", None, {}, None)
    levels = round(255 * float((image.amax((-2, -1)) - image.amin((-2, -1))).max()))
    if levels >= FAINTEST:
        return None
    detail = f"blank or nearly so: {levels} of 255 grey levels, {FAINTEST} are the least"
    return Finding(False, "blank", detail, None, {}, None)


def findings_of(verdict: Verdict, classes: Sequence[str], task: PredictionTask) -> list[Finding]:
    """What verdicts come to, a finding each; one with a value that is not finite is an error."""
    masks = task.name == "dense"
    scores, accepted = verdict.score.tolist(), verdict.accepted.tolist()
    finite = (verdict.logits.isfinite().flatten(1).all(1) & verdict.score.isfinite()).tolist()
    probabilities = [] if masks else verdict.logits.softmax(1).tolist()
    findings = []
    for i, predicted in enumerate(verdict.predicted.cpu().unbind()):
        if not finite[i]:
            findings.append(Finding(False, "error", "the network gave a value that is not finite", None, {}, None))
            continue
        reason: Reason = "accepted" if accepted[i] else "suspicious"
        # What is rejected is never shown as what is allowed.
        above = f"suspicion {max(scores[i], 1.01):.2f}, 1.00 allowed"
        detail = "within the range of clean images" if accepted[i] else above
        label = None if masks else classes[int(predicted)]
        shares = {} if masks else dict(zip(classes, probabilities[i], strict=True))
        finding = Finding(accepted[i], reason, detail, label, shares, scores[i])
        if masks and accepted[i]:
            counts = predicted.flatten().bincount(minlength=len(classes)).tolist()
            areas = {name: count / predicted.numel() for name, count in zip(classes, counts, strict=True)}
            finding = replace(finding, mask=predicted.clone(), areas=areas)
        findings.append(finding)
    return findings


def failed(error: Exception) -> Finding:
    """The finding of an image that the guard could not judge; what the error says is shown where it is one of ours."""
    if not isinstance(error, MedaegisError):
        log.error("guard failed on an image: %s", type(error).__name__)
    detail = str(error) if isinstance(error, MedaegisError) else f"internal error ({type(error).__name__})"
    return Finding(False, "error", detail, None, {}, None)
