"""What must stop no attack: shifted, tied, saturated logits, float pixels; and what an attack says that is stopped."""

import pytest
import torch
import torch.nn.functional as F
from tests.attacks.toys import toy_images, toy_victim
from torch import nn

from medaegis.attacks.balls import L2
from medaegis.attacks.catalogue import CATALOGUE, find_attack
from medaegis.attacks.engine import Attack
from medaegis.attacks.losses import answer
from medaegis.attacks.losses.answer import CarliniWagner, CrossEntropy
from medaegis.attacks.objective import Goal, View
from medaegis.attacks.search.square import Square
from medaegis.attacks.transfer import transfer
from medaegis.attacks.universal import Universal
from medaegis.attacks.victim import Victim
from medaegis.cushions.filters import Unrounded
from medaegis.errors import ConfigError
from medaegis.models.classifier import Classifier

SIDE = 16


class Halves(nn.Module):
    """Logits made of z, how much brighter the left half of an image is than the right one."""

    def __init__(self, logits, slope=20.0):
        super().__init__()
        self.slope, self.logits = nn.Parameter(torch.tensor(slope)), logits

    def forward(self, x):
        half = SIDE // 2
        return self.logits(self.slope * (x[..., :half].mean((1, 2, 3)) - x[..., half:].mean((1, 2, 3))))


def even(z):
    return torch.stack([-z / 2, z / 2], 1)


def one_logit(z):
    return torch.stack([0 * z, z], 1)


def shifted(z):
    return even(z) + (3 - 2 * z)[:, None]


def twins(z):
    """The first two are tied for good."""
    return torch.stack([z, z, -z, 0 * z], 1)


def flat(z):
    return torch.stack([0 * z + 3, 0 * z], 1)


def victim(logits, *, cushion=None, slope=20.0):
    network = Halves(logits, slope)
    count = logits(torch.zeros(1)).shape[1]
    classifier = Classifier(
        network,
        classes=[str(k) for k in range(count)],
        size=SIDE,
        channels="gray",
        backbone="tests:halves",
        mean=(0.0,) * 3,
        std=(1.0,) * 3,
    )
    return Victim(classifier, cushion=cushion, dtype=torch.float32)


def pictures(n=6):
    return torch.randint(0, 256, (n, 1, SIDE, SIDE), generator=torch.Generator().manual_seed(0)).float() / 255


