"""Every kind of network that people bring: wrapped, attacked, fitted, loaded and screened, and told apart by hand.

What the library says of an image is compared with what the network itself answers, read here by hand.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from tests.attacks.toys import seeded
from tests.models.own_networks import Answer, Pair, TinyViT
from tests.models.tiny_networks import Tiny, lived_in
from torch import Tensor, nn

import medaegis as ma
from medaegis.errors import ConfigError

CLASSES = ("dark", "bright")
N = 130


class Net(nn.Module):
    """A small network, and something done to its outputs."""

    def __init__(self, end: Callable[[Tensor], Any] = lambda y: y, outputs: int = 2) -> None:
        super().__init__()
        with seeded(1):
            self.body = lived_in(Tiny(outputs))
        self.end = end

    def forward(self, x: Tensor) -> Any:
        return self.end(self.body(x))


class NormalisesInside(Net):
    def forward(self, x: Tensor) -> Any:
        return super().forward((x - 0.5) / 0.25)


class Functional(nn.Module):
    """Not one activation is a module."""

    def __init__(self) -> None:
        super().__init__()
        with seeded(2):
            self.conv1, self.conv2 = nn.Conv2d(3, 6, 3, stride=2, padding=1), nn.Conv2d(6, 6, 3, padding=1)
            self.fc = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.relu(self.conv2(F.relu(self.conv1(x)))).mean((2, 3)))


def vit() -> nn.Module:
    with seeded(3):
        return TinyViT(2)


def by_two(y: Tensor) -> Tensor:
    return y.argmax(1)


def by_sign(y: Tensor) -> Tensor:
    return (y.flatten() > 0).long()


@dataclass(frozen=True)
class Kind:
    """A network, how it is wrapped, and the class that its own answer means."""

    build: Callable[[], nn.Module]
    decide: Callable[[Any], Tensor] = by_two
    options: dict[str, Any] = field(default_factory=dict)
    normalise: tuple[float, float] | None = (0.5, 0.25)
    size: tuple[int, int] = (16, 16)
    taps: tuple[str, ...] | None = None
    classes: tuple[str, ...] = CLASSES


KINDS = {
    "one logit (N, 1)": Kind(partial(Net, outputs=1), by_sign),
    "one logit (N,)": Kind(partial(Net, lambda y: y[:, 0], 1), by_sign),
    "two logits": Kind(Net),
    "three logits": Kind(partial(Net, outputs=3), classes=(*CLASSES, "grey")),
    "dict": Kind(
        partial(Net, lambda y: {"features": y * 0, "logits": y}), lambda y: by_two(y["logits"]), {"output": "logits"}
    ),
    "tuple": Kind(partial(Net, lambda y: (y * 0, y)), lambda y: by_two(y[1]), {"output": 1}),
    "named tuple": Kind(partial(Net, lambda y: Pair(y * 0, y)), lambda y: by_two(y.logits), {"output": "logits"}),
    "ModelOutput": Kind(
        partial(Net, lambda y: Answer(loss=None, logits=y)), lambda y: by_two(y.logits), {"output": "logits"}
    ),
    "softmax": Kind(partial(Net, lambda y: y.softmax(1)), options={"outputs": "probabilities"}),
    "sigmoid": Kind(partial(Net, torch.sigmoid, 1), lambda y: by_sign(y - 0.5), options={"outputs": "probabilities"}),
    "normalises inside": Kind(NormalisesInside, normalise=None),
    "transformer": Kind(vit, taps=("blocks.0", "blocks.1")),
    "rectangular": Kind(Net, size=(16, 24)),
    "float16": Kind(lambda: Net().half()),
    "bfloat16": Kind(lambda: Net().bfloat16()),
    "float64": Kind(lambda: Net().double()),
    "functions for activations": Kind(Functional, taps=("conv2:input", "fc:input")),
}
each_kind = pytest.mark.parametrize("name", KINDS)


def pictures(kind: Kind) -> tuple[Tensor, Tensor]:
    """Noise that is darker or brighter, uint8, with its class."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(N) % len(kind.classes)
    noise = torch.randint(0, 120, (N, 3, *kind.size), generator=generator)
    return (noise + 60 * labels.view(-1, 1, 1, 1)).to(torch.uint8), labels


