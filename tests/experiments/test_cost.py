"""What attacks took beside their bare passes, by a clock that counts passes."""

import pytest
import torch
from tests.attacks.toys import toy_images, toy_victim

from medaegis.experiments import cost
from medaegis.experiments.cost import account, overhead


class Clock:
    """One second an image forward, two backward, told by the network itself."""

    def __init__(self, victim):
        self.now = 0.0
        victim.fast.network.register_forward_hook(self._forward)

    def _forward(self, module, given, output):
        self.now += len(output)
        if output.requires_grad:
            output.register_hook(lambda grad: setattr(self, "now", self.now + 2 * len(grad)))

    def perf_counter(self):
        return self.now


def piece(*rows):
    return {"cost": torch.tensor(rows, dtype=torch.float64)}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shields", [False, True])
def test_bare_seconds_are_those_of_as_many_passes(shields, dtype, monkeypatch):
    victim = toy_victim(2, shields=shields, dtype=dtype)
    monkeypatch.setattr(cost, "time", Clock(victim))
    images = toy_images(12, victim.exact)
    told = {one.metric: one for one in account(victim, images, piece([9000.0, 5000, 4000], [11000.0, 3000, 2000]))}
    assert told["seconds"].value == 20_000
    assert told["bare_seconds"].value == pytest.approx(8000 * 1 + 6000 * 2)
    assert overhead([{name: one.value for name, one in told.items()}, {}]) == pytest.approx(1.0)


def test_a_short_attack_is_not_timed_and_no_figure_is_none():
    victim = toy_victim(2)
    assert account(victim, toy_images(12, victim.exact), piece([1.0, 300, 300])) == ()
    assert overhead([{}, {"auc": 1.0}]) is None
