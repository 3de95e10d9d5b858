"""Does a Shield know its own images better than others, and do longer attacks see more than the look in training?

    python -m benchmarks.shield_looks runs/guard chest-xray:PATH

For each Shield, AUROC of clean images of its class against attacked ones of the others, drawn at random from a part of
the data: by the look that `fit` takes on every part, by other attacks on validation images. JSON lines.
"""

from __future__ import annotations

import argparse
import json
from datetime import UTC, datetime
from pathlib import Path

import torch

from medaegis.attacks.steps import Adaptive, Descent, StepRule
from medaegis.cli.datasets import site_for
from medaegis.guard import fitting
from medaegis.guard.guard import Guard
from medaegis.provenance import environment

PARTS = ("train", "adv_train", "val", "adv_test")
LOOK = "20 sign steps"
ATTACKS: dict[str, tuple[StepRule, int]] = {
    LOOK: (Descent(), 20),
    "20 steps with momentum": (Descent(momentum=1.0), 20),
    "60 sign steps": (Descent(), 60),
    "60 steps of Auto-PGD": (Adaptive(), 60),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("guard", type=Path)
    parser.add_argument("spec")
    parser.add_argument("--images", type=int, default=fitting.WATCHED_IMAGES, help="attacked ones of each part")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/shield-looks.jsonl"))
    options = parser.parse_args()
    guard = Guard.load(options.guard)
    site = site_for(guard, options.spec, images=None)
    dataset, split = site.dataset, site.split
    told = environment()
    fixed = {
        "data": dataset.spec.split(":")[0],
        "guard": guard.fingerprint()[:12],
        "seed": options.seed,
        "date": datetime.now(UTC).date().isoformat(),
        "commit": told["commit"],
        "machine": told["machine"],
    }
    cases = [(part, LOOK) for part in PARTS] + [("val", attack) for attack in ATTACKS if attack != LOOK]
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with options.out.open("w", encoding="utf-8") as file:
        for label, (name, shield) in enumerate(zip(guard.classes, guard.bank.shields, strict=True)):
            for part, attack in cases:
                rows = torch.tensor(split.parts[part])
                drawn = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(options.seed))]
                rule, steps = ATTACKS[attack]
                look = fitting.robustness(
                    guard.classifier,
                    guard.cushion,
                    dataset.subset(drawn),
                    label,
                    images=options.images,
                    rule=rule,
                    steps=steps,
                )
                seen = {key: round(value, 4) for key, value in look(shield).items()}
                line = json.dumps(
                    {"class": name, "part": part, "attack": attack, "images": options.images, **seen, **fixed}
                )
                print(line, flush=True)
                file.write(line + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
