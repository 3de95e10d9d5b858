"""A vote: what its ballots are, how they are counted, and which specs name one."""

import doctest

import numpy as np
import pytest
import torch

from medaegis.cushions import parse_cushion, vote_shares, voting
from medaegis.errors import ConfigError


@pytest.mark.parametrize("inner", ["noise:0.1", "random:jpeg:40-70+median:3", "noise:0.1+random:bits:2-4"])
def test_its_ballots_are_draws_of_the_cushion_it_votes_on(inner):
    cushion, behind = parse_cushion(f"vote:5:{inner}"), parse_cushion(inner)
    assert (cushion.spec, cushion.votes, cushion.random) == (f"vote:5:{behind.spec}", 5, True)
    x = torch.rand(3, 1, 16, 16)
    drawn = cushion.draw(7, "look", [4, 8, 9])
    ballots = [ballot(x) for ballot in drawn.ballots()]
    assert drawn.votes == len(ballots) == 5
    for vote, ballot in enumerate(ballots):
        assert torch.equal(ballot, behind.draw(7, f"look/vote/{vote}", [4, 8, 9])(x))
    assert torch.equal(drawn(x), ballots[0]), "a look is at one"
    torch.testing.assert_close(drawn.twin(x), behind.draw(7, "look/vote/0", [4, 8, 9]).twin(x))
    assert len({ballot.numpy().tobytes() for ballot in ballots}) > 1
    assert [one.spec for one in behind.draw(0, "look", [1]).ballots()] == [behind.spec]


def test_the_majority_counts_and_the_mean_probability_where_there_is_none():
    """One by one in NumPy."""
    logits = torch.randn(9, 40, 3, generator=torch.Generator().manual_seed(0)) * 3
    shares = vote_shares(logits)
    odds = np.exp(logits.double().numpy())
    for i in range(40):
        cast = np.bincount(logits[:, i].argmax(1), minlength=3)
        mean = (odds[:, i] / odds[:, i].sum(1, keepdims=True)).mean(0)
        assert np.allclose(shares[i], (cast + mean) / 10, atol=1e-6)
        elected = int(shares[i].argmax())
        assert cast[elected] == cast.max()
        tied = np.flatnonzero(cast == cast.max())
        assert elected == tied[mean[tied].argmax()]
    assert sum(np.sum(np.bincount(one.argmax(1), minlength=3) == 4) == 2 for one in logits.swapaxes(0, 1)) > 0


def test_a_class_that_nothing_speaks_for_keeps_a_share():
    assert bool((vote_shares(torch.tensor([[[500.0, -500.0]], [[500.0, -500.0]]])) > 0).all())


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("vote", "do not fit"),
        ("vote:1:noise:0.1", "VOTES is '1'"),
        ("vote:1001:noise:0.1", "VOTES is '1001'"),
        ("vote:8:jpeg:80", "is not random"),
        ("vote:8", "no cushion named ''"),
        ("vote:8:vote:8:noise:0.1", "votes on a vote"),
        ("vote:8:" * 2000 + "noise:0.1", "votes on a vote"),
        ("noise:0.1+" * 2000 + "none", "is noise or a vote itself"),
        ("random:vote:8:noise:0.1+none", "is random itself"),
    ],
)
def test_specs_that_name_no_vote_are_refused(spec, said):
    with pytest.raises(ConfigError, match=said):
        parse_cushion(spec)


def test_it_must_be_drawn():
    with pytest.raises(ConfigError, match="nothing is drawn"):
        parse_cushion("vote:3:noise:0.1")(torch.zeros(1, 1, 8, 8))


def test_the_examples_run():
    assert not doctest.testmod(voting).failed
