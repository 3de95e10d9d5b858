"""A guard for masks: which Shield judges, how it learns, what is given out and what is withheld, what attacks reach."""

import copy
import dataclasses
import hashlib
import json

import numpy as np
import pytest
import torch
from PIL import Image
from tests.cli.shop import call
from tests.tasks.guarded import OWN, SHIELD, Darkness, dark_guard, small_lungs, unet
from tests.tasks.small import CONFIG

import medaegis as ma
from medaegis.attacks.catalogue import find_attack
from medaegis.attacks.objective import Goal
from medaegis.attacks.victim import Victim
from medaegis.bench.masks import ATTACKS, LEADING, evaluate_masks, plan_masks
from medaegis.bench.records.archive import read_record
from medaegis.bench.records.masks import RECORD, MaskEvaluation
from medaegis.cushions import parse_cushion
from medaegis.detectors.shield import ShieldBank
from medaegis.errors import ArtefactError, ConfigError, DataError
from medaegis.guard import shield_training
from medaegis.guard.calibration import calibrate
from medaegis.guard.fitting import fit_guard, shield_config
from medaegis.guard.guard import Guard
from medaegis.guard.looks import reached, soundness
from medaegis.guard.mask_training import MaskTraining, mask_robustness
from medaegis.guard.site import Site, other_site
from medaegis.images.masks import read_mask
from medaegis.models.classifier import ANSWERED
from medaegis.models.training import train_classifier
from medaegis.task import MULTI, SINGLE, Dense


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("masks") / "classifier"


@pytest.fixture(scope="module")
def segmenter(folder):
    config = CONFIG.model_copy(update={"backbone": OWN, "epochs": 8, "taps": ("deep",)})
    return train_classifier(*small_lungs(), config, folder)


@pytest.fixture(scope="module")
def guard(segmenter):
    return dark_guard(segmenter)


@pytest.fixture(scope="module")
def test():
    dataset, split = small_lungs()
    return dataset.subset(split.adv_test)


def training(segmenter, folder, **config):
    dataset, split = small_lungs()
    learn = dataset.subset([*split.train, *split.adv_train])
    return MaskTraining(segmenter, parse_cushion("none"), learn, 0, SHIELD.model_copy(update=config), folder)


def test_which_shield_judges():
    assert SINGLE.shields(("a", "b")) == ("a", "b")
    assert Dense(3).shields(("a", "b", "c")) == ("mask",)
    assert MULTI.shields(("a", "b")) == ()
    assert SINGLE.shield_of(torch.tensor([1, 0])).tolist() == [1, 0]
    assert Dense().shield_of(torch.ones(3, 4, 4, dtype=torch.uint8)).tolist() == [0, 0, 0]
    with pytest.raises(ConfigError, match="several findings"):
        MULTI.shield_of(torch.ones(3, 2))


def test_a_mask_is_surely_wrong_a_little_later_than_wrong():
    truth = torch.zeros(3, 1, 100, dtype=torch.uint8)
    truth[:, 0, :50] = 1
    found = torch.zeros_like(truth)
    for row, n in enumerate((28, 26, 25)):  # of 50 pixels: Dice 2 n / (n + 50), 0.718, 0.684 and 0.667
        found[row, 0, :n] = 1
    assert Dense().is_right(found, truth).tolist() == [True, False, False]
    assert Dense().is_surely_wrong(found, truth).tolist() == [False, False, True]


def test_a_shield_sees_the_pixels_and_the_answer(segmenter, test):
    x = test.pixels(range(3)).requires_grad_()
    seen = segmenter.frozen().activations(x, logits=False, taps=(ANSWERED, "deep"))
    expected = segmenter.frozen()(x).softmax(1)[:, 1]
    assert seen.logits is None
    assert torch.equal(seen.features[ANSWERED][:, 0], x[:, 0])
    torch.testing.assert_close(seen.features[ANSWERED][:, 1], expected)
    assert tuple(seen.features[ANSWERED].shape[1:]) == segmenter.tap_shapes([ANSWERED])[ANSWERED] == (2, 16, 16)
    (of_pixels,) = torch.autograd.grad(seen.features[ANSWERED][:, 1].sum(), x)
    (of_network,) = torch.autograd.grad(expected.sum(), x)
    torch.testing.assert_close(of_pixels, of_network)
    single = ma.wrap(
        torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(768, 2)), classes=("a", "b"), size=16, normalise=None
    )
    with pytest.raises(ConfigError, match="has no tap"):
        single.activations(torch.rand(1, 3, 16, 16), taps=(ANSWERED,))
    assert ANSWERED in segmenter.tap_names()
    assert ANSWERED not in single.tap_names()


