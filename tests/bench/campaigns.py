"""Campaigns against toys, on images that they diagnose rightly because their diagnosis is the label."""

import torch

from medaegis.attacks.known import Known
from medaegis.attacks.victim import Victim
from medaegis.bench.campaign import Campaign
from medaegis.bench.sample import Sample
from medaegis.bench.store import Store
from medaegis.images.datasets import Dataset


def toy_dataset(images, labels, classes, *, patients=None):
    """Images float in [0, 1] on the 8-bit grid; each of a patient of its own, if nothing else is said."""
    n = len(images)
    names = tuple(f"{i}.png" for i in range(n))
    pixels = (images * 255).round().to(torch.uint8)
    return Dataset("toy", pixels, labels, tuple(classes), patients or names, names, torch.arange(n))


def toy_campaign(victim, images, folder, *, aim="towards the drawn class", alone=None, patients=None, seed=0):
    judge = Victim(victim.exact, cushion=victim.cushion, shields=victim.shields, dtype=torch.float32)
    images = (images * 255).round() / 255
    labels = judge.verdicts(images).predicted
    test = toy_dataset(images, labels, victim.exact.classes, patients=patients)
    rows = torch.arange(len(images))
    sample = Sample(test, judge.verdicts(test.pixels()), rows, rows, seed)
    return Campaign(victim, sample, Store(folder), {}, aim, known=Known(test), alone=alone)
