"""Which images are attacked: of a draw from the test images, classes in proportion, those diagnosed rightly.

Of findings and masks all of the draw are: an answer that is partly right can be made worse.

Every verb chooses in this way, so that the same `--limit` and seed attack the same images everywhere.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from medaegis.attacks.choices import pick_targets
from medaegis.attacks.victim import Verdict
from medaegis.bench.records.evaluation import DataFacts
from medaegis.errors import ConfigError, DataError
from medaegis.guard.site import Site
from medaegis.images.datasets import Dataset
from medaegis.images.splits import Split, kept_together
from medaegis.models.classifier import Classifier
from medaegis.sizes import told_size
from medaegis.task import TaskName, task_named

Judge = Callable[[Tensor, Tensor], Verdict]  # of images `(N, C, H, W)` and their numbers `(N,)`


@dataclass(frozen=True)
class Sample:
    """Images under attack.

    Attributes:
        test: images, attacked or not.
        clean: what the victim says of each of them when it is clean.
        chosen: rows of `test` that shares are taken over.
        rows: rows of `test` that are attacked: the chosen ones that are diagnosed rightly; where an image has no single
            class, all chosen ones.
        seed: of the draw and of the targets.
    """

    test: Dataset
    clean: Verdict
    chosen: Tensor
    rows: Tensor
    seed: int

    @classmethod
    def draw(
        cls,
        test: Dataset,
        judge: Judge,
        *,
        limit: int | None,
        seed: int,
        judge_all: bool = False,
        everyone: bool = False,
    ) -> Sample:
        """At most `limit` of the test images.

        Args:
            judge_all: also judge the test images that are not chosen, and keep them in `test`.
            everyone: attack the chosen images that are not diagnosed rightly too.

        Raises:
            DataError: none is diagnosed rightly, and not everyone is attacked.
        """
        chosen = draw(test.strata[0], limit, seed)
        if not judge_all:
            test, chosen = test.subset(chosen), torch.arange(len(chosen))
        clean = judge(test.pixels(), test.ids)
        rows = chosen if everyone else chosen[diagnosed_rightly(clean, test)[chosen]]
        if not len(rows):
            raise DataError(test.spec, "no test image is diagnosed rightly, so none can be attacked", "train longer")
        return cls(test, clean, chosen, rows, seed)

    def __len__(self) -> int:
        return len(self.rows)

    def few(self, n: int) -> Tensor:
        """Places of at most n attacked images, the classes in proportion: test images come sorted by class."""
        return draw(self.test.strata[0][self.rows], n, self.seed)

    def only(self, places: Tensor) -> Sample:
        """With the attacked images at these places only."""
        return replace(self, rows=self.rows[places])

    @property
    def pixels(self) -> Tensor:
        """The attacked images, float `(N, C, H, W)` in [0, 1]."""
        return self.test.pixels(self.rows)

    @cached_property
    def labels(self) -> Tensor:
        return self.test.labels[self.rows]

    @cached_property
    def right(self) -> Tensor:
        """Which of the attacked images are diagnosed rightly when clean, bool `(N,)`; of one class each all are."""
        return diagnosed_rightly(self.clean, self.test)[self.rows]

    @cached_property
    def ids(self) -> Tensor:
        return self.test.ids[self.rows]

    @cached_property
    def targets(self) -> Tensor:
        """A wrong class for each, drawn by seed and number of the image."""
        return pick_targets(self.labels, len(self.test.classes), ids=self.ids, seed=self.seed)

    @cached_property
    def accepted(self) -> Tensor:
        """Whether each is accepted when it is clean."""
        return self.clean.accepted[self.rows]

    @property
    def patients(self) -> list[str]:
        return self.patients_of(self.rows)

    def patients_of(self, rows: Tensor) -> list[str]:
        """Of these rows of `test`."""
        return [self.test.patients[i] for i in rows.tolist()]


def diagnosed_rightly(clean: Verdict, images: Dataset) -> Tensor:
    """Whether each clean image is, or its mask is right, bool `(N,)`; what has no finite logits is not."""
    right = images.task.is_right(clean.predicted, images.labels)
    return right & clean.logits.isfinite().flatten(1).all(1)


def check_images(
    classifier: Classifier,
    dataset: Dataset,
    split: Split,
    limit: int | None,
    what: str,
    *,
    task: TaskName | None = "single",
) -> None:
    """Whether there are test images of the kind that the classifier, or the guard around it (`what`), is for.

    Args:
        task: that is measured; None: any.

    Raises:
        ConfigError: a limit below 1, or a classifier for another task.
        DataError: other classes or another task, another size or colour; a split of other images, or without
            "adv_test".
    """
    if task == "single":
        classifier.check_single(what)
    elif task is not None and classifier.task.name != task:
        given = f"the {what} is for {classifier.task.title}"
        raise ConfigError(what, given, f"give one for {task_named(task, len(classifier.classes)).title}")
    wanted = (classifier.classes, classifier.size, classifier.channels)
    if (dataset.classes, dataset.size, dataset.channels) != wanted:
        given = f"{', '.join(dataset.classes)} at {told_size(dataset.size)} {dataset.channels}"
        expected = f"{', '.join(classifier.classes)} at {told_size(classifier.size)} {classifier.channels}"
        remedy = "use the data it was made for"
        if dataset.classes != classifier.classes:
            remedy += f", or say which labels are which class: ?classes={'=…,'.join(classifier.classes)}=…"
        raise DataError(dataset.spec, f"is {given}, the {what} is for {expected}", remedy)
    if dataset.task != classifier.task:
        problem = f"has {dataset.task.title}, the {what} is for {classifier.task.title}"
        raise DataError(dataset.spec, problem, "use the data it was made for")
    if split.fingerprint != dataset.fingerprint:
        raise DataError(dataset.spec, "the split was made for other images", "use the split of the classifier")
    if not split.adv_test:
        raise DataError(dataset.spec, "the split has no adv_test images", "split with a share above 0 for it")
    if limit is not None and limit < 1:
        raise ConfigError(f"limit {limit}", "leaves no image", "take 1 or more, or no limit")


def draw(labels: Tensor, limit: int | None, seed: int) -> Tensor:
    """Rows of `limit` images in their order, the classes in proportion: each is ranked at random, the ranks merged.

    Args:
        labels: class or other group of each image, int64 `(N,)` (`Dataset.strata`).
    """
    share = torch.empty(len(labels), dtype=torch.float64)
    generator = torch.Generator().manual_seed(seed)
    for k in labels.unique().tolist():
        rows = (labels == k).nonzero().squeeze(1)
        share[rows] = (torch.randperm(len(rows), generator=generator) + 0.5).double() / len(rows)
    return share.argsort(stable=True)[:limit].sort().values


def data_facts(test: Dataset, split: Split, site: Site | None = None) -> DataFacts:
    """What a record tells of the images that were measured on (site: as they were found for a guard).

    Of findings, and of the classes of masks, the images that have them are counted.
    """
    return DataFacts(
        spec=test.spec.split(":")[0],
        split="adv_test",
        split_by=kept_together(test, split),
        n=len(test),
        counts={name: int(_having(test, k).sum()) for k, name in enumerate(test.classes)},
        site="of the fit" if site is None or site.home else "another",
        left_out=0 if site is None else site.left_out,
        note="" if site is None else site.note,
    )


def _having(test: Dataset, k: int) -> Tensor:
    """Which images are of this class, or have it somewhere, bool `(N,)`."""
    if test.task.name == "multi":
        return test.labels[:, k] == 1
    return (test.labels.reshape(len(test), -1) == k).any(1)
