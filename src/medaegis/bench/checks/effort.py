"""How much controls and alarms try beside the plan."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Effort:
    """Images, eps and steps of what the checks run themselves.

    Attributes:
        harmless: images that harmless changes are tried on at least, where there are so many: of ten one alone would
            decide.
        far, far_eps: images that are attacked at this eps, a quarter of the range, where nothing can stand; on as many
            images longer attacks and the planted weakness are tried.
        probed: images whose gradients are looked at.
        guessed, queries: images that Square is asked about, and how often each.
        stamina: images that are attacked with far more steps and restarts.
        planted: updates of the Shields that are weak by construction.
    """

    harmless: int = 200
    far: int = 64
    far_eps: float = 64 / 256
    probed: int = 64
    guessed: int = 16
    queries: int = 500
    stamina: int = 16
    planted: int = 150


ON_GUARD = Effort()
ON_CLASSIFIER = Effort(guessed=32, queries=1000)  # alone it answers sooner
