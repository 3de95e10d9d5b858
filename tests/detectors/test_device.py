"""Scores are worked out where the images were read: on the meta device a host read, or a tensor left behind, raises."""

import copy

import pytest
from tests.detectors.test_registry import NAMES, fitted

from medaegis.detectors.reader import Reading

# Once for all images scored together, these ask the device: the densities, which classes are predicted (those of all
# classes would take as many times as long); the forest, how deep it is.
ASK = {"kd", "kd-layers", "combined", "dfeat"}


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ASK])
def test_scoring_waits_for_no_device(name):
    detector, seen = fitted(name)
    reader = copy.copy(seen.reader)
    reader.classifier, reader.head = (copy.deepcopy(part).to("meta") for part in (reader.classifier, reader.head))
    features = {tap: values.to("meta") for tap, values in seen.features.items()}
    score = copy.deepcopy(detector).score(Reading(seen.logits.to("meta"), features, seen.images.to("meta"), reader))
    assert (score.device.type, score.shape) == ("meta", (9,))
