"""Robust training as a whole: that it holds, repeats, resumes, chooses its epoch rightly, and tells what it cost."""

import copy
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from tests.attacks.toys import seeded
from tests.models.drawn import CONFIG, squares
from tests.models.test_training import Stop, stop_at

from medaegis.attacks.catalogue import find_attack
from medaegis.attacks.victim import Victim
from medaegis.errors import ConfigError
from medaegis.models import training
from medaegis.models.averaging import Averaged, worst_weights
from medaegis.models.learning import Batch
from medaegis.models.store import load_classifier, read_training
from medaegis.models.training import train_classifier
from medaegis.robust import ADD_ONS, RECIPES, Inner, Robust, parse_recipe

SHORT = CONFIG.model_copy(update={"epochs": 2})


@pytest.fixture(scope="module")
def helper(tmp_path_factory):
    return train_classifier(*squares(), SHORT, tmp_path_factory.mktemp("plain") / "classifier")


def weights(folder):
    return load_file(folder / "network.safetensors")


OF_TEXT = ("tecoa", "pmg-ft", "fare")  # whose networks are others
NAMES = [*(name for name in RECIPES if name not in OF_TEXT), "trades+awp+average+growth+long"]
HELPED = [name for name, named in RECIPES.items() if "helper" in named.takes and name not in OF_TEXT]
UNSCORED = ("teacher", "distillation")


@pytest.mark.parametrize("name", NAMES)
def test_stopped_it_goes_on_to_the_same_weights(name, helper, tmp_path, monkeypatch):
    given = {"eps": 16 / 255, "helper": helper, "temperature": 5.0, "beta": None}
    takes = RECIPES[name.partition("+")[0]].takes
    recipe = parse_recipe(name, **{option: given[option] for option in takes})
    config = SHORT.model_copy(update={"epochs": 2 * recipe.replays})
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0.0)
    train_classifier(*squares(), config, tmp_path / "whole", recipe=recipe)
    for step in (3, 8):  # within the first epoch, and within the second
        with pytest.raises(Stop):
            train_classifier(*squares(), config, tmp_path / "cut", stop_at(step), recipe=recipe)
    train_classifier(*squares(), config, tmp_path / "cut", recipe=recipe)
    whole, cut = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    assert all(torch.equal(value, cut[name]) for name, value in whole.items())
    told, again = read_training(tmp_path / "whole"), read_training(tmp_path / "cut")
    assert told["recipe"] == again["recipe"] == recipe.identity()
    assert [told[entry] for entry in ("history", "passes")] == [again[entry] for entry in ("history", "passes")]
    scores = [entry["val"].get("robust_accuracy") for entry in told["history"]]
    assert all(score is None if name in UNSCORED else 0 <= score <= 1 for score in scores)
    assert ("kept_epoch" in told) == (name not in UNSCORED)


@pytest.mark.parametrize(
    ("name", "forwards", "backwards"),
    [
        ("pgd-at", 11, 11),
        ("trades", 13, 12),  # the clean answer that it leaves, ten steps, two losses
        ("mart", 12, 12),
        ("hat", 15, 13),  # and the helper's answer, and the images beyond
        ("fgsm-at", 2, 2),
        ("free", 4, 4),
        ("growing", 2, 2),
        ("noise", 1, 1),
        ("teacher", 1, 1),
        ("distillation", 2, 1),  # and the teacher's answer
        ("pgd-at+awp", 12, 12),
    ],
)
def test_what_it_costs(name, forwards, backwards, helper, tmp_path):
    """Passes for each image that is learned from, in each epoch."""
    recipe = parse_recipe(name, helper=helper if name in HELPED else None)
    config = CONFIG.model_copy(update={"epochs": recipe.replays})
    dataset, split = squares()
    train_classifier(dataset, split, config, tmp_path / "c", recipe=recipe)
    told = read_training(tmp_path / "c")["passes"]
    # Half of batches of uneven sizes is not always half of all images; the very first radius that grows is zero.
    slack = 2 * len(split.train) if name == "growing" else 0
    assert told["forwards"] == pytest.approx(forwards * len(split.train), abs=slack)
    assert told["backwards"] == pytest.approx(backwards * len(split.train), abs=slack)


