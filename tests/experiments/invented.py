"""A store with invented figures, written without running anything, and entries of a leaderboard, for tests."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from PIL import Image
from tests.bench.sample import ATTACKS, make_sample

from medaegis.bench.records.assessment import Assessment
from medaegis.bench.records.evaluation import Evaluation
from medaegis.experiments.cells import cells_of
from medaegis.experiments.figures import Figure
from medaegis.experiments.schema import read_experiment
from medaegis.experiments.store import ExperimentStore

EVIL = "<script>alert(1)</script>"
TOML = f"""
title = "{EVIL} title"
paper = "{EVIL} paper"
table = "1"
figures = "invented.csv"
notes = ["{EVIL} note"]
measures = "detection"
dataset = {{ "{EVIL} data" = "chest" }}
backbone = ["resnet18"]
cushion = {{ none = "none", jpeg = "jpeg:80" }}
defence = {{ SVM = "svm", DNN = "dnn", Aegis = "aegis" }}
attack = {{ BIM = "bim", PGD = "pgd", "DDN" = "ddn" }}
eps = ["4/256", "8/256"]
learned_from = {{ same = "same", other = "fgsm" }}
data = {{ chest = "phantom-xray?n=60" }}
seeds = [0, 1]
rows = ["defence", "cushion", "learned_from"]
columns = ["attack", "eps", "metric"]
"""
CSV = f"""defence,cushion,attack,eps,metric,value,note
SVM,none,BIM,4/256,auc,87.5,"{EVIL} doubtful"
SVM,none,BIM,8/256,auc,91,
"""
ABOUT = {
    "created": "2026-03-14T09:26:53+00:00",
    "versions": {"medaegis": "0.1.0", EVIL: None},
    "machine": {"cpu": f"{EVIL} cpu", "cores": 2},
    "device": "cpu",
    "command": f"medaegis bench run invented.toml --data {EVIL}",
    "commit": "0123456789abcdef",
}


def key_of(place: str) -> str:
    return hashlib.sha256(place.encode()).hexdigest()[:32]


def figures_of(place: str) -> tuple[Figure, ...]:
    """Figures that no two places share."""
    drawn = np.random.default_rng(int(key_of(place)[:8], 16))
    auc = float(drawn.uniform(0.3, 0.95))
    return (Figure("auc", auc, auc - 0.02, auc + 0.03, 40), Figure("adv_acc", float(drawn.uniform()), n=40))


def invent(folder: Path, *, text: str = TOML, name: str = "invented") -> tuple[Path, Path]:
    """The file of an experiment, and a store in which every cell but the last is finished."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{name}.toml"
    file.write_text(text, encoding="utf-8")
    (folder / "invented.csv").write_text(CSV, encoding="utf-8")
    cells = cells_of(read_experiment(file, "smoke"))[:-1]
    with ExperimentStore(folder / "store", write=True) as store:
        uses, shared = [], SimpleNamespace(key="c" * 32, kind="classifier")
        store.put(shared, None, (), seconds=len(cells), at="2026-03-14T09:00:00+00:00")
        for cell in cells:
            key = key_of(cell.name)
            task = SimpleNamespace(key=key, kind="figures")
            store.put(task, None, figures_of(cell.name), seconds=0.25, at="2026-03-14T09:20:00+00:00")
            uses += [(key, shared.key, f"classifier {EVIL}"), (key, key, "figures none")]
        store.tell(name, "smoke", {cell.name: (key_of(cell.name), cell.settings) for cell in cells}, ABOUT, uses)
    return file, folder / "store"


def evaluation(folder: Path, **changes: object) -> Evaluation:
    """An entry of a guard."""
    options = {"attacks": (ATTACKS[0], ATTACKS[6]), "levels": (4, 8), "n": 24, "size": 16, "examples": 1}
    return make_sample(folder, **{**options, **changes}).evaluation


def share(hits: int, n: int = 20) -> dict[str, object]:
    return {"n": n, "share": hits / n, "interval": (max(0, hits / n - 0.1), min(1, hits / n + 0.1))}


def assessment(folder: Path | None, right: dict[int, int], **changes: object) -> Assessment:
    """An entry of a classifier: eps in 256ths -> right diagnoses of 20."""

    def standing(hits: int) -> dict[str, object]:
        return {"accuracy": share(hits), "recall": {"a": share(hits), EVIL: share(hits)}}

    control = {"name": f"{EVIL} control", "expectation": "it is so", "measured": "it is", "passed": True}
    told = {
        "created": "2026-03-14T09:26:53+00:00", "seed": 0, "versions": {}, "machine": {"cpu": "x", "cores": 2},
        "command": f"medaegis assess {EVIL}", "commit": None, "seconds": 3.0, "classifier": "ab" * 32,
        "classes": ["a", EVIL], "backbone": f"{EVIL} net", "size": 32, "channels": "gray", "cushion": "none",
        "data": {"spec": "folder", "split": "adv_test", "split_by": "patient", "n": 20, "counts": {"a": 9, EVIL: 11}},
        "chosen": 20, "attacked": 19, "clean": standing(19),
        "worst_case": [
            {**standing(hits), "eps": k / 256, "eps_text": f"{k}/256", "norm": "Linf", "success": share(19 - hits, 19),
             "further": []}
            for k, hits in right.items()
        ],
        "attacks": [
            {"attack": "pgd", "title": "PGD", "access": "white-box", "eps": k / 256, "eps_text": f"{k}/256",
             "norm": "Linf", "steps": 5, "restarts": 2, "success": share(19 - hits, 19),
             "robust_accuracy": share(hits), "noise": share(0), "linf": k / 256, "l2": 0.5, "l0": 90.0,
             "forwards": 6.0, "backwards": 5.0, "seconds": 0.1}
            for k, hits in right.items()
        ],
        "controls": [control],
        **changes,
    }  # fmt: skip
    found = Assessment.model_validate(told)
    if folder is not None:
        folder.mkdir(parents=True)
        (folder / "assessment.json").write_text(json.dumps(found.model_dump(mode="json")), encoding="utf-8")
    return found


def analysis(folder: Path, **changes: object) -> None:
    """An entry of an analysis, with a page of its own that must not be shown."""
    rings = {"power": [1.0, 0.5], "count": [3, 5], "passed": [1.0, 0.2]}
    told = {
        "victim": f"{EVIL} net", "data": "folder", "attack": "bim", "eps_text": "8/256", "steps": 5, "seed": 0, "n": 8,
        "fooled": 6, "undetected": None, "tsne": {f"{EVIL} layer": {"told_apart": 0.75}},
        "attention": {"grad_cam_correlation": [0.5, 0.25]}, "direction": None,
        "spectra": {"cushion": "jpeg:80", "attack": rings, "noise": rings},
        **changes,
    }  # fmt: skip
    folder.mkdir(parents=True)
    (folder / "analysis.json").write_text(json.dumps(told), encoding="utf-8")
    (folder / "analysis.html").write_text("<p>theirs</p>", encoding="utf-8")
    for name in ("tsne", "attention"):
        Image.fromarray(np.zeros((4, 4), np.uint8)).save(folder / f"{name}.png")
