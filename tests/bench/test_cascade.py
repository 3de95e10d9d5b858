"""A suite as a cascade, against every cell run on every image to its end."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from tests.attacks.toys import toy_bank, toy_classifier, toy_images
from tests.bench.campaigns import toy_campaign

from medaegis.attacks.balls import Linf
from medaegis.attacks.base import AnyAttack
from medaegis.attacks.victim import Victim
from medaegis.bench.cascade import cascade, check_cascade, larger_breaks_more, run_cascade
from medaegis.bench.outcome import broken_by, pixels_of, within
from medaegis.bench.plan import Planned, plan, plan_assessment
from medaegis.bench.surrogates import surrogate_of
from medaegis.bench.worst_case import Reached
from medaegis.errors import ConfigError
from medaegis.progress import silent

SIZES = [("2/256", 2 / 256), ("6/256", 6 / 256), ("16/256", 16 / 256)]
N = 30


def toy(folder, *, shields):
    classifier = toy_classifier(4)
    victim = Victim(classifier, shields=toy_bank(classifier) if shields else None, dtype=torch.float32)
    aim = "towards the drawn class" if shields else "any wrong class"
    return toy_campaign(victim, toy_images(N, classifier), folder, aim=aim)


def suite(*, shields):
    if shields:
        return plan(["pgd", "bim", "wb", "selective", "uap-wb"], SIZES, steps=10)
    return plan_assessment(["cw-linf", "pgd", "fgsm", "pgd-l2", "deepfool", "square"], SIZES, steps=10, queries=30)


def broken_within(outcomes, clean, ball, eps):
    """By any of them, by its pixels."""
    hits = [broken_by(piece) & within(piece, clean, ball, eps) for _, piece in outcomes]
    return torch.stack([torch.zeros(len(clean), dtype=torch.bool), *hits]).any(0)


@pytest.mark.parametrize("shields", [False, True])
def test_nobody_is_missed_and_the_passes_are_a_fraction(shields, tmp_path):
    cells, campaign = suite(shields=shields), toy(tmp_path / "whole", shields=shields)
    clean, whole = campaign.sample.pixels, campaign.run(cells, silent)
    found = cascade(toy(tmp_path / "cascade", shields=shields), cells)
    for ball in {planned.value.ball for planned in cells}:
        for _, eps in SIZES:
            of_norm = [(planned, piece) for planned, piece in whole if planned.value.ball == ball]
            reached = Reached.of(found, clean, ball, eps)
            assert (reached.broken.any(0) | ~broken_within(of_norm, clean, ball, eps)).all(), (ball, eps)
    shares = [broken_within(found, clean, Linf(), eps).sum() for _, eps in SIZES]
    assert 0 < shares[0] < shares[2]
    for planned, piece in found:
        tried = piece["tried"]
        verdict = campaign.victim.judge(pixels_of(piece))
        wrong = verdict.predicted != campaign.sample.labels
        assert torch.equal(piece["fooled"][tried], wrong[tried])
        assert torch.equal(piece["accepted"][tried], verdict.accepted[tried])
        assert not (piece["fooled"] | piece["accepted"])[~tried].any()
        eps = 1.0 if planned.attack == "deepfool" else planned.eps
        assert within(piece, clean, planned.value.ball, eps)[tried].all()
    spent, in_all = (sum(float(piece["cost"][:, 1:].sum()) for _, piece in some) for some in (found, whole))
    assert spent < in_all / (1 if shields else 2)  # what is learned for all images costs the same for few


def test_cells_come_by_eps_and_cost_each_on_what_is_left(tmp_path):
    cells, campaign = suite(shields=False), toy(tmp_path, shields=False)
    told = []
    found = cascade(campaign, cells, progress=lambda done, total, _: told.append((done, total)))
    clean = campaign.sample.pixels
    # Passes for an image: one step 2; Square 30; PGD 20; DeepFool 50 steps of 1 and 3, at the smallest eps.
    names = ["fgsm", "cw-linf", "pgd", "pgd-l2", "square", "deepfool"]
    order = [(name, eps) for _, eps in SIZES for name in names if name != "deepfool" or eps == SIZES[0][1]]
    ran = [(p.attack, SIZES[0][1] if p.attack == "deepfool" else p.eps) for p, _ in found]
    assert ran == [place for place in order if place in ran]
    for k, (planned, piece) in enumerate(found):
        before = broken_within(found[:k], clean, planned.value.ball, ran[k][1])
        assert torch.equal(piece["tried"], ~before)
        assert planned.until == ("end" if planned.attack == "deepfool" else "broken")
    for place in set(order) - set(ran):
        assert broken_within(found, clean, Linf(), place[1]).all(), "left out for no reason"
    assert told == sorted(told)
    assert told[-1][0] <= told[-1][1]


def test_it_goes_on_where_it_was_and_shares_nothing_with_runs_to_the_end(tmp_path, monkeypatch):
    campaign, cells = toy(tmp_path, shields=False), [Planned("bim", 6 / 256, "6/256", steps=20)]
    (whole,) = campaign.run(cells, silent)
    (first,) = cascade(campaign, cells)
    assert first[1]["cost"][:, 1:].sum() < whole[1]["cost"][:, 1:].sum(), "the other's pieces were taken"
    monkeypatch.setattr(AnyAttack, "run", lambda *_, **__: pytest.fail("attacked again"))
    (again,) = cascade(campaign, cells)
    assert all(torch.equal(again[1][name], first[1][name]) for name in first[1])


def test_where_all_are_broken_no_larger_eps_is_run(tmp_path):
    campaign = toy(tmp_path, shields=False)
    cells = [Planned("bim", eps, f"{eps}", steps=10) for eps in (0.9, 0.7, 0.8)]
    ((planned, piece),) = cascade(campaign, cells)
    assert planned.eps == 0.7
    assert broken_by(piece).all()


@pytest.mark.parametrize("shields", [False, True])
def test_nested_an_image_that_holds_is_not_attacked_at_smaller_eps(shields, tmp_path):
    cells, campaign = suite(shields=shields), toy(tmp_path / "nested", shields=shields)
    clean = campaign.sample.pixels
    found = cascade(campaign, cells, nested=True)
    ran = [(planned, piece) for planned, piece in found if planned.attack != "deepfool"]
    assert [planned.eps for planned, _ in ran] == sorted((planned.eps for planned, _ in ran), reverse=True)
    for ball in {planned.value.ball for planned in cells}:
        mine = [(planned, piece) for planned, piece in ran if planned.value.ball == ball]
        for (_, small), (_, large) in pairwise(SIZES):
            tried = [piece["tried"] for planned, piece in mine if planned.eps == small]
            holds = ~broken_within(found, clean, ball, large)
            assert holds.any() or ball != Linf()
            for one in tried:
                assert not (one & holds).any()
    whole = toy(tmp_path / "whole", shields=shields).run(cells, silent)
    for _, eps in SIZES:  # on these images larger changes break whatever smaller ones do
        linf = [(planned, piece) for planned, piece in whole if planned.value.ball == Linf()]
        assert (broken_within(found, clean, Linf(), eps) | ~broken_within(linf, clean, Linf(), eps)).all()


def test_only_where_a_larger_eps_breaks_all_that_a_smaller_one_does_are_they_nested(tmp_path, monkeypatch):
    wide, cells = toy(tmp_path / "wide", shields=False), suite(shields=False)
    narrow = wide.only(torch.arange(0, N, 3))
    known = narrow.run(cells, silent)
    assert not larger_breaks_more(narrow, known), "so few images do not tell"
    monkeypatch.setattr("medaegis.bench.cascade.ENOUGH", len(narrow))
    assert larger_breaks_more(narrow, known)
    asked = []
    monkeypatch.setattr("medaegis.bench.cascade.cascade", lambda *_, nested: asked.append(nested) or [])
    places = [(text, eps, Linf()) for text, eps in SIZES]
    rows = run_cascade(narrow, wide.sample, cells, known, places, silent)
    assert {row.checked for row in rows} == {len(narrow)}
    broken = next(k for k, (planned, piece) in enumerate(known) if planned.eps < 16 / 256 and broken_by(piece).any())
    small = known[broken][0]
    held = {"fooled": torch.zeros(len(narrow), dtype=torch.bool)}
    above = [(p, {**piece, **held} if p.eps > small.eps else piece) for p, piece in known]
    assert not larger_breaks_more(narrow, above)
    assert larger_breaks_more(narrow, [(replace(p, check="x") if p.eps <= small.eps else p, q) for p, q in above])
    rows = run_cascade(narrow, wide.sample, cells, above, places, silent)
    assert {row.checked for row in rows} == {0}
    assert asked == [True, False]


def test_what_is_made_on_a_surrogate_goes_to_its_end(tmp_path):
    """There it would stop where the surrogate breaks; and only the victim tells what is broken."""
    campaign = toy(tmp_path, shields=False)
    campaign = replace(campaign, surrogate=surrogate_of([toy_classifier(4, seed=7)], campaign.victim.exact))
    cell = Planned("mim", 6 / 256, "6/256", steps=10, transferred=True)
    ((planned, piece),) = cascade(campaign, [cell])
    assert planned == cell
    assert torch.equal(piece["images"], campaign.attack(cell, silent)["images"])


@pytest.mark.parametrize("shields", [False, True])
def test_over_more_images_what_is_known_of_some_is_taken(shields, tmp_path, monkeypatch):
    cells, wide = suite(shields=shields), toy(tmp_path / "cascade", shields=shields)
    clean = wide.sample.pixels
    whole = toy(tmp_path / "whole", shields=shields).run(cells, silent)
    places = torch.arange(0, N, 3)
    narrow = wide.only(places)
    known = narrow.run(cells, silent)
    asked, run = [], AnyAttack.run
    monkeypatch.setattr(AnyAttack, "run", lambda *given, **told: asked.append(told) or run(*given, **told))
    rows = run_cascade(narrow, wide.sample, cells, known, [(text, eps, Linf()) for text, eps in SIZES], silent)
    assert [(row.eps_text, row.norm, row.n) for row in rows] == [(text, "Linf", N) for text, _ in SIZES]
    linf = [(planned, piece) for planned, piece in whole if planned.value.ball == Linf()]
    for row, (_, eps) in zip(rows, SIZES, strict=True):
        assert row.share * N >= float(broken_within(linf, clean, Linf(), eps).sum()) - 1e-6
        assert row.interval[0] <= row.share <= row.interval[1] < 1 or row.share == 1
    assert 0 < rows[0].share < 1
    attacked = [told["ids"] for told in asked if "ids" in told]
    assert attacked
    assert not torch.isin(torch.cat(attacked), narrow.sample.ids).any(), "a cell was run again on what it was run on"


@pytest.mark.parametrize(("images", "limit"), [(40, None), (40, 40), (10, 40)])
def test_a_cascade_is_over_more_images(images, limit):
    with pytest.raises(ConfigError, match="by every attack anyway"):
        check_cascade(images, limit)
    check_cascade(None, limit)
    check_cascade(41, 40)
