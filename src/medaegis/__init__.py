"""Medical Aegis: guard medical image classifiers against adversarial attacks, and measure how well.

    import medaegis as ma

Importing this package loads nothing heavy: PyTorch comes with the first name that needs it. What a name does, its
docstring says; the rooms behind it are `medaegis.images`, `medaegis.models`, `medaegis.attacks`, `medaegis.guard`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from medaegis.version import __version__

if TYPE_CHECKING:
    from medaegis.attacks.base import AttackResult
    from medaegis.attacks.engine import Attack
    from medaegis.attacks.victim import Victim
    from medaegis.errors import MedaegisError
    from medaegis.front import ImageDetector, attack, certify, detector, evaluate, fit, load
    from medaegis.guard.finding import Finding
    from medaegis.guard.guard import Guard
    from medaegis.guard.screening import Screened
    from medaegis.images import Dataset, Picture, load_dataset, model_input, read_image
    from medaegis.models.classifier import Classifier
    from medaegis.models.wrapping import wrap

_HOMES = {
    "medaegis.attacks.base": ("AttackResult",),
    "medaegis.attacks.engine": ("Attack",),
    "medaegis.attacks.victim": ("Victim",),
    "medaegis.errors": ("MedaegisError",),
    "medaegis.front": ("ImageDetector", "attack", "certify", "detector", "evaluate", "fit", "load"),
    "medaegis.guard.finding": ("Finding",),
    "medaegis.guard.guard": ("Guard",),
    "medaegis.guard.screening": ("Screened",),
    "medaegis.images": ("Dataset", "Picture", "load_dataset", "model_input", "read_image"),
    "medaegis.models.classifier": ("Classifier",),
    "medaegis.models.wrapping": ("wrap",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "Attack",
    "AttackResult",
    "Classifier",
    "Dataset",
    "Finding",
    "Guard",
    "ImageDetector",
    "MedaegisError",
    "Picture",
    "Screened",
    "Victim",
    "__version__",
    "attack",
    "certify",
    "detector",
    "evaluate",
    "fit",
    "load",
    "load_dataset",
    "model_input",
    "read_image",
    "wrap",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'medaegis' has no attribute {name!r}")
    value = getattr(import_module(_HOME_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
