"""Adversarial training of the Shield that judges masks: does the mask that the network gives fit the picture?

For classes a Shield tells pictures of its class from those of the others. A mask has no such others, so what a Shield
is to reject is said by the truth: masks that are wrong (Dice below `medaegis.task.RIGHT_DICE`), on whatever picture.
An attacked picture whose mask stays right does no harm, and nothing is learned of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from medaegis.attacks.engine import Attack
from medaegis.attacks.losses.overlap import Overlap
from medaegis.attacks.losses.shield import Orthogonal, ShieldLogit
from medaegis.attacks.objective import Goal, Objective
from medaegis.attacks.steps import Descent
from medaegis.attacks.victim import Victim
from medaegis.cushions import Cushion
from medaegis.detectors.shield import Shield, ShieldBank
from medaegis.errors import DataError
from medaegis.guard.looks import WATCHED_EPS, WATCHED_TNR, area, in_chance_order
from medaegis.guard.shield_training import ShieldTraining
from medaegis.images.datasets import Dataset
from medaegis.models.augment import augment_with_masks
from medaegis.models.classifier import Classifier

WATCHED_MASKS = 24  # images of a look; it takes as long as a dozen updates
WATCHED_STEPS = 20  # of its attack; 12 sometimes did not win at 64/256 where 40 did on every image
# Of the overlap, from 0 to 1, beside a Shield's logit: with a small one a mask stays right, with a large one it is
# destroyed and easily told. The strongest attack is between, and is what the orthogonal one finds.
OVERLAP_WEIGHTS = (1.0, 30.0)
PAST_THE_SHIELD = Orthogonal(fooling=Overlap("dice"))


class MaskTraining(ShieldTraining):
    """`ShieldTraining` of the one Shield for all masks: there is one class of pictures, and all of them are attacked.

    Attacks make the mask wrong and raise the Shield's logit. Pictures with the right mask are to be accepted: clean
    ones, and those with noise or with what was made for another picture. Whatever has a wrong mask is to be rejected.
    """

    keeps_best = True

    def _pools(self) -> tuple[Tensor, Tensor]:
        every = torch.arange(len(self.dataset))
        if not len(every):
            raise DataError(self.dataset.spec, "no image to learn from", "give some")
        return every, every

    def _loss(self, update: int) -> Tensor:
        task, count = self.dataset.task, self.config.batch_size
        rows, epochs = self._rows(self.genuine, update)
        clean, truths = self._augmented_pairs(rows, epochs // self.config.lifetime)
        attacked = self._attack(clean, Goal(truths, task=task), rows, epochs, update)
        # What was made for a picture is the attack itself there, so each gets that of the one before it.
        genuine = self._perturbed(clean, (attacked - clean).roll(1, 0), update)
        self.shield.requires_grad_(True)
        images, goal = torch.cat([genuine, attacked]), Goal(torch.cat([truths, truths]), task=task)
        view = self._drawn(update, len(images), "learn").look(images, goal, PAST_THE_SHIELD)
        logits, right = view.shield_logit, task.is_right(task.predicted(view.known_logits()), goal.labels)
        wanted, unwanted = right.clone(), ~right
        wanted[count:] = False
        losses = torch.where(wanted, F.softplus(-logits), 0) + torch.where(unwanted, F.softplus(logits), 0)
        return losses.sum() / count

    def _augmented_pairs(self, rows: Tensor, generation: Tensor) -> tuple[Tensor, Tensor]:
        """Augmented pixels on the 8-bit grid, and the masks that moved with them."""
        u = self._draws(self.dataset.ids[rows], "augment", generation).uniform(7)
        pixels = self.dataset.pixels(rows, device=self.victim.device)
        moved, masks = augment_with_masks(pixels, self.dataset.labels[rows].to(pixels.device), u)
        return (moved * 255).round() / 255, masks

    def _objective(self, share: float) -> Objective:
        low, high = OVERLAP_WEIGHTS
        weight = low * (high / low) ** (2 * share - 1)
        return PAST_THE_SHIELD if share < 0.5 else weight * Overlap("dice") + ShieldLogit()


def mask_robustness(classifier: Classifier, cushion: Cushion, dataset: Dataset) -> Callable[[Shield], dict[str, float]]:
    """A look at the Shield in training: AUROC of clean images with a right mask against attacked ones with a wrong one.

    Under the names of `fitting.robustness`, so that `soundness` ranks it. An attacked image whose mask stays right
    ranks below all clean ones, for no harm can come of it, and does not count as passing.

    Raises:
        DataError: the network gives a right mask of none of the images.
    """
    some = in_chance_order(dataset)[:WATCHED_MASKS]
    pixels, truths, ids = dataset.pixels(some), dataset.labels[some], dataset.ids[some]
    said = Victim(classifier, cushion=cushion).verdicts(pixels, ids)
    rows = classifier.task.is_right(said.predicted, truths).nonzero().squeeze(1)
    if not len(rows):
        raise DataError(dataset.spec, "the network gives a right mask of no validation image", "train it longer")
    pixels, truths, ids = pixels[rows], truths[rows], ids[rows]
    attack = Attack(objective=PAST_THE_SHIELD, rule=Descent(keeps_best=True), random_start=True, steps=WATCHED_STEPS)

    def look(shield: Shield) -> dict[str, float]:
        bank = ShieldBank([shield])
        bank.centre.zero_()  # so that suspicion is minus the logit
        victim = Victim(classifier, cushion=cushion, shields=bank, gradient="skip")
        clean = -victim.verdicts(pixels, ids).score
        lowest, seen = clean.topk(math.ceil(WATCHED_TNR * len(clean))).values[-1], {}
        for eps in WATCHED_EPS:
            found = attack.run(victim, pixels, truths, eps=eps / 256, ids=ids)
            logits = -found.verdict.score
            attacked = torch.where(found.reached, logits, torch.minimum(clean.amin(), logits.amin()) - 1)
            seen[f"auroc_{eps}"] = area(clean, attacked)
            seen[f"passing_{eps}"] = float((found.reached & (logits >= lowest)).double().mean())
        return seen

    return look
