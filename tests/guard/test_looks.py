"""What a manifest's record of training says, from records as fits write them, older ones and broken ones."""

import pytest

import medaegis as ma
from medaegis.guard.looks import in_chance_order, reached, shield_facts, soundness, unfinished


def look(update, far):
    areas = {"auroc_4": 0.9, "auroc_8": 0.8, "auroc_16": 0.7, "auroc_64": far}
    return {"update": update, "seconds": 1.0, "loss": 0.3, **areas}


def record(*looks, updates=900, **told):
    return {"config": {"updates": updates}, "shields": {"sick": {"seconds": 1.0, "history": list(looks), **told}}}


@pytest.mark.parametrize(
    ("training", "told"),
    [
        (record(look(900, 0.0), updates=900, kept=900), None),
        (record(look(112, 0.0), look(168, 0.4), updates=900, kept=112), "ended itself at update 168 of 900"),
        (record(look(112, 0.0), look(168, 0.4)), "ended itself at update 168 of 900"),  # as older guards tell it
        (record(look(56, 0.0), look(900, 0.5), kept=56), None),  # the whole length; the sound look is kept
        (record(look(56, 0.6), look(900, 0.5), kept=None), "its gradients mask"),  # no look was sound
        (record(), None),  # never looked at
        (record(updates=900, kept=None), None),
        ({}, None),
        ({"shields": {"sick": {"history": "no list"}}}, "cannot be read"),
        ({"shields": ["no names"]}, "cannot be read"),
        ({"shields": {"sick": 3}}, "cannot be read"),
    ],
)
def test_what_is_not_finished(training, told):
    found = unfinished(training)
    assert (found == []) is (told is None)
    assert told is None or told in found[0]


def test_what_was_kept_is_what_is_told_of():
    facts = shield_facts(record(look(112, 0.0), look(168, 0.4), kept=112))["sick"]
    assert facts.look["update"] == 112
    assert reached(facts.look) == "AUROC 0.90 / 0.80 / 0.70 / 0.00 under attack at 4 / 8 / 16 / 64 of 256"
    assert reached({"update": 3, "loss": 0.1}) == ""
    assert soundness(look(1, 0.02)) == 0.7
    assert soundness(look(1, 0.03)) is None


def test_a_look_is_at_a_fair_sample_where_a_folder_is_sorted_by_class():
    data = ma.load_dataset("phantom-xray?n=60", size=16, channels="gray")
    data = data.subset(data.labels.argsort(stable=True))
    order = in_chance_order(data)
    assert sorted(order.tolist()) == list(range(60))
    assert 4 <= int(data.labels[order[:20]].sum()) <= 16, "all or nearly all of one class"
    half = data.subset(range(0, 60, 2))  # an image keeps its rank whatever others are there
    kept = [number for number in data.ids[order].tolist() if number in half.ids.tolist()]
    assert half.ids[in_chance_order(half)].tolist() == kept
