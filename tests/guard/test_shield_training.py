"""Training a Shield: it learns, it goes on after a kill as if nothing had been, and it refuses what does not fit."""

import copy
import dataclasses
import os
import signal
import subprocess
import sys

import pytest
import torch
from tests.guard.fitted import CONFIG, learned_classifier, training
from tests.models.drawn import squares

from medaegis.attacks.catalogue import find_attack
from medaegis.attacks.engine import Attack
from medaegis.attacks.steps import Descent
from medaegis.cushions import parse_cushion
from medaegis.cushions.jpeg import JpegCushion
from medaegis.detectors.shield import ShieldBank
from medaegis.errors import ArtefactError, ConfigError, DataError
from medaegis.guard import shield_training
from medaegis.guard.calibration import calibrate
from medaegis.guard.guard import Guard
from medaegis.guard.shield_config import ShieldConfig
from medaegis.guard.shield_training import ShieldTraining
from medaegis.models.checkpoint import load_checkpoint
from medaegis.progress import GOES_ON


def weights(shield):
    return {name: value.clone() for name, value in shield.state_dict().items()}


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture
def every_update(monkeypatch):
    monkeypatch.setattr(shield_training, "CHECKPOINT_SECONDS", 0.0)


def test_killed_and_resumed_is_as_never_killed(tmp_path):
    """SIGKILL in a process of its own, at an update it does not choose, twice."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    seen = 0
    for stop in (5, 14):
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.guard.fitted", str(tmp_path / "killed"), "0.05"],
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for line in process.stdout:
            assert int(line) >= seen, "work was done again that had been saved"
            if int(line) >= stop:
                process.send_signal(signal.SIGKILL)
                break
        process.wait()
        assert process.returncode == -signal.SIGKILL
        seen = stop - 1
    resumed, whole = training(tmp_path / "killed"), training(tmp_path / "whole")
    shield = resumed.train()
    assert equal(weights(shield), weights(whole.train()))
    assert torch.equal(resumed.memory, whole.memory)
    assert torch.equal(resumed.visits, whole.visits)
    assert resumed.loss == whole.loss
    assert resumed.done == CONFIG.updates


def test_finished_training_is_not_repeated(tmp_path):
    shield = training(tmp_path).train()
    again = training(tmp_path)
    told = []
    assert equal(weights(again.train(lambda *what: told.append(what))), weights(shield))
    assert told == [(CONFIG.updates, CONFIG.updates, GOES_ON)]


def test_it_leaves_the_classifier_and_the_global_random_state_alone(tmp_path):
    classifier, state = learned_classifier(), torch.random.get_rng_state()
    before = weights(classifier)
    training(tmp_path, config=CONFIG.model_copy(update={"updates": 3})).train()
    assert torch.equal(torch.random.get_rng_state(), state)
    assert equal(weights(classifier), before)
    assert all(p.grad is None or not p.grad.any() for p in classifier.parameters())


def test_it_repeats_with_the_seed(tmp_path):
    short = CONFIG.model_copy(update={"updates": 4})
    first = weights(training(tmp_path / "a", config=short).train())
    assert equal(first, weights(training(tmp_path / "b", config=short).train()))
    other = short.model_copy(update={"seed": 1})
    assert not equal(first, weights(training(tmp_path / "c", config=other).train()))
    training(tmp_path / "d", config=short.model_copy(update={"seed": 2**63 - 1})).train()


def strength(shields):
    """Share of test images that the white-box attack at 64/256 gets past such Shields, and their TNR."""
    guard = Guard(learned_classifier(), parse_cushion("none"), ShieldBank(shields), tnr=0.85)
    figures = calibrate(guard, *squares(960))  # with few images a threshold accepts far more than the share chosen
    dataset, split = squares(240)
    test = dataset.subset(split.adv_test)
    right = guard.judge(test.pixels()).predicted == test.labels
    attack, labels = find_attack("wb").attack.with_options(steps=20), test.labels[right]
    victim = guard.victim(dtype=torch.float32)
    found = attack.run(victim, test.pixels(right), labels, eps=64 / 256, targets=1 - labels)
    return float(found.broken.float().mean()), figures["tnr_reached"]


def test_a_trained_shield_resists_what_breaks_an_untrained_one(tmp_path):
    """And its loss falls. Also for one that was trained at 1/256 only: the planted weakness."""
    config = CONFIG.model_copy(
        update={"updates": 250, "width": 8, "inner_steps": 4, "eps_end": 64 / 256, "eps_growth": 0.4, "lr": 3e-3}
    )
    weak = config.model_copy(update={"updates": 60, "eps_end": 1 / 256, "inner_steps": 1})
    losses = []
    strong_shields, weak_shields, none = [], [], []
    for label in range(2):
        none.append(training(tmp_path / f"none-{label}", label=label, config=config).result())
        weak_shields.append(training(tmp_path / f"weak-{label}", label=label, config=weak).train())
        strong = training(tmp_path / f"strong-{label}", label=label, config=config)
        strong_shields.append(
            strong.train(lambda done, total, message, s=strong: losses.append(s.loss) if done in (1, total) else None)
        )
    assert losses[1] < 0.7 * losses[0]
    assert losses[3] < 0.7 * losses[2]
    broken, reached = strength(strong_shields)
    assert broken < 0.2
    assert reached > 0.75
    assert strength(none)[0] > 0.8
    assert strength(weak_shields)[0] > 0.8


def test_adversaries_are_inside_their_radius_and_on_the_grid(tmp_path):
    """With perturbations carried on from visit to visit."""
    run = training(tmp_path, config=CONFIG.model_copy(update={"eps_below": 0.0, "lifetime": 4}))
    for update in range(12):
        rows, epochs = run._rows(run.foreign, update)
        foreign = run._augmented(run.foreign, rows, epochs // 4)
        attacked = run._attack(foreign, run._goal(rows, foreign.device), rows, epochs, update)
        change = ((attacked - foreign) * 255).round()
        assert change.abs().max() <= round(255 * run._eps(update))
        assert torch.equal((attacked * 255).round() / 255, attacked)
    assert run.visits.sum() == 12 * CONFIG.batch_size
    assert run.memory.any()


def test_every_image_is_visited_once_an_epoch(tmp_path):
    run = training(tmp_path)
    pool, size = run.foreign, CONFIG.batch_size
    seen = torch.cat([run._rows(pool, update)[0] for update in range(3 * len(pool) // size + 1)])
    for epoch in range(3):
        assert sorted(seen[epoch * len(pool) : (epoch + 1) * len(pool)].tolist()) == list(range(len(pool)))
    assert not torch.equal(seen[: len(pool)], seen[len(pool) : 2 * len(pool)])


def test_fewer_images_than_a_batch(tmp_path):
    dataset, _ = squares(240)
    few = dataset.subset([*range(0, 6), *range(100, 103)])
    run = ShieldTraining(learned_classifier(), parse_cushion("none"), few, 1, CONFIG, tmp_path)
    assert len(run.genuine) < CONFIG.batch_size
    assert len(run.foreign) < CONFIG.batch_size
    assert all(value.isfinite().all() for value in run.train().state_dict().values())


@pytest.mark.parametrize("update", range(4))
def test_an_update_waits_for_the_device_only_to_tell_its_loss(tmp_path, update):
    """On torch's meta device a host read, or a tensor left behind, raises; of perturbations that are carried on, the
    host keeps a copy, once an update."""
    shares = {"lifetime": 1, "classifier_share": 0.5, "momentum_share": 0.5, "genuine_noise": 0.3, "cushioned": 0.5}
    run = training(tmp_path, cushion="jpeg:80", config=CONFIG.model_copy(update={**shares, "genuine_perturbed": 0.3}))
    rows, epochs = run._rows(run.foreign, update)
    away = run._augmented(run.foreign, rows, epochs).to("meta")
    for victim in (run.victim, run.bare):
        victim.exact = victim.fast = copy.deepcopy(victim.exact).to("meta")
        victim.dtype = torch.float32  # there is no autocast on meta
        victim.shields.to("meta")
    adversarial = run._attack(away, run._goal(rows, away.device), rows, epochs, update)
    genuine = run._perturbed(away, adversarial - away, update)
    run.shield.requires_grad_(True)
    loss = run._told_apart(torch.cat([genuine, adversarial]), update)
    loss.backward()
    assert loss.device.type == "meta"
    assert all(weight.grad.device.type == "meta" for weight in run.shield.parameters())


def test_half_of_the_attacks_may_drive_the_classifier_too(tmp_path):
    config = CONFIG.model_copy(update={"classifier_share": 1.0, "updates": 3})
    plain = training(tmp_path / "a", config=CONFIG.model_copy(update={"updates": 3})).train()
    assert not equal(weights(training(tmp_path / "b", config=config).train()), weights(plain))


def test_steps_are_of_both_kinds_in_their_shares(tmp_path, monkeypatch):
    rules = []
    monkeypatch.setattr(Attack, "descend", lambda self, victim, x, goal, eps, z: rules.append(self.rule) or (z, 10))
    config = CONFIG.model_copy(update={"momentum_share": 0.75, "updates": 200})
    run = training(tmp_path, config=config)
    for update in range(config.updates):
        rows, epochs = run._rows(run.foreign, update)
        x = run.dataset.pixels(run.foreign[rows])
        run._attack(x, run._goal(rows, x.device), rows, epochs, update)
    kinds = [rules.count(kind) / 200 for kind in (Descent(momentum=1.0), Descent())]
    assert kinds == pytest.approx([0.75, 0.25], abs=0.1)


def test_the_first_updates_take_fewer_steps(tmp_path, monkeypatch):
    steps = []
    monkeypatch.setattr(Attack, "descend", lambda self, victim, x, goal, eps, z: steps.append(self.steps) or (z, 0))
    for share, expected in ((0.0, [7] * 5), (0.4, [3, 3, 7, 7, 7]), (0.5, [3, 3, 7, 7, 7]), (1.0, [3] * 5)):
        changes = {"updates": 5, "inner_steps": 7, "early_steps": 3, "early": share}
        training(tmp_path / f"{share}", config=CONFIG.model_copy(update=changes)).train()
        assert steps == expected
        steps.clear()


@pytest.mark.parametrize(("eps", "noise_eps"), [(16 / 256, 0.0), (1 / 256, 16 / 256)])
def test_genuine_images_carry_noise_and_foreign_perturbations_in_their_shares(tmp_path, eps, noise_eps):
    changes = {"genuine_noise": 0.25, "genuine_perturbed": 0.5, "eps_start": eps, "eps_end": eps}
    changes |= {"genuine_noise_eps": noise_eps}
    run = training(tmp_path, config=CONFIG.model_copy(update=changes))
    genuine = torch.full((400, 1, 8, 8), 128 / 255)
    perturbation = torch.full_like(genuine, 3 / 255)
    changed = ((run._perturbed(genuine, perturbation, 5) - genuine) * 255).round().long().flatten(1)
    clean, carried = (changed == 0).all(1), (changed == 3).all(1)
    noisy = changed[~clean & ~carried]
    shares = [float(clean.float().mean()), float(carried.float().mean()), len(noisy) / 400]
    assert shares == pytest.approx([0.25, 0.5, 0.25], abs=0.07)
    assert noisy.abs().max() <= 16
    sizes = noisy.abs().amax(1)
    assert sizes.min() <= 3 < 13 <= sizes.max(), "noise is of every size up to eps"
    assert abs(float(noisy.float().mean())) < 0.3
    assert torch.equal(run._perturbed(genuine, perturbation, 5), run._perturbed(genuine, perturbation, 5))
    with pytest.raises(ValueError, match="exceed 1"):
        ShieldConfig(taps=("input",), genuine_noise=0.7, genuine_perturbed=0.7)


def test_without_shares_genuine_images_stay_as_they_are(tmp_path):
    genuine = torch.rand(6, 1, 8, 8).mul(255).round() / 255
    assert torch.equal(training(tmp_path)._perturbed(genuine, torch.ones_like(genuine), 0), genuine)


def test_a_shield_can_learn_without_the_cushion(tmp_path):
    """Then the Cushion has no part in it, but for the scale of its input."""
    images = torch.rand(6, 1, 16, 16).mul(255).round() / 255
    run = training(tmp_path / "a", cushion="bits:4", config=CONFIG.model_copy(update={"cushioned": 0.0}))
    behind = training(tmp_path / "b", cushion="bits:4")
    coarse = parse_cushion("bits:4")(images)
    for update in range(5):
        torch.testing.assert_close(behind._told_apart(images, update), behind._told_apart(coarse, update))
        assert run._told_apart(images, update) != run._told_apart(coarse, update)
    half = training(tmp_path / "c", cushion="bits:4", config=CONFIG.model_copy(update={"cushioned": 0.5}))
    assert 60 < sum(half._seen(update) is half.bare for update in range(200)) < 140


def test_the_watch_is_asked_and_remembered(tmp_path, every_update):
    config = CONFIG.model_copy(update={"updates": 5, "watch_every": 2})
    asked = []

    def watch(shield):
        asked.append(not any(p.requires_grad for p in shield.parameters()))
        return {"auroc_16": 0.5}

    run = training(tmp_path, config=config, watch=watch)
    run.train()
    assert asked == [True, True, True]
    assert [look["update"] for look in run.history] == [2, 4, 5]
    assert run.history[-1]["auroc_16"] == 0.5
    again = training(tmp_path, config=config, watch=watch)
    again.train()
    assert again.history == run.history


def ranked(folder, ranks, *, selected=True):
    """A training whose looks get these ranks, and the weights that each look saw."""
    seen = []

    def watch(shield):
        seen.append(weights(shield))
        return {"look": float(len(seen))}

    def rank(told):
        return ranks[int(told["look"]) - 1]

    config = CONFIG.model_copy(update={"updates": 6, "watch_every": 1, "selected": selected})
    return training(folder, config=config, watch=watch, rank=rank), seen


def test_the_best_sound_look_is_kept(tmp_path):
    run, seen = ranked(tmp_path / "a", [0.1, 0.7, 0.3, 0.7, 0.2, 0.6])
    assert equal(weights(run.train()), seen[3])
    assert run.done == 6
    unsound, seen = ranked(tmp_path / "b", [None] * 6)  # nothing to fall back on: the last one, alarms in its history
    assert equal(weights(unsound.train()), seen[5])
    plain, seen = ranked(tmp_path / "c", [0.1, 0.7, None, 0.7, 0.2, 0.6], selected=False)
    assert equal(weights(plain.train()), seen[5]), "the last one, whatever the looks said"


def test_training_ends_where_a_sound_shield_turns_unsound(tmp_path, every_update):
    run, seen = ranked(tmp_path, [None, 0.5, 0.4, None, 0.9, 0.9])
    assert equal(weights(run.train()), seen[1])
    assert (run.done, len(run.history)) == (4, 4)
    again, unseen = ranked(tmp_path, [0.0] * 6)  # a second call finds all that in the checkpoint
    assert equal(weights(again.train()), seen[1])
    assert (again.done, unseen) == (4, [])


def begun(folder, monkeypatch, **options):
    monkeypatch.setattr(shield_training, "CHECKPOINT_SECONDS", 0.0)

    class Stop(Exception):
        pass

    def stop(done, total, message):
        if done:
            raise Stop

    with pytest.raises(Stop):
        training(folder, **options).train(stop)


@pytest.mark.parametrize("lifetime", [1, 3])
def test_perturbations_are_kept_only_where_they_are_carried_on(tmp_path, lifetime):
    """300 kB an image at 224 px, in memory and in every checkpoint."""
    run = training(tmp_path, config=CONFIG.model_copy(update={"updates": 2, "lifetime": lifetime}))
    run.train()
    remembered = load_checkpoint(tmp_path)[0]["memory"]
    assert len(remembered) == (len(run.foreign) if lifetime > 1 else 0)
    assert remembered.any() == (lifetime > 1)


def test_another_training_in_the_folder_is_refused(tmp_path, monkeypatch):
    begun(tmp_path, monkeypatch)
    other = CONFIG.model_copy(update={"lr": 0.5})
    for options in ({"config": other}, {"label": 0}, {"cushion": "bits:3"}):
        with pytest.raises(ConfigError, match="other settings, data, Cushion or classifier; delete it"):
            training(tmp_path, **options).train()
    dataset, _ = squares(240)
    fewer = ShieldTraining(learned_classifier(), parse_cushion("none"), dataset.subset(range(40)), 1, CONFIG, tmp_path)
    with pytest.raises(ConfigError, match="delete it"):
        fewer.train()


def test_other_pixels_of_the_same_cases_or_of_the_same_cushion_are_another_training(tmp_path, monkeypatch):
    begun(tmp_path, monkeypatch, cushion="jpeg:80")
    dataset, split = squares(240)
    other = dataclasses.replace(dataset, images=255 - dataset.images)
    assert other.fingerprint == dataset.fingerprint
    learn = other.subset([*split.train, *split.adv_train])
    with pytest.raises(ConfigError, match="delete it"):
        ShieldTraining(learned_classifier(), parse_cushion("jpeg:80"), learn, 1, CONFIG, tmp_path).train()
    training(tmp_path, cushion="jpeg:80").restore()
    monkeypatch.setattr(JpegCushion, "_cushion", lambda self, pixels: pixels)  # as another codec may give others
    with pytest.raises(ConfigError, match="delete it"):
        training(tmp_path, cushion="jpeg:80").train()


def test_another_classifier_is_refused(tmp_path, monkeypatch):
    begun(tmp_path, monkeypatch)
    run = training(tmp_path)
    classifier = learned_classifier()
    bias = classifier.network.fc.bias
    saved = bias.detach().clone()
    try:
        with torch.no_grad():
            bias.add_(1e-3)
        with pytest.raises(ConfigError, match="classifier"):
            training(tmp_path).train()
    finally:
        with torch.no_grad():
            bias.copy_(saved)
    run.restore()


def test_a_damaged_checkpoint_is_refused(tmp_path, monkeypatch):
    begun(tmp_path, monkeypatch)
    (file,) = tmp_path.glob("*.safetensors")
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(ArtefactError, match="damaged checkpoint"):
        training(tmp_path).train()


def test_a_missing_class_is_named(tmp_path):
    dataset, _ = squares(240)
    only = dataset.subset(dataset.labels == 0)
    for label, wording in ((0, "any class but 'dark'"), (1, "class 'bright'")):
        with pytest.raises(DataError, match=f"no training image of {wording}"):
            ShieldTraining(learned_classifier(), parse_cushion("none"), only, label, CONFIG, tmp_path)


@pytest.mark.parametrize("taps", [("input",), ("relu", "last"), ("fc",)])
def test_one_image_of_a_class_is_enough_to_train_its_shield(taps, tmp_path):
    """And one of all others: nothing divides by n - 1, draws without end, or loses its numbers."""
    dataset, _ = squares(240)
    for label in (0, 1):
        rows = [*(dataset.labels == label).nonzero().flatten().tolist()[:1]]
        rows += (dataset.labels != label).nonzero().flatten().tolist()[:30]
        for these in (rows, rows[:2]):
            run = ShieldTraining(
                learned_classifier(),
                parse_cushion("jpeg:80"),
                dataset.subset(these),
                label,
                CONFIG.model_copy(update={"taps": taps, "updates": 3}),
                tmp_path / f"{label}-{len(these)}",
            )
            shield = run.train()
            assert all(value.isfinite().all() for value in shield.state_dict().values())


def test_a_loss_without_a_number_stops_the_training(tmp_path):
    run = training(tmp_path, config=CONFIG.model_copy(update={"lr": 1e30, "updates": 300}))
    with torch.no_grad():
        run.shield.join[2].bias.fill_(torch.nan)
    with pytest.raises(ConfigError, match="not finite at update 0; lower lr"):
        run.train()


def test_a_dataset_of_another_shape_is_refused(tmp_path):
    dataset, _ = squares(240)
    large = dataclasses.replace(dataset, images=dataset.images.repeat(1, 1, 2, 2))
    with pytest.raises(DataError, match="16"):
        ShieldTraining(learned_classifier(), parse_cushion("none"), large, 1, CONFIG, tmp_path)
