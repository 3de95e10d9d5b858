"""Dense adversary generation: its images against adv-lib's, what it stops at, and what it is measured by."""

from dataclasses import replace

import pytest
import torch
from tests.attacks.adversarial_library import peer
from tests.tasks.small import lungs

from medaegis.attacks.catalogue import find_attack
from medaegis.attacks.losses.overlap import Active
from medaegis.attacks.minimal import Accumulate
from medaegis.attacks.objective import Goal, View
from medaegis.attacks.victim import Victim
from medaegis.bench.assess import assess_classifier
from medaegis.bench.campaign import Effort
from medaegis.bench.plan import plan_assessment
from medaegis.bench.records.assessment import SMALLEST
from medaegis.cushions.filters import Unrounded
from medaegis.errors import ConfigError
from medaegis.task import IGNORE, Dense

RATE = 2 / 255
DAG = replace(find_attack("dag").attack, rule=Accumulate(RATE), steps=60)


@pytest.fixture(scope="module")
def scene(segmenter):
    """A network, grey images with room above and below, and masks of which the upper half is to go."""
    classifier, _ = segmenter
    dataset, split = lungs()
    test = dataset.subset(split.adv_test)
    images = ((0.3 + 0.4 * test.pixels()) * 255).round() / 255
    with torch.no_grad():
        labels = classifier.frozen()(images).argmax(1)
    targets = labels.clone()
    targets[:, :16] = 0
    return classifier, images, labels.to(torch.uint8), targets.to(torch.uint8)


def test_its_images_are_those_of_adv_lib(scene):
    classifier, images, labels, targets = scene
    exact = classifier.frozen(fold=False)
    theirs = peer("dag")(exact, images, labels=targets.long(), targeted=True, max_iter=60, γ=RATE).detach()
    victim = Victim(classifier, cushion=Unrounded(), dtype=torch.float32, fold=False)
    found = DAG.run(victim, images, labels, eps=1.0, targets=targets)
    assert found.reached.double().mean() > 0.5, "nothing to compare with"
    moved = (theirs != images).flatten(1).any(1)
    assert torch.equal(found.reached, moved), "adv-lib gives back the clean image where it fails"
    torch.testing.assert_close(found.images[moved], theirs[moved], rtol=0, atol=1e-4)
    assert 0 < theirs.min() <= theirs.max() < 1, "nothing was cut, which the two do in different ways"


def test_it_stops_as_soon_as_the_mask_is_as_wanted(scene):
    """On 8-bit images; one step less, and it is not there."""
    classifier, images, labels, targets = scene
    victim = Victim(classifier, dtype=torch.float32)
    found = DAG.run(victim, images, labels, eps=1.0, targets=targets)
    with torch.no_grad():
        as_wanted = (classifier.frozen()(found.images).argmax(1) == targets).double().mean((1, 2))
    assert torch.equal(found.reached, as_wanted >= 0.99)
    row = found.reached.nonzero()[0]
    goal = Goal(labels[row], targets[row], task=classifier.task)
    _, steps = DAG.descend(victim, images[row], goal, torch.ones(1, 1, 1, 1), images[row])
    alone = {
        n: DAG.with_options(steps=n).run(victim, images[row], labels[row], eps=1.0, targets=targets[row])
        for n in (steps - 1, steps - 2)
    }
    assert [bool(result.reached) for result in alone.values()] == [True, False]
    far = (found.images[row] - images[row]).abs().max().item()
    assert far <= (steps - 1) * RATE + 0.51 / 255
    tight = DAG.run(victim, images[row], labels[row], eps=2 / 256, targets=targets[row])
    assert (tight.images - images[row]).abs().max().item() <= 2 / 255 + 1e-6
    assert not tight.reached.any()


def test_what_does_not_matter_has_no_part_in_it(scene):
    """Where the target is left open, anything may stand."""
    classifier, images, labels, targets = scene
    some = targets.clone()
    some[:, 16:] = IGNORE
    found = DAG.run(Victim(classifier), images, labels, eps=1.0, targets=some)
    upper = found.verdict.predicted[:, :16] == targets[:, :16]
    assert torch.equal(found.reached, upper.double().mean((1, 2)) >= 0.99)
    assert found.reached.double().mean() > 0.5


def test_the_loss_by_hand():
    logits = torch.tensor([[[[3.0, 1.0], [0.0, 0.0]], [[0.0, 2.0], [4.0, 1.0]]]])  # margins of class 1: -3, 1, 4, 1
    truth, task = torch.tensor([[[0, 1], [1, 0]]], dtype=torch.uint8), Dense(2)
    wanted = torch.zeros_like(truth)
    assert Active()(View(Goal(truth, wanted, task=task), logits, {})).item() == pytest.approx((1 + 4 + 1) / 4)
    assert Active()(View(Goal(truth, task=task), logits, {})).item() == pytest.approx((3 + 1 + 4) / 4)
    there = 1 - logits.argmax(1).to(torch.uint8)
    assert Active()(View(Goal(there, 1 - there, task=task), logits, {})).item() == -1


def test_it_is_measured_by_the_change_it_takes(segmenter, tmp_path):
    classifier, _ = segmenter
    cells = plan_assessment(["fgsm", "dag"], [("4/256", 4 / 256)])
    quick = Effort(guessed=2, queries=10, probed=4)
    where = {"cells": cells, "eps": [("4/256", 4 / 256)], "out_dir": tmp_path, "limit": 4, "effort": quick}
    found = assess_classifier(classifier, *lungs(), **where)
    fgsm, dag = found.attacks
    assert (dag.eps, dag.eps_text, dag.steps) == (None, SMALLEST, 200)
    assert dag.success.share > fgsm.success.share
    assert dag.linf == pytest.approx(found.strengths[1].smallest, rel=1e-6)
    assert dag.quality.dice.value < 0.75, "it goes no farther than it must, below 0.7"


def test_a_rate_out_of_range():
    for rate in (0, 1.5):
        with pytest.raises(ConfigError, match="DAG"):
            Accumulate(rate)
