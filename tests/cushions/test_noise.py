"""Noise on the 8-bit grid: its table against mpmath, what is drawn against scipy's normal distribution, whose it is."""

from dataclasses import dataclass
from functools import cache
from itertools import pairwise

import mpmath
import pytest
import torch
from scipy.stats import chisquare, norm
from torch import Tensor

from medaegis.cushions import cushion_with_gradient, parse_cushion
from medaegis.cushions.noise import GridNoise, NoisyCushion
from medaegis.draws import Draws
from medaegis.errors import ConfigError

SIGMAS = (0.002, 0.0625, 0.25, 1.0, 10.0)


@dataclass
class Given:
    """Random bits that the test chooses."""

    bits: list[int]

    def keys(self, *shape: int) -> Tensor:
        return torch.tensor(self.bits)


@cache
def steps(sigma: float) -> dict[int, int]:
    """By level k the least 64-bit number, as Python's own and without sign, that draws k or more; to 60 digits."""
    with mpmath.workdps(60):
        shares = {k: mpmath.ncdf((k - mpmath.mpf("0.5")) / (255 * mpmath.mpf(sigma))) for k in range(-254, 256)}
        return {k: int(mpmath.nint(share * 2**64)) for k, share in shares.items()}


@pytest.mark.parametrize("sigma", SIGMAS)
def test_every_step_is_where_the_normal_distribution_has_it(sigma):
    noise = GridNoise(sigma)
    inside = {k: step for k, step in steps(sigma).items() if 0 < step < 2**64}
    assert len(inside) > 2
    at = noise.levels(Given([step - 2**63 for step in inside.values()])).tolist()
    before = noise.levels(Given([step - 1 - 2**63 for step in inside.values()])).tolist()
    # Far out some steps are the same number: there several levels are passed at once.
    assert at == [max(k for k, other in inside.items() if other == step) for step in inside.values()]
    assert before == [min(k for k, other in inside.items() if other == step) - 1 for step in inside.values()]


@pytest.mark.parametrize("sigma", SIGMAS)
def test_the_ends_of_the_bits_are_the_ends_of_the_noise(sigma):
    drawn = GridNoise(sigma).levels(Given([-(2**63), 2**63 - 1])).tolist()
    reached = [k for k, step in steps(sigma).items() if step < 2**64]
    assert drawn == [min(k for k, step in steps(sigma).items() if step > 0) - 1, max(reached)]
    assert drawn[0] == -drawn[1]


@pytest.mark.parametrize("sigma", SIGMAS)
def test_what_rounding_does_to_the_chances_is_within_the_drift(sigma):
    with mpmath.workdps(60):
        exact = [mpmath.ncdf((k - mpmath.mpf("0.5")) / (255 * mpmath.mpf(sigma))) for k in range(-254, 256)]
        off = [share - mpmath.mpf(step) / 2**64 for share, step in zip(exact, steps(sigma).values(), strict=True)]
        ends = [mpmath.mpf(0), *off, mpmath.mpf(0)]
        variation = sum(abs(later - one) for one, later in pairwise(ends)) / 2
    assert 0 < variation <= GridNoise.drift(1)
    assert GridNoise.drift(12544) == 12544 * GridNoise.drift(1) < 1e-12


@pytest.mark.parametrize("sigma", [0.01, 0.25])
def test_what_is_drawn_has_the_rounded_normal_distribution(sigma):
    drawn = GridNoise(sigma).levels(Draws(0, torch.arange(40), "chances"), 1, 64, 64).flatten()
    s, limit = 255 * sigma, int(2.5 * 255 * sigma)
    inner = torch.arange(-limit, limit + 1)
    counts = [int((drawn < -limit).sum()), *[int((drawn == k).sum()) for k in inner], int((drawn > limit).sum())]
    ends = norm.cdf([(-limit - 0.5) / s, *[(k + 0.5) / s for k in inner.tolist()]])
    chances = [ends[0], *(ends[1:] - ends[:-1]), 1 - ends[-1]]
    assert chisquare(counts, [len(drawn) * chance for chance in chances]).pvalue > 1e-3


def test_an_image_and_its_noise_are_clipped_to_8_bits():
    draws = Draws(0, torch.arange(6), "clip")
    noise = GridNoise(0.5)
    levels = noise.levels(draws, 1, 8, 8)
    for value in (0, 100, 255):
        noisy = noise.added(torch.full((1, 1, 8, 8), value, dtype=torch.uint8), draws)
        assert noisy.dtype == torch.uint8
        assert torch.equal(noisy.long(), (levels.long() + value).clamp(0, 255))


