"""`medaegis attack` beside the engine: who is aimed at what."""

import torch
from tests.attacks.toys import toy_bank, toy_classifier, toy_images

from medaegis.attacks.catalogue import find_attack
from medaegis.attacks.choices import pick_targets
from medaegis.cli.attack import run_attack
from medaegis.cushions import parse_cushion
from medaegis.guard.guard import Guard
from medaegis.progress import silent


class Pictures:
    """Test images of a toy classifier with four classes, all diagnosed rightly."""

    def __init__(self, guard):
        self.images, self.classes = toy_images(40, guard.classifier), guard.classes
        self.labels, self.ids = guard.judge(self.images).predicted, torch.arange(40)

    def pixels(self, rows):
        return self.images[rows]


def test_targeted_counts_the_wanted_class_alone_and_untargeted_any():
    classifier = toy_classifier(4)
    guard = Guard(classifier, parse_cushion("none"), toy_bank(classifier), tnr=0.9)
    test, rows = Pictures(guard), torch.arange(40)
    bim = find_attack("bim").attack.with_options(steps=4)
    options = {"eps": 8 / 256, "gradient": "bpda", "seed": 0, "progress": silent}
    aimed = run_attack(guard, test, rows, bim, **options)
    free = run_attack(guard, test, rows, bim, targeted=False, **options)
    targets = pick_targets(test.labels, 4, ids=test.ids, seed=0)
    assert torch.equal(aimed.fooled, aimed.verdict.predicted == targets)
    assert torch.equal(free.fooled, free.verdict.predicted != test.labels)
    assert 0 < aimed.fooled.sum() < free.fooled.sum()
