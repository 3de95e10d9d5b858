"""Taps against plain hooks, early stopping, gradients, nesting, threads, freezing, and every wrong use."""

import copy
import threading

import pytest
import torch
import torch.nn.functional as F
from tests.models.tiny_networks import Tiny, lived_in
from torch import nn

from medaegis.errors import ConfigError, DataError
from medaegis.models.classifier import Classifier
from medaegis.models.normalisation import IMAGENET_MEAN, IMAGENET_STD
from medaegis.models.outputs import looks_like_probabilities
from medaegis.models.store import load_classifier, save_classifier

SIZE = 16
TAPS = ("input", "relu", "bn2")


def classifier(network=None, **options):
    told = {"classes": ("a", "b", "c"), "size": SIZE, "taps": TAPS, "backbone": "tests.models.tiny_networks:tiny"}
    told |= {"mean": IMAGENET_MEAN, "std": IMAGENET_STD}
    return Classifier(lived_in(Tiny(3)) if network is None else network, **{**told, **options})


def images(n=4, channels=3, seed=0):
    return torch.rand(n, channels, SIZE, SIZE, generator=torch.Generator().manual_seed(seed))


def normalised(x):
    return (x - torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1)) / torch.tensor(IMAGENET_STD).view(1, 3, 1, 1)


class TestOnePass:
    def test_logits_are_the_networks_on_normalised_pixels(self):
        c, x = classifier(), images()
        torch.testing.assert_close(c(x), c.network(normalised(x)))
        torch.testing.assert_close(c.activations(x).logits, c(x))

    def test_gray_images_are_repeated(self):
        network, x = lived_in(Tiny(3)), images(channels=1)
        gray, rgb = classifier(network, channels="gray"), classifier(copy.deepcopy(network))
        torch.testing.assert_close(gray(x), rgb(x.expand(-1, 3, -1, -1)))
        assert gray.in_channels == 1
        assert gray.activations(x).features["input"] is x

    def test_features_are_the_modules_outputs_at_the_time_they_return(self):
        # bn2 is written into by `y += x`, and bn1 by an in-place ReLU: both must come back as they were.
        c, x = classifier(), images()
        n, z = c.network, normalised(images())
        with torch.no_grad():
            bn1 = n.bn1(n.conv1(z)).clone()
            relu = bn1.relu()
            bn2 = n.bn2(n.conv2(relu)).clone()
            found = c.activations(x, taps=("bn1", "relu", "bn2", "last"))
        torch.testing.assert_close(found.features["bn1"], bn1)
        torch.testing.assert_close(found.features["relu"], relu)
        torch.testing.assert_close(found.features["bn2"], bn2)
        torch.testing.assert_close(found.features["last"], (bn2 + relu).relu())
        assert (bn1 < 0).any()
        torch.testing.assert_close(found.logits, c(x))

    @pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
    def test_same_in_every_gradient_mode(self, mode):
        c, x = classifier(), images()
        expected = c.activations(x)
        with mode():
            found = c.activations(x)
        torch.testing.assert_close(found.logits, expected.logits)
        assert list(found.features) == list(TAPS)
        for name in TAPS:
            torch.testing.assert_close(found.features[name], expected.features[name])

    def test_without_logits_it_stops_at_the_deepest_tap(self):
        c, called = classifier(), []
        for name, module in c.network.named_modules():
            module.register_forward_hook(lambda *_, name=name: called.append(name))
        found = c.activations(images(), logits=False, taps=("relu", "bn1"))
        assert found.logits is None
        assert set(found.features) == {"relu", "bn1"}
        assert called[:2] == ["conv1", "bn1"]
        assert not {"conv2", "bn2", "fc", ""} & set(called)

    def test_pixels_alone_need_no_pass(self):
        c = classifier()
        c.network.register_forward_pre_hook(lambda *_: pytest.fail("a forward pass was run"))
        x = images()
        assert c.activations(x, logits=False, taps=("input",)).features == {"input": x}

    @pytest.mark.parametrize("tap", ["bn1", "relu", "bn2", "input"])
    def test_gradients_flow_through_a_stopped_pass(self, tap):
        c, x = classifier().double(), images().double().requires_grad_()
        weight = torch.randn(c.activations(x, taps=(tap,)).features[tap].shape, dtype=torch.float64)
        full = torch.autograd.grad((c.activations(x, taps=(tap,)).features[tap] * weight).sum(), x)[0]
        stopped = torch.autograd.grad((c.activations(x, logits=False, taps=(tap,)).features[tap] * weight).sum(), x)[0]
        assert full.abs().sum() > 0
        torch.testing.assert_close(stopped, full)

    def test_gradient_agrees_with_finite_differences(self):
        network = lived_in(Tiny(3)).double()
        network.last = nn.Softplus()  # smooth, so that differences are meaningful
        network.relu = nn.Softplus()
        c = classifier(network, taps=())
        x = images(1).double().requires_grad_()
        assert torch.autograd.gradcheck(
            lambda x: c.activations(x, logits=False, taps=("bn2",)).features["bn2"].sum((2, 3)), x, fast_mode=True
        )

    def test_shapes_are_told_without_a_pass(self):
        c = classifier(channels="gray")
        assert c.tap_shapes() == {"input": (1, SIZE, SIZE), "relu": (6, 8, 8), "bn2": (6, 8, 8)}
        assert c.tap_names() == ["input", "conv1", "bn1", "relu", "conv2", "bn2", "last", "drop", "fc"]


