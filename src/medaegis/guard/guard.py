"""The guard: Cushion, classifier and the Shield of the predicted class, with one promise: when in doubt, withhold.

A guard is a folder of safetensors and JSON; loading it checks every byte and executes nothing from it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from medaegis.ambient import exact_float32, own_modes
from medaegis.artefact import digest, read_folder, write_folder
from medaegis.attacks.victim import Verdict, Victim, check_batch_size
from medaegis.cushions import Cushion, Drawable, Gradient, parse_cushion
from medaegis.detectors.shield import Shield, ShieldBank, ShieldManifest, check_bank, empty_bank, fill_bank
from medaegis.errors import ArtefactError, ConfigError
from medaegis.guard.finding import Finding, blank, failed, findings_of
from medaegis.guard.manifest import CalibrationManifest, GuardManifest
from medaegis.guard.purpose import Purpose, read_purpose, why_unsuited
from medaegis.guard.screening import Screened, screen
from medaegis.guard.seen import Seen
from medaegis.guard.watch import Watch, check_timeout
from medaegis.images.kinds import Kind
from medaegis.models.classifier import Classifier
from medaegis.models.fingerprint import weights_fingerprint
from medaegis.models.store import describe_classifier, rebuild_classifier
from medaegis.progress import Progress, silent
from medaegis.validation import read_entry

KIND = "guard"
SEEN = "seen"  # the file of hashes of the images it knows
SIGNED = "%Y%m%d%H%M%S"  # of the time of signing, which numbers a signed guard


class Guard:
    """A classifier behind its protection.

    >>> import medaegis as ma
    >>> guard = ma.load("tests/golden/guard", factory="tests.models.tiny_networks:tiny")  # or ma.fit(...)
    >>> data = ma.load_dataset("phantom-xray?n=8", size=32, channels="gray")
    >>> [finding.reason in ("accepted", "suspicious") for finding in guard.inspect(data.pixels([0, 1]))]
    [True, True]
    >>> guard.judge(data.pixels()).score.shape
    torch.Size([8])

    Args:
        classifier: the protected network, not frozen.
        cushion: filter in front of it.
        bank: calibrated Shields, one per class; of a network for masks one.
        tnr: the true negative rate they were calibrated for.
        calibration, training: facts for the manifest.
        digest: of the folder it was loaded from or saved to; empty before.
        seen: which images it knows; None where an earlier version wrote it.
        version: of the signed folder it was loaded from or saved to, see `GuardManifest`; None if it is not signed.
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
        version: int | None = None,
    ) -> None:
        self.classifier, self.cushion = classifier, cushion
        # The same memory layout however it came about, so that a loaded guard computes the very bits of the saved one.
        bank.to(classifier.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.bank = bank.eval().requires_grad_(False)
        self.tnr, self.digest, self.version = tnr, digest, version
        self.calibration, self.training = dict(calibration or {}), dict(training or {})
        self.seen = seen
        self._watch = Watch()
        self._exact = Victim(classifier, cushion=cushion, shields=bank, dtype=torch.float32)

    @property
    def classes(self) -> tuple[str, ...]:
        return self.classifier.classes

    @property
    def judged(self) -> tuple[str, ...]:
        """What its Shields judge, a name for each: the classes, or the mask."""
        return self.classifier.task.shields(self.classes)

    def to(self, device: torch.device | str) -> Guard:
        """Move it to a device; returns itself. Verdicts differ by the rounding of float32 alone."""
        self.classifier.to(device)
        self.bank.to(device)
        self._exact = Victim(self.classifier, cushion=self.cushion, shields=self.bank, dtype=torch.float32)
        return self

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

    @own_modes()
    def judge(self, images: Tensor, *, ids: Tensor | None = None, seed: int = 0, batch_size: int = 16) -> Verdict:
        """Raw verdicts of `(N, C, H, W)` images in [0, 1]; errors propagate (`inspect` is the safe door).

        Images and verdicts stay on the images' device, wherever the guard computes. For measuring: the draws of a
        random Cushion repeat with `seed` and `ids` (None: positions), those of `inspect` do not.
        """
        return self._exact.verdicts(images, ids, seed=seed, batch_size=batch_size)

    @own_modes()
    @exact_float32()
    @torch.no_grad()
    def classifier_logits(self, images: Tensor) -> Tensor:
        """Logits of the classifier alone, without Cushion and Shield."""
        logits: Tensor = self._exact.exact(images.to(self._exact.device))
        return logits.to(images.device)

    @own_modes()
    def inspect(
        self, images: Tensor, *, batch_size: int = 16, draws: Sequence[str] | None = None, timeout: float | None = None
    ) -> list[Finding]:
        """One finding per image of `(N, C, H, W)` in [0, 1]; whatever goes wrong withholds the diagnosis, or the mask.

        Images are float32 or float64. A failure in a batch is narrowed down to the images that cause it; the others get
        their findings. A random Cushion is drawn for each image by the operating system's randomness.

        Args:
            draws: to repeat findings, what was drawn for each image then (`Finding.cushion`).
            timeout: seconds for each batch. Without an answer by then the batch is withheld, and so is all that is
                asked while that pass goes on, for it cannot be interrupted (see `Watch`). None: no limit.

        Raises:
            ConfigError: `images` is not a batch of images at all, so there is nothing to give findings for; `draws`
                that the Cushion never draws, or not one for each image; `batch_size` or `timeout` not above 0.
        """
        _check_images(images)
        check_batch_size(batch_size)
        check_timeout(timeout)
        specs = self._drawn(len(images), draws)
        found: list[Finding] = []
        for start in range(0, len(images), batch_size):
            rows = slice(start, start + batch_size)
            found += self._within(timeout, images.detach()[rows], None if specs is None else specs[rows])
        if specs is None:
            return found
        return [replace(finding, cushion=spec) for finding, spec in zip(found, specs, strict=True)]

    def _drawn(self, count: int, draws: Sequence[str] | None) -> list[str] | None:
        """What stands before each of so many images: what was drawn then, or is drawn now; None: nothing is random."""
        if not isinstance(self.cushion, Drawable):
            if draws is not None:
                raise ConfigError("draws", f"the cushion {self.cushion.spec} is not random", "leave them out")
            return None
        specs = self.cushion.fresh(count) if draws is None else list(draws)
        if len(specs) != count:
            raise ConfigError("draws", f"{len(specs)} for {count} images", "give one for each image")
        self.cushion.named(specs)
        return specs

    def screen(
        self,
        paths: os.PathLike[str] | str | Iterable[os.PathLike[str] | str],
        *,
        frame: int | None = None,
        quarantine: Path | str | None = None,
        masks: Path | str | None = None,
        draw: str | None = None,
        any_kind: bool = False,
        timeout: float | None = None,
        progress: Progress = silent,
    ) -> Iterator[Screened]:
        """Judge files: each as it is read, one that takes long does not keep the others back, its frames are in order.

        What `medaegis screen` does. No image raises: what cannot be read is a record that says so.

        >>> import tempfile, medaegis as ma
        >>> from PIL import Image
        >>> guard = ma.load("tests/golden/guard", factory="tests.models.tiny_networks:tiny")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Image.new("L", (40, 30), 128).save(f"{folder}/a.png")
        ...     found = list(guard.screen([folder, "no/such/file.dcm"]))
        >>> sorted((one.path.name, one.status, one.reason) for one in found)
        [('a.png', 'rejected', 'blank or nearly so: 0 of 255 grey levels, 16 are the least'),
         ('file.dcm', 'unreadable', 'no such file or directory')]

        Args:
            paths: PNG, JPEG, TIFF, BMP, WebP and DICOM files by content, and folders, searched to any depth.
            frame: the one to judge of each file, from 0; None: all.
            quarantine: folder that files with a rejected or failed frame are copied to; nothing in it is judged.
            masks: of a guard for masks, folder that those of accepted images are written to as PNG (`keep_mask`), in
                the size that the network sees; nothing in it is judged.
            draw: to repeat verdicts, what was drawn of a random Cushion (`Finding.cushion`); None: anew for each image.
            any_kind: judge DICOM pictures of kinds that the guard is not for, too (see `unsuited`).
            timeout: seconds for each batch of images, see `inspect`.

        Returns:
            One record for each frame, as they come, and one for each place that could not be looked at.

        Raises:
            ConfigError: no image is there and every place could be looked at; a draw that the guard's Cushion never
                draws; `timeout` not above 0; `masks` of a guard that gives diagnoses.
        """
        check_timeout(timeout)
        self._drawn(1, None if draw is None else [draw])
        found = [Path(paths)] if isinstance(paths, str | os.PathLike) else [Path(path) for path in paths]
        return screen(
            self,
            found,
            frame=frame,
            quarantine=None if quarantine is None else Path(quarantine),
            masks=None if masks is None else Path(masks),
            draw=draw,
            any_kind=any_kind,
            timeout=timeout,
            progress=progress,
        )

    def _within(self, timeout: float | None, images: Tensor, specs: list[str] | None) -> list[Finding]:
        """Findings of a batch, withheld if they take longer than `timeout` seconds."""
        if timeout is None:
            return self._inspect(images, specs)
        try:
            return self._watch.run(lambda: self._inspect(images, specs), timeout)
        except TimeoutError as error:
            return [Finding(False, "error", str(error), None, {}, None) for _ in images]

    def _inspect(self, images: Tensor, specs: list[str] | None) -> list[Finding]:
        """Findings of a batch, each image behind the cushion drawn for it (None: there is but one)."""
        try:
            victim = self._exact
            if isinstance(self.cushion, Drawable) and specs is not None:
                victim = victim.behind(self.cushion.named(specs))
            verdict = victim.judge(images.to(victim.device)).to(images.device)
            findings = findings_of(verdict, self.classes, self.classifier.task)
            return [
                finding if finding.reason == "error" else blank(image) or finding
                for image, finding in zip(images, findings, strict=True)
            ]
        except Exception as error:  # the boundary where every failure, foreseen or not, must end as "withheld"
            if len(images) < 2:
                return [failed(error) for _ in images]
        return [
            finding
            for i in range(len(images))
            for finding in self._inspect(images[i : i + 1], None if specs is None else specs[i : i + 1])
        ]

    def save(self, path: Path | str, *, signing_key: Path | None = None) -> None:
        """Write the guard folder in one step; sets `digest` and, where it is signed, `version`: the time in UTC.

        Raises:
            ConfigError: Shields that are not calibrated or hold no sound numbers; also as `write_folder`.
            ArtefactError: as `medaegis.artefact.write_folder`.
        """
        check_bank(self.bank, self.bank.state_dict(), source="guard")
        version = None if signing_key is None else int(datetime.now(UTC).strftime(SIGNED))
        manifest = GuardManifest(
            classifier=describe_classifier(self.classifier),
            cushion=self.cushion.manifest(),
            shields=tuple(ShieldManifest.of(shield) for shield in self._shields()),
            tnr=self.tnr,
            calibration=CalibrationManifest(**self.calibration),
            training=self.training,
            version=version,
        )
        tensors = {"classifier": self.classifier.network.state_dict(), "shields": self.bank.state_dict()}
        write_folder(
            path,
            kind=KIND,
            manifest={"guard": manifest.model_dump(mode="json", exclude_unset=True)},
            tensors=tensors | ({} if self.seen is None else {SEEN: self.seen.tensors()}),
            signing_key=signing_key,
        )
        self.digest, self.version = digest(path), version

    def _shields(self) -> list[Shield]:
        return [shield for shield in self.bank.shields if isinstance(shield, Shield)]

    @classmethod
    @own_modes()
    def load(
        cls,
        path: Path | str,
        *,
        public_key: Path | None = None,
        min_version: int | None = None,
        factory: Callable[..., nn.Module] | None = None,
    ) -> Guard:
        """Read a guard folder; every byte is checked and nothing in it is executed.

        Args:
            public_key: Ed25519 key that must have signed it.
            min_version: the lowest `Guard.version` to take, so that nobody rolls back to an older guard of that key.
            factory: builds the network of a user's own model (`load_factory`).

        Raises:
            ArtefactError: the folder is changed, incomplete or foreign, holds a number that cannot be, is older than
                `min_version`; or its Cushion gives other pixels here than where the guard was calibrated.
            ConfigError: `min_version` without `public_key`: anybody can write a number.
        """
        if min_version is not None and public_key is None:
            raise ConfigError("min_version", "without a public key anybody can write that number", "give public_key")
        folder = read_folder(path, kind=KIND, public_key=public_key)
        remedy = "fit the guard anew, or use the version that wrote it"
        try:
            manifest = read_entry(GuardManifest, folder.manifest.get("guard"), source="guard", remedy=remedy)
        except ConfigError as error:
            raise ArtefactError(path, f"guard {error.problem}", remedy) from error
        if min_version is not None and (manifest.version is None or manifest.version < min_version):
            given = "no version" if manifest.version is None else f"version {manifest.version}"
            raise ArtefactError(path, f"{given}, at least {min_version} asked for", "use the guard that replaced it")
        classifier = rebuild_classifier(
            manifest.classifier, folder.tensors("classifier"), source=Path(path), factory=factory
        )
        judged = classifier.task.shields(classifier.classes)
        if len(manifest.shields) != len(judged):
            what = "masks" if classifier.task.name == "dense" else f"{len(judged)} classes"
            raise ArtefactError(path, f"{len(manifest.shields)} Shields for {what}", remedy)
        try:
            cushion = parse_cushion(str(manifest.cushion.get("spec")))
            # Shapes first: nothing is built in a size that only the folder vouches for.
            for tap in (tap for told in manifest.shields for tap in told.taps):
                if tap.shape != tuple(classifier.tap_shapes([tap.name])[tap.name]):
                    raise ConfigError(f"tap {tap.name}", f"has not the shape {tap.shape}", remedy)
            bank = empty_bank(manifest.shields)
            fill_bank(bank, folder.tensors("shields"), source="Shields")
        except (ConfigError, RuntimeError) as error:
            problem = " ".join(str(error).split())[:300]
            raise ArtefactError(path, f"its parts do not fit together: {problem}", remedy) from error
        if cushion.manifest()["probe"] != manifest.cushion.get("probe"):
            problem = f"the cushion {cushion.spec} gives other pixels here than where it was calibrated"
            raise ArtefactError(path, problem, remedy)
        return cls(
            classifier,
            cushion,
            bank,
            tnr=manifest.tnr,
            calibration=manifest.calibration.model_dump(exclude_unset=True),
            training=manifest.training,
            digest=folder.digest,
            seen=Seen.read(folder.tensors(SEEN), path) if SEEN in folder.tensor_names else None,
            version=manifest.version,
        )


def _check_images(images: object) -> None:
    """Raises ConfigError for what is no batch of images: another object, another number of sides, no plain values."""
    if not isinstance(images, Tensor):
        given = type(images).__name__
    elif images.is_nested or images.layout != torch.strided or images.is_quantized or images.is_meta:
        given = "a nested, sparse, quantised or meta tensor"
    elif images.ndim != 4:
        given = f"shape {tuple(images.shape)}"
    else:
        return
    raise ConfigError("guard", f"got {given}, expected a dense tensor (N, C, H, W)", "give a batch of pixels in [0, 1]")
