"""Transfer (no-box): images made on classifiers that the attacker has, judged by a victim that was never asked.

Several surrogates are attacked through the mean of their logits (Dong 2018, section 3.4).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from medaegis.ambient import own_modes
from medaegis.attacks.base import AnyAttack, AttackResult
from medaegis.attacks.objective import Goal
from medaegis.attacks.victim import Victim
from medaegis.errors import ConfigError
from medaegis.models.classifier import INPUT, Classifier


class _Committee(nn.Module):
    def __init__(self, members: Sequence[Classifier]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([member(x) for member in self.members]).mean(0)


@own_modes()
def committee(classifiers: Sequence[Classifier]) -> Classifier:
    """One classifier whose logits are the mean of theirs, and whose taps are all of theirs; one alone is itself.

    Raises:
        ConfigError: none are given, or they differ in task, classes, size or channels.
    """
    if not classifiers:
        raise ConfigError("surrogates", "none given", "give at least one classifier")
    first = classifiers[0]
    for other in classifiers[1:]:
        check_alike(first, other)
    if len(classifiers) == 1:
        return first
    return Classifier(
        _Committee([member.frozen(fold=False) for member in classifiers]),
        classes=first.classes,
        size=first.size,
        channels=first.channels,
        taps=[f"members.{i}.network.{tap}" for i, each in enumerate(classifiers) for tap in each.taps if tap != INPUT],
        backbone="committee",
        mean=(0.0,),  # each member normalises for itself
        std=(1.0,),
        outputs="logits",
        task=first.task.name,
    ).eval()


@own_modes()
def transfer(
    attack: AnyAttack,
    surrogate: Victim,
    victim: Victim,
    images: Tensor,
    labels: Tensor,
    *,
    targets: Tensor | None = None,
    only_target: bool = True,
    ids: Tensor | None = None,
    seed: int = 0,
    batch_size: int = 32,
    **options: Any,
) -> AttackResult:
    """Run an attack on the surrogate as if that were all there is; the verdict is the victim's.

    What is chosen between (restarts, members of an ensemble) is chosen by the surrogate: the victim is looked at at
    the end alone. Passes are those through the surrogate. Until "broken", an image stops where it breaks the surrogate:
    just beyond a boundary that the victim need not have there.

    Args:
        options: of `Attack.run`.

    Raises:
        ConfigError: as `Attack.run`; the two differ in task, classes, size or channels.
    """
    check_alike(victim.exact, surrogate.exact)
    goal = Goal(labels, targets, only_target=only_target, task=victim.exact.task)
    options |= {"targets": targets, "only_target": only_target, "ids": ids, "seed": seed, "batch_size": batch_size}
    found = attack.run(surrogate, images, labels, **options)
    verdict, clean = (
        victim.verdicts(x, ids, seed=seed, batch_size=batch_size).to(labels.device)
        for x in (found.images, images.float())
    )
    return found.judged(verdict, goal, clean=clean)


def check_alike(one: Classifier, other: Classifier) -> None:
    """Raises ConfigError where images of the one cannot be given to the other."""

    def traits(classifier: Classifier) -> tuple[object, ...]:
        return classifier.task.name, classifier.classes, classifier.size, classifier.channels

    if traits(one) != traits(other):
        given = f"task, classes, size and channels are {traits(other)}, expected {traits(one)}"
        raise ConfigError("surrogate", given, "train it for the same classes and images")
