"""Adversarial training: what is attacked, how far, that it repeats, and that the classifier holds better for it."""

import copy

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file
from tests.attacks.toys import seeded, toy_classifier, toy_images
from tests.models.drawn import CONFIG, squares
from torch import nn

from medaegis.attacks.catalogue import find_attack
from medaegis.attacks.hardening import Hardening
from medaegis.attacks.victim import Victim
from medaegis.errors import ConfigError
from medaegis.models import training
from medaegis.models.classifier import Classifier
from medaegis.models.normalisation import IMAGENET_MEAN, IMAGENET_STD
from medaegis.models.store import read_training
from medaegis.models.training import train_classifier

HARD = Hardening(eps=12 / 256)


@pytest.fixture
def batch():
    classifier = toy_classifier(3).train()
    images = toy_images(7, classifier)
    return classifier, images, torch.tensor([0, 1, 2, 0, 1, 2, 0]), torch.arange(7) * 5


@pytest.mark.parametrize(("share", "attacked"), [(0.5, 4), (0.2, 1), (1.0, 7)])
def test_the_last_ones_are_attacked_and_the_others_left(batch, share, attacked):
    classifier, images, labels, ids = batch
    hard = HARD.model_copy(update={"share": share})
    found = hard(classifier, images, labels, ids, done=1.0, seed=3)
    changed = (found != images).flatten(1).any(1)
    assert changed.tolist() == [False] * (7 - attacked) + [True] * attacked
    assert float((found - images).abs().max()) <= 12 / 256 + 1e-7
    assert float(found.min()) >= 0
    assert float(found.max()) <= 1


def test_without_steps_it_is_noise(batch):
    """Uniform in the radius, the same whatever the network is; no pass through it."""
    classifier, images, labels, ids = batch
    images = torch.full_like(images, 0.5)
    noise = Hardening(eps=12 / 256, steps=0, share=1.0, growth=0.0)
    classifier.register_forward_pre_hook(lambda *_: pytest.fail("the network is asked"))
    change = (noise(classifier, images, labels, ids, done=0.0, seed=3) - images) / (12 / 256)
    assert float(change.abs().max()) <= 1
    assert abs(float(change.mean())) < 4 / (3 * change.numel()) ** 0.5  # of deviation 1 / sqrt(3)
    assert float(change.var()) == pytest.approx(1 / 3, rel=0.1)


def test_the_classifier_stays_as_it_was(batch):
    classifier, images, labels, ids = batch
    before = copy.deepcopy(classifier.state_dict())
    HARD(classifier, images, labels, ids, done=1.0, seed=3)
    assert all(torch.equal(value, before[name]) for name, value in classifier.state_dict().items())
    assert classifier.training
    assert all(p.requires_grad and p.grad is None for p in classifier.parameters())


class Linear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3 * 8 * 8, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(x.flatten(1))


def test_against_a_linear_network_it_is_the_best_there_is():
    """Two steps of eps from anywhere in the ball end in the corner that the weights point at (Goodfellow 2015)."""
    with seeded(0):
        network = Linear()
    classifier = Classifier(
        network,
        classes=("a", "b"),
        size=8,
        channels="rgb",
        taps=("fc",),
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        backbone="x:y",
    )
    images = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    labels = torch.tensor([0, 1, 0, 1, 0, 1])
    found = HARD.model_copy(update={"share": 1.0})(classifier, images, labels, torch.arange(6), done=1.0, seed=3)
    away = (network.fc.weight[1] - network.fc.weight[0]).detach().view(1, 3, 8, 8) / classifier.std
    sides = torch.where(labels == 0, 1.0, -1.0).view(-1, 1, 1, 1)
    best = (images + HARD.eps * (away * sides).sign()).clamp(0, 1)
    clear = away.abs() > 0.05 * away.abs().max()  # bfloat16 may lose the sign of the smallest weights
    assert float(clear.float().mean()) > 0.9
    assert torch.allclose(torch.where(clear, found, best), best, atol=1e-6)


def test_it_repeats_and_no_image_depends_on_its_place(batch):
    classifier, images, labels, ids = batch
    hard = HARD.model_copy(update={"share": 1.0})
    found = hard(classifier, images, labels, ids, done=1.0, seed=3)
    assert torch.equal(found, hard(classifier, images, labels, ids, done=1.0, seed=3))
    assert not torch.equal(found, hard(classifier, images, labels, ids, done=1.0, seed=4))
    order = torch.tensor([4, 2, 6, 0, 1, 5, 3])
    again = hard(classifier, images[order], labels[order], ids[order], done=1.0, seed=3)
    same = (again - found[order]).abs().flatten(1).amax(1) < 1e-6
    assert int(same.sum()) >= 6, "but for a sign of a gradient that rounds to zero, images do not see their neighbours"


def test_the_radius_grows_to_eps():
    assert [HARD.radius(done) * 256 for done in (0.0, 0.25, 0.5, 1.0)] == pytest.approx([0, 6, 12, 12])
    assert HARD.model_copy(update={"growth": 0.0}).radius(0.0) == HARD.eps


def test_a_hardened_classifier_holds_where_the_plain_one_falls(tmp_path):
    dataset, split = squares(160)
    config = CONFIG.model_copy(update={"epochs": 20})
    test = dataset.subset([*split.val, *split.adv_test])
    held = {}
    for name, adversary in (("plain", None), ("hard", Hardening(eps=32 / 256))):
        classifier = train_classifier(dataset, split, config, tmp_path / name, adversary=adversary)
        attack = find_attack("bim").attack.with_options(steps=20)
        found = attack.run(Victim(classifier), test.pixels(), test.labels, eps=32 / 256, targets=1 - test.labels)
        held[name] = float((found.verdict.predicted == test.labels).float().mean())
    assert held["hard"] >= held["plain"] + 0.3
    assert read_training(tmp_path / "hard")["adversary"] == {"eps": 32 / 256, "steps": 2, "share": 0.5, "growth": 0.5}
    assert read_training(tmp_path / "plain")["adversary"] is None


class Stop(Exception):
    pass


def test_stopped_it_goes_on_to_the_same_weights_and_never_as_another_run(tmp_path, monkeypatch):
    def stop(done, total, message):
        if done == 9:
            raise Stop

    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0.0)
    train_classifier(*squares(), CONFIG, tmp_path / "whole", adversary=HARD)
    with pytest.raises(Stop):
        train_classifier(*squares(), CONFIG, tmp_path / "cut", stop, adversary=HARD)
    with pytest.raises(ConfigError, match="checkpoint of another run"):
        train_classifier(*squares(), CONFIG, tmp_path / "cut")
    train_classifier(*squares(), CONFIG, tmp_path / "cut", adversary=HARD)
    whole, cut = (load_file(tmp_path / name / "network.safetensors") for name in ("whole", "cut"))
    assert all(torch.equal(value, cut[name]) for name, value in whole.items())


@pytest.mark.parametrize("wrong", [{"eps": 0.0}, {"eps": 1.5}, {"eps": 0.1, "steps": -1}, {"eps": 0.1, "share": 0.0}])
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(ValidationError):
        Hardening(**wrong)


def test_a_batch_too_small_for_its_share_is_left_alone():
    classifier = toy_classifier(2)
    images, labels = toy_images(3, classifier), torch.tensor([0, 1, 0])
    for share, n in ((0.1, 3), (0.5, 1)):
        found = Hardening(eps=8 / 256, share=share)(
            classifier, images[:n], labels[:n], torch.arange(n), done=1.0, seed=0
        )
        assert torch.equal(found, images[:n])
