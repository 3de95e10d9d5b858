"""Chest X-rays with several findings at a time, and with their lungs as masks, for tasks beyond one class an image."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medaegis.images.phantoms.canvas import Array, Canvas
from medaegis.images.phantoms.case import SHOTS
from medaegis.images.phantoms.xray import draw_chest

FINDINGS = ("opacity", "effusion", "nodule", "enlarged heart")
_HAVING = (0.4, 0.3, 0.25, 0.3)  # share of the patients


@dataclass(frozen=True)
class Chest:
    """One film: which findings its patient has, 0 or 1 for each of `FINDINGS`; all functions of its index."""

    index: int

    @property
    def patient(self) -> str:
        return f"patient-{self.index // SHOTS:05d}"

    @property
    def findings(self) -> tuple[int, ...]:
        chances = self._stream(self.index // SHOTS).random(len(FINDINGS))
        return tuple(int(chance < share) for chance, share in zip(chances, _HAVING, strict=True))

    @property
    def name(self) -> str:
        told = [finding.replace(" ", "-") for finding, there in zip(FINDINGS, self.findings, strict=True) if there]
        return "-".join([f"{self.index // SHOTS:05d}", str(self.index % SHOTS), *(told or ["none"])])

    def draw(self, size: int) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        """The film (1, size, size) in [0, 1], and its mask (size, size): 1 where the lungs are."""
        patient, shot = divmod(self.index, SHOTS)
        anatomy, image, marks = self._stream(patient, 7), self._stream(patient, shot, 2), self._stream(patient, 5)
        opacity, *others = self.findings
        severity = float(marks.uniform(0.4, 1)) if opacity else 0.0

        def findings(canvas: Canvas, lungs: Array) -> Array:
            drawn = (_effusion, _nodule, _enlarged)
            parts = [draw(canvas, marks, lungs) for draw in drawn]  # all are drawn: none moves the others' numbers
            return np.asarray(sum(there * part for there, part in zip(others, parts, strict=True)))

        pixels, lungs = draw_chest(Canvas(size), anatomy, image, severity, findings)
        return np.clip(pixels, 0, 1).astype(np.float32), (lungs > 0.5).astype(np.uint8)

    def _stream(self, *key: int) -> np.random.Generator:
        return np.random.default_rng([*b"several", len(key), *key])


def _effusion(canvas: Canvas, random: np.random.Generator, lungs: Array) -> Array:
    """Fluid in one side of the chest, which stands higher at the wall."""
    side, level = random.choice([-1, 1]), random.uniform(0.05, 0.22)
    u, v = canvas.x * side, canvas.y
    return np.asarray(0.30 * lungs * canvas.edge(v - level + 0.35 * u, 0.08) * canvas.edge(u, 0.05))


def _nodule(canvas: Canvas, random: np.random.Generator, lungs: Array) -> Array:
    """A round shadow in one lung."""
    x, y = random.choice([-1, 1]) * random.uniform(0.25, 0.45), random.uniform(-0.4, 0.2)
    radius = random.uniform(0.05, 0.09)
    return np.asarray(0.30 * lungs * canvas.edge(radius - np.hypot(canvas.x - x, canvas.y - y), 0.02))


def _enlarged(canvas: Canvas, random: np.random.Generator, lungs: Array) -> Array:
    """A heart that reaches far into the left lung."""
    wide = random.uniform(0.38, 0.48)
    far = np.hypot((canvas.x - 0.10) / wide, (canvas.y - 0.22) / 0.36)
    return np.asarray(0.26 * lungs * canvas.edge(1 - far, 0.12))
