"""Objectives against closed forms."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import linprog

from medaegis.attacks.losses.answer import CarliniWagner, CrossEntropy, LogitRatio
from medaegis.attacks.losses.shield import NOT_YET, Orthogonal, Selective, ShieldLogit, orthogonal
from medaegis.attacks.objective import Goal, View, margin, without
from medaegis.errors import ConfigError

LOGITS = torch.tensor([[-3.0, -1.0, -2.0], [4.0, 0.0, 1.0], [-5.0, -5.5, -9.0]])
LABELS = torch.tensor([1, 0, 0])
TARGETS = torch.tensor([0, 2, 1])
logit = st.floats(-50, 50, width=32)


def view(targets=None, *, logits=LOGITS, shield=None):
    return View(Goal(LABELS[: len(logits)], targets), logits, {}, shield)


def test_cross_entropy():
    for i, row in enumerate(LOGITS.tolist()):
        total = math.log(sum(math.exp(v) for v in row))
        untargeted = CrossEntropy()(view())[i].item()
        assert untargeted == pytest.approx(row[LABELS[i]] - total, abs=1e-6)
        assert CrossEntropy()(view(TARGETS))[i].item() == pytest.approx(total - row[TARGETS[i]], abs=1e-6)


def test_margin_of_negative_logits():
    """The largest other logit by masking with a product would be 0 here."""
    assert CarliniWagner()(view()).tolist() == [1.0, 3.0, 0.5]
    assert CarliniWagner()(view(TARGETS)).tolist() == [2.0, 3.0, 0.5]


def test_class_0_is_a_target():
    goal = Goal(torch.tensor([1, 2]), torch.tensor([0, 0]))
    logits = torch.tensor([[1.0, 3.0, 0.0], [5.0, 0.0, 1.0]])
    assert margin(logits, goal).tolist() == [2.0, -4.0]
    assert goal.reached(torch.tensor([0, 1])).tolist() == [True, False]


@pytest.mark.parametrize("kappa", [0.0, 1.0, 2.5])
def test_kappa_stops_the_margin(kappa):
    logits = torch.tensor([[0.0, 10.0, 1.0]], requires_grad=True)
    goal = Goal(torch.tensor([0]), torch.tensor([1]))
    loss = CarliniWagner(kappa)(View(goal, logits, {}))
    assert loss.item() == -kappa
    assert torch.autograd.grad(loss.sum(), logits)[0].eq(0).all()
    assert CarliniWagner()(View(goal, logits, {})).item() == -9.0


@given(st.lists(logit, min_size=2, max_size=6), st.data())
def test_margin_says_whether_the_goal_is_reached(row, data):
    k = len(row)
    label = data.draw(st.integers(0, k - 1))
    target = data.draw(st.none() | st.integers(0, k - 1).filter(lambda t: t != label))
    goal = Goal(torch.tensor([label]), None if target is None else torch.tensor([target]))
    logits = torch.tensor([row])
    distance = margin(logits, goal).item()
    others = [v for i, v in enumerate(logits[0].tolist()) if i != (label if target is None else target)]
    mine = logits[0, label if target is None else target].item()
    assert distance == pytest.approx(mine - max(others) if target is None else max(others) - mine, abs=1e-5)
    if distance != 0:
        assert bool(goal.reached(logits.argmax(1))) == (distance < 0)


def test_without_takes_one_class_out():
    assert without(LOGITS, LABELS).argmax(1).tolist() == [2, 2, 1]
    assert torch.isfinite(LOGITS).all(), "changed in place"


def test_shield_logit_asks_the_shield_of_the_class_to_be():
    asked = []

    def shield(features, classes):
        asked.append(classes.tolist())
        return torch.tensor([0.5, -1.0, 2.0])

    assert ShieldLogit()(view(TARGETS, shield=shield)).tolist() == [-0.5, 1.0, -2.0]
    ShieldLogit()(view(shield=shield))
    assert asked == [[0, 2, 1], [2, 2, 1]]


def test_objectives_add_and_scale():
    def shield(features, classes):
        return torch.tensor([0.5, -1.0, 2.0])

    joint = CarliniWagner(kappa=1.0) + 0.1 * ShieldLogit() + CrossEntropy()
    seen = view(TARGETS, shield=shield)
    expected = CarliniWagner(1.0)(seen) - 0.1 * torch.tensor([0.5, -1.0, 2.0]) + CrossEntropy()(seen)
    torch.testing.assert_close(joint(seen), expected)
    assert joint.needs_shield
    assert joint.needs_logits
    assert not (2.0 * ShieldLogit()).needs_logits


def test_what_is_missing_is_said():
    with pytest.raises(ConfigError, match="needs a Shield"):
        ShieldLogit()(view(TARGETS))
    with pytest.raises(ConfigError, match="targets"):
        Goal(LABELS).class_to_be(None)


def test_logit_ratio_by_hand():
    """Croce and Hein 2020, eq. 6 (untargeted) and 7 (targeted); no scale or shift of the logits changes it."""
    logits = torch.tensor([[5.0, 2.0, 1.0, -4.0], [-1.0, -3.0, 0.5, -2.0]])
    goal = Goal(torch.tensor([0, 0]))
    expected = [(5 - 2) / (5 - 1), (-1 - 0.5) / (0.5 + 2)]
    assert LogitRatio()(View(goal, logits, {})).tolist() == pytest.approx(expected, rel=1e-6)
    aimed = Goal(torch.tensor([0, 0]), torch.tensor([3, 2]))
    expected = [(5 + 4) / (5 - (1 - 4) / 2), (-1 - 0.5) / (0.5 - (-2 - 3) / 2)]
    assert LogitRatio()(View(aimed, logits, {})).tolist() == pytest.approx(expected, rel=1e-6)
    torch.testing.assert_close(LogitRatio()(View(goal, 7 * logits + 3, {})), LogitRatio()(View(goal, logits, {})))


@pytest.mark.parametrize(("k", "targets"), [(2, None), (2, torch.tensor([1])), (3, torch.tensor([1]))])
def test_logit_ratio_needs_classes(k, targets):
    with pytest.raises(ConfigError, match="it needs"):
        LogitRatio()(View(Goal(torch.tensor([0]), targets), torch.zeros(1, k), {}))


def test_orthogonal_signs_are_the_best_step_that_leaves_the_other_loss_alone():
    """Against linear programming: the farthest |d| <= 1 along the step with d * other = 0."""
    generator = torch.Generator().manual_seed(0)
    step, other = torch.randn(2, 6, 1, 5, 7, generator=generator, dtype=torch.float64).unbind(0)
    step[0] *= 1e-6  # gradients come at any scale
    other[1, 0, :2] = 0  # and do not see every pixel
    other[2] = 0
    found = orthogonal(step, other).sign().flatten(1)
    for i in range(6):
        a, b = step[i].flatten().numpy(), other[i].flatten().numpy()
        balance = {"A_eq": b[None], "b_eq": [0.0]} if b.any() else {}
        best = linprog(-a / abs(a).max(), bounds=(-1, 1), **balance)
        assert best.success
        differing = (abs(found[i].numpy() - best.x) > 1e-6).sum()
        assert differing <= 1, "only the value that makes the balance exact"


def test_selective_and_orthogonal():
    """By hand on two pixels a and b: the margin is 3a + b - 4, the Shield's logit a - 2b."""
    image = torch.tensor([[[[2.0, 0.0]]], [[[0.0, 1.0]]]], requires_grad=True)
    a, b = image[:, 0, 0].unbind(1)
    goal = Goal(torch.tensor([0, 0]), torch.tensor([1, 1]))
    logits = torch.stack([3 * a + b - 4, torch.zeros(2)], 1)
    seen = View(goal, logits, {}, lambda features, classes: a - 2 * b)
    assert Selective().fooled(seen).tolist() == [False, True]
    margins, minus_shield = [2.0, -3.0], [-2.0, 2.0]
    assert Selective()(seen).tolist() == [margins[0] + NOT_YET, minus_shield[1]]
    losses, grad = Orthogonal().pull(seen, image)
    assert losses.tolist() == [margins[0] + NOT_YET, minus_shield[1]]
    to_fool, to_pass = torch.tensor([3.0, 1.0]), torch.tensor([-1.0, 2.0])
    pairs = torch.stack([to_fool, to_pass]).view_as(image), torch.stack([to_pass, to_fool]).view_as(image)
    torch.testing.assert_close(grad, orthogonal(*pairs))
    assert Selective(sure=3.5).fooled(seen).tolist() == [False, False], "not surely enough"
