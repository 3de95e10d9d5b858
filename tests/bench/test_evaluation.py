"""A whole evaluation on drawn X-rays: every column by hand from the stored pieces, and a kill in the middle."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from tests.arithmetic import in_float32
from tests.bench.small import CELLS, data, fitted, measure

from medaegis.attacks.choices import pick_targets
from medaegis.bench import campaign as campaigns
from medaegis.bench import evaluate as evaluation
from medaegis.bench import store
from medaegis.bench.campaign import Campaign
from medaegis.bench.checks import controls
from medaegis.bench.evaluate import evaluate_guard
from medaegis.bench.metrics import share_interval
from medaegis.bench.outcome import elsewhere_nothing
from medaegis.bench.plan import Planned, plan
from medaegis.bench.records.archive import read_evaluation
from medaegis.bench.records.evaluation import Further
from medaegis.bench.sample import Sample, draw
from medaegis.bench.store import Store
from medaegis.errors import ConfigError, DataError
from medaegis.guard.fitting import shield_logits
from medaegis.guard.site import Site


@pytest.fixture(scope="module", autouse=True)
def _float32():
    with in_float32():
        yield


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    return tmp_path_factory.mktemp("work")


@pytest.fixture(scope="module")
def whole(work):
    """The evaluation, its folder, and every piece that was stored for it, in order."""
    pieces, ask = [], Store.get

    def get(self, key, compute):
        piece = ask(self, key, compute)
        pieces.append((key, piece))
        return piece

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Store, "get", get)
        patch.setattr(store, "BATCH", 8)
        found = measure(work, work / "whole")
    return found, work / "whole", pieces


@pytest.fixture(scope="module")
def scene(work):
    """What is attacked, worked out again from the guard."""
    guard, dataset, split = fitted(work)
    test = dataset.subset(split.adv_test)
    verdict = guard.judge(test.pixels())
    right = (verdict.predicted == test.labels).numpy()
    return guard, test, verdict, right


def rows_of(cell, pieces):
    """The pieces of a cell, put together."""
    planned = next(p for p in CELLS if p.id == cell.id)
    mine = [
        piece
        for key, piece in pieces
        if key["attack"] == repr(planned.value) and key["eps"] == planned.eps and key["gradient"] == planned.gradient
    ]
    return {name: torch.cat([piece[name] for piece in mine]).numpy() for name in mine[0]}


def test_columns_by_hand(whole, scene):
    found, _, pieces = whole
    guard, test, clean, right = scene
    n, accepted = len(test), clean.accepted.numpy()
    genuine = clean.score.numpy()[right]  # what is told from attacked images; wrong diagnoses may well be rejected
    assert [cell.id for cell in found.cells] == [planned.id for planned in CELLS]
    assert 0 < right.sum() < n + 1
    for cell in found.cells:
        piece = rows_of(cell, pieces)
        assert cell.n == right.sum() == len(piece["score"])
        again = guard.judge(torch.from_numpy(piece["images"]).float() / 255)
        fooled = again.predicted.numpy() != test.labels[right].numpy()
        broken = fooled & again.accepted.numpy()
        assert cell.success == pytest.approx(fooled.mean())
        assert cell.undetected == pytest.approx(broken.mean())
        assert cell.auroc == pytest.approx(
            roc_auc_score([0] * cell.n + [1] * cell.n, np.r_[genuine, again.score.numpy()]), abs=1e-4
        )
        if fooled.any():
            truth = [0] * len(genuine) + [1] * int(fooled.sum())
            scores = np.r_[genuine, again.score.numpy()[fooled]]
            assert cell.auroc_fooling == pytest.approx(roc_auc_score(truth, scores), abs=1e-4)
        # The other of two classes is what the attacker wants, and its Shield judges every image.
        pixels = torch.from_numpy(piece["images"]).float() / 255
        wanted = [
            guard.bank.suspicion(shield_logits(guard.victim(), pixels, k), torch.full((cell.n,), k)) for k in (0, 1)
        ]
        chosen = torch.where(test.labels[right] == 0, wanted[1], wanted[0]).numpy()
        truth = [0] * len(genuine) + [1] * cell.n
        assert cell.auroc_wanted == pytest.approx(roc_auc_score(truth, np.r_[genuine, chosen]), abs=1e-4)
        for tnr, told in ((0.9, cell.tpr90), (0.95, cell.tpr95), (0.99, cell.tpr99)):
            threshold = np.sort(genuine)[int(np.ceil(tnr * len(genuine) - 1e-9)) - 1]
            assert told == pytest.approx((again.score.numpy() > threshold + 1e-5).mean(), abs=1.5 / cell.n)
        # Of all test images: diagnosed rightly and accepted when clean, and no undetected success when attacked.
        undetected = np.zeros(n, bool)
        undetected[right] = broken
        wrongly_lost = ~(right & accepted)
        assert cell.robust_accuracy == pytest.approx((~wrongly_lost & ~undetected).mean())
        assert cell.robust_accuracy <= 1 - wrongly_lost.mean()
        for name, told in cell.by_class.items():
            mine = test.labels[right].numpy() == guard.classes.index(name)
            assert (told.n, told.success) == (mine.sum(), pytest.approx(fooled[mine].mean()))
            assert told.undetected == pytest.approx(broken[mine].mean())
        for bounds, value in (
            (cell.auroc_interval, cell.auroc),
            (cell.undetected_interval, cell.undetected),
            (cell.robust_accuracy_interval, cell.robust_accuracy),
        ):
            assert bounds[0] - 1e-9 <= value <= bounds[1] + 1e-9
        patients = np.array(test.patients)
        for hits, rows, told in (
            (broken, patients[right], cell.undetected_interval),
            (~wrongly_lost & ~undetected, patients, cell.robust_accuracy_interval),
        ):
            by_patient = share_interval(hits, rows.tolist())
            assert told == (by_patient.low, by_patient.high)
        assert cell.forwards == cell.backwards == cell.n * cell.steps * cell.restarts
        assert (cell.success_on_classifier is None) == cell.adaptive


def test_images_are_inside_their_budget(whole, scene):
    found, _, pieces = whole
    _, test, _, right = scene
    clean = test.images.numpy()[right].astype(int)
    for cell in found.cells:
        change = rows_of(cell, pieces)["images"].astype(int) - clean
        if cell.norm == "Linf":
            assert abs(change).max() == round(255 * cell.eps)
        else:
            assert np.sqrt((change**2).mean((1, 2, 3))).max() <= 255 * cell.eps


def test_clean_figures_by_hand(whole, scene):
    found, _, _ = whole
    guard, test, clean, right = scene
    told, labels = found.clean, test.labels.numpy()
    assert told.n == len(test)
    assert told.accuracy == pytest.approx(right.mean())
    assert told.sensitivity == pytest.approx(right[labels == 1].mean())
    assert told.specificity == pytest.approx(right[labels == 0].mean())
    assert told.tnr_reached == pytest.approx(clean.accepted.float().mean().item())
    assert told.auroc == pytest.approx(roc_auc_score(labels, (clean.logits[:, 1] - clean.logits[:, 0]).numpy()))
    rejected = ~clean.accepted.numpy()
    assert (told.wrong, told.wrong_rejected) == ((~right).sum(), pytest.approx(rejected[~right].mean()))
    bare = guard.classifier(test.pixels()).argmax(1)
    assert told.accuracy_without_cushion == pytest.approx((bare == test.labels).float().mean().item(), abs=0.03)


def inside(part, test, right, row):
    """Which images are no farther from their clean ones than a worst case allows, from their grey levels."""
    change = part["images"].astype(int) - test.images.numpy()[right]
    if row.norm == "Linf":
        return abs(change).max((1, 2, 3)) <= round(255 * row.eps)
    return np.sqrt((change**2).mean((1, 2, 3))) <= 255 * row.eps + 1e-9


def test_worst_case_is_as_bad_as_every_cell(whole, scene):
    found, _, pieces = whole
    _, test, clean, right = scene
    genuine = clean.score.numpy()[right]
    assert {(row.eps, row.norm) for row in found.worst_case} == {(8 / 256, "Linf"), (16 / 256, "Linf"), (8 / 256, "L2")}
    borrowed = 0
    for row in found.worst_case:
        mine = [cell for cell in found.cells if cell.norm == row.norm and cell.eps <= row.eps]
        parts = [rows_of(cell, pieces) for cell in found.cells]
        parts = [{**part, "fooled": part["fooled"] & inside(part, test, right, row)} for part in parts]
        own = np.any([part["fooled"] & part["accepted"] for part in map(rows_of, mine, [pieces] * len(mine))], axis=0)
        broken = np.any([part["fooled"] & part["accepted"] for part in parts], axis=0)
        assert (broken | ~own).all(), "what fools within a smaller change is within this one too"
        borrowed += (broken & ~own).sum()
        assert row.n == len(broken)
        assert row.undetected == pytest.approx(broken.mean())
        assert row.undetected >= max(cell.undetected for cell in mine) - 1e-9
        assert row.robust_accuracy <= min(cell.robust_accuracy for cell in mine) + 1e-9
        # An image's score: the lowest with which it was made wrong, or the lowest at this eps where nothing did.
        here = [rows_of(cell, pieces) for cell in mine if cell.eps == row.eps]
        scores = []
        for i in range(row.n):
            harmful = [part["score"][i] for part in parts if part["fooled"][i]]
            scores.append(min(harmful or [part["score"][i] for part in here]))
        assert row.auroc == pytest.approx(
            roc_auc_score([0] * len(genuine) + [1] * row.n, np.r_[genuine, scores]), abs=1e-4
        )
    assert borrowed, "what was made in one norm counts in the other"


def test_what_stamina_breaks_counts_in_the_worst_case(whole, scene, work, tmp_path, monkeypatch):
    """Of two images a harder attack breaks the one that no cell did: the others stay as they were."""
    found, out, pieces = whole
    cells = [cell for cell in found.cells if cell.norm == "Linf" and cell.eps == 8 / 256]
    safe = ~np.any([rows_of(cell, pieces)["fooled"] & rows_of(cell, pieces)["accepted"] for cell in cells], axis=0)
    assert 0 < safe.sum() < len(safe)
    places = torch.tensor([safe.nonzero()[0][0], (~safe).nonzero()[0][0]])
    harder = Planned("wb", 8 / 256, "8/256", steps=60, check="Stamina")
    labels = scene[1].labels[torch.from_numpy(scene[3])][places]
    clean = scene[1].images[torch.from_numpy(scene[3])][places]
    extra = {
        **{name: torch.tensor([True, False]) for name in ("fooled", "accepted")},
        **{name: torch.tensor([-9.0, 0.5]) for name in ("score", "wanted")},
        "predicted": 1 - labels,
        "images": torch.where(clean > 127, clean - 8, clean + 8),  # in the ball of L-infinity, just outside that of L2
    }

    def run(campaign, outcomes, progress):
        alarm = controls.Control(kind="alarm", name="Stamina", expectation="none", measured="some", passed=False)
        return alarm, [(harder, elsewhere_nothing(extra, places, len(campaign)))]

    monkeypatch.setattr(evaluation, "run_stamina", run)
    monkeypatch.setattr(store, "BATCH", 8)
    shutil.copytree(out, tmp_path / "again")
    again = measure(work, tmp_path / "again", stamina=True)
    assert again.cells == found.cells
    assert [c.name for c in again.controls if c.name not in {c.name for c in found.controls}] == ["Stamina"]
    rows = [
        *zip(found.worst_case, again.worst_case, strict=True),
        *zip(found.by_attacker, again.by_attacker, strict=True),
    ]
    counted = 0
    for before, after in rows:
        if (before.eps, before.norm) == (8 / 256, "Linf") and before.attacker in ("anyone", "knows the guard"):
            assert after.undetected == pytest.approx(before.undetected + 1 / before.n)
            assert after.auroc < before.auroc
            assert after.auroc_wanted < before.auroc_wanted
            assert after.further == [Further(check="Stamina", n=2, more=1)]
            counted += 1
        elif before.norm == "L2" or before.attacker == "knows the classifier":
            assert after == before
    assert counted == 2
    (shown,) = [one for one in again.through if one.check]
    assert (shown.cell, shown.check, shown.eps, shown.example.adversarial.score) == (None, "Stamina", 8 / 256, -9.0)
    assert shown.example.adversarial.predicted == scene[1].classes[1 - labels[0]] != shown.example.label


def test_the_worst_case_of_each_attacker_is_over_his_own_cells(whole, scene):
    found, _, pieces = whole
    _, test, _, right = scene
    kinds = {"knows the guard": ("wb",), "knows the classifier": ("fgsm", "pgd", "pgd-l2")}
    assert {row.attacker for row in found.by_attacker} == set(kinds)
    # Two eps in Linf and one in L2 each: WB was run in Linf alone, which lies in L2 at the same eps.
    assert [(row.attacker, row.norm) for row in found.by_attacker if row.norm == "L2"] == [(a, "L2") for a in kinds]
    assert len(found.by_attacker) == 2 * 3
    for row in found.by_attacker:
        parts = [rows_of(cell, pieces) for cell in found.cells if cell.attack in kinds[row.attacker]]
        broken = [part["fooled"] & part["accepted"] & inside(part, test, right, row) for part in parts]
        assert row.undetected == np.any(broken, axis=0).mean()
        assert row.undetected_interval[0] <= row.undetected <= row.undetected_interval[1]
        overall = next(w for w in found.worst_case if (w.eps, w.norm) == (row.eps, row.norm))
        assert row.undetected <= overall.undetected


def test_what_an_attacker_did_within_less_counts_where_only_others_went_further(work, tmp_path):
    """Nothing is said of him below what he tried; what he made in L-infinity lies in L2."""
    cells = [Planned("wb", 8 / 256, "8/256", steps=3)]
    cells += [Planned(name, eps / 256, f"{eps}/256") for name, eps in (("fgsm", 4), ("fgsm", 16), ("pgd-l2", 8))]
    found = measure(work, tmp_path, cells=cells, limit=10)
    rows = {(row.attacker, row.norm, row.eps * 256): row for row in found.by_attacker}
    guard, bare = "knows the guard", "knows the classifier"
    places = [("Linf", 4), ("Linf", 8), ("Linf", 16), ("L2", 8)]
    assert set(rows) == {(guard, *place) for place in places[1:]} | {(bare, *place) for place in places}
    for place in places[1:]:
        assert rows[guard, *place].undetected == found.cells[0].undetected
    assert rows[guard, "Linf", 16].auroc_wanted == rows[guard, "Linf", 8].auroc_wanted


def test_images_that_a_check_left_alone_are_not_most_suspicious(work, tmp_path, scene, monkeypatch):
    """Where an attacker has a check alone, what he made within less stands for the images it did not try."""
    _, test, _, right = scene
    mine = draw(test.labels, 10, 0)
    first = mine[torch.from_numpy(right)[mine]][:1]
    harder = Planned("wb", 16 / 256, "16/256", steps=60, check="Stamina")
    extra = {
        **{name: torch.tensor([False]) for name in ("fooled", "accepted")},
        **{name: torch.tensor([9.0]) for name in ("score", "wanted")},
        "predicted": test.labels[first],
        "images": test.images[first],
    }

    def run(campaign, outcomes, progress):
        alarm = controls.Control(kind="alarm", name="Stamina", expectation="none", measured="some", passed=True)
        return alarm, [(harder, elsewhere_nothing(extra, torch.tensor([0]), len(campaign)))]

    monkeypatch.setattr(evaluation, "run_stamina", run)
    cells = [Planned("wb", 1 / 256, "1/256", steps=1), Planned("fgsm", 16 / 256, "16/256")]
    found = measure(work, tmp_path, cells=cells, limit=10, stamina=True)
    less, more = (row for row in found.by_attacker if row.attacker == "knows the guard")
    assert (less.eps, more.eps) == (1 / 256, 16 / 256)
    assert found.cells[0].success < 1, "or no suspicion counts"
    assert more.further == [Further(check="Stamina", n=1, more=0)]
    assert more.auroc == less.auroc


def test_what_got_through_is_kept_with_its_pixels(whole, scene):
    found, out, _ = whole
    guard, test, _, _ = scene
    pixels = read_evaluation(out).examples
    assert len(found.through) > 3
    eps = [one.eps for one in found.through]
    titles = {cell.id: cell.title for cell in found.cells}
    assert all(one.title == titles[one.cell] for one in found.through if not one.check)
    assert eps == sorted(eps)
    assert len({one.example.name for one in found.through}) == len(found.through)
    ids = {f"test image {int(i)}": row for row, i in enumerate(test.ids)}
    verdict = guard.judge(torch.from_numpy(pixels["through/adversarial"]).float() / 255)
    assert verdict.accepted.all()
    for i, one in enumerate(found.through):
        row = ids[one.example.name]
        assert np.array_equal(pixels["through/clean"][i], test.images[row].numpy())
        assert one.example.label == test.classes[int(test.labels[row])]
        assert one.example.adversarial.predicted == test.classes[int(verdict.predicted[i])] != one.example.label
        change = pixels["through/adversarial"][i].astype(int) - pixels["through/clean"][i]
        assert abs(change).max() <= round(255 * eps[i])
    # Every image broken in L-infinity is there once, at the smallest eps at which it was.
    for worst in found.worst_case:
        if worst.norm == "Linf":
            assert sum(e <= worst.eps for e in eps) == round(worst.undetected * worst.n)


def test_the_folder_holds_what_was_returned(whole):
    found, out, pieces = whole
    stored = read_evaluation(out)
    assert stored.evaluation == found
    for cell in found.cells:
        piece = rows_of(cell, pieces)
        assert np.array_equal(stored.scores[cell.id], piece["score"])
        assert np.array_equal(stored.scores[f"{cell.id}/fooled"], piece["fooled"])
        assert len(cell.examples) == len(stored.examples[f"{cell.id}/adversarial"])
    assert {control.name.split(" (")[0] for control in found.controls} >= {"Many steps beat one"}


def timeless(evaluation_):
    """Without what a clock decides."""
    told = json.loads(evaluation_.model_dump_json())
    for holder in (told, *told["cells"]):
        for name in ("created", "seconds"):
            holder.pop(name, None)
    return told


def test_killed_and_resumed_is_the_same_and_repeats_nothing(whole, work):
    found, _, pieces = whole
    command = [sys.executable, "-m", "tests.bench.small", str(work)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    computed = 0
    for stop in (3, 5):
        process = subprocess.Popen([*command, "0.2"], stdout=subprocess.PIPE, text=True, env=environment)
        for count, _ in enumerate(process.stdout, 1):
            computed += 1
            if count == stop:
                process.send_signal(signal.SIGKILL)
                break
        process.wait()
        assert process.returncode == -signal.SIGKILL
    # A piece is printed when it is computed and stored right after: a kill in between loses that one.
    before = len(list((work / "out" / "pieces").glob("*.safetensors")))
    assert computed - 2 <= before <= computed
    lines = subprocess.run([*command, "0"], stdout=subprocess.PIPE, text=True, env=environment, check=True).stdout
    assert lines.split()[-1] == "done"
    assert lines.count("computed") == len(pieces) - before
    again, expected = timeless(read_evaluation(work / "out").evaluation), timeless(found)
    for one, other in zip(again["cells"], expected["cells"], strict=True):
        assert one == other
    assert again == expected


def test_a_second_run_computes_nothing(whole, work, monkeypatch):
    found, out, _ = whole
    monkeypatch.setattr(store, "BATCH", 8)
    ask = Store.get

    def get(self, key, compute):
        def never():
            raise AssertionError("computed again")

        return ask(self, key, never)

    monkeypatch.setattr(Store, "get", get)
    again = measure(work, out)
    assert timeless(again) == timeless(found)
    assert again.seconds > sum(cell.seconds for cell in again.cells), "what earlier calls spent counts too"


def test_pieces_are_small_enough_to_lose_little(scene, tmp_path, monkeypatch):
    """By operations: for a patient attack on a large network down to one image, never more than a batch."""
    guard, test, clean, _right = scene
    some = torch.arange(len(test))
    whole = Campaign(guard.victim(), Sample(test, clean, some, some, 0), Store(tmp_path), {}, "any wrong class")
    conv = guard.classifier.network.conv1
    at_least = 2 * (guard.classifier.size // 2) ** 2 * conv.weight.numel()  # of one image in the first layer alone

    def size(steps):
        return whole._piece_size(Planned("pgd", 8 / 256, "8/256", steps=steps))

    assert size(100) == store.BATCH, "this network is small"
    monkeypatch.setattr(store, "PIECE_FLOPS", {"cpu": 600 * at_least})
    assert 1 <= size(10) <= 20
    assert size(100) == max(1, size(10) // 10)
    assert size(10_000) == 1
    asking = whole._piece_size(Planned("square-guard", 8 / 256, "8/256", steps=20))
    assert size(10) <= asking <= 2 * size(10), "a query has no backward"


def test_pieces_are_nearly_equal(scene, tmp_path):
    guard, test, clean, _right = scene
    some = torch.arange(len(test)).repeat(2)[:38]
    whole = Campaign(guard.victim(), Sample(test, clean, some, some, 0), Store(tmp_path), {}, "any wrong class")
    told = []
    whole.attack(Planned("fgsm", 8 / 256, "8/256"), lambda done, total, message: told.append((done, total)))
    assert told == [(19, 38), (38, 38)]


def test_attacks_that_use_clean_images_are_given_some(work, tmp_path):
    """Guides and normal features are those of images known before."""
    names = ["logit-match", "feature-match", "feature-match-closest", "hfc", "wb-hfc", "pgd+dim+hfc"]
    cells = [Planned(name, 16 / 256, "16/256", steps=3) for name in names]
    found = measure(work, tmp_path, cells=cells, limit=12)
    assert [cell.attack for cell in found.cells] == names
    assert {cell.n for cell in found.cells} == {found.cells[0].n}


def test_pieces_belong_to_their_guard_seed_and_images(work, tmp_path, monkeypatch):
    keys = []

    def get(self, key, compute):
        keys.append(json.dumps(key, sort_keys=True))
        raise KeyboardInterrupt

    monkeypatch.setattr(Store, "get", get)
    guard, dataset, split = fitted(work)

    def ask(dataset=dataset, seed=0):
        with pytest.raises(KeyboardInterrupt):
            evaluate_guard(guard, Site(dataset, split), cells=CELLS[:1], out_dir=tmp_path, seed=seed)
        return keys[-1]

    first = ask()
    assert ask() == first
    digest, guard.digest = guard.digest, ""
    assert ask() == first
    guard.digest = digest
    assert ask(seed=1) != first
    assert ask(dataset=dataclasses.replace(dataset, images=dataset.images ^ 1)) != first
    with monkeypatch.context() as patch:
        patch.setattr(campaigns, "code_fingerprint", lambda: "other")
        assert ask() != first
    guard.bank.scale.mul_(1.001)
    assert ask() != first


def test_plan_adds_short_runs_of_adaptive_attacks_at_the_largest_eps():
    cells = plan(["pgd", "wb"], [("16/256", 16 / 256), ("4/256", 4 / 256)])
    assert [(p.attack, p.eps_text, p.value.steps) for p in cells] == [
        ("pgd", "16/256", 10),
        ("pgd", "4/256", 10),
        ("wb", "16/256", 100),
        ("wb", "4/256", 100),
        ("wb", "16/256", 20),
    ]
    ways = plan(["pgd", "wb"], [("16/256", 16 / 256), ("4/256", 4 / 256)], other_ways=["twin", "skip"])
    assert ways[: len(cells)] == cells
    assert [(p.attack, p.eps_text, p.gradient) for p in ways[len(cells) :]] == [
        ("wb", "16/256", "twin"),
        ("wb", "4/256", "twin"),
        ("wb", "16/256", "skip"),
        ("wb", "4/256", "skip"),
    ]
    cells = plan(["pgd", "square", "square-guard"], [("4/256", 4 / 256)], steps=30, queries=100)
    assert [(p.attack, p.value.steps) for p in cells] == [
        ("pgd", 10),
        ("square", 100),
        ("square-guard", 100),
        ("square-guard", 20),
    ]
    with pytest.raises(ConfigError, match="none given"):
        plan(["pgd"], [])
    with pytest.raises(ConfigError, match="less than a grey level"):
        plan(["wb"], [("4/256", 4 / 256), ("0.0035", 0.0035)])
    with pytest.raises(ConfigError, match="catalogue"):
        plan(["pdg"], [("4/256", 4 / 256)])


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 10, 40])
def test_a_limit_is_kept_and_drawn_in_proportion(limit):
    labels = torch.tensor([0] * 30 + [1] * 10)
    chosen = draw(labels, limit, 3)
    assert len(chosen) == len(chosen.unique()) == limit
    assert torch.equal(chosen, chosen.sort().values)
    assert abs(int((labels[chosen] == 1).sum()) - limit / 4) <= 1
    assert torch.equal(chosen, draw(labels, limit, 3))
    assert torch.equal(draw(labels, None, 3), torch.arange(40))
    assert not 1 < limit < 40 or not torch.equal(chosen, draw(labels, limit, 4))


def test_a_limited_evaluation_attacks_the_chosen_images_only(work, tmp_path, scene):
    found = measure(work, tmp_path, cells=CELLS[:1], limit=10)
    _, test, clean, right = scene
    chosen = draw(test.labels, 10, 0)
    assert found.cells[0].n == right[chosen.numpy()].sum()
    assert found.clean.n == len(test)
    safe = clean.accepted[chosen].numpy() & right[chosen.numpy()]
    assert found.cells[0].robust_accuracy <= safe.mean()


def test_targets_do_not_depend_on_the_limit(scene):
    _, test, _, _ = scene
    every = pick_targets(test.labels, 2, ids=test.ids)
    some = torch.tensor([3, 7, 11])
    assert torch.equal(pick_targets(test.labels[some], 2, ids=test.ids[some]), every[some])


def test_a_class_missing_from_the_test_part(work, tmp_path):
    """Figures that need it are not measured; the rest is."""
    guard, dataset, split = fitted(work)
    only = tuple(i for i in split.adv_test if dataset.labels[i] == 1)
    moved = tuple(sorted({*split.adv_train, *split.adv_test} - {*only}))
    odd = dataclasses.replace(split, adv_test=only, adv_train=moved)
    found = evaluate_guard(guard, Site(dataset, odd), cells=CELLS[:2], out_dir=tmp_path, planted=False)
    assert found.clean.auroc is None
    assert found.clean.specificity is None
    assert found.clean.tnr_by_class["clear"] is None
    assert found.clean.sensitivity is not None
    assert list(found.cells[0].by_class) == ["opacity"]


def test_what_does_not_fit_is_refused_before_any_work(work, tmp_path, monkeypatch):
    monkeypatch.setattr(Store, "get", lambda *_: pytest.fail("worked"))
    guard, dataset, split = fitted(work)
    renamed = dataclasses.replace(dataset, classes=("a", "b"))
    large = dataclasses.replace(dataset, images=dataset.images.repeat(1, 1, 2, 2))
    colour = dataclasses.replace(dataset, images=dataset.images.repeat(1, 3, 1, 1))
    for other in (renamed, large, colour):
        with pytest.raises(DataError, match="the guard is for clear, opacity at 32 px gray"):
            evaluate_guard(guard, Site(other, split), cells=CELLS, out_dir=tmp_path)
    fewer, its_split = data(work, n=210)
    with pytest.raises(DataError, match="split was made for other images"):
        evaluate_guard(guard, Site(dataset, its_split), cells=CELLS, out_dir=tmp_path)
    assert len(fewer) == 210
    with pytest.raises(ConfigError, match="planned twice"):
        evaluate_guard(guard, Site(dataset, split), cells=[*CELLS, CELLS[0]], out_dir=tmp_path)
    with pytest.raises(ConfigError, match="no attack is planned"):
        evaluate_guard(guard, Site(dataset, split), cells=[], out_dir=tmp_path)
    with pytest.raises(ConfigError, match="needs 4 classes, there are 2"):
        evaluate_guard(guard, Site(dataset, split), cells=[*CELLS, Planned("apgd-dlr", 0.1, "0.1")], out_dir=tmp_path)
    with pytest.raises(ConfigError, match="limit 0"):
        evaluate_guard(guard, Site(dataset, split), cells=CELLS, out_dir=tmp_path, limit=0)
    empty = dataclasses.replace(split, adv_test=(), train=split.train + split.adv_test)
    with pytest.raises(DataError, match="no adv_test"):
        evaluate_guard(guard, Site(dataset, empty), cells=CELLS, out_dir=tmp_path)


def test_cell_ids_are_what_the_format_takes():
    assert Planned("wb", 16 / 256, " 16 / 256", steps=3).id == "wb-16of256-3x1-bpda"
    assert Planned("wb", 0.0625, "0.0625", gradient="twin").id == "wb-0.0625-100x1-twin"


def test_stamina_without_wb_is_told_to_be_missing(work, tmp_path):
    for stamina in (True, False):
        found = measure(work, tmp_path, cells=CELLS[:1], limit=8, stamina=stamina)
        told = [(c.kind, c.measured, c.passed) for c in found.controls if c.name == "Stamina"]
        assert told == [("alarm", "not measured: no wb", None)] * stamina