def test_verdicts_are_those_of_the_one_shield(guard, segmenter, test):
    """By hand: how much darker the mask is, on the scale of clean validation images."""
    dataset, split = small_lungs()
    darker = {}
    for name, part in (("val", dataset.subset(split.val)), ("test", test)):
        with torch.no_grad():
            inside = segmenter.frozen()(part.pixels()).softmax(1)[:, 1].double()
        pixels = part.pixels()[:, 0].double()
        means = [(pixels * share).sum((1, 2)) / share.sum((1, 2)) for share in (inside, 1 - inside)]
        darker[name] = 100 * (means[1] - means[0])
    typical = darker["val"].sort().values[(len(darker["val"]) - 1) // 2]  # the lower median, as PyTorch's
    least = darker["val"].sort(descending=True).values[17]  # of 18 images the last: 19 times 0.9 is above 17
    verdict = guard.judge(test.pixels())
    expected = (typical - darker["test"]) / (typical - least)
    torch.testing.assert_close(verdict.score.double(), expected, rtol=1e-3, atol=1e-3)
    assert torch.equal(verdict.accepted, verdict.score <= 1)
    assert guard.calibration["thresholds"] == {"mask": {"images": 18, "own": True}}
    assert guard.calibration["dice"] == pytest.approx(
        float(segmenter.task.quality(verdict.predicted, test.labels).mean())
    )


def test_through_is_wrong_and_accepted(guard, segmenter, test):
    """As an attack sees it on its way, beside the verdict; without the margin that is left for rounding they agree."""
    attack = find_attack("pgd-dice").attack.with_options(steps=10)
    found = attack.run(Victim(segmenter), test.pixels(), test.labels, eps=24 / 256)
    objective = find_attack("wb-dice").attack.objective
    goal = Goal(test.labels, task=segmenter.task)
    with torch.no_grad():
        view = guard.victim(dtype=torch.float32).look(found.images, goal, objective)
    verdict = guard.judge(found.images)
    wrong = segmenter.task.quality(verdict.predicted, test.labels) < 0.68
    assert torch.equal(view.through(shield=True), wrong & verdict.accepted)
    assert torch.equal(view.through(shield=False), wrong)
    assert 0 < int(view.through(shield=True).sum()) < int(wrong.sum()), "a case that tells nothing apart"


@pytest.mark.parametrize("name", ["wb", "wb-dice", "selective-dice", LEADING, "wb-adaptive", "shield-only"])
def test_attacks_on_the_shield_serve_masks(name, guard, test):
    attack = find_attack(name).attack.with_options(steps=8)
    eps = 24 / 256
    before, found = guard.judge(test.pixels()), attack.run(guard.victim(), test.pixels(), test.labels, eps=eps, seed=1)
    judged = guard.judge(found.images)
    torch.testing.assert_close(judged.score, found.verdict.score, rtol=1e-3, atol=1e-3)
    assert torch.equal(found.broken, found.reached & judged.accepted)
    assert float((found.images - test.pixels()).abs().max()) <= 24 / 255 + 1e-6
    if name in ("selective-dice", LEADING):
        task = guard.classifier.task
        assert task.quality(judged.predicted, test.labels).mean() < task.quality(before.predicted, test.labels).mean()
    else:
        assert judged.score.mean() < before.score.mean()


def test_selective_finds_wrong_masks_that_pass_and_the_dice_alone_fewer(guard, test):
    broken = {
        name: find_attack(name).attack.with_options(steps=20).run(guard.victim(), test.pixels(), test.labels, eps=0.25)
        for name in ("pgd-dice", "selective-dice")
    }
    shares = {name: float(found.broken.float().mean()) for name, found in broken.items()}
    assert shares["selective-dice"] > 0.9 > shares["pgd-dice"]


@pytest.mark.parametrize(("eps", "expected"), [(1, 1.0), (64, 2.0)])
def test_what_counts_as_hostile_is_a_wrong_mask(eps, expected, segmenter, tmp_path):
    """Of a Shield that says 0 to everything each image that counts costs log 2. At one level no mask is wrong, and the
    attacked images say nothing; at a quarter of the range all attacked ones are."""
    mine = training(segmenter, tmp_path, eps_start=eps / 256, eps_end=eps / 256, genuine_noise=0.0, inner_steps=8)
    with torch.no_grad():
        for weights in mine.shield.join[2].parameters():
            weights.zero_()
    assert mine._loss(0).item() == pytest.approx(expected * np.log(2), abs=1e-6)


def test_a_killed_training_goes_on_to_the_same_bits(segmenter, tmp_path, monkeypatch):
    monkeypatch.setattr(shield_training, "CHECKPOINT_SECONDS", 0.0)

    def killed(done, total, message):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        training(segmenter, tmp_path / "a").train(killed)
    resumed = training(segmenter, tmp_path / "a")
    ends = [one.train().state_dict() for one in (resumed, training(segmenter, tmp_path / "b"))]
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[1])
    other = training(segmenter, tmp_path / "c", seed=1).train().state_dict()
    assert any(not torch.equal(ends[0][name], other[name]) for name in other)


