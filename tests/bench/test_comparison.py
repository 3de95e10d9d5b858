"""A comparison of detectors on drawn X-rays: its figures by hand, its record, and a second run that repeats nothing."""

import copy
import dataclasses
import json

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from tests.attacks.toys import toy_classifier, toy_images
from tests.bench.campaigns import toy_campaign
from tests.bench.small import CONFIG, data, learned

from medaegis.attacks.engine import Attack
from medaegis.attacks.universal import Universal
from medaegis.attacks.victim import Victim
from medaegis.bench import campaign
from medaegis.bench.campaign import Campaign
from medaegis.bench.compare import compare_detectors
from medaegis.bench.plan import Planned
from medaegis.bench.records import archive
from medaegis.bench.records.comparison import Comparison
from medaegis.bench.sample import draw
from medaegis.bench.store import Store
from medaegis.cushions import parse_cushion
from medaegis.cushions.filters import Unrounded
from medaegis.detectors.base import Detector
from medaegis.detectors.reader import Reader
from medaegis.detectors.registry import find_detector
from medaegis.errors import ConfigError, DataError
from medaegis.guard.fitting import fit_guard
from medaegis.progress import silent

EPS = 8 / 256
DETECTORS = ("kd", "mahalanobis-layers", "svm")
ATTACKS = ("bim", "hfc")


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    dataset, split = data(tmp_path_factory.mktemp("data"))
    split = dataclasses.replace(split, val=split.adv_train, adv_train=split.val)  # enough to learn from
    return learned(dataset, split), dataset, split


def compared(scene, out, **options):
    given = {"detectors": DETECTORS, "attacks": ATTACKS, "learn_from": "bim", "eps": EPS, "eps_text": "8/256"}
    given |= {"cushions": ("none", "jpeg:80"), "steps": 8, "limit": 24}
    return compare_detectors(*scene, out_dir=out, **{**given, **options})


@pytest.fixture(scope="module")
def whole(scene, tmp_path_factory):
    """The comparison, its folder, and what was stored for it."""
    pieces, ask = [], Store.get

    def get(self, key, compute):
        pieces.append((key, ask(self, key, compute)))
        return pieces[-1][1]

    out = tmp_path_factory.mktemp("out")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Store, "get", get)
        patch.setattr(campaign, "images_per_piece", lambda *_: 10)
        found = compared(scene, out)
    return found, out, pieces


def test_every_figure_by_hand(scene, whole):
    classifier, dataset, split = scene
    found, _, pieces = whole
    assert len(found.rows) == 2 * len(DETECTORS) * len(ATTACKS)
    for spec in ("none", "jpeg:80"):
        reader = Reader(classifier, cushion=parse_cushion(spec))
        parts = {}
        for name in ("adv_train", "adv_test"):
            part = dataset.subset(getattr(split, name))
            chosen = draw(part.labels, 24, 0)
            rightly = reader.read(part.pixels(chosen)).predicted == part.labels[chosen]
            parts[name] = part.subset(chosen[rightly])

        def attacked(name, ids, spec=spec):
            mine = [
                piece
                for key, piece in pieces
                if key["cushion"]["spec"] == spec
                and "attack" in key
                and ("HierarchicalFeature" in key["attack"]) == (name == "hfc")
                and set(key["ids"]) <= set(ids.tolist())
            ]
            return torch.cat([piece["images"] for piece in mine]).float() / 255

        learn, test = parts["adv_train"], parts["adv_test"]
        clean, taught = reader.read(learn.pixels()), reader.read(attacked("bim", learn.ids))
        for name in DETECTORS:
            detector = find_detector(name).make().fit(clean, learn.labels, attacked=taught, seed=0)
            genuine = detector.score(reader.read(test.pixels())).numpy()
            for attack in ATTACKS:
                scores = detector.score(reader.read(attacked(attack, test.ids))).numpy()
                row = next(r for r in found.rows if (r.cushion, r.detector, r.attack) == (spec, name, attack))
                truth = [0] * len(genuine) + [1] * len(scores)
                assert row.auroc == pytest.approx(roc_auc_score(truth, np.r_[genuine, scores]), abs=1e-4)
                assert row.auroc_interval[0] - 1e-9 <= row.auroc <= row.auroc_interval[1] + 1e-9
                threshold = np.sort(genuine)[int(np.ceil(0.9 * len(genuine) - 1e-9)) - 1]
                assert row.tpr90 == pytest.approx((scores > threshold).mean(), abs=1.5 / len(scores))
                turned = scores[(reader.read(attacked(attack, test.ids)).predicted != test.labels).numpy()]
                assert row.fooling is not None
                assert row.fooling.n == len(turned)
                truth = [0] * len(genuine) + [1] * len(turned)
                assert row.fooling.auroc == pytest.approx(roc_auc_score(truth, np.r_[genuine, turned]), abs=1e-4)
                assert row.fooling.auroc_interval[0] - 1e-9 <= row.fooling.auroc <= row.fooling.auroc_interval[1] + 1e-9
        for attack in ATTACKS:
            told = next(a for a in found.attacks if (a.cushion, a.attack) == (spec, attack))
            fooled = reader.read(attacked(attack, test.ids)).predicted != test.labels
            assert told.success == pytest.approx(float(fooled.float().mean()))


