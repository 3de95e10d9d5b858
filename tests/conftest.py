"""Settings for all tests: no time limit per example (machines are shared), one compute thread per test process."""

from collections.abc import Iterator

import pytest
import torch
from hypothesis import settings
from tests.arithmetic import in_float32

settings.register_profile("shared", deadline=None)
settings.load_profile("shared")
torch.set_num_threads(1)


@pytest.fixture
def float32() -> Iterator[None]:
    """The test in float32, also where bfloat16 is fast."""
    with in_float32():
        yield
