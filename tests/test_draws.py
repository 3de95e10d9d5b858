"""Draws: the generator is the published one, and a number is its image's own, whatever surrounds it."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest, chisquare, kstest

from medaegis import draws as module
from medaegis.draws import Draws, philox

KINDS = {
    "uniform": lambda draws, *shape: draws.uniform(*shape),
    "noise": lambda draws, *shape: draws.noise(*shape),
    "normal": lambda draws, *shape: draws.normal(*shape),
    "signs": lambda draws, *shape: draws.signs(*shape),
    "integers": lambda draws, *shape: draws.integers(1000, *shape),
    "keys": lambda draws, *shape: draws.keys(*shape),
}
every_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
word = st.integers(0, 2**32 - 1)


def batch(n=5, seed=0, purpose="test"):
    return Draws(seed, torch.arange(n), purpose)


def by_whole_numbers(counter, key):
    """Salmon 2011, section 3.3, in numbers that cannot overflow."""
    c, k = list(counter), list(key)
    for _ in range(10):
        high0, low0 = divmod(0xD2511F53 * c[0], 2**32)
        high1, low1 = divmod(0xCD9E8D57 * c[2], 2**32)
        c = [high1 ^ c[1] ^ k[0], low1, high0 ^ c[3] ^ k[1], low0]
        k = [(k[0] + 0x9E3779B9) % 2**32, (k[1] + 0xBB67AE85) % 2**32]
    return c


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
    ],
)
def test_known_answers(counter, key, expected):
    """Those of philox4x32-10 in kat_vectors of Random123, the authors' code."""
    counter, key, expected = ([int(text, 16) for text in words.split()] for words in (counter, key, expected))
    assert [int(one) for one in philox(tuple(torch.tensor([one]) for one in counter), tuple(key))] == expected
    assert by_whole_numbers(counter, key) == expected


@given(st.lists(st.tuples(word, word, word, word), min_size=1, max_size=9), st.tuples(word, word))
def test_the_generator_is_that_of_the_paper_in_tensors_and_in_arrays(counters, key):
    columns = [torch.tensor(column) for column in zip(*counters, strict=True)]
    expected = [by_whole_numbers(counter, key) for counter in counters]
    assert torch.stack(philox(tuple(columns), key), 1).tolist() == expected
    arrays = philox(tuple(column.numpy() for column in columns), key)
    assert [list(map(int, one)) for one in zip(*arrays, strict=True)] == expected


@every_kind
def test_a_number_is_its_images_own_whatever_the_batch_the_order_and_the_count(kind):
    draws = Draws(3, torch.tensor([4, 90, 7, 2**40, -1]), "test")
    whole = kind(draws, 3, 50)
    assert whole.shape == (5, 3, 50)
    assert torch.equal(kind(draws, 3, 50), whole)
    order = torch.tensor([3, 0, 4, 2, 1])
    assert torch.equal(kind(draws[order], 3, 50), whole[order])
    for i in range(5):
        assert torch.equal(kind(draws[i : i + 1], 3, 50), whole[i : i + 1])
    assert torch.equal(kind(draws, 13), whole.flatten(1)[:, :13])
    assert torch.equal(kind(draws), whole[:, 0, 0])
    assert kind(draws[:0], 3, 50).shape == (0, 3, 50)
    assert kind(draws, 0, 4).shape == (5, 0, 4)


@every_kind
def test_numbers_do_not_depend_on_how_many_are_made_at_once_nor_by_what(kind, monkeypatch):
    draws = batch().at(9)
    whole = kind(draws, 3, 500)
    with monkeypatch.context() as patch:
        patch.setattr(module, "CACHED", 100)
        assert torch.equal(kind(draws, 3, 500), whole)
    monkeypatch.setattr(module, "_array", lambda values: values)  # tensors, as on every other device
    assert torch.equal(kind(draws, 3, 500), whole)


@every_kind
def test_they_are_made_where_the_images_are(kind):
    draws = batch().child("other").at(torch.arange(5)).to(torch.device("meta"))
    found = kind(draws[torch.arange(3, device="meta")], 2, 7)
    assert (found.device.type, found.shape, found.dtype) == ("meta", (3, 2, 7), kind(batch(), 1).dtype)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@every_kind
def test_a_gpu_makes_the_same(kind):
    draws = batch(33).at(torch.arange(33))
    here, there = kind(draws, 3, 41, 41), kind(draws.to(torch.device("cuda")), 3, 41, 41).cpu()
    assert torch.equal(here, there) or kind is KINDS["normal"]
    torch.testing.assert_close(here, there)


def test_seed_image_purpose_and_step_each_make_other_numbers():
    ids = torch.tensor([0, 1, 12, 2**32, 2**32 + 1, 2**62, -1])
    purposes = ("", "start", "start/0", "0/start", "verdict")
    given = itertools.product((0, 1, -1, 2**63 - 1, 2**70), purposes, (0, 1, 2**32 - 1))
    firsts = torch.cat([Draws(seed, ids, purpose, step).keys() for seed, purpose, step in given])
    assert len(firsts.unique()) == 5 * len(purposes) * 3 * len(ids)
    assert torch.equal(batch().child("a").child("b").keys(), batch(purpose="test/a/b").keys())


