"""The catalogue: every named attack as a value of the one engine, with its paper and default values.

An entry says what it minimises, in which ball and how it walks; whether it is targeted, how a gradient passes the
Cushion, eps, steps and restarts are the caller's choice.
"""

from __future__ import annotations

from difflib import get_close_matches

from medaegis.attacks.addons import ADD_ONS, joined
from medaegis.attacks.balls import L2
from medaegis.attacks.distance import Decoupled, FastBoundary, FastMinimum
from medaegis.attacks.engine import Attack
from medaegis.attacks.ensemble import Ensemble, Member
from medaegis.attacks.entry import CatalogueEntry
from medaegis.attacks.generator import Generator
from medaegis.attacks.losses.answer import CarliniWagner, CrossEntropy, LogitRatio, Odds
from medaegis.attacks.losses.evasion import FeatureShift, KernelDensityEvasion, LocalDimensionEvasion, Stability
from medaegis.attacks.losses.hfc import HierarchicalFeature
from medaegis.attacks.losses.matching import ClosestFeatureMatch, FeatureMatch, LogitMatch
from medaegis.attacks.losses.overlap import Active, Overlap
from medaegis.attacks.losses.shield import CONFIDENT, WHITE_BOX, GettingThrough, Orthogonal, Selective, ShieldLogit
from medaegis.attacks.minimal import Accumulate, Boundary, CarliniL2, NearestBoundary, Saliency, Sparse
from medaegis.attacks.objective import Objective
from medaegis.attacks.search.decision import Decision, GuardDecision, HopSkipJump
from medaegis.attacks.search.estimation import Spsa, Zoo
from medaegis.attacks.search.evolution import OnePixel, Watermark
from medaegis.attacks.search.square import Square
from medaegis.attacks.smooth import Fields, Waves
from medaegis.attacks.sparse import Patch, SparseFool
from medaegis.attacks.steps import Adaptive, Descent, StepRule
from medaegis.attacks.transforms import InputDiversity, Smoothing
from medaegis.attacks.universal import SearchedUniversal, Universal
from medaegis.errors import ConfigError

_CE, _CW, _SHIELD = CrossEntropy(), CarliniWagner(), ShieldLogit()
_DICE = Overlap("dice")  # from 0 to 1, weighed against a Shield's logit: once as much as it and a mask stays right
_PLAIN, _AUTO, _BEST = Descent(), Adaptive(), Descent(keeps_best=True)
_LIGHT, _LOW = Fields(), Fields(Waves(), multiplies=False, shared=False)
_HIGH = Fields(Waves(1 / 4, high=True), multiplies=False, shared=False)


def _long(objective: Objective, rule: StepRule = _PLAIN) -> Attack:
    return Attack(objective=objective, rule=rule, random_start=True, steps=100)


def _fields(objective: Objective, rule: Fields) -> Attack:
    return Attack(objective=objective, rule=rule, steps=40, step_size=2.0)


def _patch(objective: Objective) -> Attack:
    return Attack(objective=objective, rule=Patch(), steps=40, exact=True)


