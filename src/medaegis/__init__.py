"""Medical Aegis: guard medical image classifiers against adversarial attacks.

Importing this package loads nothing heavy; each room is imported by its own name (`medaegis.images`, `medaegis.guard`).
"""

__version__ = "0.1.0"

__all__ = ["__version__"]