@pytest.mark.parametrize("name", [name for name in RECIPES if name not in OF_TEXT])
@pytest.mark.parametrize("added", ADD_ONS)
def test_an_add_on_changes_the_recipe_or_is_refused(name, added, helper):
    given = {"helper": helper if name in HELPED else None}
    plain = parse_recipe(name, **given).identity()
    if added in RECIPES[name].refuses:
        with pytest.raises(ConfigError, match=rf"leave \+{added} out"):
            parse_recipe(f"{name}+{added}", **given)
    else:
        assert parse_recipe(f"{name}+{added}", **given).identity() != plain


@pytest.mark.parametrize("name", ["growing", "free"])
def test_it_holds_where_plain_training_falls(name, tmp_path):
    recipe = parse_recipe(name, eps=32 / 256)
    dataset, split = squares(120)
    test = dataset.subset([*split.val, *split.adv_test])
    held = {}
    for kind, used in (("plain", None), ("robust", recipe)):
        config = CONFIG.model_copy(update={"epochs": 20 * (1 if used is None else used.replays)})
        classifier = train_classifier(dataset, split, config, tmp_path / kind, recipe=used)
        attack = find_attack("bim").attack.with_options(steps=20)
        found = attack.run(Victim(classifier), test.pixels(), test.labels, eps=32 / 256, targets=1 - test.labels)
        held[kind] = float((found.verdict.predicted == test.labels).float().mean())
    assert held["robust"] >= held["plain"] + 0.3


@pytest.mark.usefixtures("float32")
def test_free_is_the_published_algorithm():
    """Shafahi 2019, algorithm 1, written out: each step's gradient serves the weights and the images."""
    recipe = parse_recipe("free", eps=16 / 255)
    run = training._Run(*squares(), CONFIG.model_copy(update={"balance": "none", "optimizer": "sgd"}), recipe)
    other = copy.deepcopy(run.classifier).train()
    places = run._order(0)[:8]
    x, labels = run.dataset.pixels(places), run.dataset.labels[places]
    batch = Batch(x, labels, run.dataset.ids[places], 0.0, 0)
    given = []

    for loss in recipe.losses(run, batch):
        run.classifier.train()
        run.classifier.zero_grad()
        run._computed(loss, 0).backward()
        given.append(loss.args[2].detach().clone())
        with torch.no_grad():
            for weight in run.classifier.parameters():
                weight -= 0.1 * weight.grad

    delta = given[0] - x
    for step in range(4):
        torch.testing.assert_close(given[step], (x + delta).clamp(0, 1), rtol=0, atol=1e-6)
        shown = (x + delta).clamp(0, 1).requires_grad_()
        with seeded(0):  # as the run draws its dropout
            torch.nn.functional.cross_entropy(other(shown), labels).backward()
        with torch.no_grad():
            for weight in other.parameters():
                weight -= 0.1 * weight.grad
                weight.grad = None
        delta = ((shown.detach() + 16 / 255 * shown.grad.sign()) - x).clamp(-16 / 255, 16 / 255)
        delta = (x + delta).clamp(0, 1) - x
    assert len(given) == 4
    assert len({tuple(one.flatten().tolist()) for one in given}) == 4


