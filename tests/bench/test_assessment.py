"""An assessment on drawn X-rays: its figures against the attacks run directly, its worst case by hand, and a kill."""

import dataclasses
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import binomtest
from tests.attacks.toys import toy_classifier, toy_images
from tests.bench.small import data, learned

from medaegis.attacks.catalogue import CATALOGUE, find_attack
from medaegis.attacks.choices import pick_targets
from medaegis.attacks.engine import Attack
from medaegis.attacks.victim import Verdict, Victim
from medaegis.bench.analyse import figures
from medaegis.bench.assess import assess_classifier, shuffled
from medaegis.bench.campaign import Effort
from medaegis.bench.metrics import share_interval
from medaegis.bench.plan import Planned, every_attack, plan_assessment
from medaegis.bench.records.assessment import SMALLEST, Assessment, markdown
from medaegis.bench.sample import Sample, draw
from medaegis.bench.store import Store
from medaegis.cushions import parse_cushion
from medaegis.errors import ConfigError, DataError
from medaegis.images.datasets import load_dataset
from medaegis.images.splits import split_dataset

EPS = [("8/256", 8 / 256), ("2/256", 2 / 256)]
LIMIT = 24
CELLS = [
    *plan_assessment(["fgsm", "pgd", "pgd-l2", "square", "deepfool", "jsma"], EPS, steps=6, queries=40),
    Planned("cw-l2", 1.0, SMALLEST, steps=90),
]


@pytest.fixture(scope="module", autouse=True)
def _small_pictures():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figures, "DPI", 60)
        yield


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    dataset, split = data(tmp_path_factory.mktemp("data"))
    return learned(dataset, split), dataset, split


def assessed(scene, out, **options):
    return assess_classifier(*scene, **{"cells": CELLS, "eps": EPS, "out_dir": out, "limit": LIMIT, **options})


@pytest.fixture(scope="module")
def whole(scene, tmp_path_factory):
    """The assessment, its folder, and what was stored for it."""
    pieces, ask = [], Store.get

    def get(self, key, compute):
        pieces.append((key, ask(self, key, compute)))
        return pieces[-1][1]

    out = tmp_path_factory.mktemp("out")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Store, "get", get)
        found = assessed(scene, out)
    return found, out, pieces


@pytest.fixture(scope="module")
def direct(scene):
    """The same attacks, run on the chosen images without what is under test: (planned, result) pairs."""
    classifier, dataset, split = scene
    test = dataset.subset(split.adv_test)
    chosen = draw(test.labels, LIMIT, 0)
    with torch.no_grad():
        right = classifier(test.pixels(chosen)).argmax(1) == test.labels[chosen]
    rows = chosen[right]
    found = []
    for planned in CELLS:
        victim = Victim(classifier, dtype=torch.float32 if planned.eps_text == SMALLEST else None)
        labels, ids = test.labels[rows], test.ids[rows]
        found.append((planned, planned.value.run(victim, test.pixels(rows), labels, eps=planned.eps, ids=ids)))
    return test, chosen, right.numpy(), found


def levels(result, test, chosen, right):
    """The change of each image in grey levels."""
    clean = test.images[chosen[right]].numpy().astype(int)
    return np.round(result.images.numpy() * 255).astype(int) - clean


def agrees(told, hits, test, rows):
    """A proportion of these test images against a count; its interval is by patient, and no narrower than SciPy's."""
    assert told.n == len(hits)
    assert told.share == pytest.approx(hits.mean())
    by_patient = share_interval(hits, [test.patients[i] for i in rows.tolist()])
    assert told.interval == (by_patient.low, by_patient.high)
    bounds = binomtest(int(hits.sum()), len(hits)).proportion_ci(method="wilson")
    assert told.interval[0] <= bounds.low + 1e-9
    assert told.interval[1] >= bounds.high - 1e-9


