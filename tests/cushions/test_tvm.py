"""Total-variation minimisation against SciPy's general minimiser, and its choice of kept values."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from tests.cushions.drawings import drawn

from medaegis.cushions import parse_cushion
from medaegis.cushions.tvm import TotalVariation


def objective(z: np.ndarray, x: np.ndarray, mask: np.ndarray, weight: float, soft: float = 0.0) -> float:
    across, down = np.zeros_like(z), np.zeros_like(z)
    across[:, :-1], down[:-1] = np.diff(z, axis=1), np.diff(z, axis=0)
    return float((mask * (z - x) ** 2).sum() + weight * np.sqrt(across**2 + down**2 + soft).sum())


@pytest.mark.parametrize(("keep", "weight"), [(0.5, 0.03), (0.8, 0.3), (1.0, 0.1)])
def test_reaches_the_minimum(keep: float, weight: float) -> None:
    x = drawn((1, 1, 7, 6), noise=30)
    cushion = TotalVariation(keep, weight, 3000)
    mask = cushion._mask((x * 255).round().byte()).double()
    ours = cushion._minimise(x.double(), mask)[0, 0].numpy()
    image, kept = x[0, 0].double().numpy(), mask[0, 0].numpy()
    found = minimize(
        lambda z: objective(z.reshape(7, 6), image, kept, weight, 1e-8), image.ravel(), options={"maxiter": 3000}
    )
    theirs = objective(found.x.reshape(7, 6), image, kept, weight)
    assert objective(ours, image, kept, weight) <= theirs + 1e-5
    assert objective(ours, image, kept, weight) < 0.9 * objective(image, image, kept, weight)


def test_default_iterations_are_enough() -> None:
    x = drawn((2, 1, 48, 48))
    away = (TotalVariation()(x) - TotalVariation(iterations=2000)(x)).abs() * 255
    assert away.mean() < 0.2
    assert away.max() <= 6


def test_kept_share_and_its_seed() -> None:
    cushion = parse_cushion("tvm:0.3:0.03:5")
    assert isinstance(cushion, TotalVariation)
    bytes_ = (drawn((3, 1, 100, 101)) * 255).round().byte()
    masks = cushion._mask(bytes_)
    assert abs(masks.float().mean() - 0.3) < 0.01
    assert torch.equal(masks, cushion._mask(bytes_.clone()))
    bytes_[0, 0, 50, 50] ^= 1
    changed = cushion._mask(bytes_)
    assert 0.4 < (changed[0] != masks[0]).float().mean() < 0.44  # 2 · 0.3 · 0.7: drawn anew
    assert torch.equal(changed[1:], masks[1:])


def test_dropped_values_are_not_looked_at() -> None:
    x = drawn((1, 1, 20, 20)).double()
    cushion = TotalVariation()
    mask = cushion._mask((x * 255).round().byte()).double()
    assert torch.equal(cushion._minimise(x, mask), cushion._minimise(x * mask, mask))


def test_twin_is_near_and_has_the_right_slope() -> None:
    x = drawn((1, 1, 30, 30))
    cushion = TotalVariation()
    assert ((cushion.twin(x) - cushion(x)).abs() * 255).max() < 0.51
    short = TotalVariation(iterations=8)
    random = torch.Generator().manual_seed(0)
    small = (torch.randint(0, 256, (1, 1, 4, 5), generator=random).double() / 255).requires_grad_()
    assert torch.autograd.gradcheck(short.twin, (small,), eps=1e-7, atol=1e-5)
