"""Shields and their bank: one scale of suspicion, thresholds by brute force, no hidden randomness."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from medaegis.detectors.shield import Shield, ShieldBank, _conv, _Pixels
from medaegis.errors import ConfigError, DataError

SHAPES = {"input": (1, 32, 32), "deep": (6, 8, 8), "low": (12, 2, 2), "vector": (5,)}


def features(n, seed=0):
    source = torch.Generator().manual_seed(seed)
    return {name: 3 + 2 * torch.randn((n, *shape), generator=source) for name, shape in SHAPES.items()}


def bank(classes=3):
    return ShieldBank([Shield(SHAPES, width=4, hidden=8, seed=k) for k in range(classes)])


def test_one_logit_per_image_whatever_the_batch():
    shield = Shield(SHAPES, width=4, hidden=8)
    seen = features(7)
    together = shield(seen)
    assert together.shape == (7,)
    assert together.dtype == torch.float32
    alone = torch.cat([shield({name: value[i : i + 1] for name, value in seen.items()}) for i in range(7)])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-6)


def test_the_bank_asks_each_class_its_own_shield():
    """In one batch as one by one, with gradients to the features of the right rows."""
    many = bank()
    seen = {name: value.requires_grad_(True) for name, value in features(9).items()}
    classes = torch.tensor([2, 0, 0, 1, 2, 2, 0, 1, 0])
    together = many(seen, classes)
    alone = torch.stack(
        [
            many.shields[k]({name: value[i : i + 1] for name, value in seen.items()})[0]
            for i, k in enumerate(classes.tolist())
        ]
    )
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-6)
    inputs = list(seen.values())
    for found, expected in zip(
        torch.autograd.grad(together.sum(), inputs), torch.autograd.grad(alone.sum(), inputs), strict=True
    ):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    one_class = torch.ones(9, dtype=torch.int64)
    torch.testing.assert_close(many(seen, one_class), many.shields[1](seen))
    assert many({name: value[:0] for name, value in seen.items()}, classes[:0]).shape == (0,)


def test_taps_of_different_shields_are_read_once():
    shields = [Shield({"a": (2, 4, 4), "b": (3, 4, 4)}), Shield({"b": (3, 4, 4), "c": (1, 4, 4)})]
    assert ShieldBank(shields).taps == ("a", "b", "c")


def test_standardise_gives_mean_0_and_deviation_1():
    shield, seen = Shield(SHAPES, width=4, hidden=8), features(50)
    shield.standardise(seen)
    for head, value in zip(shield.heads, seen.values(), strict=True):
        x = value.view(*value.shape, *(1,) * (4 - value.ndim))
        scaled = (x - head.mean) / head.std
        torch.testing.assert_close(scaled.mean((0, 2, 3)), torch.zeros(x.shape[1]), rtol=0, atol=1e-5)
        torch.testing.assert_close(scaled.std((0, 2, 3)), torch.ones(x.shape[1]), rtol=1e-5, atol=0)


def test_standardise_bears_a_constant_channel():
    shield = Shield({"tap": (2, 8, 8)}, width=4, hidden=8)
    flat = torch.randn((5, 2, 8, 8), generator=torch.Generator().manual_seed(0))
    flat[:, 1] = 4.0
    shield.standardise({"tap": flat})
    assert shield({"tap": flat}).isfinite().all()


@settings(max_examples=60)
@given(
    st.integers(10, 60),
    st.sampled_from([0.51, 0.6, 0.7, 0.75, 0.9, 0.95, 0.99]),
    st.integers(0, 2**32),
    st.sampled_from([0.1, 1.0, 1e4]),
)
def test_calibration_accepts_the_chosen_share(n, tnr, seed, spread):
    """Of n clean images the least k with k >= tnr (n + 1) are accepted, counted one by one, in every class."""
    many = bank(2)
    logits = spread * torch.randn(2 * n, generator=torch.Generator().manual_seed(seed))
    classes = torch.arange(2 * n) % 2
    told = many.calibrate(logits, classes, tnr)
    assert {(one.images, one.own) for one in told} == {(n, n >= tnr * (n + 1) - 1e-9)}
    if not told[0].own:
        return
    accepted = many.suspicion(logits, classes) <= 1
    wanted = next(k for k in range(n + 1) if k >= tnr * (n + 1) - 1e-9)
    for k in range(2):
        assert int(accepted[classes == k].sum()) == wanted
        kept = logits[classes == k][accepted[classes == k]]
        lost = logits[classes == k][~accepted[classes == k]]
        assert not len(lost) or kept.min() > lost.max(), "suspicion does not fall with the logit"
        middle = logits[classes == k].sort().values[(n - 1) // 2]
        assert many.suspicion(middle.view(1), torch.tensor([k])).item() == 0


def test_calibration_of_equal_logits_accepts_them():
    many = bank(1)
    many.calibrate(torch.full((20,), 3.25), torch.zeros(20, dtype=torch.int64), 0.9)
    assert (many.suspicion(torch.tensor([3.25, 3.0]), torch.zeros(2, dtype=torch.int64)) <= 1).tolist() == [True, False]


def test_an_uncalibrated_bank_rejects_everything():
    many = bank(2)
    logits = torch.tensor([-1e30, 0.0, 1e30, torch.inf, -torch.inf, torch.nan])
    assert not (many.suspicion(logits, torch.tensor([0, 1, 0, 1, 0, 1])) <= 1).any()


@pytest.mark.parametrize("tnr", [0.0, 0.3, 0.5, 1.0, 1.5, math.nan])
def test_a_tnr_that_cannot_be_honoured(tnr):
    with pytest.raises(ConfigError, match=r"above 0\.5"):
        bank(1).calibrate(torch.randn(20), torch.zeros(20, dtype=torch.int64), tnr)


def test_calibration_needs_images_and_finite_logits():
    with pytest.raises(DataError, match="9 clean images in all"):
        bank(2).calibrate(torch.zeros(9), torch.arange(9) % 2, 0.9)
    logits = torch.zeros(20)
    logits[3] = torch.nan
    with pytest.raises(DataError, match="not finite"):
        bank(1).calibrate(logits, torch.zeros(20, dtype=torch.int64), 0.9)


def test_first_weights_come_from_the_seed_alone():
    state = torch.random.get_rng_state()
    one, again, other = (Shield(SHAPES, width=4, hidden=8, seed=seed) for seed in (5, 5, 6))
    assert torch.equal(torch.random.get_rng_state(), state), "the global random state moved"
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), again.parameters(), strict=True))
    assert not torch.equal(one.join[0].weight, other.join[0].weight)
    for name, value in one.named_parameters():
        assert value.isfinite().all(), name
        assert name.endswith("bias") or value.std() > 0, name
    # He et al. 2015: the deviation of a layer's weights is sqrt(2 / fan in).
    weight = Shield({"tap": (64, 32, 32)}).heads[0].layers[0].weight
    assert weight.std().item() == pytest.approx(math.sqrt(2 / (64 * 9)), rel=0.05)


def test_a_shield_needs_a_tap():
    with pytest.raises(ConfigError, match="no taps"):
        Shield({})


@pytest.mark.parametrize(
    ("made", "shape"),
    [
        (_Pixels(1, 4), (1, 32, 32)),
        (_Pixels(3, 4), (3, 20, 12)),
        (_Pixels(1, 4), (1, 31, 32)),
        (_conv(8, 16, 3, stride=2), (8, 17, 1)),
        (_conv(8, 16, 3, stride=2), (8, 9, 9)),
    ],
    ids=["gray", "colour", "odd", "tokens", "map"],
)
def test_a_convolution_is_pytorchs_however_it_is_computed(made, shape):
    """Value and both gradients against the plain one in float64, and in bfloat16 within what that rounds."""
    made.to(memory_format=torch.channels_last)
    x = torch.randn((8, *shape), generator=torch.Generator().manual_seed(0))
    x = x.contiguous(memory_format=torch.channels_last).requires_grad_()
    exact = copy.deepcopy(made).double()
    plain = F.conv2d(x.double(), exact.weight, exact.bias, made.stride, made.padding)
    expected = [plain, *torch.autograd.grad(plain.square().mean(), (x, exact.weight))]
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.bfloat16, 0.05)):
        for _ in range(5):
            for count in (64, made.weight.numel(), 4 * made.weight.numel()):
                torch.full((count,), 1e30)  # let go at once: a gradient that is left unset shows it
            with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
                found = made(x)
            values = [found, *torch.autograd.grad(found.float().square().mean(), (x, made.weight))]
            for value, true in zip(values, expected, strict=True):
                assert (value.double() - true).abs().max() <= tolerance * true.abs().max()