def test_every_row_is_what_the_attack_does(whole, direct):
    found, _, _ = whole
    test, chosen, right, results = direct
    assert [(t.attack, t.eps_text) for t in found.attacks] == [(p.attack, p.eps_text) for p, _ in results]
    assert 0 < right.sum() == found.attacked <= found.chosen == LIMIT
    for tried, (planned, result) in zip(found.attacks, results, strict=True):
        fooled = result.fooled.numpy()
        agrees(tried.success, fooled, test, chosen[right])
        safe = right.copy()
        safe[right] = ~fooled
        agrees(tried.robust_accuracy, safe, test, chosen)
        assert tried.forwards * len(fooled) == pytest.approx(result.forwards)
        assert tried.backwards * len(fooled) == pytest.approx(result.backwards)
        assert tried.eps == (None if planned.eps_text == SMALLEST else planned.eps)
        change = levels(result, test, chosen, right)[fooled]
        if fooled.any():
            sizes = np.abs(change).max((1, 2, 3)) / 255, np.sqrt((change**2.0).sum((1, 2, 3))) / 255
            assert (tried.linf, tried.l2) == pytest.approx([np.median(size) for size in sizes], rel=1e-5)
            assert tried.l0 == np.median((change != 0).any(1).sum((1, 2)))
            noise = [10 * np.log10(255**2 / np.mean(one.astype(float) ** 2)) for one in change]
            assert tried.psnr == pytest.approx(np.median(noise), rel=1e-5)
            assert 0.2 < tried.ssim < 1
        else:
            assert (tried.linf, tried.l2, tried.l0, tried.ssim, tried.psnr) == (None,) * 5


def test_the_smallest_change_of_each_attack_is_that_over_all_its_eps(whole, direct):
    found, _, _ = whole
    results = direct[3]
    measures = {
        "Linf": lambda change: np.abs(change).max((1, 2, 3)) / 255,
        "L2": lambda change: np.sqrt((change**2.0).sum((1, 2, 3))) / 255,
        "L0": lambda change: (change != 0).any(1).sum((1, 2)),
    }
    norms = {"pgd-l2": "L2", "cw-l2": "L2", "jsma": "L0"}
    sizes, passes = {}, {}
    for planned, result in results:
        change, name = levels(result, *direct[:3]), planned.attack
        size = np.where(result.fooled.numpy(), measures[norms.get(name, "Linf")](change), np.inf)
        sizes[name] = np.minimum(sizes.get(name, np.inf), size)
        passes[name] = passes.get(name, 0) + (result.forwards + result.backwards) / found.attacked
    assert [one.attack for one in found.strengths] == list(sizes)
    for one in found.strengths:
        mine = sizes[one.attack]
        turned = np.isfinite(mine)
        assert (one.n, one.turned) == (found.attacked, turned.sum())
        assert one.norm == norms.get(one.attack, "Linf")
        assert one.passes == pytest.approx(passes[one.attack])
        assert one.smallest == pytest.approx(np.median(mine[turned]))
        best = np.min([size for name, size in sizes.items() if norms.get(name, "Linf") == one.norm], 0)
        assert one.best <= np.median(best[turned]) + 1e-9, "checks may have found less"
    by = {one.attack: one for one in found.strengths}
    assert by["deepfool"].optimality > max(by[name].optimality for name in ("fgsm", "square"))
    assert by["cw-l2"].optimality > 0.95 > by["pgd-l2"].optimality


def test_a_record_from_before_this_was_measured_still_loads(whole):
    found, _, _ = whole
    told = found.model_dump(mode="json")
    del told["strengths"]
    for tried in told["attacks"]:
        del tried["ssim"], tried["psnr"]
    old = Assessment.model_validate(told)
    assert old.strengths == []
    page, now = markdown(old), markdown(found)
    assert "optimality" not in page
    for one in found.strengths:
        assert f"| {one.attack} | {one.norm} | {one.turned} of {one.n} |" in now


def test_the_figures_are_worth_something(whole):
    """The classifier falls to gradients and stands against changes as large without direction."""
    found, _, _ = whole
    by = {(t.attack, t.eps_text): t for t in found.attacks}
    assert by["pgd", "8/256"].success.share > 0.9
    assert by["pgd", "8/256"].noise.share < 0.2
    for name in ("deepfool", "cw-l2", "jsma"):
        assert by[name, SMALLEST].success.share == 1, name
    assert by["cw-l2", SMALLEST].l2 < by["pgd", "8/256"].l2
    assert by["jsma", SMALLEST].l0 < by["pgd", "8/256"].l0 / 10
    accuracy = {worst.norm: worst.accuracy.share for worst in found.worst_case}
    assert found.clean.accuracy.share > accuracy["Linf"]


