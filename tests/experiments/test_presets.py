"""The presets run, at the scale of seconds, and their tables hold our figures beside the paper's."""

import csv
import json
import re
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sklearn.metrics import f1_score, jaccard_score, roc_auc_score
from tests.experiments.small import planned_of

from medaegis.artefact import write_folder
from medaegis.bench.campaign import Effort
from medaegis.bench.sample import draw
from medaegis.errors import ArtefactError
from medaegis.experiments.cells import cells_of
from medaegis.experiments.paper import paper_of, presets
from medaegis.experiments.run import run_plan
from medaegis.experiments.schema import read_experiment
from medaegis.experiments.site.site import write_site
from medaegis.experiments.store import ExperimentStore
from medaegis.experiments.tables import current, entries, page_of, records
from medaegis.experiments.tiny import network, segmenter
from medaegis.models.store import load_classifier, read_training

pytestmark = pytest.mark.usefixtures("cache")
# Every cell of a few tables, and of the others two: enough to see that each kind of cell can be measured.
WHOLE = ("ma-table2", "hfc-table1", "hfc-figure2")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """One for all: what tables have in common is done once."""
    return tmp_path_factory.mktemp("presets")


def measured_cells(name, store, *attacks):
    """Some cells of a preset, run where they are not yet, and what was found; of these attacks on the last set."""
    experiment = read_experiment(presets()[name], "smoke")
    planned = planned_of(experiment)
    chosen = planned if name in WHOLE else [planned[0], planned[-1]]
    if attacks:
        last = planned[-1].place
        chosen = [
            cell
            for cell in planned
            if cell.place["attack"] in attacks
            and all(cell.place[axis] in ("", last[axis]) for axis in last if axis != "attack")
        ]
    with ExperimentStore(store, write=True) as kept:
        assert run_plan(name, "smoke", chosen, kept, command="medaegis bench run").tasks_left == 0
        return chosen, kept.cells(name, "smoke")


def judged(cell, store, images):
    """Logits of the cell's classifier, with nothing before it."""
    classifier = load_classifier(store / "pieces" / cell.task.needs["classifier"].key, network)
    with torch.no_grad():
        return classifier, classifier(images)


def test_figures_of_classification_by_hand(store):
    chosen, found = measured_cells("ma-table2", store)
    assert len(chosen) == 10
    for cell in chosen:
        told = {figure.metric: figure for figure in found[cell.name].figures}
        test = cell.task.source.dataset.subset(cell.task.source.split.adv_test)
        images = test.pixels()
        if cell.place["attack"] != "none":
            attacked = load_file(store / "pieces" / cell.task.needs["attacked"].key / "piece.safetensors")["images"]
            assert (attacked - images).abs().max() <= 1 / 255 + 1e-6
            levels = attacked * 255
            assert (cell.place["attack"] == "FGSM") == bool((levels.round() - levels).abs().max() < 0.1)  # float pixels
            images = attacked
        _, logits = judged(cell, store, images)
        assert told["accuracy"].value == pytest.approx(float((logits.argmax(1) == test.labels).float().mean()))
        assert told["auc"].value == pytest.approx(roc_auc_score(test.labels, logits[:, 1] - logits[:, 0]), abs=1e-4)
        assert told["accuracy"].n == told["auc"].n == len(test)


@torch.no_grad()
def mean_of(classifier, layer, images):
    seen = []
    hook = classifier.network.get_submodule(layer).register_forward_hook(lambda *given: seen.append(given[2]))
    classifier(images)
    hook.remove()
    return float(seen[0].double().mean())


