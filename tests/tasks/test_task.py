"""Tasks against their definitions, written out here image by image and pixel by pixel, and against scikit-learn."""

import math

import pytest
import torch
from sklearn.metrics import f1_score, jaccard_score
from torch import Tensor

from medaegis.errors import ConfigError
from medaegis.models.metrics import hausdorff95, mask_metrics, mean_iou
from medaegis.task import FREE, IGNORE, MULTI, SINGLE, Dense, task_named

DENSE = Dense(3)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def numbers(top: int, *shape: int, seed: int = 1) -> Tensor:
    return torch.randint(0, top, shape, generator=torch.Generator().manual_seed(seed))


CASES = {
    "single": (SINGLE, drawn(5, 4), numbers(4, 5)),
    "multi": (MULTI, drawn(5, 4), numbers(2, 5, 4)),
    "dense": (DENSE, drawn(5, 3, 4, 6), numbers(3, 5, 4, 6).to(torch.uint8)),
}


def softmax(values):
    weights = [math.exp(value) for value in values]
    return [weight / sum(weights) for weight in weights]


def sigmoid(value):
    return 1 / (1 + math.exp(-value))


def test_losses():
    task, logits, labels = CASES["multi"]
    for found, row, truth in zip(task.losses(logits, labels), logits.tolist(), labels.tolist(), strict=True):
        each = [-math.log(sigmoid(z) if y else 1 - sigmoid(z)) for z, y in zip(row, truth, strict=True)]
        assert found.item() == pytest.approx(sum(each) / 4, rel=1e-5)
    task, logits, labels = CASES["dense"]
    labels = labels.clone()
    labels[:, 0, :2] = IGNORE
    for found, image, truth in zip(task.losses(logits, labels), logits, labels, strict=True):
        each = [
            -math.log(softmax(image[:, y, x].tolist())[int(truth[y, x])])
            for y in range(4)
            for x in range(6)
            if truth[y, x] != IGNORE
        ]
        assert len(each) == 22
        assert found.item() == pytest.approx(sum(each) / len(each), rel=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_divergences(name):
    task, logits, labels = CASES[name]
    others = drawn(*logits.shape, seed=7)
    if name == "dense":
        labels = labels.clone()
        labels[:, 0, :2] = IGNORE
    assert task.divergences(logits, logits, labels).tolist() == pytest.approx([0] * 5, abs=1e-6)
    found = task.divergences(logits, others, labels)
    assert (found > 0).all()
    for i in range(5):
        if name == "multi":
            pairs = [(sigmoid(p), sigmoid(q)) for p, q in zip(others[i].tolist(), logits[i].tolist(), strict=True)]
            each = [p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q)) for p, q in pairs]
            expected = sum(each) / len(each)
        else:
            columns = zip(
                others[i].flatten(1).T if name == "dense" else [others[i]],
                logits[i].flatten(1).T if name == "dense" else [logits[i]],
                strict=True,
            )
            counts = (labels[i].flatten() != IGNORE).tolist() if name == "dense" else [True]
            each = [
                sum(p * math.log(p / q) for p, q in zip(softmax(a.tolist()), softmax(b.tolist()), strict=True))
                for (a, b), counted in zip(columns, counts, strict=True)
                if counted
            ]
            expected = sum(each) / len(each)
        assert found[i].item() == pytest.approx(expected, rel=1e-4)


def test_a_mask_is_measured_as_scikit_learn_does():
    for seed in range(5):
        predicted, labels = (numbers(3, 4, 6, seed=seed + k).to(torch.uint8) for k in (0, 50))
        truth, found = labels.flatten().numpy(), predicted.flatten().numpy()
        dice = f1_score(truth, found, labels=[1, 2], average="macro")
        assert DENSE.quality(predicted[None], labels[None]).item() == pytest.approx(dice, rel=1e-5)
        iou = jaccard_score(truth, found, labels=[0, 1, 2], average="macro")
        assert mean_iou(predicted[None], labels[None], 3).item() == pytest.approx(iou, rel=1e-5)