CATALOGUE: dict[str, CatalogueEntry] = {
    "fgsm": CatalogueEntry("Fast gradient sign", "Goodfellow 2015", Attack(objective=_CE, steps=1, step_size=1.0)),
    "bim": CatalogueEntry("Basic iterative method", "Kurakin 2017", Attack(objective=_CE)),
    "pgd": CatalogueEntry("Projected gradient descent", "Madry 2018", Attack(objective=_CE, random_start=True)),
    "pgd-l2": CatalogueEntry("Projected gradient descent, L2", "Madry 2018",
        Attack(objective=_CE, ball=L2(), random_start=True)),
    "mim": CatalogueEntry("Momentum iterative method", "Dong 2018", Attack(objective=_CE, rule=Descent(momentum=1.0))),
    "cw-linf": CatalogueEntry("Carlini-Wagner margin, L-infinity", "Carlini 2017, by PGD as in Madry 2018",
        Attack(objective=_CW, random_start=True)),
    "cw-l2": CatalogueEntry("Carlini-Wagner, smallest L2 change", "Carlini 2017",
        Attack(objective=_CW, ball=L2(), rule=CarliniL2(), steps=900, exact=True), minimal=True),
    "deepfool": CatalogueEntry("DeepFool, L-infinity", "Moosavi-Dezfooli 2016",
        Attack(objective=NearestBoundary(), rule=Boundary(), steps=50, exact=True), minimal=True),
    "deepfool-l2": CatalogueEntry("DeepFool, L2", "Moosavi-Dezfooli 2016",
        Attack(objective=NearestBoundary(L2()), ball=L2(), rule=Boundary(), steps=50, exact=True), minimal=True),
    "ddn": CatalogueEntry("Decoupled direction and norm, smallest L2 change", "Rony 2019 (DDN)",
        Attack(objective=Odds(), ball=L2(), rule=Decoupled(), steps=100, exact=True), minimal=True),
    "fmn": CatalogueEntry("Fast minimum norm, smallest L-infinity change", "Pintor 2021 (FMN)",
        Attack(objective=_CW, rule=FastMinimum(), steps=100, exact=True), minimal=True),
    "fmn-l2": CatalogueEntry("Fast minimum norm, smallest L2 change", "Pintor 2021 (FMN)",
        Attack(objective=_CW, ball=L2(), rule=FastMinimum(), steps=100, exact=True), minimal=True),
    "fab": CatalogueEntry("Fast adaptive boundary, smallest L-infinity change", "Croce 2020 (FAB)",
        Attack(objective=NearestBoundary(), rule=FastBoundary(), steps=100, exact=True), minimal=True),
    "fab-l2": CatalogueEntry("Fast adaptive boundary, smallest L2 change", "Croce 2020 (FAB)",
        Attack(objective=NearestBoundary(L2()), ball=L2(), rule=FastBoundary(), steps=100, exact=True), minimal=True),
    "jsma": CatalogueEntry("Jacobian saliency map, few pixels", "Papernot 2016, single values",
        Attack(objective=Saliency(), rule=Sparse(), steps=100, step_size=1.0, exact=True), minimal=True, sparse=True),
    "dim": CatalogueEntry("Diverse inputs", "Xie 2019", Attack(objective=_CE, transforms=(InputDiversity(),))),
    "tim": CatalogueEntry("Translation-invariant, with momentum", "Dong 2019",
        Attack(objective=_CE, rule=Descent(momentum=1.0), transforms=(Smoothing(),))),
    "apgd-ce": CatalogueEntry("Auto-PGD, cross-entropy", "Croce 2020", _long(_CE, _AUTO)),
    "apgd-cw": CatalogueEntry("Auto-PGD, margin", "Croce 2020, with the loss of Carlini 2017", _long(_CW, _AUTO)),
    "apgd-dlr": CatalogueEntry("Auto-PGD, difference of logits ratio", "Croce 2020",
        _long(LogitRatio(), _AUTO), classes=4),
    "hfc": CatalogueEntry("BIM with the hierarchical feature constraint", "Yao 2021 (HFC), eq. 7",
        Attack(objective=_CE + HierarchicalFeature(), steps=100)),
    "kde-evasion": CatalogueEntry("Evasion of kernel density detection", "Carlini 2017b",
        Attack(objective=10.0 * CONFIDENT + KernelDensityEvasion(), steps=100)),
    "lid-evasion": CatalogueEntry("Evasion of local intrinsic dimension detection",
        "Athalye 2018 on the estimate of Ma 2018", Attack(objective=CONFIDENT + LocalDimensionEvasion(), steps=100)),
    "sma": CatalogueEntry("Stabilised medical attack", "Qi 2021", Attack(objective=_CE + Stability())),
    "stress-down": CatalogueEntry("Stress test: features down", "Yao 2021 (HFC), section 3; Medical Aegis, section 3",
        Attack(objective=FeatureShift(sign=-1)), misleads=False),
    "stress-up": CatalogueEntry("Stress test: features up", "Yao 2021 (HFC), section 3; Medical Aegis, section 3",
        Attack(objective=FeatureShift(sign=1)), misleads=False),
    "wb-hfc": CatalogueEntry("White-box (WB) with the hierarchical feature constraint",
        "Yao, Medical Aegis, and Yao 2021 (HFC), eq. 7", _long(WHITE_BOX + HierarchicalFeature()), adaptive=True),
    "feature-match": CatalogueEntry("Feature match to an image of the wanted class", "Sabour 2016, by PGD",
        _long(FeatureMatch()), misleads=False),
    "feature-match-closest": CatalogueEntry("Feature match to the nearest image of the wanted class",
        "Sabour 2016, by PGD", _long(ClosestFeatureMatch()), misleads=False),
    "logit-match": CatalogueEntry("Logit match to an image of the wanted class", "Tramer 2020",
        _long(LogitMatch()), misleads=False),
    "square": CatalogueEntry("Square, random search", "Andriushchenko 2020",
        Attack(objective=_CW, rule=Square(), steps=5000), access="black-box"),
    "square-guard": CatalogueEntry("Square on classifier and Shield",
        "Andriushchenko 2020 on the loss of Medical Aegis", Attack(objective=WHITE_BOX, rule=Square(), steps=5000),
        adaptive=True, access="black-box"),
    "square-l2": CatalogueEntry("Square, random search, L2", "Andriushchenko 2020",
        Attack(objective=_CW, ball=L2(), rule=Square(), steps=5000), access="black-box"),
    # 20 rounds of 128 directions and a look at the new point, after one at the clean image; likewise ZOO.
    "spsa": CatalogueEntry("Random directions (SPSA), Adam", "Uesato 2018",
        Attack(objective=_CW, rule=Spsa(), steps=1 + 20 * 257), access="black-box"),
    "spsa-guard": CatalogueEntry("SPSA on classifier and Shield", "Uesato 2018 on the loss of Medical Aegis",
        Attack(objective=WHITE_BOX, rule=Spsa(), steps=1 + 20 * 257), adaptive=True, access="black-box"),
    "zoo": CatalogueEntry("Zeroth-order optimisation, by coordinates", "Chen 2017 (ZOO)",
        Attack(objective=_CW, rule=Zoo(), steps=1 + 20 * 257), access="black-box"),
    # A first population and 50 generations.
    "one-pixel": CatalogueEntry("One pixel, differential evolution", "Su 2019",
        Attack(objective=_CW, rule=OnePixel(), steps=1 + 51 * 100), access="black-box", minimal=True, sparse=True),
    "hopskipjump": CatalogueEntry("HopSkipJump, from decisions alone", "Chen 2020 (HopSkipJump)",
        Attack(objective=Decision(), rule=HopSkipJump(), steps=5000), access="black-box", minimal=True),
    "hopskipjump-l2": CatalogueEntry("HopSkipJump, from decisions alone, L2", "Chen 2020 (HopSkipJump)",
        Attack(objective=Decision(), ball=L2(), rule=HopSkipJump(), steps=5000), access="black-box", minimal=True),
    "hopskipjump-guard": CatalogueEntry("HopSkipJump on what the guard gives out or withholds, L2",
        "Chen 2020 (HopSkipJump) on the guard",
        Attack(objective=GuardDecision(), ball=L2(), rule=HopSkipJump(), steps=5000), adaptive=True, access="black-box",
        minimal=True),
    "ddn-guard": CatalogueEntry("Decoupled direction and norm past classifier and Shield, L2",
        "Rony 2019 (DDN) on the guard",
        Attack(objective=GettingThrough(), ball=L2(), rule=Decoupled(), steps=100, exact=True), adaptive=True,
        minimal=True),
    "fmn-guard": CatalogueEntry("Fast minimum norm past classifier and Shield, L-infinity",
        "Pintor 2021 (FMN) on the guard", Attack(objective=GettingThrough(), rule=FastMinimum(), steps=100, exact=True),
        adaptive=True, minimal=True),
    "shield-only": CatalogueEntry("Shield logit alone", "Yao, Medical Aegis, eq. 4", _long(_SHIELD), adaptive=True),
    "wb": CatalogueEntry("White-box (WB)", "Yao, Medical Aegis, section 4.1", _long(WHITE_BOX), adaptive=True),
    "wb-0.1": CatalogueEntry("White-box, a tenth of the Shield's weight",
        "Yao, Medical Aegis, section 4.1; weights as Carlini 2017b", _long(CONFIDENT + 0.1 * _SHIELD), adaptive=True),
    "wb-10": CatalogueEntry("White-box, ten times the Shield's weight",
        "Yao, Medical Aegis, section 4.1; weights as Carlini 2017b", _long(CONFIDENT + 10.0 * _SHIELD), adaptive=True),
    "selective": CatalogueEntry("Selective PGD", "Bryniarski 2021", _long(Selective(), _BEST), adaptive=True),
    "orthogonal": CatalogueEntry("Orthogonal PGD", "Bryniarski 2021", _long(Orthogonal(), _BEST), adaptive=True),
    "wb-decay": CatalogueEntry("White-box with step decay (WB_d)", "Yao, Medical Aegis, section 4.1",
        Attack(objective=WHITE_BOX, rule=Descent(decay=0.1), random_start=True, steps=100), adaptive=True),
    "wb-momentum": CatalogueEntry("White-box with momentum, from the clean image",
        "Dong 2018 on the loss of Medical Aegis", Attack(objective=WHITE_BOX, rule=Descent(momentum=1.0), steps=100),
        adaptive=True),
    "wb-adaptive": CatalogueEntry("White-box with Auto-PGD steps", "Croce 2020 on the loss of Medical Aegis",
        _long(WHITE_BOX, _AUTO), adaptive=True),
    "uap": CatalogueEntry("Universal perturbation, learned on known images",
        "Moosavi-Dezfooli 2017, by the steps of Shafahi 2020", Universal()),
    "uap-wb": CatalogueEntry("Universal perturbation on classifier and Shield",
        "Shafahi 2020 on the loss of Medical Aegis", Universal(objective=WHITE_BOX), adaptive=True),
    # AutoAttack's DLR loss needs more classes than most diagnoses have; the margin takes its place.
    "auto": CatalogueEntry("Ensemble: Auto-PGD (cross-entropy, margin per class, DLR), Square",
        "after Croce 2020 (AutoAttack)",
        Ensemble((
            Member(_long(_CE, _AUTO)),
            Member(_long(_CW, _AUTO), per_class=True),
            Member(_long(LogitRatio(), _AUTO), per_class=True, classes=4),
            Member(Attack(objective=_CW, rule=Square(), steps=5000)),
        ))),
    "auto-guard": CatalogueEntry("Ensemble on the guard: WB of three weights, selective, orthogonal, Square",
        "after Croce 2020 (AutoAttack) and Bryniarski 2021",
        Ensemble((
            Member(_long(WHITE_BOX, _AUTO)),
            Member(_long(CONFIDENT + 0.1 * _SHIELD, _AUTO)),
            Member(_long(CONFIDENT + 10.0 * _SHIELD, _AUTO)),
            Member(_long(Selective(), _BEST)),
            Member(_long(Orthogonal(), _BEST)),
            Member(Attack(objective=WHITE_BOX, rule=Square(), steps=5000)),
        )), adaptive=True),
    # Beyond noise on every pixel: other light, chosen frequencies, a patch, few values, a mark; and what is learned.
    "bias-field": CatalogueEntry("Bias field, a polynomial of degree 5", "Tian 2021",
        _fields(_CE, _LIGHT), confined=True),
    "bias-field-guard": CatalogueEntry("Bias field on classifier and Shield", "Tian 2021 on the loss of Medical Aegis",
        _fields(WHITE_BOX, _LIGHT), adaptive=True, confined=True),
    "exposure": CatalogueEntry("Exposure that varies slowly", "Cheng 2020, multiplied, smooth by low frequencies",
        _fields(_CE, Fields(Waves())), confined=True),
    "frequency": CatalogueEntry("Low frequencies alone (DCT)", "Guo 2019 (low frequency), by PGD",
        _fields(_CE, _LOW), confined=True),
    "frequency-high": CatalogueEntry("High frequencies alone (DCT)", "Chen 2023 (frequency constraint), by PGD",
        _fields(_CE, _HIGH), confined=True),
    "frequency-guard": CatalogueEntry("Low frequencies alone on classifier and Shield",
        "Guo 2019 on the loss of Medical Aegis", _fields(WHITE_BOX, _LOW), adaptive=True, confined=True),
    "patch": CatalogueEntry("Patch of 2 % of the area, visible", "Brown 2017, one for each image",
        _patch(_CE), minimal=True, sparse=True, confined=True),
    "patch-guard": CatalogueEntry("Patch on classifier and Shield, visible", "Brown 2017 on the loss of Medical Aegis",
        _patch(WHITE_BOX), adaptive=True, minimal=True, sparse=True, confined=True),
    "sparsefool": CatalogueEntry("SparseFool, few values", "Modas 2019",
        Attack(objective=NearestBoundary(L2()), rule=SparseFool(), steps=100, exact=True), minimal=True, sparse=True),
    # A first population and 20 generations.
    "watermark": CatalogueEntry("Watermark, place and opacity by evolution", "Jia 2020 (Adv-watermark)",
        Attack(objective=_CW, rule=Watermark(), steps=1 + 21 * 50), access="black-box", minimal=True, sparse=True,
        confined=True),
    "uap-black-box": CatalogueEntry("Universal perturbation, learned from answers alone", "Koga 2022 (U-SimBA)",
        SearchedUniversal(), access="black-box"),
    "generator": CatalogueEntry("Generator, learned on known images, one pass",
        "Xiao 2018 (AdvGAN), without its discriminator", Generator()),
    "generator-guard": CatalogueEntry("Generator, learned on classifier and Shield",
        "Xiao 2018 on the loss of Medical Aegis", Generator(objective=WHITE_BOX), adaptive=True),
}  # fmt: skip

