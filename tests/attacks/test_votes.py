"""A victim that votes: its verdict against a loop over single draws, and attacks that know of it."""

import pytest
import torch
from tests.attacks.toys import SIZE, toy_classifier, toy_images, toy_victim

from medaegis.attacks.catalogue import find_attack
from medaegis.attacks.engine import Attack
from medaegis.attacks.losses.answer import CarliniWagner
from medaegis.attacks.steps import Descent
from medaegis.attacks.victim import Victim
from medaegis.cushions import parse_cushion
from medaegis.errors import ConfigError
from medaegis.task import MULTI

INNER = "noise:0.15"
VOTES, N, EPS = 5, 9, 16 / 256


@pytest.fixture(scope="module")
def victim():
    return toy_victim(3, shields=True, cushion=f"vote:{VOTES}:{INNER}")


@pytest.fixture(scope="module")
def images(victim):
    return toy_images(N, victim.exact, seed=2)


def single(victim, vote, ids, seed):
    """The same network behind one draw, judged as ever."""
    draw = parse_cushion(INNER).draw(seed, f"victim/verdict/vote/{vote}", ids)
    return Victim(victim.exact, cushion=draw, shields=victim.shields, dtype=torch.float32)


def test_a_verdict_is_the_majority_and_the_middle_suspicion(victim, images):
    ids = torch.arange(N) * 2 + 3
    verdict = victim.verdicts(images, ids, seed=4)
    alone = [single(victim, vote, ids.tolist(), 4) for vote in range(VOTES)]
    said = torch.stack([one.judge(images).predicted for one in alone])
    assert (said != said[0]).any(), "all draws say the same, so that no vote is needed"
    for i in range(N):
        counts = torch.bincount(said[:, i], minlength=3)
        assert counts[verdict.predicted[i]] == counts.max()
    suspicions = torch.stack([one.suspicion(images, verdict.predicted) for one in alone])
    torch.testing.assert_close(verdict.score, suspicions.median(0).values, rtol=1e-4, atol=1e-5)
    assert torch.equal(verdict.accepted, (suspicions <= 1).sum(0) > VOTES / 2)
    drawn = victim.drawn(ids, seed=4)
    torch.testing.assert_close(drawn.suspicion(images, verdict.predicted), verdict.score, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(verdict.logits.exp().sum(1), torch.ones(N))


def test_of_an_even_number_more_than_half_must_accept(images):
    victim = toy_victim(2, shields=True, cushion=f"vote:4:{INNER}")
    verdict = victim.verdicts(images, seed=1)
    alone = [single(victim, vote, range(N), 1) for vote in range(4)]
    suspicions = torch.stack([one.suspicion(images, verdict.predicted) for one in alone])
    assert torch.equal(verdict.accepted, (suspicions <= 1).sum(0) >= 3)
    torch.testing.assert_close(verdict.score, suspicions.sort(0).values[2], rtol=1e-4, atol=1e-5)


def test_verdicts_are_the_images_own(victim, images):
    whole = victim.verdicts(images, torch.arange(N), seed=2)
    turned = victim.verdicts(images.flip(0), torch.arange(N).flip(0), seed=2, batch_size=4)
    torch.testing.assert_close(turned.logits.flip(0), whole.logits, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(turned.score.flip(0), whole.score, rtol=1e-4, atol=1e-5)
    assert not torch.equal(victim.verdicts(images, torch.arange(N), seed=3).score, whole.score)


def test_one_draw_that_gives_no_number_withholds(victim, images, monkeypatch):
    given, calls = victim.exact.activations, []

    def spoilt(*args, **options):
        seen = given(*args, **options)
        calls.append(len(calls))
        if len(calls) == 2:
            seen.logits[4] = torch.nan
        return seen

    monkeypatch.setattr(victim.exact, "activations", spoilt)
    verdict = victim.verdicts(images)
    assert len(calls) == VOTES
    assert verdict.logits.isfinite().all(1).tolist() == [i != 4 for i in range(N)]
    assert not verdict.accepted[4]


def test_attacks_pay_for_what_they_see(images):
    """A step by gradients takes its samples, a query as many looks as a verdict."""
    victim = toy_victim(2, cushion=f"vote:{VOTES}:{INNER}")
    labels = victim.verdicts(images).predicted
    walk = Attack(objective=CarliniWagner(), steps=3, samples=2)
    assert walk.run(victim, images, labels, eps=EPS).forwards == N * 3 * 2
    search = find_attack("square").attack.with_options(steps=4)
    assert search.run(victim, images, labels, eps=EPS).forwards == N * 4 * VOTES
    assert search.run(victim.by("skip"), images, labels, eps=EPS).forwards == N * 4
    stops = walk.run(victim, images, labels, eps=0.0, until="broken")
    assert stops.checks == N * 2 * VOTES * 2, "judged before the first and the second step, over two votes each"


def test_a_query_is_through_if_most_draws_are(images):
    """Square lets an image go as soon as it has a majority, and need not wait until all draws agree."""
    victim = toy_victim(3, cushion=f"vote:15:{INNER}")
    labels = victim.verdicts(images).predicted
    search = find_attack("square").attack.with_options(steps=12)
    found = search.run(victim, images, labels, eps=32 / 256, until="broken")
    assert found.fooled.any()
    assert found.forwards < 0.72 * N * 12 * 15, "0.81 where all draws must agree"


def test_an_attack_that_averages_beats_one_that_does_not():
    """Where noise is large beside eps, one draw's gradient says little, and a vote forgives nothing by luck."""
    victim = toy_victim(2, cushion="vote:31:noise:0.3")
    images = toy_images(60, victim.exact, seed=6)
    labels = victim.verdicts(images).predicted
    attack = Attack(objective=CarliniWagner(), rule=Descent(), steps=10, step_size=0.25)
    shares = {n: attack.with_options(samples=n).run(victim, images, labels, eps=EPS).fooled.sum() for n in (1, 16)}
    assert shares[16] > shares[1]


def test_votes_are_for_one_class_an_image(victim, images):
    several = toy_classifier(2)
    several.task = MULTI
    made = Victim(several, cushion=parse_cushion(f"vote:3:{INNER}"), dtype=torch.float32)
    made.exact.task = MULTI
    with pytest.raises(ConfigError, match="is for one class an image"):
        made.verdicts(images)
    assert images.shape[2] == SIZE
