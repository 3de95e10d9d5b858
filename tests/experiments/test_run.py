"""Runs: figures by hand from what is stored, kills at any moment, limits, and nothing done twice."""

import json
import multiprocessing
import os
import random
import shutil
import signal

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sklearn.metrics import roc_auc_score
from tests.cli.shop import call
from tests.experiments.small import cells, figures, run, written

from medaegis.cushions import parse_cushion
from medaegis.detectors.reader import Reader
from medaegis.detectors.registry import load_detector
from medaegis.experiments.paper import PaperTable
from medaegis.experiments.run import in_this_process
from medaegis.experiments.schema import read_experiment
from medaegis.experiments.store import ExperimentStore
from medaegis.experiments.tables import differences, entries, page_of
from medaegis.experiments.tasks import everything
from medaegis.experiments.tiny import network
from medaegis.guard.guard import Guard
from medaegis.models.store import load_classifier


def piece(store, task):
    return load_file(store / "pieces" / task.key / "piece.safetensors")


def test_every_figure_by_hand(whole):
    """Detectors and guards are read from the store, and judge the stored images anew; ranks are scikit-learn's."""
    planned, store = whole
    found = figures(store)
    assert len(found) == len(planned) == 6
    for cell in planned:
        told = {figure.metric: figure for figure in found[cell.name].figures}
        task, source = cell.task, cell.task.source
        cushion = parse_cushion("none" if cell.place["cushion"] == "none" else "jpeg:80")
        classifier = load_classifier(store / "pieces" / task.needs["classifier"].key, network)
        test = source.dataset.subset(source.split.adv_test)
        logits = _logits(classifier, cushion(test.pixels()))
        right = logits.argmax(1) == test.labels
        attacked = piece(store, task.needs["attacked"])
        images = attacked["images"].float() / 255
        if cell.place["defence"] == "Medical Aegis":
            guard = Guard.load(store / "pieces" / task.needs["hostile"].needs["guard"].key, factory=network)
            clean, hostile = (guard.judge(x).score for x in (test.pixels()[right], images))
        else:
            detector = load_detector(store / "pieces" / task.needs["hostile"].needs["detector"].key)
            reader = Reader(classifier.around(classifier.network, taps=("layer1", "layer4")), cushion=cushion)
            clean, hostile = (detector.score(reader.read(x)) for x in (test.pixels()[right], images))
        fooled = _logits(classifier, cushion(images)).argmax(1) != test.labels[right]
        truth = [0] * len(clean) + [1] * len(hostile)
        assert told["auc"].value == pytest.approx(roc_auc_score(truth, np.r_[clean, hostile]), abs=1e-6)
        threshold = np.sort(clean.numpy())[int(np.ceil(0.9 * len(clean) - 1e-9)) - 1]
        assert told["tpr90"].value == pytest.approx(float((hostile.numpy() > threshold).mean()))
        assert told["adv_acc"].value == pytest.approx(float(fooled.float().mean()))
        assert told["auc"].n == told["adv_acc"].n == int(right.sum())
        assert (told["auc_fooling"].n if "auc_fooling" in told else 0) == int(fooled.sum())
        odds = logits[:, 1] - logits[:, 0]
        assert told["model_auc"].value == pytest.approx(roc_auc_score(test.labels, odds))
        for figure in told.values():
            assert figure.low - 1e-9 <= figure.value <= figure.high + 1e-9


@torch.no_grad()
def _logits(classifier, images):
    return classifier(images)


def test_a_second_run_does_nothing(whole, tmp_path):
    planned, store = whole

    def none(tasks, workshop, told):
        assert list(tasks) == []
        yield from ()

    assert run(planned, store, executor=none).done == 0


def test_a_limit_stops_between_tasks_and_the_next_call_goes_on(whole, tmp_path):
    planned, store = whole
    counted, now = len(list(everything(planned))), iter(range(10**6))
    first = run(planned, tmp_path / "store", tmp_path / "log", minutes=0.05, clock=lambda: next(now))  # 1 s a task
    assert (first.done, first.tasks_left) == (3, counted - 3)
    assert first.cells_left == 6
    last = run(planned, tmp_path / "store", tmp_path / "log")
    assert (last.done, last.tasks_left, last.cells_left) == (counted - 3, 0, 0)
    assert differences(figures(tmp_path / "store"), figures(store)) == []


