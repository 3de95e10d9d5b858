"""Who is drawn: the patient, the label and the difficulty behind each phantom, all functions of its index."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medaegis.images.phantoms.canvas import Array, Canvas

SHOTS = 3
"""Images of one patient."""

Drawing = Callable[[Canvas, np.random.Generator, np.random.Generator, float], Array]


@dataclass(frozen=True)
class Case:
    """One phantom; `severity` is 0 without a lesion, else from near 0 (hard to see) to 1 (plain)."""

    label: int
    patient: str
    severity: float
    name: str


@dataclass(frozen=True)
class Modality:
    """A kind of phantom: its two classes, without and with the lesion, and how it is drawn.

    `drawing(canvas, anatomy, shot, severity)` gives (C, S, S) from two random streams, the patient's and the image's.
    """

    name: str
    classes: tuple[str, str]
    drawing: Drawing

    def case(self, index: int) -> Case:
        """What image `index` shows; half of the patients have the lesion."""
        patient, shot = divmod(index, SHOTS)
        label = int(self._stream(patient // 2).integers(2)) ^ (patient % 2)
        severity = float(self._stream(patient, shot, 1).uniform(0.1, 1)) if label else 0.0
        grade = ("hard", "medium", "easy")[min(int(severity * 3), 2)] if label else ""
        name = "-".join(filter(None, (f"{patient:05d}", str(shot), self.classes[label], grade)))
        return Case(label, f"patient-{patient:05d}", severity, name)

    def draw(self, index: int, size: int) -> NDArray[np.float32]:
        """Image `index`, (C, size, size) in [0, 1]."""
        patient, shot = divmod(index, SHOTS)
        anatomy, image = self._stream(patient, 7), self._stream(patient, shot, 2)
        pixels = self.drawing(Canvas(size), anatomy, image, self.case(index).severity)
        return np.clip(pixels, 0, 1).astype(np.float32)

    def _stream(self, *key: int) -> np.random.Generator:
        return np.random.default_rng([*self.name.encode(), len(key), *key])