def test_a_trained_shield_withstands_what_breaks_an_untrained_one(segmenter, tmp_path):
    dataset, split = small_lungs()
    learner = training(
        segmenter, tmp_path, updates=50, eps_start=24 / 256, eps_end=24 / 256, inner_steps=5, average=0.9
    )
    look = mask_robustness(segmenter, parse_cushion("none"), dataset.subset(split.val))
    after = look(learner.train())
    assert after["auroc_16"] >= 0.9
    assert after["passing_64"] >= 0.9, "at a quarter of the range nothing can stand"
    assert soundness(after) == after["auroc_16"]
    assert "AUROC" in reached(after)
    victims = []
    for shield in (learner.shield.__class__(learner.shield.shapes, width=8, hidden=8), learner.result()):
        bank = ShieldBank([shield.eval().requires_grad_(False)])
        guard = Guard(segmenter, parse_cushion("none"), bank, tnr=0.85)
        calibrate(guard, dataset, split)
        victims.append(guard.victim())
    test = dataset.subset(split.adv_test)
    attack = find_attack("selective-dice").attack.with_options(steps=20)
    shares = [attack.run(v, test.pixels(), test.labels, eps=28 / 256).broken.float().mean().item() for v in victims]
    assert shares[1] < shares[0] - 0.3


def test_a_guard_from_start_to_folder(segmenter, tmp_path, test):
    dataset, split = small_lungs()
    config = shield_config("strong", segmenter, updates=2).model_copy(
        update={"width": 4, "hidden": 8, "inner_steps": 2}
    )
    assert config.taps == (ANSWERED,)
    options = {"cushion": parse_cushion("jpeg:80"), "config": config, "out_dir": tmp_path / "guard"}
    fitted = fit_guard(segmenter, dataset, split, **options)
    again = Guard.load(tmp_path / "guard", factory=unet)
    assert again.fingerprint() == fitted.fingerprint() == fit_guard(segmenter, dataset, split, **options).fingerprint()
    assert list(again.training["shields"]) == ["mask"] == list(again.judged)
    assert again.calibration["dice"] > 0.8
    for one, other in zip(fitted.inspect(test.pixels()), again.inspect(test.pixels()), strict=True):
        assert one == other
        assert one.mask_sha256 == other.mask_sha256
    two = Guard(segmenter, parse_cushion("none"), ShieldBank([*fitted.bank.shields] * 2), tnr=0.9)
    two.bank.centre.fill_(0.0)
    two.save(tmp_path / "two")
    with pytest.raises(ArtefactError, match="2 Shields for masks"):
        Guard.load(tmp_path / "two", factory=unet)


