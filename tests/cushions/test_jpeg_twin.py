"""The JPEG twin against the codec, and its slope against finite differences.

`python -m pytest tests/cushions/test_jpeg_twin.py -k distance -s` prints the distances given in the docstrings.
"""

import pytest
import torch
from tests.cushions.drawings import drawn

from medaegis.cushions import cushion_with_gradient, jpeg_twin, parse_cushion

# spec, channels, highest mean and worst distance in grey levels
DISTANCES = [
    ("jpeg:50", 1, 1.0, 16),
    ("jpeg:80", 1, 1.2, 14),
    ("jpeg:95", 1, 0.6, 6),
    ("jpeg:80:444", 3, 2.0, 26),
    ("jpeg:80:420", 3, 1.5, 26),
    ("jpeg:95:420", 3, 1.5, 14),
]


@pytest.mark.parametrize(("spec", "channels", "mean", "worst"), DISTANCES)
@pytest.mark.parametrize("size", [(112, 112), (83, 97)])
def test_distance_to_the_codec(spec: str, channels: int, mean: float, worst: float, size: tuple[int, int]) -> None:
    x = drawn((8, channels, *size))
    cushion = parse_cushion(spec)
    away = (cushion(x) - cushion.twin(x)).abs() * 255
    print(f"\n{spec}, {channels} channels, {size}: mean {away.mean():.2f}, worst {away.max():.1f} grey levels")
    assert away.mean() < mean
    assert away.max() < worst
    # A cushion that did nothing would be further away: the twin follows the codec, not the image.
    assert away.mean() < 0.75 * (cushion(x) - x).abs().mean() * 255


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(35, 41), (34, 42), (33, 33), (40, 49)])
def test_edges_are_padded_as_in_the_codec(size: tuple[int, int], channels: int) -> None:
    x = drawn((40, channels, *size), noise=4)
    cushion = parse_cushion("jpeg:80")
    away = (cushion(x) - cushion.twin(x)).abs().mean((0, 1)) * 255
    inside = away[:32, :32].mean()
    assert away[32:].mean() < 1.5 * inside + 0.2
    assert away[:, 32:].mean() < 1.5 * inside + 0.2


@pytest.mark.parametrize("shape", [(1, 3, 1, 1), (1, 3, 2, 3), (1, 3, 5, 4), (1, 3, 4, 5), (1, 1, 1, 17)])
def test_tiny_images(shape: tuple[int, ...]) -> None:
    """Flat colours pass the codec nearly unchanged, whatever the size; so must they pass the twin."""
    x = torch.tensor([0.2, 0.6, 0.4])[: shape[1]].view(1, -1, 1, 1).expand(shape)
    for spec in ("jpeg:95", "jpeg:95:444"):
        cushion = parse_cushion(spec)
        assert (cushion.twin(x) - cushion(x)).abs().max() * 255 < 3


@pytest.mark.parametrize("width", [3, 4, 5, 6, 9])
def test_chroma_of_narrow_images(width: int) -> None:
    """libjpeg repeats the chroma of images up to 4 pixels wide and interpolates it in wider ones."""
    left, right = torch.tensor([0.8, 0.3, 0.3]), torch.tensor([0.3, 0.4, 0.8])
    x = torch.where((torch.arange(width) < 2).view(1, 1, 1, -1), left.view(1, 3, 1, 1), right.view(1, 3, 1, 1))
    x = x.expand(1, 3, 8, width)
    cushion = parse_cushion("jpeg:100")
    assert (cushion.twin(x) - cushion(x)).abs().max() * 255 < 4


def test_soft_round_follows_round() -> None:
    x = torch.linspace(-3, 3, 1001, dtype=torch.float64)
    assert (jpeg_twin.soft_round(x) - x.round()).abs().max() <= 0.125
    whole = torch.arange(-3.0, 4)
    assert torch.equal(jpeg_twin.soft_round(whole), whole)


@pytest.mark.parametrize(("channels", "halve"), [(1, False), (3, False), (3, True)])
@pytest.mark.parametrize("size", [(8, 8), (5, 9), (1, 3)])
def test_slope_by_finite_differences(channels: int, halve: bool, size: tuple[int, int]) -> None:
    """Everything but the jumps of the rounding is smooth; with this seed no coefficient sits on a jump."""
    random = torch.Generator().manual_seed(1)
    x = (0.2 + 0.6 * torch.rand((1, channels, *size), generator=random, dtype=torch.float64)).requires_grad_()

    def twin(pixels: torch.Tensor) -> torch.Tensor:
        return jpeg_twin.jpeg_twin(pixels, 60, halve_chroma=halve)

    assert torch.autograd.gradcheck(twin, (x,), eps=1e-7, atol=1e-4)


def test_slope_of_linear_parts_is_exact_at_quality_100(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without rounding a grey JPEG is the identity, and 4:4:4 too up to the digits of the colour matrices."""
    monkeypatch.setattr(jpeg_twin, "soft_round", lambda x: x)
    x = 0.3 + 0.4 * drawn((2, 3, 19, 30)).double()
    assert torch.allclose(jpeg_twin.jpeg_twin(x[:, :1], 7, halve_chroma=False), x[:, :1], atol=1e-12)
    assert torch.allclose(jpeg_twin.jpeg_twin(x, 7, halve_chroma=False), x, atol=1e-6)


def test_an_attacker_gains_from_the_twin() -> None:
    """One signed step along the twin's slope moves the codec's output further than a random step does."""
    x = 0.25 + 0.5 * drawn((8, 1, 64, 64))
    cushion = parse_cushion("jpeg:50")
    goal = torch.randn((64, 64), generator=torch.Generator().manual_seed(0))
    x = (x * 255).round() / 255
    leaf = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad((cushion_with_gradient(cushion, leaf, "twin") * goal).sum(), leaf)
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    gain, chance = (((cushion(x + 8 / 255 * step.sign()) - cushion(x)) * goal).sum() for step in (slope, noise))
    assert gain > 3 * chance.abs()