def test_noise_is_the_images_and_the_copys_own():
    noise, ids = GridNoise(0.25), torch.full((9,), 7)
    whole = noise.levels(Draws(3, ids, "own", step=torch.arange(9)), 1, 8, 8)
    part = noise.levels(Draws(3, ids[:2], "own", step=torch.tensor([5, 8])), 1, 8, 8)
    assert torch.equal(part, whole[[5, 8]])
    assert len({tuple(one.flatten().tolist()) for one in whole}) == 9
    for other in (Draws(4, ids, "own"), Draws(3, ids + 1, "own"), Draws(3, ids, "other")):
        assert not torch.equal(noise.levels(other.at(torch.arange(9)), 1, 8, 8), whole)


@pytest.mark.parametrize("sigma", [0, -0.25, 10.5, float("nan"), float("inf")])
def test_a_sigma_that_cannot_be_is_refused(sigma):
    with pytest.raises(ConfigError, match=r"sigma .*expected a number above 0 and at most 10"):
        GridNoise(sigma)


@pytest.mark.parametrize("inner", ["none", "jpeg:60", "random:bits:2-4"])
def test_as_a_cushion_it_stands_before_the_other_and_is_drawn_anew(inner):
    noise = GridNoise(0.1)
    cushion = NoisyCushion(noise, parse_cushion(inner))
    x = torch.randint(0, 256, (3, 3, 16, 16), generator=torch.Generator().manual_seed(0)).float() / 255
    drawn = cushion.draw(5, "look/0", [4, 8, 9])
    noisy = noise.added((x * 255).round().byte(), Draws(5, torch.tensor([4, 8, 9]), "look/0")).float() / 255
    behind = parse_cushion(inner)
    behind = behind.draw(5, "look/0/inner", [4, 8, 9]) if behind.random else behind
    assert torch.equal(drawn(x), behind(noisy))
    assert torch.equal(cushion.draw(5, "look/0", [4, 8, 9])(x), drawn(x))
    assert not torch.equal(cushion.draw(5, "look/1", [4, 8, 9])(x), drawn(x))
    assert not torch.equal(noisy, x)


@pytest.mark.parametrize(
    ("spec", "canonical"),
    [
        ("noise:0.05", "noise:0.05"),
        ("noise:0.050+none", "noise:0.05"),
        ("noise:1+median:3", "noise:1.0+median:3"),
        ("noise:0.1+random:jpeg:60-95+median:3", "noise:0.1+random:jpeg:60-95+median:3"),
    ],
)
def test_a_spec_names_it(spec, canonical):
    cushion = parse_cushion(spec)
    assert cushion.random
    assert cushion.spec == parse_cushion(cushion.spec).spec == canonical
    assert parse_cushion(canonical).manifest() == cushion.manifest()
    assert cushion.manifest()["probe"] != parse_cushion("noise:0.2").manifest()["probe"]


@pytest.mark.parametrize(
    "spec", ["noise", "noise:0", "noise:11", "noise:nan", "noise:0.1+", "noise:0.1+jpg:8", "noise:0.1+noise:0.1",
             "noise:0.1+vote:2:noise:0.1", "random:noise:0.1+none"]
)  # fmt: skip
def test_specs_that_name_none_are_refused(spec):
    with pytest.raises(ConfigError, match=r"noise|cushion"):
        parse_cushion(spec)


def test_a_draw_that_nobody_foresees_repeats_by_its_name():
    cushion = parse_cushion("noise:0.1")
    x = torch.full((3, 1, 16, 16), 0.5)
    names = cushion.fresh(3)
    assert len({*names, *cushion.fresh(3)}) == 6
    noisy = cushion.named(names)(x)
    assert torch.equal(cushion.named(names[::-1])(x), noisy.flip(0))
    for wrong in ("noise:0.2#1", "#1", "noise:0.1", "noise:0.1#-1", "noise:0.1#1_0", f"noise:0.1#{2**63}"):
        with pytest.raises(ConfigError, match="never draws it"):
            cushion.named([wrong])


def test_as_a_cushion_it_lets_gradients_through_and_needs_a_draw():
    cushion = NoisyCushion(GridNoise(0.05), parse_cushion("none"))
    x = torch.full((1, 1, 8, 8), 0.5, requires_grad=True)
    for way in ("bpda", "twin"):
        drawn = cushion.draw(0, "look", [1])
        seen = cushion_with_gradient(drawn, x, way)
        assert torch.equal(seen, drawn(x.detach()))
        (grad,) = torch.autograd.grad(seen.sum(), x)
        assert torch.equal(grad, torch.ones_like(x)), "nothing is clipped here"
    torch.testing.assert_close(drawn.twin(x.detach()), drawn(x.detach()), atol=0.51 / 255, rtol=0)
    with pytest.raises(ConfigError, match="is random and nothing is drawn"):
        cushion(x.detach())