def test_the_order_of_tasks_and_who_does_them_changes_no_bit(whole, tmp_path):
    planned, store = whole

    def other(tasks, workshop, told):
        """Any order that needs allow: here always the last task that is ready, from a list that is shuffled."""
        waiting, over = list(tasks), set()
        random.Random(3).shuffle(waiting)
        left = {task.key for task in waiting}
        while waiting:
            ready = [t for t in waiting if all(n.key in over or n.key not in left for n in t.needs.values())]
            task = ready[-1]
            waiting.remove(task)
            yield from in_this_process([task], workshop, told)
            over.add(task.key)

    assert run(planned, tmp_path / "store", executor=other).tasks_left == 0
    assert differences(figures(tmp_path / "store"), figures(store)) == []


def _child(planned, folder, log):
    os.setsid()
    run(planned, folder, log)


def test_killed_at_random_moments_it_goes_on_to_the_same_table_and_does_nothing_twice(whole, tmp_path):
    planned, store = whole
    folder, log, kills = tmp_path / "store", tmp_path / "log", 0
    moments, fork = random.Random(11), multiprocessing.get_context("fork")
    while True:
        child = fork.Process(target=_child, args=(planned, folder, log))
        child.start()
        child.join(moments.uniform(0.05, 0.8) if kills < 12 else 300)
        if child.exitcode is not None:
            break
        os.kill(child.pid, signal.SIGKILL)
        child.join()
        kills += 1
    assert child.exitcode == 0
    assert kills >= 2
    done = log.read_text(encoding="utf-8").split()
    assert len(done) == len(set(done))
    # Between keeping a task and noting it in this log a kill may fall; what is noted is never done again.
    assert len(done) >= len(list(everything(planned))) - kills
    assert differences(figures(folder), figures(store)) == []
    assert _page(folder) == _page(store)
    assert [p.name for p in (folder / "pieces").glob("*.chunks")] == []
    assert {place.name for place in (folder / "pieces").iterdir()} <= {task.key for task in everything(planned)}


def test_work_folders_of_what_is_finished_go_and_those_of_what_is_not_stay(whole, tmp_path):
    """A kill may fall between keeping something and clearing what it was made from."""
    planned, store = whole
    shutil.copytree(store, tmp_path / "store")
    pieces, done = tmp_path / "store" / "pieces", {task.kind: task.key for task in everything(planned)}
    begun = {f"{'f' * 32}.chunks", f"{'e' * 32}.training"}
    for name in (f"{done['attacked']}.chunks", f"{done['classifier']}.training", f"{done['guard']}.fitting", *begun):
        (pieces / name).mkdir()
    with ExperimentStore(tmp_path / "store"):
        assert len(list(pieces.glob("*.*"))) == 5, "who only reads deletes nothing"
    with ExperimentStore(tmp_path / "store", write=True):
        assert {folder.name for folder in pieces.glob("*.*")} == begun


def _page(store):
    experiment = read_experiment(written(store.parent), "smoke")
    return page_of(experiment, "small", "smoke", entries(experiment, PaperTable(()), figures(store)), []).markdown()


def test_other_settings_are_not_taken_from_the_store_and_others_figures_stay(whole, tmp_path):
    _, store = whole
    shorter = cells(written(tmp_path, ("steps = 3\n", "steps = 2\n")))
    with ExperimentStore(store) as kept:
        left = [task for task in everything(shorter) if not kept.has(task)]
    assert {task.kind for task in left} == {"attacked", "reading", "detector", "scores", "figures"}
    assert not [task for task in left if task.kind == "reading" and "attacked" not in task.needs]
    experiment = read_experiment(tmp_path / "small.toml", "smoke")
    shown = entries(experiment, PaperTable(()), figures(store))
    assert [entry.value for entry in shown if entry.value is not None] == []
    told = json.loads(call("bench", "status", tmp_path / "small.toml", "--store", store, "--json").stdout)
    assert (told["measured"], told["of_other_settings"]) == (0, 6)


def test_layers_that_are_named_are_those_of_the_victim_not_of_a_surrogate_that_has_none_of_them(tmp_path, cache):
    changes = (
        ('{ BIM = "bim", WB = "wb" }', '{ BIM = { attack = "bim", surrogate = "mobilenet_v2" } }'),
        ('exclude = [{ attack = "WB", defence = ["KD", "SVM"] }]', ""),
        ('{ KD = "kd", SVM = "svm", "Medical Aegis" = "aegis" }', '{ KD = "kd" }'),
        ('{ none = "none", jpeg-80 = "jpeg:80" }', '{ none = "none" }'),
    )
    planned = cells(written(tmp_path, *changes))
    assert run(planned, tmp_path / "store").tasks_left == 0
    (found,) = figures(tmp_path / "store").values()
    assert 0 <= {one.metric: one.value for one in found.figures}["auc"] <= 1
