"""Saved classifiers come back the same; what does not fit, or would run code, is refused."""

import json

import pytest
import torch
from tests.models.tiny_networks import Tiny, lived_in

from medaegis.artefact import read_folder, write_folder
from medaegis.errors import ArtefactError, ConfigError
from medaegis.models.backbones import create_backbone, default_taps, load_factory
from medaegis.models.classifier import Classifier
from medaegis.models.normalisation import IMAGENET_MEAN, IMAGENET_STD
from medaegis.models.store import load_classifier, read_training, save_classifier

OWN = "tests.models.tiny_networks:tiny"


def own(**options):
    told = {
        "classes": ("a", "b"),
        "size": 16,
        "channels": "gray",
        "taps": ("relu", "input"),
        "backbone": OWN,
        "mean": IMAGENET_MEAN,
        "std": IMAGENET_STD,
    }
    return Classifier(lived_in(Tiny(2)), **{**told, **options}).eval()


def test_a_registered_backbone_comes_back_by_name(tmp_path):
    network = lived_in(create_backbone("mobilenet_v2", classes=2))
    taps = default_taps("mobilenet_v2")
    c = Classifier(
        network, classes=("a", "b"), size=32, taps=taps, mean=IMAGENET_MEAN, std=IMAGENET_STD, backbone="mobilenet_v2"
    ).eval()
    save_classifier(c, tmp_path / "c", {"training": {"epochs": 3}})
    # A factory is for networks of one's own; beside them a registered one may be loaded, as a surrogate.
    again = load_classifier(tmp_path / "c", factory=lambda classes: pytest.fail("asked for a network"))
    x = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert torch.equal(again(x), c(x))
    assert (again.classes, again.taps, again.size, again.channels) == (c.classes, c.taps, 32, "rgb")
    assert not again.training
    assert read_training(tmp_path / "c") == {"epochs": 3}