def test_the_worst_case_is_the_minimum_of_each_image(whole, direct):
    found, _, _ = whole
    test, chosen, right, results = direct
    labels = test.labels[chosen].numpy()
    assert [(w.norm, w.eps_text) for w in found.worst_case] == [
        (norm, text) for norm in ("Linf", "L2") for text in ("2/256", "8/256")
    ]
    agrees(found.clean.accuracy, right, test, chosen)
    for worst in found.worst_case:
        safe, row = [], 0
        for was_right in right:
            outcomes = [was_right]
            for _, result in results if was_right else ():
                change = levels(result, test, chosen, right)[row]
                far = np.abs(change).max() if worst.norm == "Linf" else np.sqrt((change**2).mean())
                inside = far <= (round(255 * worst.eps) if worst.norm == "Linf" else 255 * worst.eps + 1e-6)
                outcomes.append(not (inside and bool(result.fooled[row])))
            safe.append(min(outcomes))
            row += was_right
        agrees(worst.accuracy, np.array(safe), test, chosen)
        agrees(worst.success, ~np.array(safe)[right], test, chosen[right])
        for k, name in enumerate(test.classes):
            agrees(worst.recall[name], np.array(safe)[labels == k], test, chosen[labels == k])
    by = {(w.norm, w.eps_text): w.accuracy.share for w in found.worst_case}
    for tried in found.attacks:
        if tried.eps is not None:
            assert by[tried.norm, tried.eps_text] <= tried.robust_accuracy.share
    assert by["L2", "8/256"] <= by["Linf", "8/256"], "the L2 ball holds the other one"


def test_attacks_that_rest_at_the_boundary_cross_it(whole):
    """With gradients in bfloat16 they stop short of it: CW-L2 fooled a third of the images."""
    found = whole[0]
    minimal = [tried for tried in found.attacks if tried.eps_text == SMALLEST]
    assert minimal
    assert [tried.success.share for tried in minimal] == [1.0] * len(minimal)


def test_noise_is_the_change_with_its_pixels_elsewhere(scene):
    _, dataset, _ = scene
    test = dataset.subset(range(6))
    test = replace(test, images=torch.full_like(test.images, 128))
    rows, middle = torch.arange(6), test.pixels()
    sample = Sample(test, Verdict(*torch.zeros(4, 6)), rows, rows, 0)
    change = torch.randint(-9, 10, middle.shape, generator=torch.Generator().manual_seed(1)) / 255
    noise = ((shuffled(sample, change) - middle) * 255).round()
    assert torch.equal(noise.flatten(1).sort().values, (change * 255).round().flatten(1).sort().values)
    assert (noise != (change * 255).round()).float().mean() > 0.8
    assert torch.equal(shuffled(sample.only(rows[2:4]), change[2:4]), shuffled(sample, change)[2:4])
    assert not torch.equal(shuffled(replace(sample, seed=1), change), shuffled(sample, change))


def test_the_folder(whole):
    found, out, _ = whole
    assert Assessment.model_validate_json((out / "assessment.json").read_bytes()) == found
    lines = (out / "assessment.md").read_text(encoding="utf-8").splitlines()
    for tried in found.attacks:
        name = tried.eps_text if tried.norm == "Linf" else f"L2 {tried.eps_text}"
        (row,) = [line for line in lines if line.startswith(f"| {tried.attack} | {name} |")]
        assert f"| {100 * tried.success.share:.1f} % (" in row
    assert any("specificity (clear) | sensitivity (opacity)" in line for line in lines)
    for worst in found.worst_case:
        name = worst.eps_text if worst.norm == "Linf" else f"L2 {worst.eps_text}"
        assert any(line.startswith(f"| {name} | {100 * worst.accuracy.share:.1f} % (") for line in lines)
    assert (out / "robust-accuracy.svg").read_bytes().startswith(b"<?xml")
    assert (out / "robust-accuracy.png").read_bytes().startswith(b"\x89PNG")


def timeless(found):
    """Without what a clock decides."""
    told = json.loads(found.model_dump_json())
    for holder in (told, *told["attacks"]):
        for name in ("created", "seconds"):
            holder.pop(name, None)
    return told