def test_what_cannot_be_fitted(segmenter, tmp_path):
    dataset, split = small_lungs()
    with pytest.raises(ConfigError, match="one class an image"):
        shield_config("paper", segmenter, updates=2)
    config = shield_config("strong", segmenter, updates=2)
    named = dataclasses.replace(dataset, labels=dataset.labels.flatten(1).amax(1).long(), task=SINGLE)
    options = {"cushion": parse_cushion("none"), "config": config, "out_dir": tmp_path / "guard"}
    with pytest.raises(DataError, match="one class for each image"):
        fit_guard(segmenter, named, split, **options)
    wrong = dataclasses.replace(dataset, labels=1 - dataset.labels)
    with pytest.raises(DataError, match="right mask of no validation image"):
        fit_guard(segmenter, wrong, dataclasses.replace(split, fingerprint=wrong.fingerprint), **options)


def test_a_finding_has_the_mask_only_if_it_is_accepted(guard, segmenter, test):
    images = test.pixels().clone()
    images[1] = torch.nan
    images[2] = 0.5
    found = guard.inspect(images)
    with torch.no_grad():
        masks = segmenter.frozen()(test.pixels()).argmax(1).to(torch.uint8)
    accepted = guard.judge(test.pixels()).accepted
    for i, finding in enumerate(found):
        assert finding.label is None
        assert finding.diagnosis is None
        assert finding.probabilities == {}
        if i in (1, 2) or not accepted[i]:
            assert not finding.accepted
            assert (finding.mask, finding.areas, finding.mask_sha256) == (None, {}, None)
            continue
        assert finding.accepted
        assert torch.equal(finding.mask, masks[i])
        share = float((masks[i] == 1).double().mean())
        assert finding.areas == pytest.approx({guard.classes[0]: 1 - share, guard.classes[1]: share})
        assert finding.mask_sha256 == hashlib.sha256(masks[i].numpy().tobytes()).hexdigest()
    assert [found[1].reason, found[2].reason] == ["error", "blank"]
    assert found[0].accepted
    assert "tensor" not in repr(found[0])


def test_a_suspicious_mask_is_withheld_and_so_is_every_mask_of_a_bank_without_thresholds(segmenter, test):
    loose = Guard(segmenter, parse_cushion("none"), ShieldBank([Darkness()]), tnr=0.9)
    for finding in loose.inspect(test.pixels()):
        assert not finding.accepted
        assert finding.mask is None
        assert finding.areas == {}


def test_screening_writes_masks_of_accepted_images_alone(guard, test, tmp_path):
    inbox, out = tmp_path / "in", tmp_path / "out"
    inbox.mkdir()
    bank = copy.deepcopy(guard.bank)
    bank.scale.mul_(0.25)  # so that some clean images are rejected
    guard = Guard(guard.classifier, guard.cushion, bank, tnr=0.9)
    for i in range(6):
        Image.fromarray(test.images[i, 0].numpy()).save(inbox / f"{i}.png")
    (inbox / "broken.png").write_bytes(b"no picture")
    Image.new("L", (16, 16), 90).save(inbox / "blank.png")
    found = {one.path.name: one for one in guard.screen(inbox, masks=out)}
    records = {name: one.record() for name, one in found.items()}
    assert len({tuple(record) for record in records.values()}) == 1, "tables need the same columns in every row"
    assert "diagnosis" not in records["0.png"]
    named = {record["mask_file"] for record in records.values() if record["mask_file"]}
    assert {str(path) for path in out.iterdir()} == named, "nothing but the masks of accepted images"
    for name, one in found.items():
        record = records[name]
        if one.status != "accepted":
            told = ("mask_sha256", "mask_file", *(f"area_{each}" for each in guard.classes))
            assert [record[key] for key in told] == [None] * len(told)
            continue
        mask = read_mask(record["mask_file"], 16)
        assert hashlib.sha256(mask.tobytes()).hexdigest() == record["mask_sha256"]
        assert record[f"area_{guard.classes[1]}"] == pytest.approx(mask.mean())
        assert hashlib.sha256(one.mask_file.read_bytes()).hexdigest() == one.mask_file.stem
    assert {found[name].status for name in ("blank.png", "broken.png")} == {"rejected", "unreadable"}
    assert {one.status for one in found.values() if one.path.stem.isdigit()} == {"accepted", "rejected"}
    assert len(list(guard.screen([tmp_path], masks=out))) == 8, "masks are not judged"


