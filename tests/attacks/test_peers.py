"""The engine against foolbox and torchattacks: the same network, float32, nothing folded, no random start.

The engine shows the network what would be written to disk, pixels rounded to 8 bits; the peers show it floats. So they
are compared twice. "exact": the peers attack the network with that rounding in front, images and steps are multiples
of 1/256, so that every sum is exact in whatever order: the results are equal bit for bit. "plain": the peers attack
the bare network, images and steps are whole grey levels k/255, which no library keeps to the last bit: the results
are equal as 8-bit images, and within 2e-6 as floats.
"""

from dataclasses import dataclass

import pytest
import torch
from tests.attacks.toys import toy_classifier, toy_images
from torch import nn

from medaegis.attacks.balls import L2
from medaegis.attacks.engine import Attack
from medaegis.attacks.losses.answer import CrossEntropy
from medaegis.attacks.objective import Goal
from medaegis.attacks.steps import Descent
from medaegis.attacks.transforms import Smoothing
from medaegis.attacks.victim import Victim
from medaegis.cushions import cushion_with_gradient, parse_cushion

LEVELS = {"exact": 256, "plain": 255}
CASES = {"fgsm": (16, 1), "bim": (2, 12), "pgd": (2, 12)}  # levels per step, steps


def ours(classifier, images, labels, targets=None, *, size, steps, eps, **options):
    attack = Attack(objective=CrossEntropy(), steps=steps, step_size=size / eps, **options)
    victim = Victim(classifier, dtype=torch.float32, fold=False)
    return attack.descend(victim, images, Goal(labels, targets), torch.full((len(images), 1, 1, 1), eps), images)[0]


class Rounding(nn.Module):
    """A network that sees 8-bit pixels, with the gradient passed straight through."""

    def __init__(self, network):
        super().__init__()
        self.network, self.cushion = network, parse_cushion("none")

    def forward(self, x):
        return self.network(cushion_with_gradient(self.cushion, x, "bpda"))


@dataclass
class Problem:
    """What all libraries are given."""

    kind: str
    classes: int
    targeted: bool
    name: str = "pgd"

    def __post_init__(self):
        self.levels = LEVELS[self.kind]
        self.classifier = toy_classifier(self.classes).frozen(fold=False)
        self.network = Rounding(self.classifier).eval() if self.kind == "exact" else self.classifier
        self.images = toy_images(8, self.classifier, levels=self.levels)
        self.labels = self.classifier(self.images).argmax(1)
        self.targets = (self.labels + 1) % self.classes if self.targeted else None
        size, self.steps = CASES[self.name]
        self.size, self.eps = size / self.levels, 16 / self.levels

    def ours(self, **options):
        options = {"size": self.size, "steps": self.steps, "eps": self.eps, **options}
        return ours(self.classifier, self.images, self.labels, self.targets, **options)

    def agree(self, found, expected):
        assert len(((found - self.images) * self.levels).round().unique()) > 2, "nothing moved: a blind test"
        if self.kind == "exact":
            assert torch.equal(found, expected)
        torch.testing.assert_close(found, expected, rtol=0, atol=2e-6)
        assert torch.equal((found * self.levels).round(), (expected * self.levels).round())


@pytest.fixture(params=[(k, c, t) for k in LEVELS for c in (2, 3) for t in (False, True)], ids=str)
def setting(request):
    return request.param


@pytest.mark.parametrize("name", CASES)
def test_foolbox_agrees(name, setting):
    foolbox = pytest.importorskip("foolbox")
    from foolbox import attacks

    case = Problem(*setting, name)
    model = foolbox.PyTorchModel(case.network, bounds=(0, 1), device="cpu")
    if case.targeted:
        criterion = foolbox.criteria.TargetedMisclassification(case.targets)
    else:
        criterion = foolbox.criteria.Misclassification(case.labels)
    iterated = {"abs_stepsize": case.size, "steps": case.steps, "random_start": False}
    theirs = {
        # foolbox has no targeted FGSM; one step of BIM is the same.
        "fgsm": lambda: (
            attacks.LinfBasicIterativeAttack(**iterated)
            if case.targeted
            else attacks.LinfFastGradientAttack(random_start=False)
        ),
        "bim": lambda: attacks.LinfBasicIterativeAttack(**iterated),
        "pgd": lambda: attacks.LinfProjectedGradientDescentAttack(**iterated),
    }[name]()
    case.agree(case.ours(), theirs.run(model, case.images, criterion, epsilon=case.eps))


@pytest.mark.parametrize("name", [*CASES, "mim"])
def test_torchattacks_agrees(name, setting):
    """MIM: torchattacks divides by the mean magnitude as Dong's own code does; foolbox accumulates signs instead."""
    torchattacks = pytest.importorskip("torchattacks")
    case = Problem(*setting, "pgd" if name == "mim" else name)
    iterated = {"eps": case.eps, "alpha": case.size, "steps": case.steps}
    theirs = {
        "fgsm": lambda: torchattacks.FGSM(case.network, eps=case.eps),
        "bim": lambda: torchattacks.BIM(case.network, **iterated),
        "pgd": lambda: torchattacks.PGD(case.network, **iterated, random_start=False),
        "mim": lambda: torchattacks.MIFGSM(case.network, **iterated, decay=1.0),
    }[name]()
    if case.targeted:
        theirs.set_mode_targeted_by_label(quiet=True)
    expected = theirs(case.images, case.targets if case.targeted else case.labels)
    case.agree(case.ours(rule=Descent(momentum=1.0)) if name == "mim" else case.ours(), expected)


def test_l2_pgd_agrees_with_torchattacks():
    torchattacks = pytest.importorskip("torchattacks")
    case = Problem("exact", 2, False)
    expected = torchattacks.PGDL2(case.network, eps=1.0, alpha=0.2, steps=10, random_start=False)(
        case.images, case.labels
    )
    found = case.ours(size=0.2, eps=1.0, steps=10, ball=L2(rms=False))
    assert (found - case.images).norm() > 1
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-6)


def test_tim_agrees_with_torchattacks():
    """Its kernel is for three channels, and applied before the mean magnitude is divided out, as here."""
    torchattacks = pytest.importorskip("torchattacks")
    classifier = toy_classifier(3, channels="rgb").frozen(fold=False)
    network = Rounding(classifier).eval()
    images = toy_images(8, classifier, levels=256)
    labels = classifier(images).argmax(1)
    theirs = torchattacks.TIFGSM(network, eps=16 / 256, alpha=2 / 256, steps=12, decay=1.0, diversity_prob=0.0)
    rule, smooth = Descent(momentum=1.0), (Smoothing(),)
    found = ours(classifier, images, labels, size=2 / 256, steps=12, eps=16 / 256, rule=rule, transforms=smooth)
    expected = theirs(images, labels)
    assert (found - ours(classifier, images, labels, size=2 / 256, steps=12, eps=16 / 256, rule=rule)).abs().max() > 0
    # Where a smoothed gradient is nearly nil, its sign depends on the order of a sum.
    assert ((found - expected).abs() < 1e-6).float().mean() > 0.999