def built(kind: Kind) -> nn.Module:
    """The network, its last layer moved so that all classes occur among the pictures."""
    network = kind.build()
    layer = [module for module in network.modules() if isinstance(module, nn.Linear)][-1]
    x, _ = pictures(kind)
    with torch.no_grad():
        layer.weight.mul_(20)
        plain = wrapped(kind, network)(x.float() / 255)
        middle = plain.float().quantile(0.5, 0)
        layer.bias.sub_((middle if len(layer.bias) > 1 else middle[1:] - middle[:1]).to(layer.bias))
    return network


def wrapped(kind: Kind, network: nn.Module) -> ma.Classifier:
    return ma.wrap(
        network,
        classes=kind.classes,
        size=kind.size,
        normalise=kind.normalise,
        taps=kind.taps,
        backbone="own:network",
        **kind.options,
    )


@torch.no_grad()
def by_hand(kind: Kind, network: nn.Module, x: Tensor) -> Tensor:
    """What the network itself says of pixels in [0, 1]; in float32, where its own type is coarser."""
    mean, std = kind.normalise or (0.0, 1.0)
    weight = next(network.parameters())
    wider = network if weight.dtype == torch.float64 else kind.build().float()
    wider.load_state_dict(network.state_dict())
    return kind.decide(wider.eval()(((x - mean) / std).to(next(wider.parameters()))))


@each_kind
def test_wrapped_attacked_fitted_loaded_and_screened(name, tmp_path):
    kind = KINDS[name]
    network = built(kind)
    model = wrapped(kind, network)
    x, _ = pictures(kind)
    y = by_hand(kind, network, x / 255)
    assert len(y.unique()) == len(kind.classes)
    exact = ma.Victim(model).exact
    assert exact.dtype == torch.float32
    assert torch.equal(exact(x / 255).argmax(1), y)

    found = ma.attack("pgd", model, x[:16], y[:16], eps="24/255", steps=10)
    assert found.fooled.any()
    assert torch.equal(found.fooled, by_hand(kind, network, found.images) != y[:16])

    guard = ma.fit(model, x, y, cushion="none", recipe="paper", updates=1, out=tmp_path / "guard")
    assert guard.bank.taps == model.taps
    assert len(model.taps) > 0
    through = ma.attack("wb", guard, x[:4], y[:4], eps="8/255", steps=2)
    assert (through.images != x[:4] / 255).any()

    detector = ma.detector("kd", model).fit(x, y)
    assert detector.score(x[:5]).isfinite().all()

    (tmp_path / "in").mkdir()
    for i, image in enumerate(x[:6].permute(0, 2, 3, 1).numpy()):
        Image.fromarray(np.ascontiguousarray(image)).save(tmp_path / "in" / f"{i}.png")
    loaded = ma.load(tmp_path / "guard", factory=kind.build)
    records = sorted(loaded.screen(tmp_path / "in"), key=lambda one: one.path)
    assert len(records) == 6
    assert {one.status for one in records} <= {"accepted", "rejected"}
    assert [kind.classes.index(one.finding.label) for one in records] == y[:6].tolist()
    for one, same in zip(records, guard.inspect(x[:6].float() / 255), strict=True):
        assert one.finding.score == pytest.approx(same.score, rel=1e-3, abs=1e-3)


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_verdicts_of_coarse_weights_are_of_float32(name):
    kind = KINDS[name]
    model = wrapped(kind, kind.build())
    assert model.dtype == getattr(torch, name)
    x = torch.rand(8, 3, 16, 16)
    exact, wider = ma.Victim(model).exact(x), wrapped(kind, kind.build().float())(x)
    torch.testing.assert_close(exact, wider, rtol=1e-4, atol=1e-5)
    assert (model(x) - wider).abs().max() > 10 * (exact - wider).abs().max(), "which its own type does not reach"


def test_of_probabilities_the_same_shares_come_out():
    kind = KINDS["softmax"]
    network, x = built(kind), pictures(kind)[0][:20] / 255
    shares = wrapped(kind, network)(x).softmax(1)
    torch.testing.assert_close(shares, network.eval()((x - 0.5) / 0.25), rtol=1e-4, atol=1e-6)
    one = KINDS["sigmoid"]
    network = built(one)
    share = wrapped(one, network)(x).softmax(1)[:, 1]
    torch.testing.assert_close(share, network.eval()((x - 0.5) / 0.25)[:, 0], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["softmax", "sigmoid"])
