"""Networks for masks and for findings, each trained once."""

import pytest
from tests.arithmetic import in_float32
from tests.tasks.small import MASKS, SEVERAL, findings, lungs

from medaegis.models.training import train_classifier


@pytest.fixture(scope="session")
def segmenter(tmp_path_factory):
    """A network for masks and its folder."""
    out = tmp_path_factory.mktemp("masks") / "classifier"
    with in_float32():  # the same network on every machine
        return train_classifier(*lungs(), MASKS, out), out


@pytest.fixture(scope="session")
def finder(tmp_path_factory):
    """A network for findings and its folder."""
    out = tmp_path_factory.mktemp("findings") / "classifier"
    return train_classifier(*findings(), SEVERAL, out), out