def test_a_mask_that_cannot_be_written_is_told(guard, test, tmp_path):
    Image.fromarray(test.images[0, 0].numpy()).save(tmp_path / "a.png")
    (tmp_path / "out").write_bytes(b"a file")
    (one,) = guard.screen(tmp_path / "a.png", masks=tmp_path / "out")
    assert one.mask_file is None
    assert "cannot be written" in one.record()["mask_not_written"]


def test_a_guard_of_classes_writes_no_masks(tmp_path):
    other = ma.load("tests/golden/guard", factory="tests.models.tiny_networks:tiny")
    Image.new("L", (40, 30), 128).save(tmp_path / "a.png")
    with pytest.raises(ConfigError, match="diagnoses and no masks"):
        other.screen(tmp_path / "a.png", masks=tmp_path / "out")


@pytest.fixture(scope="module")
def measured(guard, tmp_path_factory):
    dataset, split = small_lungs()
    out = tmp_path_factory.mktemp("measured")
    cells = plan_masks(guard, attacks=("pgd-dice", LEADING), eps=("24/256", "64/256"), steps=10)
    return evaluate_masks(guard, Site(dataset, split, home=True), cells=cells, out_dir=out, command="here"), out, cells


def test_an_evaluation_counts_wrong_masks_that_are_accepted(measured, guard, test):
    found, out, cells = measured
    assert read_record(out / RECORD, MaskEvaluation, "evaluate") == found
    rows = segment_right(guard, test)
    clean = guard.judge(test.pixels())
    assert found.clean.accepted == pytest.approx(float(clean.accepted.double().mean()))
    runs = {}
    for planned, cell in zip(cells, found.cells, strict=True):
        run = planned.value.run(
            guard.victim(), test.pixels(rows), test.labels[rows], eps=planned.eps, ids=test.ids[rows]
        )
        quality = guard.classifier.task.quality(run.verdict.predicted, test.labels[rows])
        wrong = quality < 0.7
        assert cell.dice == pytest.approx(float(quality.double().mean()))
        assert cell.wrong == pytest.approx(float(wrong.double().mean()))
        assert cell.undetected == pytest.approx(float((wrong & run.verdict.accepted).double().mean()))
        runs[planned] = (wrong, run.verdict)
    for worst in found.worst_case:
        mine = [value for planned, value in runs.items() if planned.eps <= worst.eps]
        wrong = torch.stack([each for each, _ in mine])
        broken = torch.stack([each & verdict.accepted for each, verdict in mine]).any(0)
        scores = torch.stack([verdict.score for _, verdict in mine]).where(wrong, torch.inf).amin(0)[wrong.any(0)]
        assert worst.wrong == pytest.approx(float(wrong.any(0).double().mean()))
        assert worst.undetected == pytest.approx(float(broken.double().mean()))
        pairs = (scores[:, None] > clean.score[rows]).double() + 0.5 * (scores[:, None] == clean.score[rows])
        assert worst.auroc == pytest.approx(float(pairs.mean()))
    assert found.worst_case[-1].undetected > 0.9


def segment_right(guard, test):
    said = guard.judge(test.pixels()).predicted
    return (guard.classifier.task.quality(said, test.labels) >= 0.7).nonzero().squeeze(1)


def test_its_controls_are_those_of_every_evaluation(measured):
    told = {control.name: control for control in measured[0].controls}
    assert told["Random noise of 16/256"].passed is not False
    assert told["Attacks on the classifier alone, 64/256"].passed is not False
    success = told[f"More eps ends in full success ({LEADING})"]
    assert success.passed is not False
    assert "64/256" in success.measured
    assert "There are gradients" in told


