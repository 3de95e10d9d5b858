"""Training: it learns, it repeats, a kill changes nothing, and every figure agrees with an independent one."""

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from tests.models.drawn import CONFIG, squares
from tests.models.tiny_networks import Tiny
from torch import nn

from medaegis.draws import Draws
from medaegis.errors import ArtefactError, ConfigError, DataError
from medaegis.images.splits import Split
from medaegis.models import hardware, training
from medaegis.models.augment import augment
from medaegis.models.checkpoint import load_checkpoint, save_checkpoint
from medaegis.models.hardware import pick_device
from medaegis.models.learning import TrainConfig, learning_rate
from medaegis.models.metrics import calibration_error, classification_metrics
from medaegis.models.segmentation_networks import create_network
from medaegis.models.store import read_training
from medaegis.models.training import train_classifier
from medaegis.progress import GOES_ON

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """One run to its end: (folder, what it told)."""
    out, told = tmp_path_factory.mktemp("training") / "classifier", []
    train_classifier(*squares(), CONFIG, out, progress=lambda *report: told.append(report))
    return out, told


class Stop(Exception):
    pass


def stop_at(step):
    """A listener that ends a run from within."""

    def listen(done, total, message):
        if done == step:
            raise Stop

    return listen


def start(out, *, pause):
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'src'}", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, str(ROOT / "tests/models/drawn.py"), str(out), str(pause)],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
        cwd=ROOT,
    )


def test_weights_from_elsewhere_must_say_what_pixels_they_expect(tmp_path):
    save_file(Tiny(2).state_dict(), tmp_path / "w.safetensors")
    told = {"backbone": "tests.models.tiny_networks:tiny", "weights": tmp_path / "w.safetensors", "taps": ("relu",)}
    config = CONFIG.model_copy(update={**told, "epochs": 1})
    with pytest.raises(ConfigError, match="say it: --normalise"):
        train_classifier(*squares(), config, tmp_path / "c")
    said = config.model_copy(update={"normalise": "0.5/0.25"})
    made = train_classifier(*squares(), said, tmp_path / "c")
    assert set(made.mean.flatten().tolist()) == {0.5}
    assert read_training(tmp_path / "c")["config"]["normalise"] == "0.5/0.25"


