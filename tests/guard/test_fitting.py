"""Fitting: from a classifier to a guard folder, with thresholds from val alone and refusals before the work."""

import copy
import dataclasses
import math

import pytest
import torch
from tests.attacks.toys import toy_classifier
from tests.guard.fitted import CONFIG, learned_classifier
from tests.models.drawn import squares
from tests.models.tiny_networks import tiny

from medaegis.attacks.engine import Attack
from medaegis.attacks.losses.shield import ShieldLogit
from medaegis.attacks.objective import Goal
from medaegis.attacks.victim import Victim
from medaegis.cushions import parse_cushion
from medaegis.detectors.shield import Shield, ShieldBank
from medaegis.errors import ArtefactError, ConfigError, DataError
from medaegis.guard import fitting, shield_training
from medaegis.guard.calibration import calibrate
from medaegis.guard.fitting import fit_guard, refit_guard, robustness, shield_config, soundness
from medaegis.guard.guard import Guard
from medaegis.guard.looks import BETWEEN_LOOKS, shield_facts, unfinished
from medaegis.guard.shield_training import ShieldTraining
from medaegis.models.store import save_classifier

SHORT = CONFIG.model_copy(update={"updates": 4})


def fit(folder, *, dataset=None, split=None, classifier=None, **options):
    made, its_split = squares(240)
    return fit_guard(
        classifier or learned_classifier(),
        dataset or made,
        split or its_split,
        **{"cushion": parse_cushion("jpeg:80"), "config": SHORT, "out_dir": folder / "guard", **options},
    )


