"""The guard: Cushion, classifier and the Shield of the predicted class, with one promise: when in doubt, withhold.

A guard is a folder of safetensors and JSON; loading it checks every byte and executes nothing from it.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from torch import Tensor, nn

from medaegis.artefact import digest, read_folder, write_folder
from medaegis.attacks.victim import Verdict, Victim
from medaegis.cushions import Cushion, Gradient, RandomCushion, parse_cushion
from medaegis.detectors.shield import Shield, ShieldBank
from medaegis.errors import ArtefactError, ConfigError, MedaegisError
from medaegis.guard.fingerprint import weights_fingerprint
from medaegis.guard.purpose import PURPOSE, Purpose, read_purpose, why_unsuited
from medaegis.guard.seen import Seen
from medaegis.images.kinds import Kind
from medaegis.models.classifier import Classifier
from medaegis.models.store import describe_classifier, rebuild_classifier

KIND = "guard"
SEEN = "seen"  # the file of hashes of the images it knows
log = logging.getLogger(__name__)

FAINTEST = 16  # levels of 255 that some channel must span; a Shield may find a blank picture very typical of its class

Reason = Literal["accepted", "suspicious", "blank", "error"]


@dataclass(frozen=True)
class Finding:
    """What the guard says of one image.

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


class TapManifest(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    shape: tuple[int, ...]


class ShieldManifest(BaseModel):
    """One Shield. Its taps are a list: the order of its heads counts, and JSON objects have none."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    taps: tuple[TapManifest, ...] = Field(min_length=1, max_length=64)
    width: int = Field(ge=1, le=1024)
    hidden: int = Field(ge=1, le=16384)


class GuardManifest(BaseModel):
    """What a guard folder says of itself beside the hashes.

    Attributes:
        classifier, cushion: descriptions by their own rooms.
        shields: taps and widths of each class's Shield, in the classifier's order.
        tnr: the true negative rate its thresholds were set for.
        calibration: figures reached on validation and test images.
        training: how it came about: data, split, configuration, seconds; "purpose": what it is for.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    classifier: dict[str, Any]
    cushion: dict[str, Any]
    shields: tuple[ShieldManifest, ...]
    tnr: float = Field(gt=0, lt=1)
    calibration: dict[str, Any] = {}
    training: dict[str, Any] = {}

    @field_validator("training")
    @classmethod
    def _purpose(cls, training: dict[str, Any]) -> dict[str, Any]:
        if training.get(PURPOSE) is not None:
            Purpose.model_validate(training[PURPOSE])
        return training


class Guard:
    """A classifier behind its protection.

    Args:
        classifier: the protected network, not frozen.
        cushion: filter in front of it.
        bank: calibrated Shields, one per class.
        tnr: the true negative rate they were calibrated for.
        calibration, training: facts for the manifest.
        digest: of the folder it was loaded from or saved to; empty before.
        seen: which images it knows; None where an earlier version wrote it.
    """

    def __init__(
        self,
        classifier: Classifier,
        cushion: Cushion,
        bank: ShieldBank,
        *,
        tnr: float,
        calibration: Mapping[str, Any] | None = None,
        training: Mapping[str, Any] | None = None,
        digest: str = "",
        seen: Seen | None = None,
    ) -> None:
        self.classifier, self.cushion = classifier, cushion
        # The same memory layout however it came about, so that a loaded guard computes the very bits of the saved one.
        bank.to(classifier.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.bank = bank.eval().requires_grad_(False)
        self.tnr, self.digest = tnr, digest
        self.calibration, self.training = dict(calibration or {}), dict(training or {})
        self.seen = seen
        self._exact = Victim(classifier, cushion=cushion, shields=bank, dtype=torch.float32)

    @property
    def classes(self) -> tuple[str, ...]:
        return self.classifier.classes

    @property
    def purpose(self) -> Purpose | None:
        """The kind of pictures it is for (`medaegis.guard.purpose`); None: not stated."""
        return read_purpose(self.training)

    def unsuited(self, kind: Kind | None) -> str | None:
        """Why pictures of this kind (`Picture.kind`) are none for this guard, in words; None: they may be judged."""
        return why_unsuited(self.purpose, kind)

    def fingerprint(self) -> str:
        """SHA-256 (hex) of all that verdicts depend on; the same before saving and after loading."""
        shapes = [shield.shapes for shield in self._shields()]
        told = [describe_classifier(self.classifier), self.cushion.manifest(), [list(s.items()) for s in shapes]]
        told += [weights_fingerprint(self.classifier), weights_fingerprint(self.bank)]
        return hashlib.sha256(json.dumps(told).encode()).hexdigest()

    def victim(self, *, gradient: Gradient = "bpda", dtype: torch.dtype | None = None) -> Victim:
        """The whole guard as the target of an attack (see `Victim`)."""
        return Victim(self.classifier, cushion=self.cushion, shields=self.bank, gradient=gradient, dtype=dtype)

    def judge(self, images: Tensor, *, ids: Tensor | None = None, seed: int = 0, batch_size: int = 16) -> Verdict:
        """Raw verdicts of `(N, C, H, W)` images in [0, 1]; errors propagate (`inspect` is the safe door).

        Images and verdicts stay on the images' device, wherever the guard computes. For measuring: the draws of a
        random Cushion repeat with `seed` and `ids` (None: positions), those of `inspect` do not.
        """
        return self._exact.verdicts(images, ids, seed=seed, batch_size=batch_size)

    @torch.no_grad()
    def classifier_logits(self, images: Tensor) -> Tensor:
        """Logits of the classifier alone, without Cushion and Shield."""
        logits: Tensor = self._exact.exact(images.to(self._exact.device))
        return logits.to(images.device)

    def inspect(self, images: Tensor, *, batch_size: int = 16, draws: Sequence[str] | None = None) -> list[Finding]:
        """One finding per image of `(N, C, H, W)` in [0, 1]; whatever goes wrong withholds the diagnosis.

        Images are float32 or float64. A failure in a batch is narrowed down to the images that cause it; the others get
        their findings. A random Cushion is drawn for each image by the operating system's randomness.

        Args:
            draws: to repeat findings, what was drawn for each image then (`Finding.cushion`).

        Raises:
            ConfigError: `images` is not a batch of images at all, so there is nothing to give findings for; `draws`
                that the Cushion never draws, or not one for each image.
        """
        if not isinstance(images, Tensor) or images.ndim != 4:
            given = f"shape {tuple(images.shape)}" if isinstance(images, Tensor) else type(images).__name__
            raise ConfigError("guard", f"got {given}, expected a tensor (N, C, H, W)", "add a batch dimension")
        if not isinstance(self.cushion, RandomCushion):
            if draws is not None:
                raise ConfigError("draws", f"the cushion {self.cushion.spec} is not random", "leave them out")
            return [finding for part in images.split(batch_size) for finding in self._inspect(part, None)]
        specs = self.cushion.fresh(len(images)) if draws is None else list(draws)
        if len(specs) != len(images):
            raise ConfigError("draws", f"{len(specs)} for {len(images)} images", "give one for each image")
        self.cushion.named(specs)
        found: list[Finding] = []
        for start in range(0, len(images), batch_size):
            rows = slice(start, start + batch_size)
            found += self._inspect(images[rows], specs[rows])
        return [replace(finding, cushion=spec) for finding, spec in zip(found, specs, strict=True)]

    def _inspect(self, images: Tensor, specs: list[str] | None) -> list[Finding]:
        """Findings of a batch, each image behind the cushion drawn for it (None: there is but one)."""
        try:
            victim = self._exact
            if isinstance(self.cushion, RandomCushion) and specs is not None:
                victim = victim.behind(self.cushion.named(specs))
            findings = self._findings(victim.judge(images.to(victim.device)).to(images.device))
            return [
                finding if finding.reason == "error" else _blank(image) or finding
                for image, finding in zip(images, findings, strict=True)
            ]
        except Exception as error:  # the boundary where every failure, foreseen or not, must end as "withheld"
            if len(images) < 2:
                return [self._failed(error) for _ in images]
        return [
            finding
            for i in range(len(images))
            for finding in self._inspect(images[i : i + 1], None if specs is None else specs[i : i + 1])
        ]

    def _findings(self, verdict: Verdict) -> list[Finding]:
        probabilities = verdict.logits.softmax(1).tolist()
        scores, accepted = verdict.score.tolist(), verdict.accepted.tolist()
        finite = (verdict.logits.isfinite().all(1) & verdict.score.isfinite()).tolist()
        findings = []
        for i, k in enumerate(verdict.predicted.tolist()):
            if not finite[i]:
                findings.append(Finding(False, "error", "the network gave a value that is not finite", None, {}, None))
                continue
            reason: Reason = "accepted" if accepted[i] else "suspicious"
            # What is rejected is never shown as what is allowed.
            above = f"suspicion {max(scores[i], 1.01):.2f}, 1.00 allowed"
            detail = "within the range of clean images" if accepted[i] else above
            shares = dict(zip(self.classes, probabilities[i], strict=True))
            findings.append(Finding(accepted[i], reason, detail, self.classes[k], shares, scores[i]))
        return findings

    def _failed(self, error: Exception) -> Finding:
        if not isinstance(error, MedaegisError):
            log.error("guard failed on an image: %s", type(error).__name__)
        detail = str(error) if isinstance(error, MedaegisError) else f"internal error ({type(error).__name__})"
        return Finding(False, "error", detail, None, {}, None)

    def save(self, path: Path | str, *, signing_key: Path | None = None) -> None:
        """Write the guard folder in one step (see `medaegis.artefact.write_folder` for errors); sets `digest`."""
        manifest = GuardManifest(
            classifier=describe_classifier(self.classifier),
            cushion=self.cushion.manifest(),
            shields=tuple(
                ShieldManifest(
                    taps=tuple(TapManifest(name=name, shape=shape) for name, shape in shield.shapes.items()),
                    width=shield.width,
                    hidden=shield.hidden,
                )
                for shield in self._shields()
            ),
            tnr=self.tnr,
            calibration=self.calibration,
            training=self.training,
        )
        parts = {"classifier": self.classifier.network, "shields": self.bank}
        write_folder(
            path,
            kind=KIND,
            manifest={"guard": manifest.model_dump(mode="json")},
            tensors={
                name: {key: value.detach().cpu().contiguous() for key, value in part.state_dict().items()}
                for name, part in parts.items()
            }
            | ({} if self.seen is None else {SEEN: self.seen.tensors()}),
            signing_key=signing_key,
        )
        self.digest = digest(path)

    def _shields(self) -> list[Shield]:
        return [shield for shield in self.bank.shields if isinstance(shield, Shield)]

    @classmethod
    def load(
        cls, path: Path | str, *, public_key: Path | None = None, factory: Callable[..., nn.Module] | None = None
    ) -> Guard:
        """Read a guard folder; every byte is checked and nothing in it is executed.

        Args:
            public_key: Ed25519 key that must have signed it.
            factory: builds the network of a user's own model (`load_factory`).

        Raises:
            ArtefactError: the folder is changed, incomplete or foreign; or this machine's codec gives other pixels
                than the one the guard was calibrated with.
        """
        folder = read_folder(path, kind=KIND, public_key=public_key)
        remedy = "fit the guard anew, or use the version that wrote it"
        try:
            manifest = GuardManifest.model_validate(folder.manifest.get("guard"))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise ArtefactError(path, f"guard entry {where!r}: {first['msg']}", remedy) from error
        classifier = rebuild_classifier(
            manifest.classifier, folder.tensors("classifier"), source=Path(path), factory=factory
        )
        if len(manifest.shields) != len(classifier.classes):
            raise ArtefactError(path, f"{len(manifest.shields)} Shields for {len(classifier.classes)} classes", remedy)
        try:
            cushion = parse_cushion(str(manifest.cushion.get("spec")))
            # Shapes first: nothing is built in a size that only the folder vouches for.
            for tap in (tap for told in manifest.shields for tap in told.taps):
                if tap.shape != tuple(classifier.tap_shapes([tap.name])[tap.name]):
                    raise ConfigError(f"tap {tap.name}", f"has not the shape {tap.shape}", remedy)
            bank = ShieldBank(
                [
                    Shield({tap.name: tap.shape for tap in told.taps}, width=told.width, hidden=told.hidden)
                    for told in manifest.shields
                ]
            )
            bank.load_state_dict(folder.tensors("shields"))
        except (ConfigError, RuntimeError) as error:
            problem = " ".join(str(error).split())[:300]
            raise ArtefactError(path, f"its parts do not fit together: {problem}", remedy) from error
        if cushion.manifest()["probe"] != manifest.cushion.get("probe"):
            raise ArtefactError(
                path, f"the cushion {cushion.spec} gives other pixels here than where it was calibrated", remedy
            )
        return cls(
            classifier,
            cushion,
            bank,
            tnr=manifest.tnr,
            calibration=manifest.calibration,
            training=manifest.training,
            digest=folder.digest,
            seen=Seen.read(folder.tensors(SEEN), path) if SEEN in folder.tensor_names else None,
        )


def _blank(image: Tensor) -> Finding | None:
    """The finding of an image `(C, H, W)` that has too little contrast for any other; one flat colour has none."""
    levels = round(255 * float((image.amax((-2, -1)) - image.amin((-2, -1))).max()))
    if levels >= FAINTEST:
        return None
    detail = f"blank or nearly so: {levels} of 255 grey levels, {FAINTEST} are the least"
    return Finding(False, "blank", detail, None, {}, None)
