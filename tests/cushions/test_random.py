"""A random Cushion: what it draws, how often, for whom; and that a draw is the deterministic cushion, bit for bit."""

import hashlib

import numpy as np
import pytest
import torch
from scipy.stats import chi2_contingency, chisquare, kstest
from tests.cushions.drawings import drawn

from medaegis.cushions import RandomCushion, cushion_with_gradient, jpeg, parse_cushion
from medaegis.errors import ConfigError

MIXED = "random:jpeg:60-95+median:3+bits:2-4:mid+none"


def test_a_range_stands_for_every_number_in_it() -> None:
    cushion = parse_cushion("random:jpeg:60-95")
    assert [choice.spec for choice in cushion.choices] == [f"jpeg:{quality}" for quality in range(60, 96)]
    mixed = [choice.spec for choice in parse_cushion(MIXED).choices]
    assert mixed[36:] == ["median:3", "bits:2:mid", "bits:3:mid", "bits:4:mid", "none"]


@pytest.mark.parametrize(
    ("given", "canonical"),
    [
        (MIXED, MIXED),
        ("random:jpeg:060-095:420", "random:jpeg:60-95"),
        ("random:gaussian:1-2+tvm:0.50:0.03:10-11", "random:gaussian:1-2+tvm:0.5:0.03:10-11"),
        ("random:jpeg:80:444+jpeg:80", "random:jpeg:80:444+jpeg:80"),
    ],
)
def test_the_spec_names_it_again(given: str, canonical: str) -> None:
    cushion = parse_cushion(given)
    again = parse_cushion(cushion.spec)
    assert cushion.spec == again.spec == canonical
    assert [choice.spec for choice in again.choices] == [choice.spec for choice in cushion.choices]


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("random", "there is no cushion named ''"),
        ("random:jpeg:80", "it draws from 1, expected 2 to 100"),
        ("random:jpeg:90-80", "does not rise"),
        ("random:jpeg:80-80", "does not rise"),
        ("random:jpeg:60\n", "QUALITY is '60"),
        ("random:jpeg:1-100+none", "it draws from 101"),
        ("random:tvm:0.5:0.03:1-1000", "has more than 100 numbers"),
        ("random:jpeg:80+jpeg:70-85", "jpeg:80 is named twice"),
        ("random:none+random:jpeg:1-3", "is random itself"),
        ("random:jpeg:60-95-99", "QUALITY is '60-95-99'"),
        ("random:jpeg:60-101", "QUALITY is '101'"),
        ("random:jpeg:60-95+", "there is no cushion named ''"),
        ("random:median:3-5", r"parameters \['4'\] do not fit"),
    ],
)
def test_bad_specs_say_what_is_wrong(spec: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        parse_cushion(spec)


def test_every_choice_is_equally_likely_and_streams_do_not_depend_on_each_other() -> None:
    """By chi-square, in many runs with seeds of their own: then their p-values are uniform too."""
    cushion = parse_cushion("random:jpeg:60-95")
    places = {choice.spec: place for place, choice in enumerate(cushion.choices)}

    def lots(seed: int, name: str) -> np.ndarray:
        return np.array([places[spec] for spec in cushion.draw(seed, name, range(36 * 60)).specs])

    uniform, between, following = [], [], []
    for seed in range(25):
        verdict, attack = lots(seed, "verdict"), lots(seed, "attack/0/3/1")
        assert np.bincount(verdict, minlength=36).min() > 0
        uniform.append(chisquare(np.bincount(verdict, minlength=36)).pvalue)
        between.append(chi2_contingency(np.histogram2d(verdict % 6, attack % 6, 6)[0]).pvalue)
        following.append(chi2_contingency(np.histogram2d(verdict[:-1] // 6, verdict[1:] // 6, 6)[0]).pvalue)
    for values in (uniform, between, following):
        assert kstest(values, "uniform").pvalue > 0.01


def test_fresh_draws_cover_all_and_no_seed_repeats_them() -> None:
    cushion = parse_cushion("random:jpeg:60-95")
    torch.manual_seed(0)
    first = cushion.fresh(36 * 100)
    torch.manual_seed(0)
    assert first != cushion.fresh(36 * 100)
    counts = [first.count(choice.spec) for choice in cushion.choices]
    assert chisquare(counts).pvalue > 1e-9  # by chance, one run in a thousand million


def test_draws_repeat_with_the_seed_and_belong_to_the_image_not_to_its_place() -> None:
    cushion = parse_cushion(MIXED)
    ids = list(range(100, 140))
    specs = cushion.draw(3, "verdict", ids).specs
    assert specs == parse_cushion(MIXED).draw(3, "verdict", ids).specs
    assert specs[::-1] == cushion.draw(3, "verdict", ids[::-1]).specs
    assert specs[7:19] == cushion.draw(3, "verdict", ids[7:19]).specs
    assert specs != cushion.draw(4, "verdict", ids).specs
    assert specs != cushion.draw(3, "attack", ids).specs
    assert cushion.named(specs).specs == specs


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("channels", [1, 3])
def test_each_image_passes_just_what_was_drawn_for_it(threads: int, channels: int) -> None:
    x = drawn((14, channels, 19, 26))
    made = parse_cushion(MIXED).draw(0, "verdict", range(14))
    assert len(set(made.specs)) > 5
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        whole = made(x)
    finally:
        torch.set_num_threads(before)
    alone = torch.cat([parse_cushion(spec)(image) for spec, image in zip(made.specs, x.split(1), strict=True)])
    assert torch.equal(whole, alone)
    parts = [parse_cushion(MIXED).draw(0, "verdict", part.tolist())(x[part]) for part in torch.arange(14).split(4)]
    assert torch.equal(whole, torch.cat(parts))


def test_gradients_are_those_of_the_drawn_cushions() -> None:
    x, weights = drawn((9, 3, 18, 21)).requires_grad_(), drawn((9, 3, 18, 21), seed=1)
    made = parse_cushion("random:jpeg:60-95+median:3+gaussian:1").draw(1, "verdict", range(9))
    (slope,) = torch.autograd.grad((cushion_with_gradient(made, x, "twin") * weights).sum(), x)
    for i, spec in enumerate(made.specs):
        one = x[i : i + 1].detach().requires_grad_()
        (alone,) = torch.autograd.grad((parse_cushion(spec).twin(one) * weights[i : i + 1]).sum(), one)
        torch.testing.assert_close(slope[i : i + 1], alone)
    (straight,) = torch.autograd.grad((cushion_with_gradient(made, x, "bpda") * weights).sum(), x)
    assert torch.equal(straight, weights)


def test_nothing_passes_before_the_draw_nor_another_batch() -> None:
    x = drawn((3, 1, 8, 8))
    cushion = parse_cushion(MIXED)
    for call in (cushion, cushion.twin):
        with pytest.raises(ConfigError, match="is random and nothing is drawn"):
            call(x)
    with pytest.raises(ConfigError, match="3 images, drawn was for 2"):
        cushion.draw(0, "verdict", [1, 2])(x)
    with pytest.raises(ConfigError, match="never draws it"):
        cushion.named(["jpeg:59"])


def test_the_manifest_notices_a_change_in_any_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    cushion = parse_cushion("random:jpeg:60-63+none")
    told = cushion.manifest()
    assert told["choices"] == ["jpeg:60", "jpeg:61", "jpeg:62", "jpeg:63", "none"]
    alone = "".join(parse_cushion(spec).manifest()["probe"] for spec in told["choices"])
    assert told["probe"] == hashlib.sha256(alone.encode()).hexdigest()
    exact = jpeg.JpegCushion._cushion

    def off_by_one(self: jpeg.JpegCushion, pixels: torch.Tensor) -> torch.Tensor:
        out = exact(self, pixels)
        if self.quality == 62:
            out[0, 0, 0, 0] ^= 1
        return out

    monkeypatch.setattr(jpeg.JpegCushion, "_cushion", off_by_one)
    assert isinstance(cushion, RandomCushion)
    assert cushion.manifest()["probe"] != told["probe"]
