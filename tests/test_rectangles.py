"""Images that are no squares, everywhere that a size is used; a square stays one number, in folders too."""

import doctest
import json
import math

import numpy as np
import pytest
import torch
from PIL import Image
from tests.attacks.toys import TAPS, seeded, toy_bank, toy_classifier, toy_images
from tests.cli.shop import call
from tests.models.own_networks import TinyViT
from tests.models.tiny_networks import tiny
from torch import nn
from torch.nn import functional as F

import medaegis as ma
from medaegis import sizes
from medaegis.artefact import read_folder
from medaegis.attacks.balls import Linf
from medaegis.attacks.catalogue import CATALOGUE
from medaegis.attacks.choices import pick_targets
from medaegis.attacks.normal import fit_mixtures
from medaegis.attacks.victim import Victim
from medaegis.bench.analyse import maps
from medaegis.bench.analyse.spectra import passed, radial_spectrum
from medaegis.cushions import parse_cushion
from medaegis.detectors.reader import Reader
from medaegis.detectors.registry import DETECTORS, load_detector
from medaegis.detectors.shield import Shield
from medaegis.errors import ConfigError, DataError
from medaegis.guard.guard import Guard
from medaegis.images import load_dataset
from medaegis.models.augment import augment
from medaegis.models.store import load_classifier, save_classifier
from medaegis.models.taps import channels_first

