"""Which test images are attacked: of the right data set, spread over the classes."""

from __future__ import annotations

import torch
from torch import Tensor

from medaegis.bench.records.evaluation import DataFacts
from medaegis.errors import ConfigError, DataError
from medaegis.guard.site import Site
from medaegis.images.datasets import Dataset
from medaegis.images.splits import Split, kept_together
from medaegis.models.classifier import Classifier


def check_images(classifier: Classifier, dataset: Dataset, split: Split, limit: int | None, what: str) -> None:
    """Whether there are test images of the kind that the classifier, or the guard around it (`what`), is for.

    Raises:
        ConfigError: a limit below 1.
        DataError: other classes, another size or colour; a split of other images, or without "adv_test".
    """
    wanted = (classifier.classes, classifier.size, classifier.channels)
    if (dataset.classes, dataset.size, dataset.channels) != wanted:
        given = f"{', '.join(dataset.classes)} at {dataset.size} px {dataset.channels}"
        expected = f"{', '.join(classifier.classes)} at {classifier.size} px {classifier.channels}"
        remedy = "use the data it was made for"
        if dataset.classes != classifier.classes:
            remedy += f", or say which labels are which class: ?classes={'=…,'.join(classifier.classes)}=…"
        raise DataError(dataset.spec, f"is {given}, the {what} is for {expected}", remedy)
    if split.fingerprint != dataset.fingerprint:
        raise DataError(dataset.spec, "the split was made for other images", "use the split of the classifier")
    if not split.adv_test:
        raise DataError(dataset.spec, "the split has no adv_test images", "split with a share above 0 for it")
    if limit is not None and limit < 1:
        raise ConfigError(f"limit {limit}", "leaves no image", "take 1 or more, or no limit")


def draw(labels: Tensor, limit: int | None, seed: int) -> Tensor:
    """Rows of `limit` images in their order, the classes in proportion: each is ranked at random, the ranks merged."""
    share = torch.empty(len(labels), dtype=torch.float64)
    generator = torch.Generator().manual_seed(seed)
    for k in labels.unique().tolist():
        rows = (labels == k).nonzero().squeeze(1)
        share[rows] = (torch.randperm(len(rows), generator=generator) + 0.5).double() / len(rows)
    return share.argsort(stable=True)[:limit].sort().values


def data_facts(test: Dataset, split: Split, site: Site | None = None) -> DataFacts:
    """What a record tells of the images that were measured on (site: as they were found for a guard)."""
    return DataFacts(
        spec=test.spec.split(":")[0],
        split="adv_test",
        split_by=kept_together(test, split),
        n=len(test),
        counts={name: int((test.labels == k).sum()) for k, name in enumerate(test.classes)},
        site="of the fit" if site is None or site.home else "another",
        left_out=0 if site is None else site.left_out,
        note="" if site is None else site.note,
    )
