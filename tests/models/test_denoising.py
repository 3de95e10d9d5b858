"""Feature denoising: the filter against NumPy's and SciPy's transforms, and a network with it against one by hand."""

import copy
import doctest
import json

import numpy as np
import pytest
import torch
from scipy.fft import dctn, idctn
from tests.models.drawn import CONFIG, squares
from tests.models.test_training import Stop, stop_at
from tests.models.tiny_networks import Tiny, lived_in, tiny
from torch import nn

from medaegis.artefact import read_folder, write_folder
from medaegis.attacks.catalogue import find_attack
from medaegis.attacks.victim import Victim
from medaegis.errors import ArtefactError, ConfigError
from medaegis.models import denoising, training
from medaegis.models.backbones import create_backbone
from medaegis.models.classifier import Classifier
from medaegis.models.denoising import Denoising, denoised, denoising_of, low_pass, parse_denoising
from medaegis.models.folding import deviation, fold_batchnorm
from medaegis.models.store import describe_classifier, load_classifier, save_classifier
from medaegis.models.training import train_classifier

OWN = "tests.models.tiny_networks:tiny"
BEHIND = Denoising(layers=("conv1", "last"), keep=0.5)


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def classifier(network, **options):
    told = {"classes": ("a", "b"), "size": 16, "channels": "gray", "taps": ("last",), "backbone": OWN}
    return Classifier(network, **{**told, **options}, mean=(0.5,), std=(0.25,)).eval()


class TestFilter:
    @pytest.mark.parametrize(("height", "width", "keep"), [(12, 20, 0.25), (7, 5, 0.5), (8, 8, 0.01)])
    def test_it_leaves_the_low_corner_of_the_cosine_transform(self, height, width, keep):
        maps = noise(2, 3, height, width)
        weights = dctn(maps.numpy(), axes=(2, 3), norm="ortho")
        weights[:, :, max(1, round(keep * height)) :] = 0
        weights[..., max(1, round(keep * width)) :] = 0
        expected = idctn(weights, axes=(2, 3), norm="ortho")
        assert np.allclose(low_pass(maps, keep), expected, atol=1e-12)

    def test_it_is_fouriers_of_a_map_and_its_mirror_image(self):
        """So nothing comes over from the opposite border."""
        line = noise(1, 16).numpy()
        spectrum = np.fft.fft(np.concatenate([line, line[:, ::-1]], 1), axis=1)
        spectrum[:, 4:-3] = 0  # 0 to 3 either way
        expected = np.fft.ifft(spectrum, axis=1).real[:, :16]
        assert np.allclose(low_pass(torch.from_numpy(line), 0.25), expected, atol=1e-12)

    def test_a_gradient_passes_it_as_a_map_does(self):
        maps, seen = noise(2, 3, 8, 8).requires_grad_(), noise(2, 3, 8, 8, seed=1)
        (grad,) = torch.autograd.grad((low_pass(maps, 0.5) * seen).sum(), maps)
        torch.testing.assert_close(grad, low_pass(seen, 0.5))
        assert torch.autograd.gradcheck(lambda z: low_pass(z, 0.5), noise(1, 4, 4).requires_grad_())

    def test_also_after_its_first_use_without_gradients(self):
        denoising._projection.cache_clear()
        with torch.inference_mode():
            low_pass(torch.rand(1, 1, 9, 9), 0.5)
        maps = torch.rand(1, 1, 9, 9).requires_grad_()
        low_pass(maps, 0.5).square().sum().backward()
        assert maps.grad is not None

    def test_low_precision_stays(self):
        maps = torch.rand(1, 2, 8, 8)
        low = low_pass(maps.bfloat16(), 0.5)
        assert low.dtype == torch.bfloat16
        torch.testing.assert_close(low.float(), low_pass(maps, 0.5), atol=0.02, rtol=0.02)


class ByHand(Tiny):
    """The same network with the filter written into it."""

    def forward(self, x):
        x = self.relu(self.bn1(low_pass(self.conv1(x), BEHIND.keep)))
        y = self.bn2(self.conv2(x))
        y += x
        y = low_pass(self.last(y), BEHIND.keep)
        return self.fc(self.drop(y.mean((2, 3))))


