"""Tokens `(N, T, C)` and maps `(N, H, W, C)` as taps: channels come first, and are averaged over the places."""

import numpy as np
import pytest
import torch
from tests.models.own_networks import TinyViT, images
from torch import nn

from medaegis.attacks.catalogue import find_attack
from medaegis.attacks.normal import fit_mixtures
from medaegis.attacks.victim import Victim
from medaegis.bench.analyse import maps
from medaegis.detectors.reader import Reader
from medaegis.detectors.registry import load_detector
from medaegis.detectors.shield import Shield, ShieldBank
from medaegis.detectors.subnetwork import Subnetworks
from medaegis.errors import ConfigError
from medaegis.models.classifier import Classifier
from medaegis.models.taps import pool

TAPS = ("blocks.0", "blocks.1")


def classifier(network=None, taps=TAPS):
    if network is None:
        with torch.random.fork_rng():
            torch.manual_seed(3)
            network = TinyViT(2)
    told = {"classes": ("a", "b"), "size": 16, "channels": "rgb", "backbone": "own:vit"}
    return Classifier(network, **told, taps=taps, mean=(0.5,), std=(0.25,)).eval()


def by_hook(c, tap, x):
    """What the module itself returns, `(N, 17, 8)`."""
    kept = []
    handle = c.network.get_submodule(tap).register_forward_hook(lambda m, a, out: kept.append(out))
    with torch.no_grad():
        c(x)
    handle.remove()
    return kept[0].numpy()


def test_tokens_are_averaged_over_the_tokens():
    c, x = classifier(), images()
    assert c.tap_shapes() == dict.fromkeys(TAPS, (8, 17))
    found, read = c.activations(x).features, Reader(c).read(x)
    for tap in TAPS:
        tokens = by_hook(c, tap, x)
        np.testing.assert_allclose(found[tap].detach().numpy(), np.moveaxis(tokens, 1, 2), rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(pool(found[tap]).detach().numpy(), tokens.mean(1), rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(read.feature(tap).numpy(), tokens.mean(1), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(Victim(c).pooled(x, (tap,))[tap].numpy(), tokens.mean(1), rtol=1e-4, atol=1e-5)


class ChannelsLast(nn.Module):
    """Maps `(N, H, W, C)`, as windowed transformers keep them."""

    def __init__(self, channels=5):
        super().__init__()
        self.conv, self.norm, self.fc = (
            nn.Conv2d(3, channels, 4, stride=4),
            nn.LayerNorm(channels),
            nn.Linear(channels, 2),
        )

    def forward(self, x):
        return self.fc(self.norm(self.conv(x).permute(0, 2, 3, 1)).mean((1, 2)))


def test_maps_with_the_channels_last_are_turned():
    c, x = classifier(ChannelsLast(), taps=("norm", "conv")), images()
    assert c.tap_shapes() == {"norm": (5, 4, 4), "conv": (5, 4, 4)}
    last = by_hook(c, "norm", x)
    np.testing.assert_allclose(pool(c.activations(x).features["norm"]).detach().numpy(), last.mean((1, 2)), atol=1e-5)
    found = maps.attention(c, x, torch.zeros(6, dtype=torch.int64), "norm")
    assert found.cam.shape == (6, 4, 4)


def test_a_tap_without_a_row_per_image_is_none():
    class TokensFirst(TinyViT):
        def __init__(self):
            super().__init__(2)
            self.turned, self.blocks = nn.Identity(), nn.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=True)

        def forward(self, x):
            self.turned(self.patches(x).flatten(2).permute(2, 0, 1))
            return super().forward(x)

    with pytest.raises(ConfigError, match="'turned' is no tap: it returns no tensor with a row per image"):
        classifier(TokensFirst(), taps=("turned",))


def test_a_shield_reads_tokens_and_is_calibrated_by_channel():
    c, x = classifier(), images(20)
    features = c.activations(x).features
    shield = Shield(c.tap_shapes(), width=4, hidden=8)
    shield.standardise(features)
    tokens = by_hook(c, "blocks.0", x)
    np.testing.assert_allclose(shield.heads[0].mean.flatten().numpy(), tokens.mean((0, 1)), rtol=1e-3, atol=1e-5)
    victim = Victim(c, shields=ShieldBank([shield, Shield(c.tap_shapes(), width=4, hidden=8)]), dtype=torch.float32)
    aimed = torch.ones(20, dtype=torch.int64) - victim.judge(x).predicted
    labels = victim.judge(x).predicted
    found = find_attack("wb").attack.with_options(steps=3).run(victim, x, labels, eps=8 / 256, targets=aimed)
    assert (found.images != x).any()


def test_the_network_on_activations_reads_tokens(tmp_path):
    c, labels = classifier(), torch.arange(24) % 2
    reader = Reader(c)
    clean, attacked = reader.read(images(24)), reader.read(images(24).flip(3))
    made = Subnetworks(steps=2, batch_size=8).fit(clean, labels, attacked=attacked)
    assert made.shapes == dict.fromkeys(TAPS, (8, 17, 1))
    made.save(tmp_path / "d")
    assert torch.equal(load_detector(tmp_path / "d").score(attacked), made.score(attacked))


@pytest.mark.parametrize("name", ["pgd+hfc", "feature-match"])
def test_attacks_on_features_take_tokens(name):
    c, x = classifier(), images(24)
    victim = Victim(c, dtype=torch.float32)
    labels = victim.judge(x).predicted
    known = victim.pooled(x, TAPS)
    assert {tap: tuple(values.shape) for tap, values in known.items()} == dict.fromkeys(TAPS, (24, 8))
    options = {"targets": 1 - labels}
    if "hfc" in name:
        options["normal"] = fit_mixtures(known, torch.arange(24) % 2)
    else:
        options["guides"] = x.flip(0)
    found = find_attack(name).attack.with_options(steps=2).run(victim, x, labels, eps=8 / 256, **options)
    assert (found.images != x).any()


def test_grad_cam_sees_tokens_as_a_square_of_patches():
    c, x = classifier(), images(4)
    assert maps.spatial(c, "blocks.0") == (4, 4)
    assert maps.attention(c, x, torch.zeros(4, dtype=torch.int64), "blocks.0").cam.shape == (4, 4, 4)
    drawn = maps.activation_maps(c, x, TAPS)["blocks.1"]
    np.testing.assert_allclose(
        drawn.detach().numpy(), by_hook(c, "blocks.1", x)[:, 1:].mean(2).reshape(4, 4, 4), rtol=1e-4, atol=1e-5
    )
    assert maps.places(torch.zeros(1, 8, 23), (16, 16)) is None, "no square, whatever is left out in front"
