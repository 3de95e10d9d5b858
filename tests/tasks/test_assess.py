"""Assessments of networks for findings and masks: figures by scikit-learn, the worst case by hand, checks, a kill."""

import dataclasses
import json
from functools import partial

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from sklearn.metrics import f1_score, jaccard_score, roc_auc_score
from tests.bench.test_surrogates import related
from tests.cli.shop import call
from tests.tasks.small import LUNGS, findings, lungs
from torch import nn

from medaegis.attacks.engine import Attack
from medaegis.attacks.victim import Victim
from medaegis.bench import assess
from medaegis.bench.analyse import figures
from medaegis.bench.assess import ATTACKS, assess_classifier
from medaegis.bench.campaign import Effort
from medaegis.bench.checks import classifier as checks
from medaegis.bench.compare import compare_detectors
from medaegis.bench.plan import Planned, every_attack, plan_assessment
from medaegis.bench.records.assessment import Assessment, markdown, read_assessment
from medaegis.bench.report import robustness
from medaegis.bench.sample import Sample, draw
from medaegis.errors import ConfigError, DataError
from medaegis.images.datasets import load_dataset
from medaegis.images.splits import split_dataset
from medaegis.models.classifier import Classifier
from medaegis.models.store import save_classifier

EPS = [("16/256", 16 / 256), ("4/256", 4 / 256)]
CELLS = {
    "multi": plan_assessment(["fgsm", "pgd", "pgd-l2"], EPS),
    "dense": plan_assessment(["fgsm", "pgd", "pgd-dice"], EPS),
}
EFFORT = Effort(far=12, guessed=4, queries=20, probed=8)
KINDS = pytest.mark.parametrize("task", ["multi", "dense"])


@pytest.fixture(scope="module", autouse=True)
def _small_pictures():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figures, "DPI", 60)
        yield


def scene(task, request):
    classifier, _ = request.getfixturevalue("finder" if task == "multi" else "segmenter")
    return (classifier, *(findings() if task == "multi" else lungs()))


def assessed(scene, out, **options):
    cells = CELLS[scene[0].task.name]
    return assess_classifier(*scene, **{"cells": cells, "eps": EPS, "out_dir": out, "effort": EFFORT, **options})


@pytest.fixture(scope="module")
def whole(request, tmp_path_factory):
    """Assessments by task, and their folders."""
    found = {}
    for task in ("multi", "dense"):
        out = tmp_path_factory.mktemp(task)
        found[task] = assessed(scene(task, request), out), out
    return found


@pytest.fixture(scope="module")
def direct(request):
    """By task the test images, logits of the clean ones, and logits and images of the same attacks run directly."""
    found = {}
    for task in ("multi", "dense"):
        classifier, dataset, split = scene(task, request)
        test = dataset.subset(split.adv_test)
        exact, made = classifier.frozen(), []
        for planned in CELLS[task]:
            result = planned.value.run(Victim(classifier), test.pixels(), test.labels, eps=planned.eps, ids=test.ids)
            with torch.no_grad():
                made.append((planned, exact(result.images), result.images))
        with torch.no_grad():
            found[task] = test, exact(test.pixels()), made
    return found


def dices(logits, labels):
    return [f1_score(y.flatten(), z.argmax(0).flatten()) for z, y in zip(logits.numpy(), labels.numpy(), strict=True)]


def overlaps(logits, labels):
    return [
        jaccard_score(y.flatten(), z.argmax(0).flatten(), average="macro")
        for z, y in zip(logits.numpy(), labels.numpy(), strict=True)
    ]


def rightly(logits, labels):
    return ((logits > 0).long() == labels).double()


def inside(planned, images, test, eps, norm):
    change = (images - test.pixels()) * 255
    if norm == "Linf":
        return change.abs().amax((1, 2, 3)).round() <= round(255 * eps)
    return change.square().mean((1, 2, 3)).sqrt() <= 255 * eps + 1e-6