def test_nothing_is_guessed(name):
    kind = KINDS[name]
    with pytest.raises(ConfigError, match="outputs='probabilities'"):
        ma.wrap(kind.build(), classes=kind.classes, size=16, normalise=kind.normalise)
    with pytest.raises(ConfigError, match="name the part that holds the logits"):
        ma.wrap(KINDS["dict"].build(), classes=CLASSES, size=16, normalise=None)
    with pytest.raises(ConfigError, match="no probabilities, beyond 0 to 1"):
        ma.wrap(KINDS["two logits"].build(), classes=CLASSES, size=16, normalise=None, outputs="probabilities")


@pytest.mark.parametrize("compiled", [torch.jit.script, lambda net: torch.jit.trace(net, torch.rand(2, 3, 16, 16))])
def test_compiled_networks_are_taken_without_taps(compiled, tmp_path):
    kind = KINDS["two logits"]
    never_wrapped = kind.build()  # what is listened to can be compiled no more
    never_wrapped.load_state_dict(built(kind).state_dict())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch's own, of what it recommends in place of TorchScript
        network = compiled(never_wrapped.body)
    x, _ = pictures(kind)
    model = wrapped(kind, network)
    y = model(x / 255).argmax(1)
    assert model.taps == ()
    plain = wrapped(kind, built(kind).body)
    torch.testing.assert_close(model(x / 255), plain(x / 255), rtol=1e-4, atol=1e-5)
    found = ma.attack("pgd", model, x[:8], y[:8], eps="24/255", steps=5)
    assert torch.equal(found.images, ma.attack("pgd", plain, x[:8], y[:8], eps="24/255", steps=5).images)
    guard = ma.fit(model, x, y, updates=1, out=tmp_path / "guard")
    loaded = ma.load(tmp_path / "guard", factory=lambda: network)
    assert loaded.inspect(x[:4].float() / 255) == guard.inspect(x[:4].float() / 255)
    assert all(weight.requires_grad for weight in network.parameters()), "the network itself is left as it was"


def test_a_network_made_in_inference_mode_is_attacked():
    with torch.inference_mode():
        network = Net()
    kind = KINDS["two logits"]
    model, x = wrapped(kind, network), pictures(kind)[0][:8]
    assert (ma.attack("pgd", model, x, model(x / 255).argmax(1), eps="24/255", steps=2).images != x / 255).any()


def test_where_gradients_are_cut_off_it_is_said_and_searches_go_on():
    network = Net(lambda y: torch.from_numpy(y.detach().numpy()))
    kind = KINDS["two logits"]
    model, x = wrapped(kind, network), pictures(kind)[0][:4]
    y = model(x / 255).argmax(1)
    with pytest.raises(ConfigError, match=r"gives no gradient: .* attack by answers alone, as square does"):
        ma.attack("pgd", model, x, y, eps="24/255", steps=2)
    assert ma.attack("square", model, x, y, eps="24/255", steps=5).images.shape == x.shape


def test_no_taps_are_needed_but_by_what_reads_them():
    class Whole(nn.Module):
        """Weights without modules: nothing can be tapped but the pixels."""

        def __init__(self) -> None:
            super().__init__()
            with seeded(0):
                self.weight = nn.Parameter(torch.randn(2, 768))

        def forward(self, x: Tensor) -> Tensor:
            return F.linear(x.flatten(1), self.weight)

    model = ma.wrap(Whole(), classes=CLASSES, size=16, normalise=None)
    assert model.taps == ()
    x, y = pictures(KINDS["two logits"])
    strong = ma.fit(model, x, y, updates=1)
    assert strong.bank.taps == ("input",)
    assert ma.attack("wb", strong, x[:2], y[:2], eps="8/255", steps=2).images.shape == (2, 3, 16, 16)
    with pytest.raises(ConfigError, match="names no taps, and the Shields of recipe paper read them"):
        ma.fit(model, x, y, recipe="paper", updates=2)
