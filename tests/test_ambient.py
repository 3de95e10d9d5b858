"""What a caller has switched on in PyTorch changes no result: each is compared, bit for bit, with that outside it."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from tests.attacks.toys import TAPS, toy_bank, toy_classifier, toy_images
from tests.guard.fitted import CONFIG as SHIELD
from tests.guard.fitted import training
from tests.models.drawn import CONFIG, squares
from tests.models.tiny_networks import tiny

from medaegis.ambient import exact_float32, own_modes
from medaegis.attacks.catalogue import CATALOGUE
from medaegis.attacks.choices import pick_targets
from medaegis.attacks.normal import fit_mixtures
from medaegis.attacks.victim import Victim
from medaegis.cushions import parse_cushion
from medaegis.detectors.reader import Reader
from medaegis.detectors.registry import DETECTORS, load_detector
from medaegis.guard.guard import Guard
from medaegis.models.training import train_classifier


@contextmanager
def float64_default() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@contextmanager
def inference_under_autocast() -> Iterator[None]:
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        yield


MODES = {"no_grad": torch.no_grad, "inference": inference_under_autocast, "float64": float64_default}
each_mode = pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
CLASSIFIERS = {k: toy_classifier(k) for k in (2, 4)}
BANKS = {k: toy_bank(classifier) for k, classifier in CLASSIFIERS.items()}
IMAGES, KNOWN = (toy_images(40, CLASSIFIERS[2], seed=seed) for seed in (1, 5))
NOISE = torch.rand(IMAGES.shape, generator=torch.Generator().manual_seed(1)) - 0.5


def test_the_modes_are_left_and_come_back():
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        with own_modes():
            assert not torch.is_inference_mode_enabled()
            assert not torch.is_grad_enabled(), "leaving inference mode must not switch gradients on"
            assert not torch.is_autocast_enabled("cpu")
        assert torch.is_inference_mode_enabled()
        assert torch.is_autocast_enabled("cpu")
    with own_modes():
        assert torch.is_grad_enabled()


def attacked(entry):
    """Built and run where it is called, but for the weights."""
    k = 4 if entry.classes > 2 else 2
    victim = Victim(CLASSIFIERS[k], shields=BANKS[k] if entry.adaptive else None, dtype=torch.float32)
    images, known = IMAGES[:2].clone(), KNOWN.clone()
    labels, lesson = victim.judge(images).predicted, torch.arange(40) % k
    options = {"targets": pick_targets(labels, k)}
    if entry.attack.objective.needs_guides:
        options["guides"] = known[:2]
    if entry.attack.objective.needs_normal:
        options["normal"] = fit_mixtures(victim.pooled(known, TAPS), lesson, classes=k)
    if entry.attack.learns:
        options["known"] = known, lesson
    attack = entry.attack.with_options(steps=min(entry.attack.steps, 9))
    return attack.run(victim, images, labels, eps=1.0 if entry.minimal else 8 / 255, **options)


@pytest.mark.parametrize("name", CATALOGUE)
def test_every_attack(name):
    outside = attacked(CATALOGUE[name])
    for how in ("inference", "float64"):
        with MODES[how]():
            inside = attacked(CATALOGUE[name])
        assert inside.images.dtype == torch.float32, how
        assert torch.equal(outside.images, inside.images), how
        assert torch.equal(outside.verdict.logits, inside.verdict.logits), how


def test_float64_images_are_those_of_float32():
    victim = Victim(CLASSIFIERS[2])
    images = IMAGES[:2]
    labels = victim.judge(images).predicted
    attack = CATALOGUE["pgd"].attack
    one, other = (attack.run(victim, x, labels, eps=8 / 255) for x in (images, (images * 255).round().double() / 255))
    assert torch.equal(one.images, other.images)


def scores(name):
    reader = Reader(CLASSIFIERS[2])
    clean, noisy = reader.read(IMAGES.clone()), reader.read(((IMAGES + 0.3 * NOISE).clamp(0, 1) * 255).round() / 255)
    options = {"bank": BANKS[2]} if name == "shield" else {}
    if name.startswith("dnn"):
        options = {"steps": 1, "batch_size": 2}
    detector = DETECTORS[name].make(**options).fit(clean, clean.predicted, attacked=noisy)
    return detector, reader.read(KNOWN[:20])


@pytest.mark.parametrize("name", DETECTORS)
def test_every_detector(name, tmp_path):
    detector, seen = scores(name)
    outside = detector.score(seen)
    detector.save(tmp_path / "detector")
    for how in ("inference", "float64"):
        with MODES[how]():
            detector, seen = scores(name)
            assert torch.equal(outside, detector.score(seen)), how
            assert torch.equal(outside, load_detector(tmp_path / "detector").score(seen)), how


@each_mode
def test_a_guard_made_saved_and_loaded_there(mode, tmp_path):
    images = KNOWN[:12]
    guard = Guard(CLASSIFIERS[2], parse_cushion("jpeg:80"), BANKS[2], tnr=0.9)
    outside, logits = guard.inspect(images), guard.classifier_logits(images)
    guard.save(tmp_path / "guard")
    assert {finding.reason for finding in outside} >= {"accepted"}
    with mode():
        loaded = Guard.load(tmp_path / "guard", factory=tiny)
        assert loaded.inspect(images) == guard.inspect(images) == outside
        assert torch.equal(loaded.classifier_logits(images), logits)
    # What was made there can be attacked elsewhere.
    labels = loaded.judge(images).predicted
    found = CATALOGUE["wb"].attack.with_options(steps=3).run(loaded.victim(), images, labels, eps=8 / 255)
    assert (found.images != images).any()


def same_weights(one, other):
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b.to(a)) for a, b in pairs)


@each_mode
def test_a_shield_in_training(mode, tmp_path):
    config = SHIELD.model_copy(update={"updates": 3})
    outside = training(tmp_path / "outside", config=config).train()
    with mode():
        inside = training(tmp_path / "inside", config=config).train()
    assert same_weights(outside, inside)


@pytest.mark.parametrize("how", ["no_grad", "inference"])
def test_a_classifier_in_training(how, tmp_path):
    config = CONFIG.model_copy(update={"epochs": 1})
    outside = train_classifier(*squares(), config, tmp_path / "outside")
    with MODES[how]():
        inside = train_classifier(*squares(), config, tmp_path / "inside")
    assert same_weights(outside, inside)


def test_a_network_of_float64_is_trained_and_guarded_as_any_other(tmp_path):
    """What the default dtype makes of the user's own network is his; the guard still judges in float32."""
    with float64_default():
        classifier = train_classifier(*squares(), CONFIG.model_copy(update={"epochs": 1}), tmp_path / "classifier")
        assert classifier.dtype == torch.float64
        verdict = Victim(classifier).judge(squares()[0].pixels([0, 1]))
    assert verdict.logits.dtype == torch.float32
    assert verdict.logits.isfinite().all()