def test_figures_of_features_by_hand(store):
    chosen, found = measured_cells("hfc-table1", store)
    assert len(chosen) == 9
    for cell in chosen:
        told = {figure.metric: figure.value for figure in found[cell.name].figures}
        test = cell.task.source.dataset.subset(cell.task.source.split.adv_test)
        classifier, logits = judged(cell, store, test.pixels())
        layer = {"36": "layer2", "45": "layer3", "48": "layer4"}[cell.place["layer"]]
        clean = mean_of(classifier, layer, test.pixels()[logits.argmax(1) == test.labels])
        assert told["difference"] == pytest.approx(abs(told["mean"] - clean), rel=1e-4, abs=1e-6)
        assert told["change_pct"] == pytest.approx(100 * (told["mean"] - clean) / clean, rel=1e-3, abs=1e-3)
        if cell.place["direction"] == "clean":
            assert told["mean"] == pytest.approx(clean, rel=1e-5)
        else:
            assert (told["mean"] > clean) == (cell.place["direction"] == "up")


def test_figures_of_shifts_by_hand(store):
    """A shift from one forward pass each, weights from the file; by the theorem shifts go along the weights."""
    chosen, found = measured_cells("hfc-figure2", store)
    assert {cell.place["attack"] for cell in chosen} == {"FGSM", "BIM 1", "BIM", "CW"}
    for cell in chosen:
        told = {figure.metric: figure for figure in found[cell.name].figures}
        test, needs = cell.task.source.dataset.subset(cell.task.source.split.adv_test), cell.task.needs
        classifier, logits = judged(cell, store, test.pixels())
        clean = test.subset((logits.argmax(1) == test.labels).nonzero().flatten().tolist())
        attacked, reference = (
            load_file(store / "pieces" / needs[role].needs["attacked"].key / "piece.safetensors")["images"].float()
            for role in ("hostile", "reference")
        )
        attacked, reference = (x / 255 if x.max() > 1 else x for x in (attacked, reference))
        seen = []
        hook = classifier.network.fc.register_forward_pre_hook(
            lambda module, given, seen=seen: seen.append(given[0].detach())
        )
        for images in (clean.pixels(), attacked, reference):
            classifier(images)
        hook.remove()
        shift, other = seen[1] - seen[0], seen[2] - seen[0]
        weight = classifier.network.fc.weight.detach()
        along = weight[1 - clean.labels] - weight[clean.labels]

        def mean(a, b):
            return float(((a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1)).clamp_min(1e-8)).mean())

        assert told["cosine_weights"].value == pytest.approx(mean(shift, along), abs=1e-3)
        assert told["cosine_reference"].value == pytest.approx(mean(shift, other), abs=1e-3)
        for figure in told.values():
            assert figure.n == len(clean)
            assert figure.low - 1e-9 <= figure.value <= figure.high + 1e-9
        if cell.place["attack"] == "BIM":
            assert told["cosine_reference"].value == pytest.approx(1)
    weights = [next(f.value for f in found[cell.name].figures if f.metric == "cosine_weights") for cell in chosen]
    assert min(weights) > 0


def judged_images(cell):
    """The test images that a cell is about."""
    test = cell.task.source.dataset.subset(cell.task.source.split.adv_test)
    return test.subset(draw(test.strata[0], cell.task.told["limit"], 0))


def attacked_images(task, store):
    return load_file(store / "pieces" / task.key / "piece.safetensors")["images"].float() / 255


@torch.no_grad()
def test_figures_of_masks_by_hand(store):
    chosen, found = measured_cells("survey-table10", store, "none", "Dice")
    assert [cell.place["attack"] for cell in chosen] == ["none", "Dice"]
    for cell in chosen:
        test, needs = judged_images(cell), cell.task.needs
        images = attacked_images(needs["attacked"], store) if "attacked" in needs else test.pixels()
        assert (images - test.pixels()).abs().max() <= 8.01 / 255
        classifier = load_classifier(store / "pieces" / needs["classifier"].key, segmenter)
        pairs = [(t.flatten(), p.flatten()) for t, p in zip(test.labels, classifier(images).argmax(1), strict=True)]
        told = {figure.metric: figure for figure in found[cell.name].figures}
        assert told["dice"].value == pytest.approx(np.mean([f1_score(*pair) for pair in pairs]), abs=1e-6)
        overlap = np.mean([jaccard_score(*pair, average="macro") for pair in pairs])
        assert told["miou"].value == pytest.approx(overlap, abs=1e-6)
        assert told["dice"].n == 12
        assert told["hd95"].value > 0