def test_weights_are_moved_to_where_the_loss_is_larger_and_come_back():
    """Wu 2020: along the gradient, each layer by the same share of its length; running statistics stay."""
    run = training._Run(*squares(), CONFIG)
    network, x = run.classifier.network.train(), run.dataset.pixels(run.train_part[:8]).expand(-1, 3, -1, -1)
    labels = run.dataset.labels[run.train_part[:8]]

    def loss():
        with seeded(0):  # for dropout
            return torch.nn.functional.cross_entropy(network(x), labels)

    before = copy.deepcopy(network.state_dict())
    here = loss().item()
    network.load_state_dict(before)
    names = [name for name, weight in network.named_parameters() if weight.ndim > 1]
    slopes = torch.autograd.grad(loss(), [network.get_parameter(name) for name in names])
    network.load_state_dict(before)
    with worst_weights(network, loss, length=0.01):
        for name, slope in zip(names, slopes, strict=True):
            moved = network.get_parameter(name) - before[name]
            assert moved.norm().item() == pytest.approx(0.01 * before[name].norm().item(), rel=1e-3)
            assert torch.nn.functional.cosine_similarity(moved.flatten(), slope.flatten(), 0) > 0.999
        still = set(before) - set(names)
        assert all(torch.equal(network.state_dict()[name], before[name]) for name in still)
        assert loss().item() > here
    assert all(torch.equal(network.get_parameter(name), before[name]) for name in names)


def test_the_average_is_that_of_the_weights_so_far():
    network = torch.nn.Linear(1, 1)
    average, values = Averaged(network, keep=0.9), []
    expected = network.weight.item()
    for step, value in enumerate([3.0, -1.0, 4.0, 1.0]):
        with torch.no_grad():
            network.weight.fill_(value)
        average.take(network, step=step)
        keep = min(0.9, (1 + step) / (10 + step))
        expected = keep * expected + (1 - keep) * value
        values.append((average.state["weight"].item(), expected))
    assert [a for a, _ in values] == pytest.approx([b for _, b in values])


class Scored(Robust):
    """Epochs get these robust and clean accuracies."""

    told: tuple[tuple[float, float], ...] = ((0.2, 0.9), (0.6, 0.9), (0.6, 0.9), (0.1, 0.9))

    def score(self, classifier, dataset, places, *, seed):
        seen.append((copy.deepcopy(classifier.network.state_dict()), tuple(places)))
        robust, clean = self.told[len(seen) - 1]
        return {"robust_accuracy": robust, "accuracy": clean}


seen = []


def test_the_best_epoch_on_validation_images_is_kept(tmp_path):
    seen.clear()
    dataset, split = squares()
    train_classifier(dataset, split, CONFIG, tmp_path / "c", recipe=Scored(inner=Inner(eps=0.1, steps=1)))
    assert {places for _, places in seen} == {split.val}
    kept = load_classifier(tmp_path / "c", factory=_tiny()).network.state_dict()
    assert all(torch.equal(value, kept[name]) for name, value in seen[1][0].items())
    assert read_training(tmp_path / "c")["kept_epoch"] == 2
    assert not all(torch.equal(value, kept[name]) for name, value in seen[2][0].items())


def test_chance_does_not_choose_among_epochs_that_withstand_nothing(tmp_path):
    seen.clear()
    told = ((0.0, 0.5), (0.03, 0.83), (0.015, 0.99), (0.0, 0.98))
    recipe = Scored(inner=Inner(eps=0.1, steps=1), told=told)
    train_classifier(*squares(), CONFIG, tmp_path / "c", recipe=recipe)
    assert read_training(tmp_path / "c")["kept_epoch"] == 3


def test_what_is_to_be_asked_under_noise_is_chosen_by_noise_alone(tmp_path, monkeypatch):
    given = iter(((0.6, 0.9), (0.8, 0.3), (0.7, 0.9), (0.7, 0.9)))
    scored = Robust.score

    def score(self, *args, **options):
        robust, clean = next(given)
        told = scored(self, *args, **options)
        assert told["worth"] == told["robust_accuracy"]
        return {"robust_accuracy": robust, "accuracy": clean} | ({"worth": robust} if "worth" in told else {})

    monkeypatch.setattr(Robust, "score", score)
    train_classifier(*squares(), CONFIG, tmp_path / "c", recipe=parse_recipe("noise", eps=0.1))
    assert read_training(tmp_path / "c")["kept_epoch"] == 2


