"""Readings for tests: random features with classes, and of toy classifiers."""

import torch
from tests.attacks.toys import toy_classifier, toy_images

from medaegis.cushions import parse_cushion
from medaegis.detectors.reader import PENULTIMATE, Reader, Reading

CHANNELS = {"early": 5, "middle": 8, PENULTIMATE: 12}


def drawn(n, *, classes=3, seed=0, shift=0.0, scale=1.0):
    """Features that lie around a mean per class, logits that say the class; with the true classes."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % classes
    features = {}
    for i, (tap, channels) in enumerate(CHANNELS.items()):
        means = torch.randn((classes, channels), generator=torch.Generator().manual_seed(100 + i))
        mix = torch.randn((channels, channels), generator=torch.Generator().manual_seed(200 + i)) / channels**0.5
        features[tap] = 2 + means[labels] + scale * torch.randn((n, channels), generator=draw) @ mix + shift
    logits = 4 * torch.nn.functional.one_hot(labels, classes) + torch.randn((n, classes), generator=draw)
    return Reading(logits.float(), features), labels


def toy_reader(classes=2, *, cushion="none", **options):
    return Reader(toy_classifier(classes), cushion=parse_cushion(cushion), **options)


def seen_by(reader, n, *, seed=1):
    """A reading of toy images, with noisy copies for attacked ones, and what is predicted for labels."""
    images = toy_images(n, reader.classifier, seed=seed)
    noise = torch.rand(images.shape, generator=torch.Generator().manual_seed(seed)) - 0.5
    attacked = ((images + 0.3 * noise).clamp(0, 1) * 255).round() / 255
    clean = reader.read(images)
    return clean, reader.read(attacked), clean.predicted