@torch.no_grad()
def test_figures_of_findings_by_hand(store):
    """Of one attack on all findings; and of one on each, whose images decide on that finding alone."""
    for name, build in (("survey-table11", network), ("survey-table12", None)):
        chosen, found = measured_cells(name, store)
        for cell in chosen:
            test, needs = judged_images(cell), cell.task.needs
            classifier = load_classifier(store / "pieces" / needs["classifier"].key, build)
            apart = [attacked_images(needs[role], store) for role in needs if role.startswith("attacked ")]
            if apart:
                assert len(apart) == 4
                logits = torch.stack([classifier(images)[:, k] for k, images in enumerate(apart)], 1)
            else:
                images = attacked_images(needs["attacked"], store) if "attacked" in needs else test.pixels()
                logits = classifier(images)
            told = {figure.metric: figure.value for figure in found[cell.name].figures}
            areas = [
                roc_auc_score(test.labels[:, k], logits[:, k])
                for k in range(4)
                if 0 < test.labels[:, k].sum() < len(test)
            ]
            assert told["auc"] == pytest.approx(np.mean(areas), abs=0.01)  # batches round otherwise
            if not apart:
                right = ((logits > 0) == (test.labels == 1)).float().mean()
                assert told["right"] == pytest.approx(float(right), abs=0.02)


@torch.no_grad()
def test_the_worst_case_of_answers_by_hand(store):
    """Right is what no attack turns, and what is right when clean; the AUROC takes the margin that is left."""
    (cell,), found = measured_cells("survey-table3", store, "worst case")
    test, needs = judged_images(cell), cell.task.needs
    tried = [needs[role] for role in needs if role.startswith("attacked ")]
    assert [task.told["attack"] for task in tried] == ["fgsm", "pgd", "cw-linf", "sma", "auto"]
    classifier = load_classifier(store / "pieces" / needs["classifier"].key, network)
    further = load_file(store / "pieces" / needs["checks"].key / "piece.safetensors")
    assert {name.rstrip("01") for name in further} == {"images of a check "}
    for images in further.values():
        moved = (images - test.pixels()).abs().amax((1, 2, 3)) > 0
        assert 1 <= moved.sum() <= 8, "of as many images as were asked for"
        assert (classifier(test.pixels()).argmax(1) == test.labels)[moved].all()
    inside = [
        x for x in further.values() if (x - test.pixels()).abs().max() <= (float(cell.place["eps"][0]) + 0.01) / 255
    ]
    seen = (test.pixels(), *(attacked_images(task, store) for task in tried), *inside)
    logits = torch.stack([classifier(x) for x in seen])
    told = {figure.metric: figure.value for figure in found[cell.name].figures}
    assert told["accuracy"] == pytest.approx(float((logits.argmax(2) == test.labels).all(0).float().mean()))
    if len(test.classes) == 2:
        lead = logits[..., 1] - logits[..., 0]
        least = torch.where(test.labels == 1, lead.amin(0), lead.amax(0))
        assert told["auc"] == pytest.approx(roc_auc_score(test.labels, least), abs=1e-3)


@torch.no_grad()
def test_the_worst_case_of_masks_is_no_better_than_any_attack(store):
    chosen, found = measured_cells("survey-table10", store, "none", "BCE", "IOU", "Dice", "worst case")
    dice = {
        cell.place["attack"]: next(f.value for f in found[cell.name].figures if f.metric == "dice") for cell in chosen
    }
    assert len(dice) == 5
    assert dice["worst case"] == min(dice.values())
    with ExperimentStore(store) as kept:
        ((_, checks),) = kept.checks("survey-table10", "smoke", {cell.name: found[cell.name] for cell in chosen})
    assert "Full success far out, 64/256" in {one.name for one in checks}
    assert "In checks success on an image is 1 - Dice" in checks[0].detail