class TestNetwork:
    def test_it_computes_what_one_with_filters_written_into_it_does(self):
        plain = lived_in(Tiny(3))
        before = copy.deepcopy(plain)
        ours, theirs = denoised(plain, layers=BEHIND.layers, keep=BEHIND.keep), lived_in(ByHand(3))
        theirs.load_state_dict(plain.state_dict())
        x = noise(2, 3, 16, 16).float()
        torch.testing.assert_close(ours(x), theirs(x))
        assert not torch.allclose(ours(x), plain(x), atol=1e-3)
        torch.testing.assert_close(plain(x), before(x))
        assert denoising_of(plain) is None
        assert denoising_of(copy.deepcopy(ours)) == BEHIND

    def test_taps_hear_the_filtered_map_whichever_hook_came_first(self):
        tapped = classifier(lived_in(Tiny(2)), taps=("conv1", "last"))
        later = tapped.around(denoised(tapped.network, layers=BEHIND.layers, keep=BEHIND.keep))
        x = noise(2, 1, 16, 16).float().sigmoid()
        with torch.no_grad():
            given = tapped.network.conv1(((x - 0.5) / 0.25).expand(-1, 3, -1, -1))
        seen = later.activations(x, taps=("conv1", "bn1:input")).features
        torch.testing.assert_close(seen["conv1"], low_pass(given, 0.5))
        assert torch.equal(seen["conv1"], seen["bn1:input"])

    @pytest.mark.parametrize("layer", ["conv1", "bn1", "layer1", "layer2.0.conv1"])
    def test_folding_loses_no_filter(self, layer):
        network = denoised(lived_in(create_backbone("resnet18", classes=2)), layers=[layer], keep=0.3)
        whole = classifier(network, size=32, taps=("layer1.0", "layer4.0"), backbone="resnet18")
        x = noise(3, 1, 32, 32).float().sigmoid()
        with torch.no_grad():
            assert deviation(whole.frozen()(x), whole(x)) < 1e-4
            assert deviation(whole.frozen(fold=False)(x), whole(x)) < 1e-6
        assert denoising_of(whole.frozen().network) == Denoising(layers=(layer,), keep=0.3)

    def test_a_batch_norm_whose_convolution_is_filtered_folds_all_the_same(self):
        """The filter keeps what is constant, so the two change places."""
        network = denoised(lived_in(Tiny(2)), layers=["conv1"], keep=0.5)
        folded = fold_batchnorm(network, noise(2, 3, 16, 16).float())
        assert sum(isinstance(module, nn.BatchNorm2d) for module in folded.modules()) == 0

    def test_an_attack_sees_through_it(self):
        """Its walk ends where a walk on the network with filters written into it does."""
        ours = denoised(lived_in(Tiny(2)), layers=BEHIND.layers, keep=BEHIND.keep)
        theirs = lived_in(ByHand(2))
        theirs.load_state_dict(ours.state_dict())
        x = (noise(6, 1, 16, 16).float().sigmoid() * 255).round() / 255
        found = []
        for network in (ours, theirs):
            victim = Victim(classifier(network), dtype=torch.float32)
            labels = victim.judge(x).predicted
            found.append(find_attack("bim").attack.run(victim, x, labels, eps=8 / 256))
        assert (found[0].images - found[1].images).abs().mean() < 0.1 / 255
        assert torch.equal(found[0].fooled, found[1].fooled)

    @pytest.mark.parametrize(
        ("layers", "keep", "problem"),
        [
            (["conv3"], 0.5, "no module 'conv3'.*conv"),
            ([], 0.5, r"\(0, 1\)"),
            (["conv1", "conv1"], 0.5, r"\(0, 1\)"),
            (["conv1"], 0.0, r"\(0, 1\)"),
            (["conv1"], 1.0, r"\(0, 1\)"),
            (["conv1"], float("nan"), r"\(0, 1\)"),
        ],
    )
    def test_what_makes_no_filter_is_refused(self, layers, keep, problem):
        with pytest.raises(ConfigError, match=problem):
            denoised(Tiny(2), layers=layers, keep=keep)

    def test_a_module_without_maps_and_a_second_filter_are_refused(self):
        network = denoised(lived_in(Tiny(2)), layers=["fc"], keep=0.5)
        with pytest.raises(ConfigError, match=r"fc gives shape \(2, 2\)"):
            classifier(network)
        with pytest.raises(ConfigError, match="already"):
            denoised(network, layers=["conv1"], keep=0.5)
        compiled = torch.jit.script(nn.Sequential(nn.Conv2d(3, 4, 3)))
        with pytest.raises(ConfigError, match="is compiled"):
            denoised(compiled, layers=["0"], keep=0.5)