SIZES = [(12, 20), (22, 13)]
RNG = np.random.default_rng(3)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("MEDAEGIS_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


def test_sizes_are_read_and_written():
    assert not doctest.testmod(sizes).failed
    for text, size in (("224", 224), ("224x320", (224, 320)), ("64x64", 64), (" 8x9 ", (8, 9))):
        assert sizes.parse_size(text) == size
        assert sizes.parse_size(sizes.told_size(size).removesuffix(" px").replace(" ", "")) == size
    for text in ("", "x", "12x", "12x13x14", "1.5", "-3", "12X13", "²x3", "0", "0x5"):
        with pytest.raises(ConfigError, match="size"):
            sizes.parse_size(text)
    assert sizes.as_size(np.int64(7)) == sizes.as_size(torch.Size([7, 7])) == 7
    for given in (True, 1.5, "16", None, (1, 2, 3), (1,), (8, True), (8, 9.0), (0, 4), -1):
        with pytest.raises(ConfigError, match="size: got"):
            sizes.as_size(given)


def test_a_picture_is_stretched_as_pillow_stretches_it():
    values = RNG.integers(0, 256, (1, 37, 53), dtype=np.uint8)
    picture = ma.Picture(values, 8, "drawn", 0, 1, "PNG", (), white=255)
    float_image = Image.fromarray(values[0].astype(np.float32) / np.float32(255))
    for height, width in ((24, 60), (80, 11)):
        expected = np.asarray(float_image.resize((width, height), Image.Resampling.BILINEAR))
        found = ma.model_input(picture, size=(height, width), channels="gray")
        assert found.shape == (1, height, width)
        assert np.abs(found[0] - expected * 255).max() <= 0.5 + 1e-3


def test_a_data_set_is_loaded_in_height_and_width(tmp_path):
    for label in ("a", "b"):
        (tmp_path / label).mkdir()
        for i in range(3):
            Image.fromarray(RNG.integers(0, 256, (20, 30), dtype=np.uint8)).save(tmp_path / label / f"{i}.png")
    same = load_dataset(f"folder:{tmp_path}", size=(20, 30), channels="gray")
    assert same.size == (20, 30)
    assert np.array_equal(same.images[0, 0].numpy(), np.asarray(Image.open(tmp_path / "a" / "0.png")))
    assert load_dataset(f"folder:{tmp_path}", size=(30, 10), channels="rgb").images.shape == (6, 3, 30, 10)
    assert load_dataset(f"folder:{tmp_path}", size=(16, 16), channels="gray").size == 16
    assert load_dataset("phantom-fundus?n=4", size=(24, 40), channels="rgb").images.shape == (4, 3, 24, 40)
    with pytest.raises(ConfigError, match="at least 8 px a side"):
        load_dataset(f"folder:{tmp_path}", size=(7, 30), channels="gray")


@pytest.mark.parametrize("size", SIZES)
def test_a_network_comes_back_with_its_size(size, tmp_path):
    c = toy_classifier(size=size)
    assert (c.size, c.image_shape) == (size, (1, *size))
    assert c.tap_shapes(("input",)) == {"input": (1, *size)}
    save_classifier(c, tmp_path / "c")
    assert read_folder(tmp_path / "c", kind="classifier").manifest["classifier"]["size"] == list(size)
    again, x = load_classifier(tmp_path / "c", factory=tiny), toy_images(4, c)
    assert (again.size, x.shape[2:]) == (size, size)
    assert torch.equal(again(x), c(x))
    with pytest.raises(DataError, match=rf"expected floating point \(N, 1, {size[0]}, {size[1]}\)"):
        c(x.transpose(2, 3))


def test_a_square_is_one_number_as_it_was(tmp_path):
    c = toy_classifier(size=(16, 16))
    assert c.size == 16
    save_classifier(c, tmp_path / "c")
    assert read_folder(tmp_path / "c", kind="classifier").manifest["classifier"]["size"] == 16


@pytest.mark.parametrize("name", CATALOGUE)
def test_every_attack_stays_in_its_ball(name):
    entry = CATALOGUE[name]
    k = 4 if entry.classes > 2 else 2
    classifier = toy_classifier(k, size=SIZES[0])
    victim = Victim(classifier, shields=toy_bank(classifier) if entry.adaptive else None, dtype=torch.float32)
    x, known, lesson = toy_images(3, classifier), toy_images(40, classifier, seed=5), torch.arange(40) % k
    y = victim.judge(x).predicted
    options = {"targets": pick_targets(y, k)}
    if entry.attack.objective.needs_guides:
        options["guides"] = known[:3]
    if entry.attack.objective.needs_normal:
        options["normal"] = fit_mixtures(victim.pooled(known, TAPS), lesson, classes=k)
    if entry.attack.learns:
        options["known"] = known, lesson
    attack = entry.attack.with_options(steps=min(entry.attack.steps, 9))
    eps = 1.0 if entry.minimal else 16 / 255
    found = attack.run(victim, x, y, eps=eps, **options)
    assert found.images.shape == x.shape
    assert torch.equal(found.verdict.predicted, victim.judge(found.images).predicted)
    far = (found.images - x).abs().amax()
    assert far > 0
    if isinstance(entry.attack.ball, Linf):
        assert far <= eps + 1e-6


@pytest.mark.parametrize("name", DETECTORS)
def test_every_detector_is_fitted_scores_and_comes_back(name, tmp_path):
    reader = Reader(toy_classifier(size=SIZES[1]), cushion=parse_cushion("jpeg:80"))
    x = toy_images(40, reader.classifier)
    clean, hostile = (
        reader.read(x),
        reader.read(((x + 0.2 * torch.rand(x.shape).round()).clamp(0, 1) * 255).round() / 255),
    )
    options = {"bank": toy_bank(reader.classifier)} if name == "shield" else {}
    if name.startswith("dnn"):
        options = {"steps": 1, "batch_size": 2}
    if name.startswith("lid"):
        options = {"neighbours": 4, "reference": 20}
    detector = DETECTORS[name].make(**options).fit(clean, torch.arange(40) % 2, attacked=hostile)
    detector.save(tmp_path / "d")
    assert torch.equal(load_detector(tmp_path / "d").score(hostile), detector.score(hostile))


class ChannelsLast(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.fc = nn.Conv2d(3, 5, 4, stride=4), nn.LayerNorm(5), nn.Linear(5, 2)

    def forward(self, x):
        return self.fc(self.norm(self.conv(x).permute(0, 2, 3, 1)).mean((1, 2)))


def test_maps_with_the_channels_last_are_turned():
    model = ma.wrap(ChannelsLast(), classes="ab", size=(20, 32), normalise=None, taps=("norm", "conv"))
    assert model.tap_shapes() == {"norm": (5, 5, 8), "conv": (5, 5, 8)}


@pytest.mark.parametrize("stride", [1, 2, 3, 4, 7, 8, 16, 32])
@pytest.mark.parametrize("channels", [1, 3, 64, 197])
@pytest.mark.parametrize("rounding", [math.floor, math.ceil])
def test_which_sides_are_the_places_is_told_by_the_proportions_of_the_images(stride, channels, rounding):
    for sides in ((224, 320), (500, 333), (224, 224)):
        h, w = (max(1, rounding(side / stride)) for side in sides)
        first, last = torch.zeros(1, channels, h, w), torch.zeros(1, h, w, channels)
        assert channels_first(first, sides).shape[1:] == (channels, h, w)
        if channels != w and not abs(w / channels - sides[0] / sides[1]) < 0.3:  # else both readings are in proportion
            assert channels_first(last, sides).shape[1:] == (channels, h, w)


class WideViT(TinyViT):
    """Patches of 4 x 4 of an image of 12 x 20 pixels, and a class token: 16 tokens."""

    def __init__(self):
        super().__init__(2)
        self.places = nn.Parameter(torch.zeros(1, 16, 8))
        nn.init.normal_(self.places, std=0.5)


def test_tokens_are_patches_in_the_proportions_of_the_images():
    with seeded(3):
        model = ma.wrap(WideViT(), classes="ab", size=(12, 20), normalise=None, taps=("blocks.0",))
    x = torch.rand(4, 3, 12, 20)
    assert maps.spatial(model, "blocks.0") == (3, 5)
    assert maps.attention(model, x, torch.zeros(4, dtype=torch.int64), "blocks.0").cam.shape == (4, 3, 5)
    shield = Shield(model.tap_shapes(), width=4, hidden=8)
    assert shield(model.activations(x).features).shape == (4,)


def test_spectra_keep_the_energy_and_find_the_frequency_of_a_wave():
    images = torch.rand(3, 2, 18, 30, dtype=torch.float64)
    found = radial_spectrum(images)
    assert found.energy() == pytest.approx(float(images.square().mean()))
    assert int(found.count.sum()) == 18 * 30
    assert (found.count > 0).all()
    across = torch.cos(2 * math.pi * 6 * torch.arange(30) / 30).expand(1, 1, 18, 30)
    down = torch.cos(2 * math.pi * 6 * torch.arange(18) / 18)[:, None].expand(1, 1, 18, 30)
    assert radial_spectrum(across).frequency[radial_spectrum(across).power.argmax()] == pytest.approx(6 / 30)
    assert radial_spectrum(down).frequency[radial_spectrum(down).power.argmax()] == pytest.approx(6 / 18)
    torch.testing.assert_close(passed(images, images), torch.ones_like(found.power))


def test_a_turn_in_training_keeps_angles():
    """The middle of a wide picture is turned as the middle of the square that it was cut from."""
    square = F.interpolate(torch.rand(5, 1, 12, 12), size=(80, 80), mode="bicubic").clamp(0, 1)
    u = torch.rand(5, 7)
    u[:, 3:] = 0.5  # no shift, which is a share of each side, and no change of contrast
    wide, tall = augment(square[:, :, 20:60], u), augment(square[:, :, :, 20:60], u)
    whole = augment(square, u)
    torch.testing.assert_close(wide[:, :, 10:30, 30:50], whole[:, :, 30:50, 30:50], atol=1e-4, rtol=0)
    torch.testing.assert_close(tall[:, :, 30:50, 10:30], whole[:, :, 30:50, 30:50], atol=1e-4, rtol=0)
    assert (whole - square).abs().max() > 0.05


def test_a_guard_of_rectangles_judges_files_of_any_shape(tmp_path):
    classifier = toy_classifier(size=(20, 32))
    Guard(classifier, parse_cushion("jpeg:80"), toy_bank(classifier), tnr=0.9).save(tmp_path / "guard")
    guard = ma.load(tmp_path / "guard", factory=tiny)
    (image,) = toy_images(1, classifier, seed=4)
    pixels = image[0].mul(255).round().byte().numpy()
    for name, stretched in (("same", pixels), ("larger", np.kron(pixels, np.ones((3, 5), np.uint8)))):
        Image.fromarray(stretched).save(tmp_path / f"{name}.png")
    found = {one.path.stem: one for one in guard.screen([tmp_path / "same.png", tmp_path / "larger.png"])}
    assert [found["same"].finding] == guard.inspect(image[None])
    assert {one.status for one in found.values()} <= {"accepted", "rejected"}
    (turned,) = guard.inspect(image[None].transpose(2, 3))
    assert turned.reason == "error"
    assert "(N, 1, 20, 32)" in turned.detail


def test_by_command_line_from_training_to_screening(tmp_path):
    data, size = "phantom-xray?n=240", "24x40"
    classifier, guard = tmp_path / "classifier", tmp_path / "guard"
    own = ["--factory", "tests.models.tiny_networks:tiny"]
    trained = call(
        *("train", data, "--backbone", own[1], "--normalise", "imagenet", "--taps", "relu", "--size", size),
        *("--epochs", 1, "--out", classifier),
    )
    assert trained.exit_code == 0, trained.output
    assert "24 x 40 px gray" in trained.stdout
    fitted = call("fit", classifier, data, "--updates", 2, "--out", guard, *own)
    assert fitted.exit_code == 0, fitted.output
    told = call("verify", guard, *own)
    assert "24 x 40 px gray" in told.stdout
    assert json.loads(call("verify", guard, "--json", *own).stdout)["size"] == [24, 40]
    attacked = call(
        *("attack", guard, data, "--attack", "wb", "--eps", "16/256", "--steps", 2, "--limit", 3),
        *("--out", tmp_path / "attacked", *own),
    )
    assert attacked.exit_code == 0, attacked.output
    files = list((tmp_path / "attacked").glob("*.png"))
    assert {Image.open(file).size for file in files} == {(40, 24)}
    screened = call("screen", guard, tmp_path / "attacked", "--format", "jsonl", *own)
    records = [json.loads(line) for line in screened.stdout.splitlines()]
    assert len(records) == len(files)
    assert {one["status"] for one in records} <= {"accepted", "rejected"}
    for wrong in ("24x", "24x4", "wide"):
        refused = call("data", "inspect", data, "--size", wrong)
        assert refused.exit_code == 2
        assert "size" in refused.stderr