def test_verdicts_are_float32_whatever_a_caller_allows(monkeypatch):
    """A GPU's TF32 is off while verdicts are made, in every thread, and a caller's own setting is put back after."""
    matmul, conv = torch.backends.cuda.matmul, torch.backends.cudnn.conv
    before = matmul.fp32_precision, conv.fp32_precision
    victim, seen = Victim(toy_classifier()), []
    activations = type(victim.exact).activations

    def watched(*given, **options):
        seen.append((matmul.fp32_precision, conv.fp32_precision))
        return activations(*given, **options)

    monkeypatch.setattr(type(victim.exact), "activations", watched)
    try:
        matmul.fp32_precision = conv.fp32_precision = "tf32"
        images = toy_images(4, victim.exact)
        victim.judge(images)
        with exact_float32():
            with exact_float32():
                victim.pooled(images, ("relu",))
            seen.append((matmul.fp32_precision, conv.fp32_precision))
            matmul.fp32_precision = conv.fp32_precision = "tf32"  # by somebody else, while a pass goes on or hangs
            victim.judge(images)
        assert (matmul.fp32_precision, conv.fp32_precision) == ("tf32", "tf32")
    finally:
        matmul.fp32_precision, conv.fp32_precision = before
    assert seen == [("ieee", "ieee")] * 4