def test_the_worst_case_of_a_guard_by_hand(store):
    (cell,), found = measured_cells("aegis-table4", store, "worst case")
    needs = cell.task.needs
    attacked = [needs[role] for role in needs if role.startswith("attacked ")]
    assert [task.told["attack"] for task in attacked] == ["feature-match", "pgd+hfc", "wb", "wb-decay"]

    def kept(task):
        return load_file(store / "pieces" / task.key / "piece.safetensors")

    fooled = torch.stack([kept(task)["fooled"].bool() for task in attacked])
    scores = torch.stack([kept(needs[role])["scores"] for role in needs if role.startswith("scores ")])
    clean = kept(needs["clean"])["scores"]
    hostile = [
        float(min(column[hits]) if hits.any() else min(column)) for column, hits in zip(scores.T, fooled.T, strict=True)
    ]
    told = {figure.metric: figure.value for figure in found[cell.name].figures}
    assert told["adv_acc"] == pytest.approx(float(fooled.any(0).float().mean()))
    truth = [0] * len(clean) + [1] * len(hostile)
    assert told["auc"] == pytest.approx(roc_auc_score(truth, [*clean.tolist(), *hostile]), abs=1e-6)


def test_what_training_and_attacks_took(store):
    """Seconds an epoch and passes an image, of the folder's own record; seconds of an attack, of its store."""
    chosen, found = measured_cells("survey-table15", store)
    assert [cell.place["method"] for cell in chosen] == ["NAT", "PGD-AT, growing"]
    for cell in chosen:
        told = {figure.metric: figure.value for figure in found[cell.name].figures}
        record = read_training(store / "pieces" / cell.task.needs["classifier"].key)
        assert told["seconds_per_epoch"] == pytest.approx(record["seconds"] / 4)
        assert (told["passes"] == 2) == (cell.place["method"] == "NAT")
    chosen, found = measured_cells("survey-table7", store)
    for cell in chosen:
        told = {figure.metric: figure for figure in found[cell.name].figures}
        piece = load_file(store / "pieces" / cell.task.needs["attacked"].key / "piece.safetensors")
        assert told["seconds"].value == pytest.approx(float(piece["cost"][:, 0].sum()))
        assert told["seconds"].n == len(piece["fooled"])
    assert {figure.metric: figure.value for figure in found[chosen[0].name].figures}["passes"] == 2  # FGSM


@pytest.mark.parametrize("name", presets())
def test_a_preset_runs_at_scale_smoke(name, store):
    file = presets()[name]
    experiment = read_experiment(file, "smoke")
    chosen, found = measured_cells(name, store)
    made = entries(experiment, paper_of(file, experiment), found)
    measured = [entry for entry in made if entry.value is not None]
    places = {tuple(entry.place.items()) for entry in measured}  # the store holds what other tests measured too
    assert places >= {tuple((axis, value) for axis, value in cell.place.items() if axis != "seed") for cell in chosen}
    beside = [entry for entry in measured if entry.printed is not None]
    assert beside or experiment.figures is None
    for entry in beside:
        assert entry.difference == pytest.approx(entry.value - entry.printed.value)
    page = page_of(experiment, name, "smoke", made, [there.about for there in found.values()])
    for text in (page.markdown(), page.html()):
        assert "split by patient" in text
        assert "medaegis bench run" in text
        for entry in beside:
            assert f"paper {entry.printed.value:g}".replace("-", "−") in text
    if experiment.figures is not None:
        _holds_every_figure_of_the_paper(made, file)
    assert len(records(made)) == len(made)


def test_a_site_shows_whatever_is_measured(store, tmp_path):
    """One preset of each kind; each page of a chapter names its own figures."""
    kinds = {}
    for name in presets():
        kinds.setdefault(read_experiment(presets()[name], "smoke").measures, name)
    for name in kinds.values():
        measured_cells(name, store)
    with ExperimentStore(store) as kept:
        written = write_site(kept, tmp_path / "site", files=[(name, presets()[name]) for name in kinds.values()])
    assert written.cells >= 2 * len(kinds) == 16
    for name in kinds.values():
        assert "medaegis bench run" in (tmp_path / "site" / f"{name}-smoke" / "index.html").read_text(encoding="utf-8")
    drawn = {name for name in kinds if list((tmp_path / "site" / f"{kinds[name]}-smoke").glob("curves-*.svg"))}
    assert drawn >= {"findings", "segmentation"}
    assert not {"attack time", "training time"} & drawn


