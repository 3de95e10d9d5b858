"""Bit depth, median and Gaussian against plain integers and SciPy's filters."""

import numpy as np
import pytest
import torch
from scipy import ndimage
from tests.cushions.drawings import drawn

from medaegis.cushions import parse_cushion
from medaegis.cushions.filters import Unrounded, median_network
from medaegis.errors import ConfigError, ImageError

ALL_BYTES = (torch.arange(256).float() / 255).view(1, 1, 16, 16)


@pytest.mark.parametrize("dropped", [1, 3, 4, 7])
def test_bits(dropped: int) -> None:
    low = (parse_cushion(f"bits:{dropped}")(ALL_BYTES) * 255).round().int().flatten().tolist()
    assert low == [value // 2**dropped * 2**dropped for value in range(256)]
    middle = (parse_cushion(f"bits:{dropped}:mid")(ALL_BYTES) * 255).round().int().flatten().tolist()
    assert middle == [value + 2 ** (dropped - 1) for value in low]


@pytest.mark.parametrize("spec", ["bits:3", "bits:4:mid"])
def test_bits_twin_is_monotone_and_near(spec: str) -> None:
    cushion = parse_cushion(spec)
    step = 2 ** int(spec[5])
    fine = torch.linspace(0, 1, 5001, dtype=torch.float64).view(1, 1, 1, -1)
    assert (cushion.twin(fine).diff() > -1e-12).all()
    assert ((cushion.twin(ALL_BYTES) - cushion(ALL_BYTES)).abs() * 255).max() <= step / 2
    assert ((cushion.twin(ALL_BYTES) - cushion(ALL_BYTES)) * 255).mean().abs() < 0.01


def test_median_network_on_every_zero_one_input() -> None:
    """A network that selects the median of zeros and ones does so for all values (Knuth, theorem Z)."""
    bits = (torch.arange(2**9)[:, None] >> torch.arange(9)) & 1
    values = list(bits.T)
    for low, high in median_network(9):
        values[low], values[high] = torch.minimum(values[low], values[high]), torch.maximum(values[low], values[high])
    assert torch.equal(values[4], (bits.sum(1) >= 5).long())


@pytest.mark.parametrize("window", [3, 5, 7, 9])
@pytest.mark.parametrize("shape", [(2, 3, 20, 23), (1, 1, 1, 6), (1, 1, 2, 1)])
def test_median(window: int, shape: tuple[int, ...]) -> None:
    x = drawn(shape)
    expected = ndimage.median_filter((x * 255).round().byte().numpy(), (1, 1, window, window), mode="nearest")
    assert torch.equal(parse_cushion(f"median:{window}")(x), torch.from_numpy(expected).float() / 255)


@pytest.mark.parametrize("sigma", [0.3, 1.0, 2.5, 10.0])
@pytest.mark.parametrize("shape", [(2, 3, 40, 31), (1, 1, 1, 6)])
def test_gaussian(sigma: float, shape: tuple[int, ...]) -> None:
    x = drawn(shape)
    radius = int(np.ceil(3 * sigma))
    exact = ndimage.gaussian_filter(x.double().numpy() * 255, sigma, axes=(2, 3), radius=radius, mode="nearest")
    got = parse_cushion(f"gaussian:{sigma}")(x).double().numpy() * 255
    assert np.abs(got - exact).max() < 0.5 + 0.5  # half a level of rounding, half of eleven-bit weights
    assert np.abs(got - exact).mean() < 0.3
    flat = torch.full(shape, 1.0)
    assert torch.equal(parse_cushion(f"gaussian:{sigma}")(flat), flat)


@pytest.mark.parametrize("spec", ["bits:4", "bits:3:mid", "median:3", "gaussian:0.8", "none"])
def test_twins_by_finite_differences(spec: str) -> None:
    random = torch.Generator().manual_seed(3)
    x = torch.rand((1, 1, 5, 6), generator=random, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(parse_cushion(spec).twin, (x,), eps=1e-7, atol=1e-5)


def test_unrounded_gives_every_bit_and_is_no_cushion_that_a_spec_can_name() -> None:
    cushion, fine = Unrounded(), torch.linspace(0, 1, 5001).view(1, 1, 1, -1)
    assert torch.equal(cushion(fine), fine)
    assert not cushion.rounds
    assert not torch.equal(parse_cushion("none")(fine), fine)
    assert parse_cushion("none").rounds
    with pytest.raises(ImageError):
        cushion(torch.full((1, 1, 2, 2), torch.nan))
    with pytest.raises(ConfigError, match="no cushion named 'float'"):
        parse_cushion(cushion.spec)
