"""TeCoA, PMG-FT and FARE: losses against their formulas, FARE's attack, what is left alone, and a kill."""

import copy
import math

import pytest
import torch
from safetensors.torch import load_file
from tests.models.drawn import CONFIG, squares
from tests.models.test_training import Stop, stop_at
from tests.tasks.small import findings

from medaegis.attacks.balls import Linf
from medaegis.draws import Draws
from medaegis.errors import ConfigError
from medaegis.models import training
from medaegis.models.learning import Batch, TrainConfig
from medaegis.models.training import train_classifier
from medaegis.robust import Fare, Inner, PmgFt, Tecoa, parse_recipe
from medaegis.zero_shot import Contrastive

SHORT = TrainConfig(backbone="clip-small", epochs=2, batch_size=20, lr=1e-3, augmentation=False)
NAMES = ("tecoa", "pmg-ft", "fare")


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """A dual encoder that has learned a little, and the options to go on from it."""
    dataset, split = findings()
    out = tmp_path_factory.mktemp("text") / "clip"
    made = train_classifier(dataset, split, SHORT, out, recipe=Contrastive(dataset.classes))
    made.zero_grad()
    return made, SHORT.model_copy(update={"weights": out / "network.safetensors"})


@pytest.fixture
def run(pretrained):
    return training._Run(*findings(), pretrained[1])


@pytest.fixture
def batch(run):
    places = run.train_part[:6]
    x = run.dataset.pixels(places)
    noise = torch.rand(x.shape, generator=torch.Generator().manual_seed(3)) - 0.5
    return Batch(x, run.dataset.labels[places], run.dataset.ids[places], 1.0, 7), (x + 0.1 * noise).clamp(0, 1)


def chances(classifier, x):
    with torch.no_grad():
        return [[1 / (1 + math.exp(-z)) for z in row] for row in classifier(x).tolist()]


def apart(p, q):
    """Kullback-Leibler divergence of q from p, findings each there or not."""
    each = [a * math.log(a / b) + (1 - a) * math.log((1 - a) / (1 - b)) for a, b in zip(p, q, strict=True)]
    return sum(each) / len(each)


def changed_weights(run):
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in run.classifier.network.visual.parameters():
            weight.add_(0.1 * torch.randn(weight.shape, generator=generator))


@pytest.mark.usefixtures("float32")
def test_tecoa_and_pmg_ft(run, batch, pretrained):
    helper = copy.deepcopy(pretrained[0])
    for network in (helper.network, run.classifier.network):  # which are sure of something
        network.head = torch.randn(3, 64, generator=torch.Generator().manual_seed(0))
    changed_weights(run)
    batch, changed = batch
    away, clean = chances(run.classifier, changed), chances(run.classifier, batch.x)
    said, labels = chances(helper, changed), batch.labels.tolist()
    log_chance = [
        [math.log(q if y else 1 - q) for q, y in zip(row, of, strict=True)]
        for row, of in zip(away, labels, strict=True)
    ]
    tecoa = -sum(sum(row) / 3 for row in log_chance) / 6
    assert Tecoa()(run, batch, changed).item() == pytest.approx(tecoa, rel=1e-4)
    more = sum(apart(p, q) + apart(c, q) for p, c, q in zip(said, clean, away, strict=True)) / 6
    assert PmgFt(helper=helper)(run, batch, changed).item() == pytest.approx(tecoa + more, rel=1e-4)
    assert more > 0.1 * tecoa


@pytest.mark.usefixtures("float32")
def test_fare(run, batch, pretrained):
    batch, changed = batch
    loss = Fare(helper=pretrained[0])
    assert loss(run, batch, batch.x).item() == 0, "before the first step nothing has moved"
    changed_weights(run)

    def embedded(model, x):
        with torch.no_grad():
            return model.network.visual(((x - model.mean) / model.std).expand(-1, 3, -1, -1)).tolist()

    mine, before = embedded(run.classifier, changed), embedded(pretrained[0], batch.x)
    expected = sum((a - b) ** 2 for p, q in zip(mine, before, strict=True) for a, b in zip(p, q, strict=True)) / 6
    assert loss(run, batch, changed).item() == pytest.approx(expected, rel=1e-4)
    loss(run, Batch(batch.x, 1 - batch.labels, batch.ids, 1.0, 7), changed).backward()  # whatever the labels
    moved = {name for name, weight in run.classifier.network.named_parameters() if weight.grad is not None}
    assert moved == {name for name, _ in run.classifier.network.named_parameters() if name.startswith("visual.")}
    assert all(weight.grad is None for weight in pretrained[0].parameters())


