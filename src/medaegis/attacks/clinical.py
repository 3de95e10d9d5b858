"""Entries of the catalogue beyond noise on every pixel: other light, chosen frequencies, a patch, few values, a mark;
and attacks that are learned once, without gradients or for one pass.
"""

from __future__ import annotations

from medaegis.attacks.balls import L2
from medaegis.attacks.engine import Attack
from medaegis.attacks.entry import CatalogueEntry
from medaegis.attacks.generator import Generator
from medaegis.attacks.losses.answer import CarliniWagner, CrossEntropy
from medaegis.attacks.losses.shield import WHITE_BOX
from medaegis.attacks.minimal import NearestBoundary
from medaegis.attacks.objective import Objective
from medaegis.attacks.search.evolution import Watermark
from medaegis.attacks.search.universal import SearchedUniversal
from medaegis.attacks.smooth import Fields, Waves
from medaegis.attacks.sparse import SparseFool
from medaegis.attacks.visible import Patch


def _fields(objective: Objective, rule: Fields) -> Attack:
    return Attack(objective=objective, rule=rule, steps=40, step_size=2.0)


def _patch(objective: Objective) -> Attack:
    return Attack(objective=objective, rule=Patch(), steps=40, exact=True)


_LIGHT = Fields()
_LOW = Fields(Waves(), multiplies=False, shared=False)

CLINICAL: dict[str, CatalogueEntry] = {
    "bias-field": CatalogueEntry(
        "Bias field, a polynomial of degree 5", "Tian 2021", _fields(CrossEntropy(), _LIGHT), confined=True
    ),
    "bias-field-guard": CatalogueEntry(
        "Bias field on classifier and Shield",
        "Tian 2021 on the loss of Medical Aegis",
        _fields(WHITE_BOX, _LIGHT),
        adaptive=True,
        confined=True,
    ),
    "exposure": CatalogueEntry(
        "Exposure that varies slowly",
        "Cheng 2020, multiplied, smooth by low frequencies",
        _fields(CrossEntropy(), Fields(Waves())),
        confined=True,
    ),
    "frequency": CatalogueEntry(
        "Low frequencies alone (DCT)",
        "Guo 2019 (low frequency), by PGD",
        _fields(CrossEntropy(), _LOW),
        confined=True,
    ),
    "frequency-high": CatalogueEntry(
        "High frequencies alone (DCT)",
        "Chen 2023 (frequency constraint), by PGD",
        _fields(CrossEntropy(), Fields(Waves(1 / 4, high=True), multiplies=False, shared=False)),
        confined=True,
    ),
    "frequency-guard": CatalogueEntry(
        "Low frequencies alone on classifier and Shield",
        "Guo 2019 on the loss of Medical Aegis",
        _fields(WHITE_BOX, _LOW),
        adaptive=True,
        confined=True,
    ),
    "patch": CatalogueEntry(
        "Patch of 2 % of the area, visible",
        "Brown 2017, one for each image",
        _patch(CrossEntropy()),
        minimal=True,
        sparse=True,
        confined=True,
    ),
    "patch-guard": CatalogueEntry(
        "Patch on classifier and Shield, visible",
        "Brown 2017 on the loss of Medical Aegis",
        _patch(WHITE_BOX),
        adaptive=True,
        minimal=True,
        sparse=True,
        confined=True,
    ),
    "sparsefool": CatalogueEntry(
        "SparseFool, few values",
        "Modas 2019",
        Attack(objective=NearestBoundary(L2()), rule=SparseFool(), steps=100, exact=True),
        minimal=True,
        sparse=True,
    ),
    # A first population and 20 generations.
    "watermark": CatalogueEntry(
        "Watermark, place and opacity by evolution",
        "Jia 2020 (Adv-watermark)",
        Attack(objective=CarliniWagner(), rule=Watermark(), steps=1 + 21 * 50),
        access="black-box",
        minimal=True,
        sparse=True,
        confined=True,
    ),
    "uap-black-box": CatalogueEntry(
        "Universal perturbation, learned from answers alone",
        "Koga 2022 (U-SimBA)",
        SearchedUniversal(),
        access="black-box",
    ),
    "generator": CatalogueEntry(
        "Generator, learned on known images, one pass", "Xiao 2018 (AdvGAN), without its discriminator", Generator()
    ),
    "generator-guard": CatalogueEntry(
        "Generator, learned on classifier and Shield",
        "Xiao 2018 on the loss of Medical Aegis",
        Generator(objective=WHITE_BOX),
        adaptive=True,
    ),
}
