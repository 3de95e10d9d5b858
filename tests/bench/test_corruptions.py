"""Figures of harmless changes, counted again by hand, kept, read back and shown."""

import json
from itertools import groupby

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from sklearn.metrics import roc_auc_score
from tests.bench.small import fitted
from tests.bench.test_markdown import rows as table_rows
from tests.bench.test_report import Page
from tests.cli.shop import call

import medaegis as ma
from medaegis.bench import corruptions
from medaegis.bench.corruptions import diagnosis_area, kind_of, run_corruptions
from medaegis.bench.metrics import share_interval
from medaegis.bench.records.archive import read_evaluation
from medaegis.bench.report.markdown import markdown
from medaegis.bench.report.report import write_report
from medaegis.bench.report.summary import summarise
from medaegis.bench.store import Store
from medaegis.cli.evaluate import corruptions_table
from medaegis.corruptions import SEVERITIES, corruptions_for, find_corruption
from medaegis.errors import DataError
from medaegis.guard.purpose import Purpose
from medaegis.progress import silent

CHANGES = ("gaussian-noise", "brightness-down", "brightness-up", "jpeg", "marker")  # of those for X-rays
EXPECTED = [("clean", 0), *((name, severity) for name in CHANGES for severity in SEVERITIES)]


def some(kind):
    """A few corruptions, as all would take a minute."""
    assert kind == "x-ray"
    return [one for one in corruptions_for(kind) if one.name in CHANGES]


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    return tmp_path_factory.mktemp("corrupted")


@pytest.fixture(scope="module")
def whole(work):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(corruptions, "IMAGES", 36)
        patch.setattr(corruptions, "corruptions_for", some)
        guard, dataset, _ = fitted(work)
        plan = {"attacks": ["fgsm"], "eps": ["8/256"], "limit": 8, "planted": False}
        return ma.evaluate(guard, dataset, out=work / "out", corruptions=True, **plan)


def test_the_command_does_the_same(work, whole, monkeypatch):
    monkeypatch.setattr(corruptions, "IMAGES", 36)
    monkeypatch.setattr(corruptions, "corruptions_for", some)
    monkeypatch.setenv("MEDAEGIS_CACHE", str(work))
    plan = "--attacks fgsm --eps 8/256 --limit 8 --no-planted --corruptions --device cpu --json"
    where = ("--factory", "tests.models.tiny_networks:tiny", "--out", work / "out")
    told = json.loads(call("evaluate", work / "guard", "phantom-xray?n=240", *where, *plan.split()).stdout)
    assert told["corruptions"] == [row.model_dump(mode="json") for row in whole.corruptions]


def test_a_row_for_every_change_at_every_severity(whole):
    assert [(row.name, row.severity) for row in whole.corruptions] == EXPECTED
    assert {row.n for row in whole.corruptions} == {36}
    assert whole.corruptions[0].amount is None
    assert all(row.amount == find_corruption(row.name).amounts[row.severity - 1] for row in whole.corruptions[1:])


def test_figures_by_hand(work, whole):
    guard, dataset, split = fitted(work)
    test = dataset.subset(split.adv_test)
    test = test.subset(corruptions.draw(test.labels, 36, 0))
    labels = test.labels.numpy()
    assert np.bincount(labels).tolist() == [18, 18]
    told = {(row.name, row.severity): row for row in whole.corruptions}
    for name, severity in (("clean", 0), ("gaussian-noise", 4), ("brightness-up", 3), ("marker", 5), ("jpeg", 5)):
        row, pixels = told[name, severity], test.pixels()
        if severity:
            pixels = find_corruption(name)(pixels, severity, ids=test.ids)
        verdict = guard.judge(pixels, ids=test.ids)
        accepted, right = verdict.accepted.numpy(), verdict.predicted.numpy() == labels
        assert (row.accepted, row.accuracy) == pytest.approx((accepted.mean(), right.mean()))
        for hits, interval in ((accepted, row.accepted_interval), (right, row.accuracy_interval)):
            by_patient = share_interval(hits, test.patients)
            assert interval == (by_patient.low, by_patient.high)
        assert row.n_accepted == accepted.sum()
        odds = (verdict.logits[:, 1] - verdict.logits[:, 0]).numpy()[accepted]
        assert row.auroc == pytest.approx(roc_auc_score(labels[accepted], odds), abs=1e-4)
        assert row.auroc_interval[0] <= row.auroc <= row.auroc_interval[1]