def test_it_goes_on_where_it_was(measured, guard, monkeypatch):
    found, out, cells = measured
    dataset, split = small_lungs()
    monkeypatch.setattr("medaegis.attacks.engine.Attack._run", lambda *_: pytest.fail("attacked again"))
    again = evaluate_masks(guard, Site(dataset, split, home=True), cells=cells, out_dir=out)
    assert [cell.undetected for cell in again.cells] == [cell.undetected for cell in found.cells]
    assert again.worst_case == found.worst_case


def test_what_is_planned_and_refused(guard, segmenter, tmp_path):
    behind = Guard(segmenter, parse_cushion("jpeg:80"), guard.bank, tnr=0.9)
    cells = plan_masks(behind, eps=("8/256",), steps=10)
    assert {cell.attack for cell in cells} == set(ATTACKS)
    assert {cell.gradient for cell in cells if cell.attack == LEADING} == {"bpda", "skip"}
    assert len({cell.id for cell in cells}) == len(cells)
    with pytest.raises(ConfigError, match="not for masks"):
        plan_masks(guard, attacks=("deepfool",))
    dataset, split = small_lungs()
    with pytest.raises(ConfigError, match="one class an image"):
        ma.certify(guard, dataset, out=tmp_path)
    classes = ma.load("tests/golden/guard", factory="tests.models.tiny_networks:tiny")
    with pytest.raises(ConfigError, match="one class for each image"):
        evaluate_masks(classes, Site(dataset, split), cells=cells, out_dir=tmp_path)


def test_images_of_another_site_keep_their_masks(guard):
    dataset, _ = small_lungs()
    swapped = dataclasses.replace(dataset, classes=dataset.classes[::-1], labels=1 - dataset.labels)
    site = other_site(guard, swapped)
    assert site.dataset.classes == dataset.classes
    assert torch.equal(site.dataset.labels, dataset.labels)
    labelled = dataclasses.replace(dataset, labels=dataset.labels.flatten(1).amax(1).long(), task=SINGLE)
    with pytest.raises(DataError, match="a class for each pixel"):
        other_site(guard, labelled)


def test_by_the_commands(segmenter, folder, test, tmp_path):
    data, own, out = "phantom-lungs?n=150", ("--factory", OWN), tmp_path / "guard"
    fitted = call("fit", folder, data, "--cushion", "none", "--updates", 2, "--out", out, *own)
    assert fitted.exit_code == 0, fitted.output
    assert "1 of recipe strong" in fitted.stdout
    assert "mean Dice" in fitted.stdout
    few = ("--attacks", f"pgd-dice,{LEADING}", "--eps", "24/256", "--steps", 4, "--limit", 4)
    told = call("evaluate", out, data, *few, "--out", tmp_path / "e", *own)
    assert told.exit_code in (0, 1), told.output  # four images and two updates: a control may fail
    assert "Wrong and accepted" in told.stdout
    found = read_record(tmp_path / "e" / RECORD, MaskEvaluation, "evaluate")
    again = json.loads(call("evaluate", out, data, *few, "--out", tmp_path / "e", *own, "--json").stdout)
    assert [cell["undetected"] for cell in again["cells"]] == [cell.undetected for cell in found.cells]
    refused = call("evaluate", out, data, "--suite", "quick", "--out", tmp_path / "f", *own)
    assert refused.exit_code == 2
    assert "--suite" in refused.stderr
    inbox = tmp_path / "in"
    inbox.mkdir()
    for i in range(3):
        Image.fromarray(test.images[i, 0].numpy()).save(inbox / f"{i}.png")
    screened = call("screen", out, inbox, "--masks", tmp_path / "masks", "--format", "jsonl", *own)
    records = [json.loads(line) for line in screened.stdout.splitlines()]
    assert {record["file"] for record in records} == {str(path) for path in inbox.iterdir()}
    for record in records:
        assert (record["mask_file"] is not None) == (record["status"] == "accepted")
    shown = call("screen", out, inbox, *own)
    assert "Mask" in shown.stdout
    assert "Diagnosis" not in shown.stdout
    assert call("verify", out, *own).exit_code == 0
