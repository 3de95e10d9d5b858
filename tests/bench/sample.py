"""A made-up evaluation folder, drawn images and invented figures in the right format: for tests of the report alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from medaegis.bench.metrics import auroc, bootstrap_interval, tpr_at_tnr, wilson_interval
from medaegis.bench.records.archive import EvaluationFolder, write_evaluation
from medaegis.bench.records.evaluation import Cell, Evaluation

ATTACKS = (
    ("fgsm", "FGSM", "white-box", False, 1, None, 0.35, 3.6),
    ("bim", "BIM", "white-box", False, 40, "bpda", 1.0, 3.4),
    ("pgd", "PGD", "white-box", False, 40, "bpda", 1.0, 3.3),
    ("mim", "MIM", "white-box", False, 40, "bpda", 1.0, 3.5),
    ("cw", "CW-L∞", "white-box", False, 40, "bpda", 1.0, 4.2),
    ("shield", "Shield alone", "white-box", True, 100, "bpda", 0.75, 2.9),
    ("wb", "White-box on classifier + Shield", "white-box", True, 20, "bpda", 0.96, 3.0),
    ("wb", "White-box on classifier + Shield", "white-box", True, 100, "bpda", 0.98, 2.8),
    ("wb", "White-box on classifier + Shield", "white-box", True, 100, "twin", 0.97, 2.9),
    ("wb_d", "White-box with decaying steps", "white-box", True, 100, "bpda", 0.98, 2.75),
)
LEVELS = (1, 4, 8, 16)


def make_sample(
    folder: Path,
    *,
    classes: tuple[str, ...] = ("NORMAL", "PNEUMONIA"),
    channels: str = "gray",
    size: int = 112,
    attacks: tuple[tuple[Any, ...], ...] = ATTACKS,
    levels: tuple[int, ...] = LEVELS,
    n: int = 240,
    examples: int = 3,
    seed: int = 0,
) -> EvaluationFolder:
    """Writes the folder and returns what is in it."""
    generator = np.random.default_rng(seed)
    labels = np.arange(n) % len(classes)
    clean = generator.normal(-2.2, 1.1, n).astype(np.float32)
    threshold = float(np.quantile(clean, 0.905))
    scores: dict[str, np.ndarray] = {"clean": clean}
    pictures: dict[str, np.ndarray] = {}
    cells = []
    # What makes an image easy to attack is the same for all attacks, so that the worst case is near the strongest one.
    ease, luck = generator.random(n), generator.normal(size=n)
    through: dict[int, np.ndarray] = {level: np.zeros(n, dtype=bool) for level in levels}
    lowest: dict[int, np.ndarray] = {level: np.full(n, np.inf) for level in levels}
    for attack, title, access, adaptive, steps, gradient, strength, distance in attacks:
        for level in levels:
            name = "-".join([attack, *([gradient] if gradient else []), str(level), str(steps)])
            fooled = ease + generator.normal(0, 0.05, n) < strength * (0.2 + level / 6)
            shift = distance * (1.5 if adaptive else 1.2) - level * (0.19 if adaptive else 0.08)
            attacked = (clean + shift + 0.7 * luck + generator.normal(0, 0.15, n)).astype(np.float32)
            undetected = fooled & (attacked <= threshold)
            through[level] |= undetected
            lowest[level] = np.minimum(lowest[level], attacked)
            scores |= {name: attacked, f"{name}/fooled": fooled.astype(np.uint8)}
            area = bootstrap_interval(auroc, [clean, attacked], n=60, seed=seed)
            share = wilson_interval(int(undetected.sum()), n)
            safe = wilson_interval(int((~undetected & (clean <= threshold)).sum()), n)
            shown = []
            for k in np.argsort(-1.0 * fooled - undetected, kind="stable")[:examples]:
                true, other = classes[labels[k]], classes[(labels[k] + 1) % len(classes)]
                shown.append(
                    {
                        "name": f"person{k + 11:03d}_bacteria_{k + 40}.jpeg",
                        "label": true,
                        "clean": _verdict(true, clean[k], threshold),
                        "adversarial": _verdict(other if fooled[k] else true, attacked[k], threshold),
                    }
                )
            if examples:
                pictures |= _pictures(name, level, examples, size, channels, generator)
            cells.append(
                Cell.model_validate(
                    {
                        "id": name, "attack": attack, "title": title, "access": access, "adaptive": adaptive,
                        "eps": level / 256, "eps_text": f"{level}/256", "steps": steps, "restarts": 1,
                        "gradient": gradient, "n": n, "success": float(fooled.mean()),
                        "success_on_classifier": None if attack == "shield" else min(1.0, float(fooled.mean()) * 1.1),
                        "auroc": area.value, "auroc_interval": (area.low, area.high),
                        "auroc_fooling": auroc(clean, attacked[fooled]) if fooled.any() else None,
                        "auroc_wanted": auroc(clean, attacked),
                        "tpr90": tpr_at_tnr(clean, attacked, 0.9), "tpr95": tpr_at_tnr(clean, attacked, 0.95),
                        "tpr99": tpr_at_tnr(clean, attacked, 0.99),
                        "undetected": share.value, "undetected_interval": (share.low, share.high),
                        "robust_accuracy": safe.value, "robust_accuracy_interval": (safe.low, safe.high),
                        "seconds": 0.011 * steps * n, "forwards": (steps + 1) * n, "backwards": steps * n, "seed": seed,
                        "by_class": {
                            one: {
                                "n": int((labels == c).sum()), "success": float(fooled[labels == c].mean()),
                                "auroc": auroc(clean, attacked[labels == c]),
                                "undetected": float(undetected[labels == c].mean()),
                            }
                            for c, one in enumerate(classes)
                        },
                        "examples": shown,
                    }
                )
            )  # fmt: skip
    worst = []
    for level in levels if attacks else ():
        share = wilson_interval(int(through[level].sum()), n)
        worst.append(
            {
                "eps": level / 256, "eps_text": f"{level}/256", "n": n, "auroc": auroc(clean, lowest[level]),
                "undetected": share.value, "undetected_interval": (share.low, share.high),
                "robust_accuracy": float((~through[level] & (clean <= threshold)).mean()),
            }
        )  # fmt: skip
    evaluation = Evaluation.model_validate(
        {
            "created": "2026-03-14T09:26:53+00:00",
            "seconds": 4123.4,
            "seed": seed,
            "versions": {"medaegis": "0.1.0", "torch": "2.13.0", "python": "3.11.9", "codec": "libjpeg-turbo 3.2.0"},
            "machine": {"cpu": "Example CPU at 2.6 GHz", "cores": 2},
            "command": "medaegis evaluate guards/chest chest-xray:images/chest --out evaluations/chest --seed 0",
            "commit": "0123456789abcdef0123456789abcdef01234567",
            "threat_model": "The attacker knows the classifier, the Cushion and the Shields with all weights and "
            "thresholds, and may change every pixel of the image by at most ε before it reaches the guard. The "
            "attacker wants a wrong diagnosis that the guard accepts, and cannot change the guard itself.",
            "guard": {
                "digest": "sha256:" + "4f2a" * 16, "classes": list(classes), "backbone": "resnet18", "size": size,
                "channels": channels, "cushion": "jpeg:80", "taps": ["input", "layer1.1", "layer2.1", "layer4.0"],
                "tnr_target": 0.9, "thresholds": {one: threshold + 0.3 * c for c, one in enumerate(classes)},
                "recipe": {"epochs": 25, "eps": "1/256 to 16/256", "inner steps": 10, "mix": ["shield", "wb"]},
                "training": {"seconds": 1140.0, "images": 4672, "updates": 3650},
            },
            "data": {
                "spec": "chest-xray:images/chest", "split": "adv_test", "split_by": "patient", "n": n,
                "counts": {one: int((labels == c).sum()) for c, one in enumerate(classes)},
            },
            "clean": {
                "n": n, "accuracy": 0.962, "accuracy_without_cushion": 0.966, "auroc": 0.9913, "sensitivity": 0.974,
                "specificity": 0.941, "ece": 0.021, "tnr_reached": float((clean <= threshold).mean()),
                "tnr_by_class": {one: float((clean[labels == c] <= threshold).mean()) for c, one in enumerate(classes)},
                "intervals": {"accuracy": [0.93, 0.981], "auroc": [0.982, 0.997], "tnr_reached": [0.86, 0.936]},
            },
            "cells": cells,
            "worst_case": worst,
            "controls": [
                {"name": "Random noise at 16/256", "expectation": "accepted within 10 points of clean images",
                 "measured": "86.2 % accepted, clean 90.4 %", "passed": True, "detail": "uniform noise, one draw"},
                {"name": "The same attacks without the Shield", "expectation": "succeed on more than 99 %",
                 "measured": "100.0 %", "passed": True, "detail": ""},
                {"name": "Planted weakness", "expectation": "a Shield trained at 1/256 alone is broken by WB",
                 "measured": "undetected success 97.1 % at 16/256", "passed": True, "detail": ""},
                {"name": "More steps do not help much", "expectation": "100 steps gain under 5 points on 20 steps",
                 "measured": "not run at 8/256", "passed": None, "detail": "needs both step counts at one ε"},
            ],
        }
    )  # fmt: skip
    found = EvaluationFolder(evaluation, scores, pictures)
    write_evaluation(folder, found)
    return found


def _verdict(predicted: str, score: np.floating, threshold: float) -> dict[str, Any]:
    return {"predicted": predicted, "accepted": bool(score <= threshold), "score": float(score)}


def _pictures(
    name: str, level: int, k: int, size: int, channels: str, generator: np.random.Generator
) -> dict[str, np.ndarray]:
    """Something with two lungs and ribs, changed by smooth signs at most `level` strong, and a coarser copy of that."""
    y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    drawn = []
    for one in range(k):
        wide = 0.30 + 0.03 * one
        lungs = sum(np.exp(-(((x - side) / wide) ** 4) - ((y + 0.05) / 0.68) ** 4) for side in (-0.45, 0.45))
        body = np.exp(-((x / 0.95) ** 6)) * (0.72 + 0.1 * y)
        ribs = 0.05 * np.cos(15 * y + 4 * x**2) * lungs
        grain = generator.normal(0, 0.012, (size, size))
        drawn.append(np.clip(body - 0.45 * lungs + ribs + 0.3 * np.exp(-((x / 0.1) ** 2)) * body + grain, 0, 1))
    clean = np.round(np.stack(drawn)[:, None] * 255)
    if channels == "rgb":
        clean = np.concatenate([clean, 0.75 * clean, 0.55 * clean], axis=1)
    signs = np.sign(generator.normal(size=clean.shape) + np.roll(generator.normal(size=clean.shape), 1, -1))
    attacked = np.clip(np.round(clean) + level * signs, 0, 255)
    coarse = (attacked + np.roll(attacked, 1, -1) + np.roll(attacked, 1, -2)) / 3
    views = {"clean": clean, "adversarial": attacked, "cushioned": coarse}
    return {f"{name}/{view}": np.round(pixels).astype(np.uint8) for view, pixels in views.items()}