@pytest.mark.usefixtures("float32")
def test_fares_attack_leaves_the_embedding_before_training(run, batch, pretrained):
    """One step by hand: up the distance from the original's embedding of the clean image."""
    changed_weights(run)
    batch, _ = batch
    eps = 8 / 255
    found = Inner(eps=eps, steps=1, step_size=eps, follows="embedding", original=pretrained[0])(run.classifier, batch)
    start = Linf().random(batch.x, torch.full((6, 1, 1, 1), eps), Draws(7, batch.ids, "robust"))
    shown = ((start * 255).round() / 255).requires_grad_()  # as a file would hold it
    own, before = (copy.deepcopy(model).eval() for model in (run.classifier, pretrained[0]))
    with torch.no_grad():
        kept = before.activations(batch.x, logits=False).features["visual"]
    (own.activations(shown, logits=False).features["visual"] - kept).square().sum().backward()
    expected = (start + eps * shown.grad.sign()).clamp(batch.x - eps, batch.x + eps).clamp(0, 1)
    torch.testing.assert_close(found.x, expected, atol=1e-6, rtol=0)
    assert (found.forwards, found.backwards) == (12, 6)


@pytest.mark.parametrize("name", NAMES)
def test_it_changes_the_image_encoder_alone_and_survives_a_kill(name, pretrained, tmp_path, monkeypatch):
    helper, config = pretrained
    recipe = parse_recipe(name, eps=4 / 255, helper=None if name == "tecoa" else helper)
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0.0)
    train_classifier(*findings(), config, tmp_path / "whole", recipe=recipe)
    with pytest.raises(Stop):
        train_classifier(*findings(), config, tmp_path / "cut", stop_at(3), recipe=recipe)
    train_classifier(*findings(), config, tmp_path / "cut", recipe=recipe)
    before, whole, cut = (
        load_file(path) for path in (config.weights, *(tmp_path / n / "network.safetensors" for n in ("whole", "cut")))
    )
    assert all(torch.equal(value, cut[key]) for key, value in whole.items())
    same = {key for key, value in before.items() if torch.equal(value, whole[key])}
    assert same == {key for key in before if not key.startswith("visual.")}


def test_other_helpers_are_other_recipes(pretrained):
    other = copy.deepcopy(pretrained[0])
    with torch.no_grad():
        other.network.logit_scale.add_(0.1)
    for name in ("pmg-ft", "fare"):
        assert parse_recipe(name, helper=pretrained[0]).identity() != parse_recipe(name, helper=other).identity()


@pytest.mark.parametrize("name", NAMES)
def test_networks_without_text_are_refused(name, pretrained, tmp_path):
    recipe = parse_recipe(name, helper=None if name == "tecoa" else pretrained[0])
    if name == "fare":  # of which the attack would come first
        recipe = recipe.model_copy(update={"inner": Inner(eps=0.1, steps=0)})
    with pytest.raises(ConfigError, match="has no text head"):
        train_classifier(*squares(), CONFIG, tmp_path / "c", recipe=recipe)


@pytest.mark.parametrize("name", NAMES[1:])
def test_without_the_network_before_they_are_refused(name):
    with pytest.raises(ConfigError, match="--helper"):
        parse_recipe(name)


def test_an_original_goes_with_its_attack_alone(pretrained):
    for options in ({"follows": "embedding"}, {"original": pretrained[0]}):
        with pytest.raises(ValueError, match="original"):
            Inner(eps=0.1, **options)