def test_steps_of_their_own_are_those_steps():
    steps = torch.tensor([4, 0, 7, 4, 2**32 - 1])
    found = batch().at(steps).uniform(6)
    for row, step in enumerate(steps.tolist()):
        assert torch.equal(found[row], batch().at(step).uniform(6)[row])
    assert torch.equal(batch().at(steps)[2:].uniform(6), found[2:])


@pytest.mark.parametrize(
    ("kind", "law"),
    [("uniform", ("uniform",)), ("noise", ("uniform", (-1, 2))), ("normal", ("norm",))],
    ids=["uniform", "noise", "normal"],
)
def test_numbers_follow_their_law_in_an_image_and_across_images_steps_and_seeds(kind, law):
    """By Kolmogorov and Smirnov; p-values of many samples are uniform too."""
    views = {
        "in an image": KINDS[kind](batch(40), 5000),
        "across images": KINDS[kind](batch(5000), 40).T,
        "across steps": torch.stack([KINDS[kind](batch(40).at(step)) for step in range(500)], 1),
        "across seeds": torch.stack([KINDS[kind](batch(40, seed=seed)) for seed in range(500)], 1),
    }
    for name, samples in views.items():
        values = [kstest(sample.numpy(), *law).pvalue for sample in samples]
        assert kstest(values, "uniform").pvalue > 0.01, name


def test_ranges_and_grids():
    uniform, noise, normal = batch(100).uniform(10_000), batch(100).noise(10_000), batch(100).normal(10_000)
    assert 0 <= uniform.min() < 1e-5
    assert 1 - 1e-5 < uniform.max() < 1
    assert torch.equal((uniform * 2**24).round() / 2**24, uniform)
    assert -1 < noise.min() < -0.9999
    assert 0.9999 < noise.max() < 1
    assert torch.equal(((noise * 2**16 - 1) / 2).round() * 2 + 1, noise * 2**16), "odd multiples of 2^-16, so never 0"
    assert 4.5 < normal.abs().max() <= math.sqrt(2 * 24 * math.log(2)) + 1e-5


def test_nothing_is_correlated():
    """Images, steps, purposes, seeds, places: of so many independent numbers, |r| * sqrt(n) is normal."""
    n = 200_000
    base = batch(2).noise(n)
    others = {
        "images": base[1],
        "steps": batch(1).at(1).noise(n)[0],
        "purposes": batch(1).child("0").noise(n)[0],
        "seeds": batch(1, seed=1).noise(n)[0],
        "places": base[0].roll(1),
        "four places on": base[0].roll(4),
        "eight places on": base[0].roll(8),
    }
    for name, other in others.items():
        for power in (1, 2):
            pair = torch.stack([base[0] ** power, other**power]).double()
            assert abs(float(torch.corrcoef(pair)[0, 1])) * math.sqrt(n) < 4, name
    normal = batch(1).normal(n).view(-1, 2).double()
    assert abs(float(torch.corrcoef(normal.T)[0, 1])) * math.sqrt(n / 2) < 4, "both numbers of a pair"


def test_signs_are_as_often_up_as_down_wherever_they_stand():
    signs = batch(2000).signs(128)
    assert set(signs.unique().tolist()) == {-1, 1}
    values = [binomtest(int((column > 0).sum()), 2000).pvalue for column in signs.T]
    assert min(values) > 0.01 / 128
    agree = (signs[:, 1:] == signs[:, :-1]).float().mean()
    assert abs(float(agree) - 0.5) < 4 * 0.5 / math.sqrt(2000 * 127)


def test_whole_numbers_are_even_and_end_where_they_should():
    few = batch(50).integers(7, 2000)
    assert chisquare(few.flatten().bincount(minlength=7)).pvalue > 0.01
    assert few.max() == 6
    counts = torch.tensor([1, 2, 3, 1000, 2**31 - 1])
    each = batch(5).integers(counts, 3000)
    assert (each < counts.view(-1, 1)).all()
    assert (each.amax(1) >= 0.99 * (counts - 1)).all()
    assert not each[0].any()
    assert torch.equal(batch(5).integers(counts), each[:, 0])


def test_every_order_is_equally_likely():
    orders = batch(24 * 200).keys(4).argsort(1)
    places = orders @ torch.tensor([64, 16, 4, 1])
    counts = places.bincount()
    assert (counts > 0).sum() == 24
    assert chisquare(counts[counts > 0]).pvalue > 0.01


@settings(max_examples=20)
@given(st.integers(1, 30), st.integers(1, 300))
def test_any_size(n, count):
    assert torch.equal(batch(n).signs(count)[-1], batch(30).signs(300)[n - 1, :count])
