"""Wide ResNets against their paper, written anew from the state dict; what networks cost against what is said of it."""

import json
import re

import pytest
import torch
import torch.nn.functional as F
from tests.cli.shop import call
from tests.models.tiny_networks import lived_in
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from medaegis.models.backbones import backbone, backbones, create_backbone, default_taps
from medaegis.models.classifier import Classifier
from medaegis.models.normalisation import IMAGENET_MEAN, IMAGENET_STD


def reference(x: Tensor, state: dict[str, Tensor]) -> Tensor:
    """Zagoruyko & Komodakis 2016, table 1 and figure 1 (a), straight from a state dict."""

    def active(x: Tensor, name: str) -> Tensor:
        values = (state[f"{name}.{key}"] for key in ("running_mean", "running_var", "weight", "bias"))
        return F.relu(F.batch_norm(x, *values))

    x = F.conv2d(x, state["conv1.weight"], padding=1)
    for block in sorted({match[0] for key in state if (match := re.match(r"block\d\.layer\.\d+", key))}):
        stride = 2 if re.fullmatch(r"block[23]\.layer\.0", block) else 1
        y = active(x, f"{block}.bn1")
        if f"{block}.convShortcut.weight" in state:
            x = F.conv2d(y, state[f"{block}.convShortcut.weight"], stride=stride)
        y = active(F.conv2d(y, state[f"{block}.conv1.weight"], stride=stride, padding=1), f"{block}.bn2")
        x = x + F.conv2d(y, state[f"{block}.conv2.weight"], padding=1)
    return F.linear(active(x, "bn1").mean((2, 3)), state["fc.weight"], state["fc.bias"])


@pytest.mark.parametrize(("name", "size"), [("wrn_16_4", (32, 24)), ("wrn_16_4", (21, 21)), ("wrn_28_10", (8, 8))])
def test_network_computes_what_its_paper_says(name: str, size: tuple[int, int]):
    network = lived_in(create_backbone(name, classes=3)).double()
    x = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(network(x), reference(x, network.state_dict()))


def test_a_folded_wide_resnet_is_tapped_at_its_groups():
    told = {"classes": ("a", "b"), "size": 16, "mean": IMAGENET_MEAN, "std": IMAGENET_STD, "backbone": "wrn_16_4"}
    network = lived_in(create_backbone("wrn_16_4", classes=2))
    whole = Classifier(network, **told, taps=default_taps("wrn_16_4")).eval()
    assert list(whole.tap_shapes().values()) == [(64, 16, 16), (128, 8, 8), (256, 4, 4)]
    x = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        expected, found = whole.activations(x), whole.frozen().activations(x)
    torch.testing.assert_close(found.logits, expected.logits, rtol=1e-3, atol=1e-4)
    for tap, features in expected.features.items():
        torch.testing.assert_close(found.features[tap], features, rtol=1e-3, atol=1e-4)


def test_what_is_said_of_the_cost_is_true():
    def cost(name: str) -> int:
        with torch.device("meta"):
            network, x = create_backbone(name, classes=2), torch.empty(1, 3, 224, 224)
        with FlopCounterMode(display=False) as counter:
            network(x)
        return counter.get_total_flops()

    told = {name: match for name in backbones() if (match := re.search(r"about (\d+) times", backbone(name).remark))}
    assert {"resnet18_cifar", "wrn_28_10"} <= set(told)
    for name, match in told.items():
        assert round(cost(name) / cost("resnet18")) == int(match[1]), name


def test_the_list_of_networks_shows_it():
    listed = {entry["name"]: entry for entry in json.loads(call("backbones", "--json").stdout)}
    assert tuple(listed) == backbones()
    assert "15 times as much as resnet18" in listed["resnet18_cifar"]["remark"]
    assert all(name in call("backbones").stdout for name in backbones())
