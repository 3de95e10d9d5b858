"""Several detectors as one: each on a scale set by clean images that it has not learned from."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

import torch
from torch import Tensor

from medaegis.detectors.base import REMEDY, Detector, DetectorManifest, FitData, hold_out, rebuild
from medaegis.detectors.reader import Reading
from medaegis.errors import ConfigError, DataError
from medaegis.validation import Layout


@dataclass(kw_only=True, eq=False)
class Combined(Detector):
    """What several detectors say together.

    Scores of different detectors do not compare, so a part of the clean images is held out, and each detector is
    calibrated on it: "mean" averages the shares of held-out images that look less suspicious; "max" takes the largest
    suspicion, on a scale where 0 is the median held-out image and 1 the one at the true-negative rate.

    Args:
        members: detectors, not yet fitted.
        rule: "mean" or "max".
        held_out: share of the clean images for calibration.
        tnr: true-negative rate at suspicion 1.
    """

    kind = "combined"
    apart = ("members",)
    members: tuple[Detector, ...]
    rule: Literal["mean", "max"] = "mean"
    held_out: float = 0.25
    tnr: float = 0.9

    def __post_init__(self) -> None:
        if not self.members or self.rule not in ("mean", "max"):
            raise ConfigError("combined detectors", f"rule {self.rule!r}", "give members, and 'mean' or 'max'")
        if not (0 < self.held_out < 1 and 0.5 < self.tnr < 1):
            given = f"held_out {self.held_out}, tnr {self.tnr}"
            raise ConfigError("combined detectors", given, "give shares below 1, tnr above 0.5")

    @property
    def needs_attacked(self) -> bool:
        return any(member.needs_attacked for member in self.members)

    @property
    def needs_images(self) -> bool:
        return any(member.needs_images for member in self.members)

    @property
    def fewest(self) -> int:
        return math.ceil(max(member.fewest for member in self.members) / (1 - self.held_out)) + 1

    def wanted(self, seen: Reading) -> tuple[str, ...]:
        return tuple(dict.fromkeys(tap for member in self.members for tap in member.wanted(seen)))

    def _fit(self, data: FitData) -> None:
        stay, held = hold_out(data.labels, self.held_out, data.seed)
        clean, attacked = data.clean[stay], None
        if data.attacked is not None:
            attacked = data.pair(stay)[1]
        for member in self.members:
            member.fit(clean, data.labels[stay], attacked=attacked, seed=data.seed, progress=data.progress)
        scores = torch.stack([member.score(data.clean[held]) for member in self.members]).sort(1).values
        if not bool(scores.isfinite().all()):
            raise DataError("combined detectors", "a clean image's score is not finite", "leave that detector out")
        self.learned = {"scores": scores}

    def _score(self, seen: Reading) -> Tensor:
        now, clean = torch.stack([member.score(seen) for member in self.members]), self.learned["scores"]
        if self.rule == "mean":
            return torch.searchsorted(clean, now.contiguous()).double().mean(0) / clean.shape[1]
        centre, limit = (torch.quantile(clean.double(), share, dim=1)[:, None] for share in (0.5, self.tnr))
        return ((now - centre) / (limit - centre).clamp_min(1e-12)).amax(0)

    # ---- on disk and between devices

    def options(self) -> dict[str, Any]:
        plain = {"rule": self.rule, "held_out": self.held_out, "tnr": self.tnr}
        return plain | {"members": [member.describe() for member in self.members]}

    @classmethod
    def rebuilt(cls, told: DetectorManifest, tensors: Mapping[str, Tensor]) -> Self:
        plain = dict(told.options)
        members = plain.pop("members")
        nested: dict[str, dict[str, Tensor]] = {str(i): {} for i in range(len(members))}
        own: dict[str, Tensor] = {}
        for name, value in tensors.items():
            member, colon, inner = name.partition(":")
            if colon:
                nested[member][inner] = value
            else:
                own[name] = value
        pairs = zip(members, nested.values(), strict=True)
        made = cls(members=tuple(rebuild(member, arrays) for member, arrays in pairs), **cls.read_options(plain))
        if any(member.classes != told.classes for member in made.members):
            raise ConfigError(f"detector {cls.kind!r}", "its members are for other numbers of classes", REMEDY)
        made.settle(told, own)
        return made

    def tensors(self) -> dict[str, Tensor]:
        nested = {
            f"{i}:{name}": value for i, member in enumerate(self.members) for name, value in member.tensors().items()
        }
        return self.learned | nested

    def layout(self) -> Layout:
        return {"scores": (len(self.members), "n")}

    def to(self, device: torch.device) -> Self:
        for member in self.members:
            member.to(device)
        return super().to(device)
