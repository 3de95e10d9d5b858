"""The recipe of a Shield: what it looks at, how large it is, how long and against what it is trained."""

from __future__ import annotations

from typing import Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator


class ShieldConfig(BaseModel):
    """Everything that decides how a Shield is trained.

    Attributes:
        taps: module names of the classifier, "input" for the cushioned pixels.
        width, hidden: size of the Shield's network.
        updates: optimiser steps.
        batch_size: genuine images, and as many adversarial ones, per update.
        eps_start, eps_end, eps_growth: the radius grows from start to end over this share of the updates (the paper:
            1/256 to 16/256 over all of them).
        eps_below: share of the adversaries whose radius is drawn from (0, eps of now], so that small budgets are
            trained too.
        inner_steps, inner_step: steps of an update's attack, and the bounds of their length in units of eps, drawn
            anew (log-uniform) for every update.
        early_steps, early: steps of the first updates' attacks, and the share that these updates are. Fewer steps of
            the same length teach as much at first, at half the cost.
        momentum_share: share of the updates whose attack accumulates its gradients (MIM); the others take sign steps.
            Against one kind of step alone a Shield learns to be rough where that step lands instead of robust.
        lifetime: an image keeps its perturbation and its augmentation for this many visits, so that short attacks add
            up to long ones; 1 starts afresh each time, as the paper does.
        classifier_share: share of the updates whose attack also drives the classifier (the WB attack).
        cushioned: share of the updates whose images, clean and attacked, pass the Cushion. Where they always do, a long
            training ends in masked gradients: the Shield hides behind the Cushion's rounding, which is not robust.
        genuine_noise: share of the genuine images that carry uniform noise of up to the eps of now, or, where that is
            larger, of up to genuine_noise_eps.
        genuine_perturbed: share of the genuine images that carry the perturbation of an attacked image of the same
            update, which was not made for them. Where every perturbed image is an attacked one, a Shield learns to
            recognise perturbations instead of resisting them.
        lr, weight_decay: of AdamW; `average` is the decay of the weights' moving average, which is what is kept.
        watch_every: updates between looks at robustness on held-out images; 0 never looks.
        selected: whether the best sound look is kept and training ends where gradients mask; else the last weights are.
        seed: of weights, order, augmentation and random starts.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    taps: tuple[str, ...]
    width: int = Field(default=32, ge=4)
    hidden: int = Field(default=128, ge=8)
    updates: int = Field(default=1000, ge=1)
    batch_size: int = Field(default=32, ge=2)
    eps_start: float = Field(default=1 / 256, gt=0, le=1)
    eps_end: float = Field(default=16 / 256, gt=0, le=1)
    eps_growth: float = Field(default=1.0, gt=0, le=1)
    eps_below: float = Field(default=0.0, ge=0, le=1)
    inner_steps: int = Field(default=10, ge=1)
    inner_step: tuple[float, float] = (0.25, 0.25)
    early_steps: int = Field(default=1, ge=1)
    early: float = Field(default=0.0, ge=0, le=1)
    momentum_share: float = Field(default=0.0, ge=0, le=1)
    lifetime: int = Field(default=1, ge=1)
    classifier_share: float = Field(default=0.0, ge=0, le=1)
    cushioned: float = Field(default=1.0, ge=0, le=1)
    genuine_noise: float = Field(default=0.0, ge=0, le=1)
    genuine_noise_eps: float = Field(default=0.0, ge=0, le=1)
    genuine_perturbed: float = Field(default=0.0, ge=0, le=1)
    lr: float = Field(default=1e-3, gt=0)
    weight_decay: float = Field(default=1e-4, ge=0)
    average: float = Field(default=0.998, ge=0, lt=1)
    watch_every: int = Field(default=0, ge=0)
    selected: bool = False
    seed: int = Field(default=0, ge=0, lt=2**63)

    @model_validator(mode="after")
    def _shares(self) -> Self:
        if self.genuine_noise + self.genuine_perturbed > 1:
            raise ValueError("genuine_noise and genuine_perturbed together exceed 1")
        return self

    def steps(self, update: int) -> int:
        """Steps of the attack of an update, from 0 on."""
        return self.early_steps if update < round(self.early * self.updates) else self.inner_steps

    @field_validator("inner_step")
    @classmethod
    def _bounds(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not 0 < value[0] <= value[1]:
            raise ValueError("give the shortest and the longest step, both above 0")
        return value