class TestFolder:
    def saved(self, folder, factory=tiny):
        made = classifier(denoised(lived_in(factory(2)), layers=BEHIND.layers, keep=BEHIND.keep))
        save_classifier(made, folder)
        return made

    def test_a_registered_network_comes_back_with_its_filters(self, tmp_path):
        network = denoised(lived_in(create_backbone("resnet18", classes=2)), layers=["layer1", "layer2"], keep=0.5)
        made = classifier(network, size=32, taps=("layer1.0",), backbone="resnet18")
        save_classifier(made, tmp_path / "c")
        again, x = load_classifier(tmp_path / "c"), noise(2, 1, 32, 32).float().sigmoid()
        assert torch.equal(again(x), made(x))
        assert denoising_of(again.network) == denoising_of(network)
        told = json.loads((tmp_path / "c" / "manifest.json").read_text())["classifier"]
        assert told["denoise"] == {"layers": ["layer1", "layer2"], "keep": 0.5}

    def test_an_own_network_does_too_whoever_puts_them_in(self, tmp_path):
        made, x = self.saved(tmp_path / "c"), noise(2, 1, 16, 16).float().sigmoid()
        for factory in (tiny, lambda classes: denoised(tiny(classes), layers=BEHIND.layers, keep=BEHIND.keep)):
            assert torch.equal(load_classifier(tmp_path / "c", factory=factory)(x), made(x))
        with pytest.raises(ArtefactError, match="other filters"):
            load_classifier(tmp_path / "c", factory=lambda classes: denoised(tiny(classes), layers=["last"], keep=0.5))

    def test_without_filters_nothing_is_said_of_them(self):
        assert "denoise" not in describe_classifier(classifier(lived_in(Tiny(2))))

    @pytest.mark.parametrize(
        ("told", "problem"),
        [
            ({"layers": ["nowhere"], "keep": 0.5}, "no module 'nowhere'"),
            ({"layers": ["fc"], "keep": 0.5}, "fc gives shape"),
            ({"layers": [], "keep": 0.5}, "denoise.layers"),
            ({"layers": ["conv1"], "keep": 1.5}, "denoise.keep"),
            ({"layers": ["conv1"], "keep": "0.5"}, "denoise.keep"),
            ({"layers": ["conv1"], "keep": 0.5, "code": "x"}, "denoise.code"),
            ("conv1:0.5", "'denoise'"),
        ],
    )
    def test_a_description_that_does_not_fit_is_refused(self, told, problem, tmp_path):
        self.saved(tmp_path / "c")
        stored = read_folder(tmp_path / "c", kind="classifier")
        description = {**stored.manifest["classifier"], "denoise": told}
        tensors = {"network": stored.tensors("network")}
        write_folder(tmp_path / "d", kind="classifier", manifest={"classifier": description}, tensors=tensors)
        with pytest.raises(ArtefactError, match=problem):
            load_classifier(tmp_path / "d", factory=tiny)


def test_trained_with_filters_it_goes_on_after_a_kill_and_comes_back(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0.0)
    config = CONFIG.model_copy(update={"denoise": BEHIND, "epochs": 1})
    whole = train_classifier(*squares(), config, tmp_path / "whole")
    with pytest.raises(Stop):
        train_classifier(*squares(), config, tmp_path / "cut", stop_at(3))
    with pytest.raises(ConfigError, match="checkpoint of another run"):
        train_classifier(*squares(), CONFIG.model_copy(update={"epochs": 1}), tmp_path / "cut")
    train_classifier(*squares(), config, tmp_path / "cut")
    again, x = train_classifier(*squares(), config, tmp_path / "cut"), squares()[0].pixels(range(4))
    assert denoising_of(whole.network) == denoising_of(again.network) == BEHIND
    assert torch.equal(whole(x), again(x))


@pytest.mark.parametrize("text", ["layer1", "layer1:half", ":0.5", "layer1,:0.5", "layer1:1", "a,a:0.5", ""])
def test_what_is_no_denoising_is_refused(text):
    with pytest.raises(ConfigError, match="write MODULE"):
        parse_denoising(text)


def test_the_examples_run():
    assert not doctest.testmod(denoising).failed