def test_masks_by_scikit_learn(whole, direct):
    (found, _), (test, clean, made) = whole["dense"], direct["dense"]
    assert (found.task, found.chosen, found.attacked) == ("dense", len(test), len(test))
    assert found.clean.quality.dice.value == pytest.approx(np.mean(dices(clean, test.labels)), rel=1e-5)
    assert found.clean.quality.miou.value == pytest.approx(np.mean(overlaps(clean, test.labels)), rel=1e-5)
    assert [(t.attack, t.eps_text) for t in found.attacks] == [(p.attack, p.eps_text) for p, *_ in made]
    right = np.array(dices(clean, test.labels)) >= 0.7
    for tried, (_, logits, _) in zip(found.attacks, made, strict=True):
        dice = np.array(dices(logits, test.labels))
        assert tried.quality.dice.value == pytest.approx(dice.mean(), rel=1e-5)
        assert tried.quality.miou.value == pytest.approx(np.mean(overlaps(logits, test.labels)), rel=1e-5)
        assert tried.quality.dice.interval[0] <= tried.quality.dice.value <= tried.quality.dice.interval[1]
        assert (tried.success.n, tried.success.share) == (right.sum(), pytest.approx((dice[right] < 0.7).mean()))
        assert tried.robust_accuracy.share == pytest.approx((right & (dice >= 0.7)).mean())
        assert tried.quality.dice.value < found.clean.quality.dice.value - 0.01
        assert tried.noise_quality.dice.value > tried.quality.dice.value, "blind changes as large do less"
    for worst in found.worst_case:
        rows = [dices(clean, test.labels)], [overlaps(clean, test.labels)]
        for planned, logits, images in made:
            counts = inside(planned, images, test, worst.eps, worst.norm).numpy()
            for values, of in zip(rows, (dices, overlaps), strict=True):
                values.append(np.where(counts, of(logits, test.labels), np.inf))
        assert worst.quality.dice.value <= np.mean(np.min(rows[0], 0)) + 1e-6
        if not any(one.more for one in worst.further):
            assert worst.quality.miou.value == pytest.approx(np.mean(np.min(rows[1], 0)), abs=0.02), "checks may add"
        assert {proportion.n for proportion in worst.recall.values()} == {0}


def test_findings_by_scikit_learn(whole, direct):
    (found, _), (test, clean, made) = whole["multi"], direct["multi"]
    truth = test.labels.numpy()
    right = rightly(clean, test.labels).bool().all(1).numpy()
    assert 0 < right.sum() < len(test) == found.attacked
    assert found.clean.accuracy.share == pytest.approx(right.mean())
    for k, name in enumerate(test.classes):
        assert found.clean.quality.aurocs[name] == pytest.approx(roc_auc_score(truth[:, k], clean[:, k]))
    for tried, (_, logits, _) in zip(found.attacks, made, strict=True):
        areas = [roc_auc_score(truth[:, k], logits[:, k]) for k in range(3)]
        assert list(tried.quality.aurocs.values()) == pytest.approx(areas)
        assert tried.quality.auroc.value == pytest.approx(np.mean(areas))
        assert tried.quality.right.value == pytest.approx(rightly(logits, test.labels).mean().item())
        turned = ~rightly(logits, test.labels).bool().all(1).numpy()[right]
        assert (tried.success.n, tried.success.share) == (right.sum(), pytest.approx(turned.mean()))
        assert tried.noise_quality.auroc.value > tried.quality.auroc.value
    side = 2 * test.labels - 1
    for worst in found.worst_case:
        logits, quality = side * clean, rightly(clean, test.labels).mean(1)
        for planned, there, images in made:
            counts = inside(planned, images, test, worst.eps, worst.norm)
            logits = torch.where(counts[:, None], torch.minimum(logits, side * there), logits)
            of = rightly(there, test.labels).mean(1)
            quality = torch.where(counts, torch.minimum(quality, of), quality)
        areas = [roc_auc_score(truth[:, k], (side * logits)[:, k]) for k in range(3)]
        if not worst.further:
            assert worst.quality.right.value == pytest.approx(quality.mean().item())
            assert list(worst.quality.aurocs.values()) == pytest.approx(areas)
            for k, name in enumerate(test.classes):
                has = test.labels[:, k] == 1
                assert worst.recall[name].share == pytest.approx(((side * logits)[has, k] > 0).double().mean().item())
        assert worst.quality.auroc.value <= np.mean(areas) + 1e-9, "checks may have found less"
        assert worst.quality.right.value <= quality.mean().item() + 1e-6


@KINDS
def test_the_worst_case_is_no_better_than_any_attack(task, whole):
    found, _ = whole[task]
    by = {(w.norm, w.eps_text): robustness.leading(w.quality).value for w in found.worst_case}
    assert by["Linf", "16/256"] < by["Linf", "4/256"] < robustness.leading(found.clean.quality).value
    for tried in found.attacks:
        assert by[tried.norm, tried.eps_text] <= robustness.leading(tried.quality).value + 1e-9


