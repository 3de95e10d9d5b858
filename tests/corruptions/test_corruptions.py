"""What holds for every corruption there is: range, grid, draws by image, growing severities, refusals, the registry."""

import json
import re
from pathlib import Path

import pytest
import torch
from tests.cli.shop import call
from tests.cushions.drawings import drawn

from medaegis.corruptions import CORRUPTIONS, SEVERITIES, corruptions_for, find_corruption
from medaegis.errors import ConfigError, ImageError
from medaegis.images.datasets import load_dataset

names = pytest.mark.parametrize("name", CORRUPTIONS)
FIXED = {"defocus-blur", "gaussian-blur", "jpeg", "resampling", "pixelation", "vignetting", "black-corners"}
PHANTOMS = {"x-ray": ("phantom-xray", "gray"), "fundus": ("phantom-fundus", "rgb"), "skin": ("phantom-skin", "rgb")}


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cache")
    return {
        kind: load_dataset(f"{spec}?n=6", size=112, channels=channels, cache_dir=folder).pixels()
        for kind, (spec, channels) in PHANTOMS.items()
    }


@names
@pytest.mark.parametrize("shape", [(2, 1, 24, 40), (2, 3, 33, 17), (1, 1, 1, 1), (1, 3, 1, 7), (0, 1, 8, 8)])
def test_images_stay_images(name, shape):
    images = drawn(shape)
    before = images.clone()
    for severity in SEVERITIES:
        out = find_corruption(name)(images, severity)
        assert (out.shape, out.dtype) == (images.shape, torch.float32)
        assert bool(((out >= 0) & (out <= 1)).all())
        assert torch.equal(out, (out * 255).round() / 255)
        in_double = find_corruption(name)(images.double(), severity)
        assert in_double.dtype == torch.float64
        assert torch.equal((in_double * 255).round(), (out * 255).round().double())
    assert torch.equal(images, before)


@names
def test_what_is_drawn_depends_on_seed_and_image_alone(name):
    images, ids = drawn((5, 3, 40, 32)), torch.tensor([7, 3, 2**40, 0, 12])
    change = find_corruption(name)
    whole = change(images, 4, ids=ids)
    assert torch.equal(whole, torch.cat([change(images[i : i + 1], 4, ids=ids[i : i + 1]) for i in range(5)]))
    assert torch.equal(whole, change(images.flip(0), 4, ids=ids.flip(0)).flip(0))
    assert torch.equal(whole, change(images.contiguous(memory_format=torch.channels_last), 4, ids=ids))
    same = images[:1].expand(6, -1, -1, -1)
    by_image, by_seed = change(same, 4), torch.cat([change(same[:1], 4, seed=seed) for seed in range(6)])
    random = name not in FIXED and change.group != "tone"
    for found in (by_image, by_seed):
        assert (len({image.numpy().tobytes() for image in found}) > 1) == random


@names
def test_each_severity_is_further_from_the_clean_image(name, phantoms):
    change = find_corruption(name)
    for images in phantoms.values() if change.kind == "any" else [phantoms[change.kind]]:
        far = [255 * (change(images, k) - images).square().mean((1, 2, 3)).sqrt() for k in SEVERITIES]
        mean = torch.stack(far).mean(1)
        assert mean[0] > 0
        assert bool((mean.diff() > 0).all())
        assert mean[0] < 20  # grey levels: a shift or rotation of textured lungs counts most


@names
def test_a_grey_image_is_changed_as_a_colour_image_of_equal_channels(name):
    if CORRUPTIONS[name].group == "noise" or name in ("jpeg", "hairs"):
        pytest.skip("noise differs by channel, JPEG and hairs have colours")
    images = drawn((2, 1, 40, 56))
    grey = find_corruption(name)(images, 3)
    assert torch.equal(find_corruption(name)(images.expand(-1, 3, -1, -1), 3), grey.expand(-1, 3, -1, -1))


def test_the_registry_serves_each_kind_of_picture():
    for kind, expected in {
        "x-ray": {"collimation", "marker", "grid-lines"},
        "fundus": {"vignetting", "uneven-light", "bright-spot", "dust"},
        "skin": {"hairs", "bubbles", "black-corners"},
    }.items():
        own = {one.name for one in corruptions_for(kind)} - {one.name for one in corruptions_for("any")}
        assert own == expected
    assert [one.name for one in CORRUPTIONS.values()] == list(CORRUPTIONS)


def test_what_does_not_fit_is_refused():
    images = drawn((2, 1, 8, 8))
    change = find_corruption("shift")
    with pytest.raises(ConfigError, match="use one of: gaussian-noise, shot-noise"):
        find_corruption("fog")
    for severity in (0, 6, -1, 2.5):
        with pytest.raises(ConfigError, match="no such severity"):
            change(images, severity)
    for wrong in (images[0], images.byte(), drawn((1, 2, 8, 8)), images[..., :0]):
        with pytest.raises(ConfigError, match="give float images"):
            change(wrong, 1)
    with pytest.raises(ConfigError, match="one for each image"):
        change(images, 1, ids=torch.tensor([1]))
    for value in (float("nan"), -0.1, 1.1):
        with pytest.raises(ImageError, match="NaN or outside"):
            change(torch.where(torch.eye(8) > 0, value, images), 1)


def test_the_document_and_the_list_tell_of_all_as_they_are():
    page = (Path(__file__).parents[2] / "docs" / "corruptions.md").read_text(encoding="utf-8")
    told = re.findall(r"^\| `(\S+)` \| (.*) \| (.*) \| (.*) \|$", page, re.MULTILINE)
    assert told == [
        (one.name, one.title, one.parameter, " ".join(f"{amount:g}" for amount in one.amounts))
        for one in CORRUPTIONS.values()
    ]
    listed = json.loads(call("corruptions", "--json").stdout)
    assert [(one["name"], one["kind"], one["amounts"]) for one in listed] == [
        (one.name, one.kind, list(one.amounts)) for one in CORRUPTIONS.values()
    ]
    table = call("corruptions").stdout
    assert all(name in table for name in CORRUPTIONS)