def brighter_left(n=4):
    """Images whose z is clearly above 0."""
    x = pictures(n) * 0.4 + 0.3
    x[..., : SIDE // 2] += 0.1
    return (x * 255).round() / 255


def run(name, aimed_at, images, labels=None, *, eps=None, **options):
    entry = find_attack(name)
    labels = aimed_at.judge(images).predicted if labels is None else labels
    attack = entry.attack.with_options(steps=min(entry.attack.steps, 200))
    return attack.run(aimed_at, images, labels, eps=eps or (1.0 if entry.minimal else 16 / 255), **options)


ON_GRADIENTS = ["fgsm", "bim", "pgd-l2", "mim", "cw-linf", "cw-l2", "deepfool", "deepfool-l2", "jsma", "apgd-ce"]
ON_GRADIENTS += ["ddn", "fmn", "fmn-l2", "fab", "fab-l2"]


@pytest.mark.parametrize("slope", [20.0, 600.0], ids=["ordinary", "sure"])
@pytest.mark.parametrize("name", ON_GRADIENTS)
def test_no_attack_depends_on_a_shift_of_all_logits(name, slope):
    """At a slope of 600 the true class's probability rounds to 1, and cross-entropy's slope on its logit is lost."""
    images = brighter_left()
    found = [run(name, victim(logits, slope=slope), images) for logits in (even, one_logit, shifted)]
    assert found[0].fooled.any(), "nothing is shown by attacks that fail"
    for other in found[1:]:
        assert torch.equal(found[0].fooled, other.fooled)
        assert ((found[0].images - other.images).abs() < 1.5 / 255).all()


def test_nor_does_the_match_of_logits():
    images = brighter_left()
    guides = images.flip(3)
    found = []
    for logits in (even, one_logit, shifted):
        aimed_at = victim(logits)
        labels = aimed_at.judge(images).predicted
        found.append(find_attack("logit-match").attack.run(aimed_at, images, labels, eps=0.2, guides=guides).images)
    assert (found[0] != images).any()
    for other in found[1:]:
        assert ((found[0] - other).abs() < 1.5 / 255).all()


WALKING_FROM_TIES = ["deepfool", "deepfool-l2", "cw-linf", "cw-l2", "apgd-cw", "pgd", "auto"]


@pytest.mark.parametrize("name", [*WALKING_FROM_TIES, "ddn", "fmn", "fmn-l2", "fab", "fab-l2"])
def test_tied_classes_stop_no_attack(name):
    images = brighter_left()
    found = run(name, victim(twins), images, eps=1.0 if name == "cw-linf" else None)
    assert found.fooled.all()
    assert not found.still.any()
    assert set(found.verdict.predicted.tolist()) <= {2, 3}


def test_jsma_walks_from_a_tie():
    found = run("jsma", victim(twins), brighter_left())
    assert (found.images != brighter_left()).flatten(1).any(1).all()
    assert found.fooled.all()


@pytest.mark.parametrize("scale", [1.0, 1e3, 1e6])
@pytest.mark.parametrize("name", ["fgsm", "bim", "pgd", "mim", "apgd-ce", "pgd-l2"])
def test_saturated_logits_change_no_walk_between_two_classes(name, scale):
    """Scaled logits have the same decisions, and with two classes the same direction from each image."""
    images = brighter_left()
    plain, found = (run(name, victim(even, slope=slope), images) for slope in (8.0, 8.0 * scale))
    assert plain.fooled.any()
    assert torch.equal(found.fooled, plain.fooled)
    assert ((found.images - plain.images).abs() < 1.5 / 255).all()


@pytest.mark.parametrize("top", [5.0, 15.0, 20.0, 60.0, 200.0, 1e6])
def test_the_slope_of_cross_entropy_keeps_its_direction(top):
    """Beside float64, whose slope is exact up to some 700 logits; beyond, only the direction is asked for."""
    logits = torch.tensor([[top, 0.0, -1.0], [0.5, top, 0.0]], requires_grad=True)
    labels = torch.tensor([0, 1])
    view = View(Goal(labels), logits, {})
    losses = CrossEntropy()(view)
    (found,) = torch.autograd.grad(losses.sum(), logits)
    others = torch.tensor([[0.0, -1.0], [0.5, 0.0]], dtype=torch.float64).softmax(1)
    exact = torch.tensor([[1.0, *-others[0]], [-others[1, 0], 1.0, -others[1, 1]]], dtype=torch.float64)
    cosine = (F.normalize(found.double(), eps=1e-60) * F.normalize(exact)).sum(1)
    assert (cosine > (0.99 if top < 17 else 0.9999)).all()
    if top < 16:
        assert torch.equal(losses, -F.cross_entropy(logits, labels, reduction="none")), "untouched where it was right"


@pytest.mark.parametrize("name", [*ON_GRADIENTS, "square", "spsa", "hopskipjump", "auto"])
def test_an_attack_that_stands_still_says_so(name):
    images = pictures(3)
    found = run(name, victim(flat), images)
    assert found.still.all()
    assert not found.fooled.any()
    moving = run(name, victim(even), brighter_left())
    assert not (moving.still & moving.fooled).any()
    assert not moving.still.all()


# ---- victims that do not round


def smallest(images):
    """Exact smallest change of `Halves` in L2, in closed form: the distance to a plane."""
    weight = torch.full((SIDE, SIDE), 2 / SIDE**2)
    weight[:, SIDE // 2 :] *= -1
    return ((images[:, 0] * weight).sum((1, 2)) / weight.norm()).abs(), weight


# Adam's steps of 0.005 in each pixel overshoot what is nearer than that.
@pytest.mark.parametrize(
    ("name", "most", "slack"),
    [
        *[("cw-l2", 1.02, 0.03), ("deepfool-l2", 1.03, 1e-4), ("hopskipjump-l2", 1.5, 1e-4)],
        *[("ddn", 1.02, 0.03), ("fmn-l2", 1.02, 1e-4), ("fab-l2", 1.02, 1e-4)],
    ],
)
def test_the_smallest_change_of_float_pixels_is_no_rounded_one(name, most, slack):
    images = pictures(12)
    true, _ = smallest(images)
    assert (true < SIDE / 255).any(), "some are nearer than a grey level in each pixel"
    attack = find_attack(name).attack
    aimed_at = victim(even, cushion=Unrounded())
    attack = attack.with_options(steps=2000) if name.startswith("hop") else attack
    found = attack.run(aimed_at, images, aimed_at.judge(images).predicted, eps=1.0)
    assert found.fooled.all()
    length = (found.images - images).flatten(1).norm(dim=1)
    assert (length >= 0.999 * true).all()
    assert (length <= most * true + slack).all()


@pytest.mark.parametrize("name", ["square", "spsa", "zoo", "bim", "uap"])
def test_less_than_a_grey_level_is_something_on_float_pixels(name):
    """Halves whose means differ by less than 2 eps are turned by eps; on files the same eps is nothing."""
    images = pictures(40) * 0 + 0.5
    images[..., : SIDE // 2] += torch.rand(40, 1, 1, 1, generator=torch.Generator().manual_seed(1)) * 2e-4
    aimed_at, eps = victim(even, cushion=Unrounded()), 0.4 / 255
    labels = torch.ones(40, dtype=torch.int64)
    assert torch.equal(aimed_at.judge(images).predicted, labels)
    options = {"known": (images, labels)} if name == "uap" else {}
    attack = find_attack(name).attack.with_options(steps=40 if name == "square" else 600)
    found = attack.run(aimed_at, images, labels, eps=eps, **options)
    assert found.fooled.all()
    assert (found.images - images).abs().max() <= eps + 1e-6


def test_square_asks_no_known_question_on_float_pixels():
    """Below half a grey level every proposal would round to the same file: each was taken for known, and turned."""
    attack = Attack(objective=CarliniWagner(), rule=Square(), steps=60, ball=L2(rms=True))
    aimed_at = victim(even, cushion=Unrounded())
    images = brighter_left()
    found = attack.run(aimed_at, images, aimed_at.judge(images).predicted, eps=1e-3)
    before, after = aimed_at.judge(images).logits, found.verdict.logits
    assert (margin_of(after) < margin_of(before)).all()


def margin_of(logits):
    return logits[:, 1] - logits[:, 0]


# ---- what counts as fooled


def test_what_was_wrong_from_the_start_is_not_fooled():
    aimed_at = victim(even)
    images = brighter_left(8)
    right = aimed_at.judge(images).predicted
    labels = torch.where(torch.arange(8) < 3, 1 - right, right)
    for name in ("pgd", "cw-l2", "square", "auto", "hopskipjump"):
        found = run(name, aimed_at, images, labels, eps=1.0 if find_attack(name).minimal else 48 / 255)
        assert found.wrong.tolist() == [True] * 3 + [False] * 5
        assert not found.fooled[:3].any(), name
        assert not found.broken[:3].any(), name
        assert found.fooled[3:].all(), name
        assert not found.still.any(), name


def test_of_a_transferred_attack_the_judge_says_what_was_wrong():
    aimed_at, images = victim(even), brighter_left(4)
    labels = aimed_at.judge(images).predicted
    contrary = victim(lambda z: even(z).flip(1))
    found = transfer(find_attack("bim").attack, contrary, aimed_at, images, labels, eps=16 / 255)
    assert not found.wrong.any()
    back = transfer(find_attack("bim").attack, aimed_at, contrary, images, labels, eps=16 / 255)
    assert back.wrong.all()
    assert not back.fooled.any()


def test_a_universal_perturbation_says_that_it_needs_known_images():
    aimed_at = toy_victim()
    images = toy_images(2, aimed_at.exact)
    with pytest.raises(ConfigError, match=r"learned from known images, and none are given.*known="):
        CATALOGUE["uap"].attack.run(aimed_at, images, torch.zeros(2, dtype=torch.int64), eps=8 / 255)
    assert isinstance(CATALOGUE["uap"].attack, Universal)


def test_the_stand_in_slope_leads_only_where_nothing_else_does(monkeypatch):
    """Without it saturated logits stop PGD: what the other tests see is its doing."""
    monkeypatch.setattr(answer, "FAINT", 0.0)
    found = run("bim", victim(even, slope=8e6), brighter_left())
    assert found.still.all()