def test_stopped_and_called_again_it_repeats_nothing(scene, whole, tmp_path, monkeypatch):
    found, _, pieces = whole
    run, done = Attack.run, []

    def stops(self, *arguments, **options):
        if len(done) == 4:
            raise KeyboardInterrupt
        done.append(self)
        return run(self, *arguments, **options)

    monkeypatch.setattr(Attack, "run", stops)
    with pytest.raises(KeyboardInterrupt):
        assessed(scene, tmp_path)
    monkeypatch.setattr(Attack, "run", lambda self, *a, **o: done.append(self) or run(self, *a, **o))
    again = assessed(scene, tmp_path)
    assert len(done) == len({json.dumps(key, sort_keys=True) for key, _ in pieces})
    assert timeless(again) == timeless(found)
    monkeypatch.setattr(Attack, "run", lambda *_, **__: pytest.fail("attacked again"))
    assert timeless(assessed(scene, tmp_path)) == timeless(found)


def test_a_cushion_stands_in_front(scene, tmp_path):
    classifier, dataset, split = scene
    cells = plan_assessment(["fgsm"], EPS[:1])
    found = assessed(scene, tmp_path, cells=cells, eps=EPS[:1], cushion="bits:2")
    assert found.cushion == "bits:2"
    test = dataset.subset(split.adv_test)
    chosen = draw(test.labels, LIMIT, 0)
    with torch.no_grad():
        right = classifier(parse_cushion("bits:2")(test.pixels(chosen))).argmax(1) == test.labels[chosen]
    agrees(found.clean.accuracy, right.numpy(), test, chosen)


def test_every_way_through_the_cushion_is_tried_and_counts_in_the_worst_case(scene, tmp_path):
    classifier, dataset, split = scene
    ways = ["bpda", "twin", "skip"]
    cells = plan_assessment(["pgd", "square"], EPS[:1], steps=6, queries=20, gradients=ways)
    found = assessed(scene, tmp_path, cells=cells, eps=EPS[:1], cushion="jpeg:40")
    assert [(t.attack, t.gradient) for t in found.attacks] == [*(("pgd", way) for way in ways), ("square", None)]
    test = dataset.subset(split.adv_test)
    chosen = draw(test.labels, LIMIT, 0)
    victim = Victim(classifier, cushion=parse_cushion("jpeg:40"))
    rows = chosen[victim.verdicts(test.pixels(chosen)).predicted == test.labels[chosen]]
    fooled = []
    for way in ways:
        victim = Victim(classifier, cushion=parse_cushion("jpeg:40"), gradient=way)
        attack = find_attack("pgd").attack.with_options(steps=6)
        found_by = attack.run(victim, test.pixels(rows), test.labels[rows], eps=EPS[0][1], ids=test.ids[rows])
        fooled.append(found_by.fooled.numpy())
    assert len({tuple(one) for one in fooled}) > 1, "the ways differ"
    for tried, one in zip(found.attacks[:3], fooled, strict=True):
        agrees(tried.success, one, test, rows)
    (worst,) = found.worst_case
    assert worst.success.share >= np.any(fooled, axis=0).mean()
    lines = (tmp_path / "assessment.md").read_text(encoding="utf-8").splitlines()
    for way in ("BPDA", "twin", "without it"):
        assert sum(f"| pgd | 8/256 | 6 | {way} |" in line for line in lines) == 1


