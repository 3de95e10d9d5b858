"""A classifier behind a Cushion with the images of HFC's protocol: those to learn from, and those that are judged.

Images that the classifier gets wrong are dropped (Yao 2021, section 5.1); detectors learn from "adv_train" images and
are judged on "adv_test" images.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

from torch import Tensor

from medaegis.attacks.known import Known
from medaegis.attacks.victim import Victim
from medaegis.bench.campaign import Aim, Campaign, classifier_key
from medaegis.bench.metrics import as_fields, auroc_interval, tpr_at_tnr
from medaegis.bench.records.comparison import Separation
from medaegis.bench.sample import Sample
from medaegis.bench.store import Store
from medaegis.cushions import Cushion, parse_cushion
from medaegis.cushions.filters import Unrounded
from medaegis.detectors.reader import Reader
from medaegis.detectors.registry import find_detector
from medaegis.errors import DataError
from medaegis.images.datasets import Dataset
from medaegis.images.splits import Split
from medaegis.models.classifier import Classifier

SHIELD = "shield"  # the one detector that is not fitted here


def any_cushion(spec: str) -> Cushion:
    """A filter by its spec; "float": none, and not even the rounding to 8 bits."""
    unrounded = Unrounded()
    return unrounded if spec == unrounded.spec else parse_cushion(spec)


class Scene:
    """Classifier behind a Cushion, the images to learn from and to judge.

    Args:
        taps: modules whose features are read and imitated.
        limit: at most so many images of each part.
        store: where attacked images are kept.
        aim: where images are driven to, and what counts as success.
    """

    def __init__(
        self,
        classifier: Classifier,
        cushion: Cushion,
        dataset: Dataset,
        split: Split,
        taps: tuple[str, ...],
        limit: int | None,
        seed: int,
        store: Store,
        aim: Aim = "towards the drawn class",
    ) -> None:
        self.cushion, self.seed, self.store = cushion, seed, store
        self.key = classifier_key(classifier, cushion, seed)
        self.victim = Victim(classifier, cushion=cushion)
        self._classifier, self._taps = classifier, taps
        self._dataset, self._split, self._limit, self._aim = dataset, split, limit, aim
        self._known = Known(dataset.subset(split.train), taps=taps, seed=seed)
        if classifier.task.name == "single":
            _ = self.reader  # taps that do not fit are told before any work

    @cached_property
    def reader(self) -> Reader:
        """What detectors read; of images with one class each."""
        return Reader(self._classifier, cushion=self.cushion, taps=self._taps)

    @cached_property
    def learn(self) -> Campaign:
        """On images of "adv_train"."""
        return self._on(self._split.adv_train)

    @cached_property
    def test(self) -> Campaign:
        """On images of "adv_test"."""
        return self._on(self._split.adv_test)

    def _on(self, part: Sequence[int]) -> Campaign:
        sample = Sample.draw(
            self._dataset.subset(part),
            lambda x, ids: self.victim.verdicts(x, ids, seed=self.seed, batch_size=64),
            limit=self._limit,
            seed=self.seed,
            everyone=self._dataset.task.name != "single",
        )
        return Campaign(self.victim, sample, self.store, self.key, self._aim, known=self._known)

    def check_enough(self, detectors: Sequence[str]) -> None:
        """Whether there are images enough to learn from, asked before any attack.

        Raises:
            DataError: which detector needs more.
        """
        n = len(self.learn)
        for name in detectors:
            needed = 0 if name == SHIELD else find_detector(name).make().fewest
            if n < needed:
                problem = f"{n} images of adv_train are diagnosed rightly behind {self.cushion.spec}, it needs {needed}"
                raise DataError(f"detector {name!r}", problem, "give more images, a larger --limit, or leave it out")

    def separation(self, genuine: Tensor, attacked: Tensor, rows: Tensor) -> Separation:
        """All clean test images beside the attacked ones of these rows, bool `(N,)`; scores `(N,)` of both."""
        patients = self.test.sample.patients
        groups = [patients, [patient for patient, counts in zip(patients, rows.tolist(), strict=True) if counts]]
        pair = genuine.numpy(), attacked[rows].numpy()
        return Separation(
            n=int(rows.sum()),
            **as_fields("auroc", auroc_interval(*pair, groups, seed=self.seed)),
            tpr90=tpr_at_tnr(*pair, 0.90),
        )