def test_an_own_network_needs_its_factory(tmp_path):
    c = own(mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.1))
    save_classifier(c, tmp_path / "c")
    with pytest.raises(
        ArtefactError,
        match=rf"may not have code run; if you trust that code, name it yourself: --factory {OWN}, in Python factory=",
    ):
        load_classifier(tmp_path / "c")
    with pytest.raises(ArtefactError) as caught:
        load_classifier(tmp_path / "c", factory=lambda classes: torch.nn.Linear(3, classes))
    assert caught.value.remedy == f"give the factory it was wrapped with, {OWN}"
    assert "write the folder anew" not in str(caught.value)
    before = torch.random.get_rng_state()
    again = load_classifier(tmp_path / "c", factory=load_factory(OWN))
    assert torch.equal(torch.random.get_rng_state(), before), "loading leaves the random numbers of others alone"
    x = torch.rand(2, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    assert torch.equal(again(x), c(x))


@pytest.mark.parametrize(
    ("stored", "built", "found"),
    [
        (torch.float64, torch.float32, torch.float64),
        (torch.float32, torch.float16, torch.float32),
        (torch.float16, torch.bfloat16, torch.float32),
        (torch.float16, torch.float32, torch.float32),
        (torch.bfloat16, torch.bfloat16, torch.bfloat16),
    ],
)
def test_no_weight_is_rounded_on_its_way_in(tmp_path, stored, built, found):
    c = own()
    c.network.to(stored)
    save_classifier(c, tmp_path / "c")
    again = load_classifier(tmp_path / "c", factory=lambda classes: Tiny(classes).to(built))
    assert again.dtype == found
    for name, weight in c.network.state_dict().items():
        assert torch.equal(again.network.state_dict()[name].double(), weight.double()), name


def test_a_frozen_classifier_is_not_stored(tmp_path):
    with pytest.raises(ConfigError, match="store the one it was frozen from"):
        save_classifier(own().frozen(), tmp_path / "c")


def test_a_folder_is_never_asked_for_code(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.import_module", lambda name: pytest.fail(f"{name} was imported"))
    save_classifier(own(backbone="os:system"), tmp_path / "c")
    with pytest.raises(ArtefactError, match="may not have code run"):
        load_classifier(tmp_path / "c")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": "huge"}, "'size'"),
        ({"size": 10**9}, "'size'"),
        ({"channels": "cmyk"}, "'channels'"),
        ({"classes": ["a"]}, "'classes'"),
        ({"surplus": 1}, "'surplus'"),
        ({"taps": ["nowhere"]}, "no tap 'nowhere'"),
        ({"classes": ["a", "b", "c"]}, "do not fit"),
        ({"backbone": "resnet19"}, "do not fit"),
        ({"mean": [1.0, 2.0]}, "do not fit"),
        ({"mean": []}, "'mean'"),
        ({"std": [0.2, 0.0, 0.2]}, "'std.1'"),
        ({"std": [-0.2]}, "'std.0'"),
        ({"std": [True]}, "'std.0'"),
        ({"size": 16.0}, "'size'"),
        ({"size": True}, "'size'"),
        ({"size": [16]}, "'size'"),
        ({"size": [16, 20, 3]}, "'size'"),
        ({"size": [16, 0]}, "'size'"),
        ({"size": [16, 10**9]}, "'size'"),
        ({"size": [16, True]}, "'size'"),
        ({"size": [16.0, 20]}, "'size'"),
        ({"size": "16x20"}, "'size'"),
        ({"size": [[16, 20]]}, "'size'"),
        ({"classes": ["a", "a"]}, "'classes'"),
        ({"classes": ["a", ""]}, "'classes.1'"),
        ({"taps": [""]}, "'taps.0'"),
        ({"taps": ["relu", "relu"]}, "'taps'"),
    ],
)
def test_a_description_that_does_not_fit_is_refused(tmp_path, change, message):
    save_classifier(own(), tmp_path / "c")
    stored = read_folder(tmp_path / "c", kind="classifier")
    told = {**stored.manifest["classifier"], **change}
    factory = None if "backbone" in change else load_factory(OWN)
    write_folder(
        tmp_path / "d", kind="classifier", manifest={"classifier": told}, tensors={"network": stored.tensors("network")}
    )
    with pytest.raises(ArtefactError, match=message):
        load_classifier(tmp_path / "d", factory=factory)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("conv1.weight", float("nan")),
        ("fc.bias", float("inf")),
        ("bn1.running_var", -1.0),
        ("bn1.running_var", float("inf")),
        ("bn1.running_mean", float("nan")),
        ("bn1.num_batches_tracked", -5),
    ],
)
def test_a_weight_that_cannot_be_is_refused(tmp_path, name, value):
    c = own()
    weights = c.network.state_dict()[name]
    weights[(0,) * weights.ndim] = value
    save_classifier(c, tmp_path / "c")
    with pytest.raises(ArtefactError, match=name):
        load_classifier(tmp_path / "c", factory=load_factory(OWN))


def test_a_size_whose_pass_would_fill_the_memory_is_refused_before_it_is_tried(tmp_path):
    network = create_backbone("vgg16_bn", classes=2)
    told = {"classes": ("a", "b"), "size": 32, "backbone": "vgg16_bn", "mean": (0.5,), "std": (0.2,)}
    c = Classifier(network, **told).eval()
    save_classifier(c, tmp_path / "c")
    stored = read_folder(tmp_path / "c", kind="classifier")
    told = {**stored.manifest["classifier"], "size": 4096}
    write_folder(
        tmp_path / "d", kind="classifier", manifest={"classifier": told}, tensors={"network": stored.tensors("network")}
    )
    # The first convolution gives 64 maps of 4096 x 4096.
    with pytest.raises(ArtefactError, match=f"{64 * 4096**2:,} numbers"):
        load_classifier(tmp_path / "d")


def test_a_folder_without_a_description_is_refused(tmp_path):
    write_folder(tmp_path / "d", kind="classifier", manifest={}, tensors={"network": own().network.state_dict()})
    with pytest.raises(ArtefactError, match="describes no classifier"):
        load_classifier(tmp_path / "d")


def test_a_changed_weight_is_noticed(tmp_path):
    save_classifier(own(), tmp_path / "c")
    file = tmp_path / "c" / "network.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(ArtefactError, match="changed"):
        load_classifier(tmp_path / "c", factory=load_factory(OWN))


def test_the_manifest_is_readable_by_others(tmp_path):
    save_classifier(own(), tmp_path / "c")
    told = json.loads((tmp_path / "c" / "manifest.json").read_text())
    assert told["classifier"]["classes"] == ["a", "b"]
    assert told["classifier"]["taps"] == ["relu", "input"]
