"""The vision transformer against PyTorch's own encoder, at every size it takes, and its tokens as taps."""

import math

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from medaegis.errors import ConfigError, DataError
from medaegis.models.backbones import create_backbone, default_taps
from medaegis.models.classifier import Classifier


def made(**options: object) -> nn.Module:
    """The smaller one, its biases and norms as if it had learned."""
    network = create_backbone("vit_tiny", classes=3, **options)
    generator = torch.Generator().manual_seed(5)
    for weight in network.parameters():
        if weight.ndim == 1:
            weight.data += torch.randn(weight.shape, generator=generator) * 0.1
    return network.eval()


def peer(network: nn.Module) -> nn.Module:
    """`torch.nn.TransformerEncoder` with the same weights."""
    layer = nn.TransformerEncoderLayer(
        192, 3, 768, dropout=0.0, activation="gelu", layer_norm_eps=1e-6, batch_first=True, norm_first=True
    )
    encoder = nn.TransformerEncoder(layer, 12, nn.LayerNorm(192, eps=1e-6), enable_nested_tensor=False)
    names = {
        "attn.qkv.": "self_attn.in_proj_",
        "attn.proj.": "self_attn.out_proj.",
        "mlp.fc1.": "linear1.",
        "mlp.fc2.": "linear2.",
    }
    state = {}
    for key, value in network.state_dict().items():
        for ours, theirs in names.items():
            key = key.replace(ours, theirs)
        if key.startswith(("blocks.", "norm.")):
            state[key.replace("blocks.", "layers.")] = value
    encoder.load_state_dict(state)
    return encoder.double().eval()


def tokens(network: nn.Module, x: Tensor, places: Tensor) -> Tensor:
    """Each patch of 16 x 16 pixels by itself, row by row, after the token of the class; and their places."""
    state = network.state_dict()
    weight = state["patch_embed.proj.weight"].flatten(1)
    rows = [
        x[:, :, top : top + 16, left : left + 16].flatten(1) @ weight.T + state["patch_embed.proj.bias"]
        for top in range(0, x.shape[2], 16)
        for left in range(0, x.shape[3], 16)
    ]
    return torch.stack([state["cls_token"][:, 0].expand(len(x), -1), *rows], 1) + places


def test_it_computes_what_pytorchs_encoder_does_at_the_published_size():
    network = made().double()
    x = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    with torch.no_grad():
        expected = network.head(peer(network)(tokens(network, x, network.pos_embed))[:, 0])
        torch.testing.assert_close(network(x), expected)


def cubic(wanted: int, given: int = 14) -> Tensor:
    """Keys 1981, cubic convolution with a = -3/4, as a matrix `(wanted, given)`; the ends are repeated."""
    a, matrix = -0.75, torch.zeros(wanted, given, dtype=torch.float64)
    for i in range(wanted):
        centre = (i + 0.5) * given / wanted - 0.5
        for k in range(math.floor(centre) - 1, math.floor(centre) + 3):
            s = abs(centre - k)
            near, far = (a + 2) * s**3 - (a + 3) * s**2 + 1, a * s**3 - 5 * a * s**2 + 8 * a * s - 4 * a
            matrix[i, min(max(k, 0), given - 1)] += near if s <= 1 else far
    return matrix


@pytest.mark.parametrize(("rows", "columns"), [(4, 7), (2, 2), (16, 3)])
def test_places_of_another_size_are_interpolated(rows: int, columns: int):
    network = made().double()
    x = torch.randn(2, 3, 16 * rows, 16 * columns, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    of_class, of_patches = network.pos_embed.data[:, :1], network.pos_embed.data[0, 1:].view(14, 14, 192)
    resized = torch.einsum("rh,cw,hwd->rcd", cubic(rows), cubic(columns), of_patches)
    with torch.no_grad():
        places = torch.cat([of_class, resized.reshape(1, rows * columns, 192)], 1)
        expected = network.head(peer(network)(tokens(network, x, places))[:, 0])
        torch.testing.assert_close(network(x), expected)


def test_tokens_are_taps():
    told = {"classes": ("a", "b", "c"), "size": (32, 48), "backbone": "vit_tiny", "mean": (0.5,), "std": (0.25,)}
    classifier = Classifier(made(), **told, taps=default_taps("vit_tiny")).eval()
    assert classifier.tap_shapes() == dict.fromkeys(default_taps("vit_tiny"), (192, 7))
    x = torch.rand(2, 3, 32, 48, generator=torch.Generator().manual_seed(3)).requires_grad_()
    found = classifier.activations(x)
    last = found.features["blocks.11"].transpose(1, 2)
    torch.testing.assert_close(classifier.network.head(classifier.network.norm(last)[:, 0]), found.logits)
    found.logits[:, 0].sum().backward()
    assert x.grad is not None
    assert (x.grad != 0).float().mean() > 0.99, "every patch is looked at"


@pytest.mark.parametrize("size", [(40, 32), (32, 40), (8, 8)])
def test_sides_that_are_no_multiples_are_refused(size: tuple[int, int]):
    with pytest.raises(DataError, match=rf"{size[0]} x {size[1]} px, whose sides are no multiples of its patches"):
        made()(torch.rand(1, 3, *size))
    with pytest.raises(ConfigError, match="no multiples of its patches of 16 px"):
        Classifier(made(), classes=("a", "b", "c"), size=size, backbone="vit_tiny", mean=(0.5,), std=(0.25,))


def test_weights_are_a_function_of_the_seed_and_may_have_another_head(tmp_path):
    first, again, other = (create_backbone("vit_tiny", classes=3, seed=seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(value, again[key]) for key, value in first.items())
    assert not torch.equal(first["pos_embed"], other["pos_embed"])
    save_file(first, tmp_path / "w.safetensors")
    with pytest.warns(UserWarning, match="its head 'head' has 3 outputs, the network 2"):
        network = create_backbone("vit_tiny", classes=2, weights=tmp_path / "w.safetensors")
    assert torch.equal(network.state_dict()["pos_embed"], first["pos_embed"])