@KINDS
def test_record_page_and_figure(task, whole):
    found, out = whole[task]
    assert read_assessment(out) == found
    page = (out / "assessment.md").read_text(encoding="utf-8")
    assert page == markdown(found)
    for tried in found.attacks:
        figure = robustness.leading(tried.quality)
        name = tried.eps_text if tried.norm == "Linf" else f"L2 {tried.eps_text}"
        (row,) = [line for line in page.splitlines() if line.startswith(f"| {tried.attack} | {name} |")]
        assert f"| {figure.value:.3f} ({figure.interval[0]:.3f}–{figure.interval[1]:.3f}) |" in row
    assert ("AUROC of each finding" in page) == (task == "multi")
    axes = Figure().subplots()
    robustness._panel(axes, found, "Linf", {"fgsm": robustness.plots.PLAIN})
    drawn = {line.get_label(): list(line.get_ydata()) for line in axes.lines}
    fgsm = [robustness.leading(t.quality).value for t in found.attacks if t.attack == "fgsm"]
    assert drawn["fgsm"] == fgsm[::-1], "the smaller change first"
    worst = [robustness.leading(w.quality).value for w in found.worst_case if w.norm == "Linf"]
    assert drawn["worst case"] == worst
    assert set(drawn["clean images"]) == {robustness.leading(found.clean.quality).value}


def test_records_of_one_class_an_image_are_what_they_were(whole):
    """Nothing of it is written there, and what has nothing of it is read."""
    found, _ = whole["dense"]
    told = found.model_dump(mode="json")
    assert told["task"] == "dense"
    for holder in (told, told["clean"], *told["worst_case"], *told["attacks"]):
        for name in ("task", "quality", "noise_quality"):
            holder.pop(name, None)
    before = Assessment.model_validate(told)
    assert (before.task, before.clean.quality, before.attacks[0].noise_quality) == ("single", None, None)
    assert json.loads(before.model_dump_json()) == before.model_dump(mode="json") == told


def timeless(found):
    told = json.loads(found.model_dump_json())
    for holder in (told, *told["attacks"]):
        for name in ("created", "seconds"):
            holder.pop(name, None)
    return told


def test_stopped_and_called_again_it_repeats_nothing(tmp_path, monkeypatch, request):
    here, run, done = scene("multi", request), Attack.run, []
    options = {"cells": CELLS["multi"][1:3], "limit": 8, "effort": Effort(far=4, guessed=2, queries=10, probed=4)}

    def stops(self, *arguments, **options):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(self)
        return run(self, *arguments, **options)

    monkeypatch.setattr(Attack, "run", stops)
    with pytest.raises(KeyboardInterrupt):
        assessed(here, tmp_path / "stopped", **options)
    monkeypatch.setattr(Attack, "run", run)
    found = timeless(assessed(here, tmp_path / "stopped", **options))
    assert found == timeless(assessed(here, tmp_path / "whole", **options))
    monkeypatch.setattr(Attack, "run", lambda *_, **__: pytest.fail("attacked again"))
    assert found == timeless(assessed(here, tmp_path / "stopped", **options))


def test_other_labels_are_another_question(tmp_path, request):
    """Stored outcomes tell how many findings were right, so they are not those of images labelled otherwise."""
    classifier, dataset, _ = scene("multi", request)
    where = {"cells": CELLS["multi"][:1], "effort": Effort(guessed=2, queries=10, probed=4)}
    other = dataclasses.replace(dataset, labels=1 - dataset.labels)
    split = split_dataset(dataset)
    first = assessed((classifier, dataset, split), tmp_path, **where)
    second = assessed((classifier, other, dataclasses.replace(split, fingerprint=other.fingerprint)), tmp_path, **where)
    assert first.clean.quality.right.value == pytest.approx(1 - second.clean.quality.right.value)
    assert second.attacks[0].quality.right.value < second.clean.quality.right.value


def test_a_limit_keeps_the_findings_in_proportion(request):
    classifier, dataset, _ = scene("multi", request)
    sample = Sample.draw(dataset, Victim(classifier).verdicts, limit=60, seed=0, everyone=True)
    strata, names = dataset.strata
    assert torch.equal(sample.test.ids, dataset.ids[draw(strata, 60, 0)])
    assert len(sample) == 60 > int(sample.right.sum())
    for k in range(len(names)):
        share = (strata == k).double().mean() * 60
        assert abs(int((strata[draw(strata, 60, 0)] == k).sum()) - share) <= 1.5
    assert set(sample.few(6).tolist()) <= set(range(60))


def test_what_is_planned_by_default_serves():
    for task, names in ATTACKS.items():
        assert set(names) <= set(every_attack(2, task))
    assert "pgd-dice" not in every_attack(2)


