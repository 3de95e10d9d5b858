"""Networks for each pixel: U-Net is MONAI's, SegNet what its paper says, both of published sizes and for any image."""

import doctest

import pytest
import torch
import torch.nn.functional as F
from tests.models.tiny_networks import lived_in
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from medaegis.errors import ConfigError, DataError
from medaegis.models import segmentation_networks
from medaegis.models.segmentation_networks import create_segmenter, segmenter, segmenters
from medaegis.models.taps import observe


def drawn(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=dtype)


def test_unet_is_monais_from_its_first_weights_on():
    from monai.networks.nets import BasicUNet

    ours = create_segmenter("unet", classes=3, seed=7)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        theirs = BasicUNet(spatial_dims=2, in_channels=3, out_channels=3)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    for key, value in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[key], value), key
    x = drawn(2, 3, 48, 32)
    with torch.no_grad():
        assert torch.equal(ours.eval()(x), theirs.eval()(x))


def segnet(x: Tensor, state: dict[str, Tensor]) -> Tensor:
    """Badrinarayanan et al. 2017, figure 2, straight from a state dict."""

    def stage(x: Tensor, name: str) -> Tensor:
        layers = sorted(int(key.split(".")[2]) for key in state if key.startswith(name) and key.endswith("weight"))
        for layer in layers:
            weight, bias = state[f"{name}{layer}.weight"], state[f"{name}{layer}.bias"]
            if weight.ndim == 4:
                x = F.conv2d(x, weight, bias, padding=1)
            else:
                mean, var = state[f"{name}{layer}.running_mean"], state[f"{name}{layer}.running_var"]
                x = F.relu(F.batch_norm(x, mean, var, weight, bias))
        return x

    taken = []
    for i in range(5):
        x = stage(x, f"encoder.{i}.")
        height, width = x.shape[2] // 2, x.shape[3] // 2  # an odd row or column is not pooled
        squares = x[:, :, : 2 * height, : 2 * width].unflatten(3, (width, 2)).unflatten(2, (height, 2))
        squares = squares.transpose(3, 4).flatten(4)  # the four pixels of each, row by row
        largest = squares.amax(4)
        hits = squares == largest[..., None]
        taken.append((hits & (hits.cumsum(4) == 1), x.shape))  # the first of equal ones
        x = largest
    for i, (where, shape) in enumerate(reversed(taken)):
        spread = (x[..., None] * where).unflatten(4, (2, 2)).transpose(3, 4).flatten(4, 5).flatten(2, 3)
        x = stage(F.pad(spread, (0, shape[3] - spread.shape[3], 0, shape[2] - spread.shape[2])), f"decoder.{i}.")
    return x


def test_segnet_puts_values_back_where_they_were_taken():
    network = lived_in(create_segmenter("segnet", classes=3)).double()
    x = drawn(1, 3, 48, 32, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(network(x), segnet(x, network.state_dict()))


def test_segnet_is_as_large_and_as_slow_as_the_published_one():
    """Paszke et al. 2016, ENet, table 3: 29.46 million weights, 286.03 GFLOPs for 640 x 360 pixels of Cityscapes."""
    with torch.device("meta"):
        network, x = create_segmenter("segnet", classes=20), torch.empty(1, 3, 640, 352)
    assert sum(weight.numel() for weight in network.parameters()) == pytest.approx(29.46e6, rel=1e-3)
    encoder = sum(weight.numel() for name, weight in network.named_parameters() if name.startswith("encoder"))
    assert encoder == 138_365_992 - 123_642_856, "VGG-16 with batch norm, without its linear layers"
    with FlopCounterMode(display=False) as counter:
        network.eval()(x)
    assert counter.get_total_flops() * 360 / 352 == pytest.approx(286.03e9, rel=5e-3)


@pytest.mark.parametrize("name", segmenters())
class TestEach:
    def test_logits_for_each_pixel_and_gradients_for_each_weight(self, name):
        network = create_segmenter(name, classes=4)
        x = drawn(2, 3, 64, 48).requires_grad_()
        logits = network(x)
        assert logits.shape == (2, 4, 64, 48)
        F.cross_entropy(logits, torch.arange(64 * 48).view(1, 64, 48).expand(2, -1, -1) % 4).backward()
        assert x.grad is not None
        assert bool(x.grad.isfinite().all())
        assert (x.grad != 0).float().mean() > 0.99
        dead = [key for key, weight in network.named_parameters() if weight.grad is None or not weight.grad.any()]
        assert not [key for key in dead if key.endswith("weight")]

    def test_no_image_depends_on_its_companions(self, name):
        network, x = lived_in(create_segmenter(name, classes=2)), drawn(3, 3, 32, 48)
        with torch.no_grad():
            torch.testing.assert_close(network(x)[1:2], network(x[1:2]), rtol=1e-4, atol=1e-5)

    def test_weights_depend_on_the_seed_alone_and_leave_the_global_generator_alone(self, name):
        torch.manual_seed(5)
        first = create_segmenter(name, classes=2, seed=1).state_dict()
        after = torch.rand(3)
        torch.manual_seed(5)
        assert torch.equal(after, torch.rand(3))
        again, other = (create_segmenter(name, classes=2, seed=seed).state_dict() for seed in (1, 2))
        assert all(torch.equal(value, again[key]) for key, value in first.items())
        head = f"{segmenter(name).head}.weight"
        assert not torch.equal(first[head], other[head])

    @pytest.mark.parametrize("size", [(40, 32), (32, 40), (16, 32), (0, 32)])
    def test_sides_that_do_not_fit_are_refused(self, name, size):
        with pytest.raises(DataError, match=rf"{size[0]} x {size[1]} px, expected sides that are multiples of 16"):
            create_segmenter(name, classes=2)(torch.rand(1, 3, *size))

    def test_its_taps_and_head_are_there(self, name):
        network = create_segmenter(name, classes=3).eval()
        _, observed = observe(network, drawn(2, 3, 32, 32))
        for tap in segmenter(name).taps:
            assert observed[tap].calls == 1
            assert observed[tap].shape is not None
        head = network.get_submodule(segmenter(name).head)
        assert isinstance(head, nn.Conv2d)
        assert head.out_channels == 3


def test_the_examples_run():
    assert doctest.testmod(segmentation_networks).attempted
    assert not doctest.testmod(segmentation_networks).failed


def test_what_cannot_be_made_is_told():
    with pytest.raises(ConfigError, match="give one of unet, segnet"):
        create_segmenter("unet3d", classes=2)
    with pytest.raises(ConfigError, match="count the background too"):
        create_segmenter("unet", classes=1)