def _tiny():
    from tests.models.tiny_networks import tiny

    return tiny


def test_no_weight_depends_on_test_images(tmp_path):
    dataset, split = squares()
    images = dataset.images.clone()
    images[torch.tensor([*split.adv_test, *split.adv_train])] = 255
    recipe = parse_recipe("fgsm-at", eps=16 / 255)
    for name, data in (("one", dataset), ("other", replace(dataset, images=images))):
        train_classifier(data, split, CONFIG, tmp_path / name, recipe=recipe)
    one, other = weights(tmp_path / "one"), weights(tmp_path / "other")
    assert all(torch.equal(value, other[name]) for name, value in one.items())


def test_another_recipe_is_another_run(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0.0)
    with pytest.raises(Stop):
        train_classifier(*squares(), CONFIG, tmp_path / "c", stop_at(3), recipe=parse_recipe("fgsm-at"))
    for recipe in (None, parse_recipe("fgsm-at", eps=4 / 255), parse_recipe("fgsm-at+average")):
        with pytest.raises(ConfigError, match="checkpoint of another run"):
            train_classifier(*squares(), CONFIG, tmp_path / "c", recipe=recipe)


@pytest.mark.parametrize(
    ("text", "options", "problem"),
    [
        ("pgd", {}, "did you mean pgd-at"),
        ("", {}, "choose from"),
        ("trades+swa", {}, "no add-on"),
        ("trades+awp+awp", {}, "said twice"),
        ("free+awp", {}, "leave \\+awp out"),
        ("pgd-at", {"beta": 3.0}, "pgd-at has no use for one; leave it out; it is for trades, mart, hat"),
        ("teacher", {"eps": 0.1}, "no use for one"),
        ("trades", {"temperature": 5.0}, "it is for teacher, distillation"),
        ("teacher", {"temperature": 0.5}, "temperature"),
        ("distillation", {}, "--robust teacher"),
        ("trades", {"beta": float("nan")}, "beta"),
        ("trades", {"eps": 0.0}, "eps"),
        ("noise", {"eps": 2.0}, "eps"),
        ("hat", {}, "--helper"),
    ],
)
def test_names_that_mean_nothing_are_refused(text, options, problem):
    with pytest.raises(ConfigError, match=problem):
        parse_recipe(text, **options)


def test_a_helper_for_others_is_refused(helper):
    with pytest.raises(ConfigError, match="no use for one"):
        parse_recipe("trades", helper=helper)
    assert parse_recipe("trades", beta=12.0).loss.beta == 12


class TestBalance:
    def test_by_sampling_every_class_is_drawn_as_often(self):
        dataset, split = squares(160)
        few = [i for i in split.train if dataset.labels[i] == 1][6:]
        thin = replace(split, train=tuple(i for i in split.train if i not in few))
        run = training._Run(dataset, thin, CONFIG.model_copy(update={"balance": "sampling"}))
        drawn = torch.cat([run._order(epoch) for epoch in range(60)])
        assert set(drawn.tolist()) == set(thin.train)
        bright = int((dataset.labels[drawn] == 1).sum())
        assert abs(bright - len(drawn) / 2) < 4 * (len(drawn) / 4) ** 0.5
        each = torch.bincount(drawn)[[i for i in thin.train if dataset.labels[i] == 1]].double()
        expected = len(drawn) / 2 / len(each)
        assert float(((each - expected) ** 2 / expected).sum()) < 5 + 5 * 6  # chi-square, five degrees of freedom
        assert run.class_weights is None

    def test_sgd_with_momentum(self, tmp_path):
        config = CONFIG.model_copy(update={"optimizer": "sgd", "balance": "sampling", "lr": 0.1})
        train_classifier(*squares(), config, tmp_path / "c")
        losses = [entry["loss"] for entry in read_training(tmp_path / "c")["history"]]
        assert losses[-1] < 0.7 * losses[0]