@KINDS
def test_what_does_not_fit_is_refused_before_any_work(task, tmp_path, request):
    here = scene(task, request)
    what = "findings" if task == "multi" else "masks"
    with pytest.raises(ConfigError, match=rf"'deepfool'.*does not attack {what}.*take one of fgsm, bim, pgd"):
        assessed(here, tmp_path, cells=plan_assessment(["deepfool"], EPS))
    for options in ({"targeted": True}, {"cascade": 10, "limit": 4}):
        with pytest.raises(ConfigError, match="is for one class an image"):
            assessed(here, tmp_path, **options)
    classifier, dataset, split = here
    other = dataclasses.replace(dataset, labels=torch.zeros(len(dataset), dtype=torch.int64), task=single())
    with pytest.raises(DataError, match="has one class for each image, the classifier is for"):
        assessed((classifier, other, split), tmp_path)
    assert not (tmp_path / "pieces").exists()


@KINDS
def test_detectors_are_compared_where_images_have_one_class(task, tmp_path, request):
    options = {"detectors": ("kd",), "attacks": ("bim",), "learn_from": "bim", "eps": 1 / 256, "eps_text": "1/256"}
    with pytest.raises(ConfigError, match="comparison"):
        compare_detectors(*scene(task, request), out_dir=tmp_path, **options)


def single():
    return load_dataset("phantom-xray?n=4", size=16, channels="gray").task


def test_masks_are_no_business_of_a_diagnosis(tmp_path):
    from medaegis.bench.plan import check_attacks

    with pytest.raises(ConfigError, match=r"'pgd-dice'.*does not attack one class an image"):
        check_attacks(["pgd-dice"], 2)


# ---- checks


def by_first_word(controls):
    return {control.name.split(",")[0]: control for control in controls}


def planned(levels):
    return Planned("pgd", levels / 256, f"{levels}/256")


def piece(*quality):
    values = torch.tensor(quality)
    return {
        "quality": values,
        "harm": 1 - values,
        "fooled": values < 0.7,
        "accepted": torch.ones_like(values, dtype=torch.bool),
    }


def test_more_change_must_not_leave_more():
    before = piece(*[0.9] * 20)
    for later, passed in ((0.5, True), (0.93, True), (0.97, False)):
        (control,) = checks._more_change([(planned(2), before), (planned(8), piece(*[later] * 20))])
        assert control.passed is passed, later
        assert control.measured == f"pgd {0.1:.1%} / {1 - later:.1%}"


@KINDS
def test_checks_pass_where_nothing_is_masked(task, whole):
    found, _ = whole[task]
    by = by_first_word(found.controls)
    assert {"More change", "Full success far out", "Many steps beat one", "Gradients beat Square"} <= set(by)
    assert not [control for control in found.controls if control.passed is False]
    assert by["Full success far out"].passed
    assert ("1 - Dice" if task == "dense" else "of each finding") in by["Full success far out"].detail


class Coarse(nn.Module):
    """The same network with logits in whole numbers, whose slope is nil."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        return self.network(x).round()


@KINDS
def test_masked_gradients_are_noticed(task, tmp_path, request):
    classifier, dataset, split = scene(task, request)
    masked = Classifier(
        Coarse(classifier.network),
        classes=classifier.classes,
        size=classifier.size,
        channels=classifier.channels,
        mean=tuple(classifier.mean.flatten().tolist()),
        std=tuple(classifier.std.flatten().tolist()),
        backbone=classifier.backbone,
        task=task,
        outputs="logits",
    ).eval()
    found = assessed((masked, dataset, split), tmp_path, cells=CELLS[task][2:3], eps=EPS[:1])
    by = {control.name.split(",")[0]: control.passed for control in found.controls}
    assert by["There are gradients"] is False
    assert by["Full success far out"] is False


def test_the_command(segmenter, tmp_path, monkeypatch):
    classifier, folder = segmenter
    save_classifier(related(classifier, 1), tmp_path / "other")
    quick = Effort(guessed=2, queries=10, probed=4)
    monkeypatch.setattr(assess, "assess_classifier", partial(assess.assess_classifier, effort=quick))
    options = ("--attacks", "fgsm", "--eps", "8/256", "--factory", "tests.tasks.small:tiny_unet")
    told = call(
        "assess", folder, LUNGS, *options, "--limit", 4, "--surrogate", tmp_path / "other", "--out", tmp_path / "out"
    )
    assert told.exit_code in (0, 1), told.output
    found = read_assessment(tmp_path / "out")
    assert f"{found.attacks[0].quality.dice.value:.3f}" in told.stdout
    assert all(words in told.stdout for words in ("Mean Dice", "On surrogates", "fgsm (transfer)"))
    itself = call("assess", folder, LUNGS, *options, "--surrogate", folder, "--out", tmp_path / "none")
    assert itself.exit_code == 2
    assert "the protected classifier itself" in itself.stderr
    refused = call("assess", folder, LUNGS, *options, "--attacks", "deepfool", "--out", tmp_path / "none")
    assert refused.exit_code == 2
    assert "does not attack masks" in refused.stderr