def test_masks_without_anything():
    empty, full = torch.zeros(1, 4, 4, dtype=torch.uint8), torch.ones(1, 4, 4, dtype=torch.uint8)
    two = Dense(2)
    assert two.quality(empty, empty).item() == 1
    assert two.quality(full, empty).item() == 0
    assert two.quality(empty, full).item() == 0
    assert two.is_right(empty, torch.full_like(empty, IGNORE)).item()
    ignored = torch.full_like(empty, IGNORE)
    assert mean_iou(empty, ignored, 2).item() == two.quality(full, ignored).item() == 1
    assert hausdorff95(empty[0], full[0]) == hausdorff95(full[0], empty[0]) == pytest.approx(32**0.5)
    assert hausdorff95(empty[0], empty[0]) is None
    assert mask_metrics(empty, empty, ("background", "lungs"))["hausdorff95"] is None
    # A mask that was wiped out is no nearer than one that was moved.
    pair, truth = torch.cat([full, empty]), torch.cat([full, full])
    assert mask_metrics(pair, truth, ("background", "lungs"))["hausdorff95"] == pytest.approx(8**0.5)


def test_the_distance_of_outlines():
    """Two squares, one moved by three pixels: opposite sides are three apart; and against SciPy's own distance."""
    from scipy.spatial.distance import directed_hausdorff

    one, other = (torch.zeros(20, 20, dtype=torch.uint8) for _ in range(2))
    one[4:12, 4:12], other[4:12, 7:15] = 1, 1
    assert hausdorff95(one, other) == 3
    assert hausdorff95(one, one) == 0
    places = [torch.nonzero(mask).double().numpy() for mask in (one, other)]
    assert max(directed_hausdorff(*places)[0], directed_hausdorff(*places[::-1])[0]) == 3


@pytest.mark.parametrize("name", CASES)
def test_margins_are_negative_where_the_attacker_has_his_way(name):
    task, logits, labels = CASES[name]
    found = task.margins(logits, labels, None)
    wrong = task.predicted(logits) != labels
    assert torch.equal(found < 0, wrong.reshape(found.shape))
    targets = {"single": (labels + 1) % 4, "multi": 1 - labels, "dense": (labels + 1) % 3}[name]
    aimed = task.margins(logits, labels, targets)
    there = task.predicted(logits) == targets
    assert torch.equal(aimed < 0, there.reshape(aimed.shape))


def test_findings_that_do_not_matter():
    _, logits, labels = CASES["multi"]
    targets = torch.full_like(labels, FREE)
    targets[:, 1] = 1
    assert torch.equal(MULTI.reached(MULTI.predicted(logits), targets), logits[:, 1] > 0)
    assert (MULTI.margins(logits, labels, targets)[:, [0, 2, 3]] == 0).all()
    alone = torch.nn.functional.softplus(-logits[:, 1])
    torch.testing.assert_close(MULTI.losses(logits, targets), alone)


def test_a_mask_is_as_wanted_from_99_percent_on():
    wanted = torch.zeros(1, 10, 20, dtype=torch.uint8)
    for wrong, reached in ((2, True), (3, False)):
        found = wanted.clone()
        found[0, 0, :wrong] = 1
        assert DENSE.reached(found, wanted).item() is reached


@pytest.mark.parametrize(
    ("task", "labels"),
    [
        (SINGLE, torch.tensor([0, 4])),
        (SINGLE, torch.tensor([[0, 1]])),
        (MULTI, torch.tensor([[0, 1], [2, 0]])),
        (MULTI, torch.tensor([0, 1])),
        (MULTI, torch.tensor([[0.0, 1.0], [1.0, 0.0]])),
        (DENSE, torch.zeros(2, 4, 5, dtype=torch.int64)),
        (DENSE, torch.full((2, 4, 4), 3)),
    ],
)
def test_labels_of_another_task_are_refused(task, labels):
    with pytest.raises(ConfigError, match="attack labels"):
        task.check_labels(labels, 2, {"single": 4, "multi": 2, "dense": 3}[task.name], (4, 4), what="labels")


def test_unknown_task():
    with pytest.raises(ConfigError, match="single, multi, dense"):
        task_named("zero-shot", 2)
