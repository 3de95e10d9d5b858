"""Drawn images that look like their modality and carry lesions of graded difficulty, so all runs without a download.

Image i is a function of the modality, i and the size alone. Three images make a patient: one anatomy, three exposures.
They exercise the software; they say nothing about a real modality.
"""

from medaegis.images.phantoms.case import SHOTS, Case, Modality
from medaegis.images.phantoms.fundus import draw_fundus
from medaegis.images.phantoms.several import FINDINGS, Chest
from medaegis.images.phantoms.skin import draw_skin
from medaegis.images.phantoms.xray import draw_xray

MODALITIES: dict[str, Modality] = {
    "xray": Modality("xray", ("clear", "opacity"), draw_xray),
    "fundus": Modality("fundus", ("healthy", "retinopathy"), draw_fundus),
    "skin": Modality("skin", ("nevus", "melanoma"), draw_skin),
}

__all__ = ["FINDINGS", "MODALITIES", "SHOTS", "Case", "Chest", "Modality"]