def _holds_every_figure_of_the_paper(made, file):
    """Of those at the places of this scale, by their own reader."""
    shown = {}
    for entry in made:
        if entry.printed is not None:
            shown.setdefault(entry.metric, set()).add((entry.printed.value, entry.printed.note))
    rows = list(csv.DictReader(file.with_suffix(".csv").open(encoding="utf-8")))
    printed = {(row["metric"], float(row["value"]), row["note"]) for row in rows}
    assert {(metric, *pair) for metric, pairs in shown.items() for pair in pairs} <= printed


def test_a_doubtful_figure_is_marked_and_its_note_told():
    file = presets()["hfc-table3"]
    experiment = read_experiment(file, "cpu")
    page = page_of(experiment, "hfc-table3", "cpu", entries(experiment, paper_of(file, experiment), {}), [])
    (note,) = (note for note in page.notes if note.startswith("doubtful"))
    place = page.notes.index(note) + 1
    assert "are measured" in page.about[1]
    assert "0 of 50" in page.about[1]
    text = page.markdown()
    assert re.search(rf"paper 77 \[{place}\]", text)
    assert f"- [{place}] {note}" in text
    assert note.replace("'", "&#x27;") in page.html()


def test_controls_and_alarms_stand_below_the_table(store):
    """Of all attacks on a classifier once, whatever cells they stand beside; named where one did not pass."""
    chosen, _ = measured_cells("survey-table3", store, "none", "FGSM", "worst case")
    experiment = read_experiment(presets()["survey-table3"], "smoke")
    with ExperimentStore(store) as kept:
        found = current(experiment, kept.cells("survey-table3", "smoke"))
        ((places, checks),) = [
            (some, told)
            for some, told in kept.checks("survey-table3", "smoke", found)
            if any(cell.name in some for cell in chosen)
        ]
    assert {json.loads(place)["attack"] for place in places} == {"worst case"}
    assert "Full success far out, 64/256" in {one.name for one in checks}
    kinds = {"passed": True, "failed": False, "open": None}
    made = [checks[0].model_copy(update={"name": name, "passed": passed}) for name, passed in kinds.items()]
    page = page_of(experiment, "survey-table3", "smoke", [], [], [(places, made)])
    (line,) = page.checks
    assert line.startswith("ISIC, 3 classes: 1 of 3 pass; failed does not: ")
    assert line.endswith("; not judged: open")
    assert f"- {line}\n" in page.markdown()
    assert "<li>ISIC, 3 classes: 1 of 3 pass" in page.html()


def test_a_damaged_record_of_checks_is_told(store, tmp_path):
    (cell,), _ = measured_cells("survey-table3", store, "worst case")
    checks = cell.task.needs["checks"]
    copy = tmp_path / "store"
    shutil.copytree(store, copy)
    shutil.rmtree(copy / "pieces" / checks.key)
    told = {"task": {"kind": "checks", "told": {}}, "checks": [{"name": "Noise"}]}
    write_folder(copy / "pieces" / checks.key, kind="piece", manifest=told, tensors={"piece": {}})
    with ExperimentStore(copy) as kept, pytest.raises(ArtefactError, match="its record of checks is none"):
        kept.checks("survey-table3", "smoke", kept.cells("survey-table3", "smoke"))


def test_the_effort_of_checks_is_a_setting_of_worst_cases_alone():
    experiment = read_experiment(presets()["survey-table3"], "smoke")
    more = experiment.model_copy(update={"checks": Effort(far=9)})
    same = {
        cell.place["attack"]: cell.settings == other.settings
        for cell, other in zip(cells_of(experiment), cells_of(more), strict=True)
    }
    assert [attack for attack, unchanged in same.items() if not unchanged] == ["worst case"]
