"""What a study found, as plain JSON: the numbers behind every figure. Maps and pictures are arrays beside it."""

from __future__ import annotations

from typing import Annotated, Any, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor

from medaegis.bench.analyse.maps import correlation
from medaegis.bench.analyse.shifts import STEPS, Stress
from medaegis.bench.analyse.study import STRESS_LEVELS, STRESSED, Study
from medaegis.bench.records.evaluation import Share

Numbers = Annotated[list[float], Field(min_length=1)]
HIGH = 0.25  # cycles per pixel: half of the highest frequency along an axis


class _Part(BaseModel):
    """What of a record the page is made from; the rest is for whoever reads the file."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)


class Cloud(_Part):
    told_apart: Share


class Looks(_Part):
    grad_cam_correlation: list[float] = Field(min_length=1)


class Cosines(_Part):
    cosine: list[Numbers] = Field(min_length=1)
    cosine_of_noise: Numbers


class Rings(_Part):
    """A spectrum ring by ring; passed: share of the power that passes the Cushion, if there is one."""

    power: Numbers
    count: Numbers
    passed: Numbers | None = None

    @model_validator(mode="after")
    def _alike(self) -> Self:
        if len({len(one) for one in (self.power, self.count, self.passed) if one is not None}) > 1:
            raise ValueError("power, count and passed are not of one length")
        return self


class Spectra(_Part):
    cushion: str
    attack: Rings
    noise: Rings


class Analysis(_Part):
    """What the page says of analysis.json: victim and data in words, and counts of the n images attacked."""

    victim: str
    data: str
    attack: str
    eps_text: str
    steps: int
    seed: int
    n: int = Field(ge=1)
    fooled: int = Field(ge=0)
    undetected: int | None = None
    tsne: dict[str, Cloud] = Field(min_length=1)
    attention: Looks
    direction: Cosines | None
    spectra: Spectra

    @property
    def attack_line(self) -> str:
        """As figures and page name the attack."""
        return f"{self.attack}, ε = {self.eps_text}, {self.steps} steps"


def numbers(study: Study) -> dict[str, Any]:
    """JSON of a study; lists over images follow `rows`, the places among the test images."""
    plan, (before, after) = study.plan, study.attention
    return {
        "attack": plan.attack,
        "eps": plan.eps,
        "eps_text": plan.eps_text,
        "steps": plan.value.steps,
        "seed": plan.seed,
        "n": len(study.rows),
        "fooled": int(study.fooled.sum()),
        "undetected": None if study.broken is None else int(study.broken.sum()),
        "classes": list(study.classes),
        "rows": study.rows.tolist(),
        "labels": study.labels.tolist(),
        "targets": study.targets.tolist(),
        "predicted": {"clean": study.before.predicted.tolist(), "attacked": study.after.predicted.tolist()},
        "examples": study.examples.tolist(),
        "tsne": {
            tap: {"told_apart": study.apart[tap], "clean": points[: len(study.rows)].tolist()}
            | {"attacked": points[len(study.rows) :].tolist()}
            for tap, points in study.embedding.items()
        },
        "direction": _direction(study),
        "attention": {
            "layer": study.layer,
            "grad_cam_correlation": correlation(before.cam, after.cam).tolist(),
            "saliency_correlation": correlation(before.saliency, after.saliency).tolist(),
        },
        "activations": {tap: {"correlation": correlation(*pair).tolist()} for tap, pair in study.activations.items()},
        "landscape": _landscape(study),
        "stress": {
            "eps": [f"{k}/256" for k in STRESS_LEVELS],
            "steps": STEPS,
            "n": min(STRESSED, len(study.rows)),
            "cushions": {spec: _stress(found) for spec, found in study.stress.items()},
        },
        "spectra": _spectra(study),
    }


def arrays(study: Study) -> dict[str, Tensor]:
    """Pictures (uint8) and maps (float32) of the examples, `(E, …)`."""
    rows = study.examples
    found = {
        "images/clean": (study.images[rows] * 255).round().to(torch.uint8),
        "images/attacked": (study.attacked[rows] * 255).round().to(torch.uint8),
    }
    for when, looks in zip(("clean", "attacked"), study.attention, strict=True):
        found[f"grad-cam/{when}"], found[f"saliency/{when}"] = looks.cam[rows], looks.saliency[rows]
    for tap, (before, after) in study.activations.items():
        found[f"activations/{tap}/clean"], found[f"activations/{tap}/attacked"] = before, after
    return {name: values.contiguous() for name, values in found.items()}


def _direction(study: Study) -> dict[str, Any] | None:
    found = study.direction
    if found is None:
        return None
    return {
        "tap": found.tap,
        "steps": list(found.steps),
        "cosine": found.cosine.tolist(),
        "cosine_of_noise": found.noise.tolist(),
        "pair": list(found.pair),
        "shift": found.shift.tolist(),
        "weight": found.weight.tolist(),
        "attacks": list(found.names),
        "mutual": found.mutual.tolist(),
    }


def _landscape(study: Study) -> dict[str, Any]:
    found = study.landscape
    surfaces = {"loss": found.loss, "margin": found.margin, "suspicion": found.suspicion}
    return {"grey_levels": found.levels.tolist()} | {
        name: None if surface is None else surface.tolist() for name, surface in surfaces.items()
    }


def _stress(found: Stress) -> dict[str, Any]:
    return {
        tap: {"clean": found.clean[tap], "noise": found.noise[tap], "down": found.down[tap], "up": found.up[tap]}
        for tap in found.taps
    }


def _spectra(study: Study) -> dict[str, Any]:
    told: dict[str, Any] = {"cushion": study.plan.cushion.spec, "high_above": HIGH}
    for name, spectrum in study.spectra.items():
        told[name] = {
            "frequency": spectrum.frequency.tolist(),
            "power": spectrum.power.tolist(),
            "count": spectrum.count.tolist(),
            "energy": spectrum.energy(),
            "energy_high": spectrum.energy(HIGH),
        }
        if name in study.passed:
            told[name]["passed"] = study.passed[name].tolist()
    return told
