"""Recall, confusion and kappa against scikit-learn."""

import numpy as np
import pytest
import torch
from sklearn.metrics import cohen_kappa_score, confusion_matrix

from medaegis.models.metrics import are_ordered, classification_metrics, quadratic_kappa


@pytest.mark.parametrize("count", [2, 3, 5])
def test_confusion_and_quadratic_kappa_are_those_of_scikit_learn(count):
    random = np.random.default_rng(count)
    labels = random.integers(0, count - 1, 80)  # the last class has no image
    logits = torch.from_numpy(random.normal(size=(80, count)))
    told = classification_metrics(logits, torch.from_numpy(labels), [str(k) for k in range(count)])
    predicted = logits.argmax(1).numpy()
    assert told["confusion"] == confusion_matrix(labels, predicted, labels=range(count)).tolist()
    expected = cohen_kappa_score(labels, predicted, labels=list(range(count)), weights="quadratic")
    assert quadratic_kappa(told["confusion"]) == pytest.approx(expected)


def test_kappa_at_its_ends():
    assert quadratic_kappa([[3, 0, 0], [0, 4, 0], [0, 0, 5]]) == 1
    assert quadratic_kappa([[0, 6], [6, 0]]) == -1
    assert quadratic_kappa([[7, 0], [0, 0]]) is None
    assert quadratic_kappa([[4, 0, 0], [4, 0, 0], [4, 0, 0]]) == pytest.approx(0)


@pytest.mark.parametrize(
    ("names", "ordered"),
    [
        (("0", "1", "2", "3", "4"), True),
        (("1.5", "2", "10"), True),
        (("0", "1"), False),
        (("0", "2", "1"), False),
        (("No DR", "Mild", "Severe"), False),
        (("No DR", "Mild", "Moderate", "Severe", "Proliferative DR"), True),
        (("No DR", "DR"), False),
        (("1", "1", "2"), False),
        (("0", "1", "nan"), False),
    ],
)
def test_which_names_are_grades(names, ordered):
    assert are_ordered(names) is ordered


def test_many_classes_keep_no_confusion_matrix():
    labels = torch.arange(60) % 51
    assert "confusion" not in classification_metrics(torch.randn(60, 51), labels, [str(k) for k in range(51)])
