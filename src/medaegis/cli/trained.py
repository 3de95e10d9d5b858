"""What `medaegis train` shows at its end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from medaegis.cli import console

if TYPE_CHECKING:
    from rich.console import RenderableType

SHOWN_CLASSES = 10  # in a confusion matrix that fits a screen
FIGURES = {
    "auroc": "AUROC",
    "ece": "Calibration error",
    "quadratic_kappa": "Quadratic kappa",
    "dice": "Dice",
    "miou": "Mean IoU",
    "hausdorff95": "Hausdorff 95, px",
}


def overview(metrics: Mapping[str, Mapping[str, Any]], title: str) -> RenderableType:
    """A line for each part that was measured, with the figures of its task."""
    shown = [name for name in FIGURES if any(name in of for of in metrics.values())]
    rows = [
        [part, of["n"], console.percent(of["accuracy"]), *(console.decimal(of.get(name)) for name in shown)]
        for part, of in metrics.items()
    ]
    return console.table("Part", "Images", "Right", *(FIGURES[name] for name in shown), rows=rows, title=title)


def cost(told: Mapping[str, Any], images: int) -> str:
    """What robust training took, and which epoch was kept."""
    epochs = len(told["history"])
    passes = sum(told["passes"].values()) / (images * epochs)
    kept = ""
    if "kept_epoch" in told:  # epochs were scored
        right = console.percent(told["history"][told["kept_epoch"] - 1]["val"]["robust_accuracy"])
        kept = f"; kept: epoch {told['kept_epoch']}, validation images right under attack {right}"
    each = f"{told['seconds'] / epochs:.0f} s and {passes:.1f} passes an image each (plain training takes 2)"
    return f"{epochs} epochs of {each}{kept}."


def remarks(told: Mapping[str, Any], classes: Sequence[str]) -> list[str]:
    """What the accuracy hides: classes that are never diagnosed rightly, and a share that one answer would reach."""
    found = []
    lost = [name for name in classes if told.get("recall", {}).get(name) == 0]
    if lost:
        found.append(f"Not one test image of {', '.join(lost)} is diagnosed rightly.")
    sizes = [sum(row) for row in told.get("confusion", [])]
    if sizes and max(sizes) / told["n"] >= told["accuracy"]:
        name = classes[sizes.index(max(sizes))]
        found.append(f"The accuracy is not above that of always {name}, {console.percent(max(sizes) / told['n'])}.")
    return found


def by_class(told: Mapping[str, Any], classes: Sequence[str]) -> RenderableType:
    """A line for each class: how many of its test images are diagnosed rightly, and what all are diagnosed as."""
    if "aurocs" in told:
        both = [
            [name, console.percent(told["recall"][name]), console.decimal(told["aurocs"][name])] for name in classes
        ]
        return console.table("Finding", "Recall", "AUROC", rows=both, title="Test images by finding")
    confusion = told.get("confusion")
    shown = len(classes) <= SHOWN_CLASSES and confusion is not None
    rows = []
    for k, name in enumerate(classes):
        counts = confusion[k] if confusion is not None else []
        n = [sum(counts)] if counts else []
        rows.append([name, *n, console.percent(told["recall"][name]), *(counts if shown else [])])
    diagnoses = [f"as {name}" for name in classes] if shown else []
    heading = ["Class", *(["Images"] if confusion is not None else []), "Recall", *diagnoses]
    return console.table(*heading, rows=rows, title="Test images by class, and what they are diagnosed as")
