"""The subnetworks against a network written out by hand, each trained on its own; and that they learn."""

import pytest
import torch
import torch.nn.functional as F
from tests.detectors.read import drawn, seen_by, toy_reader

from medaegis.detectors.subnetwork import Subnetworks, _Subnetwork
from medaegis.errors import ConfigError


def by_hand(state, x, *, pools):
    """Conv, batch norm by running statistics, ReLU, max pool; then 1 x 1 to a logit, averaged (Metzen, fig. 1)."""
    convolutions = [name for name, value in state.items() if value.ndim == 4]
    norms = [name.removesuffix("running_mean") for name in state if name.endswith("running_mean")]
    for i, (conv, norm) in enumerate(zip(convolutions[:3], norms, strict=True)):
        x = F.conv2d(x, state[conv], padding=1)
        parts = [state[norm + part].view(1, -1, 1, 1) for part in ("running_mean", "running_var", "weight", "bias")]
        mean, var, weight, bias = parts
        x = ((x - mean) / (var + 1e-5).sqrt() * weight + bias).clamp_min(0)
        if i < pools:
            x = F.max_pool2d(x, 2)
    out = torch.einsum("nchw,oc->nohw", x, state[convolutions[3]][:, :, 0, 0])
    return out.mean((1, 2, 3)) + state[convolutions[3].replace("weight", "bias")]


def plain_by_hand(state, x, *, pools):
    """Convolutions and poolings alone, and the 1 x 1 convolution read off the average, which linearity allows."""
    names = [name.removesuffix(".weight") for name, value in state.items() if value.ndim == 4]
    for i, name in enumerate(names[:3]):
        x = F.conv2d(x, state[f"{name}.weight"], state[f"{name}.bias"], padding=1)
        if i < pools:
            x = F.max_pool2d(x, 2)
    return x.mean((2, 3)) @ state[f"{names[3]}.weight"].flatten() + state[f"{names[3]}.bias"]


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize(("side", "pools"), [(8, 0), (15, 0), (16, 1), (32, 2), (40, 2)])
def test_pooling_leaves_small_maps_alone(side, pools, plain):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(side)
        network = _Subnetwork((3, side, side), plain=plain)
        network(torch.randn(4, 3, side, side))  # moves the running statistics
        x = torch.randn(2, 3, side, side)
    state = network.eval().state_dict()
    expected = plain_by_hand(state, x, pools=pools) if plain else by_hand(state, x, pools=pools)
    torch.testing.assert_close(network(x), expected, rtol=1e-4, atol=1e-5)


def test_a_plain_network_on_small_maps_sees_sums_alone():
    """Without poolings it is linear: where in the inside of the map something stands is nothing to it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        plain, full = (_Subnetwork((3, 14, 14), plain=plain).eval() for plain in (True, False))
        inside = torch.randn(3, 36)
        moved = inside[:, torch.randperm(36)]
    x = torch.zeros(2, 3, 14, 14)
    x[:, :, 4:10, 4:10] = torch.stack([inside, moved]).view(2, 3, 6, 6)
    torch.testing.assert_close(plain(x)[0], plain(x)[1], rtol=1e-5, atol=1e-6)
    assert not torch.allclose(full(x)[0], full(x)[1], rtol=1e-5, atol=1e-6)


def test_logits_are_summed_and_a_network_learns_as_if_alone():
    reader = toy_reader(cushion="jpeg:80")
    clean, attacked, labels = seen_by(reader, 12)
    options = {"steps": 2, "batch_size": 4}
    both = Subnetworks(taps=("relu", "last"), **options).fit(clean, labels, attacked=attacked)
    state = {name: value.clone() for name, value in both.tensors().items()}
    maps = reader.maps(clean.images, ("relu", "last")).features
    parts = [
        by_hand({name[2:]: value for name, value in state.items() if name.startswith(f"{i}.")}, maps[tap], pools=0)
        for i, tap in enumerate(("relu", "last"))
    ]
    torch.testing.assert_close(both.score(clean), sum(parts), rtol=1e-4, atol=1e-4)
    # The first one alone starts from the same weights; the second one's come later in the random sequence.
    alone = Subnetworks(taps=("relu",), **options).fit(clean, labels, attacked=attacked)
    for name, value in alone.tensors().items():
        torch.testing.assert_close(value, state[name], rtol=1e-4, atol=1e-6)


def test_it_learns_to_tell_noisy_images_and_leaves_the_global_state():
    reader = toy_reader()
    clean, attacked, labels = seen_by(reader, 48)
    before = torch.random.get_rng_state()
    told = []
    detector = Subnetworks(taps=("relu",), steps=20, batch_size=16)
    detector.fit(clean, labels, attacked=attacked, progress=lambda *report: told.append(report))
    assert torch.equal(before, torch.random.get_rng_state())
    assert told[-1][:2] == (20, 20)
    new, hostile, _ = seen_by(reader, 32, seed=5)
    assert (detector.score(hostile)[:, None] > detector.score(new)).float().mean() > 0.9


def test_it_needs_images_and_maps():
    clean, labels = drawn(30)
    with pytest.raises(ConfigError, match=r"Reader\.read"):
        Subnetworks().fit(clean, labels, attacked=clean)
    reader = toy_reader()
    seen, attacked, labels = seen_by(reader, 12)
    with pytest.raises(ConfigError, match="not channels, height and width"):
        Subnetworks(taps=("fc",)).fit(seen, labels, attacked=attacked)
    with pytest.raises(ConfigError, match="batches of 2 or more"):
        Subnetworks(batch_size=1)
