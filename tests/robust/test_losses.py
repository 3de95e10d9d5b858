"""Losses of robust training against their published formulas, written out here image by image."""

import math

import pytest
import torch
from tests.models.drawn import CONFIG, squares

from medaegis.errors import ConfigError
from medaegis.models import training
from medaegis.models.learning import Batch
from medaegis.robust import Answer, Distilled, Hat, Inner, Mart, Noise, Robust, Trades, parse_recipe
from medaegis.task import SINGLE


@pytest.fixture
def run():
    """A run before its first step, its network in eval mode: batch norm would tie images together."""
    made = training._Run(*squares(), CONFIG.model_copy(update={"balance": "none"}))
    made.classifier.eval()
    return made


@pytest.fixture
def batch(run):
    x = run.dataset.pixels(run.train_part[:6])
    noise = torch.rand(x.shape, generator=torch.Generator().manual_seed(3)) - 0.5
    changed = (x + 0.1 * noise).clamp(0, 1)
    return Batch(x, run.dataset.labels[run.train_part[:6]], torch.arange(6), 1.0, 0), changed


def softmax(logits):
    weights = [math.exp(value) for value in logits]
    return [weight / sum(weights) for weight in weights]


def answers(run, x):
    with torch.no_grad():
        return [softmax(row) for row in run.classifier(x).double().tolist()]


def divergence(p, q):
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


def test_trades(run, batch):
    batch, changed = batch
    clean, away, labels = answers(run, batch.x), answers(run, changed), batch.labels.tolist()
    expected = sum(-math.log(p[y]) + 3 * divergence(p, q) for p, q, y in zip(clean, away, labels, strict=True)) / 6
    assert Trades(beta=3.0)(run, batch, changed).item() == pytest.approx(expected, rel=1e-4)
    plain = sum(-math.log(p[y]) for p, y in zip(clean, labels, strict=True)) / 6
    assert Trades()(run, batch, batch.x).item() == pytest.approx(plain, rel=1e-5), "nothing changed, nothing diverges"


def test_mart(run, batch):
    batch, changed = batch
    expected = 0.0
    for p, q, y in zip(answers(run, batch.x), answers(run, changed), batch.labels.tolist(), strict=True):
        wrong = max(value for k, value in enumerate(q) if k != y)
        expected += -math.log(q[y]) - math.log(1.0001 - wrong) + 5 * (1 - p[y]) * divergence(p, q)
    assert Mart(beta=5.0)(run, batch, changed).item() == pytest.approx(expected / 6, rel=1e-4)


def test_hat_learns_beyond_the_ball_what_its_helper_says(run, batch):
    batch, changed = batch
    helper = training._Run(*squares(), CONFIG.model_copy(update={"seed": 5})).classifier.eval()
    said = [max(range(2), key=row.__getitem__) for row in answers_of(helper, changed)]
    beyond = answers(run, batch.x + 2 * (changed - batch.x))
    expected = Trades(beta=4.0)(run, batch, changed).item()
    expected += 0.5 * sum(-math.log(p[k]) for p, k in zip(beyond, said, strict=True)) / 6
    found = Hat(beta=4.0, gamma=0.5, helper=helper)(run, batch, changed)
    assert found.item() == pytest.approx(expected, rel=1e-4)
    assert not any(weight.grad is not None for weight in helper.parameters())


def answers_of(classifier, x):
    with torch.no_grad():
        return classifier(x).tolist()


@pytest.mark.parametrize("name", ["hat", "distillation"])
def test_of_two_helpers_each_is_another_recipe(name):
    one, two = (training._Run(*squares(), CONFIG.model_copy(update={"seed": seed})).classifier for seed in (0, 1))
    first, second = (parse_recipe(name, helper=helper).identity() for helper in (one, two))
    assert first != second
    assert first == parse_recipe(name, helper=one).identity()


def test_a_teacher_learns_the_labels_at_its_temperature(run, batch):
    batch, _ = batch
    with torch.no_grad():
        logits = run.classifier(batch.x).double().tolist()
    rows = zip(logits, batch.labels.tolist(), strict=True)
    expected = sum(-math.log(softmax([value / 7 for value in row])[y]) for row, y in rows) / 6
    assert Distilled(temperature=7.0)(run, batch, batch.x).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.usefixtures("float32")
