"""The Shields of all classes (Medical Aegis, section 3) under the protocol of all detectors."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self, cast

import torch
from torch import Tensor

from medaegis.detectors.base import REMEDY, Detector, DetectorManifest, FitData
from medaegis.detectors.reader import Reading
from medaegis.detectors.shield import Shield, ShieldBank, ShieldManifest, empty_bank, fill_bank
from medaegis.errors import ConfigError
from medaegis.validation import read_entry


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
    apart = ("bank",)
    bank: ShieldBank | None = None
    tnr: float = 0.9

    @property
    def needs_images(self) -> bool:
        return True

    def _fit(self, data: FitData) -> None:
        bank = self._trained()
        if len(bank.shields) != data.classes:
            raise ConfigError("Shields", f"{len(bank.shields)} for {data.classes} classes", "give one per class")
        self.bank = copy.deepcopy(bank).to(data.clean.device).eval().requires_grad_(False)
        with torch.no_grad():
            logits = self.in_parts(self._logits, data.clean)
        self.bank.calibrate(logits, data.clean.predicted, self.tnr)

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
        told = [
            {"shapes": [[tap, list(shape)] for tap, shape in s.shapes.items()], "width": s.width, "hidden": s.hidden}
            for s in (cast(Shield, shield) for shield in ([] if self.bank is None else self.bank.shields))
        ]
        return {"tnr": self.tnr, "shields": told}

    @classmethod
    def rebuilt(cls, told: DetectorManifest, tensors: Mapping[str, Tensor]) -> Self:
        plain, source = dict(told.options), f"detector {cls.kind!r}"
        shields = []
        for shield in map(dict, plain.pop("shields")):
            taps = [{"name": tap, "shape": shape} for tap, shape in shield.pop("shapes")]
            shields.append(read_entry(ShieldManifest, {**shield, "taps": taps}, source=source, remedy=REMEDY))
        if len(shields) != told.classes:
            raise ConfigError(source, f"{len(shields)} Shields for {told.classes} classes", REMEDY)
        bank = empty_bank(shields).eval().requires_grad_(False)
        made = cls(bank=bank, **cls.read_options(plain))
        made.settle(told, tensors)
        return made

    def tensors(self) -> dict[str, Tensor]:
        return cast(dict[str, Tensor], self._trained().state_dict())

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        fill_bank(self._trained(), tensors, source=f"detector {self.kind!r}")

    def to(self, device: torch.device) -> Self:
        self._trained().to(device)
        return self
