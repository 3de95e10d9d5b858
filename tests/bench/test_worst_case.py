"""The images under attack: what counts as broken, with more than two classes and in more than one norm."""

from dataclasses import replace

import pytest
import torch
from scipy.stats import binomtest
from tests.attacks.toys import toy_bank, toy_classifier, toy_images
from tests.bench.campaigns import toy_campaign

from medaegis.attacks.victim import Victim
from medaegis.bench.campaign import Effort
from medaegis.bench.checks import alarms
from medaegis.bench.figures import Figures
from medaegis.bench.plan import Planned
from medaegis.bench.records.evaluation import Further
from medaegis.bench.surrogates import Surrogate
from medaegis.bench.worst_case import got_through, worst_cases
from medaegis.progress import silent


def figures_of(folder, classes, n=60):
    """Of a guard of random weights."""
    classifier = toy_classifier(classes)
    victim = Victim(classifier, shields=toy_bank(classifier, taps=("input", "relu")))
    return Figures(toy_campaign(victim, toy_images(n, classifier), folder, alone=Victim(classifier)))


@pytest.mark.parametrize(("classes", "transferred"), [(2, False), (4, False), (4, True)])
def test_any_wrong_diagnosis_that_is_accepted_got_through(tmp_path, classes, transferred):
    """Each image is driven to one class drawn for it, and harmed by every other wrong one as well."""
    figures = figures_of(tmp_path, classes)
    planned = Planned("pgd", 24 / 256, "24/256", steps=3, transferred=transferred)
    if transferred:
        surrogate = Surrogate(Victim(toy_classifier(classes, seed=1)), "another", [], [])
        figures = Figures(replace(figures.campaign, surrogate=surrogate))
    campaign, sample = figures.campaign, figures.sample
    piece = campaign.attack(planned, silent)
    verdict = campaign.victim.judge(piece["images"].float() / 255)
    wrong = verdict.predicted != sample.labels
    elsewhere = wrong & (verdict.predicted != sample.targets)
    assert torch.equal(piece["fooled"], wrong)
    assert bool((elsewhere & verdict.accepted).any()) == (classes > 2)
    cell = figures.cell(planned, piece)
    assert cell.success == pytest.approx(wrong.float().mean().item())
    assert cell.undetected == pytest.approx((wrong & verdict.accepted).float().mean().item())
    if transferred:
        bare = campaign.alone.judge(piece["images"].float() / 255).predicted
        assert torch.equal(piece["fooled_bare"], bare != sample.labels)
    through, _ = got_through(figures, [(planned, piece)])
    assert len(through) == min(48, int((wrong & verdict.accepted).sum()))


def test_what_a_check_tried_on_a_few_images_is_told_apart(tmp_path):
    """PGD does not aim at the Shields; Square does, on a few of the images that PGD left."""
    figures = figures_of(tmp_path, 2)
    figures = replace(figures, campaign=replace(figures.campaign, effort=Effort(queries=60)))
    planned = Planned("pgd", 24 / 256, "24/256", steps=3)
    piece = figures.campaign.attack(planned, silent)
    alarm, more = alarms.run_guessing(figures.campaign, [(planned, piece)], silent)
    outcomes, tried = [(planned, piece), *more], more[0][1]["tried"]
    new = tried & more[0][1]["fooled"] & more[0][1]["accepted"]
    assert 0 < new.sum() < tried.sum() < len(tried)
    told = [Further(check=alarm.name, n=int(tried.sum()), more=int(new.sum()))]
    by_plan = worst_cases(figures, outcomes[:1])[0]
    (anyone,) = worst_cases(figures, outcomes)
    assert (by_plan.further, anyone.further) == ([], told)
    assert anyone.undetected == pytest.approx(by_plan.undetected + new.float().mean().item())
    (classifier,) = worst_cases(figures, outcomes, "knows the classifier")
    assert classifier == by_plan.model_copy(update={"attacker": "knows the classifier"})
    (answers,) = worst_cases(figures, outcomes, "asks and sees answers")
    assert answers.further == told
    assert (answers.undetected, answers.undetected_interval, answers.robust_accuracy) == (None, None, None)
    through, pixels = got_through(figures, outcomes)
    found = {one.example.name: i for i, one in enumerate(through) if one.check == alarm.name}
    assert set(found) == {f"test image {i}" for i in new.nonzero().squeeze(1).tolist()}
    for i in new.nonzero().squeeze(1).tolist():
        shown = torch.from_numpy(pixels["through/adversarial"][found[f"test image {i}"]])
        assert torch.equal(shown, more[0][1]["images"][i])


@pytest.mark.parametrize("healthy", [0, 2])
def test_what_is_given_out_before_and_after_attack_image_by_image(tmp_path, healthy):
    """Diseased and accepted as healthy, the table of diagnoses, and what no guard at all makes of the same images."""
    campaign = figures_of(tmp_path, 4, 40).campaign
    clean, test = campaign.sample.clean, campaign.sample.test
    clean.predicted[3] = (clean.predicted[3] + 1) % 4  # diagnosed wrongly from the start
    chosen = torch.arange(40)
    sample = replace(campaign.sample, rows=chosen[clean.predicted == test.labels])
    campaign = replace(campaign, sample=sample)
    figures = Figures(campaign, healthy)
    outcomes = campaign.run([Planned(name, 24 / 256, "24/256", steps=3) for name in ("pgd", "bim")], silent)
    (worst,) = worst_cases(figures, outcomes)
    names, missed = test.classes, 0
    before = {name: [0] * 5 for name in names}
    after = {name: [0] * 5 for name in names}
    for row in range(40):
        label, k = int(test.labels[row]), 4
        if clean.accepted[row]:
            k = int(clean.predicted[row])
        before[names[label]][k] += 1
        if row != 3:
            i = sample.rows.tolist().index(row)
            verdicts = [(bool(p["accepted"][i]), int(p["predicted"][i]), float(p["score"][i])) for _, p in outcomes]
            harm = sorted((score, was) for accepted, was, score in verdicts if accepted and was != label)
            k = harm[0][1] if harm else label if all(accepted for accepted, *_ in verdicts) else 4
            if healthy in [was for _, was in harm]:
                k, missed = healthy, missed + 1
        after[names[label]][k] += 1
    assert missed > 0
    assert (figures.confusion(), worst.confusion) == (before, after)
    diseased = int((sample.labels != healthy).sum())
    assert (worst.missed.n, worst.missed.share) == (diseased, pytest.approx(missed / diseased))
    assert worst.missed.interval[0] < missed / diseased < worst.missed.interval[1]
    alone = torch.stack([piece["fooled_bare"] for _, piece in outcomes]).any(0)
    assert worst.unguarded == pytest.approx(alone.float().mean().item())
    of_class = figures.cell(*outcomes[0]).by_class[names[1]]
    mine = sample.labels == 1
    hits = int((outcomes[0][1]["fooled"] & outcomes[0][1]["accepted"])[mine].sum())
    known = binomtest(hits, int(mine.sum())).proportion_ci(method="wilson")
    assert of_class.undetected_interval == pytest.approx((known.low, known.high))