def test_a_second_run_finds_all_and_another_seed_nothing(work, whole, monkeypatch):
    monkeypatch.setattr(corruptions, "corruptions_for", some)
    guard, dataset, split = fitted(work)
    test, begun = dataset.subset(split.adv_test[:20]), []
    store = Store(work / "pieces", lambda: begun.append(1))
    rows, pictures = run_corruptions(guard, test, store, seed=0, progress=silent)
    assert len(begun) == len(EXPECTED)
    again, shown = run_corruptions(guard, test, store, seed=0, progress=silent)
    assert (len(begun), again) == (len(EXPECTED), rows)
    assert all(np.array_equal(pictures[name], shown[name]) for name in pictures)
    run_corruptions(guard, test.subset(range(2)), store, seed=1, progress=silent)
    assert len(begun) == 2 * len(EXPECTED)


def test_the_area_is_scikit_learns_for_any_number_of_classes():
    logits = torch.randn(90, 4, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(90) % 4
    patients = [f"p{i // 2}" for i in range(90)]
    found = diagnosis_area(logits, labels, patients)
    odds = torch.stack([logits[:, k] - logits[:, [j for j in range(4) if j != k]].logsumexp(1) for k in range(4)], 1)
    expected = np.mean([roc_auc_score(labels.numpy() == k, odds[:, k].numpy()) for k in range(4)])
    assert found.value == pytest.approx(expected)
    assert found.low < found.value < found.high
    two = diagnosis_area(logits[:, :2], labels % 2, patients)
    assert two.value == pytest.approx(roc_auc_score(labels.numpy() % 2, (logits[:, 1] - logits[:, 0]).numpy()))
    assert diagnosis_area(logits, labels.clamp(max=2), patients) is None
    assert diagnosis_area(logits[:0], labels[:0], []) is None


@pytest.mark.parametrize(
    ("modalities", "kind"),
    [
        (("CR", "DX"), "x-ray"),
        (("OP",), "fundus"),
        (("XC", "DMS"), "skin"),
        (("CR", "OP"), "any"),
        (("MR",), "any"),
        ((), "any"),
    ],
)
def test_artefacts_are_those_of_what_the_guard_is_for(modalities, kind):
    assert kind_of(Purpose(modalities=modalities)) == kind
    assert kind_of(None) == "any"


def test_the_record_is_kept_and_checked(work, whole, tmp_path):
    found = read_evaluation(work / "out")
    assert found.evaluation.corruptions == whole.corruptions
    assert found.examples["corruptions/clean"].shape == (1, 1, 32, 32)
    clean = torch.from_numpy(found.examples["corruptions/clean"]).float() / 255
    darker = find_corruption("brightness-down")(clean, 2) * 255  # draws nothing
    assert np.array_equal(found.examples["corruptions/brightness-down"][1], darker[0].numpy())
    examples = load_file(work / "out" / "examples.safetensors")
    for file in ("evaluation.json", "scores.safetensors"):
        (tmp_path / file).write_bytes((work / "out" / file).read_bytes())
    del examples["corruptions/jpeg"]
    save_file(examples, tmp_path / "examples.safetensors")
    with pytest.raises(DataError, match="corruptions/jpeg"):
        read_evaluation(tmp_path)
    record = json.loads((tmp_path / "evaluation.json").read_text())
    del record["corruptions"]  # as an earlier version wrote it
    (tmp_path / "evaluation.json").write_text(json.dumps(record))
    assert read_evaluation(tmp_path).evaluation.corruptions == []
    assert 'id="harmless"' not in write_report(tmp_path).read_text()


def test_page_and_tables_show_every_figure(work, whole):
    page = Page(write_report(work / "out").read_text())
    assert page.open == []
    pictures = [attrs["alt"] for tag, attrs in page.tags if tag == "img"]
    by_title = [list(rows) for _, rows in groupby(whole.corruptions, key=lambda row: row.title)]
    for rows in by_title:
        (line,) = [cells for cells in page.rows if cells and cells[0].startswith(rows[0].title + rows[0].parameter)]
        assert len(line) == 1 + len(rows)
        for row, cell in zip(rows, line[1:], strict=True):
            assert f"{100 * row.accepted:.1f} %" in cell
            assert f"right {100 * row.accuracy:.1f} %" in cell
            assert (f"{row.title}, severity {row.severity}" if row.severity else row.title) in pictures
    told = [cells for cells in table_rows(markdown(work / "out")) if len(cells) == 11]
    assert [(cells[0], cells[1], cells[4]) for cells in told[1:] if cells[0] != "---"] == [
        (row.name, str(row.severity), f"{100 * row.accepted:.1f} %") for row in whole.corruptions
    ]
    assert len(corruptions_table(whole.corruptions).renderables[1].columns[0]._cells) == len(by_title)
    least = min(row.accepted for row in whole.corruptions if row.severity == 1)
    assert any(f"at least {100 * least:.1f} % of 36 images" in point for point in summarise(whole).points)