# Of masks alone; most entries of the catalogue serve masks too.
DENSE: dict[str, CatalogueEntry] = {
    "pgd-dice": CatalogueEntry("Projected gradient descent on the Dice of masks",
        "Madry 2018; Dong 2024 (survey), Table 4", Attack(objective=_DICE, random_start=True), task="dense"),
    "pgd-iou": CatalogueEntry("Projected gradient descent on the overlap of masks",
        "Madry 2018; Dong 2024 (survey), Table 4", Attack(objective=Overlap("iou"), random_start=True), task="dense"),
    "wb-dice": CatalogueEntry("White-box: the Dice of masks and the Shield", "the loss of Medical Aegis on masks",
        _long(10.0 * _DICE + _SHIELD), adaptive=True, task="dense"),
    "wb-dice-3": CatalogueEntry("White-box on masks, Dice weighs less", "the loss of Medical Aegis on masks",
        _long(3.0 * _DICE + _SHIELD), adaptive=True, task="dense"),
    "selective-dice": CatalogueEntry("Selective on masks: the Dice until a mask is wrong, then the Shield",
        "Bryniarski 2021", _long(Selective(_DICE, _SHIELD), _BEST), adaptive=True, task="dense"),
    "orthogonal-dice": CatalogueEntry("Orthogonal on masks: each step without what the other loss minds",
        "Bryniarski 2021", _long(Orthogonal(_DICE, _SHIELD), _BEST), adaptive=True, task="dense"),
    "dag": CatalogueEntry("Dense adversary generation, until the mask is as wanted", "Xie 2017 (DAG)",
        Attack(objective=Active(), rule=Accumulate(), steps=200, exact=True), minimal=True, task="dense"),
}  # fmt: skip


def find_attack(name: str) -> CatalogueEntry:
    """Entry of the catalogue, with the add-ons that the name joins to it, as in `pgd+dim+hfc`.

    Raises:
        ConfigError: no such attack or add-on; lists those there are. An add-on that the attack cannot take.
    """
    if name in CATALOGUE or name in DENSE:
        return CATALOGUE.get(name) or DENSE[name]
    base, *names = name.split("+")
    if base not in CATALOGUE:
        near = get_close_matches(base.lower(), CATALOGUE, n=1)
        remedy = f"did you mean {near[0]!r}? " if near else ""
        remedy += f"choose from {', '.join(CATALOGUE)}; most by gradients also with +{', +'.join(ADD_ONS)}"
        raise ConfigError(f"attack {name!r}", "not in the catalogue", remedy)
    return joined(CATALOGUE[base], base, names)
