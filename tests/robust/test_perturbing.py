"""How batches are changed before they are learned from: how far, which images, that it repeats, at what cost."""

import copy
import math

import pytest
import torch
from tests.attacks.toys import seeded, toy_classifier, toy_images
from torch import nn

from medaegis.cushions.noise import GridNoise
from medaegis.draws import Draws
from medaegis.models.classifier import Classifier
from medaegis.models.learning import Batch
from medaegis.models.normalisation import IMAGENET_MEAN, IMAGENET_STD
from medaegis.robust import Inner, Noise, Robust, parse_recipe

EPS = 12 / 256
HARD = Inner(eps=EPS, steps=2, step_size=EPS)


class Trainer:
    """Counts passes, for what is asked of a learner before any loss."""

    def __init__(self, classifier):
        self.classifier, self.passes = classifier, (0, 0)

    def spent(self, forwards, backwards):
        self.passes = (self.passes[0] + forwards, self.passes[1] + backwards)


@pytest.fixture
def classifier():
    return toy_classifier(3).train()


def batch_of(classifier, n=7, *, done=1.0, seed=3):
    return Batch(toy_images(n, classifier), torch.arange(n) % 3, torch.arange(n) * 5, done, seed)


@pytest.mark.parametrize(("share", "attacked"), [(0.5, 4), (0.2, 1), (1.0, 7), (0.05, 0)])
def test_the_last_ones_are_attacked_and_the_others_left(classifier, share, attacked):
    learner, batch = Trainer(classifier), batch_of(classifier)
    found = Robust(inner=HARD, share=share).changed(learner, batch)
    changed = (found != batch.x).flatten(1).any(1)
    assert changed.tolist() == [False] * (7 - attacked) + [True] * attacked
    assert float((found - batch.x).abs().max()) <= EPS + 1e-7
    assert 0 <= float(found.min()) <= float(found.max()) <= 1
    assert learner.passes == (2 * attacked, 2 * attacked)


@pytest.mark.parametrize(("follows", "more"), [("answer", 0), ("divergence", 1)])
def test_the_passes_it_tells_are_those_of_the_network(classifier, follows, more):
    """Counted at the network, but for the trial passes of the copies that are made of it."""
    asked = {"forwards": 0, "backwards": 0}

    def forward(module, inputs, output):
        if len(output) == 7:
            asked["forwards"] += 7
            if output.requires_grad:
                output.register_hook(lambda grad: asked.__setitem__("backwards", asked["backwards"] + len(grad)))

    batch = batch_of(classifier)
    with nn.modules.module.register_module_forward_hook(
        lambda module, inputs, output: forward(module, inputs, output) if isinstance(module, nn.Linear) else None
    ):
        found = Inner(eps=EPS, steps=4, start="near", follows=follows)(classifier, batch)
    assert (found.forwards, found.backwards) == (asked["forwards"], asked["backwards"]) == (28 + 7 * more, 28)


def test_without_steps_it_is_noise(classifier):
    """Uniform in the radius, the same whatever the network is; no pass through it."""
    batch = batch_of(classifier)
    grey = Batch(torch.full_like(batch.x, 0.5), batch.labels, batch.ids, 0.0, 3)
    classifier.register_forward_pre_hook(lambda *_: pytest.fail("the network is asked"))
    change = (Inner(eps=EPS, steps=0)(classifier, grey).x - 0.5) / EPS
    assert float(change.abs().max()) <= 1
    assert abs(float(change.mean())) < 4 / (3 * change.numel()) ** 0.5  # of deviation 1 / sqrt(3)
    assert float(change.var()) == pytest.approx(1 / 3, rel=0.1)


@pytest.mark.parametrize(("sigma", "grey"), [(0.1, 128), (0.5, 128), (0.5, 0), (0.5, 255), (0.25, 20)])
def test_it_learns_from_the_noise_that_a_certificate_asks_about(classifier, sigma, grey):
    """As `certify` adds it to the same grey level: the same mean and spread, and those of the formula for black."""
    x = torch.full((64, 3, 16, 16), grey / 255)
    mine = Noise(eps=sigma)(classifier, Batch(x, torch.zeros(64, dtype=torch.int64), torch.arange(64), 1.0, 3)).x
    theirs = GridNoise(sigma).added((255 * x).byte(), Draws(5, torch.arange(64), "test")).float() / 255
    close = 5 * sigma / mine.numel() ** 0.5 + 1e-3  # five standard errors and half a grey level
    assert 0 <= float(mine.min()) <= float(mine.max()) <= 1
    assert float(mine.mean()) == pytest.approx(float(theirs.mean()), abs=2 * close)
    assert float(mine.std()) == pytest.approx(float(theirs.std()), abs=2 * close)
    if grey == 0:  # E max(0, sigma Z), of which what lies beyond white takes little
        beyond = sigma * math.exp(-0.5 / sigma**2) / (2 * math.pi) ** 0.5 - math.erfc(1 / sigma / 2**0.5) / 2
        assert float(mine.mean()) == pytest.approx(sigma / (2 * math.pi) ** 0.5 - beyond, abs=close)


