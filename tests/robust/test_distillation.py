"""Defensive distillation, which Carlini and Wagner broke: whom its lost slopes stop, and whom not."""

import pytest
import torch
from benchmarks.defences import Published
from tests.models.drawn import CONFIG

from medaegis.attacks.engine import Attack
from medaegis.attacks.losses.answer import CarliniWagner, CrossEntropy
from medaegis.attacks.victim import Victim
from medaegis.images.datasets import Dataset
from medaegis.images.splits import split_dataset
from medaegis.models.training import train_classifier
from medaegis.robust import parse_recipe

EPS = 24 / 256
LOST = 104  # logits apart: exp(-104) is 0 in float32, so softmax and cross-entropy have no slope left


def stripes(n=100, size=16):
    """Grey noise with faint stripes across or down, which eps can turn into each other."""
    images = torch.randint(110, 146, (n, 1, size, size), generator=torch.Generator().manual_seed(0))
    labels, wave = torch.arange(n) // 2 % 2, 16 * (torch.arange(size) // 2 % 2 * 2 - 1)
    images += torch.where(labels.view(-1, 1, 1, 1) == 1, wave.view(-1, 1), wave)
    dataset = Dataset(
        spec="stripes",
        images=images.to(torch.uint8),
        labels=labels,
        classes=("down", "across"),
        patients=tuple(f"p{i // 2}" for i in range(n)),
        names=tuple(f"{i}.png" for i in range(n)),
        ids=torch.arange(n),
    )
    return dataset, split_dataset(dataset)


@pytest.fixture(scope="module")
def student(tmp_path_factory):
    folder = tmp_path_factory.mktemp("distilled")
    config = CONFIG.model_copy(update={"epochs": 12, "lr": 0.05, "batch_size": 8, "augmentation": False})
    teacher = train_classifier(*stripes(), config, folder / "teacher", recipe=parse_recipe("teacher", temperature=100))
    recipe = parse_recipe("distillation", temperature=100, helper=teacher)
    return train_classifier(*stripes(), config, folder / "student", recipe=recipe)


def test_whoever_minds_slopes_is_stopped_and_the_margin_is_not(student):
    dataset, split = stripes()
    test = dataset.subset([*split.val, *split.adv_test])
    victim = Victim(student)
    clean = victim.judge(test.pixels())
    assert torch.equal(clean.predicted, test.labels)
    lost = (clean.logits[:, 0] - clean.logits[:, 1]).abs() > LOST
    assert 0.3 < lost.float().mean() < 0.9
    found = {
        type(objective): Attack(objective=objective, steps=20).run(victim, test.pixels(), test.labels, eps=EPS)
        for objective in (Published(), CrossEntropy(), CarliniWagner())
    }
    assert torch.equal(found[Published].still, lost), "it looks robust"
    assert not found[Published].fooled[lost].any()
    assert found[CarliniWagner].fooled.all(), "and is not"
    assert found[CrossEntropy].fooled.all(), "ours goes on where its slope is lost"