def test_a_targeted_attack_counts_by_the_class_it_wants(tmp_path):
    """Of four classes another wrong one is no success: the wanted ones are those of the engine."""
    classifier = toy_classifier(4)
    images = toy_images(1600, classifier)
    with torch.no_grad():
        labels = classifier(images).argmax(1)
    for k, name in enumerate(classifier.classes):
        for i in (labels == k).nonzero().squeeze(1)[:30].tolist():
            folder = tmp_path / "data" / name / f"patient-{i}"
            folder.mkdir(parents=True)
            Image.fromarray((images[i, 0] * 255).round().byte().numpy()).save(folder / "0.png")
    dataset = load_dataset(f"folder:{tmp_path / 'data'}", size=classifier.size, channels="gray")
    split = split_dataset(dataset, seed=0, fractions=(0.3, 0.2, 0.1, 0.4))
    eps = [("4/256", 4 / 256)]
    cells = plan_assessment(["pgd"], eps, steps=4)
    where = {"cells": cells, "eps": eps, "out_dir": tmp_path / "out"}
    free = assess_classifier(classifier, dataset, split, **where)
    aimed = assess_classifier(classifier, dataset, split, targeted=True, **where)
    test = dataset.subset(split.adv_test)
    victim = Victim(classifier)
    rows = (victim.verdicts(test.pixels()).predicted == test.labels).nonzero().squeeze(1)
    targets = pick_targets(test.labels[rows], 4, ids=test.ids[rows], seed=0)
    options = {"eps": eps[0][1], "targets": targets, "ids": test.ids[rows]}
    direct = cells[0].value.run(victim, test.pixels(rows), test.labels[rows], **options)
    agrees(aimed.attacks[0].success, (direct.verdict.predicted == targets).numpy(), test, rows)
    assert 0 < aimed.attacks[0].success.share < free.attacks[0].success.share
    assert (aimed.targeted, free.targeted) == (True, False)
    assert "towards a wrong class drawn for each" in (tmp_path / "out" / "assessment.md").read_text(encoding="utf-8")


def test_a_random_cushion_judges_by_draws_that_the_attacker_does_not_know(scene, tmp_path):
    classifier, dataset, split = scene
    spec = "random:jpeg:10-95"
    cells = plan_assessment(["pgd", "square"], EPS[:1], steps=4, queries=10, samples=3)
    found = assessed(scene, tmp_path, cells=cells, eps=EPS[:1], cushion=spec)
    pgd, square = found.attacks
    assert (pgd.samples, square.samples) == (3, 1)
    assert (pgd.forwards, pgd.backwards) == (4 * 3, 4 * 3)
    test = dataset.subset(split.adv_test)
    chosen = draw(test.labels, LIMIT, 0)
    victim = Victim(classifier, cushion=parse_cushion(spec))
    right = victim.verdicts(test.pixels(chosen), test.ids[chosen]).predicted == test.labels[chosen]
    agrees(found.clean.accuracy, right.numpy(), test, chosen)
    rows = chosen[right]
    attack = find_attack("pgd").attack.with_options(steps=4, samples=3)
    direct = attack.run(victim, test.pixels(rows), test.labels[rows], eps=EPS[0][1], ids=test.ids[rows])
    agrees(pgd.success, direct.fooled.numpy(), test, rows)
    again = assessed(scene, tmp_path, cells=cells, eps=EPS[:1], cushion=spec)
    assert timeless(again) == timeless(found), "called again, the same draws"


def test_the_plan():
    cells = plan_assessment(["fgsm", "pgd", "square", "auto", "cw-l2", "one-pixel"], EPS, steps=7, queries=30)
    steps = {(p.attack, p.eps_text): p.value.steps for p in cells}
    assert {key: n for key, n in steps.items() if key[0] != "auto"} == {
        **{("fgsm", text): 1 for text, _ in EPS},
        **{("pgd", text): 7 for text, _ in EPS},
        **{("square", text): 30 for text, _ in EPS},
        ("cw-l2", SMALLEST): find_attack("cw-l2").attack.steps,
        ("one-pixel", SMALLEST): 30,
    }
    assert {member.attack.steps for p in cells if p.attack == "auto" for member in p.value.members} == {30}
    assert all(p.eps == 1 for p in cells if p.eps_text == SMALLEST)


def test_everything_that_needs_no_shield_is_in_all():
    for classes in (2, 4):
        for name, entry in CATALOGUE.items():
            possible = not entry.attack.objective.needs_shield and entry.classes <= classes
            assert (name in every_attack(classes)) == possible, name


