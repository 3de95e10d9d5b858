"""What makes a Shield strong: train one class's Shield in several variants and watch its robustness grow.

    python -m benchmarks.shield_ablation runs/classifier chest-xray:PATH --out benchmarks/results/shield-ablation.jsonl

One JSON line per look: variant, update, seconds of training, AUROC on clean validation images of the class against
those of the others before and after an attack (20 steps on the Shield's logit) at 4, 8, 16 and 64 of 256, and how many
attacked ones pass. A killed run goes on where it was; finished variants stay.
"""

from __future__ import annotations

import argparse
import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from medaegis.cli.datasets import data_of_classifier
from medaegis.cushions import parse_cushion
from medaegis.guard.fitting import robustness, shield_config
from medaegis.guard.shield_training import ShieldTraining
from medaegis.models.classifier import INPUT
from medaegis.models.store import load_classifier
from medaegis.provenance import environment

LOOKS = 8  # at robustness, for each variant


def variants(taps: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """Changes to the strong recipe, by name; `taps` are the backbone's own."""
    shallow = taps[min(1, len(taps) - 1)]
    return {
        "strong": {},
        "shallow tap only": {"taps": (shallow,)},
        "pixels and a shallow tap": {"taps": (INPUT, shallow)},
        "pixels and all taps": {"taps": (INPUT, *taps)},
        "the paper's taps": {"taps": taps},
        "genuine images clean": {"genuine_noise": 0.0, "genuine_perturbed": 0.0},
        "genuine images with noise only": {"genuine_noise": 0.5, "genuine_perturbed": 0.0},
        "genuine images with perturbations only": {"genuine_noise": 0.0, "genuine_perturbed": 0.5},
        "behind the Cushion": {"cushioned": 1.0},
        "half behind the Cushion": {"cushioned": 0.5},
        "sign steps only": {"momentum_share": 0.0},
        "10 inner steps from the first update on": {"early": 0.0},
        "3 inner steps for 60 %": {"early": 0.6},
        "3 inner steps": {"inner_steps": 3},
        "15 inner steps": {"inner_steps": 15},
        "long inner steps": {"inner_steps": 5, "inner_step": (0.25, 0.5)},
        "carried on for 4 visits": {"lifetime": 4},
        "batch of 32": {"batch_size": 32},
        "width 48": {"width": 48},
        "eps of now only": {"eps_below": 0.0},
        "eps up to 8 of 256": {"eps_end": 8 / 256},
        "no average of the weights": {"average": 0.0},
        "half of the attacks are WB": {"classifier_share": 0.5},
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("classifier", type=Path)
    parser.add_argument("spec")
    parser.add_argument("--label", type=int, default=1, help="class whose Shield is trained")
    parser.add_argument("--updates", type=int, default=300)
    parser.add_argument("--only", nargs="*", help="names of variants (default: all)")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/shield-ablation.jsonl"))
    parser.add_argument("--work", type=Path, default=Path("runs/shield-ablation"))
    options = parser.parse_args()
    classifier = load_classifier(options.classifier)
    dataset, split = data_of_classifier(options.classifier, classifier, options.spec, images=None)
    learn, watch = dataset.subset([*split.train, *split.adv_train]), dataset.subset(split.val)
    done = {line["variant"] for line in _lines(options.out) if line["update"] == options.updates}
    cushion = parse_cushion("jpeg:80")
    about = {"date": datetime.now(UTC).date().isoformat(), **environment()}
    for name, changes in variants(classifier.taps).items():
        if name in done or (options.only and name not in options.only):
            continue
        looks = {"watch_every": max(1, options.updates // LOOKS)}
        config = shield_config("strong", classifier, updates=options.updates).model_copy(update=changes | looks)
        look = robustness(classifier, cushion, watch, options.label)
        training = ShieldTraining(
            classifier, cushion, learn, options.label, config, options.work / name.replace(" ", "-"), watch=look
        )
        training.train(lambda d, n, m: print(f"\r{m} {d}/{n}", end="", file=sys.stderr))
        fixed = {
            "variant": name,
            "data": dataset.spec.split(":")[0],
            "class": dataset.classes[options.label],
            "seed": config.seed,
            "date": about["date"],
            "commit": about["commit"],
            "machine": about["machine"],
        }
        options.out.parent.mkdir(parents=True, exist_ok=True)
        with options.out.open("a", encoding="utf-8") as file:
            for look_at in training.history:
                file.write(json.dumps({**fixed, **{k: round(v, 4) for k, v in look_at.items()}}) + "\n")
        last = training.history[-1]
        print(f"\n{name}: " + ", ".join(f"{k} {v:.4g}" for k, v in last.items()))
    return 0


def _lines(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


if __name__ == "__main__":
    sys.exit(main())