class TestRun:
    def test_killed_and_stopped_it_ends_with_the_same_weights(self, uninterrupted, tmp_path, monkeypatch):
        whole, told = uninterrupted
        steps = len(told)
        assert [done for done, _, _ in told] == list(range(1, steps + 1))
        out, again = tmp_path / "classifier", []
        process = start(out, pause=0.05)
        for line in process.stdout:
            if int(line.split()[0]) >= steps // 3:  # within an epoch
                os.kill(process.pid, signal.SIGKILL)
                break
        assert process.wait() == -signal.SIGKILL
        process.stdout.close()
        monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0.0)
        with pytest.raises(Stop):
            train_classifier(*squares(), CONFIG, out, progress=stop_at(steps // 2 + 1))
        assert not out.exists()
        train_classifier(*squares(), CONFIG, out, progress=lambda *report: again.append(report))
        first, *again = again
        assert first == (steps // 2 + 1, steps, GOES_ON)
        assert len(again) == steps - (steps // 2 + 1)
        # What is told of the steps after the stops is what was told without them.
        assert again == told[-len(again) :]
        expected, found = load_file(whole / "network.safetensors"), load_file(out / "network.safetensors")
        assert all(torch.equal(value, found[key]) for key, value in expected.items())
        assert read_training(out)["metrics"] == read_training(whole)["metrics"]
        assert not (tmp_path / "classifier.training").exists()

    def test_it_learns_and_says_how_well(self, uninterrupted):
        told = read_training(uninterrupted[0])
        losses = [entry["loss"] for entry in told["history"]]
        assert losses[-1] < 0.7 * losses[0]
        assert told["metrics"]["adv_test"]["auroc"] > 0.9
        dataset, split = squares()
        assert told["metrics"]["adv_test"]["n"] == len(split.adv_test)
        assert Split.load(uninterrupted[0] / "split.json", dataset) == split

    def test_it_tells_no_path_of_the_data(self, tmp_path):
        dataset, split = squares()
        here = replace(dataset, spec="folder:/home/me/scans?patient=folder")
        config = CONFIG.model_copy(update={"epochs": 1})
        train_classifier(here, split, config, tmp_path / "c")
        assert read_training(tmp_path / "c")["data"]["spec"] == "folder:PATH?patient=folder"

    def test_started_again_it_loads_and_does_not_train(self, uninterrupted):
        dataset, split = squares()
        classifier = train_classifier(
            dataset, split, CONFIG, uninterrupted[0], progress=lambda *_: pytest.fail("it trains")
        )
        assert classifier.taps == ("relu",)
        assert classifier.channels == "gray"
        assert not classifier.training

    @pytest.mark.parametrize("differing", ["options", "pixels"])
    def test_another_run_is_not_overwritten(self, uninterrupted, tmp_path, monkeypatch, differing):
        """Other options, or the same cases with other pixels."""
        dataset, split = squares()
        other = (dataset, split, CONFIG.model_copy(update={"seed": 1}))
        if differing == "pixels":
            other = (replace(dataset, images=255 - dataset.images), split, CONFIG)
        with pytest.raises(ConfigError, match="holds another classifier"):
            train_classifier(*other, uninterrupted[0])
        monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0.0)
        with pytest.raises(Stop):
            train_classifier(dataset, split, CONFIG, tmp_path / "c", progress=stop_at(2))
        with pytest.raises(ConfigError, match="checkpoint of another run"):
            train_classifier(*other, tmp_path / "c")

    def test_a_place_that_cannot_be_written_is_refused_before_training(self, tmp_path):
        (tmp_path / "file").write_text("mine")
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine" / "thesis.txt").write_text("ten years")
        before = sorted(tmp_path.rglob("*"))
        for name, problem in (("file", "is a file"), ("file/c", "is a file"), ("mine", "not a classifier folder")):
            with pytest.raises(ArtefactError, match=problem):
                train_classifier(*squares(), CONFIG, tmp_path / name, progress=lambda *_: pytest.fail("trained"))
        assert sorted(tmp_path.rglob("*")) == before

    def test_the_global_generator_is_left_alone(self, tmp_path):
        torch.manual_seed(4)
        np.random.seed(4)  # noqa: NPY002
        expected = torch.rand(2), np.random.random()  # noqa: NPY002
        torch.manual_seed(4)
        np.random.seed(4)  # noqa: NPY002
        (tmp_path / "c").mkdir()  # an empty folder is as good as none
        train_classifier(*squares(), CONFIG.model_copy(update={"epochs": 1}), tmp_path / "c")
        assert torch.equal(torch.rand(2), expected[0])
        assert np.random.random() == expected[1]  # noqa: NPY002

    def test_unlike_classes_weigh_alike(self):
        dataset, split = squares()
        bright = [i for i in split.train if dataset.labels[i] == 1]
        thin = Split(**{**split.__dict__, "train": tuple(i for i in split.train if i not in bright[4:])})
        run = training._Run(dataset, thin, CONFIG)
        counts = torch.bincount(dataset.labels[torch.tensor(thin.train)])
        weighted = run.class_weights * counts
        assert weighted[0] == pytest.approx(weighted[1].item())

    def test_a_loss_that_is_not_finite_stops(self, tmp_path):
        with pytest.raises(ConfigError, match="lower lr"):
            train_classifier(*squares(), CONFIG.model_copy(update={"lr": 1e38}), tmp_path / "c")

    def test_a_train_part_without_a_class_and_a_foreign_split_are_refused(self, tmp_path):
        dataset, split = squares()
        one = tuple(i for i in split.train if dataset.labels[i] == 0)
        with pytest.raises(DataError, match="bright 0"):
            train_classifier(dataset, Split(**{**split.__dict__, "train": one}), CONFIG, tmp_path / "c")
        with pytest.raises(DataError, match="other images"):
            train_classifier(dataset.subset(range(40)), split, CONFIG, tmp_path / "c")

    def test_unknown_device(self):
        with pytest.raises(ConfigError, match="abacus"):
            pick_device("abacus")

    def test_pretrained_weights_are_part_of_the_run(self, tmp_path):
        dataset, split = squares()
        key = training._Run(dataset, split, CONFIG).key
        save_file(drawn_weights(0), tmp_path / "w.safetensors")
        with_weights = CONFIG.model_copy(update={"weights": tmp_path / "w.safetensors", "normalise": "none"})
        first = training._Run(dataset, split, with_weights)
        assert torch.equal(first.classifier.network.fc.bias, drawn_weights(0)["fc.bias"])
        save_file(drawn_weights(1), tmp_path / "w.safetensors")
        assert len({key, first.key, training._Run(dataset, split, with_weights).key}) == 3


def drawn_weights(seed):
    from tests.models.tiny_networks import Tiny

    network = Tiny(2)
    nn.init.constant_(network.fc.bias, seed + 0.5)
    return network.state_dict()


def test_learning_rate_is_one_cycle():
    rates = [learning_rate(step, 100, 1.0) for step in range(100)]
    assert rates[0] == pytest.approx(1 / 25)
    assert max(rates) == rates[20] == pytest.approx(1.0)
    assert rates[:21] == sorted(rates[:21])
    assert rates[20:] == sorted(rates[20:], reverse=True)
    assert 0 < rates[-1] < 2e-3
    assert learning_rate(0, 1, 1.0) > 0


class TestAugmentation:
    x = torch.rand(6, 1, 20, 20, generator=torch.Generator().manual_seed(0))

    def test_the_middle_of_every_range_is_the_image_or_its_mirror(self):
        u = torch.full((6, 7), 0.5)
        torch.testing.assert_close(augment(self.x, u), self.x.flip(3), atol=1e-5, rtol=0)
        u[:, 0] = 0.0
        torch.testing.assert_close(augment(self.x, u), self.x, atol=1e-5, rtol=0)

    def test_a_shift_shifts(self):
        u = torch.full((6, 7), 0.5)
        u[:, 0] = 0
        u[:, 3] = 0.5 + (1 / 20) / 0.06 / 2  # one of 20 pixels
        torch.testing.assert_close(augment(self.x, u)[..., :-1], self.x[..., 1:], atol=1e-4, rtol=0)

    def test_stays_an_image(self):
        y = augment(self.x, Draws(0, torch.arange(6), "augment").uniform(7))
        assert y.shape == self.x.shape
        assert y.min() >= 0
        assert y.max() <= 1
        assert (y - self.x).abs().mean() > 0.05

    def test_each_image_by_itself(self):
        u = Draws(0, torch.arange(6), "augment").uniform(7)
        torch.testing.assert_close(augment(self.x, u)[2:3], augment(self.x[2:3], u[2:3]))


class TestMetrics:
    def test_binary_figures_against_scikit_learn(self):
        from sklearn.metrics import accuracy_score, recall_score, roc_auc_score

        generator = torch.Generator().manual_seed(0)
        labels = torch.randint(0, 2, (200,), generator=generator)
        logits = torch.randn(200, 2, generator=generator)
        logits[:, 1] += labels
        found = classification_metrics(logits, labels, ("ill", "well"))
        score, predicted = (logits[:, 1] - logits[:, 0]).numpy(), logits.argmax(1)
        assert found["auroc"] == pytest.approx(roc_auc_score(labels, score))
        assert found["accuracy"] == pytest.approx(accuracy_score(labels, predicted))
        assert found["sensitivity"] == pytest.approx(recall_score(labels, predicted))
        assert found["specificity"] == pytest.approx(recall_score(labels, predicted, pos_label=0))

    def test_many_classes_against_scikit_learn(self):
        from sklearn.metrics import recall_score, roc_auc_score

        generator = torch.Generator().manual_seed(1)
        labels = torch.randint(0, 4, (200,), generator=generator)
        logits = torch.randn(200, 4, generator=generator) + nn.functional.one_hot(labels, 4)
        found = classification_metrics(logits, labels, tuple("abcd"))
        probabilities = logits.double().softmax(1).numpy()
        assert found["auroc"] == pytest.approx(roc_auc_score(labels, probabilities, multi_class="ovr"))
        assert list(found["recall"].values()) == pytest.approx(recall_score(labels, logits.argmax(1), average=None))
        assert "sensitivity" not in found

    def test_saturated_probabilities_keep_their_order(self):
        logits = torch.tensor([[0.0, 60.0], [0.0, 80.0], [0.0, 100.0], [0.0, 120.0]])
        assert classification_metrics(logits, torch.tensor([0, 0, 1, 1]), ("a", "b"))["auroc"] == 1.0

    def test_an_absent_class_is_none_and_no_number(self):
        found = classification_metrics(torch.eye(3)[:2], torch.tensor([0, 1]), ("a", "b", "c"))
        assert found["auroc"] is None
        assert found["recall"] == {"a": 1.0, "b": 1.0, "c": None}

    def test_calibration(self):
        sure = np.tile([[0.9, 0.1]], (10, 1))
        assert calibration_error(sure, np.array([0] * 9 + [1])) == pytest.approx(0)
        assert calibration_error(sure, np.array([0] * 5 + [1] * 5)) == pytest.approx(0.4)
        # Half sure and right, half unsure and wrong: the bins do not make up for each other.
        mixed = np.array([[0.6, 0.4]] * 5 + [[0.9, 0.1]] * 5)
        assert calibration_error(mixed, np.array([0] * 5 + [1] * 5)) == pytest.approx((0.4 + 0.9) / 2)

    @pytest.mark.parametrize("classes", [2, 3, 5])
    @pytest.mark.parametrize("n", [1, 7, 60])
    def test_calibration_agrees_with_its_definition(self, classes, n):
        draw = np.random.default_rng(classes * n)
        probabilities, labels = draw.dirichlet(np.ones(classes), size=n), draw.integers(0, classes, size=n)
        expected = 0.0
        for k in range(15):
            members = [i for i in range(n) if k / 15 <= probabilities[i].max() < (k + 1) / 15]
            if members:
                right = np.mean([probabilities[i].argmax() == labels[i] for i in members])
                expected += len(members) / n * abs(right - np.mean([probabilities[i].max() for i in members]))
        assert calibration_error(probabilities, labels) == pytest.approx(expected, abs=1e-9)


class TestCheckpoint:
    def test_round_trip_and_one_at_a_time(self, tmp_path):
        assert load_checkpoint(tmp_path / "c") is None
        for serial in (1, 2):
            save_checkpoint(tmp_path / "c", {"a": torch.full((2,), serial)}, {"step": serial}, serial=serial)
        tensors, document = load_checkpoint(tmp_path / "c")
        assert tensors["a"].tolist() == [2, 2]
        assert document == {"step": 2}
        assert len(list((tmp_path / "c").iterdir())) == 2

    @pytest.mark.parametrize("call", range(1, 12))
    def test_a_kill_between_any_two_steps_leaves_the_old_or_the_new(self, tmp_path, monkeypatch, call):
        folder, calls = tmp_path / "c", [0]
        save_checkpoint(folder, {"a": torch.zeros(3)}, {"step": 0}, serial=0)

        class Killed(BaseException):
            pass

        def counted(function):
            def wrapper(*args, **kwargs):
                calls[0] += 1
                if calls[0] == call:
                    raise Killed
                return function(*args, **kwargs)

            return wrapper

        with monkeypatch.context() as patch:
            for name in ("replace", "write_text", "unlink", "mkdir"):
                patch.setattr(Path, name, counted(getattr(Path, name)))
            patch.setattr(os, "fsync", counted(os.fsync))
            try:
                save_checkpoint(folder, {"a": torch.ones(3)}, {"step": 1}, serial=1)
                killed = False
            except Killed:
                killed = True
        assert killed == (call <= calls[0] and calls[0] == call)
        tensors, document = load_checkpoint(folder)
        assert tensors["a"].tolist() == [document["step"]] * 3
        save_checkpoint(folder, {"a": torch.full((3,), 2.0)}, {"step": 2}, serial=2)
        assert load_checkpoint(folder)[1] == {"step": 2}
        assert len(list(folder.iterdir())) == 2

    @pytest.mark.parametrize("damage", [b"", b"{}", b'{"tensors": "../x", "document": {}}', b"\xff"])
    def test_damage_is_said(self, tmp_path, damage):
        save_checkpoint(tmp_path, {"a": torch.zeros(1)}, {}, serial=0)
        (tmp_path / "checkpoint.json").write_bytes(damage)
        with pytest.raises(ArtefactError, match="damaged checkpoint"):
            load_checkpoint(tmp_path)

    def test_a_cut_tensor_file_is_said(self, tmp_path):
        save_checkpoint(tmp_path, {"a": torch.zeros(100)}, {}, serial=0)
        file = tmp_path / "tensors-0.safetensors"
        file.write_bytes(file.read_bytes()[:50])
        with pytest.raises(ArtefactError, match="damaged checkpoint"):
            load_checkpoint(tmp_path)


def test_weights_that_are_no_numbers_are_refused_not_saved(tmp_path):
    config = CONFIG.model_copy(update={"backbone": "tests.models.tiny_networks:loses_itself", "batch_size": 80})
    with pytest.raises(ConfigError, match="weights of epoch 1 are infinite or no number"):
        train_classifier(*squares(), config, tmp_path / "classifier")
    assert not (tmp_path / "classifier").exists()


@pytest.mark.parametrize(("size", "dtype"), [(16, torch.float32), (32, torch.bfloat16)])
def test_strided_convolutions_of_maps_one_pixel_wide_learn_in_float32(size, dtype, tmp_path, monkeypatch):
    monkeypatch.setattr(hardware, "has_fast_bfloat16", lambda device: True)
    seen = set()

    def look(module, inputs, output):
        if isinstance(module, nn.Conv2d) and module.training:
            seen.add(output.dtype)

    with nn.modules.module.register_module_forward_hook(look):
        config = TrainConfig(backbone="resnet18", epochs=1, batch_size=40)
        train_classifier(*squares(size=size), config, tmp_path / "classifier")
    assert seen == {dtype}


@pytest.mark.skipif(not hardware.has_fast_bfloat16(torch.device("cpu")), reason="no fast bfloat16 here")
def test_gradients_of_weights_are_those_of_float32_where_bfloat16_is_taken():
    network = create_network("resnet18", "single", 2, weights=None, seed=0).train()
    taken = []
    for height, width in ((16, 16), (32, 32), (64, 16), (48, 48), (16, 64)):
        x = torch.randn(8, 3, height, width, generator=torch.Generator().manual_seed(0))
        if not hardware.learns_in_bfloat16(network, x[:1]):
            continue
        taken.append(width)
        gradients = []
        for reduced in (False, True):
            network.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=reduced):
                network(x).float().square().sum().backward()
            gradients.append(network.layer4[0].conv1.weight.grad.clone())
        assert F.cosine_similarity(*(gradient.flatten() for gradient in gradients), dim=0) > 0.9
    assert taken == [32, 48, 64]


def test_a_loss_of_nothing_is_told(tmp_path):
    told = []
    options = {"backbone": "tests.models.tiny_networks:certain", "epochs": 1, "augmentation": False}
    config = CONFIG.model_copy(update=options)
    train_classifier(*squares(), config, tmp_path / "classifier", progress=lambda *report: told.append(report[2]))
    assert told[0] == "epoch 1/1, loss 0.000"


def test_wrong_options_are_refused():
    for wrong in ({"epochs": 0}, {"batch_size": 1}, {"lr": -1}, {"epoch": 3}, {"label_smoothing": 1}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            TrainConfig(**wrong)