class Functional(nn.Module):
    """Activations without modules, one of them written over in place."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 6, 3, stride=2, padding=1), nn.Conv2d(6, 6, 3, padding=1, bias=False)
        self.norm, self.last = nn.BatchNorm2d(6), nn.ReLU(inplace=True)
        self.drop, self.fc = nn.Dropout(0.5), nn.Linear(6, 3)

    def forward(self, x):
        x = self.last(self.norm(self.conv2(F.relu(self.conv1(x)))))
        return self.fc(F.dropout(F.adaptive_avg_pool2d(x, 1).flatten(1), 0.5, self.training))


class TestWhatModulesAreGiven:
    """The only way to what a function gives."""

    TAPS = ("conv2:input", "norm:input", "last:input", "fc:input")

    def made(self, **options):
        torch.manual_seed(0)
        return classifier(lived_in(Functional()), **{"taps": self.TAPS, **options}).eval()

    def by_hand(self, c, x):
        n, z = c.network, normalised(x)
        relu = n.conv1(z).relu()
        conv2 = n.conv2(relu)
        norm = n.norm(conv2)
        return dict(zip(self.TAPS, (relu, conv2, norm, norm.relu().mean((2, 3))), strict=True))

    @pytest.mark.parametrize("fold", [None, True, False])
    def test_they_are_what_the_function_gave(self, fold):
        c, x = self.made(), images()
        expected = self.by_hand(c, x)
        assert (expected["last:input"] < 0).any(), "the ReLU in place would have changed it"
        if fold is not None:
            c = c.frozen(fold=fold)
        assert c.tap_shapes() == {tap: tuple(values.shape[1:]) for tap, values in expected.items()}
        for found in (c.activations(x), c.activations(x, logits=False)):
            for tap, values in expected.items():
                torch.testing.assert_close(found.features[tap], values, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(c.activations(x).logits, c(x))

    def test_a_batch_norm_is_folded_unless_what_it_is_given_is_tapped(self):
        assert isinstance(self.made(taps=("conv2:input", "norm", "last:input")).frozen().network.norm, nn.Identity)
        assert isinstance(self.made().frozen().network.norm, nn.BatchNorm2d)

    def test_the_pass_ends_in_front_of_the_module(self):
        c, ran = self.made(), []
        for name in ("conv1", "conv2", "norm"):
            getattr(c.network, name).register_forward_hook(lambda *_, name=name: ran.append(name))
        c.activations(images(), logits=False, taps=("conv2:input",))
        assert ran == ["conv1"]

    def test_gradients_flow(self):
        c, x = self.made(), images().requires_grad_()
        (found,) = torch.autograd.grad(c.activations(x, logits=False).features["conv2:input"].sum(), x)
        (expected,) = torch.autograd.grad(self.by_hand(c, x)["conv2:input"].sum(), x)
        torch.testing.assert_close(found, expected)

    def test_the_deepest_is_behind_what_its_module_is_given(self):
        c = self.made()
        assert c.deepest() == ("fc:input",)
        assert c.deepest(("last", "last:input", "conv1")) == ("last",)

    def test_folders_and_copies_keep_them(self, tmp_path):
        c, x = self.made(backbone="own:network"), images()
        save_classifier(c, tmp_path / "c")
        again = load_classifier(tmp_path / "c", factory=Functional)
        for other in (again, copy.deepcopy(c)):
            assert other.taps == self.TAPS
            for tap, values in c.activations(x).features.items():
                assert torch.equal(other.activations(x).features[tap], values)

    def test_what_cannot_be_had_is_told_with_what_can(self):
        with pytest.raises(ConfigError, match=r"no tap 'relu'.*what a function \(F.relu\) gives .* MODULE:input"):
            self.made(taps=("relu",))
        with pytest.raises(ConfigError, match=r"no tap 'conv3:input'; choose another one, near it: .*conv2:input"):
            self.made(taps=("conv3:input",))
        with pytest.raises(ConfigError, match="'drop:input' is no tap: it is called 0 times"):
            self.made(taps=("drop:input",))

        class ByName(Functional):
            def forward(self, x):
                return self.fc(input=self.conv1(x).mean((2, 3)))

        with pytest.raises(ConfigError, match="'fc:input' is no tap: it is given no tensor with a row per image"):
            classifier(ByName(), taps=("fc:input",))


class TestNothingMixes:
    def test_a_classifier_within_a_classifier(self):
        inner = classifier()

        class Outer(Tiny):
            def forward(self, x):
                inner.activations(images(seed=7), logits=False, taps=("relu",))
                return super().forward(x)

        network = lived_in(Outer(3))
        outer, x = classifier(network), images()
        expected = classifier(lived_in(Tiny(3))).network
        expected.load_state_dict(network.state_dict())
        found = outer.activations(x)
        torch.testing.assert_close(found.logits, expected(normalised(x)))
        torch.testing.assert_close(found.features["relu"], expected.bn1(expected.conv1(normalised(x))).relu())

    def test_two_classifiers_around_one_network(self):
        network, x = lived_in(Tiny(3)), images()
        first, second = classifier(network, taps=("relu",)), classifier(network, taps=("last",))
        assert set(first.activations(x).features) == {"relu"}
        assert set(second.activations(x).features) == {"last"}

    def test_threads(self):
        c = classifier()
        inputs = [images(seed=seed) for seed in range(8)]
        expected = [c.activations(x) for x in inputs]
        start, wrong = threading.Barrier(8), []

        def work(k):
            start.wait()
            for _ in range(20):
                found = c.activations(inputs[k], logits=k % 2 == 0)
                for name in TAPS:
                    if not torch.allclose(found.features[name], expected[k].features[name], atol=1e-5):
                        wrong.append((k, name))

        threads = [threading.Thread(target=work, args=(k,)) for k in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wrong == []

    def test_an_error_in_a_pass_leaves_nothing_behind(self):
        c = classifier()
        with pytest.raises(DataError):
            c.activations(images()[:, :1])
        c.network.fc.weight.data = torch.zeros(3, 5)
        with pytest.raises(RuntimeError):
            c.activations(images())
        found = c.activations(images(), logits=False)
        assert set(found.features) == set(TAPS)

    def test_deep_copies_are_apart(self):
        c, x = classifier(), images()
        other = copy.deepcopy(c)
        with torch.no_grad():
            other.network.conv1.weight.zero_()
        assert not torch.allclose(c.activations(x).features["relu"], other.activations(x).features["relu"])
        torch.testing.assert_close(other.activations(x).logits, other(x))

    def test_making_one_changes_neither_modes_nor_statistics_nor_random_state(self):
        network = Tiny(3).train()
        network.bn1.eval()
        before = copy.deepcopy(network.state_dict())
        torch.manual_seed(3)
        expected = torch.rand(2)
        torch.manual_seed(3)
        c = classifier(network)
        assert torch.equal(torch.rand(2), expected)
        assert (network.bn1.training, network.bn2.training, c.network.training) == (False, True, True)
        assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


class TestFrozen:
    @pytest.mark.parametrize("fold", [True, False])
    def test_same_function_and_no_weight_gradients(self, fold):
        c, x = classifier(), images().requires_grad_()
        f = c.frozen(fold=fold)
        assert not any(p.requires_grad for p in f.parameters())
        assert any(isinstance(m, nn.BatchNorm2d) for m in f.modules()) is not fold
        a, b = c.activations(x), f.activations(x)
        torch.testing.assert_close(a.logits, b.logits)
        for name in TAPS:
            torch.testing.assert_close(a.features[name], b.features[name])
        torch.testing.assert_close(torch.autograd.grad(a.logits.sum(), x)[0], torch.autograd.grad(b.logits.sum(), x)[0])

    def test_stays_in_eval_mode_and_leaves_the_original_in_its_own(self):
        c = classifier().train()
        f = c.frozen()
        f.train()
        assert not any(module.training for module in f.modules())
        assert c.training
        assert c.network.drop.training
        assert all(p.requires_grad for p in c.parameters())

    def test_a_tapped_convolution_is_not_folded(self):
        c, x = classifier(taps=("conv1", "conv2")), images()
        f = c.frozen()
        for name in ("conv1", "conv2"):
            torch.testing.assert_close(f.activations(x).features[name], c.activations(x).features[name])

    def test_bfloat16_inside_float32_outside(self):
        c, x = classifier(), images()
        f = c.frozen(dtype=torch.bfloat16)
        found = f.activations(x)
        assert found.logits.dtype == torch.float32
        assert found.features["relu"].dtype == torch.bfloat16
        assert found.features["input"] is x
        torch.testing.assert_close(found.logits, c(x), rtol=0.05, atol=0.05)
        assert not torch.equal(found.logits, c(x))


class _Ends(nn.Module):
    def __init__(self, end, outputs=3):
        super().__init__()
        self.body, self.end = Tiny(outputs), end

    def forward(self, x):
        return self.end(self.body(x))


class TestWrongUse:
    @pytest.mark.parametrize(
        ("network", "message"),
        [
            (_Ends(nn.Softmax(1)), "returns probabilities"),
            (_Ends(nn.Identity(), outputs=2), r"returns \(2, 2\) for 2 images, expected logits \(2, 3\)"),
            (_Ends(lambda y: {"logits": y}), "returns dict"),
            (nn.Sequential(nn.Conv2d(5, 3, 1)), "does not run on normalised images"),
        ],
    )
    def test_a_network_that_is_no_classifier(self, network, message):
        with pytest.raises(ConfigError, match=message):
            classifier(network, taps=())

    def test_log_probabilities_are_logits(self):
        classifier(_Ends(nn.LogSoftmax(1)), taps=())

    def test_probabilities_are_told_from_logits(self):
        assert looks_like_probabilities(torch.rand(5, 4).softmax(1))
        assert not looks_like_probabilities(torch.rand(5, 4))
        assert not looks_like_probabilities(torch.tensor([[2.0, -1.0]]))

    def test_an_unknown_tap_lists_near_ones(self):
        with pytest.raises(ConfigError, match=r"no tap 'relu1'.*relu"):
            classifier(taps=("relu1",))
        with pytest.raises(ConfigError, match=r"no tap '#'.*for example: input, conv1"):
            classifier().activations(images(), taps=("#",))

    def test_a_module_called_twice_is_no_tap(self):
        class Twice(Tiny):
            def forward(self, x):
                return super().forward(self.relu(x))

        with pytest.raises(ConfigError, match=r"'relu' is no tap: it is called 2 times"):
            classifier(Twice(3), taps=("relu",))

    def test_a_module_that_is_never_called_or_returns_no_tensor_is_no_tap(self):
        network = Tiny(3)
        network.idle = nn.Linear(1, 1)
        with pytest.raises(ConfigError, match="called 0 times"):
            classifier(network, taps=("idle",))

    @pytest.mark.parametrize("logits", [True, False])
    def test_a_tap_that_these_images_do_not_reach(self, logits):
        class Sometimes(Tiny):
            def forward(self, x):
                return super().forward(x) if bool(x.any()) else self.fc(x.new_zeros(len(x), 6))

        c, of_mean = classifier(Sometimes(3)), torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1).expand(5, 3, SIZE, SIZE)
        with pytest.raises(ConfigError, match=r"did not call the taps \['relu', 'bn2'\]"):
            c.activations(of_mean, logits=logits)

    @pytest.mark.parametrize(
        "x",
        [
            torch.rand(2, 1, SIZE, SIZE),
            torch.rand(2, 3, SIZE, SIZE + 1),
            torch.rand(3, SIZE, SIZE),
            torch.zeros(2, 3, SIZE, SIZE, dtype=torch.uint8),
        ],
    )
    def test_wrong_images(self, x):
        with pytest.raises(DataError, match=r"expected floating point \(N, 3, 16, 16\)"):
            classifier()(x)

    @pytest.mark.parametrize("options", [{"channels": "grey"}, {"classes": ("a",)}, {"classes": ("a", "a", "b")}])
    def test_wrong_options(self, options):
        with pytest.raises(ConfigError, match="classifier"):
            classifier(**options)
