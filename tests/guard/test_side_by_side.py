"""Shields in training at once: as if each were alone, and an end of one is an end of all."""

import pytest
import torch
from tests.guard.fitted import CONFIG, training

from medaegis.errors import ConfigError
from medaegis.guard.side_by_side import _at_once, side_by_side
from medaegis.progress import GOES_ON

SHORT = CONFIG.model_copy(update={"updates": 6, "lifetime": 1})


@pytest.fixture
def two_threads():
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(1)


def both(folder, **options):
    return [training(folder / str(label), label=label, config=SHORT, **options) for label in range(2)]


def weights(shields):
    return [torch.cat([value.flatten() for value in shield.state_dict().values()]) for shield in shields]


@pytest.mark.usefixtures("two_threads")
def test_they_are_those_of_one_after_the_other_to_the_bit(tmp_path):
    told = []
    found = side_by_side(both(tmp_path / "together"), lambda *what: told.append(what))
    assert torch.get_num_threads() == 2
    torch.set_num_threads(1)
    alone = [one.train() for one in both(tmp_path / "alone")]
    assert all(torch.equal(a, b) for a, b in zip(weights(found), weights(alone), strict=True))
    assert [done for done, _, _ in told] == sorted(done for done, _, _ in told)
    assert told[-1][:2] == (2 * SHORT.updates, 2 * SHORT.updates)


@pytest.mark.usefixtures("two_threads")
def test_they_change_no_random_state_and_go_on_where_they_were(tmp_path):
    state = torch.random.get_rng_state()
    first = weights(side_by_side(both(tmp_path)))
    assert torch.equal(torch.random.get_rng_state(), state)
    told = []
    again = weights(side_by_side(both(tmp_path), lambda *what: told.append(what)))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert {message for _, _, message in told} >= {GOES_ON}
    assert all(done >= SHORT.updates for done, _, _ in told), "an update was done again"


@pytest.mark.usefixtures("two_threads")
def test_an_error_in_one_ends_the_others_and_is_told(tmp_path):
    first, second = both(tmp_path)
    second.config = second.config.model_copy(update={"updates": 10**6})

    def fails(update):
        raise MemoryError("no room")

    first._update = fails
    with pytest.raises(MemoryError, match="no room"):
        side_by_side([first, second])
    assert second.done < 10**6
    assert torch.get_num_threads() == 2


@pytest.mark.usefixtures("two_threads")
def test_none_begins_where_another_finds_a_foreign_checkpoint(tmp_path):
    both(tmp_path)[1].train()
    other = [training(tmp_path / str(k), label=k, config=SHORT.model_copy(update={"seed": 5})) for k in range(2)]
    with pytest.raises(ConfigError, match="other settings"):
        side_by_side(other)
    assert other[0].done == 0
    assert not (tmp_path / "0").exists()


@pytest.mark.usefixtures("two_threads")
def test_whoever_listens_may_end_it(tmp_path):
    def listener(done, total, message):
        if done >= 4:
            raise KeyboardInterrupt

    trainings = both(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        side_by_side(trainings, listener)
    assert sum(one.done for one in trainings) < 2 * SHORT.updates


@pytest.mark.parametrize(
    ("shields", "threads", "at_once"), [(1, 8, 1), (2, 1, 1), (2, 2, 2), (3, 2, 1), (4, 3, 2), (5, 16, 5), (6, 4, 3)]
)
def test_no_thread_is_left_without_work_at_the_end(shields, threads, at_once):
    assert _at_once(shields, threads) == at_once
