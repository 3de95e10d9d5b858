"""The Shields of all classes (Medical Aegis, section 3) under the protocol of all detectors."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self, cast

import torch
from torch import Tensor

from medaegis.detectors.base import Detector, DetectorManifest, Lesson
from medaegis.detectors.layout import Layout, check_layout, check_size
from medaegis.detectors.reader import Reading
from medaegis.detectors.shield import Shield, ShieldBank
from medaegis.errors import ConfigError


@dataclass(kw_only=True, eq=False)
class Shields(Detector):
    """Calibrated suspicion by the Shield of the predicted class.

    Shields are trained by attacking them (`medaegis fit`), so `fit` takes them as they are and sets their thresholds
    anew, behind this reader's Cushion; the bank that was given stays as it was.

    Args:
        bank: trained Shields, such as `guard.bank`.
        tnr: share of clean images that stay at most at suspicion 1.
    """

    kind = "shields"
    bank: ShieldBank | None = None
    tnr: float = 0.9

    @property
    def needs_images(self) -> bool:
        return True

    def _fit(self, lesson: Lesson) -> None:
        bank = self._trained()
        if len(bank.shields) != lesson.classes:
            raise ConfigError("Shields", f"{len(bank.shields)} for {lesson.classes} classes", "give one per class")
        self.bank = copy.deepcopy(bank).to(lesson.clean.device).eval().requires_grad_(False)
        with torch.no_grad():
            logits = self.in_parts(self._logits, lesson.clean)
        self.bank.calibrate(logits, lesson.clean.predicted, self.tnr)

    def _logits(self, seen: Reading) -> Tensor:
        reader, images = seen.source()
        bank = self._trained()
        parts = zip(images.split(reader.batch_size), seen.predicted.split(reader.batch_size), strict=True)
        return torch.cat([bank(reader.maps(part, bank.taps).features, classes) for part, classes in parts])

    def _score(self, seen: Reading) -> Tensor:
        return self._trained().suspicion(self._logits(seen), seen.predicted)

    def _trained(self) -> ShieldBank:
        if self.bank is None:
            raise ConfigError("Shields", "there is no trained bank", "train one with `medaegis fit`, pass guard.bank")
        return self.bank

    # ---- on disk and between devices

    def options(self) -> dict[str, Any]:
        shields = [] if self.bank is None else [cast(Shield, shield) for shield in self.bank.shields]
        told = [
            {"shapes": [[tap, list(shape)] for tap, shape in s.shapes.items()], "width": s.width, "hidden": s.hidden}
            for s in shields
        ]
        return {"tnr": self.tnr, "shields": told}

    @classmethod
    def rebuilt(cls, told: DetectorManifest, tensors: Mapping[str, Tensor]) -> Self:
        for shield in told.options["shields"]:
            check_size(cls.kind, "width", [shield["width"]], most=1024)
            check_size(cls.kind, "hidden", [shield["hidden"]], most=16384)
            for _, shape in shield["shapes"]:
                check_size(cls.kind, "shape", shape, most=65536)
        bank = ShieldBank(
            [
                Shield(
                    {tap: tuple(shape) for tap, shape in shield["shapes"]},
                    width=shield["width"],
                    hidden=shield["hidden"],
                )
                for shield in told.options["shields"]
            ]
        )
        made = cls(bank=bank.eval().requires_grad_(False), tnr=told.options["tnr"])
        made.settle(told, tensors)
        return made

    def tensors(self) -> dict[str, Tensor]:
        return cast(dict[str, Tensor], self._trained().state_dict())

    def layout(self) -> Layout:
        return {name: tuple(value.shape) for name, value in self._trained().state_dict().items()}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        check_layout(self.kind, self.layout(), tensors)
        self._trained().load_state_dict(dict(tensors))

    def to(self, device: torch.device) -> Self:
        self._trained().to(device)
        return self
