"""Classifiers that an attacker has who knows nothing of the guard: what he attacks instead of it (transfer)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from medaegis.attacks.catalogue import find_attack
from medaegis.attacks.transfer import check_alike, committee
from medaegis.attacks.victim import Victim
from medaegis.bench.records.evaluation import SurrogateFacts
from medaegis.errors import ConfigError
from medaegis.models.classifier import Classifier
from medaegis.models.fingerprint import weights_fingerprint
from medaegis.models.store import describe_classifier


@dataclass(frozen=True)
class Surrogate:
    """The surrogates as one victim, attacked through the mean of their logits.

    Attributes:
        name: of their backbones, for titles.
        key: what its attacks depend on, weights included.
        facts: for the record.
    """

    victim: Victim
    name: str
    key: list[dict[str, object]]
    facts: list[SurrogateFacts]


def surrogate_of(classifiers: Sequence[Classifier], protected: Classifier) -> Surrogate | None:
    """One surrogate of all, on the device of the protected classifier; None of none.

    Raises:
        ConfigError: they differ from the protected classifier in task, classes, size or channels, or one of them is
            that very network, which would be no attack without knowledge.
    """
    if not classifiers:
        return None
    told = [(classifier, weights_fingerprint(classifier.network)) for classifier in classifiers]
    for classifier, weights in told:
        check_alike(protected, classifier)
        if weights == weights_fingerprint(protected.network):
            remedy = "train another one, as with another --backbone"
            raise ConfigError("surrogate", "it is the protected classifier itself", remedy)
    return Surrogate(
        victim=Victim(committee([classifier.to(protected.device) for classifier in classifiers])),
        name=" and ".join(classifier.backbone for classifier in classifiers),
        key=[{**describe_classifier(classifier), "weights": weights} for classifier, weights in told],
        facts=[SurrogateFacts(backbone=classifier.backbone, weights=weights) for classifier, weights in told],
    )


def transferable(attack: str) -> bool:
    """Whether an attack can be made on another classifier: by its gradients, and without a Shield."""
    entry = find_attack(attack)
    return entry.access == "white-box" and not entry.adaptive
