"""A classifier that tells nothing apart is named so, and one that does is let alone."""

import numpy as np
import pytest
import torch

from medaegis.bench.chance import chance_level


def logits_of(classes: np.ndarray, count: int, *, margin: float = 4.0, noise: float = 1.0, seed: int = 0):
    random = np.random.default_rng(seed)
    made = random.normal(0, noise, (len(classes), count))
    made[np.arange(len(classes)), classes] += margin
    return torch.from_numpy(made)


def alone(n: int) -> list[str]:
    return [str(i) for i in range(n)]


@pytest.mark.parametrize("count", [2, 3, 5])
def test_guessing_is_chance_level(count):
    random = np.random.default_rng(1)
    labels = torch.from_numpy(random.integers(0, count, 150))
    guessed = logits_of(random.integers(0, count, 150), count)
    told = chance_level(guessed, labels, alone(150), [f"grade {k}" for k in range(count)])
    assert told is not None
    right = float((guessed.argmax(1) == labels).float().mean())
    assert f"right on {100 * right:.1f} %" in told


@pytest.mark.parametrize("count", [2, 3, 5])
def test_one_that_is_often_right_is_not(count):
    random = np.random.default_rng(2)
    labels = random.integers(0, count, 150)
    told = np.where(random.random(150) < 0.7, labels, random.integers(0, count, 150))
    assert chance_level(logits_of(told, count), torch.from_numpy(labels), alone(150), alone(count)) is None


def test_rare_classes_found_by_rank_alone_are_something():
    """Never above the majority share, for the threshold lies wrong, but the ranks tell the classes apart."""
    random = np.random.default_rng(3)
    labels = torch.from_numpy((np.arange(200) < 20).astype(int))
    leaning = torch.zeros(200, 2)
    leaning[:, 1] = torch.from_numpy(random.normal(0, 1, 200)) + 2 * labels + 0.5
    assert float((leaning.argmax(1) == labels).float().mean()) < 0.9
    assert chance_level(leaning, labels, alone(200), ("a", "b")) is None


def test_a_constant_answer_is_named_however_often_it_is_right():
    labels = torch.tensor([0] * 95 + [1] * 5)
    ranked = torch.stack([torch.full((100,), 5.0), labels.double()], 1)
    told = chance_level(ranked, labels, alone(100), ("NORMAL", "PNEUMONIA"))
    assert told == "it names each of 100 test images 'NORMAL'"


def test_images_of_few_patients_do_not_count_as_many():
    """A hundred images, right on 64: of as many patients that is more than chance, of five it need not be."""
    labels = torch.arange(100) % 2
    answer = labels.clone()
    answer[:36] = 1 - answer[:36]
    made = logits_of(answer.numpy(), 2, noise=0.01)
    assert chance_level(made, labels, alone(100), ("a", "b")) is None
    of_five = [str(i // 20) for i in range(100)]
    assert chance_level(made, labels, of_five, ("a", "b")) is not None
