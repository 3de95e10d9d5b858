"""An attacker who knows nothing of a network, and attacks others in its place, in an assessment of any task."""

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from tests.bench.small import data, learned
from tests.bench.test_surrogates import related
from tests.tasks.test_assess import EPS, KINDS, assessed, by_first_word, dices, scene

from medaegis.attacks.transfer import committee
from medaegis.attacks.victim import Victim
from medaegis.bench.assess import assess_classifier
from medaegis.bench.campaign import Effort
from medaegis.bench.plan import carried_over, plan_assessment
from medaegis.bench.records.assessment import read_assessment
from medaegis.errors import ConfigError


@pytest.fixture(scope="module")
def diagnosing(tmp_path_factory):
    dataset, split = data(tmp_path_factory.mktemp("data"), n=120)
    return learned(dataset, split), dataset, split


@pytest.mark.parametrize("task", ["single", "multi", "dense"])
def test_attacks_on_surrogates_are_judged_by_the_network(task, diagnosing, tmp_path, request):
    """Each is what the attack makes of the surrogates alone; they have a worst case of their own."""
    classifier, dataset, split = diagnosing if task == "single" else scene(task, request)
    others = [related(classifier, seed) for seed in (1, 2)]
    cells = plan_assessment(["pgd"], EPS, transferred=["pgd"])
    quick = Effort(far=4, guessed=2, queries=10, probed=4)
    where = {"cells": cells, "eps": EPS, "out_dir": tmp_path, "effort": quick}
    found = assess_classifier(classifier, dataset, split, surrogates=others, **where)
    assert [(t.access, t.gradient) for t in found.attacks] == [("white-box", "bpda")] * 2 + [("no-box", None)] * 2
    assert [one.backbone for one in found.surrogates] == [other.backbone for other in others]
    test, exact = dataset.subset(split.adv_test), classifier.frozen()
    with torch.no_grad():
        right = classifier.task.is_right(classifier.task.predicted(exact(test.pixels())), test.labels)
    attacked = right.nonzero().squeeze(1) if task == "single" else torch.arange(len(test))
    turned = torch.zeros(len(attacked), dtype=torch.bool)
    for tried, planned in list(zip(found.attacks, cells, strict=True))[:1:-1]:  # the smaller change first
        labels, pixels, ids = test.labels[attacked], test.pixels(attacked), test.ids[attacked]
        made = planned.value.run(Victim(committee(others)), pixels, labels, eps=planned.eps, ids=ids)
        with torch.no_grad():
            logits = exact(made.images)
        wrong = ~classifier.task.is_right(classifier.task.predicted(logits), labels)
        turned |= wrong & right[attacked]
        assert (tried.forwards, tried.backwards) == (10, 10)
        assert tried.success.share == pytest.approx(wrong[right[attacked]].double().mean().item())
        (worst,) = [row for row in found.no_box if row.eps == tried.eps]
        assert worst.success.share == pytest.approx(turned[right[attacked]].double().mean().item())
        if task == "dense":
            assert tried.quality.dice.value == pytest.approx(np.mean(dices(logits, labels)), rel=1e-5)
        elif task == "multi":
            areas = [roc_auc_score(labels[:, k], logits[:, k]) for k in range(3)]
            assert tried.quality.auroc.value == pytest.approx(np.mean(areas))
    for every, alone in zip(found.worst_case, found.no_box, strict=True):
        assert every.accuracy.share <= alone.accuracy.share
    assert [one.attack for one in found.strengths] == ["pgd"]
    page = (tmp_path / "assessment.md").read_text(encoding="utf-8")
    assert "| pgd (transfer) | 4/256 | 10 |" in page
    assert "knows nothing of the classifier" in page
    assert "Gradients beat guessing" in by_first_word(found.controls)
    assert read_assessment(tmp_path) == found


@KINDS
def test_surrogates_that_do_not_fit(task, tmp_path, request, diagnosing):
    here = scene(task, request)
    cells = plan_assessment(["pgd"], EPS, transferred=["pgd"])
    for surrogates, given, told in (
        ([here[0]], cells, "it is the protected classifier itself"),
        ([diagnosing[0]], cells, "task, classes, size and channels are"),
        ([], cells, "none given, and some cells are made on them"),
        ([related(here[0], 1)], cells[:2], "no cell is made on them"),
    ):
        with pytest.raises(ConfigError, match=told):
            assessed(here, tmp_path, cells=given, surrogates=surrogates)
    assert not (tmp_path / "pieces").exists()


def test_what_can_be_made_on_surrogates():
    assert carried_over(["fgsm", "square", "deepfool", "pgd-dice"]) == ["fgsm", "pgd-dice"]
    with pytest.raises(ConfigError, match="none of square, deepfool can be made on it"):
        carried_over(["square", "deepfool"])
    made = plan_assessment(["fgsm", "pgd"], EPS, steps=3, transferred=["fgsm", "pgd"])
    assert [(p.attack, p.value.steps, p.transferred) for p in made] == [
        (name, steps, carried) for carried in (False, True) for name, steps in (("fgsm", 1), ("pgd", 3)) for _ in EPS
    ]
