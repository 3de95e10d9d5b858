"""A guard of a small classifier and weak Shields, written and read in no time."""

from tests.attacks.toys import toy_bank, toy_classifier
from tests.models.tiny_networks import tiny

from medaegis.cushions import parse_cushion
from medaegis.guard.guard import Guard


def make_guard(*, classes=2, cushion="jpeg:80", taps=("input", "relu", "last"), **options):
    classifier = toy_classifier(classes)
    return Guard(classifier, parse_cushion(cushion), toy_bank(classifier, taps=taps), tnr=0.9, **options)


def load(folder, **options):
    return Guard.load(folder, factory=tiny, **options)
