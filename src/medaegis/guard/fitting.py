"""Fitting a guard: one Shield per class, or one for masks, thresholds on clean validation images, figures on test ones.

Shields learn on "train" and "adv_train"; "val" is looked at in training, to keep the best Shield, and sets thresholds;
figures come from "adv_test", which has no other part.
"""

from __future__ import annotations

import copy
import math
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from medaegis.ambient import own_modes
from medaegis.artefact import check_target
from medaegis.artefact_files import MANIFEST
from medaegis.attacks.engine import Attack
from medaegis.attacks.losses.shield import ShieldLogit
from medaegis.attacks.objective import Goal
from medaegis.attacks.steps import Descent, StepRule
from medaegis.attacks.victim import Victim
from medaegis.cushions import Cushion
from medaegis.detectors.shield import Shield, ShieldBank
from medaegis.detectors.thresholds import FEWEST
from medaegis.draws import Draws
from medaegis.errors import ConfigError, DataError
from medaegis.guard.calibration import calibrate
from medaegis.guard.guard import KIND, Guard
from medaegis.guard.looks import BETWEEN_LOOKS, LOOKS, WATCHED_EPS, WATCHED_TNR, area, in_chance_order, soundness
from medaegis.guard.mask_training import MaskTraining, mask_robustness
from medaegis.guard.purpose import PURPOSE, Purpose, purpose_of
from medaegis.guard.seen import Seen
from medaegis.guard.shield_config import ShieldConfig
from medaegis.guard.shield_training import ShieldTraining
from medaegis.guard.side_by_side import side_by_side
from medaegis.images.datasets import Dataset
from medaegis.images.sources import without_path
from medaegis.images.splits import FRACTIONS, Split
from medaegis.models.classifier import ANSWERED, INPUT, Classifier
from medaegis.models.fingerprint import weights_fingerprint
from medaegis.models.store import describe_classifier
from medaegis.progress import Progress, silent
from medaegis.sizes import told_size

WATCHED_IMAGES = 64

RECIPES: dict[str, str] = {
    "paper": "Medical Aegis: the backbone's taps, eps growing over the whole training, a fresh start for each attack",
    "strong": "ours, the default: pixels alone, small eps mixed in, and perturbed images among the genuine ones too",
    "smooth": "as strong, for smooth pictures as fundus photographs: eps up to 8/256, more noise on genuine images",
}


