"""A campaign: who is aimed at what, and that it goes on where it was."""

import pytest
import torch
from tests.attacks.toys import toy_bank, toy_classifier, toy_images
from tests.bench.campaigns import toy_campaign

from medaegis.attacks.victim import Victim
from medaegis.bench import campaign as campaigns
from medaegis.bench.plan import Planned
from medaegis.bench.sample import Sample, draw
from medaegis.errors import DataError
from medaegis.progress import silent

BIM = Planned("bim", 8 / 256, "8/256", steps=4)


def toy(folder, aim):
    classifier = toy_classifier(4)
    return toy_campaign(Victim(classifier, shields=toy_bank(classifier)), toy_images(40, classifier), folder, aim=aim)


def test_what_counts_as_success(tmp_path):
    pieces = {}
    for aim in ("drawn class", "any wrong class", "towards the drawn class"):
        campaign = toy(tmp_path, aim)
        piece = pieces[aim] = campaign.attack(BIM, silent)
        wrong = piece["predicted"] != campaign.sample.labels
        wanted = piece["predicted"] == campaign.sample.targets
        assert torch.equal(piece["fooled"], wanted if aim == "drawn class" else wrong)
    fooled = {aim: int(piece["fooled"].sum()) for aim, piece in pieces.items()}
    assert 0 < fooled["drawn class"] < fooled["towards the drawn class"] <= fooled["any wrong class"]
    assert torch.equal(pieces["drawn class"]["images"], pieces["towards the drawn class"]["images"])


def test_chunks_change_nothing_and_are_computed_once(tmp_path, monkeypatch):
    whole = toy(tmp_path / "whole", "drawn class").attack(BIM, silent)
    monkeypatch.setattr(campaigns, "images_per_piece", lambda *_: 7)
    told = []
    parts = toy(tmp_path / "parts", "drawn class").attack(BIM, lambda *what: told.append(what))
    assert [done for done, *_ in told] == [7, 14, 21, 28, 35, 40]
    assert len(parts["cost"]) == 6
    for name in set(whole) - {"cost", "score", "wanted"}:
        assert torch.equal(parts[name], whole[name])
    monkeypatch.setattr(type(BIM.value), "run", lambda *_, **__: pytest.fail("attacked again"))
    again = toy(tmp_path / "parts", "drawn class").attack(BIM, silent)
    assert all(torch.equal(again[name], parts[name]) for name in parts)


def test_a_sample_is_drawn_by_class_and_then_diagnosed_rightly(tmp_path):
    """The images left out as misdiagnosed are not replaced: shares are taken over the draw."""
    campaign = toy(tmp_path, "drawn class")
    test, judge = campaign.sample.test, campaign.victim.verdicts
    test.labels[::3] = (test.labels[::3] + 1) % 4
    asked = []

    def watched(images, ids):
        asked.append(len(images))
        return judge(images, ids)

    sample = Sample.draw(test, watched, limit=20, seed=3)
    chosen = draw(test.labels, 20, 3)
    assert asked == [20], "no other image costs a pass"
    assert torch.equal(sample.ids, chosen[chosen % 3 != 0])
    assert len(sample) < len(sample.chosen) == 20
    everything = Sample.draw(test, watched, limit=20, seed=3, judge_all=True)
    assert torch.equal(everything.chosen, chosen)
    assert torch.equal(everything.ids, sample.ids)
    assert torch.equal(everything.targets, sample.targets)
    test.labels.copy_((judge(test.pixels()).predicted + 1) % 4)
    with pytest.raises(DataError, match="no test image is diagnosed rightly"):
        Sample.draw(test, judge, limit=None, seed=0)
