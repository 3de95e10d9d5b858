"""Harmless changes of an image, as clinics see them: noise, blur, tone, resolution, position and artefacts."""

from medaegis.corruptions.base import SEVERITIES, Corruption
from medaegis.corruptions.registry import CORRUPTIONS, corruptions_for, find_corruption

__all__ = ["CORRUPTIONS", "SEVERITIES", "Corruption", "corruptions_for", "find_corruption"]