def shield_config(recipe: str, classifier: Classifier, *, updates: int, seed: int = 0) -> ShieldConfig:
    """Settings of a named recipe for a classifier.

    Raises:
        ConfigError: no such recipe, or not for this task, or a classifier without taps for the recipe that reads them.
    """
    if recipe not in RECIPES:
        raise ConfigError(f"recipe {recipe!r}", "unknown", f"choose from {', '.join(RECIPES)}")
    dense = classifier.task.name == "dense"
    if dense and recipe == "paper":
        classifier.check_single("recipe paper")
    # What a mask is worth is seen beside its picture alone; of a class the choice of the Shield says what was answered.
    ours_on = (ANSWERED,) if dense else (INPUT,)
    taps = tuple(tap for tap in classifier.taps if tap != INPUT) if recipe == "paper" else ours_on
    if not taps:
        problem = "the classifier names no taps, and the Shields of recipe paper read them"
        raise ConfigError(f"recipe {recipe!r}", problem, "name some: --taps layer1.0,layer2.0; or take recipe strong")
    every = max(BETWEEN_LOOKS, updates // LOOKS) if updates >= LOOKS else 0
    paper = ShieldConfig(taps=taps, updates=updates, average=0.0, seed=seed, watch_every=every)
    if recipe == "paper":
        return paper
    ours = {
        "batch_size": 16,
        "lr": 1.5e-3,
        "average": 0.998,
        "eps_growth": 0.2,
        "eps_below": 0.25,
        "inner_steps": 10,
        "inner_step": (0.08, 0.25),
        "early_steps": 3,
        "early": 0.5,
        "momentum_share": 0.5,
        "cushioned": 0.0,
        "genuine_noise": 0.25,
        "genuine_perturbed": 0.25,
        "selected": True,
    }
    if recipe == "smooth":
        ours |= {"eps_end": 8 / 256, "genuine_noise": 0.4, "genuine_noise_eps": 16 / 256, "genuine_perturbed": 0.2}
    return paper.model_copy(update=ours)


@own_modes()
def fit_guard(
    classifier: Classifier,
    dataset: Dataset,
    split: Split,
    *,
    cushion: Cushion,
    config: ShieldConfig,
    out_dir: Path,
    tnr: float = 0.9,
    signing_key: Path | None = None,
    purpose: Purpose | None = None,
    about: dict[str, Any] | None = None,
    learned: Tensor | None = None,
    progress: Progress = silent,
) -> Guard:
    """Train the Shields, calibrate, and write the guard folder; called again after a kill it goes on where it was.

    Checkpoints lie in a folder beside it, which goes once the guard is there. Called again then, the guard's own
    Shields are taken.

    Args:
        purpose: what kind of pictures it is for; None: what the training data say of that, if anything.
        about: further facts for the manifest, such as the command.
        learned: hashes of images that the classifier learned from (`read_learned`), beside those of this split.

    Raises:
        DataError: the data or the split do not fit the classifier.
        ConfigError: `out_dir` was begun, or holds a guard made, with other settings; or an unusable key.
        ArtefactError: the guard could not be written there, or the one there is damaged; asked before any work.
    """
    check_target(out_dir, kind=KIND, signing_key=signing_key)
    check_before_fitting(classifier, dataset, split)
    learn = dataset.subset([*split.train, *split.adv_train])
    watch = dataset.subset(split.val)
    work = out_dir.with_name(f"{out_dir.name}.fitting")
    earlier = None
    if (out_dir / MANIFEST).is_file():  # its network, as any of ours, is built by copying the classifier's
        earlier = Guard.load(out_dir, factory=lambda **_: copy.deepcopy(classifier.network))
    dense = classifier.task.name == "dense"
    kind = MaskTraining if dense else ShieldTraining
    trainings = []
    for label in range(len(classifier.task.shields(classifier.classes))):
        look = mask_robustness(classifier, cushion, watch) if dense else robustness(classifier, cushion, watch, label)
        folder = work / f"shield-{label}"
        trainings.append(kind(classifier, cushion, learn, label, config, folder, watch=look, rank=soundness))
    shields = side_by_side(trainings, progress) if earlier is None else _shields_there(out_dir, earlier, trainings)
    facts = {
        training.name: training.facts() if earlier is None else earlier.training["shields"][training.name]
        for training in trainings
    }
    told = {**_data_facts(dataset, split), "config": config.model_dump(mode="json"), "shields": facts, **(about or {})}
    if (stated := purpose or purpose_of(dataset.spec, dataset.kinds)) is not None:
        told[PURPOSE] = stated.model_dump(mode="json")
    seen = Seen.of(learn, watch, learned)
    guard = Guard(classifier, cushion, ShieldBank(shields), tnr=tnr, training=told, seen=seen)
    guard.calibration = calibrate(guard, dataset, split)
    guard.save(out_dir, signing_key=signing_key)
    shutil.rmtree(work, ignore_errors=True)
    return guard


def _shields_there(folder: Path, guard: Guard, trainings: Sequence[ShieldTraining]) -> list[Shield]:
    """The Shields of a guard that an earlier call wrote.

    Raises:
        ConfigError: other trainings than these made them.
    """
    for training in trainings:
        if guard.training.get("shields", {}).get(training.name, {}).get("key") != training.identity:
            problem = "holds a guard made with other settings, data, Cushion or classifier"
            raise ConfigError(folder, problem, "delete it, or choose another folder")
    return [cast(Shield, shield) for shield in guard.bank.shields]


@own_modes()
def refit_guard(
    source: Guard,
    classifier: Classifier,
    dataset: Dataset,
    split: Split,
    *,
    cushion: Cushion,
    out_dir: Path,
    tnr: float = 0.9,
    learned: Tensor | None = None,
    signing_key: Path | None = None,
    purpose: Purpose | None = None,
) -> Guard:
    """A guard with the Shields of another one, their thresholds set anew: for another Cushion, classifier or TNR.

    Args:
        purpose: what kind of pictures it is for; None: as `source`.

    Raises:
        DataError: the data or the split do not fit the classifier, or are not those that the Shields learned from.
        ConfigError: the Shields do not fit the classifier (`check_shields`), or an unusable key.
        ArtefactError: the folder holds something, or nothing can be written there.
    """
    check_target(out_dir, kind=KIND, empty=True, signing_key=signing_key)
    check_shields(source, classifier, dataset, split)
    check_before_fitting(classifier, dataset, split)
    training = {**source.training, **_data_facts(dataset, split), "shields_of": source.digest}
    if purpose is not None:
        training[PURPOSE] = purpose.model_dump(mode="json")
    before = None if source.seen is None else source.seen.learned
    known = [hashes for hashes in (learned, before) if hashes is not None]
    learn, watch = dataset.subset([*split.train, *split.adv_train]), dataset.subset(split.val)
    seen = Seen.of(learn, watch, torch.cat(known) if known else None)
    guard = Guard(classifier, cushion, copy.deepcopy(source.bank), tnr=tnr, training=training, seen=seen)
    guard.calibration = calibrate(guard, dataset, split)
    guard.save(out_dir, signing_key=signing_key)
    return guard


def check_shields(source: Guard, classifier: Classifier, dataset: Dataset, split: Split) -> None:
    """Whether the Shields of a guard can stand behind a classifier and be measured on the test images of a split.

    Raises:
        ConfigError: they read features of another classifier; or classes, size or channels differ.
        DataError: they learned from other images or another split, perhaps from the very test images.
    """
    given, wanted = ((c.classes, c.size, c.channels) for c in (source.classifier, classifier))
    if given != wanted:
        raise ConfigError("Shields", f"made for {given}, the classifier is for {wanted}", "fit new ones")
    described = describe_classifier(source.classifier) == describe_classifier(classifier)
    same = described and weights_fingerprint(source.classifier) == weights_fingerprint(classifier)
    if not same and set(source.bank.taps) != {INPUT}:
        raise ConfigError("Shields", "they read features of another classifier", "fit new ones, or pixels alone")
    told, facts = source.training, _data_facts(dataset, split)
    same = told.get("data", {}).get("fingerprint") == dataset.fingerprint
    drawn = {"fractions": list(FRACTIONS), **told.get("split", {})}  # older guards do not tell theirs
    if not same or drawn != facts["split"] or told.get("split_parts") != facts["split_parts"]:
        problem = "the Shields learned from other images or another split of them, perhaps from those of the test"
        raise DataError(dataset.spec, problem, "use the data, --images and split of their guard")


def _data_facts(dataset: Dataset, split: Split) -> dict[str, Any]:
    learned = len(split.train) + len(split.adv_train)
    return {
        "data": {"spec": without_path(dataset.spec), "fingerprint": dataset.fingerprint, "images": learned},
        "split": {
            "by": split.by,
            "seed": split.seed,
            "fingerprint": split.fingerprint,
            "fractions": list(split.fractions),
        },
        "split_parts": split.parts_fingerprint,
    }


def robustness(
    classifier: Classifier,
    cushion: Cushion,
    dataset: Dataset,
    label: int,
    *,
    images: int | None = None,
    rule: StepRule | None = None,
    steps: int = 20,
) -> Callable[[Shield], dict[str, float]]:
    """A look at a Shield in training: AUROC of clean images of its class against attacked ones of the others.

    Under "auroc_8" and the like; under "auroc_clean" against the same images before the attack; under "passing_64" and
    the like the share of attacked images that pass where `WATCHED_TNR` of clean ones do.

    The attack raises the Shield's logit alone, in steps that leave the Cushion out, because a Shield may hide behind
    its rounding; the Cushion counts in the verdict. A quick look for the training curve, not an evaluation.

    Args:
        images: attacked ones, and three times as many clean ones, drawn from all; None: `WATCHED_IMAGES`.
        rule, steps: of the attack; None: sign steps. Momentum was led astray by Shields that Auto-PGD broke.
    """
    count = WATCHED_IMAGES if images is None else images
    order = in_chance_order(dataset)
    own = order[dataset.labels[order] == label][: 3 * count]
    foreign = order[dataset.labels[order] != label][:count]
    genuine, before = dataset.pixels(own), dataset.pixels(foreign)
    if not len(genuine) or not len(foreign):
        problem = f"no validation image of class {dataset.classes[label]!r} or of another one"
        raise DataError(dataset.spec, problem, "give more images")
    targets = torch.full((len(foreign),), label)
    attack = Attack(objective=ShieldLogit(), rule=rule or Descent(), random_start=True, steps=steps)

    def look(shield: Shield) -> dict[str, float]:
        bank = ShieldBank([shield] * len(classifier.classes))
        victim = Victim(classifier, cushion=cushion, shields=bank, gradient="skip")
        clean = shield_logits(victim, genuine, label, ids=dataset.ids[own])
        lowest = clean.topk(math.ceil(WATCHED_TNR * len(clean))).values[-1]
        seen = {"auroc_clean": area(clean, shield_logits(victim, before, label, ids=dataset.ids[foreign]))}
        goal = Goal(dataset.labels[foreign], targets)
        for eps in WATCHED_EPS:
            attacked = _attacked(attack, victim, before, goal, eps / 256, dataset.ids[foreign])
            logits = shield_logits(victim, attacked, label, ids=dataset.ids[foreign])
            seen[f"auroc_{eps}"] = area(clean, logits)
            seen[f"passing_{eps}"] = float((logits >= lowest).double().mean())
        return seen

    return look


def _attacked(attack: Attack, victim: Victim, images: Tensor, goal: Goal, eps: float, ids: Tensor) -> Tensor:
    """As `attack.run`, without the verdict on each image, of which a look needs the Shield's part alone."""
    found = []
    for rows in torch.arange(len(images)).split(32):
        x, numbers = images[rows].to(victim.device), ids[rows]
        radius = torch.full((len(x), 1, 1, 1), eps, device=x.device)
        draws = Draws(0, numbers, "attack/0").to(x.device)
        start = attack.ball.random(x, radius, draws.child("start"))
        drawn = victim.drawn(numbers, seed=0, stream="attack/0")
        walked, _ = attack.descend(drawn, x, goal[rows].to(x.device), radius, start, draws)
        found.append(attack.ball.to_8bit(walked, x, radius).to(images.device))
    return torch.cat(found)


@torch.no_grad()
def shield_logits(victim: Victim, images: Tensor, label: int, *, ids: Tensor | None = None) -> Tensor:
    """S_label in float32 of `(N, C, H, W)` images, by the draws that judge images so numbered (None: positions)."""
    assert victim.shields is not None
    ids = torch.arange(len(images)) if ids is None else ids
    parts = []
    for part, numbers in zip(images.split(64), ids.split(64), strict=True):
        cushioned = victim.drawn(numbers, seed=0).cushion(part.to(victim.device))
        seen = victim.exact.activations(cushioned, logits=False, taps=victim.shields.taps)
        parts.append(victim.shields(seen.features, torch.full((len(part),), label, device=victim.device)).cpu())
    return torch.cat(parts)


def check_before_fitting(classifier: Classifier, dataset: Dataset, split: Split) -> None:
    """Whether all fits together, Shields can be trained and thresholds set at all, asked before hours of training.

    Raises:
        DataError: the data or the split do not fit the classifier, or hold too few images.
    """
    if not classifier.task.shields(classifier.classes):
        classifier.check_single("guard")
    if dataset.task != classifier.task:
        problem = f"its labels are {dataset.task.title}; the network gives {classifier.task.title}"
        raise DataError(dataset.spec, problem, "use the data it is made for")
    if dataset.classes != classifier.classes:
        problem = f"classes {', '.join(dataset.classes)}; the classifier knows {', '.join(classifier.classes)}"
        raise DataError(dataset.spec, problem, "use the data it is made for")
    if dataset.size != classifier.size or dataset.channels != classifier.channels:
        problem = f"{told_size(dataset.size)} {dataset.channels}"
        raise DataError(dataset.spec, problem, f"load it with {told_size(classifier.size)} {classifier.channels}")
    if split.fingerprint != dataset.fingerprint:
        raise DataError(dataset.spec, "the split was made for another data set", "use the split of the classifier")
    if not split.val or not split.adv_test:
        raise DataError(dataset.spec, "the split has no val or no adv_test images", "split with shares above 0")
    if len(split.val) < FEWEST:
        problem = f"{len(split.val)} validation images in all, the thresholds need {FEWEST}"
        raise DataError(dataset.spec, problem, "give more images, or train with a larger --val-share")
    for part, places in (("training", (*split.train, *split.adv_train)), ("validation", split.val)):
        strata, names = dataset.strata
        counts = strata[list(places)].bincount(minlength=len(names)).tolist()
        if 0 in counts:
            problem = f"no {part} image of class {names[counts.index(0)]!r}"
            raise DataError(dataset.spec, problem, "give images of it, or leave the class out")