def test_a_student_learns_what_its_teacher_says_of_the_clean_images(run, batch):
    """Papernot 2016, eq. 10: the cross-entropy with soft labels; here less their entropy, with the same gradients."""
    batch, changed = batch
    helper = training._Run(*squares(), CONFIG.model_copy(update={"seed": 5})).classifier.eval()
    soft = [softmax([value / 3 for value in row]) for row in answers_of(helper, batch.x)]
    said = (run.classifier(changed) / 3).log_softmax(1)
    published = -(torch.tensor(soft) * said).sum(1).mean()
    entropy = sum(-p * math.log(p) for row in soft for p in row) / 6
    found = Distilled(temperature=3.0, helper=helper)(run, batch, changed)
    assert found.item() == pytest.approx(published.item() - entropy, rel=1e-4, abs=1e-7)
    weights = list(run.classifier.parameters())
    for ours, theirs in zip(torch.autograd.grad(found, weights), torch.autograd.grad(published, weights), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-6)
    assert not any(weight.grad is not None for weight in helper.parameters())


@pytest.mark.parametrize("kind", [Hat, Distilled])
def test_a_helper_that_knows_other_classes_is_refused(run, batch, kind):
    helper = training._Run(*squares(), CONFIG).classifier
    helper.classes = ("dark", "dim")
    with pytest.raises(ConfigError, match=r"knows dark, dim, and dark, bright are to be learned"):
        kind(helper=helper)(run, *batch)


@pytest.mark.parametrize("kind", [Answer, Trades, Mart])
def test_classes_weigh_as_in_plain_training(batch, kind):
    """Of one rare class only, the weighted mean is the plain one."""
    batch, changed = batch
    weighted = training._Run(*squares(), CONFIG)
    even = training._Run(*squares(), CONFIG.model_copy(update={"balance": "none"}))
    for run in (weighted, even):
        run.classifier.eval()
    weighted.class_weights = torch.tensor([1.0, 7.0])
    rare = batch.labels == 1
    part = Batch(batch.x[rare], batch.labels[rare], batch.ids[rare], 1.0, 0)
    found, expected = (kind()(run, part, changed[rare]).item() for run in (weighted, even))
    assert found == pytest.approx(expected, rel=1e-5)
    assert kind()(weighted, batch, changed).item() != pytest.approx(kind()(even, batch, changed).item(), rel=1e-3)


def test_divergence_is_no_distance_to_itself_and_positive_otherwise():
    logits = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    others = torch.randn(5, 4, generator=torch.Generator().manual_seed(1))
    assert SINGLE.divergences(logits, logits, torch.zeros(5)).tolist() == pytest.approx([0] * 5, abs=1e-6)
    expected = [divergence(softmax(q), softmax(p)) for p, q in zip(logits.tolist(), others.tolist(), strict=True)]
    assert SINGLE.divergences(logits, others, torch.zeros(5)).tolist() == pytest.approx(expected, rel=1e-4)


def test_mart_is_for_one_class_an_image(run, batch):
    class Several:
        name = "multi"

    run.classifier.task = Several()
    with pytest.raises(ConfigError, match="one class an image"):
        Mart()(run, batch[0], batch[1])


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Robust(inner=Inner(eps=0.1), loss=Trades(), share=0.5),
        lambda: Robust(inner=Inner(eps=0.1), loss=Mart(), replays=2),
        lambda: Robust(inner=Noise(eps=0.1), replays=2),
        lambda: Robust(inner=Inner(eps=0.1), replays=2, awp=0.1),
        lambda: Inner(eps=0.0),
        lambda: Inner(eps=1.5),
        lambda: Inner(eps=0.1, steps=-1),
        lambda: Inner(eps=0.1, least_eps=0.2),
        lambda: Inner(eps=0.1, steps=2, least_steps=3),
        lambda: Noise(eps=0.0),
        lambda: Trades(beta=-1.0),
        lambda: Distilled(temperature=0.5),
        lambda: Distilled(temperature=float("inf")),
        lambda: Robust(inner=None, loss=Trades(), average=0.5),
        lambda: Robust(inner=None, chance=0.5),
        lambda: Robust(inner=None, loss=Distilled(), share=0.5),
    ],
)
def test_settings_that_make_no_sense_are_refused(wrong):
    with pytest.raises(ValueError, match=r"share|replays|eps|steps|beta|temperature|changes none"):
        wrong()