def test_float_pixels_are_stored_judged_and_learned_from_as_they_are(scene, tmp_path, monkeypatch):
    classifier, dataset, split = scene
    pieces, ask = [], Store.get
    monkeypatch.setattr(Store, "get", lambda *given: pieces.append((given[1], ask(*given))) or pieces[-1][1])
    found = compared(scene, tmp_path, cushions=("float",), detectors=("svm",), attacks=("bim",), eps=1 / 256, limit=20)
    reader, clean, hostile = Reader(classifier, cushion=Unrounded()), {}, {}
    for name in ("adv_train", "adv_test"):
        part = dataset.subset(getattr(split, name))
        chosen = draw(part.labels, 20, 0)
        clean[name] = part.subset(chosen[reader.read(part.pixels(chosen)).predicted == part.labels[chosen]])
        ids = set(clean[name].ids.tolist())
        made = [piece["images"] for key, piece in pieces if "attack" in key and set(key["ids"]) <= ids]
        hostile[name] = torch.cat(made)
        assert (hostile[name] - clean[name].pixels()).abs().max() <= 1 / 256 + 1e-7
        assert ((hostile[name] * 255).round() - hostile[name] * 255).abs().max() > 0.1
    learn, test = clean["adv_train"], reader.read(clean["adv_test"].pixels())
    taught, seen = (reader.read(hostile[name]) for name in ("adv_train", "adv_test"))
    detector = find_detector("svm").make().fit(reader.read(learn.pixels()), learn.labels, attacked=taught, seed=0)
    scores = np.r_[detector.score(test).numpy(), detector.score(seen).numpy()]
    assert found.rows[0].auroc == pytest.approx(roc_auc_score([0] * len(seen) + [1] * len(seen), scores), abs=1e-4)


def test_the_record_and_its_tables(scene, whole):
    classifier, dataset, split = scene
    found, out, _ = whole
    assert Comparison.model_validate_json((out / "comparison.json").read_bytes()) == found
    text = (out / "comparison.md").read_text(encoding="utf-8")
    for row in found.rows:
        assert any(
            line.startswith(f"| {row.detector} |") and f"{row.auroc:.3f} (" in line for line in text.splitlines()
        )
    assert text.count("Cushion: ") == 2
    part = dataset.subset(split.adv_train)
    chosen = draw(part.labels, 24, 0)
    predicted = Reader(classifier, cushion=parse_cushion("jpeg:80")).read(part.pixels(chosen)).predicted
    rightly = int((predicted == part.labels[chosen]).sum())
    assert json.loads((out / "comparison.json").read_text())["learned"] == rightly < 24


def test_a_second_run_attacks_and_fits_nothing(scene, whole, monkeypatch):
    found, out, _ = whole
    monkeypatch.setattr(campaign, "images_per_piece", lambda *_: 10)
    monkeypatch.setattr(Attack, "run", lambda *_, **__: pytest.fail("attacked again"))
    monkeypatch.setattr(Detector, "fit", lambda *_, **__: pytest.fail("fitted again"))
    again = compared(scene, out)
    assert [row.auroc for row in again.rows] == [row.auroc for row in found.rows]


def test_what_detectors_learn_from_is_no_attack_on_the_test_images_unless_asked_for(scene, tmp_path, monkeypatch):
    _, dataset, split = scene
    attacked, attack = [], Campaign.attack

    def noted(self, planned, progress):
        attacked.append((planned.value.steps, set(self.sample.ids.tolist())))
        return attack(self, planned, progress)

    monkeypatch.setattr(Campaign, "attack", noted)
    told = []
    options = {"detectors": ("kd",), "attacks": ("fgsm",), "cushions": ("none",), "steps": 2}
    found = compared(scene, tmp_path, **options, progress=lambda *what: told.append(what))
    assert [steps for steps, _ in attacked] == [1, 2]
    assert attacked[0][1] <= set(dataset.ids[list(split.adv_test)].tolist())
    assert attacked[1][1] <= set(dataset.ids[list(split.adv_train)].tolist())
    assert [tried.attack for tried in found.attacks] == ["fgsm"]
    assert told[-1][0] == told[-1][1]