def test_a_guard_from_start_to_folder(tmp_path):
    told, state = [], torch.random.get_rng_state()
    guard = fit(tmp_path, about={"command": "medaegis fit"}, progress=lambda *what: told.append(what))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert [(done, total) for done, total, _ in told] == [(i, 8) for i in (0, 1, 2, 3, 4, 4, 5, 6, 7, 8)]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["guard"], "the work folder stays"
    again = Guard.load(tmp_path / "guard", factory=tiny)
    assert guard.digest == again.digest
    assert again.training["command"] == "medaegis fit"
    assert again.training["data"]["images"] == len({*squares(240)[1].train, *squares(240)[1].adv_train})
    dataset, split = squares(240)
    val, test = dataset.subset(split.val), dataset.subset(split.adv_test)
    accepted = again.judge(val.pixels())
    for k in range(2):
        mine = accepted.accepted[accepted.predicted == k]
        assert int(mine.sum()) == -(-9 * (len(mine) + 1) // 10), "the threshold on val is not the chosen one"
    reached = again.judge(test.pixels()).accepted.float().mean().item()
    assert again.calibration["tnr_reached"] == pytest.approx(reached)
    assert again.calibration["accuracy"] > 0.9
    assert fit(tmp_path).fingerprint() == guard.fingerprint(), "fitted again it is another guard"


def test_thresholds_come_from_val_alone(tmp_path):
    guard = fit(tmp_path)
    dataset, split = squares(240)
    scale = guard.bank.scale.clone()
    images = dataset.images.clone()
    images[list(split.adv_test)] = 0
    calibrate(guard, dataclasses.replace(dataset, images=images), split)
    assert torch.equal(guard.bank.scale, scale)
    images = dataset.images.clone()
    images[list(split.val)] ^= 7
    calibrate(guard, dataclasses.replace(dataset, images=images), split)
    assert not torch.equal(guard.bank.scale, scale)


def test_a_class_missing_from_the_test_part_is_left_out(tmp_path):
    dataset, split = squares(240)
    only = tuple(i for i in split.adv_test if dataset.labels[i] == 0)
    moved = tuple(sorted({*split.train, *split.adv_test} - {*only}))
    guard = fit(tmp_path, split=dataclasses.replace(split, adv_test=only, train=moved))
    assert list(guard.calibration["tnr_by_class"]) == ["dark"]


def test_what_cannot_be_calibrated_is_refused_before_training(tmp_path, monkeypatch):
    monkeypatch.setattr(ShieldTraining, "train", lambda *_: pytest.fail("trained"))
    dataset, split = squares(240)
    with pytest.raises(DataError, match="7 validation images in all, the thresholds need 10"):
        fit(tmp_path, split=dataclasses.replace(split, val=split.val[:7]))
    dark = tuple(i for i in split.val if dataset.labels[i] == 0)
    with pytest.raises(DataError, match="no validation image of class 'bright'"):
        fit(tmp_path, split=dataclasses.replace(split, val=dark))
    no_dark = {part: tuple(i for i in split.parts[part] if dataset.labels[i]) for part in ("train", "adv_train")}
    with pytest.raises(DataError, match="no training image of class 'dark'"):
        fit(tmp_path, split=dataclasses.replace(split, **no_dark))
    for part in ("val", "adv_test"):
        with pytest.raises(DataError, match="no val or no adv_test"):
            fit(tmp_path, split=dataclasses.replace(split, **{part: ()}))


def test_a_small_class_gets_a_pooled_threshold_and_the_record_says_so(tmp_path):
    dataset, split = squares(240)
    bright = [i for i in split.val if dataset.labels[i] == 1]
    few = dataclasses.replace(split, val=tuple(sorted({*split.val} - {*bright[3:]})))
    guard = fit(tmp_path, split=few)
    told = Guard.load(tmp_path / "guard", factory=tiny).calibration["thresholds"]
    predicted = guard.judge(dataset.pixels(few.val)).predicted
    assert {name: one["images"] for name, one in told.items()} == {
        "dark": int((predicted == 0).sum()),
        "bright": int((predicted == 1).sum()),
    }
    assert (told["dark"]["own"], told["bright"]["own"]) == (True, False)
    assert guard.bank.scale[0] == guard.bank.scale[1]


def test_a_class_that_is_never_predicted_does_not_stop_the_fit(tmp_path):
    constant = copy.deepcopy(learned_classifier())
    with torch.no_grad():
        constant.network.fc.bias.copy_(torch.tensor([1e4, 0.0]))
    guard = fit(tmp_path, classifier=constant)
    assert guard.calibration["thresholds"]["bright"] == {"images": 0, "own": False}
    assert guard.bank.centre.isfinite().all()
    assert guard.bank.scale[0] == guard.bank.scale[1]


def test_data_that_do_not_fit_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(ShieldTraining, "train", lambda *_: pytest.fail("trained"))
    dataset, _split = squares(240)
    with pytest.raises(DataError, match="the classifier knows dark, bright"):
        fit(tmp_path, dataset=dataclasses.replace(dataset, classes=("a", "b")))
    with pytest.raises(DataError, match="load it with 16 px gray"):
        fit(tmp_path, dataset=dataclasses.replace(dataset, images=dataset.images.repeat(1, 3, 1, 1)))
    with pytest.raises(DataError, match="split was made for another data set"):
        fit(tmp_path, split=squares(80)[1])


def test_what_could_not_be_written_in_the_end_is_refused_before_training(tmp_path, monkeypatch):
    monkeypatch.setattr(ShieldTraining, "train", lambda *_: pytest.fail("trained"))
    monkeypatch.setattr(fitting, "check_before_fitting", lambda *_: pytest.fail("judged"))
    save_classifier(toy_classifier(), tmp_path / "classifier")
    (tmp_path / "file").write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    for name, problem in (("classifier", "not a guard folder"), ("file", "is a file"), ("file/guard", "is a file")):
        with pytest.raises(ArtefactError, match=problem):
            fit(tmp_path, out_dir=tmp_path / name)
    with pytest.raises(ConfigError, match="medaegis keys"):
        fit(tmp_path, signing_key=tmp_path / "file")
    assert sorted(tmp_path.rglob("*")) == before


def test_other_settings_in_a_begun_folder_or_a_finished_one_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(shield_training, "CHECKPOINT_SECONDS", 0.0)
    other = SHORT.model_copy(update={"lr": 0.1})

    class Killed(Exception):
        pass

    def killed(done, total, message):
        if done == 2:
            raise Killed

    with pytest.raises(Killed):
        fit(tmp_path, progress=killed)
    with pytest.raises(ConfigError, match=r"holds a training with other settings.*delete it"):
        fit(tmp_path, config=other)
    whole = fit(tmp_path)
    with pytest.raises(ConfigError, match=r"holds a guard made with other settings.*delete it"):
        fit(tmp_path, config=other)
    monkeypatch.setattr(ShieldTraining, "train", lambda *_: pytest.fail("trained again"))
    (tmp_path / "guard.fitting" / "shield-0").mkdir(parents=True)  # killed after the guard was written
    assert fit(tmp_path, tnr=0.8).fingerprint() != whole.fingerprint(), "the thresholds are set anew"
    assert fit(tmp_path).fingerprint() == whole.fingerprint()
    assert not (tmp_path / "guard.fitting").exists()


def test_a_guard_tells_of_a_training_that_ended_itself(tmp_path, monkeypatch):
    """From the looks of the training to the manifest as it is read back."""
    monkeypatch.setattr(shield_training, "CHECKPOINT_SECONDS", 0.0)
    areas = iter([0.0, 0.5, 0.0, 0.0, 0.0, 0.0])  # at 64/256: the first Shield turns unsound at its second look

    def look(*_args, **_options):
        def at(shield):
            area = next(areas)
            return {"auroc_4": 0.9, "auroc_8": 0.8, "auroc_16": 0.7, "auroc_64": area, "passing_64": 1 - area}

        return at

    monkeypatch.setattr(fitting, "robustness", look)
    told = []
    config = SHORT.model_copy(update={"watch_every": 1, "selected": True})
    fit(tmp_path, config=config, progress=lambda done, total, message: told.append(message))
    training = Guard.load(tmp_path / "guard", factory=tiny).training
    assert unfinished(training) == [
        "dark: its training ended itself at update 2 of 4, gradients mask, kept is the one of update 1"
    ]
    facts = shield_facts(training)
    assert (facts["dark"].last, facts["dark"].kept, facts["bright"].last, facts["bright"].kept) == (2, 1, 4, 4)
    assert any("AUROC 0.90 / 0.80 / 0.70 / 0.00 under attack at 4 / 8 / 16 / 64 of 256 at update 1" in m for m in told)


def exchanged(split):
    """A split of the same images by the same seed, as other shares of the parts would give it."""
    return dataclasses.replace(split, adv_train=split.adv_test, adv_test=split.adv_train)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A guard whose Shields read pixels alone."""
    return fit(tmp_path_factory.mktemp("source"), config=SHORT.model_copy(update={"taps": ("input",)}))


class TestShieldsOfAnotherGuard:
    def refit(self, source, folder, **options):
        dataset, split = squares(240)
        given = {"classifier": learned_classifier(), "dataset": dataset, "split": split, **options}
        return refit_guard(source, **{"cushion": parse_cushion("none"), "out_dir": folder / "other", **given})

    def test_they_are_the_same_with_thresholds_of_their_own(self, source, tmp_path):
        before = source.bank.scale.clone()
        guard = self.refit(source, tmp_path, tnr=0.7)
        shields = guard.bank.shields.state_dict()
        assert all(torch.equal(value, shields[name]) for name, value in source.bank.shields.state_dict().items())
        assert torch.equal(source.bank.scale, before), "the other guard's thresholds changed"
        dataset, split = squares(240)
        accepted = guard.judge(dataset.pixels(split.val))
        for k in range(2):
            mine = accepted.accepted[accepted.predicted == k]
            assert int(mine.sum()) == -(-7 * (len(mine) + 1) // 10)
        again = Guard.load(tmp_path / "other", factory=tiny)
        assert (again.cushion.spec, again.tnr) == ("none", 0.7)
        assert again.training["shields_of"] == source.digest
        assert again.training["shields"] == source.training["shields"]

    def test_another_classifier_may_take_those_that_read_pixels_alone(self, source, tmp_path):
        other = copy.deepcopy(learned_classifier())
        with torch.no_grad():
            next(other.network.parameters()).mul_(1.01)
        self.refit(source, tmp_path, classifier=other)
        deep = fit(tmp_path)
        with pytest.raises(ConfigError, match="features of another classifier"):
            self.refit(deep, tmp_path / "b", classifier=other)
        self.refit(deep, tmp_path / "c")

    def test_the_same_data_may_be_spelt_otherwise_and_no_path_is_told(self, tmp_path):
        dataset, _ = squares(240)
        here = dataclasses.replace(dataset, spec="folder:/home/me/scans?patient=folder")
        source = fit(tmp_path, dataset=here, config=SHORT.model_copy(update={"taps": ("input",)}))
        there = dataclasses.replace(dataset, spec="folder:/mnt/disk/scans?patient=folder")
        guard = self.refit(source, tmp_path, dataset=there)
        assert guard.training["data"]["spec"] == "folder:PATH?patient=folder"
        for folder in ("guard", "other"):
            told = (tmp_path / folder / "manifest.json").read_text()
            assert "folder:PATH?patient=folder" in told
            assert "/home/me" not in told

    def test_what_does_not_fit_is_refused(self, source, tmp_path, monkeypatch):
        with pytest.raises(ConfigError, match="made for"):
            self.refit(source, tmp_path, classifier=toy_classifier(3))
        with pytest.raises(DataError, match="other images or another split"):
            self.refit(source, tmp_path, split=dataclasses.replace(squares(240)[1], seed=5))
        fewer, its_split = squares(200)
        with pytest.raises(DataError, match="other images or another split"):
            self.refit(source, tmp_path, dataset=fewer, split=its_split)
        with pytest.raises(DataError, match="other images or another split"):
            self.refit(source, tmp_path, split=exchanged(squares(240)[1]))
        (tmp_path / "other").mkdir()
        (tmp_path / "other" / "notes.txt").write_text("mine")
        with monkeypatch.context() as patch:
            patch.setattr(fitting, "calibrate", lambda *_: pytest.fail("judged"))
            with pytest.raises(ArtefactError, match="not an empty folder"):
                self.refit(source, tmp_path)


def test_recipes():
    classifier = learned_classifier()
    paper = shield_config("paper", classifier, updates=50, seed=3)
    every = {updates: shield_config("paper", classifier, updates=updates).watch_every for updates in (3, 50, 1600)}
    assert every == {3: 0, 50: BETWEEN_LOOKS, 1600: 200}
    assert (paper.taps, paper.updates, paper.seed, paper.lifetime) == (("relu", "last"), 50, 3, 1)
    assert paper.average == 0, "the paper keeps the last weights; over few updates a slow average is that of weak ones"
    strong = shield_config("strong", classifier, updates=50)
    assert strong.taps == ("input",)
    assert (strong.selected, paper.selected) == (True, False), "the paper keeps what training ends with"
    assert (paper.eps_start, paper.eps_end, paper.eps_growth) == (1 / 256, 16 / 256, 1.0)
    smooth = shield_config("smooth", classifier, updates=50)
    assert (smooth.eps_end, smooth.genuine_noise_eps) == (8 / 256, 16 / 256)
    assert set(strong.model_dump().items()) ^ set(smooth.model_dump().items()) == {
        (name, getattr(config, name))
        for config in (strong, smooth)
        for name in ("eps_end", "genuine_noise", "genuine_noise_eps", "genuine_perturbed")
    }
    with pytest.raises(ConfigError, match="choose from paper, strong, smooth"):
        shield_config("best", classifier, updates=1)
    with pytest.raises(ConfigError, match="no taps"):
        shield_config("paper", toy_classifier(taps=()), updates=1)


def test_a_shield_that_stands_where_none_can_is_not_sound():
    assert soundness({"auroc_4": 0.9, "auroc_16": 0.8, "auroc_64": 0.01, "passing_64": 0.97}) == 0.8
    assert soundness({"auroc_4": 1.0, "auroc_16": 1.0, "auroc_64": 0.9, "passing_64": 0.0}) is None
    # Some images of the class are so extreme that no attacked one ranks above them; all the same all pass.
    assert soundness({"auroc_4": 0.9, "auroc_16": 0.7, "auroc_64": 0.06, "passing_64": 0.95}) == 0.7
    # One in eight is withheld even at 64/256, though the others rank above every genuine image.
    assert soundness({"auroc_4": 0.9, "auroc_16": 0.7, "auroc_64": 0.01, "passing_64": 0.87}) is None


@torch.no_grad()
def _margins(classifier, dataset):
    logits = classifier(dataset.pixels())
    return logits[:, 1] - logits[:, 0], dataset.labels


@pytest.mark.parametrize("cushion", ["none", "random:jpeg:60-95"])
def test_a_look_attacks_as_an_attack_does(cushion):
    """Without its verdicts: image for image, whatever the batches."""
    classifier, (dataset, _) = learned_classifier(), squares(240)
    shield = Shield(classifier.tap_shapes(("input",)), width=4, hidden=8)
    victim = Victim(classifier, cushion=parse_cushion(cushion), shields=ShieldBank([shield] * 2))
    rows = (dataset.labels == 0).nonzero().squeeze(1)[:40]
    images, labels, ids = dataset.pixels(rows), dataset.labels[rows], dataset.ids[rows]
    attack = Attack(objective=ShieldLogit(), random_start=True, steps=3)
    found = attack.run(victim, images, labels, eps=8 / 256, targets=1 - labels, ids=ids)
    assert torch.equal(fitting._attacked(attack, victim, images, Goal(labels, 1 - labels), 8 / 256, ids), found.images)


def test_the_look_at_robustness_is_an_auroc(monkeypatch):
    """A Shield that tells the two kinds of squares apart at eps 0 only, and one that says the same of everything."""
    monkeypatch.setattr(fitting, "WATCHED_EPS", (0, 64))
    monkeypatch.setattr(fitting, "WATCHED_IMAGES", 8)
    dataset, split = squares(240)
    classifier = learned_classifier()
    look = robustness(classifier, parse_cushion("none"), dataset.subset(split.val), 1)

    class Margin(torch.nn.Module):
        taps = ("last",)

        def __init__(self, gain):
            super().__init__()
            self.fc, self.gain = classifier.network.fc, gain

        def forward(self, features):
            logits = self.fc(features["last"].float().mean((2, 3)))
            return self.gain * (logits[:, 1] - logits[:, 0])

    seen = look(Margin(1.0))
    assert seen["auroc_0"] > 0.95
    assert seen["auroc_64"] < seen["auroc_0"] == seen["auroc_clean"]
    assert seen["passing_64"] > seen["passing_0"]
    logits, labels = _margins(classifier, dataset.subset(split.val))
    genuine, foreign = logits[labels == 1][:24].sort().values, logits[labels == 0][:8]
    lowest = genuine[len(genuine) - math.ceil(0.9 * len(genuine))]
    assert seen["passing_0"] == float((foreign >= lowest).double().mean())
    same = {"auroc_clean": 0.5, "auroc_0": 0.5, "passing_0": 1.0, "auroc_64": 0.5, "passing_64": 1.0}
    assert look(Margin(0.0)) == same
    with pytest.raises(DataError, match="no validation image"):
        robustness(classifier, parse_cushion("none"), dataset.subset(dataset.labels == 0), 1)