def test_what_does_not_fit_is_refused_before_any_work(scene, tmp_path, monkeypatch):
    classifier, _, split = scene
    monkeypatch.setattr(Store, "get", lambda *_: pytest.fail("worked"))
    for names, eps, told in (
        ([], EPS, "attacks: none, or one twice"),
        (["pgd", "pgd"], EPS, "attacks: none, or one twice"),
        (["pgd"], [], "eps: none, or one twice"),
        (["pgd"], [("8/256", 8 / 256), ("0.03125", 8 / 256)], "eps: none, or one twice"),
        (["pgd"], [("0.001", 0.001)], "less than a grey level"),
        (["gdp"], EPS, "not in the catalogue"),
        (["wb"], EPS, "aims at a Shield; here there is none: take 'cw-linf'"),
        (["square-guard"], EPS, "take 'square'"),
        (["wb-hfc"], EPS, "take 'hfc'"),
        (["apgd-dlr"], EPS, "needs 4 classes, there are 2"),
    ):
        with pytest.raises(ConfigError) as error:
            assessed(scene, tmp_path, cells=plan_assessment(names, eps), eps=eps)
        assert all(part in str(error.value) for part in told.split(": "))
    with pytest.raises(ConfigError, match="leaves no image"):
        assessed(scene, tmp_path, limit=0)
    with pytest.raises(ConfigError, match="jpeg"):
        assessed(scene, tmp_path, cushion="jpeg:8000")
    with pytest.raises(ConfigError, match="gradient"):
        plan_assessment(["pgd"], EPS, gradients=["skip", "skip"])
    other, other_split = data(tmp_path / "other", n=200)
    with pytest.raises(DataError, match="split was made for other images"):
        assessed((classifier, other, split), tmp_path)
    wrong = type(classifier)(
        classifier.network,
        classes=("cat", "dog"),
        size=32,
        channels="gray",
        backbone=classifier.backbone,
        mean=(0.0,) * 3,
        std=(1.0,) * 3,
    )
    with pytest.raises(DataError, match="the classifier is for cat, dog at 32 px gray"):
        assessed((wrong, other, other_split), tmp_path)


def test_what_its_checks_turn_counts_in_the_worst_case(scene, tmp_path, monkeypatch):
    """Two steps turn few; ten times as many, and Square, turn others of the images that they are tried on."""
    pieces, ask = {}, Store.get

    def get(self, key, compute):
        piece = ask(self, key, compute)
        for i, fooled in zip(key["ids"], piece["fooled"].tolist(), strict=True):
            pieces.setdefault((key["attack"], key["eps"]), {})[i] = fooled
        return piece

    monkeypatch.setattr(Store, "get", get)
    size, slow = ("4/256", 4 / 256), CATALOGUE["bim"]
    slow = dataclasses.replace(slow, attack=slow.attack.with_options(step_size=0.1))
    monkeypatch.setitem(CATALOGUE, "bim", slow)
    (cell,) = plan_assessment(["bim"], [size], steps=2)
    found = assessed(scene, tmp_path, cells=[cell], eps=[size], effort=Effort(far=12, guessed=12, queries=60))
    usual = pieces.pop((repr(cell.value), cell.eps))
    longer = pieces.pop((repr(cell.value.with_options(steps=20)), cell.eps))
    square = pieces.pop((repr(find_attack("square").attack.with_options(steps=60)), cell.eps))
    (worst,) = found.worst_case
    assert len(longer) == 12 < len(usual) == worst.success.n
    assert set(square) == {i for i in longer if not usual[i]}, "both are drawn alike"
    turned = [usual[i] or longer.get(i, False) or square.get(i, False) for i in usual]
    assert worst.success.share == pytest.approx(np.mean(turned))
    more = [sum(by[i] and not usual[i] for i in by) for by in (longer, square)]
    assert more[0] > 0
    assert [(one.n, one.more) for one in worst.further] == [(len(longer), more[0]), (len(square), more[1])]
    assert worst.success.share > found.attacks[0].success.share == np.mean(list(usual.values()))
    page = (tmp_path / "assessment.md").read_text(encoding="utf-8")
    for one in worst.further:
        assert f"{one.check}: {one.n} images tried, {one.more} more" in page


def test_a_classifier_behind_a_vote(scene, tmp_path):
    cells = plan_assessment(["bim", "square"], EPS[:1], steps=2, queries=2, samples=4)
    little = Effort(far=4, probed=4, guessed=4, queries=8)
    found = assessed(scene, tmp_path, cells=cells, eps=EPS[:1], cushion="vote:3:noise:0.02", limit=6, effort=little)
    assert found.cushion == "vote:3:noise:0.02"
    costs = {tried.attack: (tried.forwards, tried.samples) for tried in found.attacks}
    assert costs == {"bim": (8, 4), "square": (6, 1)}, "four draws a step, three a query"