def test_shields_of_another_classifier_or_split_are_refused_before_any_work(scene, tmp_path, monkeypatch):
    classifier, dataset, split = scene
    split = dataclasses.replace(split, val=split.adv_test, adv_test=split.val)  # enough to set thresholds
    cushion = parse_cushion("none")
    guard = fit_guard(classifier, dataset, split, cushion=cushion, config=CONFIG, out_dir=tmp_path / "guard")
    options = {"detectors": ("shield",), "attacks": ("fgsm",), "learn_from": "fgsm", "cushions": ("none",)}
    found = compared((classifier, dataset, split), tmp_path / "a", **options, limit=None, guard=guard)
    assert [row.detector for row in found.rows] == ["shield"]
    other = copy.deepcopy(classifier)
    with torch.no_grad():
        next(other.network.parameters()).mul_(1.01)
    moved = dataclasses.replace(split, adv_train=split.adv_test, adv_test=split.adv_train)
    assert {*split.train, *split.adv_train} & {*moved.adv_test}, "the Shields learned from these test images"
    monkeypatch.setattr(Store, "get", lambda *_: pytest.fail("worked"))
    monkeypatch.setattr(Victim, "judge", lambda *_: pytest.fail("judged"))
    for scene_, error, told in (
        ((other, dataset, split), ConfigError, "features of another classifier"),
        ((classifier, dataset, moved), DataError, "another split of them, perhaps from those of the test"),
    ):
        with pytest.raises(error, match=told):
            compared(scene_, tmp_path / "b", **options, guard=guard)


def test_a_universal_perturbation_is_learned_once_for_all_chunks(scene, tmp_path, monkeypatch):
    learned_for, learn = [], Universal.learn

    def counted(self, *images, **options):
        learned_for.append(options["target"])
        return learn(self, *images, **options)

    monkeypatch.setattr(campaign, "images_per_piece", lambda *_: 10)
    monkeypatch.setattr(Universal, "learn", counted)
    options = {"detectors": ("kd",), "attacks": ("uap",), "cushions": ("none",), "steps": 2}
    found = compared(scene, tmp_path, **options)
    assert learned_for == [0, 1], "three chunks of images, one change for each class"
    assert found.attacks[0].success > 0
    assert compared(scene, tmp_path, **options).rows[0].auroc == found.rows[0].auroc
    assert learned_for == [0, 1]


def test_what_does_not_fit_is_refused_before_any_work(scene, tmp_path, monkeypatch):
    monkeypatch.setattr(Store, "get", lambda *_: pytest.fail("worked"))
    for options, told in (
        ({"detectors": ("kd", "dk")}, "not in the table"),
        ({"detectors": ("shield",)}, "--guard"),
        ({"detectors": ()}, "none, or one twice"),
        ({"attacks": ("bim", "bim")}, "none, or one twice"),
        ({"attacks": ("wb",)}, "aims at a Shield"),
        ({"learn_from": "wb"}, "aims at a Shield"),
        ({"attacks": ("mib",)}, "catalogue"),
        ({"cushions": ("jpeg:8000",)}, "jpeg"),
        ({"taps": ("nowhere",)}, "no tap"),
        ({"eps": 0.0035, "eps_text": "0.0035"}, "less than a grey level"),
    ):
        with pytest.raises(ConfigError, match=told):
            compared(scene, tmp_path, **options)


def test_a_detector_that_needs_more_images_is_named_before_any_attack(scene, tmp_path, monkeypatch):
    """LID compares with 20 neighbours among half of what it is given."""
    monkeypatch.setattr(Campaign, "attack", lambda *_, **__: pytest.fail("attacked"))
    with pytest.raises(DataError, match=r"detector 'lid': \d+ images of adv_train .* it needs 40"):
        compared(scene, tmp_path / "few", detectors=("kd", "lid"), limit=30)


def test_any_wrong_diagnosis_is_turned(tmp_path):
    """Of four classes each image is driven to one, and another wrong one is no right diagnosis."""
    classifier = toy_classifier(4)
    images = (toy_images(60, classifier) * 255).round() / 255
    labels = classifier(images).argmax(1)
    pushed = toy_campaign(Victim(classifier), images, tmp_path)
    piece = pushed.attack(Planned("pgd", EPS, "eps", steps=3), silent)
    predicted = classifier(piece["images"].float() / 255).argmax(1)
    assert torch.equal(piece["fooled"], predicted != labels)
    assert ((predicted != labels) & (predicted != pushed.sample.targets)).any()


def test_the_record_names_the_code_that_ran(scene, tmp_path, monkeypatch):
    """Not what was committed while it did."""
    commit, ask, about = ["a" * 40], Store.get, archive.environment()

    def get(self, key, compute):
        commit[0] = "b" * 40
        return ask(self, key, compute)

    monkeypatch.setattr(archive, "environment", lambda: {**about, "commit": commit[0]})
    monkeypatch.setattr(Store, "get", get)
    found = compared(scene, tmp_path, detectors=("kd",), attacks=("bim",), cushions=("none",), limit=16)
    assert commit[0] == "b" * 40
    assert found.commit == "a" * 40
