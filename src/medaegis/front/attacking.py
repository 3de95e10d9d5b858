"""Attack images: an attack by name or value, on a network alone or on a whole guard."""

from __future__ import annotations

from typing import Any, Literal, overload

import torch

from medaegis.ambient import own_modes
from medaegis.arrays import Arrays, Images, Labelled, Labels, Rounding, as_dataset, labelled, task_labels
from medaegis.attacks.balls import parse_eps
from medaegis.attacks.base import AnyAttack, AttackResult, Until
from medaegis.attacks.catalogue import find_attack
from medaegis.attacks.choices import pick_targets
from medaegis.attacks.known import Known
from medaegis.attacks.victim import Victim
from medaegis.cushions import Gradient
from medaegis.cushions.filters import Unrounded
from medaegis.errors import ConfigError
from medaegis.guard.guard import Guard
from medaegis.models.classifier import Classifier
from medaegis.progress import Progress, silent

Eps = float | str


@overload
def attack(
    attack: str | AnyAttack,
    target: Classifier | Guard | Victim,
    images: Images,
    labels: Labels | None = None,
    *,
    eps: Eps,
    targets: Labels | Literal["random"] | None = None,
    known: tuple[Arrays, Labels] | Labelled | None = None,
    steps: int | None = None,
    restarts: int | None = None,
    gradient: Gradient = "bpda",
    rounding: Rounding = "8bit",
    until: Until = "end",
    seed: int = 0,
    batch_size: int = 32,
    progress: Progress = silent,
) -> AttackResult: ...
@overload
def attack(
    attack: str | AnyAttack,
    target: Classifier | Guard | Victim,
    images: Images,
    labels: Labels | None = None,
    *,
    eps: list[Eps],
    targets: Labels | Literal["random"] | None = None,
    known: tuple[Arrays, Labels] | Labelled | None = None,
    steps: int | None = None,
    restarts: int | None = None,
    gradient: Gradient = "bpda",
    rounding: Rounding = "8bit",
    until: Until = "end",
    seed: int = 0,
    batch_size: int = 32,
    progress: Progress = silent,
) -> list[AttackResult]: ...
@own_modes()
def attack(
    attack: str | AnyAttack,
    target: Classifier | Guard | Victim,
    images: Images,
    labels: Labels | None = None,
    *,
    eps: Eps | list[Eps],
    targets: Labels | Literal["random"] | None = None,
    known: tuple[Arrays, Labels] | Labelled | None = None,
    steps: int | None = None,
    restarts: int | None = None,
    gradient: Gradient = "bpda",
    rounding: Rounding = "8bit",
    until: Until = "end",
    seed: int = 0,
    batch_size: int = 32,
    progress: Progress = silent,
) -> AttackResult | list[AttackResult]:
    """Attack images.

    >>> import torch, medaegis as ma
    >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 16 * 16, 2))
    >>> model = ma.wrap(network, classes=("normal", "pneumonia"), size=16, normalise=None)
    >>> x = torch.randint(0, 256, (4, 3, 16, 16), dtype=torch.uint8)
    >>> y = model(x / 255).argmax(1)  # what it says of the clean images
    >>> result = ma.attack("pgd", model, x, y, eps="32/255", steps=5)
    >>> result.fooled.tolist()
    [True, True, True, True]
    >>> curve = ma.attack("fgsm", model, x, y, eps=["1/255", "8/255", "32/255"])
    >>> [int(one.fooled.sum()) for one in curve][-1]
    4

    Args:
        attack: a name of the catalogue (`medaegis attacks` lists them), with add-ons as in "pgd+dim+hfc"; or a value.
        target: a classifier alone, a guard, or any other `Victim`.
        images: arrays with `labels`, a torch `Dataset` or `DataLoader` of pairs, a `Dataset` or a spec
            (`medaegis.arrays`).
        labels: the true classes, findings or masks; None: they come with the images.
        eps: radius in pixel units, "8/255" or 0.03; a list gives a list of results. Attacks that look for the smallest
            change take it as a bound.
        targets: wanted classes, one for each image (findings and masks likewise; -1: a finding that does not matter);
            "random": another one than its label, drawn for each image by the seed; None: any wrong class.
        known: clean images and labels, `(images, labels)` or what holds both, that the attacker has beside those he
            attacks, for attacks that imitate one, hide among normal features, or learn one perturbation for all.
        steps, restarts: of the attack; None: those it is known with.
        gradient: how gradients pass a guard's Cushion, see `Victim`.
        rounding: "8bit": the result is an image that a file can carry, and so must the given images be: others are
            rounded, with a warning. "none": float pixels, as other libraries attack; of a classifier alone.
        until: "broken": where only that counts, an image leaves as soon as it is broken, which takes a fraction of the
            time. One that broke at an eps has that result at every larger one too. "end": all go through all steps.
        seed: of everything random; an image's draws depend on its place.

    Raises:
        ConfigError: an unknown attack; one that needs a Shield, or known images, without; targets or eps that do not
            fit.
        ConfigError, DataError: images or labels that do not fit, see `medaegis.arrays.labelled`.
    """
    victim = _victim(target, gradient, rounding)
    if isinstance(attack, str):
        entry = find_attack(attack)
        if entry.adaptive and victim.shields is None:
            raise ConfigError(f"attack {attack!r}", "is aimed at a Shield, and the target has none", "attack a guard")
        attack = entry.attack
    chosen: AnyAttack = attack.with_options(steps=steps, restarts=restarts)
    x, y = labelled(images, labels, victim.exact, rounding)
    ids = torch.arange(len(x))
    single = victim.exact.task.name == "single"
    if isinstance(targets, str) and not single:
        problem = "are drawn for one class an image"
        raise ConfigError(f"targets {targets!r}", problem, "give them, in the form of labels")
    aims = pick_targets(y, len(victim.exact.classes), ids=ids, seed=seed) if single else y
    wanted = aims if isinstance(targets, str) and targets == "random" else None
    if targets is not None and wanted is None:
        aims = wanted = task_labels(targets, victim.exact, len(x), what="targets").to(x.device)
    options: dict[str, Any] = {"targets": wanted, "ids": ids, "seed": seed}
    if Known.serve(chosen):
        if known is None:
            problem = "it learns from clean images of the attacker's own"
            raise ConfigError("attack", problem, "give known=(images, labels)")
        theirs, their_labels = known if isinstance(known, tuple) else (known, None)
        own = as_dataset(theirs, their_labels, victim.exact, name="known images")
        options |= Known(own, seed=seed).options(chosen, victim, x, aims, ids)
    given = eps if isinstance(eps, list) else [eps]
    radii = [parse_eps(str(one), rounds=victim.cushion.rounds) for one in given]
    options |= {"until": until, "batch_size": batch_size, "progress": progress}
    found = chosen.curve(victim, x, y, eps=radii, **options)
    return found if isinstance(eps, list) else found[0]


def _victim(target: Classifier | Guard | Victim, gradient: Gradient, rounding: Rounding) -> Victim:
    if rounding not in ("8bit", "none"):
        raise ConfigError(f"rounding {rounding!r}", "unknown", "give '8bit' or 'none'")
    if isinstance(target, Victim):
        return target
    if isinstance(target, Classifier):
        return Victim(target, cushion=Unrounded() if rounding == "none" else None, gradient=gradient)
    if isinstance(target, Guard):
        if rounding == "none":
            raise ConfigError("rounding 'none'", "a guard judges images that a file can carry", "attack its classifier")
        return target.victim(gradient=gradient)
    raise ConfigError("target", f"is a {type(target).__name__}", "give a Classifier (ma.wrap), a Guard or a Victim")
