"""The shape of the survey's Table 12 on drawn X-rays: zero-shot AUROC, clean and attacked, after robust fine-tuning.

    python -m benchmarks.zero_shot

Trains a dual encoder on images and generated sentences, fine-tunes its image encoder by TeCoA, PMG-FT and FARE, and
prints a table of the mean AUROC over four findings on test patients, by prompts in no training sentence. Called again
after a kill it goes on where it was.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from pathlib import Path

import torch

from medaegis.attacks.balls import parse_eps
from medaegis.attacks.catalogue import find_attack
from medaegis.attacks.victim import Victim
from medaegis.images import Dataset, load_dataset, split_dataset
from medaegis.models.classifier import Classifier
from medaegis.models.dual_encoder import DualEncoder
from medaegis.models.learning import TrainConfig
from medaegis.models.metrics import findings_metrics
from medaegis.models.training import train_classifier
from medaegis.provenance import commit
from medaegis.robust import parse_recipe
from medaegis.task import FREE
from medaegis.zero_shot import PHRASES, Contrastive
from medaegis.zero_shot.prompts import prompt_tokens

METHODS = {"tecoa": "TeCoA", "pmg-ft": "PMG-FT", "fare": "FARE"}
SIZE = 48


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1200, help="drawn images, two thirds of them to learn from")
    parser.add_argument("--epochs", type=int, default=24, help="of the dual encoder")
    parser.add_argument("--tuning", type=int, default=3, help="epochs of each fine-tuning")
    parser.add_argument("--train-eps", default="2/255", help="radius of fine-tuning")
    parser.add_argument("--eps", default="1/255,2/255", help="radii of the test's PGD with 20 steps")
    parser.add_argument("--test", type=int, default=90, help="most test images")
    parser.add_argument("--seed", type=int, default=0, help="of split, weights, sentences and attacks")
    parser.add_argument("--out", type=Path, default=Path("runs/zero-shot"), help="folder for the classifiers")
    given = parser.parse_args(arguments)

    dataset = load_dataset(f"phantom-findings?n={given.images}", size=SIZE, channels="gray")
    split = split_dataset(dataset, seed=given.seed)
    test, radii = dataset.subset(split.adv_test[: given.test]), given.eps.split(",")
    config = TrainConfig(backbone="clip-small", epochs=given.epochs, lr=1e-3, seed=given.seed)
    contrastive = Contrastive(dataset.classes)
    plain = train_classifier(dataset, split, config, given.out / "clip", recipe=contrastive)
    print(f"| fine-tuning at {given.train_eps} | clean | {' | '.join(f'PGD-20, {eps}' for eps in radii)} |")
    print("|---" * (len(radii) + 2) + "|")
    _tell("none", _areas(plain, test, radii, given.seed))
    weights = given.out / "clip" / "network.safetensors"
    further = config.model_copy(update={"epochs": given.tuning, "lr": 5e-4, "weights": weights})
    for name, title in METHODS.items():
        recipe = parse_recipe(name, eps=parse_eps(given.train_eps), helper=None if name == "tecoa" else plain)
        tuned = train_classifier(dataset, split, further, given.out / name, recipe=recipe)
        _tell(title, _areas(tuned, test, radii, given.seed))

    assert isinstance(plain.network, DualEncoder)
    plain.network.set_prompts(prompt_tokens(contrastive.tokenizer, dataset.classes, PHRASES))
    (known,) = _areas(plain, test, [], given.seed)
    print(f"\nWithout fine-tuning, asked in the phrases of the training sentences: {known:.3f} clean.")
    command = shlex.join(["python", "-m", "benchmarks.zero_shot", *arguments])
    print(
        f"`{command}`, commit {commit()}, {len(split.train)} images to learn from, {len(test)} test images, "
        f"seed {given.seed}, {time.strftime('%Y-%m-%d')}"
    )


def _tell(title: str, areas: list[float]) -> None:
    print(f"| {title} | {' | '.join(f'{area:.3f}' for area in areas)} |", flush=True)


def _areas(classifier: Classifier, test: Dataset, radii: list[str], seed: int) -> list[float]:
    """Mean AUROC over the findings, clean and under PGD with 20 steps at each radius.

    Each finding is attacked by itself. One attack on all of them at once must trade one for another, and looks weaker
    the more their logits go together.
    """
    victim, attack = Victim(classifier), find_attack("pgd").attack.with_options(steps=20)
    x = test.pixels()
    logits = [victim.verdicts(x).logits]
    for eps in radii:
        attacked = torch.empty_like(logits[0])
        for k in range(len(test.classes)):
            targets = torch.full_like(test.labels, FREE)
            targets[:, k] = 1 - test.labels[:, k]
            run = attack.run(victim, x, test.labels, eps=parse_eps(eps), ids=test.ids, targets=targets, seed=seed)
            attacked[:, k] = run.verdict.logits[:, k]
        logits.append(attacked)
    areas = [findings_metrics(one, test.labels, test.classes)["auroc"] for one in logits]
    return [float("nan") if area is None else area for area in areas]


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(sys.argv[1:])