def test_the_classifier_stays_as_it_was(classifier):
    before = copy.deepcopy(classifier.state_dict())
    HARD(classifier, batch_of(classifier))
    assert all(torch.equal(value, before[name]) for name, value in classifier.state_dict().items())
    assert classifier.training
    assert all(p.requires_grad and p.grad is None for p in classifier.parameters())


class Linear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3 * 8 * 8, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(x.flatten(1))


@pytest.mark.parametrize("inner", [HARD, parse_recipe("pgd-at", eps=EPS).inner, parse_recipe("trades", eps=EPS).inner])
def test_against_a_linear_network_it_is_the_best_there_is(inner):
    """The corner that the weights point at (Goodfellow 2015); a divergence leads to one of two."""
    with seeded(0):
        network = Linear()
    classifier = Classifier(
        network, classes=("a", "b"), size=8, taps=("fc",), mean=IMAGENET_MEAN, std=IMAGENET_STD, backbone="x:y"
    )
    images = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    labels = torch.tensor([0, 1, 0, 1, 0, 1])
    found = inner(classifier, Batch(images, labels, torch.arange(6), 1.0, 3)).x
    away = (network.fc.weight[1] - network.fc.weight[0]).detach().view(1, 3, 8, 8) / classifier.std
    clear = (away.abs() > 0.05 * away.abs().max()).expand_as(images)  # bfloat16 may lose the smallest signs
    assert float(clear.float().mean()) > 0.9
    for image, label, got, seen in zip(images, labels, found, clear, strict=True):
        corners = [(image + EPS * side * away[0].sign()).clamp(0, 1) for side in (-1.0, 1.0)]
        allowed = corners if inner.follows == "divergence" else [corners[1 - int(label)]]
        assert any(torch.allclose(got[seen], corner[seen], atol=1e-6) for corner in allowed)


def test_it_repeats_and_no_image_depends_on_its_place(classifier):
    batch = batch_of(classifier)
    found = HARD(classifier, batch).x
    assert torch.equal(found, HARD(classifier, batch).x)
    assert not torch.equal(found, HARD(classifier, batch_of(classifier, seed=4)).x)
    order = torch.tensor([4, 2, 6, 0, 1, 5, 3])
    again = HARD(classifier, Batch(batch.x[order], batch.labels[order], batch.ids[order], 1.0, 3)).x
    same = (again - found[order]).abs().flatten(1).amax(1) < 1e-6
    assert int(same.sum()) >= 6, "but for a sign of a gradient that rounds to zero, images do not see their neighbours"


@pytest.mark.parametrize(
    ("name", "size"), [("growing", 12), ("pgd-at+growth", 3), ("pgd-at+growth+long", 12), ("free+growth", 12)]
)
def test_the_radius_grows_to_eps(name, size, classifier):
    grows = parse_recipe(name, eps=EPS).inner
    radii = [grows.drawn(batch_of(classifier, done=done)) for done in (0.0, 0.25, 0.5, 1.0)]
    assert [radius * 256 for radius, _, _ in radii] == pytest.approx([0, 6, 12, 12])
    assert [step * 256 for _, step, _ in radii] == pytest.approx([0, size / 2, size, size])
    assert HARD.drawn(batch_of(classifier, done=0.0))[0] == EPS


def test_mpadvt_draws_half_of_the_batches_and_all_sizes(classifier):
    """Xu 2021: half of the batches, radii from 0.01 to 0.04, one to ten steps of 1/255."""
    recipe = parse_recipe("mpadvt")
    sizes = [recipe.inner.drawn(batch_of(classifier, seed=seed)) for seed in range(400)]
    radii = [radius for radius, _, _ in sizes]
    assert 0.01 <= min(radii) < 0.0105
    assert 0.0395 < max(radii) <= 0.04
    assert sum(radii) / 400 == pytest.approx(0.025, abs=4 * 0.03 / 12**0.5 / 20)
    assert {steps for *_, steps in sizes} == set(range(1, 11))
    assert {size for _, size, _ in sizes} == {1 / 255}
    learner, changed = Trainer(classifier), 0
    for seed in range(60):
        batch = batch_of(classifier, 2, seed=seed)
        changed += not torch.equal(recipe.changed(learner, batch), batch.x)
    assert abs(changed - 30) <= 4 * (60 / 4) ** 0.5
